//! The connection as hyper sees it: a socket that, when a token comes, sends from the file.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Offer;
use super::body::Outgoing;
use super::window::{Slot, Token, Window};

/// A TCP connection that can send from files.
#[derive(Debug)]
pub struct FileStream {
    io: TokioIo<TcpStream>,
    slot: Slot,
}

/// What a connection's answers need, beside the stream itself.
#[derive(Debug, Clone)]
pub struct Sender(Slot);

impl FileStream {
    #[must_use]
    pub fn new(stream: TcpStream) -> (Self, Sender) {
        let slot = Slot::default();
        (Self { io: TokioIo::new(stream), slot: slot.clone() }, Sender(slot))
    }

    /// The socket.
    #[must_use]
    pub fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }

    fn poll_sendfile(&self, cx: &mut Context<'_>, window: &Window) -> Poll<io::Result<usize>> {
        let sent = self.poll_call(cx, |socket| {
            let mut at = window.at;
            sendfile(socket, &window.file, Some(&mut at), window.left)
        });
        Poll::Ready(match ready!(sent) {
            // The file has become shorter. What was promised cannot be sent, and nothing else may be.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.slot.sent(count);
                Ok(count)
            }
            Err(error) => Err(error),
        })
    }

    fn poll_call(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&TcpStream) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let socket = self.io.inner();
        loop {
            ready!(socket.poll_write_ready(cx))?;
            match socket.try_io(Interest::WRITABLE, || Ok(call(socket)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                settled => return Poll::Ready(settled),
            }
        }
    }
}

impl Sender {
    /// For the extensions of a request.
    #[must_use]
    pub const fn offer(&self) -> Offer {
        Offer(())
    }

    /// An answer's body, for hyper to send through this connection's [`FileStream`] and no other.
    #[must_use]
    pub fn outgoing(&self, body: axum::body::Body) -> Outgoing {
        Outgoing::new(body, self.0.clone())
    }
}

impl Read for FileStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl Write for FileStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        stream.slot.window()?;
        Pin::new(&mut stream.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let window = stream.slot.window()?;
        match (window, slices.iter().position(|slice| Token::is(slice)), slices.first()) {
            (Some(window), Some(0), _) => stream.poll_sendfile(cx, &window),
            // The head. It may wait for the first bytes of the file, to go out in one packet with them.
            (Some(_), Some(_), Some(first)) => {
                stream.poll_call(cx, |socket| send(socket, first, SendFlags::MORE | SendFlags::NOSIGNAL))
            }
            (None, Some(_), _) => Poll::Ready(Err(io::Error::other("a token without its window"))),
            (_, None, _) | (_, _, None) => Pin::new(&mut stream.io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
