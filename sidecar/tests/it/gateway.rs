//! A fake agent: the page by HTTP, the handshake and an echo by WebSocket. It records what reaches it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

pub(crate) const PAGE: &str = "<!doctype html><title>agent</title>";
pub(crate) const BIG: usize = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Heads of requests, without those of the sidecar's own kept connection.
    heads: Vec<String>,
    connects: Vec<Value>,
    closed: usize,
    /// What the sidecar itself has called.
    calls: Vec<Value>,
}

impl Gateway {
    /// Starts one whose token is `token`.
    pub(crate) async fn start(token: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let accepting = gateway.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (gateway, token) = (accepting.clone(), token.clone());
                tokio::spawn(async move { gateway.serve(stream, &token).await });
            }
        });
        gateway
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }

    /// `connect` frames of clients, as they came.
    pub(crate) fn connects(&self) -> Vec<Value> {
        self.seen.lock().unwrap().connects.clone()
    }

    /// Calls of the sidecar's own, `connect` excluded.
    pub(crate) fn calls(&self) -> Vec<Value> {
        self.seen.lock().unwrap().calls.clone()
    }

    /// How many clients' sockets have ended.
    pub(crate) fn closed(&self) -> usize {
        self.seen.lock().unwrap().closed
    }

    async fn serve(&self, mut stream: TcpStream, token: &str) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let own = header(&head, "x-forwarded-for").is_none();
        if !own {
            self.seen.lock().unwrap().heads.push(head.clone());
        }
        let Some(key) = header(&head, "sec-websocket-key") else { return serve_page(stream, &head).await };
        let protocol = header(&head, "sec-websocket-protocol")
            .map(|list| format!("Sec-WebSocket-Protocol: {}\r\n", list.split(',').next().unwrap()))
            .unwrap_or_default();
        let accept = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{protocol}\
             Sec-WebSocket-Accept: {}\r\nX-Automna-Refusal: stale-epoch\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(accept.as_bytes()).await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let _ended = self.converse(&mut socket, token, own).await;
        if !own {
            self.seen.lock().unwrap().closed += 1;
        }
    }

    async fn converse(&self, socket: &mut WebSocketStream<TcpStream>, token: &str, own: bool) -> Option<()> {
        let challenge = json!({ "type": "event", "event": "connect.challenge", "payload": { "nonce": "n" } });
        socket.send(Message::text(challenge.to_string())).await.ok()?;
        let first = loop {
            match socket.next().await?.ok()? {
                Message::Text(text) => break text,
                Message::Ping(_) => socket.flush().await.ok()?,
                _ => return None,
            }
        };
        let frame: Value = serde_json::from_str(&first).unwrap_or_default();
        if !own {
            self.seen.lock().unwrap().connects.push(frame.clone());
        }
        let granted = frame["method"] == "connect" && frame["params"]["auth"]["token"] == token;
        let answer = json!({ "type": "res", "id": frame["id"], "ok": granted });
        socket.send(Message::text(answer.to_string())).await.ok()?;
        if !granted {
            close(socket, CloseCode::Policy, "unauthorized").await;
            return None;
        }
        loop {
            match socket.next().await?.ok()? {
                Message::Text(text) if text == "restart" => {
                    close(socket, CloseCode::Restart, "service restart").await;
                    return None;
                }
                // Says goodbye and, like the real one, waits for the client's own.
                Message::Text(text) if text == "restart and wait" => {
                    let frame =
                        CloseFrame { code: CloseCode::Restart, reason: Utf8Bytes::from("service restart") };
                    socket.send(Message::Close(Some(frame))).await.ok()?;
                    while let Some(Ok(_)) = socket.next().await {}
                    return None;
                }
                // Killed: between two frames, or within one.
                Message::Text(text) if text == "die" => return None,
                Message::Text(text) if text == "die inside" => {
                    socket.get_mut().write_all(b"\x81\x7e\x10\x00{").await.ok()?;
                    return None;
                }
                Message::Text(text) if text == "big" => {
                    socket.send(Message::binary(vec![7; BIG])).await.ok()?;
                }
                Message::Text(text) if own => {
                    let call: Value = serde_json::from_str(&text).unwrap();
                    let message = call["params"]["message"].as_str().unwrap_or_default().to_owned();
                    // The kept connection's question is none of a client's.
                    if call["method"] != "health" {
                        self.seen.lock().unwrap().calls.push(call.clone());
                    }
                    let tick = json!({ "type": "event", "event": "tick", "payload": {} });
                    socket.send(Message::text(tick.to_string())).await.ok()?;
                    let answer = match message.as_str() {
                        "refuse me" => json!({ "type": "res", "id": call["id"], "ok": false,
                            "error": { "code": "INVALID_REQUEST", "message": "no" } }),
                        "break off" => return None,
                        _ => json!({ "type": "res", "id": call["id"], "ok": true,
                            "payload": { "runId": call["params"]["idempotencyKey"], "status": "started" } }),
                    };
                    socket.send(Message::text(answer.to_string())).await.ok()?;
                }
                echo @ (Message::Text(_) | Message::Binary(_)) => socket.send(echo).await.ok()?,
                Message::Close(_) => return None,
                _ => socket.flush().await.ok()?,
            }
        }
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: CloseCode, reason: &'static str) {
    let _gone = socket.close(Some(CloseFrame { code, reason: Utf8Bytes::from(reason) })).await;
    while let Some(Ok(_)) = socket.next().await {}
}

async fn serve_page(mut stream: TcpStream, head: &str) {
    let (kind, body) = match head.split(' ').nth(1) {
        Some(path) if path.ends_with(".css") => ("text/css", "body{}"),
        _ => ("text/html; charset=utf-8", PAGE),
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nETag: \"1\"\r\nSet-Cookie: a=b\r\n\
         X-Automna-Refusal: stale-epoch\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
        body.len()
    );
    let body = if head.starts_with("HEAD ") { "" } else { body };
    let _gone = stream.write_all(format!("{answer}{body}").as_bytes()).await;
    let _gone = stream.shutdown().await;
}

/// The first header `name` of a head, whatever its case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}
