//! The agent as a process: what to start it with.

pub mod command;
