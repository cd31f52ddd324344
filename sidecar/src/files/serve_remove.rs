//! Deleting one file under preconditions.

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use shared::time::UnixMillis;

use super::Files;
use super::error::{FileError, failed};
use super::meta::Kind;
use super::path::{TRASH_DIR, WorkspacePath};
use super::read;
use super::serve_upload::validators;
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
) -> Result<Result<Option<WorkspacePath>, Verdict>, FileError> {
    let target = files.root.target(path)?;
    let _held = files.locks.hold(&[&target]);
    let meta = target.metadata()?.ok_or(FileError::NotFound)?;
    if target.is_protected {
        return Err(FileError::Protected);
    }
    if !matches!(meta.kind, Kind::File | Kind::Symlink) {
        return Err(FileError::NotAFile);
    }
    if *preconditions != Preconditions::default() {
        // Of a link, the tag is that of the file which readers see through it.
        let now = match files.root.open_file(path) {
            Ok((file, meta)) => Some(validators(&read::strong_etag(files, &file, &meta)?, &meta)?),
            Err(FileError::NotFound) => None,
            Err(error) => return Err(error),
        };
        match preconditions.evaluate(Access::Write, now.as_ref()) {
            Verdict::Proceed => {}
            refused @ (Verdict::NotModified(_)
            | Verdict::PreconditionFailed(_)
            | Verdict::PreconditionRequired) => return Ok(Err(refused)),
        }
    }
    let place = match goes {
        Where::Nowhere => {
            unlinkat(&target.parent, &target.name, AtFlags::empty()).map_err(failed("unlink"))?;
            None
        }
        Where::Trash(now) => {
            let trash = WorkspacePath::root().join(TRASH_DIR)?;
            let dir = files.root.make_dirs(&trash)?;
            let name = path.name().ok_or(FileError::Protected)?;
            // Names as long as can be are cut, at a character's border, to make room for the time.
            let suffix = format!(".{}", now.0);
            let room = super::path::MAX_SEGMENT_BYTES.saturating_sub(suffix.len());
            let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
            let place = trash.join(&format!("{}{suffix}", name.get(..end).unwrap_or_default()))?;
            let new = place.name().unwrap_or_default();
            renameat_with(&target.parent, &target.name, &dir, new, RenameFlags::NOREPLACE)
                .map_err(failed("rename"))?;
            rustix::fs::fsync(&dir).map_err(failed("fsync folder"))?;
            Some(place)
        }
    };
    target.sync_parent()?;
    Ok(Ok(place))
}
