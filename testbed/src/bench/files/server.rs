//! The servers that are compared, each tied to one core.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use shared::id::{Backend, Epoch, Generation, UserId};
use shared::key::{MachineKey, SigningKeys};
use shared::secret::Secret;
use shared::ticket::{self, Claims};
use shared::wire::TICKET_HEADER;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::legacy;
use crate::process::{Process, Spec, free_port};
use crate::tools::Tools;

/// Whose core it is. The load has the other one; on a machine with one, all share it.
pub(super) const SERVER_CORE: usize = 0;

const STARTS: Duration = Duration::from_secs(20);
const STOPS: Duration = Duration::from_secs(10);

const USER: &str = "user_bench";
const GENERATION: Generation = Generation(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    Sidecar,
    Nginx,
    Caddy,
    Dufs,
}

/// What all of them have in common.
pub(super) struct Place<'a> {
    pub(super) tools: &'a Tools,
    /// The sidecar as it ships.
    pub(super) sidecar: &'a Path,
    /// For configurations, logs and temporary files.
    pub(super) dir: &'a Path,
    /// What they serve.
    pub(super) workspace: &'a Path,
    /// Where the sidecar looks for conversations.
    pub(super) agent_state: &'a Path,
    /// Whether each request has a line in a log.
    pub(super) log_requests: bool,
}

pub(super) struct Server {
    pub(super) name: Name,
    pub(super) address: SocketAddr,
    process: Process,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub(super) async fn start(name: Name, place: &Place<'_>) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let dir = place.dir.join(format!("{name:?}-{}", address.port()).to_lowercase());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut env = BTreeMap::from([("HOME".to_owned(), dir.clone().into_os_string())]);
        let command: Vec<OsString> = match name {
            Name::Sidecar => {
                env = sidecar_env(place, &dir, address)?;
                vec![place.sidecar.into()]
            }
            Name::Nginx => {
                let conf = dir.join("nginx.conf");
                fs::write(&conf, nginx_conf(place, &dir, address))?;
                let log = dir.join("error.log");
                let nginx = place.tools.nginx();
                vec![
                    nginx.into(),
                    "-e".into(),
                    log.into(),
                    "-p".into(),
                    dir.clone().into(),
                    "-c".into(),
                    conf.into(),
                ]
            }
            Name::Caddy => {
                let conf = dir.join("Caddyfile");
                fs::write(&conf, caddyfile(place, address))?;
                let caddy = place.tools.caddy();
                vec![
                    caddy.into(),
                    "run".into(),
                    "--adapter".into(),
                    "caddyfile".into(),
                    "--config".into(),
                    conf.into(),
                ]
            }
            Name::Dufs => {
                let port = address.port().to_string();
                let quiet = if place.log_requests { "--compress=none" } else { "--log-format=" };
                let flags =
                    ["--bind", "127.0.0.1", "--port", &port, "--allow-upload", "--allow-delete", quiet];
                let mut command: Vec<OsString> = vec![place.tools.dufs().into()];
                command.extend(flags.map(OsString::from));
                command.push(place.workspace.into());
                command
            }
        };
        let core = SERVER_CORE.to_string();
        let mut args: Vec<OsString> = ["-c", &core].map(OsString::from).to_vec();
        args.extend(command);
        let log = dir.join("log");
        let spec = Spec { name: format!("{name:?}"), program: "taskset".into(), args, env, dir, log };
        let mut process = Process::spawn(spec).await?;
        let deadline = Instant::now() + STARTS;
        while TcpStream::connect(address).await.is_err() {
            ensure!(process.exited()?.is_none(), "{name:?} ended:\n{}", process.log_tail());
            ensure!(Instant::now() < deadline, "{name:?} does not listen:\n{}", process.log_tail());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { name, address, process })
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(super) fn resident_bytes(&self) -> Result<u64> {
        self.process.rss_bytes().context("the server is gone")
    }

    /// The path of a file, as this server names it.
    pub(super) fn file(&self, path: &str) -> String {
        match self.name {
            Name::Sidecar => format!("/api/files/raw/{path}"),
            Name::Nginx | Name::Caddy | Name::Dufs => format!("/{path}"),
        }
    }

    /// The listing of a folder as JSON, as this server names it.
    pub(super) fn folder(&self, path: &str) -> String {
        match self.name {
            Name::Sidecar => format!("/api/files/list?path=/root/clawd/{path}"),
            Name::Nginx | Name::Caddy => format!("/{path}/"),
            Name::Dufs => format!("/{path}/?json"),
        }
    }

    /// What a request needs: for us a ticket, as the edge writes it. It lives a minute.
    pub(super) fn headers(&self) -> Vec<String> {
        match self.name {
            Name::Sidecar => vec![format!("{TICKET_HEADER}: {}", fresh_ticket())],
            Name::Caddy => vec!["accept: application/json".to_owned()],
            Name::Nginx | Name::Dufs => Vec::new(),
        }
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.process.stop(STOPS).await.map(drop)
    }
}

fn machine() -> Option<(UserId, MachineKey)> {
    let user: UserId = USER.parse().ok()?;
    let key = SigningKeys::new(Secret::new("benchmark-secret")?, None).machine_key(&user, GENERATION);
    Some((user, key))
}

fn fresh_ticket() -> String {
    let Some((user, key)) = machine() else { return String::new() };
    let expires = legacy::now().floor_seconds().plus(ticket::TICKET_TTL_SECONDS);
    let claims = Claims { backend: Backend::Fly, user, generation: GENERATION, epoch: Epoch(1), expires };
    ticket::issue(&key, &claims)
}

fn sidecar_env(place: &Place<'_>, dir: &Path, address: SocketAddr) -> Result<BTreeMap<String, OsString>> {
    let (user, key) = machine().context("no key")?;
    let data: PathBuf = dir.join("data");
    fs::create_dir_all(&data)?;
    let env: [(&str, OsString); 10] = [
        ("AUTOMNA_USER_ID", user.as_str().into()),
        ("AUTOMNA_MACHINE_KEY", key.expose().into()),
        ("AUTOMNA_GENERATION", GENERATION.0.to_string().into()),
        ("AUTOMNA_DATA_DIR", data.into()),
        ("AUTOMNA_AGENT_STATE_DIR", place.agent_state.into()),
        ("AUTOMNA_WORKSPACE_DIR", place.workspace.into()),
        ("AUTOMNA_LISTEN", address.to_string().into()),
        ("AUTOMNA_ADMIN_LISTEN", "127.0.0.1:0".into()),
        // No agent runs, and none is asked.
        ("AUTOMNA_AGENT_ADDR", "127.0.0.1:9".into()),
        ("RUST_LOG", if place.log_requests { "info" } else { "info,sidecar::gate=off" }.into()),
    ];
    Ok(env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn nginx_conf(place: &Place<'_>, dir: &Path, address: SocketAddr) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
        .concat();
    let log = if place.log_requests { format!("{}/access.log", dir.display()) } else { "off".to_owned() };
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\naccess_log {log};\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 1000000000;\n\
         client_max_body_size 0;\n{temporary}\
         server {{ listen {address};\nroot {root};\n\
         location / {{ autoindex on; autoindex_format json; dav_methods PUT; create_full_put_path on; }} }}\n}}\n",
        dir = dir.display(),
        root = place.workspace.display(),
    )
}

fn caddyfile(place: &Place<'_>, address: SocketAddr) -> String {
    let log = if place.log_requests { "log\n" } else { "" };
    format!(
        "{{\nadmin off\nauto_https off\n}}\nhttp://{address} {{\n{log}\
         root * {}\nfile_server browse\n}}\n",
        place.workspace.display()
    )
}
