//! Moving and renaming.

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;

use super::Files;
use super::error::{FileError, failed};
use super::meta::Kind;
use super::path::{WorkspacePath, is_protected_name};

/// Moves `from` to `to`, and returns where it is now: inside `to`, if that is a folder (as `mv` does, and legacy
/// did). Parents are made. A file that is there is replaced at once; a folder is replaced only by a folder, and only
/// if it is empty. Blocks.
///
/// # Errors
/// Either end is missing, outside or protected; a folder would go into itself; the disk fails.
pub fn rename(files: &Files, from: &WorkspacePath, to: &WorkspacePath) -> Result<WorkspacePath, FileError> {
    let source = files.root.target(from)?;
    if source.is_protected {
        return Err(FileError::Protected);
    }
    let seen = source.metadata()?.ok_or(FileError::NotFound)?;
    let to = if files.root.is_dir(to) && from != to {
        to.join(from.name().ok_or(FileError::Protected)?)?
    } else {
        to.clone()
    };
    // The kernel would refuse it as well, but only after the parents have been made.
    if seen.kind == Kind::Directory && to != *from && to.is_within(from) {
        return Err(FileError::IntoItself);
    }
    if let Some(parent) = to.parent() {
        files.root.make_dirs(&parent)?;
    }
    let target = files.root.target(&to)?;

    let held = files.locks.hold(&[&source, &target]);
    let meta = source.metadata()?.ok_or(FileError::NotFound)?;
    // Only a regular file can take a protected name, and nothing can take the trash's.
    let is_trash =
        target.name.to_str().is_some_and(|name| name == super::path::TRASH_DIR && is_protected_name(name));
    if target.is_protected && (meta.kind != Kind::File || is_trash) {
        return Err(FileError::Protected);
    }
    let replaced = target.metadata()?;
    match renameat(&source.parent, &source.name, &target.parent, &target.name) {
        Ok(()) => {}
        Err(Errno::INVAL) => return Err(FileError::IntoItself),
        Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => return Err(FileError::Exists),
        Err(errno) => return Err(FileError::from_errno("rename", errno)),
    }
    // Two names of one file: the call does nothing then, and the old name would stay.
    let is_same_name = source.id == target.id && source.name == target.name;
    if !is_same_name && replaced.is_some_and(|replaced| replaced.version.ino == meta.version.ino) {
        unlinkat(&source.parent, &source.name, AtFlags::empty()).map_err(failed("unlink"))?;
    }
    drop(held);
    target.sync_parent()?;
    if source.id != target.id {
        source.sync_parent()?;
    }
    Ok(to)
}
