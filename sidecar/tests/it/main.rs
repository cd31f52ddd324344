//! The sidecar as a process, in front of a fake agent. One binary, so that it links once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "clippy.toml allows them in tests, but sees tests only in `#[cfg(test)]`"
)]

mod agent_process;
mod archive;
mod bad_input;
mod chat;
mod described;
mod dice;
mod disk;
mod drain;
mod events;
mod files;
mod gate;
mod gateway;
mod harness;
mod history;
mod kept;
mod kill;
mod lifecycle;
mod page;
mod race;
mod raw;
mod search;
mod sendfile;
mod slow;
mod socket;
mod tus;
