//! The emulator over real HTTP, with real processes. Each answer of the Machines API is checked against the
//! published document on its way.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod contract;
mod faults;
mod lifecycle;
mod proxy;

mod support;
