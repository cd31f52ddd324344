//! Long files, which the kernel sends: the bytes must be the file's, whatever comes before and after them on the
//! connection, through everything that lies between the file and the client.

use std::fs::{self, File};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rustix::fs::{Advice, fadvise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{LIMIT, Sidecar, Ticket};

/// More than a window, and no round number.
const LONG: usize = 5 * 1024 * 1024 + 12_345;

fn noise(length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"noise");
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

async fn workspace() -> (Sidecar, crate::gateway::Gateway, Vec<u8>) {
    let (sidecar, gateway) = Sidecar::start_quiet().await;
    let bytes = noise(LONG);
    fs::write(sidecar.workspace().join("long"), &bytes).unwrap();
    fs::write(sidecar.workspace().join("short"), &bytes[..777]).unwrap();
    (sidecar, gateway, bytes)
}

/// So that nothing of it is in memory, as far as the file system goes along.
fn drop_from_memory(sidecar: &Sidecar) {
    let file = File::open(sidecar.workspace().join("long")).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

struct Client(http1::SendRequest<Empty<Bytes>>);

impl Client {
    async fn connect(sidecar: &Sidecar) -> Self {
        let stream = TokioIo::new(TcpStream::connect(sidecar.public).await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> (Response<()>, Bytes) {
        let ticket = Ticket::of_epoch(1).issue();
        let mut request = Request::builder().method(method).uri(target).header("host", "edge.example");
        for (name, value) in headers.iter().copied().chain([("x-automna-ticket", ticket.as_str())]) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).unwrap();
        self.0.ready().await.unwrap();
        let answer = tokio::time::timeout(LIMIT, self.0.send_request(request)).await.unwrap().unwrap();
        let (head, body) = answer.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect()).await.unwrap().unwrap().to_bytes();
        (Response::from_parts(head, ()), body)
    }
}

#[track_caller]
fn assert_same(body: &[u8], expect: &[u8], what: &str) {
    assert_eq!(body.len(), expect.len(), "{what}");
    assert_eq!(blake3::hash(body), blake3::hash(expect), "{what}");
}

#[tokio::test]
async fn long_and_short_in_turn_on_one_connection() {
    let (sidecar, _gateway, bytes) = workspace().await;
    let mut client = Client::connect(&sidecar).await;
    for round in 0..3 {
        if round == 1 {
            drop_from_memory(&sidecar);
        }
        let (head, body) = client.call("GET", "/api/files/raw/long", &[]).await;
        assert_eq!(head.headers()["content-length"], LONG.to_string().as_str());
        assert_same(&body, &bytes, "long");
        let etag = head.headers()["etag"].to_str().unwrap().to_owned();
        let (_, body) = client.call("GET", "/api/files/raw/short", &[]).await;
        assert_same(&body, &bytes[..777], "short");
        let (head, body) = client.call("HEAD", "/api/files/raw/long", &[]).await;
        assert_eq!((head.headers()["content-length"].to_str().unwrap(), body.len()), (&*LONG.to_string(), 0));
        let (_, body) = client.call("GET", "/ws/api/files/download?path=/root/clawd/long", &[]).await;
        assert_same(&body, &bytes, "download");
        let (head, body) = client.call("GET", "/api/files/raw/long", &[("if-none-match", &etag)]).await;
        assert_eq!((head.status().as_u16(), body.len()), (304, 0));
        let (head, _) = client.call("GET", "/api/files/raw/missing", &[]).await;
        assert_eq!(head.status(), 404);
        let digest = &[("want-content-digest", "sha-256=1"), ("range", "bytes=1-")];
        let (head, body) = client.call("GET", "/api/files/raw/long", digest).await;
        assert!(head.headers().contains_key("content-digest"));
        assert_same(&body, &bytes[1..], "with a digest");
        let several = &[("range", "bytes=0-999999,2000000-4000000")];
        let (head, body) = client.call("GET", "/api/files/raw/long", several).await;
        assert_eq!(head.status(), 206);
        let holds = |part: &[u8]| body.windows(64).any(|window| window == &part[..64]);
        assert!(holds(&bytes[..64]) && holds(&bytes[2_000_000..2_000_064]));
    }
}

#[tokio::test]
async fn any_range() {
    let (sidecar, _gateway, bytes) = workspace().await;
    let mut client = Client::connect(&sidecar).await;
    let mut runner = TestRunner::default();
    for n in 0..60 {
        if n % 10 == 9 {
            drop_from_memory(&sidecar);
        }
        let (first, length) = (0..LONG, 0..LONG).new_tree(&mut runner).unwrap().current();
        let last = first.saturating_add(length).min(LONG - 1);
        let range = format!("bytes={first}-{last}");
        let (head, body) = client.call("GET", "/api/files/raw/long", &[("range", &range)]).await;
        assert_eq!(head.status(), 206, "{range}");
        assert_same(&body, &bytes[first..=last], &range);
    }
}

/// Bytes as they come, after requests that were all sent at once.
#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let (sidecar, _gateway, bytes) = workspace().await;
    let ticket = Ticket::of_epoch(1).issue();
    let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
    let targets = ["long", "short", "long", "long"];
    for (n, name) in targets.iter().enumerate() {
        let close = if n + 1 == targets.len() { "connection: close\r\n" } else { "" };
        let head = format!(
            "GET /api/files/raw/{name} HTTP/1.1\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n{close}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    let mut received = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut received)).await.unwrap().unwrap();
    let mut rest = &received[..];
    for name in targets {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let length = if name == "long" { LONG } else { 777 };
        assert_same(&rest[end..end + length], &bytes[..length], name);
        rest = &rest[end + length..];
    }
    assert!(rest.is_empty());
}

/// Starts a download of a file of 64 MiB, changes the file when a part has come, and returns what came in all.
async fn meanwhile(change: impl FnOnce(&File)) -> (Vec<u8>, Vec<u8>) {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    let bytes = noise(64 << 20);
    let path = sidecar.workspace().join("long");
    fs::write(&path, &bytes).unwrap();
    let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
    let ticket = Ticket::of_epoch(1).issue();
    let head = format!("GET /api/files/raw/long HTTP/1.1\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = vec![0; 1 << 20];
    stream.read_exact(&mut received).await.unwrap();
    change(&File::options().write(true).open(&path).unwrap());
    // However it ends, by a close or by a reset.
    let _ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut received)).await.expect("it stays open");
    let end = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (received.split_off(end), bytes)
}

#[tokio::test]
async fn a_file_that_shrinks_ends_the_connection_and_is_not_filled_up() {
    // At a page's end: a cut within a page writes zeros into the rest of it, which may be on its way.
    let (received, bytes) = meanwhile(|file| file.set_len(32 << 20).unwrap()).await;
    assert!(received.len() < bytes.len(), "{}", received.len());
    assert_same(&received, &bytes[..received.len()], "what came");
}

#[tokio::test]
async fn a_file_that_is_written_meanwhile_does_not_look_whole() {
    use std::os::unix::fs::FileExt;
    let (received, bytes) = meanwhile(|file| file.write_all_at(b"new", 63 << 20).unwrap()).await;
    assert!(received.len() < bytes.len(), "{}", received.len());
}
