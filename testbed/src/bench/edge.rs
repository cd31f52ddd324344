//! The edge against a minimal TypeScript Worker for the same task, each in a workerd of its own, in turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use shared::secret::Secret;
use shared::wire::SIDECAR_HEADER;
use tokio::time::{Instant, sleep};

use super::spread::Spread;
use super::{cpu, wrk};
use crate::edge_build;
use crate::forward::{Server, text};
use crate::system::{change_policy, ops, sign};
use crate::tools::{Tools, progress, run};
use crate::workerd::{Edge, EdgeSpec};

/// Pairs of runs for each figure, unless the caller says otherwise. An odd number has a median that was measured.
pub const ROUNDS: usize = 7;

/// Length of a run. At some 10,000 requests a second, enough that a timer tick does not show.
const SECONDS: u32 = 4;

/// Connections of the load, as a browser's pages and a dashboard would open to one isolate.
const CONNECTIONS: u32 = 16;

const SECRET: &str = "benchmark-secret";

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The scenarios, with their CPU per request.
    pub scenarios: Vec<Scenario>,
    /// Bytes of `index_bg.wasm`, as built and after `gzip -9`; and of the peer's bundle.
    pub wasm_bytes: u64,
    pub wasm_gzip_bytes: u64,
    pub peer_gzip_bytes: u64,
    /// From the start of the process to the end of its first answer, in ms.
    pub edge_first_response_ms: Spread,
    pub peer_first_response_ms: Spread,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scenario {
    pub name: &'static str,
    /// CPU per request, in microseconds.
    pub edge_us: Spread,
    pub peer_us: Spread,
    /// Edge over peer, pair by pair.
    pub ratio: Spread,
}

/// Runs the whole benchmark: about three minutes with the usual number of rounds.
///
/// # Errors
/// When a part does not start, or any request under load is not answered well.
pub async fn run_all(tools: &Tools, dir: &Path, rounds: usize) -> Result<Report> {
    let peer_module = bundle_peer(tools, dir)?;
    let upstream = Server::start(0, |_, _| async {
        let mut answer = text(hyper::StatusCode::OK, "a small answer, as of a status route");
        answer.headers_mut().insert(SIDECAR_HEADER, hyper::header::HeaderValue::from_static("bench"));
        answer
    })
    .await?;
    let vars = BTreeMap::from([
        ("MOLTBOT_SIGNING_SECRET".to_owned(), SECRET.to_owned()),
        ("ADMIN_BEARER".to_owned(), SECRET.to_owned()),
        ("DIRECT_FLIPS".to_owned(), "allow".to_owned()),
        ("LEGACY_ORIGIN".to_owned(), upstream.url()),
        ("MACHINE_ORIGIN".to_owned(), upstream.url()),
    ]);
    let spec = |name: &str, instead: Option<PathBuf>| EdgeSpec {
        dir: dir.join(name),
        vars: vars.clone(),
        legacy_service: None,
        faults: false,
        instead,
    };
    let secret = Secret::new(SECRET).context("no secret")?;
    let signed = |user: &str| anyhow::Ok(sign(&secret, &user.parse()?, 3600));
    let query = signed("user_bench")?;

    let mut starts = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        progress(&format!("first response, round {round} of {rounds}"));
        starts.0.push(first_response_ms(tools, spec("edge-start", None), &query).await?);
        starts.1.push(first_response_ms(tools, spec("peer-start", Some(peer_module.clone())), &query).await?);
    }

    let edge = Edge::start(tools, spec("edge", None)).await?;
    let peer = Edge::start(tools, spec("peer", Some(peer_module.clone()))).await?;
    put_on_machine(&edge, "user_on_fly").await?;
    let mut scenarios = Vec::new();
    for (name, path, user) in [
        ("204 after verification", "/_edge/session", "user_bench"),
        ("verified small GET, proxied", "/small", "user_bench"),
        ("the same, with a ticket", "/small", "user_on_fly"),
    ] {
        let query = signed(user)?;
        let url = |base: &Edge| format!("{}{path}?{query}", base.url());
        let (mut edge_us, mut peer_us, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // One pair is not counted: it compiles and fills caches.
        for round in 0..=rounds {
            progress(&format!("{name}, round {round} of {rounds}"));
            let ours = us_per_request(tools, &edge, &url(&edge)).await?;
            let theirs = us_per_request(tools, &peer, &url(&peer)).await?;
            if round > 0 {
                edge_us.push(ours);
                peer_us.push(theirs);
                ratios.push(ours / theirs);
            }
        }
        let spread = |values| Spread::of(values).context("nothing was measured");
        scenarios.push(Scenario {
            name,
            edge_us: spread(edge_us)?,
            peer_us: spread(peer_us)?,
            ratio: spread(ratios)?,
        });
    }
    edge.stop().await?;
    peer.stop().await?;
    upstream.stop().await;

    let wasm = edge_build::output(tools).join("index_bg.wasm");
    Ok(Report {
        scenarios,
        wasm_bytes: std::fs::metadata(&wasm).context("the edge is not built")?.len(),
        wasm_gzip_bytes: gzip_bytes(&wasm)?,
        peer_gzip_bytes: gzip_bytes(&peer_module)?,
        edge_first_response_ms: Spread::of(starts.0).context("nothing was started")?,
        peer_first_response_ms: Spread::of(starts.1).context("nothing was started")?,
    })
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<30} {:>26} {:>26} {:>22}",
            "CPU per request", "edge, us", "TypeScript, us", "ratio"
        )];
        for scenario in &self.scenarios {
            let Scenario { name, edge_us, peer_us, ratio } = scenario;
            lines.push(format!(
                "{name:<30} {:>26} {:>26} {:>22}",
                edge_us.show(1),
                peer_us.show(1),
                ratio.show(2)
            ));
        }
        lines.push(format!(
            "{:<30} {:>26} {:>26}",
            "first response, ms",
            self.edge_first_response_ms.show(0),
            self.peer_first_response_ms.show(0)
        ));
        lines.push(format!(
            "{:<30} {:>26} {:>26}",
            "code, bytes after gzip -9", self.wasm_gzip_bytes, self.peer_gzip_bytes
        ));
        lines.push("median (min to max)".to_owned());
        lines.join("\n")
    }
}

/// Sends `user` to the machine, for which the upstream stands, in the edge; the peer knows one way only.
async fn put_on_machine(edge: &Edge, user: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let machine = serde_json::json!({"app": "bench", "machineId": "bench", "generation": 1});
    ops(&http, edge.url(), SECRET, &format!("users/{user}/machine"), &machine).await?;
    let pin = serde_json::json!({"pins": {user: "fly"}});
    change_policy(&http, edge.url(), SECRET, &pin).await?;
    Ok(())
}

async fn us_per_request(tools: &Tools, edge: &Edge, url: &str) -> Result<f64> {
    let pid = edge.process().pid();
    let before = cpu::nanoseconds(pid)?;
    let load = wrk::load(tools, url, &[], CONNECTIONS, SECONDS).await?;
    let spent = cpu::nanoseconds(pid)?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "seconds of nanoseconds are far below 2^52")]
    Ok(spent as f64 / 1000.0 / load.requests as f64)
}

async fn first_response_ms(tools: &Tools, spec: EdgeSpec, query: &str) -> Result<f64> {
    let client = reqwest::Client::new();
    let started = Instant::now();
    let edge = Edge::start(tools, spec).await?;
    let url = format!("{}/_edge/session?{query}", edge.url());
    while client.get(&url).send().await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
    let took = started.elapsed();
    edge.stop().await?;
    Ok(took.as_secs_f64() * 1000.0)
}

fn bundle_peer(tools: &Tools, dir: &Path) -> Result<PathBuf> {
    let bundle = dir.join("peer.mjs");
    let mut esbuild = Command::new(tools.esbuild());
    esbuild.arg(tools.repository().join("testbed/bench/peer.ts"));
    esbuild.args(["--bundle", "--minify", "--format=esm"]).arg(format!("--outfile={}", bundle.display()));
    esbuild.env("NODE_PATH", tools.edge_modules());
    run(&mut esbuild).context("the peer does not build")?;
    Ok(bundle)
}

fn gzip_bytes(path: &Path) -> Result<u64> {
    let output = Command::new("gzip").arg("-9c").arg(path).output().context("cannot run gzip")?;
    Ok(output.stdout.len() as u64)
}
