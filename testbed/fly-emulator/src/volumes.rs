//! The folders of volumes and snapshots.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::fs;

/// A new volume, as a fresh file system is: with `lost+found` and nothing else.
pub(crate) async fn make(dir: &Path) -> Result<()> {
    let inside = dir.join("lost+found");
    fs::create_dir_all(&inside).await.with_context(|| format!("cannot make {}", inside.display()))
}

/// A copy of everything, sharing blocks where the file system can.
pub(crate) async fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).await.with_context(|| format!("cannot make {}", to.display()))?;
    let status = tokio::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .arg(from.join("."))
        .arg(to)
        .stdin(std::process::Stdio::null())
        .status()
        .await
        .context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {} to {}", from.display(), to.display());
    Ok(())
}

/// A process that is being killed may still put a file into it, so it is tried more than once.
pub(crate) async fn remove(dir: &Path) -> Result<()> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(dir).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done.with_context(|| format!("cannot remove {}", dir.display())),
        }
    }
}

pub(crate) fn snapshot_dir(dir: &Path, snapshot: &str) -> PathBuf {
    dir.join("snapshots").join(snapshot)
}
