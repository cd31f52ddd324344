//! Moving and renaming.

use std::convert::Infallible;

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;

use super::Files;
use super::error::{FileError, failed};
use super::judged::{self, Judged};
use super::meta::{Kind, Meta};
use super::path::{WorkspacePath, is_protected_name};
use super::root::Target;

/// What a move may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// A file, or a folder that is empty.
    Files,
    Nothing,
}

/// Moves `from` to `to`, and returns where it is now: inside `to`, if that is a folder (as `mv` does, and legacy
/// did). Parents are made. A file that is there is replaced at once; a folder is replaced only by a folder, and only
/// if it is empty. Blocks.
///
/// # Errors
/// Either end is missing, outside or protected; a folder would go into itself; the disk fails.
pub fn rename(files: &Files, from: &WorkspacePath, to: &WorkspacePath) -> Result<WorkspacePath, FileError> {
    let anything = |_: &Meta| Ok(Ok::<_, Infallible>(Judged::Anything));
    let Ok(to) = rename_if(files, from, to, Replace::Files, anything)?;
    Ok(to)
}

/// As [`rename`], if `judge` has nothing against what is moved, at that moment. Else, inside, what it has. Blocks.
///
/// # Errors
/// Those of [`rename`], of `judge`, of [`judged::put`] and [`judged::exchange`]; [`FileError::Exists`] if something
/// would be replaced that must not be.
pub fn rename_if<V>(
    files: &Files,
    from: &WorkspacePath,
    to: &WorkspacePath,
    replace: Replace,
    judge: impl FnOnce(&Meta) -> Result<Result<Judged, V>, FileError>,
) -> Result<Result<WorkspacePath, V>, FileError> {
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
    let judged = match judge(&meta)? {
        Ok(judged) => judged,
        Err(against) => return Ok(Err(against)),
    };
    let is_same_name = source.id == target.id && source.name == target.name;
    match target.metadata()? {
        Some(_) if replace == Replace::Nothing => return Err(FileError::Exists),
        Some(_) if is_same_name => {}
        Some(replaced) if judged == Judged::Anything => {
            overwrite(&source, &target)?;
            // Two names of one file: the call does nothing then, and the old name would stay.
            if replaced.version.ino == meta.version.ino {
                unlink(&source)?;
            }
        }
        Some(replaced) if replaced.kind == Kind::Directory => return Err(FileError::Exists),
        // So that what it replaces can be put back, should it turn out to be another version.
        Some(_) => {
            judged::exchange(source.place(), target.place(), judged)?;
            unlink(&source)?;
        }
        None if judged == Judged::Anything && replace == Replace::Files => overwrite(&source, &target)?,
        None => judged::put(source.place(), target.place(), judged)?,
    }
    drop(held);
    target.sync_parent()?;
    if source.id != target.id {
        source.sync_parent()?;
    }
    Ok(Ok(to))
}

fn overwrite(source: &Target, target: &Target) -> Result<(), FileError> {
    match renameat(&source.parent, &source.name, &target.parent, &target.name) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => Err(FileError::IntoItself),
        Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => Err(FileError::Exists),
        Err(errno) => Err(FileError::from_errno("rename", errno)),
    }
}

fn unlink(target: &Target) -> Result<(), FileError> {
    unlinkat(&target.parent, &target.name, AtFlags::empty()).map_err(failed("unlink"))
}
