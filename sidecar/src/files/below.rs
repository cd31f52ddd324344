//! Walking down from a folder that is open, one name at a time and never through a link: so a tree can be read
//! while others swap its parts, and nothing outside of it is reached.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::{Errno, Result};

use super::meta::{Kind, Meta};
use super::path::RESERVED_PREFIX;

/// An entry as its folder names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: OsString,
    pub kind: Kind,
}

/// What is in a folder, but for the sidecar's own names, in no order. At most `max` entries; whether there were
/// more comes with them.
///
/// # Errors
/// The disk fails.
pub fn entries(folder: impl AsFd, max: usize) -> Result<(Vec<Named>, bool)> {
    let mut found = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." || is_internal(bytes) {
            continue;
        }
        if found.len() >= max {
            return Ok((found, true));
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // Gone meanwhile, if it fails.
            let Ok(stat) = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        found.push(Named { name: OsString::from_vec(bytes.to_vec()), kind: kind.into() });
    }
    Ok((found, false))
}

/// Whether a name is the sidecar's own, which nobody is shown.
#[must_use]
pub fn is_internal(name: &[u8]) -> bool {
    name.starts_with(RESERVED_PREFIX.as_bytes())
}

/// Opens the folder `name` in `parent`.
///
/// # Errors
/// As `openat`; `XDEV` if something else is mounted there.
pub fn folder(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(&parent, name, flags, Mode::empty())?;
    same_device(&parent, &opened)?;
    Ok(opened)
}

/// Opens the regular file `name` in `parent` for reading.
///
/// # Errors
/// As `openat`; `XDEV` if something else is mounted there; `INVAL` if it is no regular file.
pub fn file(parent: impl AsFd, name: &OsStr) -> Result<(File, Meta)> {
    // NONBLOCK, for a FIFO that was put there since the folder was read.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(&parent, name, flags, Mode::empty())?;
    same_device(&parent, &opened)?;
    let meta = Meta::of(&fstat(&opened)?);
    if meta.kind == Kind::File { Ok((opened.into(), meta)) } else { Err(Errno::INVAL) }
}

fn same_device(parent: impl AsFd, opened: &OwnedFd) -> Result<()> {
    if fstat(parent)?.st_dev == fstat(opened)?.st_dev { Ok(()) } else { Err(Errno::XDEV) }
}

/// The path `folder/name`, where the root's own is empty.
#[must_use]
pub fn join(folder: &[u8], name: &OsStr) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len().saturating_add(name.len()).saturating_add(1));
    path.extend_from_slice(folder);
    if !folder.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}
