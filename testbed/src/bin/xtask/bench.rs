//! `cargo xtask bench NAME`: runs a benchmark of the library, and shows its report.

use std::fs;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use testbed::tools::Tools;
use testbed::{bench, edge_build};

use crate::{print_line, runtime};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
    /// WebSockets through the sidecar against nginx and haproxy: CPU per message, added latency, idle memory.
    Ws,
}

pub(crate) fn run(tools: &Tools, name: Name, rounds: Option<usize>, json: bool) -> Result<()> {
    let dir = tools.dir().join("run").join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let text = match name {
        Name::Edge => {
            edge_build::build(tools)?;
            let rounds = rounds.unwrap_or(bench::edge::ROUNDS);
            let report = runtime()?.block_on(bench::edge::run_all(tools, &dir, rounds))?;
            if json { serde_json::to_string(&report)? } else { report.table() }
        }
        Name::Ws => {
            // Load and echo share one core; a second thread would only add its own switching.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let report =
                runtime.block_on(bench::ws::run_all(tools, &dir, rounds.unwrap_or(bench::ws::ROUNDS)))?;
            if json { serde_json::to_string(&report)? } else { report.table() }
        }
    };
    print_line(&text);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}
