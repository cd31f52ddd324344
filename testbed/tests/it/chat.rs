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

/// How a client's socket ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The gateway's `shutdown` came before.
    pub(crate) announced: bool,
    /// `None`: without a close.
    pub(crate) close: Option<CloseFrame>,
}

impl End {
    pub(crate) fn code(&self) -> Option<u16> {
        self.close.as_ref().map(|close| close.code.into())
    }
}

/// A client that speaks the gateway's protocol.
pub(crate) struct Chat {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u32,
    announced: bool,
}

impl Chat {
    pub(crate) async fn connect(url: impl IntoClientRequest + Unpin, token: Option<&str>) -> Self {
        Self::try_connect(url, token).await.unwrap()
    }

    /// Fails if the socket is refused or ends before it is of use.
    pub(crate) async fn try_connect(
        url: impl IntoClientRequest + Unpin,
        token: Option<&str>,
    ) -> Result<Self, String> {
        let (socket, _) = connect_async(url).await.map_err(|error| error.to_string())?;
        let mut chat = Self { socket, next_id: 0, announced: false };
        let ended = |end: End| format!("{end:?}");
        let challenge = chat.try_next().await.map_err(ended)?;
        assert_eq!(challenge["event"], "connect.challenge", "{challenge}");
        let mut params = json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": {"id": "webchat", "version": "1", "platform": "web", "mode": "webchat"},
            "role": "operator", "scopes": ["operator.read", "operator.write"], "caps": [],
        });
        if let Some(token) = token {
            params["auth"] = json!({"token": token});
        }
        let hello = chat.try_call("connect", params).await.map_err(ended)?;
        assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
        Ok(chat)
    }

    /// What comes next, or how the socket has ended.
    async fn try_next(&mut self) -> Result<Value, End> {
        loop {
            let message =
                timeout(Duration::from_secs(30), self.socket.next()).await.expect("silence for 30 s");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let value: Value = serde_json::from_str(text.as_str()).unwrap();
                    self.announced |= value["event"] == "shutdown";
                    return Ok(value);
                }
                Some(Ok(Message::Close(close))) => return Err(End { announced: self.announced, close }),
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(_)) | None => return Err(End { announced: self.announced, close: None }),
            }
        }
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|end| panic!("{end:?}"))
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, End> {
        self.next_id += 1;
        let id = format!("r{}", self.next_id);
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        // Towards a socket that has been closed nothing can be sent; what it said last can be read.
        let _closed = self.socket.send(Message::text(frame.to_string())).await;
        loop {
            let answer = self.try_next().await?;
            if answer["type"] == "res" && answer["id"] == id.as_str() {
                return Ok(answer);
            }
        }
    }

    pub(crate) async fn start(&mut self, text: &str, key: &str) {
        self.try_start(text, key).await.unwrap_or_else(|end| panic!("{end:?}"));
    }

    pub(crate) async fn try_start(&mut self, text: &str, key: &str) -> Result<(), End> {
        let params = json!({"sessionKey": MAIN, "message": text, "idempotencyKey": key});
        let ack = self.try_call("chat.send", params).await?;
        assert_eq!(ack["payload"]["status"], "started", "{ack}");
        Ok(())
    }

    /// The text of the run's last event, and how many deltas came before it. `None`: it ended without a message.
    pub(crate) async fn outcome(&mut self, key: &str) -> (Option<String>, u32) {
        self.try_outcome(key).await.unwrap_or_else(|end| panic!("{end:?}"))
    }

    pub(crate) async fn try_outcome(&mut self, key: &str) -> Result<(Option<String>, u32), End> {
        let mut deltas = 0;
        loop {
            let event = self.try_next().await?;
            let payload = &event["payload"];
            if event["event"] != "chat" || payload["runId"] != key {
                continue;
            }
            match payload["state"].as_str() {
                Some("delta") => deltas += 1,
                _ => {
                    return Ok((
                        payload["message"]["content"][0]["text"].as_str().map(str::to_owned),
                        deltas,
                    ));
                }
            }
        }
    }

    /// How the socket ends.
    pub(crate) async fn end(mut self) -> End {
        loop {
            if let Err(end) = self.try_next().await {
                return end;
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
