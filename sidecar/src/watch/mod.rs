//! What changes in the workspace, as it changes.
//!
//! ```text
//! kernel ─▶ [inotify] ─▶ [follow]: tree of watches ([tree]), changes of a burst ([change]) ─▶ Watcher's sink
//!                                                                                             │
//! client ◀─ routes::events ◀─ [feed] ◀─ [journal]: ring in memory, its copy on the volume ◀────┘
//! ```
//!
//! * [`Watcher`] is of use by itself: whoever needs to know what changes gives it a sink.
//! * Folders are watched through handles and never through links; the trash and the sidecar's own names are not seen.
//! * Nothing is lost in silence: where a change may have been missed, there is a [`Cause`] instead.
//! * While nothing changes it costs no time at all. Memory: some hundred bytes and a kilobyte in the kernel for each
//!   folder, some bytes for each file.

pub mod change;
pub mod feed;
mod follow;
mod inotify;
pub mod journal;
#[cfg(test)]
mod tests;
pub mod tree;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::files::Files;
use change::Change;
use follow::Follower;

/// How long changes are gathered before they are told: a burst of writes to one file is then one change, and nobody
/// sees the delay.
const GATHER: Duration = Duration::from_millis(100);

/// The same for files that are written without end, as logs are.
const GATHER_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at what the kernel says. It merges what repeats itself, so a busy writer costs us little; its
/// queue holds some 16,000 events, which nobody causes in this time.
const BREATH: Duration = Duration::from_millis(5);

/// Changes that are told at once; a burst of more comes in parts.
const MAX_BATCH: usize = 4096;

/// Buffers that are read in a row: as many as the kernel's queue fills, so that a writer who is faster than we are
/// does not keep us from telling.
const MAX_READS: usize = 32;

/// After changes were lost everything is read anew, no more often than this.
const ANEW_PAUSE: Duration = Duration::from_secs(1);

/// Why changes may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RescanCause)]
pub enum Cause {
    /// More happened at once than the kernel notes.
    Overflow,
    /// The sidecar was not running, or did not watch yet.
    Restart,
    /// There are more folders than can be watched; those that are not are silent.
    WatchLimit,
    /// The workspace itself was moved or removed.
    Root,
    /// The cursor is older than what is kept.
    Expired,
    /// The cursor is not of this volume.
    Unknown,
    /// The client reads more slowly than changes come.
    Slow,
}

/// What a watcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// In order; never empty.
    Changes(Vec<Change>),
    /// Changes may have been missed. From now on they are told again, if there is anything to watch.
    Lost(Cause),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    is_limited: bool,
}

impl Watcher {
    /// Begins to watch. What changes after the return is told to `sink`, on a thread of its own. Blocks while
    /// everything is read.
    ///
    /// # Errors
    /// Nothing can be watched, or there is no thread to be had.
    pub fn start(files: Files, sink: impl FnMut(Report) + Send + 'static) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let follower = Follower::new(files.clone())?;
        let is_limited = follower.is_limited();
        let woken = wake.clone();
        let work = move || Loop { files, wake: woken, sink }.run(follower);
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(work)?;
        Ok(Self { wake, thread: Some(thread), is_limited })
    }

    /// Not every folder could be watched at the start. Later, [`Cause::WatchLimit`] is told.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.is_limited
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _cannot_fail = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Loop<S> {
    files: Files,
    wake: Arc<OwnedFd>,
    sink: S,
}

impl<S: FnMut(Report)> Loop<S> {
    fn run(mut self, mut follower: Follower) {
        let mut was_limited = follower.is_limited();
        while let Some(cause) = self.follow(&mut follower, &mut was_limited) {
            tracing::warn!(?cause, "changes of files were lost; everything is read anew");
            loop {
                if self.is_woken(Some(ANEW_PAUSE)) {
                    return;
                }
                // Not before: what changes until then may be missed.
                if let Ok(anew) = Follower::new(self.files.clone()) {
                    follower = anew;
                    break;
                }
            }
            (self.sink)(Report::Lost(cause));
        }
    }

    /// Returns when changes were lost; None: when the watcher was dropped.
    fn follow(&mut self, follower: &mut Follower, was_limited: &mut bool) -> Option<Cause> {
        let mut due: Option<Instant> = None;
        // What was only modified in the last batch, and when that was.
        let (mut hot, mut told) = (HashSet::new(), Instant::now());
        loop {
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            if self.wait(follower, timeout) {
                return None;
            }
            for _ in 0..MAX_READS {
                match follower.read() {
                    Err(cause) => return Some(cause),
                    Ok(true) if follower.batch().len() < MAX_BATCH => {}
                    Ok(_) => break,
                }
            }
            if follower.is_limited() && !*was_limited {
                *was_limited = true;
                (self.sink)(Report::Lost(Cause::WatchLimit));
            }
            let now = Instant::now();
            if follower.batch().is_empty() && !follower.is_unsettled() {
                due = None;
            } else if due.is_none() {
                due = now.checked_add(GATHER);
            }
            let is_full = follower.batch().len() >= MAX_BATCH;
            if is_full || due.is_some_and(|due| now >= due) {
                let wait = GATHER_AGAIN.saturating_sub(now.saturating_duration_since(told));
                if !is_full
                    && !wait.is_zero()
                    && !follower.batch().is_empty()
                    && follower.batch().only_modifies(&hot)
                {
                    due = now.checked_add(wait.min(GATHER));
                } else {
                    let changes = follower.take_batch();
                    due = None;
                    (hot, told) = (modified(&changes), now);
                    if !changes.is_empty() {
                        (self.sink)(Report::Changes(changes));
                    }
                }
            }
            if self.is_woken(Some(BREATH)) {
                return None;
            }
        }
    }

    /// Until the kernel has something to say, or the time is over. True: the watcher was dropped.
    fn wait(&self, follower: &Follower, timeout: Option<Duration>) -> bool {
        let mut fds = [
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(follower.fd(), PollFlags::IN),
        ];
        let _interrupted = poll(&mut fds, timespec(timeout).as_ref());
        fds.first().is_some_and(|wake| !wake.revents().is_empty())
    }

    fn is_woken(&self, timeout: Option<Duration>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let _interrupted = poll(&mut fds, timespec(timeout).as_ref());
        fds.first().is_some_and(|wake| !wake.revents().is_empty())
    }
}

fn timespec(timeout: Option<Duration>) -> Option<Timespec> {
    timeout.and_then(|timeout| Timespec::try_from(timeout).ok())
}

fn modified(changes: &[Change]) -> HashSet<Vec<u8>> {
    let paths = changes.iter().filter_map(|change| match change {
        Change::Modified { path } => Some(path.clone()),
        Change::Created { .. } | Change::Deleted { .. } | Change::Moved { .. } => None,
    });
    paths.collect()
}
