//! What `.gitignore` files leave out, as if the workspace were one repository: those of a folder and of all above
//! it count, and the innermost one that says anything about a path decides.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::files::below;

/// Longest `.gitignore` that is read. Longer ones are made by programs gone wrong, and each line is a pattern.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The rules that hold where the walk is.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// With the length of its folder's path, in bytes, and the `/` after it.
    stack: Vec<(usize, Gitignore)>,
}

impl Ignored {
    /// Adds the rules of the folder at `path`, if it has any. Returns how many there were before, for
    /// [`Self::leave`].
    pub(super) fn enter(&mut self, folder: impl AsFd, path: &[u8]) -> usize {
        let before = self.stack.len();
        if let Some(rules) = load(folder) {
            let skip = if path.is_empty() { 0 } else { path.len().saturating_add(1) };
            self.stack.push((skip, rules));
        }
        before
    }

    pub(super) fn leave(&mut self, before: usize) {
        self.stack.truncate(before);
    }

    /// Whether the rules leave out `path`.
    #[must_use]
    pub(super) fn leaves_out(&self, path: &[u8], is_dir: bool) -> bool {
        for (skip, rules) in self.stack.iter().rev() {
            let below = path.get(*skip..).unwrap_or_default();
            match rules.matched(Path::new(std::ffi::OsStr::from_bytes(below)), is_dir) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

fn load(folder: impl AsFd) -> Option<Gitignore> {
    let (file, meta) = below::file(folder, ".gitignore".as_ref()).ok()?;
    if meta.size() > MAX_FILE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    let mut builder = GitignoreBuilder::new("");
    for line in String::from_utf8_lossy(&bytes).lines() {
        // A line that is no pattern is none for git either.
        let _no_pattern = builder.add_line(None, line);
    }
    builder.build().ok()
}
