//! Fly on one machine: the Machines API over HTTP, machines that are real processes, volumes that are directories,
//! and the proxy in front of them.
//!
//! How Fly behaves is `fly-model`'s business, which has no I/O. Here is what it leaves out:
//! * [`config`]: what an emulator is made of; [`clock`]: the wall's, or one that is moved by hand.
//! * `api`: HTTP around the model; waiting, `exec`, and [`faults`], which decide what goes wrong on purpose.
//! * `driver`: the model's own changes, at their time, and the processes that follow from them.
//! * [`launch`]: what a machine's process is given, as values; `runner`: one task for each machine, which has it.
//! * [`proxy`]: the way from a host name to a machine.
//! * `admin`: hosts that die, power cuts, faults, the clock.
//!
//! Begin with [`Emulator`]. Everything listens on loopback only.

mod admin;
mod api;
pub mod clock;
pub mod config;
mod driver;
mod emulator;
pub mod faults;
pub mod launch;
pub mod proxy;
mod runner;
mod volumes;

pub use config::{Config, Image};
pub use emulator::Emulator;
