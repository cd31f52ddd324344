//! The agent's process: clawdbot, which the sidecar starts, keeps alive and ends.
//!
//! ```text
//! [supervision], pure: state + event ─▶ state + effect
//!      ▲ events                              │ effects
//! [supervisor], a task ◀── exits, timers ── [process]: spawn, signals, orphans
//!      │      ▲ [liveness]: does its event loop turn?   [oom]: was memory short?
//!      ▼
//! [status], for `/api/status`               [output]: its lines, without secrets ([redact])
//! ```
//!
//! [`runs`]: is it at work? [`command`] says what is run; [`launch`] is the moment between our process and the agent's.

pub mod command;
pub mod launch;
pub mod liveness;
pub mod log_file;
pub mod oom;
pub mod output;
pub mod process;
pub mod redact;
pub mod runs;
pub mod status;
pub mod supervision;
pub mod supervisor;
