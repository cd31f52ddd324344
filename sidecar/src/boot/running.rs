//! An agent that an earlier sidecar left behind. Its files must not be healed under it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use sha1::{Digest as _, Sha1};

/// The kernel kills an agent when its sidecar ends; that takes a moment.
const GOES_WITHIN: Duration = Duration::from_secs(10);

/// The agent's lock, of which there is one for each configuration file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lock {
    pid: i32,
    /// In ticks since the machine's start.
    start_time: Option<u64>,
}

/// What became of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    NoLock,
    /// Nobody holds it any more, and it was removed.
    Stale,
    /// Its holder runs, and has not ended while it was waited for.
    Running {
        pid: i32,
    },
}

/// Waits for an agent that still runs on the configuration at `config`, and removes the lock that it left.
///
/// # Errors
/// The lock cannot be read or removed.
pub(super) fn settle(tmp: &Path, config: &Path) -> io::Result<Found> {
    settle_within(tmp, config, GOES_WITHIN)
}

fn settle_within(tmp: &Path, config: &Path, limit: Duration) -> io::Result<Found> {
    let path = lock_path(tmp, config);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NoLock),
        Err(error) => return Err(error),
    };
    // A lock that says nothing was cut off while it was written: by a machine that stopped.
    if let Ok(Lock { pid, start_time: Some(started) }) = serde_json::from_slice(&text)
        && start_of(pid) == Some(started)
        && !ends_within(pid, limit)?
    {
        return Ok(Found::Running { pid });
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(Found::Stale),
    }
}

/// As the agent names it.
fn lock_path(tmp: &Path, config: &Path) -> PathBuf {
    let hash = Sha1::digest(config.as_os_str().as_encoded_bytes());
    let prefix: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let user = rustix::process::getuid().as_raw();
    tmp.join(format!("clawdbot-{user}")).join(format!("gateway.{prefix}.lock"))
}

/// When process `pid` started; `None` if there is none.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_in(&stat)
}

/// The name, in brackets, can hold anything; the 20th field after it is the start.
fn start_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A zombie runs no more.
    (fields.next()? != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

fn ends_within(pid: i32, limit: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(true) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let deadline = Instant::now().checked_add(limit);
    loop {
        let left = deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    struct Bed {
        dir: tempfile::TempDir,
    }

    impl Bed {
        const CONFIG: &str = "/data/clawdbot/clawdbot.json";

        fn with(lock: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = lock_path(dir.path(), Path::new(Self::CONFIG));
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(path, lock).unwrap();
            Self { dir }
        }

        fn settle(&self, limit: Duration) -> Found {
            settle_within(self.dir.path(), Path::new(Self::CONFIG), limit).unwrap()
        }
    }

    #[test]
    fn the_name_is_the_agents() {
        // Computed with sha1sum. That a real agent's lock is found, `it::boot` shows.
        let path = lock_path(Path::new("/tmp"), Path::new("/data/clawdbot/clawdbot.json"));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, "gateway.3bc34430.lock");
    }

    #[test]
    fn stale_locks_go_and_a_living_agents_stays() {
        let own = std::process::id();
        for stale in ["", "{\"pid\":", "{\"pid\":1,\"startTime\":1}", &format!("{{\"pid\":{own}}}")] {
            let bed = Bed::with(stale);
            assert_eq!(bed.settle(Duration::ZERO), Found::Stale, "{stale}");
            assert_eq!(bed.settle(Duration::ZERO), Found::NoLock);
        }
        let mut child = sleeper();
        let pid = child.id().cast_signed();
        let lock = format!("{{\"pid\":{pid},\"startTime\":{}}}", start_of(pid).unwrap());
        let bed = Bed::with(&lock);
        assert_eq!(bed.settle(Duration::ZERO), Found::Running { pid });
        assert_eq!(bed.settle(Duration::ZERO), Found::Running { pid });
        child.kill().unwrap();
        assert_eq!(bed.settle(Duration::from_secs(20)), Found::Stale, "it is waited for");
        child.wait().unwrap();
    }

    #[test]
    fn starts() {
        let stat =
            |state: &str| format!("7 (a ) b) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9988 1 2");
        assert_eq!(start_in(&stat("S")), Some(9988));
        assert_eq!(start_in(&stat("Z")), None);
        assert_eq!(start_in(""), None);
    }
}
