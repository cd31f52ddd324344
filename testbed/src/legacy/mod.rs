//! The legacy side: the TypeScript Worker with its sandboxes, for many users.
//!
//! Each user has a container, which is the real agent in a directory of its own: started by the first request
//! that needs it, stopped when nobody has used it for `sleep_after`, started again on the same directory. All
//! containers share one gateway token, as they do there.
//!
//! What it is not: it has no R2 behind it (histories and files are the container's), no admin routes, no
//! Cloudflare Access and no loading page. `routes` has the list of what it answers; `files` and `reset` say which
//! faults of theirs are left out.
//!
//! | control route | |
//! |---|---|
//! | `GET /__standin/stats` | [`LegacyStats`] in JSON |
//! | `POST /__standin/config` | `{"sleepAfterMs": number or null for never, "coldStartMs": number}`, both optional |

mod chat;
mod clock;
mod containers;
mod cors;
mod files;
mod frames;
mod history;
mod reset;
mod routes;
mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use shared::id::UserId;
use shared::key::SigningKeys;
use shared::secret::Secret;
use tokio::task::JoinHandle;

use crate::agent;
use crate::forward::{self, Answer, Server};
use containers::{ContainerSpec, Containers, Timing};

pub use clock::now;

/// Largest body of a control request.
const MAX_CONTROL_BYTES: usize = 64 << 10;

/// How many paths are counted apart; what comes after these is counted as `(other)`.
const MAX_PATHS: usize = 1000;

/// What to start.
#[derive(Debug, Clone)]
pub struct LegacySpec {
    /// The node binary.
    pub node: PathBuf,
    /// clawdbot's `dist/entry.js`.
    pub entry: PathBuf,
    /// Where containers live, a directory for each.
    pub dir: PathBuf,
    /// The model's base URL, without `/v1`.
    pub model_url: String,
    /// The gateway token of every container.
    pub gateway_token: Secret,
    /// What signed URLs are checked with.
    pub keys: SigningKeys,
    /// How long an unused container stays up; `None` for ever.
    pub sleep_after: Option<Duration>,
    /// What a boot takes beyond the agent's own start.
    pub cold_start: Duration,
    /// Where to listen; 0 for any free port.
    pub port: u16,
}

/// What it has seen since its start. Control requests do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LegacyStats {
    /// All requests.
    pub requests: u64,
    /// Those with a valid signature.
    pub signed_requests: u64,
    /// Those with a permit, whatever it says: it is not looked at.
    pub permits: u64,
    /// Boots of containers, begun.
    pub boots: u64,
    /// Containers up at this moment.
    pub running: u64,
    /// WebSockets open at this moment.
    pub open_sockets: u64,
    /// Requests by path.
    pub by_path: BTreeMap<String, u64>,
}

/// The running stand-in. Dropping it kills its containers; [`Self::stop`] is the polite way.
#[derive(Debug)]
pub struct LegacyStandin {
    server: Server,
    inner: Arc<Inner>,
    upkeep: Upkeep,
}

/// What goes on by itself, and would go on for ever: dropping it lets go of the containers, which ends them.
#[derive(Debug)]
struct Upkeep {
    reaper: JoinHandle<()>,
    containers: Arc<Containers>,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.reaper.abort();
        self.containers.abort_boots();
    }
}

#[derive(Debug)]
struct Inner {
    keys: SigningKeys,
    gateway_token: Secret,
    containers: Arc<Containers>,
    counts: Mutex<LegacyStats>,
    open_sockets: Arc<AtomicU64>,
}

impl LegacyStandin {
    /// Starts it on loopback, without any container.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start(spec: LegacySpec) -> Result<Self> {
        let LegacySpec { node, entry, dir, model_url, gateway_token, keys, sleep_after, cold_start, port } =
            spec;
        let container = ContainerSpec { node, entry, dir, model_url, gateway_token: gateway_token.clone() };
        let containers = Arc::new(Containers::new(container, Timing { sleep_after, cold_start }));
        let inner = Arc::new(Inner {
            keys,
            gateway_token,
            containers: Arc::clone(&containers),
            counts: Mutex::default(),
            open_sockets: Arc::default(),
        });
        let for_handler = Arc::clone(&inner);
        let server = Server::start(port, move |request, context| {
            let inner = Arc::clone(&for_handler);
            async move {
                if request.uri().path().starts_with("/__standin/") {
                    control(request, &inner).await
                } else {
                    routes::route(request, context, inner).await
                }
            }
        })
        .await?;
        let for_reaper = Arc::clone(&containers);
        let reaper = tokio::spawn(async move { for_reaper.reap().await });
        Ok(Self { server, inner, upkeep: Upkeep { reaper, containers } })
    }

    /// Its base URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What it has seen.
    #[must_use]
    pub fn stats(&self) -> LegacyStats {
        self.inner.stats()
    }

    /// How long an unused container stays up from now on; `None` for ever.
    pub fn set_sleep_after(&self, sleep_after: Option<Duration>) {
        self.inner.containers.timing().sleep_after = sleep_after;
    }

    /// What a boot takes from now on, beyond the agent's own start.
    pub fn set_cold_start(&self, cold_start: Duration) {
        self.inner.containers.timing().cold_start = cold_start;
    }

    /// Where the user's container keeps everything; see [`agent::state_dir`] and [`agent::workspace_dir`].
    #[must_use]
    pub fn container_dir(&self, user: &UserId) -> PathBuf {
        self.inner.containers.dir(user)
    }

    /// Whether the user's container is up.
    #[must_use]
    pub fn is_running(&self, user: &UserId) -> bool {
        self.inner.containers.running(user).is_some()
    }

    /// Stops the user's container, if it is up, also under open sockets.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_container(&self, user: &UserId) -> Result<()> {
        self.inner.containers.stop_one(user).await
    }

    /// Kills the user's container, if it is up: an outage without a goodbye.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill_container(&self, user: &UserId) -> Result<()> {
        self.inner.containers.kill_one(user).await
    }

    /// Ends it: takes no more requests, cuts sockets, then stops every container in order.
    ///
    /// # Errors
    /// When a container does not end.
    pub async fn stop(self) -> Result<()> {
        let Self { server, inner, upkeep } = self;
        server.stop().await;
        drop(upkeep);
        inner.containers.stop_all().await
    }
}

impl Inner {
    fn state_dir(&self, user: &UserId) -> PathBuf {
        agent::state_dir(&self.containers.dir(user))
    }

    fn workspace_dir(&self, user: &UserId) -> PathBuf {
        agent::workspace_dir(&self.containers.dir(user))
    }

    fn count(&self, path: &str, signed: bool, permit: bool) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests += 1;
        counts.signed_requests += u64::from(signed);
        counts.permits += u64::from(permit);
        let known = counts.by_path.contains_key(path) || counts.by_path.len() < MAX_PATHS;
        let path = if known { path } else { "(other)" };
        *counts.by_path.entry(path.to_owned()).or_default() += 1;
    }

    fn stats(&self) -> LegacyStats {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LegacyStats {
            boots: self.containers.boots(),
            running: u64::try_from(self.containers.running_count()).unwrap_or(u64::MAX),
            open_sockets: self.open_sockets.load(Ordering::Relaxed),
            ..counts
        }
    }
}

/// Counts something for as long as it lives.
#[derive(Debug)]
struct Gauge(Arc<AtomicU64>);

impl Gauge {
    fn open(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What can be set over HTTP. What is absent stays as it is.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    #[serde(default, deserialize_with = "present")]
    sleep_after_ms: Option<Option<u64>>,
    #[serde(default)]
    cold_start_ms: Option<u64>,
}

/// Tells null (never) from absent (as it is).
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn control(request: Request<Incoming>, inner: &Inner) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/__standin/stats") => forward::json(StatusCode::OK, &inner.stats()),
        (&Method::POST, "/__standin/config") => match read_config(request).await {
            Ok(config) => {
                let mut timing = inner.containers.timing();
                if let Some(sleep_after) = config.sleep_after_ms {
                    timing.sleep_after = sleep_after.map(Duration::from_millis);
                }
                if let Some(cold_start) = config.cold_start_ms {
                    timing.cold_start = Duration::from_millis(cold_start);
                }
                forward::empty(StatusCode::NO_CONTENT)
            }
            Err(error) => forward::json(StatusCode::BAD_REQUEST, &json!({"error": format!("{error:#}")})),
        },
        _ => forward::json(StatusCode::NOT_FOUND, &json!({"error": "the stand-in has no such control"})),
    }
}

async fn read_config(request: Request<Incoming>) -> Result<Config> {
    let body = forward::read_body(request.into_body(), MAX_CONTROL_BYTES).await?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_never_and_absent_is_as_it_was() {
        for (text, expected) in [
            ("{}", Some(Config::default())),
            (r#"{"sleepAfterMs":null}"#, Some(Config { sleep_after_ms: Some(None), cold_start_ms: None })),
            (
                r#"{"sleepAfterMs":1000,"coldStartMs":5}"#,
                Some(Config { sleep_after_ms: Some(Some(1000)), cold_start_ms: Some(5) }),
            ),
            (r#"{"sleepAfter":1}"#, None),
            (r#"{"sleepAfterMs":-1}"#, None),
        ] {
            assert_eq!(serde_json::from_str::<Config>(text).ok(), expected, "{text}");
        }
    }
}
