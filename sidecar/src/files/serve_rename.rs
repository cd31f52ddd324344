//! Moving under preconditions.

use super::Files;
use super::error::FileError;
use super::path::WorkspacePath;
use super::rename::{Replace, rename_if};
use super::serve_remove::judge;
use crate::http_semantics::conditional::{Field, Preconditions, Verdict};

/// Moves `from` to `to` as [`super::rename::rename`] does, if `preconditions` are true: those on a version are about
/// what is moved, `If-None-Match` is about the place that it goes to, where nothing may be then. Blocks.
///
/// # Errors
/// As [`super::rename::rename`]; inside, a verdict against it.
pub fn rename(
    files: &Files,
    from: &WorkspacePath,
    to: &WorkspacePath,
    preconditions: &Preconditions,
) -> Result<Result<WorkspacePath, Verdict>, FileError> {
    let mut of_source = preconditions.clone();
    let replace = if of_source.if_none_match.take().is_some() {
        of_source.required = false;
        Replace::Nothing
    } else {
        Replace::Files
    };
    let moved = rename_if(files, from, to, replace, |meta| judge(files, from, meta, &of_source));
    match moved {
        Err(FileError::Exists) if replace == Replace::Nothing => {
            Ok(Err(Verdict::PreconditionFailed(Field::IfNoneMatch)))
        }
        moved => moved,
    }
}

#[cfg(test)]
#[path = "serve_rename_tests.rs"]
mod tests;
