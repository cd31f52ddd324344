//! Reaching the agent: one connection for each request, since they are few and loopback is near.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Loopback answers at once or refuses; only a full queue of the agent's makes it wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From the request to the answer's head. The agent has one thread, which a long reply can hold for seconds;
/// its own handshake was seen to take 27 s then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// As much as is buffered of an answer's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Why the agent did not answer. All of them are worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("connecting failed: {0}")]
    Connect(#[source] io::Error),
    #[error("connecting took longer than {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("the answer took longer than {} s", ANSWER_TIMEOUT.as_secs())]
    AnswerTimeout,
}

/// Opens a connection.
///
/// # Errors
/// Nobody listens, or nobody accepts within 5 s.
pub async fn connect(agent: SocketAddr) -> Result<TcpStream, AgentError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(agent))
        .await
        .map_err(|_| AgentError::ConnectTimeout)?
        .map_err(AgentError::Connect)?;
    // Without it, small frames wait for each other, no more.
    let _slower = stream.set_nodelay(true);
    Ok(stream)
}

/// Sends `request` over a connection of its own and returns the answer once its head is there. The answer can
/// be upgraded.
///
/// # Errors
/// The agent cannot be reached, breaks off, or takes too long.
pub async fn exchange(
    agent: SocketAddr,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, AgentError> {
    let stream = TokioIo::new(connect(agent).await?);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(stream).await?;
    // Ends with the answer's body, or with its upgrade, or when the answer is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the agent ended early: {error}");
        }
    });
    let answer = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    Ok(answer.map_err(|_| AgentError::AnswerTimeout)??)
}

/// What the agent is called in `Host`.
#[must_use]
pub fn host(agent: SocketAddr) -> HeaderValue {
    HeaderValue::from_str(&agent.to_string()).unwrap_or(HeaderValue::from_static("localhost"))
}
