//! The last changes, numbered, in memory and on the volume.
//!
//! A number is of use only together with the *run*, the life of a process that gave it: after a power cut the end of
//! the journal may be missing, and the next process gives the same numbers again. Each run begins with an entry that
//! says so, since nobody knows what happened before it.
//!
//! On the volume are two files of lines, the older of which is dropped when the newer is full. They are not fsynced:
//! what is lost by that lies between two runs, where clients are told to look anew in any case. A line that is torn
//! ends what is read.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Cause;

/// Entries that are kept for those who come back, and their bytes: a burst of ten thousand files, or some hours of an
/// agent at work.
const MAX_ENTRIES: usize = 20_000;
const MAX_BYTES: usize = 6 << 20;

/// Of one of the two files.
const MAX_FILE_BYTES: u64 = 8 << 20;

const NEWER: &str = "changes.jsonl";
const OLDER: &str = "changes.old.jsonl";

/// What an entry is, as the `event:` of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Created,
    Modified,
    Deleted,
    Moved,
    Rescan,
}

impl Event {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
            Self::Rescan => "rescan",
        }
    }
}

/// One numbered change. `data` is its JSON, on one line.
#[derive(Debug, Clone)]
pub struct Entry {
    pub cursor: Cursor,
    pub event: Event,
    pub data: Box<str>,
}

/// After which entry a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    run: Arc<str>,
    seq: u64,
}

impl Cursor {
    /// Reads what [`fmt::Display`] wrote; None if it is nothing of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (run, seq) = text.split_once('-')?;
        let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        let is_run = run.len() == 16 && digits(run, 16);
        let seq = if digits(seq, 10) { seq.parse().ok()? } else { return None };
        is_run.then(|| Self { run: run.into(), seq })
    }

    /// The entry's number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run, self.seq)
    }
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    seq: u64,
    run: &'a str,
    event: Event,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The ring and its copy. Positions are numbers of entries: who is at one has seen it and all before.
#[derive(Debug)]
pub struct Journal {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Of this process.
    run: Arc<str>,
    /// The last number that was given.
    head: u64,
    store: Store,
}

impl Journal {
    /// Reads what earlier runs left in `dir`. What cannot be read is as if it had not been. Blocks.
    #[must_use]
    pub fn open(dir: &Path, run: &str) -> Self {
        let mut journal =
            Self { entries: VecDeque::new(), bytes: 0, run: run.into(), head: 0, store: Store::new(dir) };
        for text in journal.store.load() {
            journal.take_in(&text);
        }
        journal
    }

    fn take_in(&mut self, text: &str) {
        for line in text.lines() {
            let Ok(Line { seq, run, event, data }) = serde_json::from_str(line) else { return };
            if self.head.checked_add(1) != Some(seq) {
                // A part is missing: what stands before it would make a wrong whole.
                self.entries.clear();
                self.bytes = 0;
            }
            let run = match self.entries.back() {
                Some(last) if *last.cursor.run == *run => last.cursor.run.clone(),
                _ => run.into(),
            };
            self.head = seq;
            self.push(Entry { cursor: Cursor { run, seq }, event, data: data.get().into() });
        }
    }

    fn push(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.data.len());
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.data.len());
        }
    }

    /// Adds entries, first in memory, then to the file. Blocks.
    pub fn append(&mut self, events: impl IntoIterator<Item = (Event, Box<str>)>) {
        let mut lines = Vec::new();
        for (event, data) in events {
            self.head = self.head.saturating_add(1);
            let cursor = Cursor { run: self.run.clone(), seq: self.head };
            if let Ok(raw) = serde_json::from_str::<&RawValue>(&data) {
                let line = Line { seq: self.head, run: &self.run, event, data: raw };
                let _infallible = serde_json::to_writer(&mut lines, &line);
                lines.push(b'\n');
            }
            self.push(Entry { cursor, event, data });
        }
        self.store.append(&lines);
    }

    /// The last number that was given.
    #[must_use]
    pub const fn head(&self) -> u64 {
        self.head
    }

    /// Where someone is who has seen everything.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { run: self.run.clone(), seq: self.head }
    }

    /// The cursor from which a client with this one goes on.
    ///
    /// # Errors
    /// `Expired`: something after it is no longer kept. `Unknown`: it is not of this volume, or of its future.
    pub fn locate(&self, cursor: &Cursor) -> Result<Cursor, Cause> {
        let last = self.entries.iter().rev().find(|entry| entry.cursor.run == cursor.run);
        // Its run is not kept any more, or was never here.
        let last = last.ok_or(Cause::Unknown)?.cursor.seq;
        if cursor.seq > last && cursor.run == self.run {
            return Err(Cause::Unknown);
        }
        // What it has seen beyond that was lost with the machine; the next run begins with a word about it.
        let position = cursor.seq.min(last);
        let located = Cursor { run: cursor.run.clone(), seq: position };
        if self.is_kept_after(position) { Ok(located) } else { Err(Cause::Expired) }
    }

    /// The entries after `position`, until they have `max_bytes`.
    ///
    /// # Errors
    /// The first of them is no longer kept.
    pub fn after(&self, position: u64, max_bytes: usize) -> Result<Vec<Entry>, Cause> {
        if !self.is_kept_after(position) {
            return Err(Cause::Slow);
        }
        let first = self.first().unwrap_or(self.head);
        let skip = usize::try_from(position.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0_usize;
        let taken = self.entries.iter().skip(skip).take_while(|entry| {
            let has_room = bytes < max_bytes;
            bytes = bytes.saturating_add(entry.data.len());
            has_room
        });
        Ok(taken.cloned().collect())
    }

    fn first(&self) -> Option<u64> {
        Some(self.entries.front()?.cursor.seq)
    }

    fn is_kept_after(&self, position: u64) -> bool {
        position >= self.head || self.first().is_some_and(|first| position.saturating_add(1) >= first)
    }
}

/// The two files.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    /// None: it cannot be written, and the journal lives as long as the process.
    newer: Option<(File, u64)>,
}

impl Store {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), newer: None }
    }

    /// The older file's lines, then the newer's; the newer is open for appending then, without a torn end.
    fn load(&mut self) -> [String; 2] {
        let older = read(&self.dir.join(OLDER)).unwrap_or_default();
        let newer = read(&self.dir.join(NEWER)).unwrap_or_default();
        let opened = (|| {
            fs::create_dir_all(&self.dir)?;
            let file = open(&self.dir.join(NEWER))?;
            let length = newer.len() as u64;
            file.set_len(length)?;
            Ok((file, length))
        })();
        self.newer = self.noted(opened);
        [older, newer]
    }

    fn append(&mut self, lines: &[u8]) {
        let Some((mut file, length)) = self.newer.take() else { return };
        let result = (|| {
            let mut length = length.saturating_add(lines.len() as u64);
            if length > MAX_FILE_BYTES {
                fs::rename(self.dir.join(NEWER), self.dir.join(OLDER))?;
                file = open(&self.dir.join(NEWER))?;
                length = lines.len() as u64;
            }
            file.write_all(lines)?;
            Ok((file, length))
        })();
        self.newer = self.noted(result);
    }

    /// Without it clients look anew after a restart, which they have to anyhow; so it is told, and no more.
    fn noted<T>(&self, result: io::Result<T>) -> Option<T> {
        result.inspect_err(|error| tracing::warn!(%error, "changes of files cannot be kept: {error}")).ok()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The whole lines of a file, up to the first that is none.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    // Twice what it should have; it is ours.
    File::open(path)?.take(MAX_FILE_BYTES.saturating_mul(2)).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = text
        .split_inclusive('\n')
        .take_while(|line| line.ends_with('\n') && serde_json::from_str::<Line<'_>>(line.trim_end()).is_ok());
    Ok(whole.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUNS: [&str; 3] = ["00000000000000a1", "00000000000000a2", "00000000000000a3"];

    fn data(n: usize) -> Box<str> {
        format!("{{\"n\":{n}}}").into()
    }

    fn add(journal: &mut Journal, count: usize) {
        journal.append((0..count).map(|n| (Event::Created, data(n))));
    }

    fn cursor(run: &str, seq: u64) -> Cursor {
        Cursor::parse(&format!("{run}-{seq}")).unwrap()
    }

    fn numbers(journal: &Journal, position: u64) -> Vec<u64> {
        journal.after(position, usize::MAX).unwrap().into_iter().map(|entry| entry.cursor.seq).collect()
    }

    #[test]
    fn cursors_that_are_none() {
        for bad in [
            "",
            "-",
            "1",
            "00000000000000a1",
            "00000000000000a1-",
            "00000000000000a1-x",
            "00000000000000a1--1",
            "00000000000000a1-+1",
            "0-1",
            "00000000000000g1-1",
            "00000000000000a1-99999999999999999999",
            "\u{e9}-1",
        ] {
            assert_eq!(Cursor::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn entries_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Journal::open(dir.path(), RUNS[0]);
        add(&mut first, 5);
        assert_eq!((first.cursor(), numbers(&first, 3)), (cursor(RUNS[0], 5), vec![4, 5]));
        drop(first);
        let mut second = Journal::open(dir.path(), RUNS[1]);
        second.append([(Event::Rescan, data(0))]);
        assert_eq!(second.locate(&cursor(RUNS[0], 3)), Ok(cursor(RUNS[0], 3)));
        assert_eq!(numbers(&second, 3), [4, 5, 6]);
        let entries = second.after(4, 1).unwrap();
        assert_eq!((entries.len(), &*entries[0].data, entries[0].event), (1, "{\"n\":4}", Event::Created));
        assert_eq!(second.locate(&cursor(RUNS[1], 7)), Err(Cause::Unknown));
        assert_eq!(second.locate(&cursor(RUNS[2], 3)), Err(Cause::Unknown));
        // What the first run has told and not kept: a power cut.
        assert_eq!(second.locate(&cursor(RUNS[0], 9)), Ok(cursor(RUNS[0], 5)));
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Journal::open(dir.path(), RUNS[0]);
        add(&mut first, 5);
        let path = dir.path().join(NEWER);
        let whole = fs::read(&path).unwrap();
        for (end, kept) in [(whole.len() - 1, 4), (whole.len() - 10, 4), (1, 0)] {
            for tail in [&b""[..], b"\0\0\0\0\n", b"\xff\n", b"{}\n"] {
                fs::write(&path, [&whole[..end], tail].concat()).unwrap();
                let mut next = Journal::open(dir.path(), RUNS[1]);
                assert_eq!(next.head(), kept, "{end} {tail:?}");
                next.append([(Event::Rescan, data(0))]);
                let again = Journal::open(dir.path(), RUNS[2]);
                assert_eq!(again.head(), kept + 1, "{end} {tail:?}");
            }
        }
    }

    #[test]
    fn it_is_bounded_in_memory_and_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), RUNS[0]);
        let long: Box<str> = format!("\"{}\"", "x".repeat(2000)).into();
        for _ in 0..20 {
            journal.append((0..600).map(|_| (Event::Modified, long.clone())));
        }
        assert!(journal.bytes <= MAX_BYTES && journal.entries.len() < 12_000);
        let on_disk: u64 =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(on_disk <= 2 * MAX_FILE_BYTES, "{on_disk}");
        assert_eq!(
            (journal.locate(&cursor(RUNS[0], 1)), journal.after(1, 1).err()),
            (Err(Cause::Expired), Some(Cause::Slow))
        );
        let next = Journal::open(dir.path(), RUNS[1]);
        assert_eq!(next.head(), 12_000);
        assert_eq!(next.locate(&cursor(RUNS[0], 11_999)), Ok(cursor(RUNS[0], 11_999)));
    }

    #[test]
    fn a_part_that_is_missing_is_not_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Journal::open(dir.path(), RUNS[0]);
        add(&mut first, 9);
        let lines = fs::read_to_string(dir.path().join(NEWER)).unwrap();
        let without: String =
            lines.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 4).map(|(_, l)| l).collect();
        fs::write(dir.path().join(NEWER), without).unwrap();
        let next = Journal::open(dir.path(), RUNS[1]);
        assert_eq!(next.locate(&cursor(RUNS[0], 3)), Err(Cause::Expired));
        assert_eq!(next.locate(&cursor(RUNS[0], 5)), Ok(cursor(RUNS[0], 5)));
    }

    #[test]
    fn without_a_place_it_lives_in_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut journal = Journal::open(&file.path().join("no-folder"), RUNS[0]);
        add(&mut journal, 3);
        assert_eq!(numbers(&journal, 1), [2, 3]);
    }

    proptest! {
        /// From wherever a client was, it gets all that follows, or is told that it does not.
        #[test]
        fn nothing_is_skipped(counts in proptest::collection::vec(0_usize..6, 3), at in 0_u64..20, of in 0_usize..3) {
            let dir = tempfile::tempdir().unwrap();
            let mut all: Vec<(String, u64)> = Vec::new();
            for (run, count) in RUNS.iter().zip(&counts) {
                let mut journal = Journal::open(dir.path(), run);
                add(&mut journal, count + 1);
                let entries = journal.after(0, usize::MAX).unwrap();
                all = entries.iter().map(|entry| (entry.cursor.run.to_string(), entry.cursor.seq)).collect();
            }
            let last = Journal::open(dir.path(), "00000000000000ff");
            if let Ok(from) = last.locate(&cursor(RUNS[of], at)) {
                let seen = numbers(&last, from.seq());
                // All of the runs after its own, and of its own what comes after it.
                let expect = all.iter().filter(|(run, seq)| run.as_str() > RUNS[of] || (run == RUNS[of] && *seq > at));
                let expect: Vec<u64> = expect.map(|(_, seq)| *seq).collect();
                prop_assert!(seen.ends_with(&expect), "{:?} {:?}", seen, expect);
            }
        }
    }
}
