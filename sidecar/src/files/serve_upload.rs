//! Preconditions of HTTP, turned into what a commit checks.

use super::Files;
use super::error::FileError;
use super::etag::Expect;
use super::path::WorkspacePath;
use super::read;
use crate::http_semantics::conditional::{Access, Preconditions, Validators, Verdict};
use crate::http_semantics::etag::EntityTag;
use crate::http_semantics::http_date;

/// What a write must find at its commit, so that all of `preconditions` are true of it. The inner error is the
/// verdict of a write that must not happen. Blocks.
///
/// Preconditions can be about dates, and about more than one thing. They are judged here, and the commit is then
/// bound to the very content that was judged: if anything writes in between, it fails.
///
/// # Errors
/// As [`super::root::Root::open_file`], but nothing is wrong with a file that is missing.
pub fn expect(
    files: &Files,
    path: &WorkspacePath,
    preconditions: &[Preconditions],
) -> Result<Result<Expect, Verdict>, FileError> {
    if preconditions.iter().all(|each| *each == Preconditions::default()) {
        return Ok(Ok(Expect::Anything));
    }
    let current = match files.root.open_file(path) {
        Ok((file, meta)) => Some((read::strong_etag(files, &file, &meta)?, meta)),
        Err(FileError::NotFound) => None,
        Err(error) => return Err(error),
    };
    let now = current.as_ref().map(|(etag, meta)| validators(etag, meta));
    for each in preconditions {
        let verdict = each.evaluate(Access::Write, now.as_ref());
        if verdict != Verdict::Proceed {
            return Ok(Err(verdict));
        }
    }
    Ok(Ok(current.map_or(Expect::Absent, |(etag, _)| Expect::OneOf(vec![etag]))))
}

/// A file as [`Preconditions`] see it.
#[must_use]
pub fn validators(etag: &EntityTag, meta: &super::meta::Meta) -> Validators {
    let modified = u64::try_from(meta.version.mtime_ns / 1_000_000).unwrap_or(0);
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_millis(modified);
    Validators { etag: etag.clone(), last_modified: http_date::whole_seconds(modified) }
}
