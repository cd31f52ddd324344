//! What one side of a session has not taken yet.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

/// Bytes on their way to one peer. Usually empty, and then it holds no memory: a session at rest has no buffer.
///
/// Whoever fills it must not read its source while it is not empty; that bounds it by one read, and passes the
/// peer's pace on to the source.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    rest: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Sends as much of `bytes` as goes at once, and keeps the rest.
    pub(super) fn send(&mut self, to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while self.rest.is_empty() && !bytes.is_empty() {
            match to.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Ready once everything was handed to the system.
    pub(super) fn poll_flush(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.rest.get(self.sent..).filter(|bytes| !bytes.is_empty()) {
            ready!(to.poll_write_ready(cx))?;
            match to.try_write(bytes) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}
