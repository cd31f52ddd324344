//! The kernel's side: watches on folders that are open, and what it tells of them.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, Result};

use super::tree::Watch;

/// Some hundred events with short names.
const BUFFER_BYTES: usize = 64 * 1024;

/// Not `ATTRIB`: it tells of permissions and of times that were set, which no client shows.
const INTEREST: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);

/// What the kernel said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) watch: Watch,
    pub(super) what: ReadFlags,
    /// The same for both ends of a move.
    pub(super) cookie: u32,
    /// None: about the folder itself.
    pub(super) name: Option<OsString>,
}

#[derive(Debug)]
pub(super) struct Inotify {
    fd: OwnedFd,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Inotify {
    pub(super) fn new() -> Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { fd, buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES] })
    }

    /// Watches a folder. A folder that is watched already keeps its watch.
    ///
    /// # Errors
    /// `NOSPC` if there are no more watches to be had; else as `inotify_add_watch`.
    pub(super) fn add(&self, folder: BorrowedFd<'_>) -> Result<Watch> {
        // There is no variant that takes a handle. By this name it is that very folder, whatever has its path now.
        let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
        inotify::add_watch(&self.fd, name, INTEREST)
    }

    pub(super) fn remove(&self, watch: Watch) {
        // If its folder is gone, so is the watch.
        let _gone = inotify::remove_watch(&self.fd, watch);
    }

    /// What was said since the last call, as far as one buffer holds it; empty if nothing was.
    pub(super) fn read(&mut self) -> Result<Vec<Raw>> {
        let mut events = Vec::new();
        let mut reader = inotify::Reader::new(&self.fd, &mut self.buffer);
        loop {
            let event = match reader.next() {
                Err(Errno::WOULDBLOCK) => return Ok(events),
                Err(Errno::INTR) => continue,
                event => event?,
            };
            let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()));
            events.push(Raw { watch: event.wd(), what: event.events(), cookie: event.cookie(), name });
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
