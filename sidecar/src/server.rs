//! Accepting connections and serving HTTP/1.1 on them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::error::ApiError;
use crate::metrics::OpenSocket;
use crate::sendfile::stream::FileStream;
use crate::stop::Stop;

/// Connections of one listener at a time, sockets after an upgrade included. One user's browsers need tens; the
/// bound keeps descriptors (two for each socket) below the usual limit, and memory below a few megabytes.
/// Further clients wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 1024;

/// For a request's head. Longer ones, a URL of 8 KiB and its headers, do not come from our edge. hyper also
/// bounds the number of headers, at 100.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// One read of a body, if its client is fast; it begins with 8 KiB. Each read costs a call, and a thousand fast
/// uploads hold as much each.
const MAX_READ_BYTES: usize = 64 * 1024;

/// From the moment at which a head is awaited to its end; so it also ends connections that are idle. Longer
/// than the proxy in front keeps its own.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// After an accept that failed, as it does while no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The places of one listener. All are free again once every connection and socket has ended.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONNECTIONS)))
    }
}

impl Slots {
    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        MAX_CONNECTIONS.saturating_sub(self.0.available_permits())
    }

    /// Returns once nothing is connected any more. Only for use after the listener has stopped.
    pub async fn all_free(&self) {
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        // It fails only for a closed semaphore, and nothing closes it.
        let _all = self.0.acquire_many(all).await;
    }
}

/// Whoever answers the requests of a listener: a router, or what stands before one.
pub trait Answers: Clone + Send + 'static {
    /// The future is not boxed, as that of a `Service` before a router would be: a connection keeps one place for it,
    /// which its requests use in turn.
    fn answer(self, request: Request) -> impl Future<Output = Response> + Send;
}

impl Answers for Router {
    async fn answer(self, request: Request) -> Response {
        match self.oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// The connection that a request came by.
#[derive(Debug, Clone)]
pub struct Connection {
    pub peer: SocketAddr,
    /// Held as long as any clone lives: a socket keeps its place after its upgrade.
    _slot: Arc<OwnedSemaphorePermit>,
    /// Once it is a socket.
    _socket: Option<Arc<OpenSocket>>,
}

impl Connection {
    /// Counts this as a socket, for as long as any clone of the result lives.
    #[must_use]
    pub fn as_socket(self, socket: OpenSocket) -> Self {
        Self { _socket: Some(Arc::new(socket)), ..self }
    }
}

impl<S: Sync> FromRequestParts<S> for Connection {
    type Rejection = ApiError;

    /// [`serve`] puts it into every request; without it nothing was accepted, so nothing is served.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::NoTicket)
    }
}

/// Accepts until `stop` says that no connection is wanted any more, then returns at once; open connections finish
/// what they are at and end by themselves.
pub async fn serve<A: Answers>(listener: TcpListener, app: A, slots: Slots, mut stop: Stop) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.leaving() => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Some((stream, connection)) => {
                tokio::spawn(serve_connection(stream, connection, app.clone(), stop.clone()));
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accept(listener: &TcpListener, slots: &Slots) -> Option<(TcpStream, Connection)> {
    // First the place, then the client: who is not accepted yet costs nothing.
    let slot = slots.0.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, Connection { peer, _slot: Arc::new(slot), _socket: None })),
        Err(error) => {
            tracing::warn!(%error, "accept failed: {error}");
            None
        }
    }
}

async fn serve_connection<A: Answers>(stream: TcpStream, connection: Connection, app: A, mut stop: Stop) {
    // A reply of a chat is small and should not wait for the next one. Without it, it is slower, no more.
    let _slower = stream.set_nodelay(true);
    let (stream, sender) = FileStream::new(stream);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(sender.offer());
        let (app, sender) = (app.clone(), sender.clone());
        async move {
            let answer = app.answer(request).await;
            Ok::<_, Infallible>(answer.map(|body| sender.outgoing(body)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_READ_BYTES)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stop.leaving() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // Clients come and go; only who looks for it needs to see it.
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early: {error}");
    }
}
