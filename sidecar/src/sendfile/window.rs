//! The part of a file that is to be sent next on one connection, and the token that stands for it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Buf;

/// Longest part that is under way at a time. After it, others on the thread have their turn; shorter ones cost more
/// calls.
pub(super) const WINDOW_BYTES: usize = 1024 * 1024;

/// What tokens are slices of. Never read and never written, so that it takes no memory.
static TOKENS: [u8; WINDOW_BYTES] = [0; WINDOW_BYTES];

/// The one window of a connection, shared by the body, which fills it, and the stream, which sends it.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    /// Waits for the window to be sent.
    waiting: Option<Waker>,
    /// A token was read as if it were data.
    was_read: bool,
}

/// Bytes of a file that are still to be sent.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) left: usize,
}

impl Slot {
    /// Ready once nothing is left to be sent.
    pub(super) fn poll_sent(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.window.is_none() {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Puts the next window in, at most [`WINDOW_BYTES`], and makes the token for it. Only after
    /// [`Self::poll_sent`].
    pub(super) fn put(&self, window: Window) -> Token {
        let left = window.left.min(WINDOW_BYTES);
        self.lock().window = (left > 0).then_some(Window { left, ..window });
        Token { slot: self.clone(), left }
    }

    /// What a token stands for now.
    ///
    /// # Errors
    /// A token was read as data: whatever is written from now on can hold its bytes.
    pub(super) fn window(&self) -> io::Result<Option<Window>> {
        let state = self.lock();
        if state.was_read {
            return Err(io::Error::other("a token was read as data"));
        }
        Ok(state.window.clone())
    }

    /// Takes note of what was sent.
    pub(super) fn sent(&self, count: usize) {
        let mut state = self.lock();
        let Some(window) = &mut state.window else { return };
        window.at = window.at.saturating_add(count as u64);
        window.left = window.left.saturating_sub(count);
        if window.left == 0 {
            state.window = None;
            if let Some(waiting) = state.waiting.take() {
                waiting.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands for the bytes of a window.
#[derive(Debug)]
pub struct Token {
    slot: Slot,
    left: usize,
}

impl Token {
    fn slice(&self) -> &'static [u8] {
        TOKENS.get(..self.left).unwrap_or_default()
    }

    /// Whether a slice on its way to the socket is one. A static has an address of its own.
    pub(super) fn is(slice: &[u8]) -> bool {
        std::ptr::eq(slice.as_ptr(), TOKENS.as_ptr())
    }
}

impl Buf for Token {
    fn remaining(&self) -> usize {
        self.left
    }

    /// For whoever copies: see the module above.
    fn chunk(&self) -> &[u8] {
        self.slot.lock().was_read = true;
        self.slice()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match slices.first_mut() {
            Some(first) if self.left > 0 => {
                *first = IoSlice::new(self.slice());
                1
            }
            _ => 0,
        }
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }
}
