//! A connection that is kept while request after request on it is refused.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::{Answer, LIMIT, Sidecar, Ticket, eventually};

/// Of a chunk of a body that does not say its length.
const CHUNK_BYTES: usize = 1 << 20;

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// One connection, kept over all of a test's requests.
pub(crate) struct Kept {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
    workspace: PathBuf,
    before: BTreeMap<PathBuf, Vec<u8>>,
    /// Requests that were refused as they should be.
    pub(crate) rows: usize,
}

impl Kept {
    /// Connects. What is in the workspace now is what must stay.
    pub(crate) async fn connect(sidecar: &Sidecar) -> Self {
        let stream = TokioIo::new(TcpStream::connect(sidecar.public).await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let workspace = sidecar.workspace();
        let before = content(&workspace);
        Self { sender, workspace, before, rows: 0 }
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: Headers<'_>,
        body: BoxBody<Bytes, Infallible>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target).header("host", "edge.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header("x-automna-ticket", Ticket::of_epoch(1).issue()).body(body).unwrap();
        self.sender.ready().await.expect("the connection was closed");
        let response = tokio::time::timeout(LIMIT, self.sender.send_request(request)).await.unwrap().unwrap();
        let (head, body) = response.into_parts();
        Answer { head: Response::from_parts(head, ()), body: body.collect().await.unwrap().to_bytes() }
    }

    /// Sends a request that must be refused with `status`, and sees to it that nothing else has happened.
    pub(crate) async fn refused(
        &mut self,
        what: &str,
        status: u16,
        (method, target, headers): (&str, &str, Headers<'_>),
        body: BoxBody<Bytes, Infallible>,
    ) {
        let shown = target.get(..100).unwrap_or(target);
        let what = format!("{what}: {method} {shown}");
        let answer = self.send(method, target, headers, body).await;
        assert_eq!(answer.status(), status, "{what}: {:?}", answer.body);
        assert!((400..500).contains(&status));
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{what}: {:?}", answer.head);
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        for field in ["error", "code", "requestId", "type", "title", "detail", "instance"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {problem}");
        }
        assert_eq!(problem["status"], status, "{what}: {problem}");
        eventually(&format!("nothing has changed after {what}"), async || {
            content(&self.workspace) == self.before
        })
        .await;
        let next = self.send("GET", "/api/keepalive", &[], whole("")).await;
        assert_eq!(next.status(), 200, "{what}");
        self.rows += 1;
    }
}

/// A body of which the length is said beforehand.
pub(crate) fn whole(body: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(body.into()).boxed()
}

/// The same without a length: in chunks.
pub(crate) fn chunked(body: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    let body = body.into();
    let chunks: Vec<_> =
        body.chunks(CHUNK_BYTES).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    StreamBody::new(stream::iter(chunks)).boxed()
}

/// Everything in a folder, by its path.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    // What is being removed meanwhile is looked at again.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let at = entry.path();
        if at.is_dir() {
            found.extend(content(&at));
            found.insert(at, Vec::new());
        } else {
            found.insert(at.clone(), fs::read(&at).unwrap_or_default());
        }
    }
    found
}
