//! Removing for good: file by file, relative to open folders, never through a link.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::Files;
use super::error::{FileError, failed};
use super::judged::{self, Judged, Place};
use super::meta::{Kind, Meta};
use super::path::WorkspacePath;
use super::root::Target;
use super::temp::{self, Temp};

/// Each level holds a descriptor. Deeper trees come from programs gone wrong.
pub(super) const MAX_TREE_DEPTH: usize = 256;

/// Deletes `path` for good. A folder first gets a temporary name, so that nobody sees half of it; what a crash
/// leaves of it is removed at the next start. Blocks.
///
/// # Errors
/// It is missing or protected, or the disk fails.
pub fn permanently(files: &Files, path: &WorkspacePath) -> Result<(), FileError> {
    let Ok(()) = permanently_if(files, path, |_| Ok(Ok::<_, Infallible>(Judged::Anything)))?;
    Ok(())
}

/// As [`permanently`], if `judge` has nothing against what is there at that moment. Else, inside, what it has.
/// Blocks.
///
/// # Errors
/// Those of [`permanently`], of `judge`, and of [`judged::put`].
pub fn permanently_if<V>(
    files: &Files,
    path: &WorkspacePath,
    judge: impl FnOnce(&Meta) -> Result<Result<Judged, V>, FileError>,
) -> Result<Result<(), V>, FileError> {
    let target = files.root.target(path)?;
    let _held = files.locks.hold(&[&target]);
    let meta = target.metadata()?.ok_or(FileError::NotFound)?;
    if target.is_protected {
        return Err(FileError::Protected);
    }
    match judge(&meta)? {
        Err(against) => return Ok(Err(against)),
        Ok(Judged::Anything) if meta.kind != Kind::Directory => {
            unlinkat(&target.parent, &target.name, AtFlags::empty()).map_err(failed("unlink"))?;
        }
        Ok(judged) => set_aside(&target, judged)?,
    }
    target.sync_parent()?;
    Ok(Ok(()))
}

/// Takes the name from what has it at once; it goes itself when the temporary name is dropped.
fn set_aside(target: &Target, judged: Judged) -> Result<(), FileError> {
    let temp = Temp::new(&target.parent)?;
    let (dir, name) = temp.place()?;
    judged::put(target.place(), Place { dir, name: name.as_ref() }, judged)
}

/// Removes whatever is at `name` in `dir`, with all that is below.
pub(super) fn tree(dir: impl AsFd, name: &OsStr) -> Result<(), FileError> {
    let mut open: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut pending: Vec<(usize, OsString)> = vec![(0, name.to_owned())];
    let start = dir.as_fd().try_clone_to_owned().map_err(super::error::failed_io("dup"))?;
    // Depth first: a name is taken up again when everything below it is gone.
    while let Some((depth, name)) = pending.last().cloned() {
        while open.len() > depth {
            open.pop();
        }
        let here = open.last().map_or(&start, |(fd, _)| fd);
        match unlinkat(here, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                pending.pop();
                continue;
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(FileError::from_errno("unlink", errno)),
        }
        match unlinkat(here, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                pending.pop();
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(FileError::from_errno("rmdir", errno)),
        }
        if depth >= MAX_TREE_DEPTH {
            // What is deeper gets a name at the top, and its turn after the rest.
            let top = temp::fresh_name();
            renameat(here, &name, &start, &top).map_err(failed("rename"))?;
            pending.pop();
            pending.insert(0, (0, top.into()));
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = openat(here, &name, flags, Mode::empty()).map_err(failed("open folder"))?;
        for entry in Dir::read_from(&below).map_err(failed("read folder"))? {
            let entry = entry.map_err(failed("read folder"))?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                pending.push((depth + 1, OsStr::from_bytes(bytes).to_owned()));
            }
        }
        open.push((below, name));
    }
    Ok(())
}
