//! Moves that are bound to what was judged before them.
//!
//! The agent takes none of our locks: between the judgement of a file and its move, another can have taken its
//! name, or its content can have been written anew. So what has arrived is looked at, and goes back if it is not
//! what was judged.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, statat};
use rustix::io::Errno;

use super::error::{FileError, failed};
use super::meta::{Meta, Version};

/// What may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Whatever has the name.
    Anything,
    /// Only this version.
    Only(Version),
}

/// A name in an open folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a OsStr,
}

/// Moves `from` to `to`, where nothing may be.
///
/// # Errors
/// [`FileError::Exists`] if something is; [`FileError::Precondition`] if it was not what was judged. It is back
/// then. Only if `from` has been taken again meanwhile, it stays at `to`: a newer file has replaced it.
pub(super) fn put(from: Place<'_>, to: Place<'_>, judged: Judged) -> Result<(), FileError> {
    rename(from, to, RenameFlags::NOREPLACE)?;
    let Err(against) = check(to, judged) else { return Ok(()) };
    match rename(to, from, RenameFlags::NOREPLACE) {
        Ok(()) | Err(FileError::Exists) => Err(against),
        Err(error) => Err(error),
    }
}

/// Exchanges what has the two names.
///
/// # Errors
/// [`FileError::Precondition`] if what was at `from` was not what was judged. Both are back then.
pub(super) fn exchange(from: Place<'_>, to: Place<'_>, judged: Judged) -> Result<(), FileError> {
    rename(from, to, RenameFlags::EXCHANGE)?;
    let Err(against) = check(to, judged) else { return Ok(()) };
    rename(to, from, RenameFlags::EXCHANGE)?;
    Err(against)
}

fn rename(from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> Result<(), FileError> {
    renameat_with(from.dir, from.name, to.dir, to.name, flags).map_err(|errno| match errno {
        Errno::INVAL => FileError::IntoItself,
        errno => FileError::from_errno("rename", errno),
    })
}

/// Whether `judged` is what is at `place`.
fn check(place: Place<'_>, judged: Judged) -> Result<(), FileError> {
    let Judged::Only(judged) = judged else { return Ok(()) };
    let stat = statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
    let is_same = Meta::of(&stat).version.is_but_for_ctime(&judged);
    if is_same { Ok(()) } else { Err(FileError::Precondition { current: None }) }
}
