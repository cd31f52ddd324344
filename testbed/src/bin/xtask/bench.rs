//! `cargo xtask bench NAME`: runs a benchmark of the library, and shows its report.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use testbed::tools::{Need, Tools};
use testbed::{bench, edge_build, image};

use crate::{print_line, runtime};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
    /// CPU per unit of work of the sidecar's files and history against nginx, Caddy and dufs.
    Files,
    /// WebSockets through the sidecar against nginx and haproxy: CPU per message, added latency, idle memory.
    Ws,
    /// Thousands of sign-ups at once, on a virtual clock: time, calls and refusals in both layouts.
    Provision,
    /// An agent's start as the image configures it against its defaults: CPU and memory until ready. Needs root.
    Boot,
}

/// Runs the benchmark, and what it needs before. `users` is for [`Name::Provision`], `rounds` for the others.
pub(crate) fn run(tools: &Tools, name: Name, rounds: Option<usize>, users: usize, json: bool) -> Result<()> {
    let dir = tools.dir().join("run").join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let shown = match name {
        Name::Edge => edge(tools, &dir, rounds.unwrap_or(bench::edge::ROUNDS), json),
        Name::Files => files(tools, &dir, rounds.unwrap_or(bench::files::ROUNDS), json),
        Name::Ws => ws(tools, &dir, rounds.unwrap_or(bench::ws::ROUNDS), json),
        Name::Provision => provision(users, json),
        Name::Boot => boot(tools, &dir, rounds.unwrap_or(bench::boot::ROUNDS), json),
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
    let sidecar = bench::release_sidecar(tools)?;
    let report = runtime()?.block_on(bench::files::run_all(tools, dir, &sidecar, rounds))?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}

fn ws(tools: &Tools, dir: &Path, rounds: usize, json: bool) -> Result<String> {
    tools.install(Need::Proxies)?;
    let sidecar = bench::release_sidecar(tools)?;
    // Load and echo share one core; a second thread would only add its own switching.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(bench::ws::run_all(tools, dir, &sidecar, rounds))?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}

fn provision(users: usize, json: bool) -> Result<String> {
    let report = bench::provision::run_all(users)?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}

fn boot(tools: &Tools, dir: &Path, rounds: usize, json: bool) -> Result<String> {
    image::must_be_root()?;
    tools.install(Need::Image)?;
    let image = image::build(tools)?;
    let report = runtime()?.block_on(bench::boot::run_all(&image, dir, rounds))?;
    Ok(if json { serde_json::to_string(&report)? } else { report.table() })
}
