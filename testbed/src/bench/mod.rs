//! Benchmarks: CPU per unit of work, beside a peer that does the same in the same run.
//!
//! The figure to quote is a ratio of two processes measured in turn, since this and that machine differ, and one
//! machine differs from minute to minute. CPU is what the kernel has charged the process for, in nanoseconds.

pub mod cpu;
pub mod edge;
pub mod provision;
pub mod spread;
pub mod wrk;
