//! What an agent's start costs: as the image starts it, and as it starts by its own defaults in the same tree.
//!
//! Counted is what the agent has used when it is ready, and not the sidecar, which has a row of its own. By the image
//! that is when the agent has answered the sidecar's handshake and its question for health; by its defaults, when it
//! says that it listens and answers over HTTP, which is not later.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::spread::Spread;
use super::tree::{self, Cost};
use crate::image::Image;
use crate::image::chroot::Bind;
use crate::image::machine::{ImageMachine, VOLUME, spec_of};
use crate::process::{Process, free_port};
use crate::tools::progress;

/// Rounds, unless the caller says otherwise.
pub const ROUNDS: usize = 5;

/// What the issue allows an agent's first start.
const TARGET_CPU_SECONDS: f64 = 4.0;
const TARGET_PEAK_MB: f64 = 300.0;

/// For the drain; nothing is under way.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// For the agent with its defaults, which transpiles itself.
const PEER_WITHIN: Duration = Duration::from_secs(180);

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub target_cpu_seconds: f64,
    pub target_peak_mb: f64,
    pub rows: Vec<Row>,
}

/// One way to start.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub name: &'static str,
    /// Of the processor, until ready.
    pub cpu_seconds: Spread,
    /// Resident at most until then, in millions of bytes.
    pub peak_mb: Spread,
    /// By the clock, which other work on the machine moves.
    pub seconds: Spread,
}

#[derive(Default)]
struct Samples(Vec<(Cost, Duration)>);

/// Runs everything in turn, in folders below `dir`.
///
/// # Errors
/// A start failed or took too long.
pub async fn run_all(image: &Image, dir: &Path, rounds: usize) -> Result<Report> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let mut first = Samples::default();
    let mut later = Samples::default();
    let mut uncached = Samples::default();
    let mut sidecar = Samples::default();
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        let dir = dir.join(format!("round-{round}"));
        let mut machine = ImageMachine::new(image, &dir.join("as-it-is"), "user_bench".parse()?, &model())?;
        for samples in [&mut first, &mut later] {
            let (agent, own) = start(&mut machine, &http).await?;
            samples.0.push(agent);
            sidecar.0.push(own);
        }
        let mut env = model();
        env.push(("AUTOMNA_AGENT_COMPILE_CACHE".to_owned(), String::new()));
        let mut machine = ImageMachine::new(image, &dir.join("uncached"), "user_bench".parse()?, &env)?;
        uncached.0.push(start(&mut machine, &http).await?.0);
    }
    progress("the agent with its defaults, for up to three minutes");
    let peer = Samples(vec![peer(image, &dir.join("peer"), &http).await?]);
    let rows = [
        ("first start", first),
        ("later start", later),
        ("first start without the compile cache", uncached),
        ("the sidecar meanwhile", sidecar),
        ("the agent's defaults, first start", peer),
    ];
    let rows = rows.into_iter().map(|(name, samples)| samples.row(name)).collect::<Result<_>>()?;
    Ok(Report { target_cpu_seconds: TARGET_CPU_SECONDS, target_peak_mb: TARGET_PEAK_MB, rows })
}

/// A model that nobody asks anything.
fn model() -> Vec<(String, String)> {
    [("ANTHROPIC_API_KEY", "sk-stub"), ("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Starts a machine, and ends it. What the agent, and what the sidecar has cost.
async fn start(
    machine: &mut ImageMachine,
    http: &reqwest::Client,
) -> Result<((Cost, Duration), (Cost, Duration))> {
    let before = Instant::now();
    machine.start(http).await?;
    let took = before.elapsed();
    let agent = tree::cost(machine.agent_pid(http).await?)?;
    let all = tree::cost(machine.process().context("the machine does not run")?.pid())?;
    let own_peak = machine.process().and_then(|process| process.peak_bytes()).context("no peak")?;
    let own = Cost {
        cpu_ms: all.cpu_ms.saturating_sub(agent.cpu_ms),
        peak_kib: own_peak.checked_div(1024).unwrap_or(0),
    };
    let status = machine.stop(STOPS_WITHIN).await?;
    ensure!(status.success(), "the machine ended with {status}");
    Ok(((agent, took), (own, took)))
}

/// The agent with nothing but what it needs to start at all, and with no caches of the image's.
async fn peer(image: &Image, dir: &Path, http: &reqwest::Client) -> Result<(Cost, Duration)> {
    let volume = dir.join("volume");
    for name in ["home", "tmp"] {
        fs::create_dir_all(volume.join(name))?;
    }
    let setting = |name: &str| {
        let found = image.settings.env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).with_context(|| format!("the image does not set {name}"))
    };
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let port = addr.port().to_string();
    let env: Vec<(String, String)> = [
        ("PATH", setting("PATH")?),
        ("HOME", format!("{VOLUME}/home")),
        ("TMPDIR", format!("{VOLUME}/tmp")),
        ("CLAWDBOT_GATEWAY_TOKEN", "of-the-benchmark".to_owned()),
        ("ANTHROPIC_API_KEY", "sk-stub".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let (node, entry) = (setting("AUTOMNA_AGENT_NODE")?, setting("AUTOMNA_AGENT_ENTRY")?);
    let program = [&node, &entry, "gateway", "--port", &port, "--bind", "loopback", "--allow-unconfigured"];
    let command = image.run(&dir.join("layer"), &[Bind::writable(&volume, VOLUME)], &env, &program);
    let before = Instant::now();
    let mut process = Process::spawn(spec_of("the agent", &command, dir)).await?;
    // Its own peak is gone with a process that ends, so look from time to time.
    let mut peak_kib = 0;
    loop {
        if let Some(status) = process.exited()? {
            bail!("the agent ended ({status}):\n{}", process.log_tail());
        }
        let cost = tree::cost(process.pid())?;
        peak_kib = cost.peak_kib.max(peak_kib);
        if http.get(format!("http://{addr}/")).send().await.is_ok() {
            let took = before.elapsed();
            let cost = tree::cost(process.pid())?;
            process.kill().await?;
            return Ok((Cost { peak_kib: cost.peak_kib.max(peak_kib), ..cost }, took));
        }
        ensure!(before.elapsed() < PEER_WITHIN, "the agent is not ready:\n{}", process.log_tail());
        sleep(Duration::from_millis(200)).await;
    }
}

impl Samples {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds and KiB of one start")]
    fn row(self, name: &'static str) -> Result<Row> {
        let spread = |of: fn(&(Cost, Duration)) -> f64| {
            Spread::of(self.0.iter().map(of).collect()).context("there was no round")
        };
        Ok(Row {
            name,
            cpu_seconds: spread(|(cost, _)| cost.cpu_ms as f64 / 1000.0)?,
            peak_mb: spread(|(cost, _)| cost.peak_kib as f64 * 1024.0 / 1e6)?,
            seconds: spread(|(_, took)| took.as_secs_f64())?,
        })
    }
}

impl Report {
    /// For a terminal: median, and least to most.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines =
            vec![format!("{:<40} {:<22} {:<22} {}", "until ready", "CPU, s", "peak, MB", "by the clock, s")];
        for row in &self.rows {
            lines.push(format!(
                "{:<40} {:<22} {:<22} {}",
                row.name,
                row.cpu_seconds.show(2),
                row.peak_mb.show(0),
                row.seconds.show(1)
            ));
        }
        lines.push(format!(
            "target for the first start: {} s, {} MB",
            self.target_cpu_seconds, self.target_peak_mb
        ));
        lines.join("\n")
    }
}
