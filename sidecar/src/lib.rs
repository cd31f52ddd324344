//! The sidecar: the one door of a user's machine, in front of clawdbot on loopback.
//!
//! ```text
//! accept ([server]) ─▶ [gate]: ticket ([auth]) ─▶ epoch ([epoch]) ─▶ [routes] ─┬─ our own API: [files], [watch], [history], chat ([agent_rpc]), …
//!                                                                              └─ [proxy]: page, WebSocket ─▶ agent
//! private port ([admin]): live, ready ◀─ [readiness], a kept connection to the agent; [metrics]
//! [agent]: starts it, keeps it alive, ends it                       [drain]: the machine's end, in order
//! ```
//!
//! Begin with `main.rs`, the story of the process, then [`routes::app`], the route table.
//!
//! What holds everywhere:
//!
//! * Nothing is answered or forwarded on the public port before the ticket and its epoch have been accepted.
//! * Decisions are functions from values to values: [`epoch::decide`], [`proxy::allow::classify`],
//!   [`proxy::connect::edit`], the frame reader [`proxy::frame`], all of [`http_semantics`]. The modules around
//!   them do the I/O.
//! * What a client sends is never logged: no query, no ticket, no frame.
//!
//! What it is not, on purpose: it keeps no session of its own, it verifies no
//! browser's proof (the edge does), and it holds no secret but its machine's derived key.

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod agent_rpc;
pub mod auth;
pub mod boot;
pub mod clock;
pub mod config;
pub mod drain;
pub mod epoch;
pub mod error;
pub mod files;
pub mod gate;
pub mod history;
pub mod http_semantics;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod random;
pub mod readiness;
pub mod respond;
pub mod routes;
pub mod sendfile;
pub mod server;
pub mod stall;
pub mod state;
pub mod stop;
pub mod watch;
pub mod workspace;
pub mod writes;

/// The version that every answer carries in [`shared::wire::SIDECAR_HEADER`].
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
