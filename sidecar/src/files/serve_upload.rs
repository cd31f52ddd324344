//! Preconditions of HTTP, turned into what a commit checks.

use super::Files;
use super::error::FileError;
use super::etag::{ETag, Expect};
use super::path::WorkspacePath;
use super::read;
use crate::http_semantics::conditional::{Access, Preconditions, Validators, Verdict};
use crate::http_semantics::etag::EntityTag;
use crate::http_semantics::http_date;

/// What a write must find at its commit, so that `preconditions` are true of it. The inner error is the verdict of
/// a write that must not happen. Blocks.
///
/// Preconditions can be about dates, and about more than one thing. They are judged here, and the commit is then
/// bound to the very content that was judged: if anything writes in between, it fails.
///
/// # Errors
/// As [`super::root::Root::open_file`], but nothing is wrong with a file that is missing.
pub fn expect(
    files: &Files,
    path: &WorkspacePath,
    preconditions: &Preconditions,
) -> Result<Result<Expect, Verdict>, FileError> {
    if *preconditions == Preconditions::default() {
        return Ok(Ok(Expect::Anything));
    }
    let current = match files.root.open_file(path) {
        Ok((file, meta)) => Some((read::strong_etag(files, &file, &meta)?, meta)),
        Err(FileError::NotFound) => None,
        Err(error) => return Err(error),
    };
    let now = current.as_ref().map(|(etag, meta)| validators(etag, meta)).transpose()?;
    Ok(match preconditions.evaluate(Access::Write, now.as_ref()) {
        Verdict::Proceed => Ok(current.map_or(Expect::Absent, |(etag, _)| Expect::OneOf(vec![etag]))),
        refused @ (Verdict::NotModified(_)
        | Verdict::PreconditionFailed(_)
        | Verdict::PreconditionRequired) => Err(refused),
    })
}

/// A file as [`Preconditions`] see it.
///
/// # Errors
/// None in practice: our tags are well formed.
pub fn validators(etag: &ETag, meta: &super::meta::Meta) -> Result<Validators, FileError> {
    let text = etag.to_string();
    let tag = EntityTag::parse(text.as_bytes())
        .ok_or_else(|| FileError::from_io("entity tag", std::io::ErrorKind::InvalidData.into()))?;
    let modified = u64::try_from(meta.version.mtime_ns / 1_000_000).unwrap_or(0);
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_millis(modified);
    Ok(Validators { etag: tag, last_modified: http_date::whole_seconds(modified) })
}
