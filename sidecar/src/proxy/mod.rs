//! The way to the agent.
//!
//! * [`allow`]: which paths are the agent's page, and nothing else of the agent is reachable by HTTP.
//! * [`headers`]: what passes, in both directions.
//! * [`agent`]: connecting to it; [`http`]: its page.
//! * [`handshake`]: what a WebSocket upgrade must look like; [`ws`]: the upgrade; `session`: the two streams after
//!   it, with `outbox` for what a side has not taken yet.
//! * [`upstream`]: what the client says, message by message ([`message`]): the first one edited ([`connect`]), a few
//!   refused ([`rules`]). [`downstream`]: what the agent says, frame by frame.
//! * [`frame`], [`close`]: reading and writing frames. [`liveness`]: whether the client is still
//!   there; [`pulse`]: what all sessions hear at once.

pub mod agent;
pub mod allow;
pub mod close;
pub mod connect;
pub mod downstream;
pub mod frame;
pub mod handshake;
pub mod headers;
pub mod http;
pub mod liveness;
pub mod message;
mod outbox;
pub mod pulse;
pub mod rules;
mod session;
pub mod upstream;
pub mod ws;
