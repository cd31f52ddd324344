//! `POST /api/chat/send`: one message into a conversation, for a page whose WebSocket is not open.
//!
//! It speaks to the container's gateway itself, where the Worker runs a command line in a shell: that one can be
//! talked into running other commands, and its success says nothing about the message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use shared::id::UserId;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::Inner;
use super::clock::now;
use super::containers::Running;
use crate::forward::{self, Answer};

/// Largest body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long the gateway may take to accept the message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the messages of one run of the stand-in apart.
static SENT: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    ok: bool,
    session_key: &'a str,
    timestamp: u64,
}

pub(super) async fn send(request: Request<Incoming>, inner: &Inner, user: &UserId) -> Answer {
    let body = forward::read_body(request.into_body(), MAX_BODY_BYTES).await;
    let Some(body) = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body).ok()) else {
        // As there: nobody catches it.
        return forward::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let Some(message) = text("message") else {
        return forward::json(StatusCode::BAD_REQUEST, &json!({"error": "Message is required"}));
    };
    let session_key = text("sessionKey").unwrap_or("main");
    match deliver(inner, user, session_key, message).await {
        Ok(()) => forward::json(StatusCode::OK, &Sent { ok: true, session_key, timestamp: now().0 }),
        Err(error) => {
            let body = json!({"error": format!("{error:#}")});
            forward::json(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}

async fn deliver(inner: &Inner, user: &UserId, session_key: &str, message: &str) -> Result<()> {
    let visit = inner.containers.visit(user);
    let running = inner.containers.boot(&visit).await?;
    let work = async {
        let mut gateway = Gateway::connect(running, inner.gateway_token.expose()).await?;
        let key = format!("standin-{}-{}", now().0, SENT.fetch_add(1, Ordering::Relaxed));
        let params = json!({"sessionKey": session_key, "message": message, "idempotencyKey": key});
        gateway.call("send", "chat.send", params).await?;
        // The message is in; whether the goodbye arrives does not matter.
        let _ = gateway.0.close(None).await;
        Ok(())
    };
    timeout(PATIENCE, work).await.context("the gateway does not answer")?
}

struct Gateway(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Gateway {
    async fn connect(running: Running, token: &str) -> Result<Self> {
        let (socket, _) = connect_async(format!("ws://{}/", running.addr)).await?;
        let mut gateway = Self(socket);
        loop {
            if gateway.next().await?.get("event").and_then(Value::as_str) == Some("connect.challenge") {
                break;
            }
        }
        let params = json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
            "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": [],
            "auth": {"token": token},
        });
        gateway.call("connect", "connect", params).await?;
        Ok(gateway)
    }

    /// Sends a request and waits until it is answered well.
    async fn call(&mut self, id: &str, method: &str, params: Value) -> Result<()> {
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.0.send(Message::text(frame.to_string())).await?;
        loop {
            let answer = self.next().await?;
            if answer.get("type").and_then(Value::as_str) == Some("res")
                && answer.get("id").and_then(Value::as_str) == Some(id)
            {
                let ok = answer.get("ok").and_then(Value::as_bool) == Some(true);
                let said = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
                ensure!(ok, "the gateway refuses {method}: {said}");
                return Ok(());
            }
        }
    }

    async fn next(&mut self) -> Result<Value> {
        loop {
            match self.0.next().await.context("the gateway has hung up")?? {
                Message::Text(text) => return Ok(serde_json::from_str(text.as_str())?),
                Message::Close(_) => bail!("the gateway has hung up"),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
