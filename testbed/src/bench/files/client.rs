//! The clients beside wrk: one connection, one request after the other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Gets `target` and counts the bytes of its content. As plain as can be: a client that is slow lets the server
/// wait, and that costs the server. The host is the server's address, since Caddy answers others with nothing.
pub(super) fn download(server: SocketAddr, target: &str, headers: &[String]) -> Result<u64> {
    let mut stream = TcpStream::connect(server).context("cannot connect")?;
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut buffer = vec![0; 256 * 1024];
    let (mut filled, mut content) = (0, None);
    loop {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
        match &mut content {
            _ if read == 0 => break,
            Some(count) => *count = u64::saturating_add(*count, read as u64),
            None => {
                filled = filled.saturating_add(read);
                let so_far = buffer.get(..filled).unwrap_or_default();
                if let Some(end) = so_far.windows(4).position(|window| window == b"\r\n\r\n") {
                    ensure!(so_far.starts_with(b"HTTP/1.1 200 "), "it was not answered well");
                    content = Some(filled.saturating_sub(end.saturating_add(4)) as u64);
                    filled = 0;
                }
                ensure!(filled < MAX_HEAD_BYTES, "the answer has no end of its head");
            }
        }
    }
    content.context("the answer has no head")
}

/// A connection that is kept.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    headers: Vec<String>,
}

impl Client {
    pub(super) async fn connect(server: SocketAddr, headers: &[String]) -> Result<Self> {
        let stream = tokio::net::TcpStream::connect(server).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, headers: headers.to_vec() })
    }

    /// Sends a request and reads the answer to its end; how long that took.
    pub(super) async fn call(&mut self, method: &str, target: &str, body: Bytes) -> Result<Duration> {
        let mut request = Request::builder().method(method).uri(target).header("host", "bench");
        for header in &self.headers {
            let (name, value) = header.split_once(": ").context("a header without a value")?;
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body))?;
        let started = Instant::now();
        self.sender.ready().await?;
        let mut answer = self.sender.send_request(request).await?;
        if !answer.status().is_success() {
            bail!("{method} was answered {}", answer.status());
        }
        while let Some(frame) = answer.frame().await {
            frame?;
        }
        Ok(started.elapsed())
    }
}
