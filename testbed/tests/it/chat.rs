//! A client of the agent's gateway.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub(crate) const MAIN: &str = "agent:main:main";

/// A client that speaks the gateway's protocol.
pub(crate) struct Chat {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u32,
}

impl Chat {
    pub(crate) async fn connect(url: impl IntoClientRequest + Unpin, token: Option<&str>) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        let mut chat = Self { socket, next_id: 0 };
        let challenge = chat.next().await;
        assert_eq!(challenge["event"], "connect.challenge", "{challenge}");
        let mut params = json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": {"id": "webchat", "version": "1", "platform": "web", "mode": "webchat"},
            "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": [],
        });
        if let Some(token) = token {
            params["auth"] = json!({"token": token});
        }
        let hello = chat.call("connect", params).await;
        assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
        chat
    }

    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let message =
                timeout(Duration::from_secs(30), self.socket.next()).await.expect("silence for 30 s");
            match message.expect("the socket ended").expect("the socket failed") {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = format!("r{}", self.next_id);
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
        loop {
            let answer = self.next().await;
            if answer["type"] == "res" && answer["id"] == id.as_str() {
                return answer;
            }
        }
    }

    pub(crate) async fn start(&mut self, text: &str, key: &str) {
        let params = json!({"sessionKey": MAIN, "message": text, "idempotencyKey": key});
        let ack = self.call("chat.send", params).await;
        assert_eq!(ack["payload"]["status"], "started", "{ack}");
    }

    /// The text of the run's last event, and how many deltas came before it. `None`: it ended without a message.
    pub(crate) async fn outcome(&mut self, key: &str) -> (Option<String>, u32) {
        let mut deltas = 0;
        loop {
            let event = self.next().await;
            let payload = &event["payload"];
            if event["event"] != "chat" || payload["runId"] != key {
                continue;
            }
            match payload["state"].as_str() {
                Some("delta") => deltas += 1,
                _ => return (payload["message"]["content"][0]["text"].as_str().map(str::to_owned), deltas),
            }
        }
    }

    /// How the socket ends. `None`: without a close.
    pub(crate) async fn end(mut self) -> Option<CloseFrame> {
        loop {
            match timeout(Duration::from_secs(30), self.socket.next()).await.expect("silence for 30 s") {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        self.end().await;
    }

    pub(crate) async fn say(&mut self, text: &str, key: &str) -> Option<String> {
        self.start(text, key).await;
        self.outcome(key).await.0
    }
}
