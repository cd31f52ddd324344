//! Short files that stay open between two reads of them, so that the next read opens nothing for reading.
//!
//! What is kept is a handle, and no content. Whoever takes one resolves the name beneath the root first, as for any
//! read, and uses the handle only if the name still leads to the very version that was opened: another file, other
//! times, other permissions (they move the ctime) are another version. Bytes come from the file itself each time.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use shared::time::UnixMillis;

use super::etag::is_settled;
use super::meta::Meta;
use super::path::WorkspacePath;
use crate::http_semantics::etag::EntityTag;

/// Handles that are kept. Each is a descriptor.
const MAX_HANDLES: usize = 64;

/// Longest file that is kept, in bytes. One that was removed meanwhile takes its room on the volume until its place
/// is needed: 4 MiB in all at most.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// An open regular file, and what it was.
#[derive(Debug, Clone)]
pub struct Handle {
    pub file: Arc<File>,
    pub meta: Meta,
    pub etag: EntityTag,
}

/// Handles by path.
#[derive(Debug, Default)]
pub struct Handles(Mutex<HashMap<WorkspacePath, Handle>>);

impl Handles {
    /// What was open under this path. It may be another file's by now: compare the versions.
    #[must_use]
    pub fn get(&self, path: &WorkspacePath) -> Option<Handle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Keeps a handle in the place of an older one of this path. Not if the file is long, or so young at `now` that it
    /// may yet change without becoming another version.
    pub fn keep(&self, path: &WorkspacePath, handle: Handle, now: UnixMillis) {
        if handle.meta.size() > MAX_FILE_BYTES || !is_settled(&handle.meta.version, now) {
            return self.forget(path);
        }
        let mut handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if handles.len() >= MAX_HANDLES && !handles.contains_key(path) {
            // Any of them: who reads more files than this in turn gains nothing here, and loses little.
            let any = handles.keys().next().cloned();
            any.and_then(|any| handles.remove(&any));
        }
        handles.insert(path.clone(), handle);
    }

    /// Closes what is open under this path.
    pub fn forget(&self, path: &WorkspacePath) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::etag::ContentHash;
    use crate::files::test_support::path;

    const LATER: UnixMillis = UnixMillis(u64::MAX);

    fn handle(bytes: &[u8]) -> Handle {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        let meta = Meta::of(&rustix::fs::fstat(&file).unwrap());
        Handle { file: file.into(), meta, etag: ContentHash::of(bytes).tag() }
    }

    #[test]
    fn descriptors_are_bounded_and_closed() {
        let handles = Handles::default();
        let first = handle(b"first");
        let weak = Arc::downgrade(&first.file);
        handles.keep(&path("first"), first, LATER);
        assert!(handles.get(&path("first")).is_some() && handles.get(&path("other")).is_none());
        for n in 0..4 * MAX_HANDLES {
            handles.keep(&path(&format!("f{n}")), handle(b"x"), LATER);
            assert!(handles.0.lock().unwrap().len() <= MAX_HANDLES);
        }
        handles.forget(&path("first"));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn young_and_long_files_are_not_kept_and_end_an_older_one() {
        let handles = Handles::default();
        let long = vec![0; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
        for (bytes, now) in [(&b"young"[..], UnixMillis(0)), (&long, LATER)] {
            handles.keep(&path("a"), handle(b"old"), LATER);
            handles.keep(&path("a"), handle(bytes), now);
            assert!(handles.get(&path("a")).is_none());
        }
    }
}
