//! The changes as clients get them: watching begins with the first of them and goes on until the process ends, each
//! reads the journal at its own speed, and whoever is too slow for it is told.
//!
//! Nothing is kept for a client but its position.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use super::change::Change;
use super::journal::{Cursor, Entry, Event, Journal};
use super::{Cause, Report, Watcher};
use crate::files::Files;
use crate::files::error::FileError;
use crate::files::etag::weak_tag;
use crate::files::meta::{Kind, Meta, Timestamp};
use crate::files::path::{VIRTUAL_ROOT, WorkspacePath};
use crate::http_semantics::etag::EntityTag;
use crate::random;

/// Clients at a time: one user's open pages. Each holds a connection.
pub const MAX_CLIENTS: usize = 64;

/// What a client is given at once.
const MAX_BYTES: usize = 64 * 1024;

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    dir: PathBuf,
    places: Arc<Semaphore>,
    /// Held while a client begins, so that those who wait for the first one do not wait on the blocking pool.
    turn: tokio::sync::Mutex<()>,
    /// None: nobody has asked yet.
    watcher: Mutex<Option<(Watcher, Arc<Log>)>>,
}

/// What the watcher's thread and the clients share.
#[derive(Debug)]
struct Log {
    journal: Mutex<Journal>,
    head: watch::Sender<u64>,
}

impl Log {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, events: Vec<(Event, Box<str>)>) {
        let mut journal = self.journal();
        journal.append(events);
        let head = journal.head();
        drop(journal);
        self.head.send_replace(head);
    }
}

/// A client's place in the stream.
#[derive(Debug)]
pub struct Follow {
    log: Arc<Log>,
    /// The last entry that the client has.
    at: Cursor,
    head: watch::Receiver<u64>,
    /// Why the client has to look at everything, although its cursor says nothing of the kind.
    pub missed: Option<Cause>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    Entries(Vec<Entry>),
    /// Nothing for now.
    UpToDate,
    /// Something was missed; the position is the newest now.
    Lost(Cause),
}

impl Feed {
    /// Nothing is watched yet. The journal will be in `dir`.
    #[must_use]
    pub fn new(files: Files, dir: PathBuf) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        let (turn, watcher) = (tokio::sync::Mutex::new(()), Mutex::new(None));
        Self(Arc::new(Inner { files, dir, places, turn, watcher }))
    }

    /// Places for clients.
    #[must_use]
    pub fn places(&self) -> Arc<Semaphore> {
        self.0.places.clone()
    }

    /// Begins after `cursor`, or now.
    ///
    /// # Errors
    /// Nothing can be watched.
    pub async fn follow(&self, cursor: Option<Cursor>) -> Result<Follow, FileError> {
        let _turn = self.0.turn.lock().await;
        let feed = self.clone();
        self.0.files.run(move |_| feed.begin(cursor.as_ref())).await
    }

    /// As [`Self::follow`]. Blocks, for the first client as long as it takes to read the workspace's folders.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn begin(&self, cursor: Option<&Cursor>) -> Result<Follow, FileError> {
        let failed = |error| FileError::Io { what: "watch", source: Arc::new(error) };
        let (log, is_limited) = self.watching().map_err(failed)?;
        let journal = log.journal();
        let located = cursor.map_or_else(|| Ok(journal.cursor()), |cursor| journal.locate(cursor));
        let newest = journal.cursor();
        drop(journal);
        let missed = located.as_ref().err().copied().or(is_limited.then_some(Cause::WatchLimit));
        Ok(Follow { head: log.head.subscribe(), log, at: located.unwrap_or(newest), missed })
    }

    fn watching(&self) -> io::Result<(Arc<Log>, bool)> {
        let mut watcher = self.0.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((watcher, log)) = watcher.as_ref() {
            return Ok((log.clone(), watcher.is_limited()));
        }
        let journal = Journal::open(&self.0.dir, &random::name());
        let log = Arc::new(Log { journal: Mutex::new(journal), head: watch::Sender::new(0) });
        let (files, told) = (self.0.files.clone(), log.clone());
        // What happens between here and the entry below is told before it, which does no harm.
        let started = Watcher::start(self.0.files.clone(), move |report| {
            told.append(match report {
                Report::Changes(changes) => {
                    changes.into_iter().filter_map(|change| describe(&files, change)).collect()
                }
                Report::Lost(cause) => rescan(cause).into_iter().collect(),
            });
        })?;
        log.append(rescan(Cause::Restart).into_iter().collect());
        let is_limited = started.is_limited();
        *watcher = Some((started, log.clone()));
        Ok((log, is_limited))
    }
}

impl Follow {
    /// What comes after what was given last. Does not wait.
    pub fn take(&mut self) -> Next {
        let journal = self.log.journal();
        match journal.after(self.at.seq(), MAX_BYTES) {
            Ok(entries) => match entries.last() {
                None => Next::UpToDate,
                Some(last) => {
                    self.at = last.cursor.clone();
                    Next::Entries(entries)
                }
            },
            Err(cause) => {
                self.at = journal.cursor();
                Next::Lost(cause)
            }
        }
    }

    /// Where the client is, once it has what was given.
    #[must_use]
    pub const fn cursor(&self) -> &Cursor {
        &self.at
    }

    /// Returns once there is more than was given.
    pub async fn more(&mut self) {
        let position = self.at.seq();
        // It fails only if the journal is gone, which this holds.
        let _kept = self.head.wait_for(|head| *head > position).await;
    }
}

/// `data:` of a change.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChangeEvent)]
pub struct Described {
    pub path: String,
    /// Where it was before, if it was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `symlink` or `special`, where `type` says `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special: Option<&'static str>,
    /// The rest is what is there when the change is told. It is missing if nothing is, since that will be told next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Of files; weak unless the content's hash is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// A path is not UTF-8. It is shown with replacement characters, and cannot be asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lossy_name: bool,
}

/// `data:` of a rescan.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RescanEvent)]
pub struct Missed {
    pub cause: Cause,
}

fn rescan(cause: Cause) -> Option<(Event, Box<str>)> {
    Some((Event::Rescan, serde_json::to_string(&Missed { cause }).ok()?.into()))
}

fn describe(files: &Files, change: Change) -> Option<(Event, Box<str>)> {
    let (event, path, from, is_dir) = match change {
        Change::Created { path, is_dir } => (Event::Created, path, None, is_dir),
        Change::Modified { path } => (Event::Modified, path, None, false),
        Change::Deleted { path, is_dir } => (Event::Deleted, path, None, is_dir),
        Change::Moved { from, to, is_dir } => (Event::Moved, to, Some(from), is_dir),
    };
    let meta = if event == Event::Deleted { None } else { metadata(files, &path) };
    let is_lossy = |path: &[u8]| std::str::from_utf8(path).is_err();
    let special = match meta.map(|meta| meta.kind) {
        Some(Kind::Symlink) => Some("symlink"),
        Some(Kind::Special) => Some("special"),
        Some(Kind::File | Kind::Directory) | None => None,
    };
    let file = meta.filter(|meta| meta.kind == Kind::File);
    let described = Described {
        lossy_name: is_lossy(&path) || from.as_deref().is_some_and(is_lossy),
        path: shown(&path),
        from: from.as_deref().map(shown),
        kind: if is_dir { "directory" } else { "file" },
        special,
        size: meta.map(|meta| meta.size()),
        modified: meta.map(|meta| meta.modified()),
        etag: file.map(|meta| etag(files, &meta).to_string()),
    };
    Some((event, serde_json::to_string(&described).ok()?.into()))
}

fn metadata(files: &Files, path: &[u8]) -> Option<Meta> {
    let path = WorkspacePath::parse(&format!("{VIRTUAL_ROOT}/{}", std::str::from_utf8(path).ok()?)).ok()?;
    files.root.metadata(&path).ok()
}

fn etag(files: &Files, meta: &Meta) -> EntityTag {
    files.hashes.get(&meta.version).map_or_else(|| weak_tag(&meta.version), |hash| hash.tag())
}

fn shown(path: &[u8]) -> String {
    format!("{VIRTUAL_ROOT}/{}", String::from_utf8_lossy(path))
}
