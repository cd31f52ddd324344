//! Benchmarks: CPU per unit of work, beside a peer that does the same in the same run.
//!
//! The figure to quote is a ratio of two processes measured in turn, since this and that machine differ, and one
//! machine differs from minute to minute. CPU is what the kernel has charged the process for, in nanoseconds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::tools::{self, Tools, progress};

pub mod boot;
pub mod cpu;
pub mod edge;
pub mod files;
pub mod provision;
pub mod spread;
pub mod tree;
pub mod wrk;
pub mod ws;

/// The sidecar as it ships, built if need be. It lies in the target folder of this very program.
///
/// # Errors
/// It does not build.
pub fn release_sidecar(tools: &Tools) -> Result<PathBuf> {
    progress("building the sidecar as it ships");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "sidecar"]).current_dir(tools.repository());
    tools::run(&mut cargo).context("the sidecar does not build")?;
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let target = here.parent().and_then(Path::parent).context("this program is in no target folder")?;
    Ok(target.join("release/sidecar"))
}
