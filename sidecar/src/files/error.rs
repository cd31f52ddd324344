//! What can go wrong with files, without HTTP. [`crate::error`] gives each a status.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::path::PathError;
use crate::http_semantics::etag::EntityTag;

/// Why an operation on files was refused or failed. Nothing has changed then, unless a variant says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Path(#[from] PathError),
    /// A symbolic link on the way leads out of the workspace, or round in circles, or another device is mounted.
    #[error("the path leads out of the workspace")]
    Outside,
    #[error("nothing is there")]
    NotFound,
    /// A folder, FIFO, socket or device where a regular file was meant. These are never opened.
    #[error("it is not a regular file")]
    NotAFile,
    #[error("a component is not a folder")]
    NotADirectory,
    #[error("something is there already")]
    Exists,
    #[error("the path is protected")]
    Protected,
    #[error("{size} bytes are more than {max}")]
    TooLarge { size: u64, max: u64 },
    #[error("the precondition does not hold")]
    Precondition { current: Option<EntityTag> },
    #[error("a folder cannot go into itself")]
    IntoItself,
    /// A tree with more levels or entries than one request may handle.
    #[error("the tree is too large")]
    TreeTooLarge,
    /// The client's body ended early.
    #[error("the body broke off")]
    BodyAborted,
    /// The cursor of a listing is not one of ours.
    #[error("the cursor cannot be read")]
    BadCursor,
    #[error("{what} failed: {source}")]
    Io { what: &'static str, source: Arc<io::Error> },
}

impl FileError {
    /// Sorts a failed system call. `what` names the call for the log.
    #[must_use]
    pub fn from_errno(what: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            // `openat2` says XDEV for every escape. LOOP is a circle of links, or a link where none is followed.
            Errno::XDEV | Errno::LOOP => Self::Outside,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::ISDIR | Errno::NXIO => Self::NotAFile,
            Errno::EXIST | Errno::NOTEMPTY => Self::Exists,
            Errno::NAMETOOLONG => Self::Path(PathError::TooLong),
            other => Self::Io { what, source: Arc::new(other.into()) },
        }
    }

    /// As [`Self::from_errno`], for what std reports.
    #[must_use]
    pub fn from_io(what: &'static str, error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::from_errno(what, errno),
            None => Self::Io { what, source: Arc::new(error) },
        }
    }
}

/// For `map_err`: names the call that failed.
pub(super) fn failed(what: &'static str) -> impl Fn(Errno) -> FileError {
    move |errno| FileError::from_errno(what, errno)
}

/// For `map_err` on what std reports.
pub(super) fn failed_io(what: &'static str) -> impl Fn(io::Error) -> FileError {
    move |error| FileError::from_io(what, error)
}
