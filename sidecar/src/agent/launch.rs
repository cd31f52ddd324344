//! Between our process and the agent's: the child, still our own program, ties its life to ours and makes itself
//! the first to go when memory is short. Then it becomes the agent, under the same process id.
//!
//! It is a program of its own, and no hook between fork and exec, because such a hook cannot be written safely.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The first argument by which the program knows that it is this child. Then come our process id, the agent's
/// program, and its arguments.
pub const ARGUMENT: &str = "launch-agent";

/// Of -1000 to 1000: who has more is killed first.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// Becomes the agent; returns only if that fails.
#[must_use]
pub fn become_agent(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "it is started by the sidecar only");
    let parent = arguments.next().and_then(|text| text.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let (Some(parent), Some(program)) = (parent, arguments.next()) else { return missing() };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // Had it died before the line above, nobody would tell us.
    if getppid() != Some(parent) {
        return io::Error::other("the sidecar is gone");
    }
    // Without it the kernel chooses by size, which is the agent's as a rule.
    let _by_size = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    Command::new(program).args(arguments).exec()
}
