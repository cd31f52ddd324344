//! The workspace as a directory handle. Whatever a path names is opened relative to it, and the kernel sees to
//! it that no component leads out: links beneath the root are followed, absolute links and links that climb out
//! are refused, and so are mounts and the magic links of /proc.
//!
//! Everything here blocks on the disk: it belongs on the blocking pool.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, fchown, fstat, fsync, mkdirat, openat, openat2, statat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

use super::error::{FileError, failed};
use super::judged::Place;
use super::meta::{Kind, Meta};
use super::path::{WorkspacePath, is_protected_name};
use super::walk::{self, Last, Located};

/// A rename anywhere on the way makes the kernel say "again"; so many in a row only an attacker manages.
const MAX_RETRIES: usize = 100;

/// Making parents races with those who remove them.
const MAX_MKDIR_RETRIES: usize = 8;

/// For folders that we make; the agent's own have the same.
const DIR_MODE: u32 = 0o755;

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Who enforces containment. Chosen once, at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// `openat2`.
    Kernel,
    /// Where the kernel lacks it or a sandbox forbids it.
    Walk,
}

/// The workspace. See the module.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    id: DirId,
    mechanism: Mechanism,
}

/// A folder's identity, whatever path led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId {
    dev: u64,
    ino: u64,
}

/// What a mutation acts on: a name in a folder that is open.
#[derive(Debug)]
pub struct Target {
    pub parent: OwnedFd,
    pub id: DirId,
    pub name: OsString,
    /// SOUL.md and its like, whichever path led here.
    pub is_protected: bool,
}

impl Target {
    pub(super) fn place(&self) -> Place<'_> {
        Place { dir: &self.parent, name: &self.name }
    }
}

impl Root {
    /// Opens the workspace, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let root = Self::open_with(dir, Mechanism::Kernel)?;
        match root.open_at("", OFlags::PATH | OFlags::DIRECTORY, Last::Follow) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG) => {
                tracing::warn!("openat2 is not available; paths are walked one component at a time");
                Ok(Self { mechanism: Mechanism::Walk, ..root })
            }
            _ => Ok(root),
        }
    }

    /// As [`Self::open`], with a mechanism of one's choice.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: &Path, mechanism: Mechanism) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let fd: OwnedFd = File::open(dir)?.into();
        let stat = fstat(&fd)?;
        if Meta::of(&stat).kind != Kind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Self { fd, id: DirId { dev: stat.st_dev, ino: stat.st_ino }, mechanism })
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Opens a regular file for reading. Links beneath the root are followed. FIFOs, sockets and devices are not
    /// opened at all.
    ///
    /// # Errors
    /// It is missing, no regular file, outside, or cannot be opened.
    pub fn open_file(&self, path: &WorkspacePath) -> Result<(File, Meta), FileError> {
        // First without any effect on what is there: to open a FIFO, even only to look, wakes its writer.
        let seen = self.open_at(path.relative(), OFlags::PATH, Last::Follow).map_err(failed("open"))?;
        regular(&seen)?;
        // NONBLOCK, for a FIFO that was put there in between.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.open_at(path.relative(), flags, Last::Follow).map_err(failed("open"))?;
        let meta = regular(&opened)?;
        Ok((File::from(opened), meta))
    }

    /// Opens a folder, for listing and for acting on names in it. Links beneath the root are followed.
    ///
    /// # Errors
    /// It is missing, no folder, outside, or cannot be opened.
    pub fn open_dir(&self, path: &WorkspacePath) -> Result<OwnedFd, FileError> {
        self.open_at(path.relative(), OFlags::RDONLY | OFlags::DIRECTORY, Last::Follow)
            .map_err(failed("open folder"))
    }

    /// What is at `path`; of a link, the link itself.
    ///
    /// # Errors
    /// It is missing, outside, or the disk fails.
    pub fn metadata(&self, path: &WorkspacePath) -> Result<Meta, FileError> {
        let seen = self.open_at(path.relative(), OFlags::PATH, Last::Keep).map_err(failed("open"))?;
        Ok(Meta::of(&fstat(&seen).map_err(failed("fstat"))?))
    }

    /// Whether `path` is a folder, or a link to one beneath the root.
    #[must_use]
    pub fn is_dir(&self, path: &WorkspacePath) -> bool {
        self.open_at(path.relative(), OFlags::PATH | OFlags::DIRECTORY, Last::Follow).is_ok()
    }

    /// The name that a mutation of `path` acts on. What has that name, if anything, is not looked at.
    ///
    /// # Errors
    /// `path` is the root, which is protected; or its parent is missing, no folder, or outside.
    pub fn target(&self, path: &WorkspacePath) -> Result<Target, FileError> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(FileError::Protected);
        };
        self.target_in(self.open_dir(&parent)?, name.into())
    }

    /// As [`Self::target`], but if the name is a link, what it points to beneath the root is the target: a write
    /// through a link changes the file that readers of the link see, and leaves the link.
    ///
    /// # Errors
    /// As [`Self::target`]; and the link leads out of the root.
    pub fn target_behind_link(&self, path: &WorkspacePath) -> Result<Target, FileError> {
        let target = self.target(path)?;
        match target.metadata()? {
            Some(meta) if meta.kind == Kind::Symlink => {}
            _ => return Ok(target),
        }
        let located = retry(|| walk::locate(self.fd(), OsStr::new(path.relative()), Last::Follow));
        let Located { parent, name } = located.map_err(failed("follow link"))?;
        // Without a name it is a folder.
        self.target_in(parent, name.ok_or(FileError::NotAFile)?)
    }

    fn target_in(&self, parent: OwnedFd, name: OsString) -> Result<Target, FileError> {
        let stat = fstat(&parent).map_err(failed("fstat"))?;
        let id = DirId { dev: stat.st_dev, ino: stat.st_ino };
        let is_protected = id == self.id && name.to_str().is_some_and(is_protected_name);
        Ok(Target { parent, id, name, is_protected })
    }

    /// Makes the folder `path` and those above it, as far as they are missing, durably.
    ///
    /// # Errors
    /// Something else has one of the names; a protected name would become a folder; the disk fails.
    pub fn make_dirs(&self, path: &WorkspacePath) -> Result<OwnedFd, FileError> {
        let mut attempts = 0;
        loop {
            match self.open_dir(path) {
                Err(FileError::NotFound) if attempts < MAX_MKDIR_RETRIES => attempts += 1,
                settled => return settled,
            }
            self.make_missing(path)?;
        }
    }

    fn make_missing(&self, path: &WorkspacePath) -> Result<(), FileError> {
        let mut above = WorkspacePath::root();
        for name in path.components() {
            let here = above.join(name)?;
            if !self.is_dir(&here) {
                let target = self.target(&above.join(name)?)?;
                if target.is_protected && name != super::path::TRASH_DIR {
                    return Err(FileError::Protected);
                }
                match mkdirat(&target.parent, name, Mode::from(DIR_MODE)) {
                    Ok(()) => {
                        adopt(&target)?;
                        fsync(&target.parent).map_err(failed("fsync folder"))?;
                    }
                    // Another request made it, or it is no folder: opening it will tell.
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(FileError::from_errno("mkdir", errno)),
                }
            }
            above = here;
        }
        Ok(())
    }

    fn open_at(&self, relative: &str, flags: OFlags, last: Last) -> rustix::io::Result<OwnedFd> {
        let relative = if relative.is_empty() { "." } else { relative };
        let flags = flags | OFlags::CLOEXEC;
        retry(|| match self.mechanism {
            Mechanism::Kernel => {
                let keep = if last == Last::Keep { OFlags::NOFOLLOW } else { OFlags::empty() };
                openat2(&self.fd, relative, flags | keep, Mode::empty(), RESOLVE)
            }
            Mechanism::Walk => walk::open(self.fd(), OsStr::new(relative), flags, last),
        })
    }
}

impl Target {
    /// What has the name now, if anything does; of a link, the link itself.
    ///
    /// # Errors
    /// The disk fails.
    pub fn metadata(&self) -> Result<Option<Meta>, FileError> {
        match statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::from_errno("stat", errno)),
        }
    }

    /// Opens the regular file of that name for reading; a link is not followed.
    ///
    /// # Errors
    /// It is missing, no regular file, or cannot be opened.
    pub fn open_file(&self) -> Result<(File, Meta), FileError> {
        if self.metadata()?.ok_or(FileError::NotFound)?.kind != Kind::File {
            return Err(FileError::NotAFile);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(&self.parent, &self.name, flags, Mode::empty()).map_err(failed("open"))?;
        let meta = regular(&opened)?;
        Ok((File::from(opened), meta))
    }

    /// Makes a rename or removal in this folder durable.
    ///
    /// # Errors
    /// The disk fails; the change has happened, but may not survive a crash.
    pub fn sync_parent(&self) -> Result<(), FileError> {
        fsync(&self.parent).map_err(failed("fsync folder"))
    }
}

/// A folder made by a sidecar that is root belongs to whoever owns the folder around it.
fn adopt(target: &Target) -> Result<(), FileError> {
    let around = fstat(&target.parent).map_err(failed("fstat"))?;
    if geteuid().is_root() && around.st_uid != 0 {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(around.st_uid), Gid::from_raw(around.st_gid));
        rustix::fs::chownat(&target.parent, &target.name, Some(uid), Some(gid), flags)
            .map_err(failed("chown"))?;
    }
    Ok(())
}

/// As [`adopt`], for a file that is open.
pub(super) fn give(file: impl AsFd, uid: u32, gid: u32) {
    // Without the right to do so, it stays ours; its content matters more.
    let _stays_ours = fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
}

fn regular(fd: &OwnedFd) -> Result<Meta, FileError> {
    let meta = Meta::of(&fstat(fd).map_err(failed("fstat"))?);
    if meta.kind == Kind::File { Ok(meta) } else { Err(FileError::NotAFile) }
}

fn retry<T>(mut attempt: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 1..MAX_RETRIES {
        match attempt() {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            settled => return settled,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::path;
    use std::os::unix::fs::symlink;

    /// A workspace with links of every kind, and a secret beside it.
    fn furnished() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "inside").unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let links: &[(&str, &str)] = &[
            ("a/b/file", "to-file"),
            ("a", "to-dir"),
            ("to-dir", "to-link"),
            ("../file", "a/b/c-up"),
            ("b/../b/file", "a/up-and-down"),
            ("../outside/secret", "climbs"),
            ("../outside", "climbs-dir"),
            ("/etc/passwd", "absolute"),
            ("/proc/self/root/etc", "magic"),
            ("circle", "circle"),
            ("missing", "dangling"),
            ("../workspace/a/b/file", "out-and-in"),
        ];
        for (to, link) in links {
            symlink(to, root.join(link)).unwrap();
        }
        symlink(root.join("a"), root.join("absolute-inside")).unwrap();
        dir
    }

    fn check(mechanism: Mechanism) {
        use std::io::Read;
        let dir = furnished();
        let root = Root::open_with(&dir.path().join("workspace"), mechanism).unwrap();
        let rows: &[(&str, Option<&str>)] = &[
            ("a/b/file", None),
            ("to-file", None),
            ("to-dir/b/file", None),
            ("to-link/b/file", None),
            ("a/up-and-down", None),
            ("a/b/c-up", Some("NotFound")),
            ("climbs", Some("Outside")),
            ("climbs-dir/secret", Some("Outside")),
            ("absolute", Some("Outside")),
            ("absolute-inside/b/file", Some("Outside")),
            ("out-and-in", Some("Outside")),
            ("magic/passwd", Some("Outside")),
            ("circle", Some("Outside")),
            ("circle/x", Some("Outside")),
            ("dangling", Some("NotFound")),
            ("missing", Some("NotFound")),
            ("missing/x", Some("NotFound")),
            ("a/b/file/x", Some("NotADirectory")),
            ("a", Some("NotAFile")),
        ];
        for (name, expect) in rows {
            match (root.open_file(&path(name)), expect) {
                (Ok((mut file, _)), None) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside", "{name}");
                }
                (Err(error), Some(expect)) => assert_eq!(format!("{error:?}"), *expect, "{name}"),
                (result, _) => panic!("{mechanism:?} {name}: {result:?}, not {expect:?}"),
            }
        }
        for name in ["climbs-dir/x", "absolute-inside/x", "climbs-dir/deep/x"] {
            assert!(matches!(root.target(&path(name)), Err(FileError::Outside)), "{name}");
            assert!(matches!(root.make_dirs(&path(name)), Err(FileError::Outside)), "{name}");
        }
        for name in ["climbs", "absolute", "out-and-in"] {
            assert!(matches!(root.target_behind_link(&path(name)), Err(FileError::Outside)), "{name}");
        }
        assert_eq!(root.target_behind_link(&path("to-file")).unwrap().name, "file");
        assert_eq!(root.metadata(&path("climbs")).unwrap().kind, Kind::Symlink);
        root.make_dirs(&path("to-dir/n/e/w")).unwrap();
        assert!(dir.path().join("workspace/a/n/e/w").is_dir());
        assert!(matches!(root.make_dirs(&path("SOUL.md")), Err(FileError::Protected)));
        assert!(matches!(root.make_dirs(&path("a/b/file/x")), Err(FileError::NotADirectory)));
        assert!(matches!(root.make_dirs(&path("dangling/x")), Err(FileError::NotFound)));
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn containment_by_the_kernel() {
        let dir = furnished();
        assert_eq!(Root::open(dir.path()).unwrap().mechanism(), Mechanism::Kernel);
        check(Mechanism::Kernel);
    }

    #[test]
    fn containment_by_walking() {
        check(Mechanism::Walk);
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        for mechanism in [Mechanism::Kernel, Mechanism::Walk] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::open_with(dir.path(), mechanism).unwrap();
            let mode = Mode::from(0o600);
            rustix::fs::mkfifoat(root.fd(), "fifo", mode).unwrap();
            let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
            for name in ["fifo", "socket"] {
                assert!(matches!(root.open_file(&path(name)), Err(FileError::NotAFile)), "{name}");
            }
        }
    }

    #[test]
    fn a_protected_name_is_known_by_its_folder_not_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        symlink(".", dir.path().join("again")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for (name, expect) in [("SOUL.md", true), ("again/SOUL.md", true), ("sub/SOUL.md", false)] {
            assert_eq!(root.target(&path(name)).unwrap().is_protected, expect, "{name}");
        }
        assert!(matches!(root.target(&WorkspacePath::root()), Err(FileError::Protected)));
    }
}
