//! Search in the names and contents of the workspace.
//!
//! [`ask`] checks what is asked, [`run`] walks, [`content`] reads a file, [`excerpt`] shows a line, [`ignored`]
//! knows the `.gitignore` files.
//!
//! * The walk goes down through handles and never follows a link; links are found by their names. Only regular files
//!   are opened.
//! * The trash is left out, unless the search starts in it; so are the sidecar's own files.
//! * Everything is bounded, and an answer that is not whole says why ([`Cause`]).

pub mod ask;
pub mod content;
pub mod excerpt;
mod ignored;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use grep_searcher::Searcher;
use rustix::io::Errno;
use serde::Serialize;
use utoipa::ToSchema;

use super::Files;
use super::below::{self, Named};
use super::error::{FileError, failed};
use super::meta::Kind;
use super::path::{TRASH_DIR, VIRTUAL_ROOT};
use ask::{Ask, Scope};
use content::Line;
use excerpt::excerpt;
use ignored::Ignored;

/// Searches at a time. Each keeps a core busy and one of the eight threads for files, beside the agent.
pub const MAX_SEARCHES: usize = 2;

/// How long a search may take: nobody waits for longer, and a refined question is better.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Entries that are looked at, so that a search for nothing in package folders has an end besides its time.
const MAX_ENTRIES: usize = 1_000_000;

/// Names of one folder that are held while it is searched.
const MAX_FOLDER_ENTRIES: usize = 200_000;

/// Each level holds a descriptor.
const MAX_DEPTH: usize = 128;

/// Lines of one file. More say no more about it.
const MAX_LINES_PER_FILE: usize = 100;

/// What is read of one file. A text that is longer is a log.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Longest name or path that is shown: the kernel's own limit.
const MAX_NAME_BYTES: usize = 4096;

/// Why an answer is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchTruncation)]
pub enum Cause {
    /// [`TIME_LIMIT`] was over.
    Time,
    /// There are more hits than the limit that was asked for.
    Results,
    /// There are more entries than a search looks at.
    Entries,
    /// Some folders lie too deep.
    Depth,
    /// Some files have more lines than are shown; `moreLines` names them.
    Lines,
    /// Some files are too long to be read to their end, or a line of theirs is.
    Size,
    /// Some files or folders cannot be read.
    Unreadable,
}

/// What was found, in the order of names within each folder.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchResult)]
pub struct Found {
    pub results: Vec<Hit>,
    /// Empty: this is all there is.
    pub truncated: BTreeSet<Cause>,
    pub searched: Searched,
}

/// How much was looked at.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchSearched)]
pub struct Searched {
    pub entries: usize,
    /// Files whose content was read.
    pub files: usize,
    /// Those of them that are no text, so that nothing in them is shown.
    pub binary_files: usize,
}

/// An entry that has what was searched for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchHit)]
pub struct Hit {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `symlink` or `special`, where `type` says `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special: Option<&'static str>,
    /// The path is not UTF-8. It is shown with replacement characters, and cannot be asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lossy_name: bool,
    /// If its name matches: the name, or the path below the start, with the places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    pub lines: Vec<Line>,
    /// The file has more lines that match.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more_lines: bool,
}

/// A name that matches; `ranges` are in UTF-16 code units of `text`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchName)]
pub struct Name {
    pub text: String,
    pub ranges: Vec<[usize; 2]>,
}

/// Until when a search may go on.
#[derive(Debug, Clone)]
pub struct Budget {
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
}

/// Ends the search when it is dropped: nobody waits for it any more.
#[derive(Debug)]
pub struct Asker(Arc<AtomicBool>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Budget {
    #[must_use]
    pub fn until(deadline: Instant) -> (Self, Asker) {
        let cancelled = Arc::new(AtomicBool::new(false));
        (Self { deadline, cancelled: cancelled.clone() }, Asker(cancelled))
    }

    fn is_used_up(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// Searches. Blocks, until `budget` is used up at most.
///
/// # Errors
/// The folder to start in is missing, none, outside, or cannot be read.
pub fn run(files: &Files, ask: &Ask, budget: &Budget) -> Result<Found, FileError> {
    let start = files.root.open_dir(&ask.path)?;
    let mut search = Search {
        ask,
        budget,
        root: rustix::fs::fstat(files.root.fd()).map_err(failed("fstat"))?.st_ino,
        skip: ask.path.relative().len().saturating_add(usize::from(!ask.path.is_root())),
        ignored: Ignored::default(),
        searcher: content::searcher(),
        hits: 0,
        found: Found { results: Vec::new(), truncated: BTreeSet::new(), searched: Searched::default() },
    };
    if ask.gitignore {
        search.enter_above(files)?;
    }
    let first =
        search.level(start, ask.path.relative().as_bytes().to_vec()).map_err(failed("read folder"))?;
    search.walk(first);
    Ok(search.found)
}

struct Search<'a> {
    ask: &'a Ask,
    budget: &'a Budget,
    /// The workspace's inode: the trash is the trash only right below it.
    root: u64,
    /// Length of the start's path with the `/` after it.
    skip: usize,
    ignored: Ignored,
    searcher: Searcher,
    hits: usize,
    found: Found,
}

/// A folder that is being walked.
struct Level {
    fd: OwnedFd,
    /// Below the root.
    path: Vec<u8>,
    /// In order.
    entries: std::vec::IntoIter<Named>,
    is_root: bool,
    ignored_before: usize,
}

impl Search<'_> {
    /// The rules of the folders above the start.
    fn enter_above(&mut self, files: &Files) -> Result<(), FileError> {
        let mut above = Vec::new();
        let mut folder = self.ask.path.parent();
        while let Some(path) = folder {
            folder = path.parent();
            above.push(path);
        }
        for path in above.iter().rev() {
            self.ignored.enter(files.root.open_dir(path)?, path.relative().as_bytes());
        }
        Ok(())
    }

    fn level(&mut self, fd: OwnedFd, path: Vec<u8>) -> rustix::io::Result<Level> {
        let (mut entries, has_more) = below::entries(&fd, MAX_FOLDER_ENTRIES)?;
        if has_more {
            self.found.truncated.insert(Cause::Entries);
        }
        entries.sort_unstable_by(|one, two| one.name.cmp(&two.name));
        let ignored_before = if self.ask.gitignore { self.ignored.enter(&fd, &path) } else { 0 };
        let is_root = rustix::fs::fstat(&fd)?.st_ino == self.root;
        Ok(Level { fd, path, entries: entries.into_iter(), is_root, ignored_before })
    }

    fn walk(&mut self, first: Level) {
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.entries.next() else {
                self.ignored.leave(level.ignored_before);
                levels.pop();
                continue;
            };
            if self.budget.is_used_up() {
                self.found.truncated.insert(Cause::Time);
                return;
            }
            if self.found.searched.entries >= MAX_ENTRIES {
                self.found.truncated.insert(Cause::Entries);
                return;
            }
            self.found.searched.entries = self.found.searched.entries.saturating_add(1);
            let path = below::join(&level.path, &entry.name);
            if self.is_left_out(level, &entry, &path) {
                continue;
            }
            if !self.look_at(level.fd.as_fd(), &entry, &path) {
                self.found.truncated.insert(Cause::Results);
                return;
            }
            if entry.kind == Kind::Directory {
                if levels.len() >= MAX_DEPTH {
                    self.found.truncated.insert(Cause::Depth);
                    continue;
                }
                let Some(level) = levels.last() else { return };
                let opened = below::folder(&level.fd, &entry.name).and_then(|fd| self.level(fd, path));
                match opened {
                    Ok(level) => levels.push(level),
                    Err(errno) => self.note(errno),
                }
            }
        }
    }

    fn is_left_out(&self, level: &Level, entry: &Named, path: &[u8]) -> bool {
        let name = entry.name.as_bytes();
        (level.is_root && name == TRASH_DIR.as_bytes())
            || (!self.ask.hidden && name.starts_with(b"."))
            || (self.ask.gitignore
                && (name == b".git" || self.ignored.leaves_out(path, entry.kind == Kind::Directory)))
    }

    /// Adds what an entry has, if anything. False: there is no room for it.
    fn look_at(&mut self, folder: impl AsFd, entry: &Named, path: &[u8]) -> bool {
        let below_start = path.get(self.skip..).unwrap_or_default();
        if let Some(glob) = &self.ask.glob {
            let subject = if glob.whole_paths { below_start } else { entry.name.as_bytes() };
            if !glob.matcher.is_match(Path::new(OsStr::from_bytes(subject))) {
                return true;
            }
        }
        let name = (self.ask.scope != Scope::Contents).then(|| self.name(&entry.name, below_start)).flatten();
        let room = self.ask.limit.saturating_sub(self.hits);
        let taken = usize::from(name.is_some());
        if taken > room {
            return false;
        }
        let room = room.saturating_sub(taken);
        let mut lines = content::Lines::default();
        if entry.kind == Kind::File && self.ask.scope != Scope::Names {
            lines = self.lines(folder, &entry.name, room.min(MAX_LINES_PER_FILE));
        }
        let no_room = lines.has_more && lines.lines.len() >= room;
        if lines.has_more && !no_room {
            self.found.truncated.insert(Cause::Lines);
        }
        self.hits = self.hits.saturating_add(taken).saturating_add(lines.lines.len());
        if name.is_some() || !lines.lines.is_empty() {
            let shown = String::from_utf8_lossy(path);
            self.found.results.push(Hit {
                path: format!("{VIRTUAL_ROOT}/{shown}"),
                kind: if entry.kind == Kind::Directory { "directory" } else { "file" },
                special: match entry.kind {
                    Kind::File | Kind::Directory => None,
                    Kind::Symlink => Some("symlink"),
                    Kind::Special => Some("special"),
                },
                lossy_name: matches!(shown, std::borrow::Cow::Owned(_)),
                name,
                lines: lines.lines,
                more_lines: lines.has_more,
            });
        }
        !no_room
    }

    fn name(&self, name: &OsStr, below_start: &[u8]) -> Option<Name> {
        let subject = if self.ask.whole_paths { below_start } else { name.as_bytes() };
        let ranges = content::ranges(&self.ask.matcher, subject);
        if ranges.is_empty() {
            return None;
        }
        let shown = excerpt(subject, &ranges, MAX_NAME_BYTES);
        Some(Name { text: shown.text, ranges: shown.ranges })
    }

    fn lines(&mut self, folder: impl AsFd, name: &OsStr, max: usize) -> content::Lines {
        let (file, meta) = match below::file(folder, name) {
            Ok(opened) => opened,
            Err(errno) => {
                self.note(errno);
                return content::Lines::default();
            }
        };
        let from = file.take(MAX_FILE_BYTES);
        let lines = content::search(&mut self.searcher, &self.ask.matcher, from, max, self.budget);
        let searched = &mut self.found.searched;
        searched.files = searched.files.saturating_add(1);
        searched.binary_files = searched.binary_files.saturating_add(usize::from(lines.is_binary));
        let cause = match &lines.failure {
            None if meta.size() > MAX_FILE_BYTES && !lines.is_binary => Some(Cause::Size),
            None => None,
            Some(error) if error.kind() == io::ErrorKind::TimedOut => Some(Cause::Time),
            // The searcher's own word for a line that it has no room for.
            Some(error) if error.kind() == io::ErrorKind::Other => Some(Cause::Size),
            Some(_) => Some(Cause::Unreadable),
        };
        self.found.truncated.extend(cause);
        lines
    }

    /// What is gone, or something else since its folder was read, is not a hole in the answer.
    fn note(&mut self, errno: Errno) {
        if !matches!(
            errno,
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::NXIO | Errno::XDEV
        ) {
            self.found.truncated.insert(Cause::Unreadable);
        }
    }
}
