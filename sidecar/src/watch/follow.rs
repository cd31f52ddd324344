//! From what the kernel says of single folders to changes of the tree.
//!
//! A folder is watched before it is read, so what comes into it meanwhile is in the one or the other; what is in both
//! counts once. Folders are reached by their path, and that may lead elsewhere by now: so the watch of what was
//! reached is compared with the one that was meant, and if it is another, the folder is looked at again when the
//! kernel has no more to say.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::inotify::ReadFlags;
use rustix::io::{Errno, Result};

use super::Cause;
use super::change::{Batch, Change};
use super::inotify::{Inotify, Raw};
use super::tree::{Tree, Watch};
use crate::files::Files;
use crate::files::below::{self, Named};
use crate::files::meta::Kind;
use crate::files::path::TRASH_DIR;

/// Folders that are watched: each costs the kernel about a kilobyte. It has a limit of its own, which may be lower.
const MAX_FOLDERS: usize = 100_000;

/// Names of one folder that are read.
const MAX_FOLDER_ENTRIES: usize = 1_000_000;

/// Each level holds a descriptor while folders are read.
const MAX_DEPTH: usize = 128;

/// One end of moves whose other end is to come. It mostly comes next.
const MAX_HALF_MOVES: usize = 64;

/// A folder that moves whenever it is looked at: so often only what cannot be opened at all.
const MAX_TRIES: usize = 20;

/// Follows one workspace.
#[derive(Debug)]
pub(super) struct Follower {
    files: Files,
    inotify: Inotify,
    tree: Tree,
    batch: Batch,
    half_moves: Vec<HalfMove>,
    /// Folders that were elsewhere when they were to be read, and how often.
    again: Vec<(Watch, usize)>,
    lost: Option<Cause>,
    is_limited: bool,
}

#[derive(Debug)]
struct HalfMove {
    cookie: u32,
    watch: Watch,
    name: OsString,
    is_dir: bool,
}

/// A folder whose entries are being read.
struct Level {
    fd: OwnedFd,
    watch: Watch,
    path: Vec<u8>,
    entries: std::vec::IntoIter<Named>,
}

impl Follower {
    /// Watches everything. Blocks: some milliseconds for a thousand folders.
    ///
    /// # Errors
    /// There is no inotify to be had, or the root cannot be watched.
    pub(super) fn new(files: Files) -> Result<Self> {
        let inotify = Inotify::new()?;
        let root = below::folder(files.root.fd(), ".".as_ref())?;
        let tree = Tree::new(inotify.add(root.as_fd())?);
        let mut follower = Self {
            files,
            inotify,
            tree,
            batch: Batch::default(),
            half_moves: Vec::new(),
            again: Vec::new(),
            lost: None,
            is_limited: false,
        };
        follower.read_tree(root, follower.tree.root(), Vec::new(), false);
        Ok(follower)
    }

    /// For polling.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Not every folder is watched.
    pub(super) const fn is_limited(&self) -> bool {
        self.is_limited
    }

    pub(super) const fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(super) fn take_batch(&mut self) -> Vec<Change> {
        self.settle_half_moves();
        self.batch.take()
    }

    /// Takes in what the kernel has to say by now. False: it had nothing.
    ///
    /// # Errors
    /// Changes were lost: follow anew.
    pub(super) fn read(&mut self) -> std::result::Result<bool, Cause> {
        let events = self.inotify.read().map_err(|_| Cause::Overflow)?;
        let any = !events.is_empty();
        for event in events {
            self.take(event);
        }
        if !any {
            self.look_again();
        }
        match self.lost {
            Some(cause) => Err(cause),
            None => Ok(any),
        }
    }

    fn take(&mut self, event: Raw) {
        let Raw { watch, what, cookie, name } = event;
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost = Some(Cause::Overflow);
            return;
        }
        let Some(name) = name else {
            if watch == self.tree.root() && what.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                self.lost = Some(Cause::Root);
            }
            return;
        };
        if !self.tree.has(watch) {
            return;
        }
        let is_dir = what.contains(ReadFlags::ISDIR);
        let half = if what.contains(ReadFlags::MOVED_TO) { self.half_move(cookie) } else { None };
        // Whatever comes to a name that was just moved away comes after that.
        while let Some(at) = self.half_moves.iter().position(|half| half.watch == watch && half.name == name)
        {
            let half = self.half_moves.remove(at);
            self.gone(half.watch, &half.name, half.is_dir);
        }
        if self.is_hidden(watch, &name) {
            if let Some(half) = half {
                self.gone(half.watch, &half.name, half.is_dir);
            }
        } else if what.contains(ReadFlags::MOVED_FROM) {
            self.half_moves.push(HalfMove { cookie, watch, name, is_dir });
            if self.half_moves.len() > MAX_HALF_MOVES {
                self.settle_half_moves();
            }
        } else if what.contains(ReadFlags::MOVED_TO) {
            match half {
                Some(half) => self.moved(&half, watch, &name),
                None => self.arrived(watch, &name, is_dir),
            }
        } else if what.contains(ReadFlags::CREATE) {
            // A folder that is watched was met while its parent was read.
            if is_dir && self.tree.child(watch, &name).is_none() {
                self.arrived(watch, &name, true);
            } else if !is_dir
                && self.tree.know(watch, &name)
                && let Some(path) = self.path(watch, &name)
            {
                self.batch.created(path, false);
            }
        } else if what.contains(ReadFlags::DELETE) {
            self.gone(watch, &name, is_dir);
        } else if what.intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE)
            && !is_dir
            && let Some(path) = self.path(watch, &name)
        {
            self.batch.modified(path);
        }
    }

    fn is_hidden(&self, watch: Watch, name: &OsStr) -> bool {
        below::is_internal(name.as_bytes()) || (watch == self.tree.root() && name == TRASH_DIR)
    }

    fn path(&self, watch: Watch, name: &OsStr) -> Option<Vec<u8>> {
        Some(below::join(&self.tree.path(watch)?, name))
    }

    fn half_move(&mut self, cookie: u32) -> Option<HalfMove> {
        let at = self.half_moves.iter().position(|half| half.cookie == cookie)?;
        Some(self.half_moves.remove(at))
    }

    /// The other ends will not come: these went out of sight.
    fn settle_half_moves(&mut self) {
        for half in std::mem::take(&mut self.half_moves) {
            self.gone(half.watch, &half.name, half.is_dir);
        }
    }

    fn gone(&mut self, watch: Watch, name: &OsStr, is_dir: bool) {
        let removed = self.tree.remove(watch, name);
        // A file has gone, but a folder that came after it was met already: it goes as well, and will come again.
        let is_dir = is_dir || !removed.is_empty();
        self.unwatch(removed);
        self.tree.forget(watch, name);
        if let Some(path) = self.path(watch, name) {
            self.batch.deleted(path, is_dir);
        }
    }

    fn moved(&mut self, half: &HalfMove, watch: Watch, name: &OsStr) {
        if half.is_dir {
            return self.moved_folder(half, watch, name);
        }
        let (from, to) = (self.path(half.watch, &half.name), self.path(watch, name));
        self.tree.forget(half.watch, &half.name);
        let replaced = !self.tree.know(watch, name);
        if let (Some(from), Some(to)) = (from, to) {
            self.batch.moved(from, to, false, replaced);
        }
    }

    /// A folder keeps its watches, if it is the one that we know by the old name, and still is at the new one: the disk
    /// is ahead of what the kernel has told so far. Otherwise one has gone and another has come.
    fn moved_folder(&mut self, half: &HalfMove, watch: Watch, name: &OsStr) {
        let known = self.tree.child(half.watch, &half.name);
        if let Some(known) = known
            && self.is_at(known, watch, name)
            && let (Some(from), Some(to)) = (self.path(half.watch, &half.name), self.path(watch, name))
        {
            self.tree.forget(half.watch, &half.name);
            let replaced = !self.tree.know(watch, name);
            let displaced = self.tree.put(watch, name, known);
            self.unwatch(displaced);
            self.batch.moved(from, to, true, replaced);
        } else {
            self.gone(half.watch, &half.name, true);
            let met = self.tree.child(watch, name).is_some_and(|met| self.is_at(met, watch, name));
            if !met {
                self.arrived(watch, name, true);
            }
        }
    }

    /// Whether the folder that has the watch `known` is at `name` in `parent`.
    fn is_at(&self, known: Watch, parent: Watch, name: &OsStr) -> bool {
        let Some(folder) = self.open(parent).and_then(|fd| below::folder(fd, name).ok()) else {
            return false;
        };
        self.is_watched_as(folder.as_fd(), known)
    }

    fn is_watched_as(&self, folder: BorrowedFd<'_>, known: Watch) -> bool {
        let Ok(reached) = self.inotify.add(folder) else { return false };
        if reached != known && !self.tree.has(reached) {
            self.inotify.remove(reached);
        }
        reached == known
    }

    /// Something is at a name, and where it was before is unknown.
    fn arrived(&mut self, watch: Watch, name: &OsStr, is_dir: bool) {
        let Some(path) = self.path(watch, name) else { return };
        let is_new = self.tree.know(watch, name);
        if is_dir {
            let displaced = self.tree.remove(watch, name);
            if !displaced.is_empty() {
                self.batch.deleted(path.clone(), true);
            }
            self.unwatch(displaced);
            self.batch.created(path, true);
            self.read_folder(watch, name, true);
        } else if is_new {
            self.batch.created(path, false);
        } else {
            self.batch.modified(path);
        }
    }

    fn unwatch(&self, watches: Vec<Watch>) {
        for watch in watches {
            self.inotify.remove(watch);
        }
    }

    /// Watches the folder `name` in `parent` with all that is below.
    fn read_folder(&mut self, parent: Watch, name: &OsStr, announce: bool) {
        let Some(fd) = self.open(parent) else {
            self.again.push((parent, 0));
            return;
        };
        let Ok(folder) = below::folder(&fd, name) else {
            // Gone, which will be told; or mounted, or closed to us.
            return;
        };
        let Some(path) = self.path(parent, name) else { return };
        if let Some(watch) = self.watch(folder.as_fd(), parent, name) {
            self.read_tree(folder, watch, path, announce);
        }
    }

    /// Opens the folder that has this watch, and no other.
    fn open(&self, watch: Watch) -> Option<OwnedFd> {
        let path = self.tree.path(watch)?;
        let mut fd = below::folder(self.files.root.fd(), ".".as_ref()).ok()?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            fd = below::folder(&fd, OsStr::from_bytes(name)).ok()?;
        }
        self.is_watched_as(fd.as_fd(), watch).then_some(fd)
    }

    fn watch(&mut self, folder: BorrowedFd<'_>, parent: Watch, name: &OsStr) -> Option<Watch> {
        if self.tree.count() >= MAX_FOLDERS {
            self.is_limited = true;
            return None;
        }
        let mut added = self.inotify.add(folder);
        if let Ok(watch) = added
            && let Some((from, old_name)) = self.tree.place(watch)
            && (from, old_name.as_os_str()) != (parent, name)
        {
            // It was moved here, which was not told yet: what is told of it from before that is of no use here.
            self.gone(from, &old_name, true);
            added = self.inotify.add(folder);
        }
        match added {
            // Its folder went, with the one that was moved here: there is no telling what is where.
            Ok(_) if !self.tree.has(parent) => {
                self.lost = Some(Cause::Overflow);
                None
            }
            Ok(watch) => {
                let displaced = self.tree.put(parent, name, watch);
                self.unwatch(displaced);
                Some(watch)
            }
            Err(Errno::NOENT) => None,
            Err(_no_more_or_closed) => {
                self.is_limited = true;
                None
            }
        }
    }

    /// Reads a folder that is watched, and watches all that are below.
    fn read_tree(&mut self, fd: OwnedFd, watch: Watch, path: Vec<u8>, announce: bool) {
        let mut levels = Vec::new();
        levels.extend(self.level(fd, watch, path));
        while let Some(level) = levels.last_mut() {
            let Some(Named { name, kind }) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let (watch, path) = (level.watch, below::join(&level.path, &name));
            if self.is_hidden(watch, &name) {
                continue;
            }
            let is_new = self.tree.know(watch, &name);
            if announce && is_new {
                self.batch.created(path.clone(), kind == Kind::Directory);
            }
            if kind != Kind::Directory || self.tree.child(watch, &name).is_some() {
                continue;
            }
            match below::folder(&level.fd, &name) {
                Ok(_) if levels.len() >= MAX_DEPTH => self.is_limited = true,
                Ok(fd) => {
                    if let Some(watch) = self.watch(fd.as_fd(), watch, &name) {
                        levels.extend(self.level(fd, watch, path));
                    }
                }
                // What is mounted there is not of the workspace; what is gone will be told.
                Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(_) => self.is_limited = true,
            }
        }
    }

    fn level(&mut self, fd: OwnedFd, watch: Watch, path: Vec<u8>) -> Option<Level> {
        match below::entries(&fd, MAX_FOLDER_ENTRIES) {
            Ok((entries, has_more)) => {
                self.is_limited |= has_more;
                Some(Level { fd, watch, path, entries: entries.into_iter() })
            }
            Err(_) => {
                self.is_limited = true;
                None
            }
        }
    }

    /// Reads the folders that were elsewhere. Now that everything was heard, they are where they should be, or move
    /// again at this very moment: then the next round finds them.
    fn look_again(&mut self) {
        for (watch, tries) in std::mem::take(&mut self.again) {
            if !self.tree.has(watch) {
                continue;
            }
            match (self.open(watch), self.tree.path(watch)) {
                (Some(fd), Some(path)) => self.read_tree(fd, watch, path, true),
                _ if tries < MAX_TRIES => self.again.push((watch, tries.saturating_add(1))),
                // It is closed to us.
                _ => self.is_limited = true,
            }
        }
    }

    /// Something is left to do once the kernel has no more to say.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.again.is_empty() || !self.half_moves.is_empty()
    }
}
