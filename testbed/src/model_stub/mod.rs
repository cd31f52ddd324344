//! The model that agents talk to: the messages API of Anthropic, streaming and whole, with an answer that can be
//! predicted (`You said: …`) and faults on demand.
//!
//! A fault is asked for in the user's text (`[[stub fail=529]] hello`, see [`Behaviour`] and [`parse`]) or set as
//! the default, by [`ModelStub::set_behaviour`] or over HTTP:
//!
//! | route | |
//! |---|---|
//! | `POST /v1/messages` | the model |
//! | `POST /__stub/behaviour` | sets the default, a [`Behaviour`] in JSON |
//! | `POST /__stub/release` | lets everything go on that hangs |
//! | `GET /__stub/stats` | [`ModelStats`] in JSON |

mod behaviour;
mod messages;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::forward::{self, Answer, BoxError, Server};

pub use behaviour::{Behaviour, MAX_DELAY, MAX_REPLY_BYTES, Outcome, parse};

/// Largest request that is read: a long conversation with images stays below it.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// How many texts are remembered to count attempts; then all are forgotten.
const MAX_TEXTS: usize = 4096;

/// What the stub has seen since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStats {
    /// Requests to the model, retries included.
    pub requests: u64,
    /// Those whose last user text had been seen before. The text holds the message's id, so these are the
    /// agent's own retries.
    pub retries: u64,
    /// Answered to the end.
    pub completed: u64,
    /// Answered with an error status.
    pub failed: u64,
    /// Cut in the middle.
    pub cut: u64,
    /// Left by the client before the end.
    pub abandoned: u64,
    /// Waiting for a release at this moment.
    pub hanging: u64,
}

#[derive(Debug, Default)]
struct State {
    stats: ModelStats,
    behaviour: Behaviour,
    attempts: HashMap<String, u32>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    releases: watch::Sender<u64>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running stub.
#[derive(Debug)]
pub struct ModelStub {
    server: Server,
    inner: Arc<Inner>,
}

impl ModelStub {
    /// Starts it on `127.0.0.1:port` (0: any free port).
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start(port: u16) -> Result<Self> {
        let inner = Arc::new(Inner { state: Mutex::default(), releases: watch::Sender::new(0) });
        let for_handler = Arc::clone(&inner);
        let server = Server::start(port, move |request, _| route(request, Arc::clone(&for_handler))).await?;
        Ok(Self { server, inner })
    }

    /// Base URL, as an agent's provider wants it: without `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What it has seen.
    #[must_use]
    pub fn stats(&self) -> ModelStats {
        self.inner.state().stats.clone()
    }

    /// Sets what happens to requests without a directive.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.inner.state().behaviour = behaviour;
    }

    /// Lets everything go on that hangs now.
    pub fn release(&self) {
        release(&self.inner);
    }

    /// Ends it; what hangs is cut.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn release(inner: &Inner) {
    inner.releases.send_modify(|count| *count += 1);
}

async fn route(request: Request<Incoming>, inner: Arc<Inner>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/messages") => converse(request, inner).await,
        (&Method::POST, "/__stub/behaviour") => set_default(request, &inner).await,
        (&Method::POST, "/__stub/release") => {
            release(&inner);
            forward::empty(StatusCode::NO_CONTENT)
        }
        (&Method::GET, "/__stub/stats") => {
            let stats = inner.state().stats.clone();
            forward::json(StatusCode::OK, &stats)
        }
        _ => refuse(StatusCode::NOT_FOUND, "the stub has no such route"),
    }
}

async fn set_default(request: Request<Incoming>, inner: &Inner) -> Answer {
    let body = match forward::read_body(request.into_body(), MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match serde_json::from_slice::<Behaviour>(&body) {
        Ok(behaviour) => {
            inner.state().behaviour = behaviour;
            forward::empty(StatusCode::NO_CONTENT)
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &format!("not a behaviour: {error}")),
    }
}

async fn converse(request: Request<Incoming>, inner: Arc<Inner>) -> Answer {
    let body = match forward::read_body(request.into_body(), MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(error) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let raw = messages::last_user_text(&body);
    let (directive, said) = parse(&messages::unwrap_user_text(&raw));
    let (behaviour, number) = admit(&inner, raw, directive);

    let mut visit = Visit { inner: Arc::clone(&inner), ended: false, hanging: false };
    match behaviour.outcome {
        Outcome::Fail(status) => {
            visit.end(|stats| stats.failed += 1);
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return refuse(status, "the stub was asked to fail");
        }
        Outcome::Hang => visit.hang().await,
        Outcome::Reply | Outcome::Cut => {}
    }

    let id = format!("msg_stub_{number}");
    let model = body.get("model").and_then(Value::as_str).unwrap_or("stub").to_owned();
    let reply = messages::reply_text(&said, behaviour.big_bytes);
    if body.get("stream").and_then(Value::as_bool) == Some(true) {
        stream_reply(&id, &model, &reply, &behaviour, visit)
    } else {
        sleep(behaviour.delay()).await;
        visit.end(|stats| stats.completed += 1);
        forward::json(StatusCode::OK, &messages::whole(&id, &model, &reply))
    }
}

/// Counts the request, and says how it is to be treated and which one it is.
fn admit(inner: &Inner, raw: String, directive: Option<Behaviour>) -> (Behaviour, u64) {
    let mut state = inner.state();
    let behaviour = directive.unwrap_or_else(|| state.behaviour.clone());
    if state.attempts.len() >= MAX_TEXTS {
        state.attempts.clear();
    }
    let attempts = state.attempts.entry(raw).or_default();
    let attempt = *attempts;
    *attempts += 1;
    state.stats.requests += 1;
    state.stats.retries += u64::from(attempt > 0);
    (behaviour.at_attempt(attempt), state.stats.requests)
}

enum Piece {
    Send(String),
    Break,
}

fn stream_reply(id: &str, model: &str, reply: &str, behaviour: &Behaviour, visit: Visit) -> Answer {
    let parts = messages::pieces(reply);
    let cut_at = (behaviour.outcome == Outcome::Cut).then(|| parts.len().div_ceil(2));
    let mut events = vec![Piece::Send(messages::stream_start(id, model))];
    events.extend(
        parts.iter().take(cut_at.unwrap_or(usize::MAX)).map(|part| Piece::Send(messages::stream_piece(part))),
    );
    events.push(match cut_at {
        Some(_) => Piece::Break,
        None => Piece::Send(messages::stream_end(reply)),
    });

    let delay = behaviour.delay();
    let pieces = stream::unfold((events.into_iter(), visit), move |(mut events, mut visit)| async move {
        let Some(event) = events.next() else {
            visit.end(|stats| stats.completed += 1);
            return None;
        };
        // Once per piece; without a delay it is still a turn for others, so that pieces are written one by one.
        sleep(delay).await;
        let item: Result<Bytes, BoxError> = match event {
            Piece::Send(event) => Ok(Bytes::from(event)),
            Piece::Break => {
                visit.end(|stats| stats.cut += 1);
                Err("the stub was asked to cut the reply".into())
            }
        };
        Some((item, (events, visit)))
    });
    forward::streaming("text/event-stream", pieces)
}

fn refuse(status: StatusCode, message: &str) -> Answer {
    forward::json(status, &messages::error_body(status.as_u16(), message))
}

/// One request under way. When it is dropped before its end, the client has gone.
struct Visit {
    inner: Arc<Inner>,
    ended: bool,
    hanging: bool,
}

impl Visit {
    fn end(&mut self, count: impl FnOnce(&mut ModelStats)) {
        if !self.ended {
            self.ended = true;
            count(&mut self.inner.state().stats);
        }
    }

    async fn hang(&mut self) {
        let mut releases = self.inner.releases.subscribe();
        self.hanging = true;
        self.inner.state().stats.hanging += 1;
        // The sender lives in `inner`, so this returns for a release and for nothing else.
        let _ = releases.changed().await;
        self.stop_hanging();
    }

    fn stop_hanging(&mut self) {
        if self.hanging {
            self.hanging = false;
            self.inner.state().stats.hanging -= 1;
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.stop_hanging();
        self.end(|stats| stats.abandoned += 1);
    }
}
