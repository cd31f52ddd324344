//! The WebSocket through the legacy Worker: one socket towards the client, one towards the container, and every
//! message looked at in between.

use std::time::Duration;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use shared::secret::Secret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Gauge;
use super::containers::{Running, Visit};
use super::frames;
use crate::forward::{self, Answer};

/// Longest message in either direction, in bytes. The agent's own limit for what it is sent is lower; what it
/// sends itself, a long history for one, is not limited by it.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How long a side may take to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Headers of the handshake itself: each side has its own.
const HANDSHAKE: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    header::UPGRADE,
];

/// A pair of sockets to be.
pub(super) struct Proxy {
    pub(super) running: Running,
    pub(super) gateway_token: Secret,
    /// Keeps the container awake.
    pub(super) visit: Visit,
    /// Counts the open socket.
    pub(super) gauge: Gauge,
}

impl Proxy {
    /// Opens the container's side, and accepts the client's if that worked. What the container answers instead
    /// of a socket is handed on.
    pub(super) async fn accept(self, mut request: Request<Incoming>, tasks: &forward::Tasks) -> Answer {
        let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
            return forward::text(StatusCode::UPGRADE_REQUIRED, "Expected a WebSocket handshake");
        };
        let container = match connect(self.running, &request).await {
            Ok(container) => container,
            Err(Error::Http(response)) => return pass_on(&response),
            Err(error) => {
                let body = serde_json::json!({"error": "No connection to the container", "details": error.to_string()});
                return forward::json(StatusCode::BAD_GATEWAY, &body);
            }
        };
        let host = header_text(request.headers(), &header::HOST);
        let upgrade = hyper::upgrade::on(&mut request);
        tasks.spawn(async move {
            // Without the upgrade the client has gone, and the container's side is dropped.
            if let Ok(upgraded) = upgrade.await {
                let io = TokioIo::new(upgraded);
                let client = WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await;
                relay(client, container, self.gateway_token.expose(), &host).await;
            }
            drop((self.visit, self.gauge));
        });

        let mut answer = Response::new(forward::no_body());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        answer
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn connect(running: Running, request: &Request<Incoming>) -> Result<WebSocketStream<TcpStream>, Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut handshake = format!("ws://{}{path}", running.addr).into_client_request()?;
    for (name, value) in request.headers() {
        if !HANDSHAKE.contains(name) {
            handshake.headers_mut().insert(name, value.clone());
        }
    }
    let stream = TcpStream::connect(running.addr).await?;
    // The socket works either way.
    let _ = stream.set_nodelay(true);
    let (container, _) = client_async_with_config(handshake, stream, Some(config())).await?;
    Ok(container)
}

fn pass_on(response: &Response<Option<Vec<u8>>>) -> Answer {
    let body = response.body().as_deref().unwrap_or_default();
    forward::text(response.status(), &String::from_utf8_lossy(body))
}

/// How one direction ended.
enum End {
    /// With a close.
    Closed(Option<CloseFrame>),
    /// The side that sends has failed or vanished.
    SenderFailed,
    /// The side that receives has.
    ReceiverFailed,
}

async fn relay<C, S>(client: WebSocketStream<C>, container: WebSocketStream<S>, token: &str, host: &str)
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = client.split();
    let (mut to_container, mut from_container) = container.split();
    let inject = |text: &str| frames::inject_token(text, token);
    let rewrite = |text: &str| frames::rewrite_error(text, host);
    let (client_close, container_close) = tokio::select! {
        end = pump(&mut from_client, &mut to_container, inject) => match end {
            End::Closed(frame) => (None, Some(frames::close_for_container(frame))),
            End::SenderFailed => (None, Some(failure("Client error"))),
            End::ReceiverFailed => (Some(failure("Container error")), None),
        },
        end = pump(&mut from_container, &mut to_client, rewrite) => match end {
            End::Closed(frame) => (Some(frames::close_for_client(frame, host)), None),
            End::SenderFailed => (Some(failure("Container error")), None),
            End::ReceiverFailed => (None, Some(failure("Client error"))),
        },
    };
    // A side that has closed itself is owed an answer, which reading on gives; the other one is owed a close.
    tokio::join!(
        finish(&mut to_client, &mut from_client, client_close),
        finish(&mut to_container, &mut from_container, container_close),
    );
}

fn failure(reason: &'static str) -> Option<CloseFrame> {
    Some(CloseFrame { code: CloseCode::Error, reason: reason.into() })
}

/// Copies messages until one side ends. Pings are answered by each side for itself.
async fn pump(
    from: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    to: &mut (impl Sink<Message, Error = Error> + Unpin),
    change: impl Fn(&str) -> Option<String>,
) -> End {
    loop {
        let Some(Ok(message)) = from.next().await else { return End::SenderFailed };
        let message = match message {
            Message::Text(text) => match change(text.as_str()) {
                Some(changed) => Message::text(changed),
                None => Message::Text(text),
            },
            Message::Binary(_) => message,
            Message::Close(frame) => return End::Closed(frame),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if to.send(message).await.is_err() {
            return End::ReceiverFailed;
        }
    }
}

/// Sends `close` if there is one to send, then reads until the side is done, for a while.
async fn finish(
    to: &mut (impl Sink<Message, Error = Error> + Unpin),
    from: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    close: Option<Option<CloseFrame>>,
) {
    let farewell = async {
        // Errors mean that the side has gone, which is what is being waited for.
        match close {
            Some(frame) => {
                let _ = to.send(Message::Close(frame)).await;
            }
            None => {
                let _ = to.flush().await;
            }
        }
        while let Some(Ok(_)) = from.next().await {}
    };
    let _ = timeout(CLOSE_WITHIN, farewell).await;
}
