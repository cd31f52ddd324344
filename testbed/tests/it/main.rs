//! The edge and the whole system, with real parts: workerd, the sidecar, clawdbot, Chromium. One binary, so that
//! it links once. `cargo xtask test` installs and builds what these tests start.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod access;
mod always_on;
mod boot;
mod browser;
mod canary;
mod chat;
mod contract;
mod dashboard;
mod deploy;
mod drain;
mod flips;
mod history;
mod image;
mod memory;
mod outages;
mod panics;
mod routing;
mod standins;
mod supervision;
mod support;
mod tokens;
mod traps;
mod up;
mod whole;
mod ws;
mod ws_agent;
