//! The edge in Cloudflare's own runtime: two scripts, as they are deployed, in one `workerd` process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use crate::edge_build;
use crate::process::{Process, Spec};
use crate::tools::Tools;

/// Not newer than the pinned workerd knows, and the one in `wrangler.toml` (a test compares them).
pub const COMPATIBILITY_DATE: &str = "2026-11-01";

/// How long the runtime may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct EdgeSpec {
    /// A folder of its own: configuration, copies of the modules, the objects' storage, the log.
    pub dir: PathBuf,
    /// The scripts' variables and secrets; both get all of them.
    pub vars: BTreeMap<String, String>,
    /// `host:port` to bind as the service `LEGACY`; `None` leaves the edge to `LEGACY_ORIGIN`.
    pub legacy_service: Option<String>,
    /// Wrap the objects so that they can be made to fail, at [`Edge::faults_url`].
    pub faults: bool,
    /// Another Worker to run in place of the edge (a benchmark's peer): its main module, bundled.
    pub instead: Option<PathBuf>,
}

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    process: Process,
    url: String,
    faults_url: Option<String>,
}

impl Edge {
    /// Starts the runtime on free ports, and waits until it listens.
    ///
    /// # Errors
    /// With the end of the runtime's log.
    pub async fn start(tools: &Tools, spec: EdgeSpec) -> Result<Self> {
        let storage = spec.dir.join("objects");
        fs::create_dir_all(&storage).with_context(|| format!("cannot create {}", storage.display()))?;
        copy_modules(tools, &spec)?;
        let config = spec.dir.join("config.capnp");
        fs::write(&config, capnp(&spec, &storage)).context("cannot write workerd's configuration")?;
        let mut args: Vec<std::ffi::OsString> =
            vec!["serve".into(), "--experimental".into(), "--control-fd=1".into()];
        args.push(config.into());
        let mut process = Process::spawn(Spec {
            name: "workerd".into(),
            program: tools.workerd(),
            args,
            env: BTreeMap::new(),
            log: spec.dir.join("workerd.log"),
            dir: spec.dir.clone(),
        })
        .await?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = process.log_tail();
            let http = listening(&log, "http");
            let faults = listening(&log, "faults");
            if let Some(port) = http
                && (faults.is_some() || !spec.faults)
            {
                let faults_url = faults.map(|port| format!("http://127.0.0.1:{port}"));
                return Ok(Self { process, url: format!("http://127.0.0.1:{port}"), faults_url });
            }
            if let Some(status) = process.exited()? {
                bail!("workerd ended ({status}) before it listened:\n{log}");
            }
            if Instant::now() > deadline {
                bail!("workerd does not listen after {} s:\n{log}", START_LIMIT.as_secs());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where `POST /?mode=ok|error|hang` decides what the Switchboard object does.
    #[must_use]
    pub fn faults_url(&self) -> Option<&str> {
        self.faults_url.as_deref()
    }

    /// The process, for its memory and its log.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Ends the runtime.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> Result<()> {
        self.process.stop(STOP_LIMIT).await.map(|_| ())
    }
}

/// The port in the control message of a socket.
fn listening(log: &str, socket: &str) -> Option<u16> {
    log.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = event.get("event")? == "listen" && event.get("socket")? == socket;
        is_it.then(|| event.get("port")?.as_u64()?.try_into().ok()).flatten()
    })
}

fn copy_modules(tools: &Tools, spec: &EdgeSpec) -> Result<()> {
    let repository = tools.repository();
    let mut copies: Vec<(PathBuf, &str)> = vec![
        (edge_build::output(tools).join("index.js"), "build/index.js"),
        (edge_build::output(tools).join("index_bg.wasm"), "build/index_bg.wasm"),
        (repository.join("edge/js/guard.mjs"), "js/guard.mjs"),
        (repository.join("edge/js/edge.mjs"), "js/edge.mjs"),
        (repository.join("edge/js/objects.mjs"), "js/objects.mjs"),
        (repository.join("testbed/worker/faults.mjs"), "js/faults.mjs"),
    ];
    if let Some(instead) = &spec.instead {
        copies.push((instead.clone(), "instead.mjs"));
    }
    for (from, name) in copies {
        let to = spec.dir.join(name);
        fs::create_dir_all(to.parent().unwrap_or(&spec.dir))?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// The runtime's configuration, in Cap'n Proto's text form.
fn capnp(spec: &EdgeSpec, storage: &Path) -> String {
    let vars: String = spec.vars.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    (name = {}, text = {}),", quote(name), quote(value));
        text
    });
    let (legacy_binding, legacy_server) = match &spec.legacy_service {
        Some(address) => (
            r#"    (name = "LEGACY", service = "legacy"),"#.to_owned(),
            format!("    (name = \"legacy\", external = (address = {}, http = ())),", quote(address)),
        ),
        None => (String::new(), String::new()),
    };
    let (objects_main, faults_socket) = if spec.faults {
        (
            "js/faults.mjs",
            r#"    (name = "faults", address = "127.0.0.1:0", http = (), service = "objects"),"#,
        )
    } else {
        ("js/objects.mjs", "")
    };
    let edge_modules = match spec.instead {
        Some(_) => r#"    (name = "instead.mjs", esModule = embed "instead.mjs"),"#.to_owned(),
        None => format!("{}\n{SHARED_MODULES}", es_module("js/edge.mjs")),
    };
    // The main module is the first one.
    let objects_modules = if spec.faults {
        format!("{}\n{}\n{SHARED_MODULES}", es_module(objects_main), es_module("js/objects.mjs"))
    } else {
        format!("{}\n{SHARED_MODULES}", es_module(objects_main))
    };
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    (name = "objects", worker = .objects),
    (name = "internet", network = (allow = ["public", "private"])),
    (name = "storage", disk = (path = {storage}, writable = true)),
{legacy_server}
  ],
  sockets = [
    (name = "http", address = "127.0.0.1:0", http = (), service = "edge"),
{faults_socket}
  ],
);
const edge :Workerd.Worker = (
  modules = [
{edge_modules}
  ],
  compatibilityDate = "{COMPATIBILITY_DATE}",
  bindings = [
{vars}
    (name = "USER", durableObjectNamespace = (className = "UserObject", serviceName = "objects")),
    (name = "SWITCHBOARD", durableObjectNamespace = (className = "Switchboard", serviceName = "objects")),
{legacy_binding}
  ],
);
const objects :Workerd.Worker = (
  modules = [
{objects_modules}
  ],
  compatibilityDate = "{COMPATIBILITY_DATE}",
  bindings = [
{vars}
  ],
  durableObjectNamespaces = [
    (className = "UserObject", uniqueKey = "user-object", enableSql = true),
    (className = "Switchboard", uniqueKey = "switchboard", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "storage"),
);
"#,
        storage = quote(&storage.to_string_lossy()),
    )
}

const SHARED_MODULES: &str = r#"    (name = "js/guard.mjs", esModule = embed "js/guard.mjs"),
    (name = "build/index.js", esModule = embed "build/index.js"),
    (name = "build/index_bg.wasm", wasm = embed "build/index_bg.wasm"),"#;

fn es_module(name: &str) -> String {
    format!("    (name = \"{name}\", esModule = embed \"{name}\"),")
}

/// A text literal of Cap'n Proto, whose escapes are C's.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_control_messages() {
        let log = "noise\n{\"event\":\"listen\",\"socket\":\"http\",\"port\":123}\n{\"event\":\"listen\",\"socket\":\"faults\",\"port\":7}\n";
        assert_eq!(listening(log, "http"), Some(123));
        assert_eq!(listening(log, "faults"), Some(7));
        assert_eq!(listening("", "http"), None);
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\n""#);
    }
}
