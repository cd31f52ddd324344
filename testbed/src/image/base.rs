//! Stand-ins for the images of a registry: the same Debian, with the same Node or Rust in it.
//!
//! Debian is made once, and each of the others from a copy of it.
//!
//! Node is the one of the edge's lock file, Rust is the one that builds this repository. A test compares their
//! versions with the names in `Dockerfile.fly`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::chroot::Bind;
use crate::tools::{self, Tools};

/// Debian's name for the release that `-bookworm` images are made of.
const SUITE: &str = "bookworm";

/// Used when this machine's package manager names no other.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// `PATH` of Debian's images.
const DEBIAN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the official image has its registry cache, which `Dockerfile.fly` mounts.
const CARGO_HOME: &str = "/usr/local/cargo";

/// Where the compiler of this machine appears.
const RUST: &str = "/usr/local/rust";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Debian,
    Node,
    Rust,
}

/// A base, as a recipe for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    pub kind: Kind,
    /// What distinguishes it from another of its kind.
    pub version: String,
}

impl BaseImage {
    /// The stand-in for an image of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str, tools: &Tools) -> Result<Self> {
        let (repository, tag) = name.split_once(':').with_context(|| format!("{name} has no tag"))?;
        let debian = tag.split('-').any(|part| part == SUITE);
        let (kind, version) = match repository {
            "debian" if debian => (Kind::Debian, String::new()),
            "node" if debian => (Kind::Node, output(Command::new(tools.node()).arg("--version"))?),
            "rust" if debian => (Kind::Rust, output(Command::new("rustc").arg("--version"))?),
            _ => bail!("there is no stand-in for the image {name}"),
        };
        Ok(Self { kind, version })
    }

    /// Environment that the image sets.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let path = match self.kind {
            Kind::Debian | Kind::Node => DEBIAN_PATH.to_owned(),
            Kind::Rust => format!("{RUST}/bin:{DEBIAN_PATH}"),
        };
        let mut env = vec![("PATH".to_owned(), path)];
        if self.kind == Kind::Rust {
            env.push(("CARGO_HOME".to_owned(), CARGO_HOME.to_owned()));
        }
        env
    }

    /// What is mounted while its steps run, instead of being copied.
    ///
    /// # Errors
    /// No compiler on this machine.
    pub fn binds(&self) -> Result<Vec<Bind>> {
        if self.kind != Kind::Rust {
            return Ok(Vec::new());
        }
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        Ok(vec![Bind::read_only(sysroot, RUST)])
    }

    /// The command that, run in Debian's tree, adds packages that it needs.
    #[must_use]
    pub const fn packages(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Debian | Kind::Node => None,
            Kind::Rust => Some(
                "apt-get update -qq && \
                 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev && \
                 rm -rf /var/lib/apt/lists/*",
            ),
        }
    }

    /// Adds what is no package to Debian's tree at `root`.
    ///
    /// # Errors
    /// Node or npm is not where it should be.
    pub fn add_files(&self, tools: &Tools, root: &Path) -> Result<()> {
        match self.kind {
            Kind::Debian | Kind::Rust => Ok(()),
            Kind::Node => add_node(tools, root),
        }
    }
}

/// Makes Debian's tree of files at `root`, which must not exist.
///
/// # Errors
/// debootstrap failed, most likely for want of a network.
pub fn make_debian(root: &Path) -> Result<()> {
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include=ca-certificates", SUITE]);
    tools::run(debootstrap.arg(root).arg(mirror()))
}

/// Node and npm, where the official image has them.
fn add_node(tools: &Tools, root: &Path) -> Result<()> {
    let local = root.join("usr/local");
    fs::copy(tools.node(), local.join("bin/node")).context("cannot copy Node")?;
    let modules = PathBuf::from(output(Command::new("npm").args(["root", "--global"]))?);
    let to = local.join("lib/node_modules");
    fs::create_dir_all(&to)?;
    tools::run(Command::new("cp").args(["-a", "--dereference"]).arg(modules.join("npm")).arg(&to))?;
    for (name, file) in [("npm", "npm-cli.js"), ("npx", "npx-cli.js")] {
        symlink(Path::new("../lib/node_modules/npm/bin").join(file), local.join("bin").join(name))?;
    }
    Ok(())
}

/// Where this machine gets Debian's packages from.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|file| file.path()),
    );
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts
        .flat_map(|text| uris(&text))
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// The addresses in a file of apt's, in either of its formats.
fn uris(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    lines.flat_map(str::split_whitespace).filter(|word| word.contains("://")).map(str::to_owned).collect()
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(out.status.success(), "{program} failed: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_in_both_formats_of_apt() {
        assert_eq!(
            uris("Types: deb\n# http://no/\nURIs: http://a/debian http://b/debian\nSuites: x\n"),
            ["http://a/debian", "http://b/debian"]
        );
        assert_eq!(
            uris("# deb http://no/debian x\ndeb [trusted=yes] http://a/debian bookworm main\n"),
            ["http://a/debian"]
        );
    }
}
