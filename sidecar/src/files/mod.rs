//! The user's files: what the dashboard sees of the workspace.
//!
//! ```text
//! text ─▶ [path] WorkspacePath ─▶ [root] handle, beneath the root or not at all ─▶ [read] [write] [list] …
//! ```
//!
//! Begin with [`path`] and [`root`]; every operation is a function over [`Files`] in a module of its own.
//!
//! What holds everywhere:
//!
//! * A path is parsed once. What it names is reached through the root's handle, and the kernel keeps it inside.
//! * Only regular files are opened. Mutations act on a name in an open folder.
//! * What is made has a temporary name until it is complete and on the disk ([`temp`], [`write`]).
//! * The functions here block. [`Files::run`] takes them to the blocking pool; only [`write::Draft`] does so
//!   by itself, since its bytes come bit by bit.
//!
//! What it is not, on purpose: it knows no HTTP, and it keeps no cache of content.

pub mod below;
pub mod collation;
pub mod copy;
pub mod error;
pub mod etag;
pub mod handles;
pub mod judged;
pub mod keep;
pub mod list;
pub mod litter;
pub mod lock;
pub mod meta;
pub mod mkdir;
pub mod path;
pub mod read;
pub mod remove;
pub mod rename;
pub mod root;
pub mod search;
pub mod serve;
pub mod serve_archive;
pub mod serve_remove;
pub mod serve_rename;
pub mod serve_tus;
pub mod serve_upload;
pub mod temp;
pub mod trash;
pub mod walk;
pub mod write;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use error::FileError;
use etag::HashCache;
use handles::Handles;
use lock::Locks;
use root::Root;
use tokio::sync::Semaphore;

/// A cheap handle on the workspace.
#[derive(Debug, Clone)]
pub struct Files(Arc<Inner>);

/// See [`Files`].
#[derive(Debug)]
pub struct Inner {
    pub root: Root,
    pub locks: Locks,
    pub hashes: HashCache,
    pub handles: Handles,
    /// Places for drafts that collect more at a time.
    wide: Arc<Semaphore>,
    /// Held by whoever changes the index of the trash.
    trash: Mutex<()>,
}

impl Files {
    /// Opens the workspace at `dir`, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self::over(Root::open(dir)?))
    }

    /// Over a root that is open.
    #[must_use]
    pub fn over(root: Root) -> Self {
        Self(Arc::new(Inner {
            root,
            locks: Locks::default(),
            hashes: HashCache::default(),
            handles: Handles::default(),
            wide: Arc::new(Semaphore::new(write::MAX_WIDE)),
            trash: Mutex::new(()),
        }))
    }

    /// Runs `work` on the blocking pool, to its end even if the caller goes away.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let files = self.clone();
        pool(move || work(&files)).await
    }
}

impl std::ops::Deref for Files {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Runs `work` on the blocking pool.
async fn pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FileError::from_io("the blocking pool", io::Error::other(error))),
    }
}

#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod verbs_tests;
