//! Deleting one file under preconditions.

use rustix::fs::{AtFlags, unlinkat};
use shared::time::UnixMillis;

use super::error::{FileError, failed};
use super::meta::{Kind, Meta};
use super::path::WorkspacePath;
use super::serve_upload::validators;
use super::trash::{self, Trashed};
use super::{Files, read};
use crate::http_semantics::conditional::{Access, Preconditions, Verdict};

/// Where a file is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Trash(UnixMillis),
    Nowhere,
}

/// Deletes the regular file or link at `path`, if `preconditions` are true of it. Returns its place in the trash.
/// Blocks.
///
/// # Errors
/// It is missing, protected or a folder, or the disk fails; inside, a verdict against it.
pub fn file(
    files: &Files,
    path: &WorkspacePath,
    preconditions: &Preconditions,
    goes: Where,
) -> Result<Result<Option<Trashed>, Verdict>, FileError> {
    let judge = |meta: &Meta| judge(files, path, meta, preconditions);
    if let Where::Trash(now) = goes {
        return Ok(trash::discard_if(files, path, now, judge)?.map(Some));
    }
    let target = files.root.target(path)?;
    let _held = files.locks.hold(&[&target]);
    let meta = target.metadata()?.ok_or(FileError::NotFound)?;
    if target.is_protected {
        return Err(FileError::Protected);
    }
    if let Err(verdict) = judge(&meta)? {
        return Ok(Err(verdict));
    }
    unlinkat(&target.parent, &target.name, AtFlags::empty()).map_err(failed("unlink"))?;
    target.sync_parent()?;
    Ok(Ok(None))
}

fn judge(
    files: &Files,
    path: &WorkspacePath,
    meta: &Meta,
    preconditions: &Preconditions,
) -> Result<Result<(), Verdict>, FileError> {
    if !is_file(meta) {
        return Err(FileError::NotAFile);
    }
    if *preconditions == Preconditions::default() {
        return Ok(Ok(()));
    }
    // Of a link, the tag is that of the file which readers see through it.
    let now = match files.root.open_file(path) {
        Ok((file, meta)) => Some(validators(&read::strong_etag(files, &file, &meta)?, &meta)?),
        Err(FileError::NotFound) => None,
        Err(error) => return Err(error),
    };
    Ok(match preconditions.evaluate(Access::Write, now.as_ref()) {
        Verdict::Proceed => Ok(()),
        refused @ (Verdict::NotModified(_)
        | Verdict::PreconditionFailed(_)
        | Verdict::PreconditionRequired) => Err(refused),
    })
}

const fn is_file(meta: &Meta) -> bool {
    matches!(meta.kind, Kind::File | Kind::Symlink)
}
