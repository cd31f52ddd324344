//! `cargo xtask bench NAME`: runs a benchmark of the library, and shows its report.

use std::fs;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use testbed::tools::{Need, Tools};
use testbed::{bench, edge_build};

use crate::{print_line, runtime};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
    /// Thousands of sign-ups at once, on a virtual clock: time, calls and refusals in both layouts.
    Provision,
}

/// Runs the benchmark, and what it needs before. `users` is for [`Name::Provision`], `rounds` for the others.
pub(crate) fn run(tools: &Tools, name: Name, rounds: usize, users: usize, json: bool) -> Result<()> {
    match name {
        Name::Edge => edge(tools, rounds, json),
        Name::Provision => {
            let report = bench::provision::run_all(users)?;
            print_line(&if json { serde_json::to_string(&report)? } else { report.table() });
            Ok(())
        }
    }
}

fn edge(tools: &Tools, rounds: usize, json: bool) -> Result<()> {
    tools.install(Need::Bench)?;
    edge_build::build(tools)?;
    let dir = tools.dir().join("run").join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let report = runtime()?.block_on(bench::edge::run_all(tools, &dir, rounds))?;
    print_line(&if json { serde_json::to_string(&report)? } else { report.table() });
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}
