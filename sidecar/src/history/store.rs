//! Which files make up a conversation, and their messages in one order.
//!
//! A key has two spellings, `main` and `agent:main:main`, and the agent has stored conversations under either;
//! both are read. When it begins a session anew, the old transcript stays, and nothing refers to it any more. So:
//!
//! * A conversation consists of the transcripts to which either spelling refers.
//! * The main conversation also has every transcript to which no entry refers, except those that a timer's job
//!   began (their first message says so). Whose they were is recorded nowhere; nearly all are the main one's.
//! * Only `*.jsonl` counts: what was deleted or is a backup has a further ending.
//! * Messages are ordered by time, newest first; within a file its own order holds, whatever its clock said.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::cursor::Cursor;
use super::reader::{Budget, FIRST_CHUNK_BYTES, Lines, MAX_SCAN_BYTES, ReadAt, Step};
use super::transcript::{self, Entry, Roles};

/// Where the agent keeps sessions, below its state directory.
const SESSIONS: &str = "agents/main/sessions";
const STORE: &str = "sessions.json";
const TRANSCRIPT_SUFFIX: &str = ".jsonl";
const CANONICAL: &str = "agent:main:";

/// The store grows by some 30 KB a session. A larger one is not the agent's.
const MAX_STORE_BYTES: u64 = 32 * 1024 * 1024;

/// Transcripts of one conversation; beyond that the oldest are left out. After an import all files can have one
/// date, and the end of each is then looked at. Half of a request's budget must be enough for that, or paging
/// would not get on.
const MAX_FILES: usize = 1024;
const _: () = assert!((MAX_FILES * FIRST_CHUNK_BYTES) as u64 * 2 <= MAX_SCAN_BYTES);

/// At the beginning of a transcript, enough for its header and for how its first message begins.
const HEAD_BYTES: usize = 16 * 1024;

/// How the first message of a timer's job begins.
const JOB_MARK: &str = "[cron:";

/// The sessions directory, held open: every file is opened beneath it, by the kernel's own check.
#[derive(Debug)]
pub struct Store {
    dir: std::os::fd::OwnedFd,
    sessions: Vec<Session>,
}

/// An entry of the agent's store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    #[serde(skip)]
    pub key: String,
    #[serde(default)]
    pub session_id: Option<String>,
    #[serde(default)]
    pub session_file: Option<String>,
    #[serde(default)]
    pub updated_at: u64,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    pub total_tokens: u64,
}

/// One page of a conversation, oldest message first.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where older messages begin, if there may be any.
    pub before: Option<Cursor>,
}

impl Store {
    /// Opens what the agent keeps in `state`. `None`: the agent has not had a session yet.
    ///
    /// # Errors
    /// The state directory is missing or unreadable, or the store is none: nothing can be said about any history.
    pub fn open(state: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = fs::open(state, flags, Mode::empty())?;
        let dir = match fs::openat2(&state, SESSIONS, flags, Mode::empty(), beneath()) {
            Ok(dir) => dir,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut store = Self { dir, sessions: Vec::new() };
        let Some((file, _)) = store.open_file(STORE)? else { return Ok(Some(store)) };
        let mut bytes = Vec::new();
        file.take(MAX_STORE_BYTES + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_STORE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        store.sessions = parse_sessions(&bytes)?;
        Ok(Some(store))
    }

    /// All sessions, as the store has them.
    #[must_use]
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Whether either spelling of `key` is in the store.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.sessions.iter().any(|session| same_key(&session.key, key))
    }

    /// At most `limit` messages of `key` from before `cursor`. Fewer, with a cursor, when the budget is spent.
    ///
    /// # Errors
    /// A file or the directory cannot be read.
    pub fn page(
        &self,
        key: &str,
        cursor: Option<&Cursor>,
        limit: usize,
        roles: Roles,
        budget: &mut Budget,
    ) -> io::Result<Page> {
        let mut merge = Merge { store: self, cursor, roles, closed: self.files_of(key)?, open: Vec::new() };
        let mut entries = Vec::new();
        let mut floor_ms = cursor.map_or(u64::MAX, |cursor| cursor.floor_ms);
        let mut more = true;
        while more && entries.len() < limit {
            match merge.next(budget)? {
                Next::Message(at_ms, entry) => {
                    floor_ms = at_ms;
                    entries.push(*entry);
                }
                Next::Spent => break,
                Next::End => more = false,
            }
        }
        entries.reverse();
        let before = more.then(|| Cursor { floor_ms, files: merge.places(floor_ms) });
        Ok(Page { entries, before })
    }

    pub(super) fn dir(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.dir)
    }

    /// The names of all transcripts of `key`, a timer's jobs left out.
    pub(super) fn transcripts(&self, key: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for Closed { name, orphan, .. } in self.files_of(key)? {
            let job = match self.open_file(&name)? {
                Some((file, size)) => look_at_head(&file, size)?.1,
                None => continue,
            };
            if !(job && orphan) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The transcripts of `key`, the one that was written last at the end.
    fn files_of(&self, key: &str) -> io::Result<Vec<Closed>> {
        let (mine, others): (Vec<_>, Vec<_>) =
            self.sessions.iter().partition(|session| same_key(&session.key, key));
        let mut names: BTreeSet<String> =
            mine.iter().filter_map(|session| transcript_name(session)).collect();
        let mut orphans = BTreeSet::new();
        if same_key(key, "main") {
            let others: BTreeSet<String> =
                others.iter().filter_map(|session| transcript_name(session)).collect();
            for entry in fs::Dir::read_from(&self.dir)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                if is_transcript(name) && !names.contains(name) && !others.contains(name) {
                    orphans.insert(name.to_owned());
                }
            }
        }
        let orphans = orphans.into_iter().map(|name| (name, true));
        let names = std::mem::take(&mut names).into_iter().map(|name| (name, false)).chain(orphans);
        let mut files = Vec::new();
        for (name, orphan) in names {
            let Ok(stat) = fs::statat(&self.dir, name.as_str(), fs::AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
            // A whole second more, since fractions do not count here.
            files.push(Closed { name, orphan, newest_ms: (seconds + 1).saturating_mul(1000) });
        }
        files.sort_by(|a, b| (a.newest_ms, &a.name).cmp(&(b.newest_ms, &b.name)));
        files.drain(..files.len().saturating_sub(MAX_FILES));
        Ok(files)
    }

    /// Opens a regular file of the directory, with its size. `None`: there is none of that name.
    fn open_file(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        // Without blocking, so that a pipe in the place of a file cannot hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat2(&self.dir, name, flags, Mode::empty(), beneath()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        Ok(meta.is_file().then_some((file, meta.len())))
    }
}

const fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS)
}

/// Longest session key that a client can name, in bytes.
const MAX_KEY_BYTES: usize = 100;

/// What clients can call a conversation: as legacy, but canonical keys are keys too.
#[must_use]
pub fn is_session_key(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b':'))
        && !key.contains("..")
}

/// The key without the prefix of the one agent that there is.
#[must_use]
pub fn bare_key(key: &str) -> &str {
    key.strip_prefix(CANONICAL).unwrap_or(key)
}

/// The spelling under which the agent looks for everything.
#[must_use]
pub fn canonical_key(key: &str) -> String {
    // A key of another agent is canonical already.
    if key.starts_with("agent:") { key.to_owned() } else { format!("{CANONICAL}{key}") }
}

fn same_key(a: &str, b: &str) -> bool {
    bare_key(a) == bare_key(b)
}

/// Reads the agent's store. Entries that cannot be read are passed over.
///
/// # Errors
/// It is no JSON object.
pub fn parse_sessions(bytes: &[u8]) -> io::Result<Vec<Session>> {
    let all: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(bytes)?;
    let sessions = all.into_iter().filter_map(|(key, raw)| {
        let session: Session = serde_json::from_str(raw.get()).ok()?;
        Some(Session { key, ..session })
    });
    Ok(sessions.collect())
}

/// The name of a session's transcript in the sessions directory. A `sessionFile` is absolute and may be another
/// box's: it counts if it lies in a sessions directory, wherever that was.
#[must_use]
pub fn transcript_name(session: &Session) -> Option<String> {
    let named = session.session_file.as_deref().and_then(|path| {
        let (dir, name) = path.rsplit_once('/').unwrap_or((SESSIONS, path));
        (dir == SESSIONS || dir.ends_with("/agents/main/sessions")).then_some(name)
    });
    let by_id = || Some(format!("{}{TRANSCRIPT_SUFFIX}", session.session_id.as_deref()?));
    named
        .map(ToOwned::to_owned)
        .filter(|name| is_transcript(name))
        .or_else(by_id)
        .filter(|name| is_transcript(name))
}

/// Also what makes a name fit for a cursor: no separator of either can be in it.
#[must_use]
pub fn is_transcript(name: &str) -> bool {
    name.len() <= 255
        && name.strip_suffix(TRANSCRIPT_SUFFIX).is_some_and(|stem| !stem.is_empty())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A transcript that has not been needed yet.
#[derive(Debug)]
struct Closed {
    name: String,
    orphan: bool,
    /// No message in it is newer: it was last written then.
    newest_ms: u64,
}

/// A transcript that is being read, with the message that comes next.
#[derive(Debug)]
struct Open {
    name: String,
    oldest_ms: u64,
    lines: Lines<File>,
    /// Time never goes up on the way back, whatever a line says.
    at_ms: u64,
    head: Option<Entry>,
    /// What has been given out or passed over ends here.
    given: u64,
}

enum Next {
    Message(u64, Box<Entry>),
    Spent,
    End,
}

/// Several transcripts as one. A transcript is opened only once a message of it could be the next one.
struct Merge<'a> {
    store: &'a Store,
    cursor: Option<&'a Cursor>,
    roles: Roles,
    closed: Vec<Closed>,
    open: Vec<Open>,
}

impl Merge<'_> {
    fn next(&mut self, budget: &mut Budget) -> io::Result<Next> {
        loop {
            // All heads must be there before one can be called the newest.
            for open in &mut self.open {
                if open.head.is_none() && open.given > 0 && !open.advance(self.roles, budget)? {
                    return Ok(Next::Spent);
                }
            }
            let newest =
                self.open.iter_mut().filter(|open| open.head.is_some()).max_by_key(|open| open.at_ms);
            let at_ms = newest.as_ref().map(|open| open.at_ms);
            match self.closed.pop_if(|closed| at_ms.is_none_or(|at_ms| closed.newest_ms >= at_ms)) {
                Some(closed) => {
                    if budget.left() == 0 {
                        self.closed.push(closed);
                        return Ok(Next::Spent);
                    }
                    let opened = self.open(&closed)?;
                    self.open.extend(opened);
                }
                None => {
                    let taken = newest.and_then(|open| Some((open.at_ms, open.take()?)));
                    return Ok(
                        taken.map_or(Next::End, |(at_ms, entry)| Next::Message(at_ms, Box::new(entry)))
                    );
                }
            }
        }
    }

    /// `None` when nothing of the file is to be read: it is gone, or not ours, or was read before the cursor.
    fn open(&self, closed: &Closed) -> io::Result<Option<Open>> {
        let Some((file, size)) = self.store.open_file(&closed.name)? else { return Ok(None) };
        let (oldest_ms, job) = look_at_head(&file, size)?;
        if job && closed.orphan {
            return Ok(None);
        }
        let end = match self.cursor {
            None => size,
            Some(cursor) => match cursor.place(&closed.name) {
                Some(offset) => offset.min(size),
                None if oldest_ms > cursor.floor_ms => return Ok(None),
                None => size,
            },
        };
        let at_ms =
            self.cursor.map_or(u64::MAX, |cursor| cursor.floor_ms).min(closed.newest_ms.max(oldest_ms));
        let (name, lines) = (closed.name.clone(), Lines::before(file, end));
        Ok(Some(Open { name, oldest_ms, lines, at_ms, head: None, given: end }))
    }

    /// Where each file stands that a later page could not tell from one that was read whole, or not at all.
    fn places(&self, floor_ms: u64) -> Vec<(String, u64)> {
        let told = self.cursor.map_or(&[][..], |cursor| &cursor.files);
        let untouched = told.iter().filter(|(name, _)| self.closed.iter().any(|closed| closed.name == *name));
        let open = self.open.iter().filter(|open| open.oldest_ms <= floor_ms);
        open.map(|open| (open.name.clone(), open.given)).chain(untouched.cloned()).collect()
    }
}

impl Open {
    /// Looks for the next message. `false`: the budget was spent before.
    fn advance(&mut self, roles: Roles, budget: &mut Budget) -> io::Result<bool> {
        loop {
            match self.lines.step(budget)? {
                Step::Line => {
                    if let Some(message) = transcript::parse(self.lines.line(), roles) {
                        self.at_ms = message.at_ms().unwrap_or(self.at_ms).min(self.at_ms);
                        self.head = Some(message.to_entry(roles));
                        return Ok(true);
                    }
                    self.given = self.lines.position();
                }
                Step::Start => {
                    self.given = 0;
                    return Ok(true);
                }
                Step::Spent => {
                    // It would be met again and again: pass over as much as was read of it.
                    let reached = self.lines.reached();
                    if budget.too_long(self.given.saturating_sub(reached)) {
                        self.given = reached;
                    }
                    return Ok(false);
                }
            }
        }
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.head.take()?;
        self.given = self.lines.position();
        Some(entry)
    }
}

/// When a transcript began, 0 if it does not say, and whether a timer's job began it.
fn look_at_head(file: &File, size: u64) -> io::Result<(u64, bool)> {
    let length = usize::try_from(size).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    let mut head = vec![0; length];
    let count = ReadAt::read_at(file, &mut head, 0)?;
    let mut lines = head.get(..count).unwrap_or_default().split(|b| *b == b'\n');
    let first = lines.next().unwrap_or_default();
    let oldest_ms = transcript::line_time_ms(first).unwrap_or(0);
    let opening = std::iter::once(first).chain(lines).find_map(|line| {
        let message = transcript::parse(line, Roles::Talk)?;
        (message.role() == "user").then(|| message.text())
    });
    Ok((oldest_ms, opening.is_some_and(|text| text.starts_with(JOB_MARK))))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
