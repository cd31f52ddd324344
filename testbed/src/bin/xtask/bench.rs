//! `cargo xtask bench NAME`: runs a benchmark of the library, and shows its report.

use std::fs;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use testbed::bench;
use testbed::tools::Tools;

use crate::{print_line, runtime};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
}

pub(crate) fn run(tools: &Tools, name: Name, rounds: usize, json: bool) -> Result<()> {
    let dir = tools.dir().join("run").join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let report = match name {
        Name::Edge => runtime()?.block_on(bench::edge::run_all(tools, &dir, rounds))?,
    };
    print_line(&if json { serde_json::to_string(&report)? } else { report.table() });
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}
