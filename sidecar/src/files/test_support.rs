//! What tests of files share.

use super::Files;
use super::path::WorkspacePath;

/// `text` in the workspace.
pub(super) fn path(text: &str) -> WorkspacePath {
    WorkspacePath::parse(&format!("/root/clawd/{text}")).unwrap()
}

/// An empty workspace.
pub(super) fn workspace() -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::open(dir.path()).unwrap();
    (dir, files)
}
