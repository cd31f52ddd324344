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
    /// Whether the peer took something of what it had not taken at once, since somebody asked.
    progress: bool,
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

    /// Whether everything was handed to the system.
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How much is left to send, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.rest.len().saturating_sub(self.sent)
    }

    /// Whether the peer took any of the rest since the last call: a slow peer that is there.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Ready once everything was handed to the system.
    pub(super) fn poll_flush(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while let Some(bytes) = self.rest.get(self.sent..).filter(|bytes| !bytes.is_empty()) {
            ready!(to.poll_write_ready(cx))?;
            match to.try_write(bytes) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.sent += n;
                    self.progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.rest = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}
