//! What the edge and the sidecar must agree on, byte for byte.
//!
//! * [`id`]: who and where: user, machine, generation, epoch, backend.
//! * [`secret`]: key material that cannot be printed.
//! * [`signed_url`]: the legacy proof that a browser brings, signed and verified.
//! * [`key`]: the keys that are derived from the signing secret, one per purpose.
//! * [`ticket`]: the edge's word to a back end, "this request is this user's, under this epoch".
//! * [`wire`]: header names, refusals and the error body.
//!
//! What it is not: this crate has no clock, no randomness and no I/O. Time is an argument ([`time`]), so that
//! every decision made here can be tested as a table, and so that it runs in WASM as it runs on a machine.

pub mod id;
pub mod key;
mod mac;
pub mod secret;
pub mod signed_url;
pub mod ticket;
pub mod time;
pub mod wire;
