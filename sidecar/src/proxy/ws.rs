//! A WebSocket, from its upgrade to its session.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Empty;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handshake::{self, Offer};
use super::session::{Ended, Session};
use super::{agent, headers};
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::sendfile::stream::FileStream;
use crate::server::Connection;
use crate::state::App;

/// From our 101 until both connections are ours; only a client that takes no byte makes it wait.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Upgrades at the agent first, then the client. The agent takes a WebSocket at any path and reads no query, but
/// gives a plugin's path to the plugin; so it is always asked at `/`.
///
/// # Errors
/// It is no proper upgrade, or the agent does not answer. An answer of the agent's other than 101 is none: it is
/// passed on.
pub async fn upgrade(
    app: &App,
    auth: &Authenticated,
    connection: Connection,
    mut request: Request,
) -> Result<Response, ApiError> {
    let offer = Offer::parse(request.method(), request.version(), request.headers())?;
    let mut onward = http::Request::new(Empty::new());
    *onward.headers_mut() = offer.for_agent(app.agent, connection.peer.ip());
    let mut answer = agent::exchange(app.agent, onward).await?;

    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = answer.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        *response.headers_mut() = headers::for_client(&head.headers);
        return Ok(response);
    }

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = handshake::for_client(answer.headers());
    let client = hyper::upgrade::on(&mut request);
    let agent = hyper::upgrade::on(&mut answer);
    // A task of its own, so that all that the requests needed is freed while the session lasts.
    tokio::spawn(attend(app.clone(), auth.clone(), connection, client, agent));
    Ok(response)
}

/// Runs the session and logs its end. `connection` keeps its place for as long.
async fn attend(app: App, auth: Authenticated, connection: Connection, client: OnUpgrade, agent: OnUpgrade) {
    let started = Instant::now();
    let ended = match Box::pin(timeout(HANDOVER_TIMEOUT, take_over(client, agent))).await {
        Ok(Some(((client, early_client), (agent, early_agent)))) => {
            let session = Session::new(client, agent, app.pulse.join(&app.stop));
            session.run(early_client, early_agent, &app.connect).await
        }
        Ok(None) | Err(_) => Ended::ByClient,
    };
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (request_id, user_hash) = (auth.request_id.as_str(), app.user_hash.as_str());
    tracing::info!(
        request.id = request_id,
        user.hash = user_hash,
        ?ended,
        duration_ms,
        "websocket ended: {ended:?}"
    );
    drop(connection);
}

/// Both sockets, each with what was already read from it.
type Sockets = ((TcpStream, Bytes), (TcpStream, Bytes));

async fn take_over(client: OnUpgrade, agent: OnUpgrade) -> Option<Sockets> {
    let (client, agent) = tokio::try_join!(client, agent).ok()?;
    Some((socket(client)?, socket(agent)?))
}

/// The socket below an upgraded connection, and what was already read from it.
fn socket(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    // The client's first, then the agent's.
    match upgraded.downcast::<FileStream>() {
        Ok(parts) => Some((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
            Some((parts.io.into_inner(), parts.read_buf))
        }
    }
}
