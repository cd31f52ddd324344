//! `cargo xtask test`: everything that has to hold before a change lands.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use testbed::edge_build;
use testbed::tools::{Need, Tools, progress};

use crate::up::build_sidecar;

pub(crate) fn run(tools: &Tools, long: bool, filter: Option<&str>) -> Result<ExitCode> {
    let started = Instant::now();
    tools.install(Need::Browser)?;
    if filter.is_none() {
        for (title, args) in LINTS {
            if !step(tools, title, Command::new("cargo").args(*args))? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    edge_build::build(tools)?;
    build_sidecar(tools)?;

    let mut tests = Command::new("cargo");
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        tests.arg(filter);
    }
    if long {
        tests.args(["--", "--include-ignored"]);
    }
    let passed = step(tools, "tests", &mut tests)?;
    progress(&format!(
        "{} after {} s",
        if passed { "all passed" } else { "FAILED" },
        started.elapsed().as_secs()
    ));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Title, and cargo's arguments. The WASM build is linted apart: the host never sees `platform`.
const LINTS: &[(&str, &[&str])] = &[
    ("formatting", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    (
        "lints of the WASM build",
        &[
            "clippy",
            "--quiet",
            "--package",
            "edge",
            "--target",
            "wasm32-unknown-unknown",
            "--",
            "-D",
            "warnings",
        ],
    ),
];

/// Runs a command with its output shown; says how long it took.
fn step(tools: &Tools, title: &str, command: &mut Command) -> Result<bool> {
    progress(&format!("== {title}"));
    let started = Instant::now();
    command.current_dir(tools.repository()).stdin(Stdio::null());
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    progress(&format!(
        "== {title}: {} in {} s",
        if status.success() { "ok" } else { "FAILED" },
        started.elapsed().as_secs()
    ));
    Ok(status.success())
}
