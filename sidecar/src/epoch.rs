//! The epoch arbiter: who may still write, as far as this machine knows.
//!
//! The highest epoch that was ever seen is kept on the volume, and it is on the disk before a request of that
//! epoch is served. So a machine that restarts cannot be talked into an older epoch.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::id::Epoch;

/// The sidecar's own folder below the data directory.
pub const STATE_DIR: &str = ".automna";
const FILE: &str = "epoch";

/// A `u64` has at most 20 digits; with the newline there is room to spare. A longer file is not ours.
const MAX_FILE_BYTES: usize = 32;

/// What to do with a request, by its ticket's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The ticket's epoch is ours.
    Serve,
    /// The ticket's epoch is newer: store it, then serve.
    Raise,
    /// The ticket's epoch is older: the edge routed by an old lease.
    Stale,
}

/// Compares a ticket's epoch with our own.
#[must_use]
pub const fn decide(own: Epoch, ticket: Epoch) -> Verdict {
    if ticket.0 == own.0 {
        Verdict::Serve
    } else if ticket.0 > own.0 {
        Verdict::Raise
    } else {
        Verdict::Stale
    }
}

/// Why the epoch is not known at the start. Serving without it could serve an older one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("The folder for the epoch cannot be made: {0}.")]
    Folder(#[source] io::Error),
    #[error("The epoch file cannot be read: {0}.")]
    Unreadable(#[source] io::Error),
    #[error("The epoch file holds something else than an epoch.")]
    Garbage,
}

/// The highest epoch seen, in memory and on the volume.
#[derive(Debug, Clone)]
pub struct Arbiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Never ahead of the file.
    own: AtomicU64,
    /// Held while the file is written, so that two raises do not write at once and the lower never wins.
    writing: Mutex<()>,
}

impl Arbiter {
    /// Reads the epoch below `data_dir`; a volume that never saw one is at 0.
    ///
    /// # Errors
    /// The folder or the file cannot be used. Do not serve then.
    pub fn load(data_dir: &Path) -> Result<Self, LoadError> {
        let dir = data_dir.join(STATE_DIR);
        fs::create_dir_all(&dir).map_err(LoadError::Folder)?;
        let own = match fs::read(dir.join(FILE)) {
            Ok(bytes) => parse(&bytes).ok_or(LoadError::Garbage)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Epoch(0),
            Err(error) => return Err(LoadError::Unreadable(error)),
        };
        Ok(Self(Arc::new(Inner { dir, own: AtomicU64::new(own.0), writing: Mutex::new(()) })))
    }

    /// The highest epoch that is on the disk.
    #[must_use]
    pub fn own(&self) -> Epoch {
        Epoch(self.0.own.load(Ordering::Acquire))
    }

    /// Settles whether a request of epoch `ticket` is served, and makes a newer epoch durable first. `Raise`
    /// is never returned: it has then happened, and the answer is `Serve`.
    ///
    /// The write runs on the blocking pool, to its end even if the caller goes away.
    ///
    /// # Errors
    /// The newer epoch could not be stored; the old one still holds, and the request must not be served.
    pub async fn admit(&self, ticket: Epoch) -> io::Result<Verdict> {
        match decide(self.own(), ticket) {
            Verdict::Raise => {
                let arbiter = self.clone();
                tokio::task::spawn_blocking(move || arbiter.raise(ticket)).await.map_err(io::Error::other)?
            }
            settled @ (Verdict::Serve | Verdict::Stale) => Ok(settled),
        }
    }

    /// Blocks on the disk.
    fn raise(&self, ticket: Epoch) -> io::Result<Verdict> {
        // The guard protects no data, so a poisoned one is as good.
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Another raise may have come first.
        let verdict = decide(self.own(), ticket);
        if verdict != Verdict::Raise {
            return Ok(verdict);
        }
        store(&self.0.dir, ticket)?;
        self.0.own.store(ticket.0, Ordering::Release);
        tracing::info!(epoch = ticket.0, "epoch raised to {}", ticket.0);
        Ok(Verdict::Serve)
    }
}

/// Old or new, never a mixture, and on the disk when it returns.
fn store(dir: &Path, epoch: Epoch) -> io::Result<()> {
    let temporary = dir.join("epoch.tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{}", epoch.0)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

fn parse(bytes: &[u8]) -> Option<Epoch> {
    if bytes.len() > MAX_FILE_BYTES {
        return None;
    }
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    // `u64::from_str` would accept a sign.
    let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok().map(Epoch)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let rows = [
            (0, 0, Verdict::Serve),
            (0, 1, Verdict::Raise),
            (7, 7, Verdict::Serve),
            (7, 6, Verdict::Stale),
            (7, 8, Verdict::Raise),
            (7, u64::MAX, Verdict::Raise),
            (u64::MAX, 0, Verdict::Stale),
        ];
        for (own, ticket, expect) in rows {
            assert_eq!(decide(Epoch(own), Epoch(ticket)), expect, "own {own}, ticket {ticket}");
        }
    }

    #[test]
    fn files() {
        let rows: &[(&[u8], Option<u64>)] = &[
            (b"0\n", Some(0)),
            (b"18446744073709551615\n", Some(u64::MAX)),
            (b"18446744073709551616\n", None),
            (b"7", None),
            (b"", None),
            (b"\n", None),
            (b"+7\n", None),
            (b" 7\n", None),
            (b"7\n\n", None),
            (b"\xff\n", None),
            (b"00000000000000000000000000000000000007\n", None),
        ];
        for (bytes, expect) in rows {
            assert_eq!(parse(bytes).map(|e| e.0), *expect, "{bytes:?}");
        }
    }

    #[test]
    fn a_raise_is_there_after_a_restart_and_nothing_lowers_it() {
        let data = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::load(data.path()).unwrap();
        assert_eq!(arbiter.own(), Epoch(0));
        assert_eq!(arbiter.raise(Epoch(5)).unwrap(), Verdict::Serve);
        assert_eq!(arbiter.raise(Epoch(4)).unwrap(), Verdict::Stale);
        assert_eq!(Arbiter::load(data.path()).unwrap().own(), Epoch(5));
    }

    #[test]
    fn raises_at_the_same_time_end_at_the_highest() {
        let data = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::load(data.path()).unwrap();
        std::thread::scope(|scope| {
            for epoch in 1..=16 {
                let arbiter = &arbiter;
                scope.spawn(move || arbiter.raise(Epoch(epoch)).unwrap());
            }
        });
        assert_eq!(arbiter.own(), Epoch(16));
        assert_eq!(Arbiter::load(data.path()).unwrap().own(), Epoch(16));
    }

    #[test]
    fn a_raise_that_cannot_be_stored_does_not_count() {
        let data = tempfile::tempdir().unwrap();
        let arbiter = Arbiter::load(data.path()).unwrap();
        fs::remove_dir_all(data.path().join(STATE_DIR)).unwrap();
        assert!(arbiter.raise(Epoch(5)).is_err());
        assert_eq!(arbiter.own(), Epoch(0));
    }

    #[test]
    fn garbage_and_unreadable_files_are_no_start() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join(STATE_DIR).join(FILE);
        fs::create_dir_all(&file).unwrap();
        assert!(matches!(Arbiter::load(data.path()), Err(LoadError::Unreadable(_))));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "seven\n").unwrap();
        assert!(matches!(Arbiter::load(data.path()), Err(LoadError::Garbage)));
    }
}
