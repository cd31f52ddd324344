//! Starting the agent's process, and ending all that came of it.
//!
//! The process leads a group of its own, and we are the reaper of its descendants: what it leaves behind becomes
//! our child, whatever group or session it has moved to, and can be found. tokio waits for the agent itself, so a
//! stranger's end is collected by its process id alone, never by "any child".

use std::fs;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::command::AgentCommand;
use super::launch;

/// Our own program, however it was started and even if it has been replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// For processes that were killed to be gone. Only one that waits for a dead disk takes longer.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const GONE_POLL: Duration = Duration::from_millis(5);

/// A running agent.
#[derive(Debug)]
pub struct Process {
    pub child: Child,
    pub pid: Pid,
}

/// Makes this process the parent of what the agent leaves behind. To be called once, before the first spawn.
///
/// # Errors
/// The kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Starts the agent. Its standard output and error are pipes; it inherits nothing of our environment. The kernel
/// kills it when the thread that calls this ends, so that must be one that lives as long as the process.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &AgentCommand) -> io::Result<Process> {
    let child = Command::new(OWN_PROGRAM)
        .arg(launch::ARGUMENT)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(&command.program)
        .args(&command.args)
        .env_clear()
        .envs(command.env.iter().map(|(name, value)| (name, value.expose())))
        .current_dir(&command.cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("it ended before it had an id"))?;
    Ok(Process { child, pid })
}

impl Process {
    /// SIGTERM to the agent alone: its own children are its to end, in its order.
    pub fn terminate(&self) {
        // It fails only if the process has just ended.
        let _ended = kill_process(self.pid, Signal::TERM);
    }

    /// SIGKILL to its whole group.
    pub fn kill(&self) {
        let _ended = kill_process_group(self.pid, Signal::KILL);
    }
}

/// Kills what an agent that has ended left behind, and waits until it is gone, for at most 2 s.
///
/// `group` is the id of an agent that has been waited for. As a group's it cannot be another's while one of the
/// group lives, and if none does, the signal meets nobody.
pub async fn end_leftovers(group: Pid) {
    let _nobody = kill_process_group(group, Signal::KILL);
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let children = children();
        // The death of one can make us the parent of the next, so look again until there are none.
        if children.is_empty() || Instant::now() >= deadline {
            return;
        }
        for Stranger { pid, zombie } in children {
            if zombie {
                collect(pid);
            } else {
                let _ended = kill_process(pid, Signal::KILL);
            }
        }
        sleep(GONE_POLL).await;
    }
}

/// Collects the ends of orphans; the agent's own is left to who waits for it.
pub fn reap(agent: Option<Pid>) {
    for Stranger { pid, zombie } in children() {
        if zombie && Some(pid) != agent {
            collect(pid);
        }
    }
}

fn collect(pid: Pid) {
    let _by_somebody_else = waitpid(Some(pid), WaitOptions::NOHANG);
}

struct Stranger {
    pid: Pid,
    zombie: bool,
}

/// All our children, by what the kernel says of each process. There are some tens on a machine.
fn children() -> Vec<Stranger> {
    let own = getpid();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw)
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
            let (state, parent) = parse_stat(&stat)?;
            (parent == own.as_raw_nonzero().get()).then_some(Stranger { pid, zombie: state == 'Z' })
        })
        .collect()
}

/// A process's state and its parent. The name before them is in brackets and can hold anything.
fn parse_stat(stat: &str) -> Option<(char, i32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Resident memory of a process, in bytes; `None` once it is gone.
#[must_use]
pub fn resident_bytes(pid: Option<Pid>) -> Option<u64> {
    let pid = pid.unwrap_or_else(getpid);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let rows = [
            ("7 (sh) S 1 7 7 0 -1", Some(('S', 1))),
            ("7 (a) b (c) Z 42 7", Some(('Z', 42))),
            ("7 (x) Z) R 3 7", Some(('R', 3))),
            ("", None),
            ("7 (sh)", None),
            ("7 (sh) S", None),
        ];
        for (line, expect) in rows {
            assert_eq!(parse_stat(line), expect, "{line}");
        }
    }

    #[test]
    fn a_child_is_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = children().into_iter().any(|c| c.pid.as_raw_nonzero().get() == pid && !c.zombie);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert!(resident_bytes(None).unwrap() > 100_000);
    }
}
