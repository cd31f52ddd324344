//! Whether the agent has a run under way: the answer to a message, or a job of its clock.
//!
//! `chat.send` is acknowledged before the message is written down, and at SIGTERM the agent cuts its runs off. So the
//! drain first waits until it is quiet. For as long as a run writes a conversation, there is
//! `agents/<agent>/sessions/<session>.jsonl.lock` in the agent's state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks. It reads a few folders.
const POLL: Duration = Duration::from_millis(50);

/// How long there must be no lock: from the acknowledgement to the lock the agent has half a second of work on a busy
/// machine, and so it has between a run and the next one that has waited for it.
pub const QUIET: Duration = Duration::from_secs(1);

/// Returns once no run has been under way for [`QUIET`], or as soon as `is_running` says that there is no agent.
///
/// # Errors
/// The folders cannot be read.
pub async fn done(state: &Path, is_running: impl Fn() -> bool) -> io::Result<()> {
    let mut quiet_since = Instant::now();
    while is_running() && quiet_since.elapsed() < QUIET {
        let state: PathBuf = state.to_owned();
        let look = tokio::task::spawn_blocking(move || under_way(&state));
        if look.await.map_err(io::Error::other)?? {
            quiet_since = Instant::now();
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether any conversation is locked. The boot removes what an earlier process left, so a lock is of this one.
///
/// # Errors
/// A folder that is there cannot be read.
fn under_way(state: &Path) -> io::Result<bool> {
    for agent in entries(&state.join("agents"))? {
        for file in entries(&agent.join("sessions"))? {
            if file.as_os_str().as_encoded_bytes().ends_with(b".jsonl.lock") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What is in a folder; nothing, where there is none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lock_of_a_conversation_is_a_run() {
        let rows = [
            (vec![], false),
            (vec!["agents/main/sessions/a.jsonl"], false),
            (vec!["agents/main/sessions/sessions.json.lock"], false),
            (vec!["agents/main/a.jsonl.lock", "a.jsonl.lock", "agents/file"], false),
            (vec!["agents/main/sessions/a.jsonl", "agents/main/sessions/a.jsonl.lock"], true),
            (vec!["agents/a/sessions/x", "agents/b/sessions/a.jsonl.lock"], true),
        ];
        for (files, expect) in rows {
            let dir = tempfile::tempdir().unwrap();
            for file in &files {
                let path = dir.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "{}").unwrap();
            }
            assert_eq!(under_way(dir.path()).unwrap(), expect, "{files:?}");
        }
    }

    #[tokio::test]
    async fn it_is_done_when_it_is_quiet_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        done(dir.path(), || true).await.unwrap();
        let lock = dir.path().join("agents/main/sessions/a.jsonl.lock");
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(&lock, "{}").unwrap();
        let waiting = tokio::spawn({
            let state = dir.path().to_owned();
            async move { done(&state, || true).await }
        });
        tokio::time::sleep(QUIET.saturating_mul(2)).await;
        assert!(!waiting.is_finished());
        done(dir.path(), || false).await.unwrap();
        fs::remove_file(lock).unwrap();
        waiting.await.unwrap().unwrap();
    }
}
