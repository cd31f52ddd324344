//! Long ranges of files, moved to the client by the kernel (`sendfile`), below hyper.
//!
//! ```text
//! handler ─▶ [body::HandOver] ─▶ axum ─▶ [body::Outgoing] ─▶ hyper ─▶ [stream::FileStream] ─▶ socket
//!                                            └── the window: what, from where ──┘
//! ```
//!
//! hyper keeps the head, the framing, keep-alive, back-pressure and errors. What it is given as data are
//! *tokens*: slices of the right length whose bytes nobody reads. When one comes to the stream, the stream sends
//! the bytes of the file in its place.
//!
//! A token must never be taken for data. So:
//!
//! * Tokens exist between [`body::Outgoing`] and [`stream::FileStream`] only, and hyper is all that lies there.
//!   No layer of axum ever sees one: what travels through axum is a [`body::HandOver`], a body that only gives
//!   itself up, whole, to an `Outgoing` that has got it straight from the handler's hands. To a layer that wrapped
//!   it, it is a body that fails. A layer that changes bodies removes [`Offer`] from the request, and the handler
//!   then sends bytes.
//! * Tokens are shown as slices for `writev` alone. If anybody reads one as a buffer, that is noted before it gets
//!   the slice, and the stream refuses to send anything more.
//!
//! The file may change meanwhile. If it is shorter, the connection ends; nothing is filled up. Bytes that are on
//! their way in the socket are the file's own pages, so that a write in place shows in them, as with any server
//! that uses `sendfile`.
//!
//! What it is not: there is no TLS here. Where our process encrypts, bytes have to pass through it.

pub mod body;
pub mod stream;
mod window;

/// In a request's extensions: the connection can send from files. Whoever changes the bodies of answers removes it
/// from the request.
#[derive(Debug, Clone, Copy)]
pub struct Offer(());

#[cfg(test)]
mod tests;
