//! `cargo xtask up`: the whole system, until somebody ends it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shared::id::UserId;
use testbed::system::{System, SystemSpec};
use testbed::tools::{Tools, progress, run as run_command};
use tokio::signal::unix::{SignalKind, signal};

use crate::current::Current;
use crate::{print_line, runtime};

pub(crate) struct Options {
    pub(crate) json: bool,
    pub(crate) user: UserId,
    pub(crate) legacy_sleeps_after: Option<Duration>,
    pub(crate) legacy_cold_start: Duration,
}

pub(crate) fn run(tools: &Tools, options: Options) -> Result<()> {
    let sidecar = build_sidecar(tools)?;
    let dir = tools.dir().join("run").join(std::process::id().to_string());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let result = runtime()?.block_on(serve(tools, options, sidecar, dir.clone()));
    // What a run leaves behind is of use only if something went wrong.
    if result.is_ok() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    } else {
        progress(&format!("logs are kept in {}", dir.display()));
    }
    result
}

async fn serve(tools: &Tools, options: Options, sidecar: PathBuf, dir: PathBuf) -> Result<()> {
    let Options { json, user, legacy_sleeps_after, legacy_cold_start } = options;
    // Before anything is started, so that a Ctrl-C during the start ends it as well.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let spec = SystemSpec {
        dir,
        user,
        sidecar,
        edge_vars: Default::default(),
        machine_env: Default::default(),
        legacy_sleeps_after,
        legacy_cold_start,
    };
    let start = async {
        let system = System::start(tools, spec, progress).await?;
        let change = serde_json::json!({"default": "fly", "author": "xtask", "reason": "cargo xtask up"});
        system.change_policy(change).await?;
        anyhow::Ok(system)
    };
    let system = tokio::select! {
        system = start => system?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let current = Current::new(system.edge.url(), &system.secrets.admin, &system.secrets.signing);
    current.save(tools)?;
    let description = system.describe();
    if json {
        print_line(&serde_json::to_string(&description)?);
    } else {
        print_line(&format!("Open this in a browser:\n\n  {}\n", description.signed_url));
        print_line("cargo xtask flip legacy | flip fly     send new requests to the other back end");
        print_line("cargo xtask sign --user user_x         a signed query for somebody else");
        print_line("Ctrl-C                                 end everything");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    progress("ending");
    current.remove(tools);
    system.stop().await
}

/// Builds the sidecar as the tests use it, and tells where it is: beside this program.
pub(crate) fn build_sidecar(tools: &Tools) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--package", "sidecar"]).current_dir(tools.repository());
    run_command(&mut cargo).context("the sidecar does not build")?;
    let here = std::env::current_exe().context("cannot find this program")?;
    Ok(here.with_file_name("sidecar"))
}
