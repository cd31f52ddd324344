//! `cargo xtask bench NAME`.

use anyhow::Result;
use clap::ValueEnum;
use testbed::tools::Tools;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// CPU per request of the edge against a minimal TypeScript Worker, WASM size, time to first response.
    Edge,
}

pub(crate) fn run(tools: &Tools, name: Name, json: bool) -> Result<()> {
    let _ = (tools, json);
    match name {
        Name::Edge => Ok(()),
    }
}
