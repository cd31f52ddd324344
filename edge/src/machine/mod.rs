//! The control plane: what a user's app, volume and machine need next.
//!
//! # How it goes
//! Nothing here waits or calls. Whoever executes (the user's object; a simulator) repeats:
//!
//! 1. load the [`Record`] (after a restart: [`Record::after_restart`]);
//! 2. ask [`plan()`]: one [`Action`] with its reason, or wait until when, or nothing to do;
//! 3. **store** what [`Record::begin`] returns, before anything leaves;
//! 4. perform the action: [`call()`] says it in Fly's words ([`crate::fly`]); data moves and purges are others' work;
//! 5. **store** what [`Record::learn`] makes of the outcome, and begin again.
//!
//! Between any two of these it may crash. What it then does not know it looks up.
//!
//! # The modules
//! [`desired`] is what should be, [`record`] what is known and was begun, [`names`] what things are called.
//! [`plan`] decides, [`learn`] takes outcomes in, [`call`] turns actions into calls; [`config`] makes a machine's
//! configuration and guards its updates; [`backoff`] spaces attempts; [`rollout`] takes a fleet to a new image.
//!
//! ```text
//!  app ─▶ addresses ─▶ volume ─▶ machine ─▶ started ─▶ ready        each: look up, adopt, else create
//!   └─────── per-user layout only ─────┘         │
//!            recovering ◀── host or volume lost ─┤   (next generation; its data comes from outside)
//!            moving     ◀── an operator's order ─┘   (stop, copy the volume, next generation)
//! ```
//!
//! # What must never happen
//! A second live machine or volume in one generation; an empty volume where one with data was; a remote call
//! while the last one's id is not stored. `edge/tests/control_plane.rs` tries.

pub mod backoff;
pub mod call;
pub mod config;
pub mod desired;
pub mod learn;
pub mod names;
pub mod plan;
pub mod record;
pub mod rollout;

#[cfg(test)]
mod tests;

pub use call::call;
pub use desired::{Desired, Layout, Setup, Spec, Want};
pub use learn::Outcome;
pub use plan::{Action, Plan, plan};
pub use record::{Cause, Knowledge, Record, Stage};
