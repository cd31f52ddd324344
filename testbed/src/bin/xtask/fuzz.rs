//! `cargo xtask fuzz`: builds the fuzz targets of `sidecar/fuzz` and runs each for a while.
//!
//! cargo-fuzz wants a nightly toolchain for the address sanitizer, which has nothing to find in a crate that forbids
//! unsafe code. What libFuzzer needs to be guided is the compiler's coverage, and its flags are on stable. So the
//! targets are built here as cargo-fuzz builds them, without the sanitizer; they also run under cargo-fuzz itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::tools::{Tools, progress};

/// Counters for edges, a table of them, and the operands of comparisons: what cargo-fuzz asks for.
const COVERAGE: [&str; 7] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// An input that takes longer, in seconds, counts as a hang.
const INPUT_TIMEOUT_SECONDS: u32 = 20;

/// Longest input, in bytes. Enough for the largest path, and small enough for thousands of runs a second.
const MAX_INPUT_BYTES: u32 = 8192;

/// Runs `targets`, or all if there are none, each for `seconds`. Stops at the first that finds something.
pub(crate) fn run(tools: &Tools, targets: &[String], seconds: u32) -> Result<ExitCode> {
    let dir = tools.repository().join("sidecar/fuzz");
    let built = build(&dir)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for target in targets {
        let known = built.iter().map(|path| name(path)).collect::<Vec<_>>();
        ensure!(known.contains(target), "no target is called {target}: there are {}", known.join(", "));
    }
    for program in built {
        let target = name(&program);
        if !targets.is_empty() && !targets.contains(&target) {
            continue;
        }
        progress(&format!("== {target}, {seconds} s"));
        if !fuzz(&dir, &program, &target, seconds)? {
            let artifacts = dir.join("artifacts").join(&target);
            progress(&format!("== {target}: FAILED. Run {} on a file of", program.display()));
            progress(&format!("   {} to see it again", artifacts.display()));
            return Ok(ExitCode::FAILURE);
        }
        progress(&format!("== {target}: clean"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The programs, in the order of their names.
fn build(dir: &Path) -> Result<Vec<PathBuf>> {
    let host =
        Command::new("rustc").args(["--print", "host-tuple"]).output().context("cannot start rustc")?;
    let host = String::from_utf8(host.stdout)?;
    let output = Command::new("cargo")
        // With a target named, build scripts and macros are built without the flags.
        .args(["build", "--release", "--bins", "--message-format=json-render-diagnostics"])
        .args(["--target", host.trim()])
        .current_dir(dir)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the fuzz targets do not build");
    let messages = String::from_utf8(output.stdout)?;
    let mut programs: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line).ok()?.get("executable")?.as_str().map(PathBuf::from)
        })
        .collect();
    programs.sort();
    ensure!(!programs.is_empty(), "there are no fuzz targets");
    Ok(programs)
}

/// Whether it ran to its end without finding anything.
fn fuzz(dir: &Path, program: &Path, target: &str, seconds: u32) -> Result<bool> {
    // What is found on the way is kept in the first folder, which git ignores; the second is only read.
    let [corpus, seeds, artifacts] = ["corpus", "seeds", "artifacts"].map(|name| dir.join(name).join(target));
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_TIMEOUT_SECONDS}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(corpus);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let status = command.stdin(Stdio::null()).status();
    Ok(status.with_context(|| format!("cannot start {}", program.display()))?.success())
}
