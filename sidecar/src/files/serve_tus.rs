//! Resumable uploads on the volume, outside the workspace: `{id}.part` holds the bytes, `{id}.json` what they will
//! be. They survive a restart.
//!
//! * How far an upload is, is the part's size and nothing else.
//! * The record is written after the part exists, and the part goes when the file is in its place. So a record
//!   without a part is an upload that is complete, which a client that missed the last answer can still learn.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::time::UnixMillis;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::Files;
use super::error::{FileError, failed, failed_io};
use super::etag::Expect;
use super::path::WorkspacePath;
use super::write::{self, Written};

/// Below the volume's own folder.
const DIR: &str = ".automna/tus";

/// Uploads that are not complete. One user uploads a folder's files a few at a time; more is a client that never
/// finishes any, and each is room on the volume.
pub const MAX_UNFINISHED: usize = 256;

/// Records, complete ones included. Of those the oldest is forgotten when there would be more.
pub const MAX_RECORDS: usize = 4096;

/// What is not complete after so long will not be.
pub const LIFETIME_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Kept free on the volume, for the agent and for us.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// For a request on the same upload to end, once it was told to. It is at most writing one batch.
const HANDOVER: Duration = Duration::from_secs(5);

/// What an upload will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub length: u64,
    /// As clients write it.
    pub path: String,
    /// The header as it came, which HEAD repeats.
    pub metadata: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
    pub created: UnixMillis,
    /// From here on the bytes wait for their checksum: if the process ends first, they do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unverified_from: Option<u64>,
}

impl Record {
    #[must_use]
    pub const fn expires(&self) -> UnixMillis {
        UnixMillis(self.created.0.saturating_add(LIFETIME_MS))
    }
}

/// A name that we gave: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl UploadId {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 32 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why an upload cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("too many uploads")]
    TooMany,
    #[error("no room")]
    NoRoom,
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Debug, Default)]
struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    interrupt: Notify,
}

/// All uploads.
#[derive(Debug)]
pub struct Uploads {
    dir: PathBuf,
    fd: OwnedFd,
    slots: Mutex<HashMap<UploadId, Arc<Slot>>>,
    /// Held while one is created, so that the bounds hold.
    creation: Mutex<()>,
}

/// The right to change one upload.
#[derive(Debug)]
pub struct Turn {
    slot: Arc<Slot>,
    _guard: OwnedMutexGuard<()>,
}

impl Turn {
    /// Resolves when somebody else wants the turn: the client has come back, and what we read from is a connection
    /// that it has given up.
    pub async fn interrupted(&self) {
        self.slot.interrupt.notified().await;
    }
}

impl Uploads {
    /// Opens the folder below `data_dir`, and removes what a crash or time has left there.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(data_dir: &Path, now: UnixMillis) -> io::Result<Self> {
        let dir = data_dir.join(DIR);
        fs::create_dir_all(&dir)?;
        let fd = File::open(&dir)?.into();
        let uploads = Self { dir, fd, slots: Mutex::default(), creation: Mutex::default() };
        uploads.purge(now, true);
        Ok(uploads)
    }

    /// Waits for the turn on `id`, and tells whoever has it to hurry. `None` if they do not.
    pub async fn turn(&self, id: &UploadId) -> Option<Turn> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            slots.entry(id.clone()).or_default().clone()
        };
        let lock = slot.lock.clone();
        slot.interrupt.notify_waiters();
        let guard = tokio::time::timeout(HANDOVER, lock.lock_owned()).await.ok()?;
        Some(Turn { slot, _guard: guard })
    }

    /// Begins an upload. Blocks.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(&self, id: &UploadId, record: &Record) -> Result<(), CreateError> {
        let _held = self.creation.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut records, mut unfinished, mut owed) = (0, 0, 0u64);
        let mut oldest: Option<(UnixMillis, UploadId)> = None;
        for other in self.ids() {
            records += 1;
            match self.look(&other) {
                Ok(Some((other, Some(at)))) => {
                    unfinished += 1;
                    owed = owed.saturating_add(other.length.saturating_sub(at));
                }
                Ok(Some((Record { created, .. }, None))) => {
                    if oldest.as_ref().is_none_or(|(oldest, _)| created < *oldest) {
                        oldest = Some((created, other));
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
        if unfinished >= MAX_UNFINISHED || records >= MAX_RECORDS && oldest.is_none() {
            return Err(CreateError::TooMany);
        }
        let volume = rustix::fs::fstatvfs(&self.fd).map_err(failed("statvfs"))?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        if record.length.saturating_add(owed).saturating_add(RESERVE_BYTES) > free {
            return Err(CreateError::NoRoom);
        }
        File::create_new(self.part(id)).map_err(failed_io("create upload"))?;
        self.save(id, record)?;
        if records >= MAX_RECORDS
            && let Some((_, oldest)) = oldest
        {
            self.remove(&oldest);
        }
        Ok(())
    }

    /// What an upload is, and how far it is; no offset if it is complete. `None` if there is no such upload. Blocks.
    ///
    /// # Errors
    /// The disk fails, or the record is damaged.
    pub fn look(&self, id: &UploadId) -> Result<Option<(Record, Option<u64>)>, FileError> {
        let text = match fs::read(self.json(id)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::from_io("read record", error)),
        };
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| FileError::from_io("read record", io::Error::other(error)))?;
        match fs::metadata(self.part(id)) {
            Ok(meta) => {
                let at = record.unverified_from.map_or(meta.len(), |from| from.min(meta.len()));
                Ok(Some((record, Some(at))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some((record, None))),
            Err(error) => Err(FileError::from_io("stat upload", error)),
        }
    }

    /// Opens the part, cut to `at`. Blocks.
    ///
    /// # Errors
    /// The disk fails.
    pub fn part_from(&self, id: &UploadId, at: u64) -> Result<File, FileError> {
        let file = OpenOptions::new().write(true).open(self.part(id)).map_err(failed_io("open upload"))?;
        if file.metadata().map_err(failed_io("stat upload"))?.len() != at {
            file.set_len(at).map_err(failed_io("cut upload"))?;
        }
        Ok(file)
    }

    /// Stores the record, durably. Blocks.
    ///
    /// # Errors
    /// The disk fails.
    pub fn save(&self, id: &UploadId, record: &Record) -> Result<(), FileError> {
        let text = serde_json::to_vec(record)
            .map_err(|error| FileError::from_io("write record", io::Error::other(error)))?;
        let temp = self.dir.join(format!("{}.new", id.0));
        let mut file = File::create(&temp).map_err(failed_io("write record"))?;
        file.write_all(&text).map_err(failed_io("write record"))?;
        file.sync_all().map_err(failed_io("fsync record"))?;
        fs::rename(&temp, self.json(id)).map_err(failed_io("rename record"))?;
        rustix::fs::fsync(&self.fd).map_err(failed("fsync folder"))
    }

    /// Makes the part the file. Blocks.
    ///
    /// # Errors
    /// As [`write::adopt`]; the upload stays as it is.
    pub fn finish(
        &self,
        files: &Files,
        id: &UploadId,
        path: &WorkspacePath,
        expect: &Expect,
    ) -> Result<Written, FileError> {
        let written = write::adopt(files, &self.fd, &format!("{}.part", id.0), path, expect)?;
        fs::remove_file(self.part(id)).map_err(failed_io("remove upload"))?;
        Ok(written)
    }

    /// Forgets an upload. Blocks.
    pub fn remove(&self, id: &UploadId) {
        // The part first: a record alone harms nobody. What fails now is tried again by the purge.
        let _again = fs::remove_file(self.part(id));
        let _again = fs::remove_file(self.json(id));
    }

    /// Removes what has expired; at the start also what a crash has left. Blocks.
    pub fn purge(&self, now: UnixMillis, at_start: bool) {
        let _held = self.creation.lock().unwrap_or_else(PoisonError::into_inner);
        for id in self.ids() {
            if matches!(self.look(&id), Ok(Some((record, _))) if record.expires() <= now) {
                self.remove(&id);
            }
        }
        if at_start {
            for name in self.names() {
                let path = self.dir.join(&name);
                let orphan = name
                    .strip_suffix(".part")
                    .is_some_and(|id| !self.dir.join(format!("{id}.json")).exists());
                if orphan || name.ends_with(".new") {
                    let _again = fs::remove_file(path);
                }
            }
        }
    }

    fn ids(&self) -> Vec<UploadId> {
        self.names().iter().filter_map(|name| UploadId::parse(name.strip_suffix(".json")?)).collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn part(&self, id: &UploadId) -> PathBuf {
        self.dir.join(format!("{}.part", id.0))
    }

    fn json(&self, id: &UploadId) -> PathBuf {
        self.dir.join(format!("{}.json", id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(created: u64) -> Record {
        let (path, metadata) = ("/root/clawd/a".to_owned(), String::new());
        let created = UnixMillis(created);
        Record { length: 10, path, metadata, if_match: None, created, unverified_from: None }
    }

    #[test]
    fn time_and_crashes_leave_nothing() {
        let data = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(data.path(), UnixMillis(0)).unwrap();
        let [old, new] = ['a', 'b'].map(|c| UploadId::parse(&c.to_string().repeat(32)).unwrap());
        uploads.create(&old, &record(0)).unwrap();
        uploads.create(&new, &record(1000)).unwrap();
        fs::write(uploads.part(&new), "12345").unwrap();
        fs::write(uploads.dir.join(format!("{}.part", "c".repeat(32))), "").unwrap();
        fs::write(uploads.dir.join(format!("{}.new", "d".repeat(32))), "").unwrap();
        let uploads = Uploads::open(data.path(), UnixMillis(LIFETIME_MS)).unwrap();
        assert_eq!(uploads.look(&old).unwrap(), None);
        assert_eq!(uploads.look(&new).unwrap(), Some((record(1000), Some(5))));
        assert_eq!(uploads.names().len(), 2);
        // What was not verified before the crash does not count.
        uploads.save(&new, &Record { unverified_from: Some(3), ..record(1000) }).unwrap();
        assert_eq!(uploads.look(&new).unwrap().unwrap().1, Some(3));
        uploads.part_from(&new, 3).unwrap();
        assert_eq!(fs::read(uploads.part(&new)).unwrap(), b"123");
    }

    #[test]
    fn who_has_completed_many_uploads_can_still_begin_one() {
        let data = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(data.path(), UnixMillis(0)).unwrap();
        let id = |n: usize| UploadId::parse(&format!("{n:032x}")).unwrap();
        for n in 0..MAX_RECORDS {
            let record = record(1_000_000 - n as u64);
            fs::write(uploads.json(&id(n)), serde_json::to_vec(&record).unwrap()).unwrap();
        }
        uploads.create(&id(MAX_RECORDS), &record(2_000_000)).unwrap();
        assert_eq!(uploads.ids().len(), MAX_RECORDS);
        assert_eq!(uploads.look(&id(MAX_RECORDS - 1)).unwrap(), None, "the oldest is forgotten");
        assert!(uploads.look(&id(0)).unwrap().is_some());
    }

    #[test]
    fn uploads_are_bounded() {
        let data = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(data.path(), UnixMillis(0)).unwrap();
        let id = |n: usize| UploadId::parse(&format!("{n:032x}")).unwrap();
        let huge = Record { length: u64::MAX / 2, ..record(0) };
        assert!(matches!(uploads.create(&id(0), &huge), Err(CreateError::NoRoom)));
        for n in 0..MAX_UNFINISHED {
            uploads.create(&id(n), &record(0)).unwrap();
        }
        assert!(matches!(uploads.create(&id(MAX_UNFINISHED), &record(0)), Err(CreateError::TooMany)));
    }
}
