//! An HTTP/1.1 server on loopback that can be stopped in order, and the few ways in which stand-ins answer.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// How long requests under way may go on once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Any failure of a body on its way.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: whole or streaming.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An answer.
pub type Answer = Response<Body>;

/// Background work that ends with its owner: relays and connections.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Runs `work` until it ends or [`Self::abort_all`] is called.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Reaped here, so that the set does not grow with the requests served.
        while set.try_join_next().is_some() {}
        set.spawn(work);
    }

    /// Ends all of it now.
    pub fn abort_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// What a handler is told beside the request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The client's address.
    pub peer: SocketAddr,
    /// Where work goes that outlives the request, as a relay does.
    pub tasks: Tasks,
}

/// In the extensions of an answer: the connection is closed in place of sending it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is cut on purpose")]
pub struct Cut;

/// A running server. Dropping it cuts every connection; [`Self::stop`] is the polite way.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    tasks: Tasks,
}

impl Server {
    /// Listens on `127.0.0.1:port` (0: any free port) and answers each request by `handler`.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start<H, F>(port: u16, handler: H) -> anyhow::Result<Self>
    where
        H: Fn(Request<Incoming>, Context) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
        let addr = listener.local_addr().context("the listener has no address")?;
        let (stop, stopping) = watch::channel(false);
        let tasks = Tasks::default();
        let accepting = tokio::spawn(accept(listener, handler, stopping, tasks.clone()));
        Ok(Self { addr, stop, accepting, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its base URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Takes no more connections, lets requests under way end (1 s at most), then cuts relays and the rest.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // An error means that the loop has ended already, which is what is wanted.
        let _ = (&mut self.accepting).await;
        self.tasks.abort_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.tasks.abort_all();
    }
}

async fn accept<H, F>(listener: TcpListener, handler: H, mut stopping: watch::Receiver<bool>, tasks: Tasks)
where
    H: Fn(Request<Incoming>, Context) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    // The set lives in this task: when the task is aborted, so are the connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let context = Context { peer, tasks: tasks.clone() };
                    connections.spawn(serve(stream, handler.clone(), context, stopping.clone()));
                }
                // Out of descriptors, or a client that left the queue: neither is the listener's end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stopping.changed() => break,
        }
    }
    drop(listener);
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve<H, F>(stream: TcpStream, handler: H, context: Context, mut stopping: watch::Receiver<bool>)
where
    H: Fn(Request<Incoming>, Context) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = handler(request, context.clone());
        async move {
            let answer = answer.await;
            if answer.extensions().get::<Cut>().is_some() { Err(Cut) } else { Ok(answer) }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // A connection's error is its client's doing; the client sees it too.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// A body without a byte.
#[must_use]
pub fn no_body() -> Body {
    whole(Bytes::new())
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Answer {
    answer(status, None, Bytes::new())
}

/// An answer in JSON, keys in the order of the type.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(status, Some("application/json"), bytes.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
    }
}

/// An answer in plain text.
#[must_use]
pub fn text(status: StatusCode, text: &str) -> Answer {
    answer(status, Some("text/plain;charset=UTF-8"), Bytes::copy_from_slice(text.as_bytes()))
}

/// An answer whose body comes piece by piece; an error in the stream cuts the connection.
#[must_use]
pub fn streaming(
    content_type: &'static str,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Answer {
    use futures_util::StreamExt as _;
    let frames = pieces.map(|piece| piece.map(Frame::data));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Reads a request's body, up to `limit` bytes.
///
/// # Errors
/// When it is longer, or when the client goes in the middle of it.
pub async fn read_body(body: Incoming, limit: usize) -> anyhow::Result<Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(anyhow::anyhow!("cannot read the request's body: {error}")),
    }
}

fn answer(status: StatusCode, content_type: Option<&'static str>, bytes: Bytes) -> Answer {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// A body that is there as a whole.
#[must_use]
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}
