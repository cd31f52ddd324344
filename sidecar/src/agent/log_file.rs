//! What the agent has printed, on the volume: two files of bounded size, the older of which is given up when the
//! newer is full. A thread writes them, because a slow disk must not stop who serves.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Of one of the two files.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Lines that wait for the disk. Further ones are left out of the file.
const WAITING_LINES: usize = 1024;

/// Takes lines for the file. Dropping it ends the thread.
#[derive(Debug)]
pub struct LogFile(SyncSender<String>);

impl LogFile {
    /// Writes to `path`, appending, and keeps the file before in the same place under `.1`.
    ///
    /// # Errors
    /// There can be no thread. A file that cannot be written is no error: the lines are then only in memory.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let (sender, lines) = sync_channel(WAITING_LINES);
        std::thread::Builder::new().name("agent-log".to_owned()).spawn(move || write_all(&path, &lines))?;
        Ok(Self(sender))
    }

    /// Hands a line over. Never blocks.
    pub fn write(&self, line: String) {
        match self.0.try_send(line) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn write_all(path: &Path, lines: &Receiver<String>) {
    let mut file = None;
    for line in lines {
        // Said once for each file that could be opened; the lines are in memory all the same.
        if let Err(error) = write_one(&mut file, path, &line)
            && file.take().is_some()
        {
            tracing::warn!(%error, "the agent's log cannot be written");
        }
    }
}

fn write_one(slot: &mut Option<(File, u64)>, path: &Path, line: &str) -> io::Result<()> {
    let full = slot.as_ref().is_some_and(|(_, bytes)| *bytes >= MAX_FILE_BYTES);
    if full {
        *slot = None;
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let (file, bytes) = match slot {
        Some(open) => open,
        None => {
            let file = File::options().create(true).append(true).open(path)?;
            let bytes = file.metadata()?.len();
            slot.insert((file, bytes))
        }
    };
    file.write_all(line.as_bytes())?;
    *bytes = bytes.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_stay_bounded_and_keep_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut slot = None;
        let line = format!("{}\n", "x".repeat(1023));
        let lines = 3 * MAX_FILE_BYTES / 1024;
        for _ in 0..lines {
            write_one(&mut slot, &path, &line).unwrap();
        }
        write_one(&mut slot, &path, "the last\n").unwrap();
        let sizes =
            ["agent.log", "agent.log.1"].map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
        assert!(sizes.iter().all(|bytes| *bytes <= MAX_FILE_BYTES), "{sizes:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(fs::read_to_string(&path).unwrap().ends_with("the last\n"));
    }

    #[test]
    fn it_goes_on_where_the_process_before_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        for line in ["one\n", "two\n"] {
            write_one(&mut None, &path, line).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
