//! The way to the agent.
//!
//! * [`allow`]: which paths are the agent's page, and nothing else of the agent is reachable by HTTP.
//! * [`headers`]: what passes, in both directions.
//! * [`agent`]: connecting to it; [`http`]: its page.
//! * [`handshake`]: what a WebSocket upgrade must look like; [`ws`]: the upgrade; `session`: the bytes after it.
//! * [`frame`]: reading and writing frames; [`first_frame`]: a client's first message; [`connect`]: its edit.

pub mod agent;
pub mod allow;
pub mod connect;
pub mod first_frame;
pub mod frame;
pub mod handshake;
pub mod headers;
pub mod http;
mod outbox;
mod session;
pub mod ws;
