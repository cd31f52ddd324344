//! How a file gets from a handler, through axum, to hyper.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::Body as AxumBody;
use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use super::window::{Slot, Token, WINDOW_BYTES, Window};

/// What the pool reads at a time of a window that is not in memory.
const READ_BYTES: usize = 64 * 1024;

/// A part of a file that is open.
#[derive(Debug)]
pub struct Range {
    pub file: Arc<File>,
    pub start: u64,
    pub length: u64,
}

/// The body of an answer that begins with a range of a file and goes on with `rest`. It holds no data that can be
/// asked for: see the module above.
#[derive(Debug)]
pub struct HandOver(Option<Load>);

#[derive(Debug)]
struct Load {
    range: Range,
    rest: AxumBody,
}

impl HandOver {
    #[must_use]
    pub const fn new(range: Range, rest: AxumBody) -> Self {
        Self(Some(Load { range, rest }))
    }
}

/// The error by which a [`HandOver`] gives itself up. Through the error, because it is the one value of a body that
/// keeps its type in axum, and shows who has touched it.
#[derive(Debug)]
struct GivenUp(Mutex<Load>);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file was to be sent by the kernel, and something between wanted its bytes")
    }
}

impl std::error::Error for GivenUp {}

impl Body for HandOver {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.get_mut().0.take().map(|load| Err(GivenUp(load.into()).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Load::size_hint)
    }
}

impl Load {
    fn size_hint(&self) -> SizeHint {
        longer(&self.rest.size_hint(), self.range.length)
    }
}

fn longer(hint: &SizeHint, by: u64) -> SizeHint {
    let mut sum = SizeHint::new();
    if let Some(upper) = hint.upper() {
        sum.set_upper(upper.saturating_add(by));
    }
    sum.set_lower(hint.lower().saturating_add(by));
    sum
}

/// Any answer's body as hyper gets it.
#[derive(Debug)]
pub struct Outgoing {
    slot: Slot,
    /// What the kernel has still to move, before `body`.
    range: Option<Range>,
    body: AxumBody,
    /// The pool is reading the next window.
    warming: Option<JoinHandle<io::Result<()>>>,
}

/// Data as hyper gets them: bytes, or a token for bytes of a file.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    File(Token),
}

impl Outgoing {
    pub(super) const fn new(body: AxumBody, slot: Slot) -> Self {
        Self { slot, range: None, body, warming: None }
    }

    /// The next window of the range, once the one before is sent and this one is in memory.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Token>>> {
        ready!(self.slot.poll_sent(cx));
        let Some(range) = &mut self.range else { return Poll::Ready(None) };
        let length = usize::try_from(range.length).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
        if length == 0 {
            self.range = None;
            return Poll::Ready(None);
        }
        match &mut self.warming {
            Some(warming) => {
                let warm = ready!(Pin::new(warming).poll(cx));
                self.warming = None;
                warm.map_err(io::Error::other).flatten()?;
            }
            None if is_warm(&range.file, range.start, length)? => {}
            None => {
                let (file, start) = (range.file.clone(), range.start);
                self.warming = Some(tokio::task::spawn_blocking(move || warm(&file, start, length)));
                return self.poll_window(cx);
            }
        }
        let window = Window { file: range.file.clone(), at: range.start, left: length };
        range.start = range.start.saturating_add(length as u64);
        range.length = range.length.saturating_sub(length as u64);
        Poll::Ready(Some(Ok(self.slot.put(window))))
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let outgoing = self.get_mut();
        loop {
            if outgoing.range.is_some() {
                match ready!(outgoing.poll_window(cx)) {
                    Some(window) => return Poll::Ready(Some(Ok(Frame::data(Piece::File(window?))))),
                    None => continue,
                }
            }
            let error = match ready!(Pin::new(&mut outgoing.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame.map_data(Piece::Bytes)))),
                Some(Err(error)) => error,
            };
            // axum wraps an error once for each body that it is given. A `GivenUp` directly below comes from the
            // very body that the handler has made.
            let GivenUp(load) = *error.into_inner().downcast::<GivenUp>()?;
            let Load { range, rest } = load.into_inner().unwrap_or_else(PoisonError::into_inner);
            (outgoing.range, outgoing.body) = (Some(range), rest);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.body.size_hint(), self.range.as_ref().map_or(0, |range| range.length))
    }
}

/// Whether the end of the window is in memory. What is read ahead comes in order, so that the rest mostly is too.
fn is_warm(file: &File, at: u64, length: usize) -> io::Result<bool> {
    let last = at.saturating_add(length as u64).saturating_sub(1);
    match preadv2(file, &mut [IoSliceMut::new(&mut [0])], last, ReadWriteFlags::NOWAIT) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(true),
        // Not in memory, or the file system cannot tell.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads a window, so that it is in memory.
fn warm(file: &File, at: u64, length: usize) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let end = at.saturating_add(length as u64);
    let mut at = at;
    while at < end {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = at.saturating_add(read as u64);
    }
    Ok(())
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(token) => token.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(token) => token.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(slices),
            Self::File(token) => token.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(token) => token.advance(count),
        }
    }
}
