//! Builds the edge into `edge/build`, when its sources have changed since the last time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::tools::{Tools, hex, progress, run};

/// What the build is made of, relative to the repository.
const SOURCES: [&str; 5] = ["edge/src", "edge/Cargo.toml", "shared", "Cargo.toml", "Cargo.lock"];

/// The folder that holds `index.js` and `index_bg.wasm`.
#[must_use]
pub fn output(tools: &Tools) -> PathBuf {
    tools.repository().join("edge/build")
}

/// Builds the edge unless `edge/build` is of these very sources.
///
/// # Errors
/// The compiler's words.
pub fn build(tools: &Tools) -> Result<()> {
    let stamp_path = output(tools).join("sources");
    let stamp = stamp(tools.repository())?;
    if fs::read_to_string(&stamp_path).is_ok_and(|built| built == stamp) {
        return Ok(());
    }
    progress("building the edge (WASM)");
    let mut command = Command::new(tools.worker_build());
    command.args(["--profile", "edge"]).current_dir(tools.repository().join("edge"));
    command.env("PATH", tools.path());
    command.env("WASM_BINDGEN_BIN", tools.wasm_bindgen()).env("WASM_OPT_BIN", tools.wasm_opt());
    command.env("ESBUILD_BIN", tools.esbuild());
    run(&mut command).context("the edge does not build")?;
    fs::write(stamp_path, stamp)?;
    Ok(())
}

/// A hash over names and contents of all sources.
fn stamp(repository: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&repository.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let contents = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(contents.len().to_le_bytes());
        hash.update(&contents);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        into.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        collect(&entry?.path(), into)?;
    }
    Ok(())
}
