//! The control plane's real decisions against a model of Fly, on virtual time, with everything going wrong.
//!
//! What runs is `edge::machine` and `edge::fly`: plans, records, calls as JSON and answers from JSON. What is
//! simulated: Fly (`fly-model`), the network between, the sidecars, operators, and whoever executes, who crashes
//! between any two of its steps and then knows only what was stored. All chance comes from the seed; a history
//! that fails is run again with its trace, and can be repeated for ever.
//!
//! [`history`] is one such life of a few users. [`fleet`] is a day on which nothing fails and thousands sign up.
//! `world` is the clock and what happens; `executor` the one who acts; `chaos` what goes wrong; `judge` what must
//! not be; [`mutation`] takes rules out, to see that the judge notices.

mod chaos;
mod executor;
pub mod fleet;
mod judge;
pub mod mutation;
mod world;

pub use mutation::Mutation;
pub use world::{Failure, Summary, history};
