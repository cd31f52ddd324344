//! Whether the agent can serve, as seen over one WebSocket that is opened once and kept.
//!
//! An open port says nothing: the agent's page answers before and after its gateway works. Nor is it asked again
//! and again, since each new connection makes the agent tell all its clients. It sends a tick every 30 s by
//! itself; that is the sign.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::secret::Secret;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use utoipa::ToSchema;

use crate::VERSION;
use crate::proxy::agent;
use crate::stop::Stop;

/// One tick and a half: a single late one is not yet a fault.
const SIGN_OF_LIFE: Duration = Duration::from_secs(45);

/// After this silence the connection is given up. Long, because one long reply was seen to hold the agent's only
/// thread for two minutes, and a new connection would only add to its load.
const GIVE_UP: Duration = Duration::from_secs(180);

/// For the handshake and the answers to `connect` and `health`, for the same reason.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// On loopback a refusal costs next to nothing, and a pause here is one before the machine is ready.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Every client gets every event, and a single one was seen to have 922 KB. A history, which we do not ask for,
/// has 6 MB.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How to reach the agent.
#[derive(Debug)]
pub struct Agent {
    pub address: SocketAddr,
    pub token: Secret,
}

/// What `/ready` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Readiness, description = "Whether the agent can serve.")]
pub struct Answer {
    pub ready: bool,
    /// Why, or why not.
    pub reason: &'static str,
}

/// What was last seen of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Alive { connected: Instant, heard: Instant },
    Lost(&'static str),
}

/// Looks at the kept connection. Clones look at the same one.
#[derive(Debug, Clone)]
pub struct Watch {
    seen: watch::Receiver<Seen>,
    anew: Arc<Notify>,
}

impl Watch {
    /// Whether the agent can serve now, and why not.
    #[must_use]
    pub fn now(&self) -> Answer {
        judge(*self.seen.borrow(), Instant::now())
    }
}

impl Watch {
    /// The same, for whoever wants to know which kind of trouble it is.
    #[must_use]
    pub fn look(&self) -> (Health, Answer) {
        let seen = *self.seen.borrow();
        let answer = judge(seen, Instant::now());
        let health = match seen {
            Seen::Alive { .. } if answer.ready => Health::Running,
            Seen::Alive { .. } => Health::NotResponding,
            Seen::Nothing | Seen::Lost(_) => Health::NotRunning,
        };
        (health, answer)
    }

    /// The agent has just been started: whatever is known is about another process, and it is asked anew at once.
    pub fn begin_anew(&self) {
        self.anew.notify_one();
    }

    /// Returns once a connection is there that was opened after `then`: the process that listens now answers.
    /// Never returns if no further one will be opened.
    pub async fn connected_after(&mut self, then: Instant) {
        let new = |seen: &Seen| matches!(seen, Seen::Alive { connected, .. } if *connected > then);
        if self.seen.wait_for(new).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How the agent is, in the legacy contract's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Running,
    NotRunning,
    NotResponding,
}

fn judge(seen: Seen, now: Instant) -> Answer {
    match seen {
        Seen::Nothing => Answer { ready: false, reason: "the agent has not answered yet" },
        Seen::Lost(reason) => Answer { ready: false, reason },
        Seen::Alive { heard, .. } if now.saturating_duration_since(heard) <= SIGN_OF_LIFE => {
            Answer { ready: true, reason: "the agent answers" }
        }
        Seen::Alive { .. } => Answer { ready: false, reason: "the agent has been silent for more than 45 s" },
    }
}

/// Opens the connection and keeps it, until `stop`.
#[must_use]
pub fn keep(agent: Agent, mut stop: Stop) -> Watch {
    let (seen, watch) = watch::channel(Seen::Nothing);
    let anew = Arc::new(Notify::new());
    let watch = Watch { seen: watch, anew: anew.clone() };
    tokio::spawn(async move {
        tokio::select! {
            () = attend(agent, seen, &anew) => {}
            () = stop.requested() => {}
        }
    });
    watch
}

async fn attend(agent: Agent, seen: watch::Sender<Seen>, anew: &Notify) {
    let mut pause = BACKOFF_MIN;
    loop {
        let reason = tokio::select! {
            reason = connection(&agent, &seen) => reason,
            () = anew.notified() => {
                seen.send_replace(Seen::Lost("the agent has just been started"));
                pause = BACKOFF_MIN;
                continue;
            }
        };
        let before = seen.send_replace(Seen::Lost(reason));
        if matches!(before, Seen::Alive { .. }) {
            pause = BACKOFF_MIN;
        }
        if before != Seen::Lost(reason) {
            tracing::warn!(reason, "agent not ready: {reason}");
        }
        sleep(pause).await;
        pause = BACKOFF_MAX.min(pause * 2);
    }
}

/// Opens one connection and follows it; returns why it is over.
async fn connection(agent: &Agent, seen: &watch::Sender<Seen>) -> &'static str {
    // Before the handshake: what it reaches was there by then.
    let connected = Instant::now();
    let mut socket = match timeout(HANDSHAKE_TIMEOUT, handshake(agent)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(reason)) => return reason,
        Err(_) => return "the agent takes too long to answer",
    };
    tracing::info!("agent ready");
    loop {
        seen.send_replace(Seen::Alive { connected, heard: Instant::now() });
        match timeout(GIVE_UP, socket.next()).await {
            // Whatever it is: the agent's thread has come round to it.
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) => return "the agent closed the connection",
            Err(_) => return "the agent has been silent for too long",
        }
    }
}

async fn handshake(agent: &Agent) -> Result<WebSocketStream<TcpStream>, &'static str> {
    let stream = agent::connect(agent.address).await.map_err(|_| "the agent cannot be reached")?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let url = format!("ws://{}/", agent.address);
    let (mut socket, _response) = client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|_| "the agent does not take WebSockets")?;
    if !ask(&mut socket, CONNECT_ID, connect(&agent.token)).await? {
        return Err("the agent refused the connection");
    }
    // That it answers a call says more than that it lets us in.
    let health = json!({ "type": "req", "id": HEALTH_ID, "method": "health", "params": {} });
    if !ask(&mut socket, HEALTH_ID, health.to_string()).await? {
        return Err("the agent says that it is not well");
    }
    Ok(socket)
}

/// Sends a request and waits for its answer: whether that says yes.
async fn ask(
    socket: &mut WebSocketStream<TcpStream>,
    id: &str,
    request: String,
) -> Result<bool, &'static str> {
    const CLOSED: &str = "the agent closed the connection";
    socket.send(Message::text(request)).await.map_err(|_| CLOSED)?;
    while let Some(message) = socket.next().await {
        let text = match message {
            Ok(Message::Text(text)) => text,
            Ok(_) => continue,
            Err(_) => break,
        };
        match serde_json::from_str::<Frame>(&text) {
            Ok(Frame { kind, id: Some(of), ok }) if kind == "res" && of == id => return Ok(ok),
            // The challenge, which asks for a device that we do not claim to be, and events.
            Ok(_) | Err(_) => {}
        }
    }
    Err(CLOSED)
}

const CONNECT_ID: &str = "ready";
const HEALTH_ID: &str = "health";

fn connect(token: &Secret) -> String {
    json!({
        "type": "req", "id": CONNECT_ID, "method": "connect",
        "params": {
            "minProtocol": 3, "maxProtocol": 3,
            "client": { "id": "gateway-client", "version": VERSION, "platform": "linux", "mode": "backend" },
            "role": "operator", "scopes": ["operator.read"], "caps": [],
            "auth": { "token": token.expose() },
        },
    })
    .to_string()
}

/// As much of the agent's frames as is read.
#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    ok: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let then = Instant::now();
        let alive = Seen::Alive { connected: then, heard: then };
        let rows = [
            (Seen::Nothing, 0, false),
            (Seen::Lost("x"), 0, false),
            (alive, 0, true),
            (alive, 45, true),
            (alive, 46, false),
        ];
        for (seen, after, ready) in rows {
            assert_eq!(judge(seen, then + Duration::from_secs(after)).ready, ready, "{seen:?} {after}");
        }
    }
}
