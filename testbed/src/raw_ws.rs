//! A WebSocket down to the byte: whatever a test wants on the wire goes on the wire, and what comes is shown frame by
//! frame. Deliberately a second implementation beside the sidecar's, which it judges.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest head of a handshake.
const MAX_HEAD_BYTES: usize = 16 * 1024;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame, as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    /// Unmasked.
    pub payload: Vec<u8>,
}

/// The bytes of a well-formed frame. `mask`: a client's.
#[must_use]
pub fn encode(fin: bool, opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![if fin { 0x80 } else { 0 } | opcode];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => bytes.push(masked | length as u8),
        length @ 126..=65_535 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    match mask {
        None => bytes.extend(payload),
        Some(key) => {
            bytes.extend(key);
            bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
    }
    bytes
}

/// A close frame's payload.
#[must_use]
pub fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// The frame at the front of `bytes` and its length on the wire, if all of it is there.
fn decode(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (length, rest) = match second & 0x7F {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
        length => (u64::from(length), rest),
    };
    let (key, rest) = if second & 0x80 == 0 {
        ([0; 4], rest)
    } else {
        let (key, rest) = rest.split_first_chunk()?;
        (*key, rest)
    };
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    let used = bytes.len() - rest.len() + payload.len();
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((Frame { fin: first & 0x80 != 0, opcode: first & 0x0F, payload }, used))
}

/// One end of a connection after its handshake.
#[derive(Debug)]
pub struct RawSocket {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl RawSocket {
    /// Connects and upgrades.
    ///
    /// # Errors
    /// Any answer but 101, with its head.
    pub async fn open(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect(addr).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let mut socket = Self { stream, buffer: Vec::new(), at: 0 };
        let key = STANDARD.encode([7; 16]);
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        socket.send(request.as_bytes()).await?;
        let head = socket.head().await?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "not upgraded: {head}");
        ensure!(head.contains(&derive_accept_key(key.as_bytes())), "a wrong accept key: {head}");
        Ok(socket)
    }

    /// Answers a client's handshake.
    ///
    /// # Errors
    /// It is none.
    pub async fn accept(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let mut socket = Self { stream, buffer: Vec::new(), at: 0 };
        let head = socket.head().await?;
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
        });
        let accept = derive_accept_key(key.context("no WebSocket")?.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        socket.send(answer.as_bytes()).await?;
        Ok(socket)
    }

    /// Writes these very bytes.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("cannot write")
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// The connection was reset.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some((frame, used)) = decode(self.buffer.get(self.at..).unwrap_or_default()) {
                self.at += used;
                return Ok(Some(frame));
            }
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads until `bytes` of payload have come, whatever the frames.
    ///
    /// # Errors
    /// The stream ends before.
    pub async fn payload_bytes(&mut self, bytes: usize) -> Result<()> {
        let mut have = 0;
        while have < bytes {
            have += self.next().await?.context("the stream ended")?.payload.len();
        }
        Ok(())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await.context("cannot shut down")
    }

    async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.buffer.get(..end).unwrap_or_default();
                let head = String::from_utf8_lossy(head).into_owned();
                self.at = end + 4;
                return Ok(head);
            }
            ensure!(self.buffer.len() < MAX_HEAD_BYTES, "the head has no end");
            if self.read().await? == 0 {
                bail!("the stream ended within the head: {}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    async fn read(&mut self) -> Result<usize> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.reserve(64 * 1024);
        self.stream.read_buf(&mut self.buffer).await.context("cannot read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                let bytes = encode(false, BINARY, mask, &payload);
                let frame = Frame { fin: false, opcode: BINARY, payload };
                assert_eq!(decode(&bytes), Some((frame, bytes.len())));
                assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
            }
        }
    }
}
