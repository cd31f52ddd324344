//! Temporary names: whatever is being made has one until it is complete. They begin with a prefix of our own and
//! hold the process's mark, so that the next process can tell litter from what it makes itself.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::error::{FileError, failed};
use super::remove;
use crate::random;

/// Begins every temporary name. It lies under [`super::path::RESERVED_PREFIX`].
pub const TEMP_PREFIX: &str = ".automna-tmp-";

/// Tells this process's names from those of an earlier one.
static MARK: LazyLock<String> = LazyLock::new(random::name);

/// A temporary name in a folder. Whatever has it goes away with this value, unless it was kept.
#[derive(Debug)]
pub struct Temp {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: OwnedFd,
    name: String,
}

impl Temp {
    /// A fresh name in `dir`. Nothing has it yet.
    ///
    /// # Errors
    /// The handle cannot be copied.
    pub fn new(dir: impl AsFd) -> Result<Self, FileError> {
        let dir = dir.as_fd().try_clone_to_owned().map_err(super::error::failed_io("dup"))?;
        Ok(Self { inner: Some(Inner { dir, name: fresh_name() }) })
    }

    /// Makes an empty file of that name.
    ///
    /// # Errors
    /// As `openat`; also if somebody has the name already.
    pub fn create_file(&self) -> Result<std::fs::File, FileError> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let (dir, name) = self.place()?;
        Ok(openat(dir, name, flags, Mode::from(0o600)).map_err(failed("create temporary file"))?.into())
    }

    /// The folder and the name.
    ///
    /// # Errors
    /// It was kept.
    pub fn place(&self) -> Result<(&OwnedFd, &str), FileError> {
        self.inner.as_ref().map(|inner| (&inner.dir, inner.name.as_str())).ok_or(FileError::NotFound)
    }

    /// It has another name now, or none: nothing is left to clean up.
    pub fn keep(mut self) {
        self.inner = None;
    }
}

impl Drop for Temp {
    /// On the pool, since a request that is cut off is dropped on the thread that serves everybody.
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        match tokio::runtime::Handle::try_current() {
            // A pool that is shutting down drops the closure, and that cleans up as well.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(inner))),
            Err(_) => drop(inner),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What stays is cleaned up at the next start.
        if unlinkat(&self.dir, &self.name, AtFlags::empty()).is_err() {
            let _stays = remove::tree(&self.dir, self.name.as_ref());
        }
    }
}

/// A temporary name that nothing has.
pub(super) fn fresh_name() -> String {
    format!("{TEMP_PREFIX}{}-{}", *MARK, random::name())
}

/// Whether `name` is a temporary name of an earlier process.
#[must_use]
pub fn is_litter(name: &[u8]) -> bool {
    name.strip_prefix(TEMP_PREFIX.as_bytes()).is_some_and(|rest| !rest.starts_with(MARK.as_bytes()))
}
