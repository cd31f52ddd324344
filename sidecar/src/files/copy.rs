//! Copying a file or a tree. The copy appears at once and whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, fsync, mkdirat, openat, readlinkat, renameat_with,
    statat, symlinkat, syncfs,
};

use super::error::{FileError, failed, failed_io};
use super::meta::{Kind, Meta};
use super::path::{RESERVED_PREFIX, TRASH_DIR, WorkspacePath};
use super::temp::Temp;
use super::{Files, remove::MAX_TREE_DEPTH};

/// Entries of one copy. A request for more would hold the disk for minutes.
pub const MAX_ENTRIES: usize = 100_000;

/// Copies `from` to `to`, where nothing may be yet. Parents are made; links are copied as links; FIFOs, sockets and
/// devices inside a tree are left out. Blocks.
///
/// # Errors
/// `from` is missing or special; something is at `to`; a folder would go into itself; the tree is too large; either
/// end is outside or protected; the disk fails or is full. Nothing is at `to` then.
pub fn copy(files: &Files, from: &WorkspacePath, to: &WorkspacePath) -> Result<(), FileError> {
    let source = files.root.target(from)?;
    let meta = source.metadata()?.ok_or(FileError::NotFound)?;
    if meta.kind == Kind::Special {
        return Err(FileError::NotAFile);
    }
    if meta.kind == Kind::Directory && to.is_within(from) {
        return Err(FileError::IntoItself);
    }
    if let Some(parent) = to.parent() {
        files.root.make_dirs(&parent)?;
    }
    let target = files.root.target(to)?;
    // Only a regular file can take a protected name, and nothing can take the trash's.
    if target.is_protected && (meta.kind != Kind::File || target.name == TRASH_DIR) {
        return Err(FileError::Protected);
    }
    if target.metadata()?.is_some() {
        return Err(FileError::Exists);
    }
    let temp = Temp::new(&target.parent)?;
    let (dir, name) = temp.place()?;
    let mut left = MAX_ENTRIES;
    // Names of ours are not copied, so a copy that lies inside its source by some alias does not meet itself.
    entry((source.parent.as_fd(), &source.name), (dir.as_fd(), name.as_ref()), &mut left, 0)?;
    if meta.kind == Kind::Directory {
        // One call for the whole tree; a file has been synced by itself.
        syncfs(dir).map_err(failed("syncfs"))?;
    }
    let held = files.locks.hold(&[&target]);
    renameat_with(dir, name, &target.parent, &target.name, RenameFlags::NOREPLACE)
        .map_err(failed("rename"))?;
    drop(held);
    temp.keep();
    target.sync_parent()
}

type Place<'a> = (std::os::fd::BorrowedFd<'a>, &'a OsStr);

fn entry(from: Place<'_>, to: Place<'_>, left: &mut usize, depth: usize) -> Result<(), FileError> {
    *left = left.checked_sub(1).ok_or(FileError::TreeTooLarge)?;
    let stat = statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
    let meta = Meta::of(&stat);
    match meta.kind {
        Kind::File => file(from, to, &meta, depth == 0),
        Kind::Symlink => {
            let text = readlinkat(from.0, from.1, Vec::new()).map_err(failed("readlink"))?;
            symlinkat(text, to.0, to.1).map_err(failed("symlink"))
        }
        Kind::Special => Ok(()),
        Kind::Directory if depth >= MAX_TREE_DEPTH / 2 => Err(FileError::TreeTooLarge),
        Kind::Directory => folder(from, to, &meta, left, depth),
    }
}

fn folder(
    from: Place<'_>,
    to: Place<'_>,
    meta: &Meta,
    left: &mut usize,
    depth: usize,
) -> Result<(), FileError> {
    let source = open_dir(from)?;
    mkdirat(to.0, to.1, Mode::from(0o700)).map_err(failed("mkdir"))?;
    let target = open_dir(to)?;
    for name in names(&source)? {
        entry((source.as_fd(), &name), (target.as_fd(), &name), left, depth + 1)?;
    }
    super::root::give(&target, meta.uid, meta.gid);
    fchmod(&target, Mode::from(meta.mode)).map_err(failed("chmod"))
}

fn names(dir: &OwnedFd) -> Result<Vec<OsString>, FileError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(failed("read folder"))? {
        let entry = entry.map_err(failed("read folder"))?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." && !bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
            names.push(OsStr::from_bytes(bytes).to_owned());
        }
    }
    Ok(names)
}

fn open_dir(place: Place<'_>) -> Result<OwnedFd, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(place.0, place.1, flags, Mode::empty()).map_err(failed("open folder"))
}

fn file(from: Place<'_>, to: Place<'_>, meta: &Meta, sync: bool) -> Result<(), FileError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = openat(from.0, from.1, OFlags::RDONLY | flags, Mode::empty()).map_err(failed("open"))?;
    // It was a regular file a moment ago.
    if Meta::of(&rustix::fs::fstat(&source).map_err(failed("fstat"))?).kind != Kind::File {
        return Err(FileError::NotAFile);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let target = openat(to.0, to.1, flags, Mode::from(0o600)).map_err(failed("create"))?;
    let (mut source, mut target) = (File::from(source), File::from(target));
    std::io::copy(&mut source, &mut target).map_err(failed_io("copy"))?;
    super::root::give(&target, meta.uid, meta.gid);
    fchmod(&target, Mode::from(meta.mode)).map_err(failed("chmod"))?;
    if sync { fsync(&target).map_err(failed("fsync")) } else { Ok(()) }
}
