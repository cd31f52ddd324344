//! Fly's Machines API without I/O: calls as values, answers as values.
//!
//! [`call`] turns a typed [`Call`] into an [`HttpCall`] and reads the [`HttpReply`] to it; [`wire`] holds the
//! bodies, of which only the fields that we use are typed (what we send back whole keeps the fields that we do
//! not know); [`fault`] is the table of everything that Fly is known to answer instead; [`budget`] says when a
//! call may be sent.
//!
//! Whoever performs a call adds the base URL and the token. Neither is known here.

pub mod budget;
pub mod call;
pub mod fault;
pub mod wire;

pub use call::{Answer, Call, HttpCall, HttpReply, Lost, Method};
pub use fault::{ApiError, Fault};
