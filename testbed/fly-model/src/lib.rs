//! How Fly's Machines API behaves: apps, volumes, machines, leases, limits, and hosts that fill up and die.
//!
//! No I/O and no clock. [`Fly::handle`] takes a request and the time and gives the answer; everything that
//! happens by itself happens in [`Fly::advance`]. All chance comes from one seed, so a history can be repeated.
//! A simulator runs it on virtual time; an emulator can put HTTP, processes and a real clock around it, and use
//! [`Fly::events`] to learn what to start and stop.
//!
//! Begin with [`Fly`]. `world` holds the things, `api` routes, `apps`, `volumes` and `machines` answer,
//! `rates` counts, `admin` is what Fly's own operators and their bad days do. [`Profile`] has every number.
//! The numbered rules, each with a test, are in `tests/rules.rs`.
//!
//! Left to the emulator around it, since they are about processes: what `exec` and `signal` do once they may, the
//! OIDC socket, power cuts; and everything about Fly's proxy. Who runs processes sets
//! [`Profile::real_processes`] and reports each end by [`Fly::exited`].

mod admin;
mod api;
mod apps;
mod machines;
mod metadata;
mod placement;
mod process;
mod profile;
mod rates;
mod secrets;
mod volumes;
mod world;

pub use api::{Request, Response};
pub use process::duration_ms;
pub use profile::{Profile, Range, Region};
pub use secrets::Secrets;
pub use world::{App, Disk, Event, Exit, Fly, Host, Machine, Note, State, Volume, VolumeState};
