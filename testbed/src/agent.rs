//! The real agent, clawdbot, as a child process on loopback.
//!
//! Everything it keeps lies under one directory: `state/`, `workspace/`, `home/`, `tmp/`, and two logs
//! (`agent.out`, what it prints; `agent.jsonl`, what it logs). Started again on the same directory, it goes on
//! where it was. Its plugins that need a network, a browser or minutes of transpiling are off.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use shared::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{self, Process};

/// How long it may take to get ready: some 3 s of CPU, on a machine that others use too.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to end. It needs 5 s when a client does not answer its goodbye.
pub const STOP_GRACE: Duration = Duration::from_secs(8);

/// What it prints once it accepts connections.
const READY_LINE: &str = "listening on ws://";

/// Between two looks at whether it is ready.
const READY_POLL: Duration = Duration::from_millis(50);

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// The node binary, version 22.12 or later.
    pub node: PathBuf,
    /// clawdbot's `dist/entry.js`.
    pub entry: PathBuf,
    /// Where it lives; created when missing.
    pub dir: PathBuf,
    /// The model's base URL, without `/v1`.
    pub model_url: String,
    /// What clients must present to its gateway.
    pub gateway_token: Secret,
    /// Where its gateway listens; `None` for any free port.
    pub port: Option<u16>,
}

/// A running agent. Dropping it kills it; [`Self::stop`] is the polite way.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    port: u16,
    dir: PathBuf,
    start_took: Duration,
}

impl Agent {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or is not ready within [`READY_WITHIN`]: with the end of its log.
    pub async fn start(spec: &AgentSpec) -> Result<Self> {
        let before = Instant::now();
        let port = match spec.port {
            Some(port) => port,
            None => process::free_port()?,
        };
        prepare(spec)?;
        let process = Process::spawn(process_spec(spec, port)).await?;
        let mut agent = Self { process, port, dir: spec.dir.clone(), start_took: Duration::ZERO };
        agent.wait_until_ready().await?;
        agent.start_took = before.elapsed();
        Ok(agent)
    }

    /// Where its gateway listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The gateway over HTTP, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The gateway over WebSocket.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}/", self.addr())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its resident memory in bytes; `None` once it is gone.
    #[must_use]
    pub fn rss_bytes(&self) -> Option<u64> {
        self.process.rss_bytes()
    }

    /// From the call to readiness.
    #[must_use]
    pub const fn start_took(&self) -> Duration {
        self.start_took
    }

    /// The end of what it printed, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Where it keeps sessions and configuration.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.dir)
    }

    /// Where it works.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        workspace_dir(&self.dir)
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_some())
    }

    /// Ends it: SIGTERM, [`STOP_GRACE`], SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> Result<()> {
        self.process.stop(STOP_GRACE).await.map(|_| ())
    }

    /// SIGKILL: a crash.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(self) -> Result<()> {
        self.process.kill().await.map(|_| ())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if self.process.has_logged(READY_LINE) && answers_http(self.addr()).await {
                return Ok(());
            }
            if let Some(status) = self.process.exited()? {
                bail!(
                    "the agent ended ({status}) before it was ready; its log ends with:\n{}",
                    self.log_tail()
                );
            }
            if Instant::now() >= deadline {
                let seconds = READY_WITHIN.as_secs();
                bail!("the agent is not ready after {seconds} s; its log ends with:\n{}", self.log_tail());
            }
            sleep(READY_POLL).await;
        }
    }
}

/// The state directory of an agent that lives in `dir`.
#[must_use]
pub fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// The workspace of an agent that lives in `dir`.
#[must_use]
pub fn workspace_dir(dir: &Path) -> PathBuf {
    dir.join("workspace")
}

/// Makes the directories, clears what a crash left behind, and writes the configuration.
fn prepare(spec: &AgentSpec) -> Result<()> {
    for part in ["state", "workspace", "home", "tmp"] {
        let dir = spec.dir.join(part);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    remove_stale_locks(&state_dir(&spec.dir))?;
    let path = config_path(&spec.dir);
    let mut config = match fs::read(&path) {
        // What the agent or its user wrote stays, unless it is not JSON, with which the agent would not start.
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({})),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    overlay(&mut config, &managed_config(spec));
    let text =
        serde_json::to_vec_pretty(&config).context("cannot write the agent's configuration as JSON")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A lock names a process id. After a restart that number may be another's, and the agent would wait for it for
/// ever; nobody but the agent writes here, so no lock is valid before it starts.
fn remove_stale_locks(state: &Path) -> Result<()> {
    let Ok(agents) = fs::read_dir(state.join("agents")) else { return Ok(()) };
    for agent in agents.flatten() {
        let Ok(files) = fs::read_dir(agent.path().join("sessions")) else { continue };
        for file in files.flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "lock" || extension == "tmp") {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn config_path(dir: &Path) -> PathBuf {
    state_dir(dir).join("clawdbot.json")
}

/// The keys that we set at every start. The token is not among them: it is in the environment.
fn managed_config(spec: &AgentSpec) -> Value {
    json!({
        "gateway": {
            "mode": "local",
            "auth": {"mode": "token"},
            "controlUi": {"enabled": true, "allowInsecureAuth": true},
            // Addresses are compared as text, without prefixes: these are all that a proxy here can have.
            "trustedProxies": ["127.0.0.1", "::1"],
        },
        "models": {"mode": "merge", "providers": {"anthropic": {
            "baseUrl": spec.model_url,
            "api": "anthropic-messages",
            "models": [{
                "id": "claude-opus-4-5", "name": "Stub", "reasoning": false, "input": ["text"],
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
                // So large that no reply makes the agent compact its conversation, which is two more turns.
                "contextWindow": 100_000_000, "maxTokens": 8192,
            }],
        }}},
        "agents": {"defaults": {
            "workspace": workspace_dir(&spec.dir),
            "model": {"primary": "anthropic/claude-opus-4-5"},
        }},
        // The default plugin makes the agent transpile itself at its first start: a minute and 1.2 GB.
        "plugins": {"slots": {"memory": "none"}},
        "browser": {"enabled": false},
        "canvasHost": {"enabled": false},
        // By default, conversations are forgotten each night.
        "session": {"reset": {"mode": "idle", "idleMinutes": 5_256_000}},
        "update": {"checkOnStart": false},
        "logging": {"file": spec.dir.join("agent.jsonl")},
    })
}

/// Lays `top` over `base`: objects are merged, anything else is replaced.
fn overlay(base: &mut Value, top: &Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (key, value) in top {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, top) => *base = top.clone(),
    }
}

fn process_spec(spec: &AgentSpec, port: u16) -> process::Spec {
    let dir = &spec.dir;
    let env: [(&str, OsString); 11] = [
        ("CLAWDBOT_NO_RESPAWN", "1".into()),
        ("CLAWDBOT_DISABLE_BONJOUR", "1".into()),
        ("CLAWDBOT_STATE_DIR", state_dir(dir).into()),
        ("CLAWDBOT_CONFIG_PATH", config_path(dir).into()),
        ("CLAWDBOT_GATEWAY_TOKEN", spec.gateway_token.expose().into()),
        ("ANTHROPIC_API_KEY", "sk-stub".into()),
        ("HOME", dir.join("home").into()),
        ("TMPDIR", dir.join("tmp").into()),
        ("TZ", "UTC".into()),
        ("NO_COLOR", "1".into()),
        ("PATH", path_with(&spec.node)),
    ];
    process::Spec {
        name: "the agent".into(),
        program: spec.node.clone(),
        args: [
            spec.entry.clone().into_os_string(),
            "gateway".into(),
            "--port".into(),
            port.to_string().into(),
            "--bind".into(),
            "loopback".into(),
            "--allow-unconfigured".into(),
        ]
        .into(),
        env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        dir: workspace_dir(dir),
        log: dir.join("agent.out"),
    }
}

/// The agent's tools call `node` by name.
fn path_with(node: &Path) -> OsString {
    let mut path = OsString::new();
    if let Some(dir) = node.parent() {
        path.push(dir);
        path.push(":");
    }
    path.push(process::DEFAULT_PATH);
    path
}

/// Whether anything answers in HTTP, whatever it says.
async fn answers_http(addr: SocketAddr) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(addr).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut start = [0_u8; 5];
        stream.read_exact(&mut start).await.ok()?;
        (&start == b"HTTP/").then_some(())
    };
    matches!(timeout(Duration::from_secs(5), probe).await, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_keys_win_and_others_stay() {
        let mut config = json!({"gateway": {"mode": "remote", "port": 1}, "mine": [1, 2], "session": 3});
        overlay(&mut config, &json!({"gateway": {"mode": "local"}, "session": {"reset": {}}, "list": [9]}));
        assert_eq!(
            config,
            json!({"gateway": {"mode": "local", "port": 1}, "mine": [1, 2], "session": {"reset": {}}, "list": [9]})
        );
    }

    #[test]
    fn only_locks_and_temporary_files_of_sessions_go() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = dir.path().join("agents/main/sessions");
        fs::create_dir_all(&sessions).unwrap();
        for name in
            ["a.jsonl", "a.jsonl.lock", "sessions.json", "sessions.json.lock", "sessions.json.1.x.tmp"]
        {
            fs::write(sessions.join(name), "x").unwrap();
        }
        remove_stale_locks(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(&sessions).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.jsonl", "sessions.json"]);
        remove_stale_locks(&dir.path().join("nowhere")).unwrap();
    }
}
