//! After a crash: temporary names that an earlier process left, anywhere in the workspace, are removed.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};

use super::error::{FileError, failed, failed_io};
use super::remove::{self, MAX_TREE_DEPTH};
use super::{Files, temp};

/// Entries that are looked at. A workspace with more has most of them in package folders, and half a minute of
/// reading is enough.
const MAX_ENTRIES: usize = 5_000_000;

/// Removes the litter, and returns how many names it was. Only names of other processes are touched, so it can run
/// while requests are served. What cannot be opened or removed is passed over. Blocks.
///
/// # Errors
/// The root itself cannot be read.
pub fn sweep(files: &Files) -> Result<usize, FileError> {
    let root = files.root.fd().try_clone_to_owned().map_err(failed_io("dup"))?;
    let device = fstat(&root).map_err(failed("fstat"))?.st_dev;
    let (mut removed, mut seen) = (0, 0);
    // A handle for each level, as in `remove::tree`.
    let mut open: Vec<OwnedFd> = vec![root];
    let mut pending: Vec<(usize, OsString)> = Vec::new();
    removed += scan(&open, &mut pending, &mut seen)?;
    while let Some((depth, name)) = pending.pop() {
        open.truncate(depth);
        let Some(here) = open.last() else { break };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(below) = openat(here, &name, flags, Mode::empty()) else { continue };
        if open.len() >= MAX_TREE_DEPTH || !fstat(&below).is_ok_and(|stat| stat.st_dev == device) {
            continue;
        }
        open.push(below);
        removed += scan(&open, &mut pending, &mut seen).unwrap_or(0);
        if seen > MAX_ENTRIES {
            tracing::warn!("the workspace is too large to be searched for temporary files to its end");
            break;
        }
    }
    Ok(removed)
}

/// Removes the litter of the innermost folder and notes the folders in it.
fn scan(
    open: &[OwnedFd],
    pending: &mut Vec<(usize, OsString)>,
    seen: &mut usize,
) -> Result<usize, FileError> {
    let Some(here) = open.last() else { return Ok(0) };
    let mut removed = 0;
    for entry in Dir::read_from(here).map_err(failed("read folder"))? {
        let entry = entry.map_err(failed("read folder"))?;
        *seen += 1;
        let bytes = entry.file_name().to_bytes();
        let name = OsStr::from_bytes(bytes);
        if temp::is_litter(bytes) {
            removed += usize::from(remove::tree(here, name).is_ok());
        } else if matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
            && bytes != b"."
            && bytes != b".."
        {
            pending.push((open.len(), name.to_owned()));
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn litter_of_others_goes_and_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join("a/.automna-tmp-0-1/deep/er")).unwrap();
        fs::write(dir.path().join("a/.automna-tmp-0-1/deep/er/file"), "").unwrap();
        fs::write(dir.path().join("a/b/.automna-tmp-0-2"), "").unwrap();
        fs::write(dir.path().join("a/b/.automna-tm"), "").unwrap();
        let ours = temp::Temp::new(files.root.fd()).unwrap();
        ours.create_file().unwrap();
        assert_eq!(sweep(&files).unwrap(), 2);
        assert_eq!(sweep(&files).unwrap(), 0);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        drop(ours);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
