//! Containment without `openat2`: one component at a time, each opened without following links, and links
//! followed by reading them. Used where the kernel lacks the call, and to find what a link points to.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::{Errno, Result};

/// As many links on one path as the kernel itself follows.
const MAX_LINKS: usize = 40;

/// Each level holds a descriptor while the path is walked. Deeper trees exist, but nobody edits in them.
const MAX_DEPTH: usize = 256;

/// What to do if the last component is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    Follow,
    Keep,
}

/// Where a path ends: a folder that is open, and a name in it. No name: the folder itself.
#[derive(Debug)]
pub struct Located {
    pub parent: OwnedFd,
    pub name: Option<OsString>,
}

/// Finds where `relative` ends below `root`. The last component need not exist.
///
/// # Errors
/// `XDEV`: it leads out, or to another device. `LOOP`: too many links. `AGAIN`: something was swapped under our
/// feet, try again. Else as `openat`.
pub fn locate(root: BorrowedFd<'_>, relative: &OsStr, last: Last) -> Result<Located> {
    let device = fstat(root)?.st_dev;
    let mut open: Vec<OwnedFd> = Vec::new();
    let mut pending: Vec<OsString> = components(relative);
    let mut links = 0;
    while let Some(component) = pending.pop() {
        if component == ".." {
            // Only a link can say so. Up is where we came from, never what the disk calls `..` by now.
            open.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let here = open.last().map_or(root, AsFd::as_fd);
        let is_last = pending.is_empty();
        let stat = match statat(here, &component, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if is_last => return located(here, Some(component)),
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && (!is_last || last == Last::Follow) {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let text = match readlinkat(here, &component, Vec::new()) {
                // It was a link a moment ago.
                Err(Errno::INVAL) => return Err(Errno::AGAIN),
                text => text?,
            };
            if text.as_bytes().starts_with(b"/") {
                return Err(Errno::XDEV);
            }
            pending.extend(components(OsStr::from_bytes(text.as_bytes())));
            continue;
        }
        if is_last {
            return located(here, Some(component));
        }
        if open.len() >= MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match openat(here, &component, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP)
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory =>
            {
                return Err(Errno::AGAIN);
            }
            next => next?,
        };
        if fstat(&next)?.st_dev != device {
            return Err(Errno::XDEV);
        }
        open.push(next);
    }
    located(open.last().map_or(root, AsFd::as_fd), None)
}

/// Opens what `relative` names, never following what turns out to be a link after all.
///
/// # Errors
/// As [`locate`] and `openat`.
pub fn open(root: BorrowedFd<'_>, relative: &OsStr, flags: OFlags, last: Last) -> Result<OwnedFd> {
    let Located { parent, name } = locate(root, relative, last)?;
    let name = name.unwrap_or_else(|| ".".into());
    let opened = match openat(&parent, &name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        // It was no link a moment ago.
        Err(Errno::LOOP) if last == Last::Follow => return Err(Errno::AGAIN),
        opened => opened?,
    };
    if last == Last::Follow && flags.contains(OFlags::PATH) {
        let kind = FileType::from_raw_mode(fstat(&opened)?.st_mode);
        if kind == FileType::Symlink {
            return Err(Errno::AGAIN);
        }
    }
    if fstat(&opened)?.st_dev != fstat(root)?.st_dev {
        return Err(Errno::XDEV);
    }
    Ok(opened)
}

fn located(parent: BorrowedFd<'_>, name: Option<OsString>) -> Result<Located> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Located { parent: openat(parent, ".", flags, Mode::empty())?, name })
}

/// Last first, since they are popped.
fn components(path: &OsStr) -> Vec<OsString> {
    let parts = path.as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut parts: Vec<OsString> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    parts.reverse();
    parts
}
