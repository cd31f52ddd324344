//! `cargo xtask bench NAME`: runs a benchmark of the library, and shows its report.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use testbed::tools::{Need, Tools, progress, run as run_command};
use testbed::{bench, edge_build};

use crate::{print_line, runtime};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
    /// CPU per unit of work of the sidecar's files and history against nginx, Caddy and dufs.
    Files,
}

pub(crate) fn run(tools: &Tools, name: Name, rounds: Option<usize>, json: bool) -> Result<()> {
    let dir = tools.dir().join("run").join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let shown = match name {
        Name::Edge => edge(tools, &dir, rounds.unwrap_or(bench::edge::ROUNDS), json),
        Name::Files => files(tools, &dir, rounds.unwrap_or(bench::files::ROUNDS), json),
    };
    // Gigabytes, so also after a failure.
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    print_line(&shown?);
    Ok(())
}

fn edge(tools: &Tools, dir: &Path, rounds: usize, json: bool) -> Result<String> {
    tools.install(Need::Bench)?;
    edge_build::build(tools)?;
    let report = runtime()?.block_on(bench::edge::run_all(tools, dir, rounds))?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}

fn files(tools: &Tools, dir: &Path, rounds: usize, json: bool) -> Result<String> {
    tools.install(Need::FileServers)?;
    let sidecar = build_release_sidecar(tools)?;
    let report = runtime()?.block_on(bench::files::run_all(tools, dir, &sidecar, rounds))?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}

/// The sidecar as it ships; where it is: in the folder beside this program's own.
fn build_release_sidecar(tools: &Tools) -> Result<PathBuf> {
    progress("building the sidecar as it ships");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "sidecar"]).current_dir(tools.repository());
    run_command(&mut cargo).context("the sidecar does not build")?;
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let target = here.parent().and_then(Path::parent).context("this program is in no target folder")?;
    Ok(target.join("release/sidecar"))
}
