//! The edge: one Worker in front of both back ends, and the objects that it asks.
//!
//! # Where to begin
//! A request's way, in the order of the modules that it meets:
//! [`request`] (which route) → [`access`] (who) → [`policy`] (where the operator wants them) → [`lease`] and
//! [`placement`] (where they may be now) → [`forward`] (what is sent there, and what the answer means), with
//! [`cors`] and [`error`] on the way back. [`config`] is read once per isolate.
//!
//! All of these are values in, values out, and are tested on the host. `platform` (WASM only) is the one module
//! that touches Cloudflare: the fetch handler, the two objects, and nothing to decide. `worker` is a dependency
//! for that target alone, so a decision that reached for the platform would not compile here.
//!
//! Beside that way lies the control plane, which no request waits for: [`machine`] decides what a user's app, volume
//! and machine need next, [`fly`] says it in Fly's words and reads the answers.
//!
//! The dashboard's own calls have their way too: [`jwt`] (who), then [`dashboard`] (what they get), and [`renewal`]
//! for a page that stays open longer than its URL holds.
//!
//! # What it is not
//! No byte of a body and no WebSocket frame passes through this code: it sets headers and hands streams on.
//! There is no list of users here either; what a user's object does not know, nobody knows.

pub mod access;
pub mod config;
pub mod cors;
pub mod dashboard;
pub mod error;
pub mod fly;
pub mod forward;
pub mod jwt;
pub mod lease;
pub mod machine;
pub mod placement;
pub mod policy;
pub mod renewal;
pub mod request;

#[cfg(target_arch = "wasm32")]
mod platform;
