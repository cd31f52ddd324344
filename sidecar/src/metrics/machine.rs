//! What the kernel says of memory and the volume at this moment.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::Pid;

use crate::agent::{oom, process};

/// In bytes; 0 for what cannot be found out.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) own_resident: u64,
    pub(super) agent_resident: u64,
    pub(super) group_memory: u64,
    pub(super) volume_size: u64,
    pub(super) volume_free: u64,
}

pub(super) fn look(agent: Option<i32>, volume: &Path) -> Machine {
    let agent = agent.and_then(Pid::from_raw);
    let (volume_size, volume_free) = statvfs(volume).map_or((0, 0), |volume| {
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        // Not what is free, but what of it may be used: some is the system's.
        (bytes(volume.f_blocks), bytes(volume.f_bavail))
    });
    Machine {
        own_resident: process::resident_bytes(None).unwrap_or(0),
        agent_resident: agent.and_then(|pid| process::resident_bytes(Some(pid))).unwrap_or(0),
        group_memory: oom::group_memory().map_or(0, |(current, _)| current),
        volume_size,
        volume_free,
    }
}
