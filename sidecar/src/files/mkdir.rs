//! Making folders.

use super::Files;
use super::error::FileError;
use super::path::WorkspacePath;

/// Makes `path` and the folders above it, as far as they are missing. Blocks.
///
/// # Errors
/// [`FileError::Exists`] if something else has the name; [`FileError::Protected`] if a protected name would become
/// a folder; or as [`super::root::Root::make_dirs`].
pub fn mkdir(files: &Files, path: &WorkspacePath) -> Result<(), FileError> {
    match files.root.make_dirs(path) {
        Ok(_) => Ok(()),
        Err(FileError::NotADirectory) => Err(FileError::Exists),
        // A link to nothing has the name.
        Err(FileError::NotFound) if files.root.metadata(path).is_ok() => Err(FileError::Exists),
        Err(error) => Err(error),
    }
}
