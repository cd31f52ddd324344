//! Deleting under preconditions.

use shared::time::UnixMillis;

use super::error::FileError;
use super::etag::weak_tag;
use super::judged::Judged;
use super::meta::{Kind, Meta};
use super::path::WorkspacePath;
use super::serve_upload::validators;
use super::trash::{self, Trashed};
use super::{Files, read, remove};
use crate::http_semantics::conditional::{Access, Preconditions, Verdict};

/// Where something is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Trash(UnixMillis),
    Nowhere,
}

/// What may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A regular file or a link.
    File,
    /// Also a folder, with all that is in it.
    Anything,
}

/// Deletes what is at `path`, if `preconditions` are true of it. Returns its place in the trash. Blocks.
///
/// # Errors
/// It is missing, protected or not `what` may be deleted, or the disk fails; inside, a verdict against it.
pub fn entry(
    files: &Files,
    path: &WorkspacePath,
    what: What,
    preconditions: &Preconditions,
    goes: Where,
) -> Result<Result<Option<Trashed>, Verdict>, FileError> {
    let judge = |meta: &Meta| match meta.kind {
        Kind::Directory | Kind::Special if what == What::File => Err(FileError::NotAFile),
        Kind::File | Kind::Symlink | Kind::Directory | Kind::Special => {
            judge(files, path, meta, preconditions)
        }
    };
    match goes {
        Where::Trash(now) => Ok(trash::discard_if(files, path, now, judge)?.map(Some)),
        Where::Nowhere => Ok(remove::permanently_if(files, path, judge)?.map(|()| None)),
    }
}

/// Whether `preconditions` are true of what is at `path`, `meta` by its name; and of which version they are then.
pub(super) fn judge(
    files: &Files,
    path: &WorkspacePath,
    meta: &Meta,
    preconditions: &Preconditions,
) -> Result<Result<Judged, Verdict>, FileError> {
    if *preconditions == Preconditions::default() {
        return Ok(Ok(Judged::Anything));
    }
    // Of a link, the tag is that of the file which readers see through it, and what moves is the link. A folder has
    // no tag that proves anything, but it is there, and it has a date.
    let (now, judged) = match meta.kind {
        Kind::Directory | Kind::Special => {
            (Some(validators(&weak_tag(&meta.version), meta)), Judged::Anything)
        }
        Kind::File | Kind::Symlink => match files.root.open_file(path) {
            Ok((file, seen)) => {
                let judged = if meta.kind == Kind::File { seen.version } else { meta.version };
                let now = validators(&read::strong_etag(files, &file, &seen)?, &seen);
                (Some(now), Judged::Only(judged))
            }
            Err(FileError::NotFound) => (None, Judged::Only(meta.version)),
            Err(error) => return Err(error),
        },
    };
    Ok(match preconditions.evaluate(Access::Write, now.as_ref()) {
        Verdict::Proceed => Ok(judged),
        refused @ (Verdict::NotModified(_)
        | Verdict::PreconditionFailed(_)
        | Verdict::PreconditionRequired) => Err(refused),
    })
}

#[cfg(test)]
#[path = "serve_remove_tests.rs"]
mod tests;
