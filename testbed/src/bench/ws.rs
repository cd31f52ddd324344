//! WebSockets through the sidecar, nginx and haproxy, in turn, in front of one echo.
//!
//! The sidecar does all that it does in production: the ticket at the upgrade, the edit of the first message, each
//! further one parsed as far as its rules need, close frames read, pings. The other two copy bytes.
//!
//! The proxy under test has a core of its own while CPU is measured; load and echo have the other one. For the added
//! latency all are on one core: to wake an idle virtual core costs more than any of them, by chance.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use shared::id::Epoch;
use shared::secret::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cpu;
use super::spread::Spread;
use crate::lone_sidecar::{LoneSidecar, LoneSpec};
use crate::process::{Process, Spec, free_port};
use crate::raw_ws::{BINARY, RawSocket, TEXT, encode};
use crate::tools::{Tools, progress, run};

/// Rounds of each figure, unless the caller says otherwise.
pub const ROUNDS: usize = 5;

/// Of the load on 50 connections, and of the single one for latency, per round and proxy.
const ECHO_TIME: Duration = Duration::from_millis(1500);
const LATENCY_TIME: Duration = Duration::from_millis(700);
const ECHO_CONNECTIONS: usize = 50;
const MESSAGE_BYTES: usize = 256;

/// Of the flood from server to client, per round and proxy.
const FLOOD_FRAMES: usize = 20_000;
const FLOOD_FRAME_BYTES: usize = 1200;

/// Below the sidecar's bound on connections.
const IDLE_CONNECTIONS: usize = 1000;

/// For any one step. Generous: nothing waits for it in vain.
const PATIENCE: Duration = Duration::from_secs(60);

const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";

const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];
const CONNECT: &[u8] = br#"{"type":"req","id":"c","method":"connect","params":{"client":{"id":"webchat"}}}"#;

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub rows: Vec<Row>,
}

/// One proxy. Ratios are to nginx, round by round.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub name: &'static str,
    /// CPU of the proxy for 256 bytes each way, 50 connections.
    pub echo_us: Option<Spread>,
    pub echo_ratio: Option<Spread>,
    /// CPU of the proxy for a frame of 1.2 KB from server to client.
    pub flood_us: Option<Spread>,
    pub flood_ratio: Option<Spread>,
    /// Half of the round trips of one connection take no longer.
    pub p50_us: Spread,
    /// Beyond what they take without a proxy.
    pub added_p50_us: Option<Spread>,
    pub added_p50_ratio: Option<Spread>,
    /// Proportional memory of the process for each idle connection, in bytes.
    pub idle_bytes: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Direct,
    Nginx,
    Haproxy,
    Sidecar,
}

const PEERS: [Peer; 4] = [Peer::Direct, Peer::Nginx, Peer::Haproxy, Peer::Sidecar];

impl Peer {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Runs the whole benchmark: less than four minutes with the usual number of rounds.
///
/// # Errors
/// When a part does not start, or a message is lost.
pub async fn run_all(tools: &Tools, dir: &Path, sidecar: &Path, rounds: usize) -> Result<Report> {
    let programs = Programs { sidecar: sidecar.to_owned(), nginx: tools.nginx(), haproxy: tools.haproxy() };
    pin(std::process::id(), LOAD_CORE)?;
    let echo = Echo::start().await?;

    let mut idle = BTreeMap::new();
    for peer in PEERS {
        if peer != Peer::Direct {
            progress(&format!("memory of {IDLE_CONNECTIONS} idle connections, {}", peer.name()));
            let target =
                Target::start(peer, &programs, &dir.join(format!("idle-{}", peer.name())), echo.addr).await?;
            idle.insert(peer, idle_bytes(&target).await?);
            target.stop().await?;
        }
    }

    let mut targets = Vec::new();
    for peer in PEERS {
        targets.push(Target::start(peer, &programs, &dir.join(peer.name()), echo.addr).await?);
    }
    let mut figures: BTreeMap<Peer, Figures> = BTreeMap::new();
    // One round is not counted: it fills caches.
    for round in 0..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for target in &targets {
            let measured = target.measure().await.with_context(|| target.peer.name())?;
            if round > 0 {
                figures.entry(target.peer).or_default().push(measured);
            }
        }
    }
    for target in targets {
        target.stop().await?;
    }
    report(&figures, &idle)
}

fn report(figures: &BTreeMap<Peer, Figures>, idle: &BTreeMap<Peer, f64>) -> Result<Report> {
    let nginx = figures.get(&Peer::Nginx).context("nginx was not measured")?;
    let direct = figures.get(&Peer::Direct).context("the echo was not measured")?;
    let pairs = |a: &[f64], b: &[f64], f: fn(f64, f64) -> f64| -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
    };
    let nginx_added = pairs(&nginx.p50_us, &direct.p50_us, |a, b| a - b);
    let rows = figures.iter().map(|(peer, own)| {
        let proxy = *peer != Peer::Direct;
        let of = |values: Vec<f64>| if proxy { Spread::of(values) } else { None };
        let added = pairs(&own.p50_us, &direct.p50_us, |a, b| a - b);
        anyhow::Ok(Row {
            name: peer.name(),
            echo_us: of(own.echo_us.clone()),
            echo_ratio: of(pairs(&own.echo_us, &nginx.echo_us, |a, b| a / b)),
            flood_us: of(own.flood_us.clone()),
            flood_ratio: of(pairs(&own.flood_us, &nginx.flood_us, |a, b| a / b)),
            p50_us: Spread::of(own.p50_us.clone()).context("nothing was measured")?,
            added_p50_ratio: of(pairs(&added, &nginx_added, |a, b| a / b)),
            added_p50_us: of(added),
            idle_bytes: idle.get(peer).copied(),
        })
    });
    Ok(Report { rows: rows.collect::<Result<_>>()? })
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let show = |spread: Option<Spread>, digits| {
            spread.map_or_else(|| "-".to_owned(), |spread: Spread| spread.show(digits))
        };
        let mut lines = vec![format!(
            "{:<8} {:>22} {:>20} {:>22} {:>20} {:>24} {:>20} {:>10}",
            "",
            "256 B echo, CPU us",
            "to nginx",
            "1.2 KB frame, CPU us",
            "to nginx",
            "added p50, us",
            "to nginx",
            "idle, B"
        )];
        for row in &self.rows {
            lines.push(format!(
                "{:<8} {:>22} {:>20} {:>22} {:>20} {:>24} {:>20} {:>10}",
                row.name,
                show(row.echo_us, 2),
                show(row.echo_ratio, 2),
                show(row.flood_us, 2),
                show(row.flood_ratio, 2),
                show(row.added_p50_us, 1),
                show(row.added_p50_ratio, 2),
                row.idle_bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}")),
            ));
        }
        lines.push("median (min to max)".to_owned());
        lines.join("\n")
    }
}

/// One value a round.
#[derive(Debug, Default)]
struct Figures {
    echo_us: Vec<f64>,
    flood_us: Vec<f64>,
    p50_us: Vec<f64>,
}

impl Figures {
    fn push(&mut self, measured: Measured) {
        self.echo_us.push(measured.echo_us);
        self.flood_us.push(measured.flood_us);
        self.p50_us.push(measured.p50_us);
    }
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    echo_us: f64,
    flood_us: f64,
    p50_us: f64,
}

/// A way to the echo.
#[derive(Debug)]
struct Target {
    peer: Peer,
    addr: SocketAddr,
    running: Running,
}

/// What is measured.
struct Programs {
    /// As it ships.
    sidecar: PathBuf,
    nginx: PathBuf,
    haproxy: PathBuf,
}

#[derive(Debug)]
enum Running {
    Nothing,
    Proxy(Process),
    Sidecar(LoneSidecar),
}

impl Target {
    async fn start(peer: Peer, programs: &Programs, dir: &Path, echo: SocketAddr) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let port = free_port()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (addr, running) = match peer {
            Peer::Direct => (echo, Running::Nothing),
            Peer::Nginx => {
                let config = dir.join("nginx.conf");
                fs::write(&config, nginx_config(dir, listen, echo))?;
                let args = ["-c".into(), config.into(), "-p".into(), dir.into()];
                (listen, Running::Proxy(proxy("nginx", &programs.nginx, args.into(), dir).await?))
            }
            Peer::Haproxy => {
                let config = dir.join("haproxy.cfg");
                fs::write(&config, haproxy_config(listen, echo))?;
                let args = ["-db".into(), "-f".into(), config.into()];
                (listen, Running::Proxy(proxy("haproxy", &programs.haproxy, args.into(), dir).await?))
            }
            Peer::Sidecar => {
                let sidecar = LoneSidecar::start(&LoneSpec {
                    program: programs.sidecar.clone(),
                    dir: dir.to_owned(),
                    signing_secret: Secret::new("benchmark-secret").context("no secret")?,
                    user: "user_bench".parse()?,
                    agent: echo,
                })
                .await?;
                (sidecar.addr(), Running::Sidecar(sidecar))
            }
        };
        let target = Self { peer, addr, running };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).await.is_err() {
            let log = target.process().map(Process::log_tail).unwrap_or_default();
            ensure!(Instant::now() < deadline, "{} does not listen:\n{log}", peer.name());
            sleep(Duration::from_millis(10)).await;
        }
        target.pin(PROXY_CORE)?;
        Ok(target)
    }

    async fn stop(self) -> Result<()> {
        match self.running {
            Running::Nothing => Ok(()),
            Running::Proxy(process) => process.stop(Duration::from_secs(5)).await.map(|_| ()),
            Running::Sidecar(sidecar) => sidecar.stop().await,
        }
    }

    const fn process(&self) -> Option<&Process> {
        match &self.running {
            Running::Nothing => None,
            Running::Proxy(process) => Some(process),
            Running::Sidecar(sidecar) => Some(sidecar.process()),
        }
    }

    fn pin(&self, core: &str) -> Result<()> {
        self.process().map_or(Ok(()), |process| pin(u32::try_from(process.pid())?, core))
    }

    /// CPU that the proxy has used, in microseconds.
    fn cpu_us(&self) -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "minutes of nanoseconds are far below 2^52")]
        self.process().map_or(Ok(0.0), |process| Ok(cpu::nanoseconds(process.pid())? as f64 / 1000.0))
    }

    async fn connect(&self) -> Result<RawSocket> {
        let ticket = match &self.running {
            Running::Sidecar(sidecar) => Some(sidecar.ticket(Epoch(1))),
            Running::Nothing | Running::Proxy(_) => None,
        };
        let headers: Vec<_> = ticket.iter().map(|ticket| ("x-automna-ticket", ticket.as_str())).collect();
        let mut socket = RawSocket::open(self.addr, "/", &headers).await?;
        socket.send(&encode(true, TEXT, Some(MASK), CONNECT)).await?;
        let answer = socket.next().await?.context("the stream ended")?;
        ensure!(answer.opcode == TEXT, "no echo of the first message");
        Ok(socket)
    }

    async fn measure(&self) -> Result<Measured> {
        let work = async {
            let echo_us = self.echo_us().await?;
            let flood_us = self.flood_us().await?;
            self.pin(LOAD_CORE)?;
            let p50_us = self.p50_us().await;
            self.pin(PROXY_CORE)?;
            Ok(Measured { echo_us, flood_us, p50_us: p50_us? })
        };
        timeout(PATIENCE, work).await.context("nothing comes any more")?
    }

    #[expect(clippy::cast_precision_loss, reason = "millions of messages are far below 2^52")]
    async fn echo_us(&self) -> Result<f64> {
        let mut sockets = Vec::new();
        for _ in 0..ECHO_CONNECTIONS {
            sockets.push(self.connect().await?);
        }
        let before = self.cpu_us()?;
        let deadline = Instant::now() + ECHO_TIME;
        let mut load = JoinSet::new();
        for mut socket in sockets {
            load.spawn(async move {
                let mut count: u64 = 0;
                while Instant::now() < deadline {
                    round_trip(&mut socket).await?;
                    count += 1;
                }
                anyhow::Ok((count, socket))
            });
        }
        let (mut total, mut open) = (0, Vec::new());
        while let Some(done) = load.join_next().await {
            let (count, socket) = done??;
            total += count;
            open.push(socket);
        }
        Ok((self.cpu_us()? - before) / total as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    async fn flood_us(&self) -> Result<f64> {
        let mut socket = self.connect().await?;
        let before = self.cpu_us()?;
        socket.send(&encode(true, TEXT, Some(MASK), FLOOD)).await?;
        socket.payload_bytes(FLOOD_FRAMES * FLOOD_FRAME_BYTES).await?;
        Ok((self.cpu_us()? - before) / FLOOD_FRAMES as f64)
    }

    async fn p50_us(&self) -> Result<f64> {
        let mut socket = self.connect().await?;
        let deadline = Instant::now() + LATENCY_TIME;
        let mut took = Vec::new();
        while Instant::now() < deadline {
            let before = Instant::now();
            round_trip(&mut socket).await?;
            took.push(before.elapsed().as_secs_f64() * 1e6);
        }
        Spread::of(took).map(|spread| spread.median).context("no round trip")
    }
}

/// What a client of the agent sends: a call in JSON, here one that nobody answers but the echo.
fn message() -> Vec<u8> {
    let head = r#"{"type":"req","id":"1","method":"health","params":{"padding":""#;
    let mut text = head.to_owned();
    text.push_str(&"x".repeat(MESSAGE_BYTES.saturating_sub(head.len() + 3)));
    text.push_str("\"}}");
    text.into_bytes()
}

async fn round_trip(socket: &mut RawSocket) -> Result<()> {
    thread_local! {
        static MESSAGE: Vec<u8> = encode(true, TEXT, Some(MASK), &message());
    }
    let message = MESSAGE.with(Clone::clone);
    socket.send(&message).await?;
    socket.payload_bytes(MESSAGE_BYTES).await
}

#[expect(clippy::cast_precision_loss, reason = "megabytes are far below 2^52")]
async fn idle_bytes(target: &Target) -> Result<f64> {
    let pid = target.process().context("no process")?.pid();
    // The first ones load what is loaded once.
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(target.connect().await?);
    }
    let before = pss_bytes(pid)?;
    for _ in 0..IDLE_CONNECTIONS - sockets.len() {
        sockets.push(timeout(PATIENCE, target.connect()).await.context("no connection any more")??);
    }
    let grown = pss_bytes(pid)?.saturating_sub(before);
    Ok(grown as f64 / (IDLE_CONNECTIONS - 10) as f64)
}

/// Memory of a process, each shared page divided by how many share it.
fn pss_bytes(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("unknown form of smaps_rollup")?;
    Ok(kib * 1024)
}

/// Sends back what it gets; on [`FLOOD`] it floods.
#[derive(Debug)]
struct Echo {
    addr: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

const FLOOD: &[u8] = br#"{"type":"req","id":"1","method":"flood"}"#;

impl Echo {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the echo cannot listen")?;
        let addr = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who leaves in the middle, as a probe does, is no fault.
                tokio::spawn(async move { serve(stream).await.ok() });
            }
        });
        Ok(Self { addr, accepting })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    let mut socket = RawSocket::accept(stream).await?;
    while let Some(frame) = socket.next().await? {
        if frame.payload == FLOOD {
            let one = encode(true, BINARY, None, &[b'x'; FLOOD_FRAME_BYTES]);
            // In pieces of the size in which the agent's own writes reach a socket under load.
            let several = one.repeat(20);
            for _ in 0..FLOOD_FRAMES / 20 {
                socket.send(&several).await?;
            }
        } else {
            socket.send(&encode(frame.fin, frame.opcode, None, &frame.payload)).await?;
        }
    }
    Ok(())
}

async fn proxy(name: &str, program: &Path, args: Vec<std::ffi::OsString>, dir: &Path) -> Result<Process> {
    Process::spawn(Spec {
        name: name.into(),
        program: program.into(),
        args,
        env: BTreeMap::new(),
        dir: dir.to_owned(),
        log: dir.join("log"),
    })
    .await
}

/// One process, without a log of requests, as lean as it gets.
fn nginx_config(dir: &Path, listen: SocketAddr, to: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen {listen}; location / {{\n\
         proxy_pass http://{to}; proxy_http_version 1.1; proxy_read_timeout 1h;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }} }}\n"
    )
}

fn haproxy_config(listen: SocketAddr, to: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n\
         frontend f\n  bind {listen}\n  default_backend b\nbackend b\n  server s {to}\n"
    )
}

/// Binds all threads of a process to one core. A thread that ends meanwhile, as those for files do, makes `taskset`
/// fail for all; so it is asked again.
fn pin(pid: u32, core: &str) -> Result<()> {
    const ATTEMPTS: usize = 5;
    let attempt = || run(Command::new("taskset").args(["-acp", core, &pid.to_string()]));
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        if result.is_ok() {
            break;
        }
        result = attempt();
    }
    result.context("cannot pin to a core")
}
