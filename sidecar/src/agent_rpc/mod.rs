//! Calls of the agent's gateway, in its own protocol.
//!
//! Each call has a connection of its own, which is closed after it. The kept connection of
//! [`crate::readiness`] may only read, and is better left alone: what it waits for are signs of life. Calls are
//! rare, as pages speak to the gateway themselves while they can.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::secret::Secret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::VERSION;
use crate::proxy::agent::{self, AgentError};

/// The agent's own limit for a frame; it closes without a word above it.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// Every client gets every event, and one was seen to have 922 KB.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// From the first byte to the answer. The agent has one thread, which a long reply was seen to hold for two
/// minutes; but a person waits here, and can send again under the same key.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// For a polite end, after the answer is there.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

const CONNECT_ID: &str = "connect";
const CALL_ID: &str = "call";

/// What a call may do. The agent takes an empty list as everything, so there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Talk.
    Write,
    /// Also reset sessions.
    Admin,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nothing was sent.
    #[error("the request has {0} bytes, more than a frame of the agent may have")]
    TooLarge(usize),
    /// Nothing was sent.
    #[error(transparent)]
    Unreachable(#[from] AgentError),
    /// Nothing was sent.
    #[error("the agent does not take the connection: {0}")]
    NotConnected(&'static str),
    /// The call may have been heard.
    #[error("the agent broke off")]
    BrokenOff,
    /// The call may have been heard.
    #[error("the agent has not answered within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// The agent's own words.
    #[error("the agent refused, with code {code}")]
    Refused { code: String, message: String },
}

#[derive(Serialize)]
struct Request<'a, P> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'static str,
    method: &'a str,
    params: &'a P,
}

/// As much of the agent's frames as is read.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    id: Option<&'a str>,
    #[serde(default)]
    ok: bool,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

type Socket = WebSocketStream<TcpStream>;

/// Calls `method` once.
///
/// # Errors
/// See [`RpcError`], which says for each whether the agent may have heard the call.
pub async fn call<P: Serialize>(
    agent: SocketAddr,
    token: &Secret,
    scope: Scope,
    method: &str,
    params: &P,
) -> Result<Value, RpcError> {
    let request = Request { kind: "req", id: CALL_ID, method, params };
    // Only a key of a map that is no text could make this fail, and our parameters have none.
    let text = serde_json::to_string(&request).map_err(|_| RpcError::NotConnected("no request"))?;
    if text.len() > MAX_FRAME_BYTES {
        return Err(RpcError::TooLarge(text.len()));
    }
    let talk = async {
        let mut socket = open(agent, token, scope).await?;
        let result = exchange(&mut socket, text, CALL_ID).await;
        // The answer counts, however the end goes.
        let _rude = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
        result
    };
    timeout(CALL_TIMEOUT, talk).await.map_err(|_| RpcError::Timeout)?
}

async fn open(agent: SocketAddr, token: &Secret, scope: Scope) -> Result<Socket, RpcError> {
    let stream = agent::connect(agent).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_ANSWER_BYTES))
        .max_frame_size(Some(MAX_ANSWER_BYTES));
    let (mut socket, _) = client_async_with_config(format!("ws://{agent}/"), stream, Some(config))
        .await
        .map_err(|_| RpcError::NotConnected("it does not take WebSockets"))?;
    let scopes: &[&str] = match scope {
        Scope::Write => &["operator.read", "operator.write"],
        Scope::Admin => &["operator.read", "operator.write", "operator.admin"],
    };
    let connect = json!({
        "type": "req", "id": CONNECT_ID, "method": "connect",
        "params": {
            "minProtocol": 3, "maxProtocol": 3,
            "client": { "id": "gateway-client", "version": VERSION, "platform": "linux", "mode": "backend" },
            "role": "operator", "scopes": scopes, "caps": [],
            "auth": { "token": token.expose() },
        },
    });
    match exchange(&mut socket, connect.to_string(), CONNECT_ID).await {
        Ok(_) => Ok(socket),
        Err(RpcError::Refused { .. }) => Err(RpcError::NotConnected("it refuses our token")),
        Err(_) => Err(RpcError::NotConnected("it broke off")),
    }
}

/// Sends a request and waits for the answer of that id. Events in between are for others.
async fn exchange(socket: &mut Socket, text: String, id: &str) -> Result<Value, RpcError> {
    socket.send(Message::text(text)).await.map_err(|_| RpcError::BrokenOff)?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message.map_err(|_| RpcError::BrokenOff)? else { continue };
        match answer(&text, id) {
            Some(result) => return result,
            None => continue,
        }
    }
    Err(RpcError::BrokenOff)
}

/// Reads a frame. `None`: it is not the answer.
fn answer(text: &str, id: &str) -> Option<Result<Value, RpcError>> {
    let frame: Frame<'_> = serde_json::from_str(text).ok()?;
    if frame.kind != "res" || frame.id != Some(id) {
        return None;
    }
    if !frame.ok {
        let Refusal { code, message } =
            frame.error.unwrap_or(Refusal { code: String::new(), message: String::new() });
        return Some(Err(RpcError::Refused { code, message }));
    }
    let payload = frame.payload.and_then(|raw| serde_json::from_str(raw.get()).ok());
    Some(Ok(payload.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let rows = [
            (r#"{"type":"event","event":"tick","payload":{}}"#, None),
            (r#"{"type":"res","id":"other","ok":true}"#, None),
            ("garbage", None),
            (r#"{"type":"res","id":"call","ok":true}"#, Some(Ok(Value::Null))),
            (r#"{"type":"res","id":"call","ok":true,"payload":{"a":1}}"#, Some(Ok(json!({"a": 1})))),
            (r#"{"type":"res","id":"call","ok":false,"error":{"code":"C","message":"m"}}"#, Some(Err("C"))),
            (r#"{"type":"res","id":"call","ok":false}"#, Some(Err(""))),
        ];
        for (text, expect) in rows {
            let got = answer(text, CALL_ID).map(|result| {
                result.map_err(|error| match error {
                    RpcError::Refused { code, .. } => code,
                    RpcError::TooLarge(_)
                    | RpcError::Unreachable(_)
                    | RpcError::NotConnected(_)
                    | RpcError::BrokenOff
                    | RpcError::Timeout => panic!("{error}"),
                })
            });
            assert_eq!(got, expect.map(|result| result.map_err(str::to_owned)), "{text}");
        }
    }
}
