//! The sidecar's file and history API against file servers, each tied to one core, the load on another.
//!
//! Rounds alternate between the servers. The sidecar checks a ticket with each request and is durable where it
//! writes; the others check nothing and leave it to the system when they write.

mod client;
mod data;
mod server;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use serde::Serialize;

use self::client::Client;
use self::server::{Name, Place, SERVER_CORE, Server};
use super::spread::Spread;
use super::{cpu, wrk};
use crate::tools::{Tools, progress};

/// Rounds for each figure, unless the caller says otherwise.
pub const ROUNDS: usize = 5;

/// Length of a round under wrk.
const SECONDS: u32 = 2;

/// Connections for the small file.
const CONNECTIONS: u32 = 32;

/// Uploads of a round, one after the other, and under how many names.
const UPLOADS: usize = 40;
const UPLOAD_NAMES: usize = 10;
const UPLOAD_BYTES: usize = 1 << 20;

/// Pages of the conversation, read from memory and from the disk.
const WARM_PAGES: usize = 1000;
const COLD_PAGES: usize = 30;
const PAGE: &str = "/ws/api/history?sessionKey=main&limit=50";

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub scenarios: Vec<Scenario>,
    pub history: History,
}

/// CPU per unit of one kind of work.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scenario {
    pub name: &'static str,
    pub unit: &'static str,
    pub figures: BTreeMap<Name, Spread>,
    /// Ours over theirs, round by round.
    pub ratios: BTreeMap<Name, Spread>,
}

/// The newest page of a conversation of a gigabyte.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// As a client sees it, in ms.
    pub warm: Latency,
    /// The same after the file was dropped from memory.
    pub cold: Latency,
    /// CPU per page, in us.
    pub cpu_us: f64,
    /// Of the process, after all of these pages.
    pub resident_mib: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// What the servers do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Small,
    SmallLogged,
    Large,
    List,
    Upload,
}

impl Work {
    const ALL: [Self; 5] = [Self::Small, Self::SmallLogged, Self::Large, Self::List, Self::Upload];

    const fn name(self) -> &'static str {
        match self {
            Self::Small => "GET 4 KiB, 32 connections",
            Self::SmallLogged => "the same, each logged",
            Self::Large => "GET 1 GiB",
            Self::List => "list 10,000 entries",
            Self::Upload => "PUT 1 MiB, only ours durable",
        }
    }

    /// And how many of its microseconds there are.
    const fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Small | Self::SmallLogged => ("us", 1.0),
            Self::Large => ("s/GB", 1e6),
            Self::List | Self::Upload => ("ms", 1e3),
        }
    }

    const fn servers(self) -> &'static [Name] {
        match self {
            Self::Small | Self::Large | Self::List => &[Name::Sidecar, Name::Nginx, Name::Caddy, Name::Dufs],
            Self::SmallLogged => &[Name::Sidecar, Name::Nginx],
            // Caddy's file server only reads.
            Self::Upload => &[Name::Sidecar, Name::Nginx, Name::Dufs],
        }
    }
}

/// Runs the whole benchmark, in less than four minutes with the usual number of rounds.
///
/// # Errors
/// When a server does not start, or any request is not answered well.
pub async fn run_all(tools: &Tools, dir: &Path, sidecar: &Path, rounds: usize) -> Result<Report> {
    leave_core_to_servers()?;
    progress("making files: 1 GiB, a conversation of 1 GB, 10,000 small ones");
    let workspace = data::workspace(dir)?;
    let (agent_state, transcript) = data::history(dir)?;
    let place = |log_requests| Place {
        tools,
        sidecar,
        dir,
        workspace: &workspace,
        agent_state: &agent_state,
        log_requests,
    };
    let mut scenarios = Vec::new();
    for work in Work::ALL {
        scenarios.push(measure(tools, &place(work == Work::SmallLogged), work, rounds).await?);
    }
    progress("the newest page of a conversation of 1 GB");
    let history = measure_history(&place(false), &transcript).await?;
    Ok(Report { scenarios, history })
}

async fn measure(tools: &Tools, place: &Place<'_>, work: Work, rounds: usize) -> Result<Scenario> {
    let mut servers = Vec::new();
    for name in work.servers() {
        servers.push(Server::start(*name, place).await?);
    }
    let (unit, scale) = work.unit();
    let mut figures: BTreeMap<Name, Vec<f64>> = BTreeMap::new();
    // One round is not counted: it fills caches.
    for round in 0..=rounds {
        progress(&format!("{}, round {round} of {rounds}", work.name()));
        for server in &servers {
            let before = cpu::nanoseconds(server.pid())?;
            let units = perform(tools, server, work).await?;
            let spent = cpu::nanoseconds(server.pid())?.saturating_sub(before);
            #[expect(clippy::cast_precision_loss, reason = "seconds of nanoseconds are far below 2^52")]
            let each = spent as f64 / 1000.0 / scale / units;
            if round > 0 {
                figures.entry(server.name).or_default().push(each);
            }
        }
    }
    for server in servers {
        server.stop().await?;
    }
    let ours = figures.get(&Name::Sidecar).context("nothing was measured")?.clone();
    let mut scenario =
        Scenario { name: work.name(), unit, figures: BTreeMap::new(), ratios: BTreeMap::new() };
    for (name, theirs) in figures {
        if name != Name::Sidecar {
            let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            scenario.ratios.insert(name, Spread::of(ratios).context("nothing was measured")?);
        }
        scenario.figures.insert(name, Spread::of(theirs).context("nothing was measured")?);
    }
    Ok(scenario)
}

/// Does the work of one round; how many units that was.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
async fn perform(tools: &Tools, server: &Server, work: Work) -> Result<f64> {
    let url = |target: String| format!("http://{}{target}", server.address);
    let headers = server.headers();
    match work {
        Work::Small | Work::SmallLogged => {
            let url = url(server.file("small"));
            Ok(wrk::load(tools, &url, &headers, CONNECTIONS, SECONDS).await?.requests as f64)
        }
        Work::List => {
            let url = url(server.folder("many"));
            Ok(wrk::load(tools, &url, &headers, 1, SECONDS).await?.requests as f64)
        }
        Work::Large => {
            let (address, target) = (server.address, server.file("large"));
            let download = move || client::download(address, &target, &headers);
            let bytes = tokio::task::spawn_blocking(download).await??;
            ensure!(bytes == data::LARGE_BYTES, "{bytes} bytes came, not {}", data::LARGE_BYTES);
            Ok(bytes as f64 / 1e9)
        }
        Work::Upload => {
            let mut client = Client::connect(server.address, &headers).await?;
            let body = Bytes::from(data::noise(UPLOAD_BYTES));
            for n in 0..UPLOADS {
                let target = server.file(&format!("put/{:?}-{}", server.name, n % UPLOAD_NAMES));
                client.call("PUT", &target, body.clone()).await?;
            }
            Ok(UPLOADS as f64)
        }
    }
}

async fn measure_history(place: &Place<'_>, transcript: &Path) -> Result<History> {
    let server = Server::start(Name::Sidecar, place).await?;
    let mut client = Client::connect(server.address, &server.headers()).await?;
    // Not counted: it fills caches.
    client.call("GET", PAGE, Bytes::new()).await?;
    let mut warm = Vec::new();
    let before = cpu::nanoseconds(server.pid())?;
    for _ in 0..WARM_PAGES {
        warm.push(client.call("GET", PAGE, Bytes::new()).await?);
    }
    let spent = cpu::nanoseconds(server.pid())?.saturating_sub(before);
    let file = File::open(transcript)?;
    let mut cold = Vec::new();
    for _ in 0..COLD_PAGES {
        fadvise(&file, 0, None, Advice::DontNeed).context("cannot drop the file from memory")?;
        cold.push(client.call("GET", PAGE, Bytes::new()).await?);
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let report = History {
        warm: latency(warm)?,
        cold: latency(cold)?,
        cpu_us: spent as f64 / 1000.0 / WARM_PAGES as f64,
        resident_mib: server.resident_bytes()? as f64 / f64::from(1 << 20),
    };
    server.stop().await?;
    Ok(report)
}

fn latency(mut times: Vec<Duration>) -> Result<Latency> {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = times.len().saturating_mul(percent).div_ceil(100).saturating_sub(1);
        times.get(place).map(|time| time.as_secs_f64() * 1000.0).context("nothing was measured")
    };
    Ok(Latency { p50_ms: at(50)?, p99_ms: at(99)? })
}

/// All threads of this process, and so the programs that they start, keep off the servers' core.
fn leave_core_to_servers() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut others = CpuSet::new();
    // The next core alone: were there more, threads that wander between them would blur the figures.
    others.set(if cores > 1 { SERVER_CORE.saturating_add(1) } else { SERVER_CORE });
    for thread in fs::read_dir("/proc/self/task").context("cannot list the threads of this process")? {
        let id = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        // One that has ended meanwhile needs no core.
        let _gone = sched_setaffinity(id, &others);
    }
    Ok(())
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for Scenario { name, unit, figures, ratios } in &self.scenarios {
            lines.push(format!("{name}: CPU, {unit}"));
            for (server, figure) in figures {
                let ratio = ratios.get(server).map(|ratio| format!("  ours / theirs {}", ratio.show(2)));
                let digits = if *unit == "s/GB" { 3 } else { 2 };
                lines.push(format!(
                    "    {:<10} {:>26}{}",
                    format!("{server:?}"),
                    figure.show(digits),
                    ratio.unwrap_or_default()
                ));
            }
        }
        let History { warm, cold, cpu_us, resident_mib } = &self.history;
        lines.push("newest 50 messages of 1 GB".to_owned());
        for (state, Latency { p50_ms, p99_ms }) in [("in memory", warm), ("from disk", cold)] {
            lines.push(format!("    {state}: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"));
        }
        lines.push(format!("    CPU {cpu_us:.0} us, resident {resident_mib:.1} MiB"));
        lines.push("median (min to max)".to_owned());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let ms = |n: u64| Duration::from_millis(n);
        let hundred = (1..=100).rev().map(ms).collect();
        assert_eq!(latency(hundred).unwrap(), Latency { p50_ms: 50.0, p99_ms: 99.0 });
        assert_eq!(latency(vec![ms(7)]).unwrap(), Latency { p50_ms: 7.0, p99_ms: 7.0 });
        assert!(latency(Vec::new()).is_err());
    }
}
