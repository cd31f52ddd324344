//! Files that are replaced as a whole, and files that are put aside.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shared::time::UnixMillis;

use crate::random;

/// Ends the name of a file that is not complete yet. What has it at the next start is removed.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// For what nobody but the agent and us should read.
pub(super) const PRIVATE_FILE: u32 = 0o600;
pub(super) const PRIVATE_DIR: u32 = 0o700;

/// Makes `bytes` the content of `path`: old or new, never a mixture, and on the disk when it returns.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = parts(path)?;
    let temporary = dir.join(format!(".{name}.{}{TEMPORARY_SUFFIX}", random::name()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        let _already_gone = fs::remove_file(&temporary);
        return Err(error);
    }
    sync(dir)
}

/// Makes `dir` and what is missing above it, for the owner alone.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(dir)
}

/// Puts the names in `dir` on the disk.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A folder for what was taken out of the agent's files. Nothing in it is ever removed by us.
#[derive(Debug, Clone)]
pub(super) struct Quarantine {
    dir: PathBuf,
    now: UnixMillis,
}

impl Quarantine {
    pub(super) const fn new(dir: PathBuf, now: UnixMillis) -> Self {
        Self { dir, now }
    }

    /// A name that nothing has, for something that was called `name`.
    pub(super) fn place(&self, name: &str) -> io::Result<PathBuf> {
        make_private_dir(&self.dir)?;
        Ok(self.dir.join(format!("{}-{}-{name}", self.now.0, random::name())))
    }

    /// Moves `path` here, and says where it is now.
    pub(super) fn take(&self, path: &Path) -> io::Result<PathBuf> {
        let (dir, name) = parts(path)?;
        let place = self.place(name)?;
        fs::rename(path, &place)?;
        sync(&self.dir)?;
        sync(dir)?;
        Ok(place)
    }
}

fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file's path"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_replaced_file_is_private_and_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new", PRIVATE_FILE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::create_dir(dir.path().join("folder")).unwrap();
        replace(&dir.path().join("folder"), b"new", PRIVATE_FILE).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_taken_keeps_its_content_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let (from, kept) = (dir.path().join("a.json"), dir.path().join("kept"));
        let quarantine = Quarantine::new(kept.clone(), UnixMillis(7));
        for content in ["one", "two"] {
            fs::write(&from, content).unwrap();
            let place = quarantine.take(&from).unwrap();
            assert!(!from.exists());
            assert_eq!(fs::read_to_string(&place).unwrap(), content);
            let name = place.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("7-") && name.ends_with("-a.json"), "{name}");
        }
        assert_eq!(fs::read_dir(kept).unwrap().count(), 2);
    }
}
