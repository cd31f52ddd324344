//! The whole system on one machine: real parts where they run here, stand-ins where they cannot.
//!
//! Real: the edge in workerd ([`workerd`], built by [`edge_build`]), the sidecar, clawdbot ([`agent`]). Stand-ins,
//! each on loopback and each ended by its `stop` or its drop:
//! * [`fly_proxy`]: Fly's proxy, and the reading half of its Machines API.
//! * [`legacy`]: the legacy Worker with its sandboxes, which hibernate.
//! * [`model_stub`]: the model that agents talk to, with faults on demand.
//!
//! [`system`] puts them together; begin there. Below: [`forward`], the HTTP/1.1 server and forwarder under the
//! stand-ins; [`raw_ws`], WebSockets down to the byte; [`lone_sidecar`], a sidecar in front of anything; [`process`],
//! child processes that end with us, however we end; [`tools`], what has to be installed.
//!
//! [`bench`] measures. The commands (`cargo xtask …`) are thin callers of this library, in `bin/xtask`. The end-to-end tests are in
//! `tests/it`.

pub mod agent;
pub mod bench;
pub mod edge_build;
pub mod fly_proxy;
pub mod image;
pub mod legacy;
pub mod lone_sidecar;
pub mod model_stub;
pub mod raw_ws;
pub mod system;
pub mod tools;
pub mod workerd;

pub use loopback::{forward, process};
