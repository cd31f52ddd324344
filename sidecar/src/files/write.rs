//! Durable, atomic writes. A [`Draft`] collects the bytes under a temporary name; [`Draft::commit`] makes them
//! the file, or leaves the old one whole. Readers see old or new, and new means on the disk.
//!
//! * A hard link is replaced, not written through: its other names keep the old content.
//! * A symbolic link beneath the root stays; the file that it points to is replaced. One that leads out is
//!   refused.
//! * Whatever goes wrong, the temporary file goes away; after a crash, at the next start ([`super::litter`]).

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, fstat, fsync, linkat, openat, renameat_with, statat};
use rustix::io::Errno;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{FileError, failed, failed_io};
use super::etag::{ContentHash, Expect};
use super::meta::{Kind, Meta, Version};
use super::path::WorkspacePath;
use super::root::Target;
use super::temp::Temp;
use super::{Files, keep, pool, read};
use crate::clock;
use crate::http_semantics::etag::EntityTag;

/// Bytes that are collected before the pool writes them. A thousand slow uploads hold as much each.
const BATCH_BYTES: usize = 128 * 1024;

/// The same for up to [`MAX_WIDE`] drafts at a time: each way to the pool and back is two switches of threads.
const WIDE_BATCH_BYTES: usize = 512 * 1024;

/// Drafts with wide batches: 8 MiB in all.
pub(super) const MAX_WIDE: usize = 16;

/// Shorter pieces of a body are copied together. A piece keeps the whole buffer that it was read into, so that those
/// of slow clients, which are short, would keep many times their bytes. Those of fast clients fill the buffer.
const MIN_PIECE_BYTES: usize = 32 * 1024;

/// A file in the making. Dropping it leaves no trace.
#[derive(Debug)]
pub struct Draft {
    files: Files,
    /// Away only while the pool has it; lost with a request that is cut off just then.
    state: Option<State>,
    /// What has come and is not written yet: whole pieces, then short ones that were copied together.
    batch: Vec<Bytes>,
    tail: BytesMut,
    batched: usize,
    /// A place among the wide ones.
    wide: Option<OwnedSemaphorePermit>,
    written: u64,
    max: u64,
}

#[derive(Debug)]
struct State {
    file: File,
    temp: Temp,
    hasher: blake3::Hasher,
}

/// A file that is complete and on the disk.
#[derive(Debug, Clone)]
pub struct Written {
    pub meta: Meta,
    pub etag: EntityTag,
    /// There was no file of that name before.
    pub created: bool,
}

impl Draft {
    /// Begins a file of at most `max` bytes that will be at `path`. `make_parents`: folders that are missing are
    /// made now.
    ///
    /// # Errors
    /// The place cannot hold a file: the root, a folder, something special, outside, no parent.
    pub async fn at(
        files: &Files,
        path: &WorkspacePath,
        make_parents: bool,
        max: u64,
    ) -> Result<Self, FileError> {
        let path = path.clone();
        files.run(move |files| Self::begin(files, target(files, &path, make_parents)?.parent, max)).await
    }

    /// Begins a file whose place is not known yet. It is collected in the root: a rename from there is as atomic,
    /// since the workspace is one file system.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn anywhere(files: &Files, max: u64) -> Result<Self, FileError> {
        files.run(move |files| Self::anywhere_now(files, max)).await
    }

    /// As [`Self::anywhere`], for a job that does more than this. Blocks.
    ///
    /// # Errors
    /// The disk fails.
    pub fn anywhere_now(files: &Files, max: u64) -> Result<Self, FileError> {
        let root = files.root.fd().try_clone_to_owned().map_err(failed_io("dup"))?;
        Self::begin(files, root, max)
    }

    fn begin(files: &Files, dir: OwnedFd, max: u64) -> Result<Self, FileError> {
        let temp = Temp::new(dir)?;
        let file = temp.create_file()?;
        let state = Some(State { file, temp, hasher: blake3::Hasher::new() });
        let (batch, tail) = (Vec::new(), BytesMut::new());
        let wide = files.wide.clone().try_acquire_owned().ok();
        Ok(Self { files: files.clone(), state, batch, tail, batched: 0, wide, written: 0, max })
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.written
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Takes further bytes; returns when they are written or collected, never faster than the disk.
    ///
    /// # Errors
    /// More than `max` bytes, or the disk fails. The draft is of no use then.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), FileError> {
        let size = self.written.saturating_add(bytes.len() as u64);
        if size > self.max {
            return Err(FileError::TooLarge { size, max: self.max });
        }
        self.written = size;
        self.batched = self.batched.saturating_add(bytes.len());
        if bytes.len() < MIN_PIECE_BYTES {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.end_tail();
            self.batch.push(bytes);
        }
        let enough = if self.wide.is_some() { WIDE_BATCH_BYTES } else { BATCH_BYTES };
        if self.batched >= enough { self.flush().await } else { Ok(()) }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.batch.push(self.tail.split().freeze());
        }
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        let (batch, mut state) = self.take()?;
        let work = move || {
            state.write(&batch)?;
            Ok(state)
        };
        self.state = Some(pool(work).await?);
        Ok(())
    }

    /// What the pool needs: what is not written yet, and where it goes.
    fn take(&mut self) -> Result<(Vec<Bytes>, State), FileError> {
        self.end_tail();
        self.batched = 0;
        Ok((std::mem::take(&mut self.batch), self.state.take().ok_or(FileError::BodyAborted)?))
    }

    /// Makes it the file at `path`, if `expect` holds at that moment.
    ///
    /// # Errors
    /// As [`Self::at`]; `expect` does not hold; the disk fails. The old file is whole then.
    pub async fn commit(
        mut self,
        path: &WorkspacePath,
        make_parents: bool,
        expect: Expect,
    ) -> Result<Written, FileError> {
        let (batch, mut state) = self.take()?;
        let path = path.clone();
        let work = move |files: &Files| {
            state.write(&batch)?;
            finish(files, state, &path, make_parents, &expect)
        };
        self.files.run(work).await
    }
}

impl State {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), FileError> {
        write_all(&self.file, batch).map_err(failed_io("write"))?;
        for bytes in batch {
            self.hasher.update(bytes);
        }
        Ok(())
    }
}

fn write_all(mut file: &File, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes `bytes` to `path` as a [`Draft`] does, in one job. Blocks.
///
/// # Errors
/// As [`Draft::at`] and [`Draft::commit`].
pub fn bytes(
    files: &Files,
    path: &WorkspacePath,
    content: &[u8],
    make_parents: bool,
    expect: &Expect,
) -> Result<Written, FileError> {
    let temp = Temp::new(target(files, path, make_parents)?.parent)?;
    let mut file = temp.create_file()?;
    file.write_all(content).map_err(failed_io("write"))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(content);
    finish(files, State { file, temp, hasher }, path, make_parents, expect)
}

/// Writes what `stream` brings to `path`.
///
/// # Errors
/// As [`Draft::at`] and [`Draft::commit`]; [`FileError::BodyAborted`] if the stream fails.
pub async fn stream<E>(
    files: &Files,
    path: &WorkspacePath,
    content: impl Stream<Item = Result<Bytes, E>>,
    max: u64,
    expect: Expect,
) -> Result<Written, FileError> {
    let mut draft = Draft::at(files, path, true, max).await?;
    let mut content = std::pin::pin!(content);
    while let Some(bytes) = content.next().await {
        draft.push(bytes.map_err(|_| FileError::BodyAborted)?).await?;
    }
    draft.commit(path, true, expect).await
}

/// Makes the file `name` in `dir`, which lies on the same file system, the file at `path`, if `expect` holds at that
/// moment. `name` itself stays until the caller removes it, so that a crash at any point can be followed by the
/// same call. Reads the file once, for its hash. Blocks.
///
/// # Errors
/// As [`Draft::at`] and [`Draft::commit`]; it is missing.
pub fn adopt(
    files: &Files,
    dir: &OwnedFd,
    name: &str,
    path: &WorkspacePath,
    expect: &Expect,
) -> Result<Written, FileError> {
    use std::io::Read;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::empty()).map_err(failed("open upload"))?);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BATCH_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(failed_io("read upload"))?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    let temp = Temp::new(target(files, path, true)?.parent)?;
    let (temp_dir, temp_name) = temp.place()?;
    linkat(dir, name, temp_dir, temp_name, AtFlags::empty()).map_err(failed("link upload"))?;
    finish(files, State { file, temp, hasher }, path, true, expect)
}

fn target(files: &Files, path: &WorkspacePath, make_parents: bool) -> Result<Target, FileError> {
    if make_parents && let Some(parent) = path.parent() {
        files.root.make_dirs(&parent)?;
    }
    let target = files.root.target_behind_link(path)?;
    match target.metadata()?.map(|meta| meta.kind) {
        None | Some(Kind::File | Kind::Symlink) => {}
        Some(Kind::Directory | Kind::Special) => return Err(FileError::NotAFile),
    }
    if target.is_protected && target.name == super::path::TRASH_DIR {
        return Err(FileError::Protected);
    }
    Ok(target)
}

fn finish(
    files: &Files,
    state: State,
    path: &WorkspacePath,
    make_parents: bool,
    expect: &Expect,
) -> Result<Written, FileError> {
    let State { file, temp, hasher } = state;
    // The slow part comes before the lock: the disk. What is inherited as well, for it needs the disk too.
    let seen = {
        let target = target(files, path, make_parents)?;
        let old = target.metadata()?;
        keep::inherit(&file, &target, old.as_ref())?;
        (target.id, old)
    };
    fsync(&file).map_err(failed("fsync"))?;
    let target = target(files, path, make_parents)?;
    let held = files.locks.hold(&[&target]);
    let old = target.metadata()?;
    if old.is_some_and(|old| old.kind != Kind::File) {
        return Err(FileError::NotAFile);
    }
    let commit = judge(files, &target, old.as_ref(), expect)?;
    // Hardly ever: somebody else was faster.
    if seen != (target.id, old) {
        keep::inherit(&file, &target, old.as_ref())?;
        fsync(&file).map_err(failed("fsync"))?;
    }
    let left_behind = replace(&temp, &target, commit)?;
    drop(held);
    target.sync_parent()?;

    let hash = ContentHash::finish(&hasher);
    let meta = Meta::of(&fstat(&file).map_err(failed("fstat"))?);
    files.hashes.put(meta.version, hash, clock::now());
    if !left_behind {
        temp.keep();
    }
    Ok(Written { meta, etag: hash.tag(), created: old.is_none() })
}

/// How the temporary name becomes the real one.
#[derive(Debug, Clone, Copy)]
enum Commit {
    Overwrite,
    /// Only where nothing is.
    Create,
    /// Only over this version, which was judged by its content.
    Swap(Version),
}

/// Judges what has the name now.
fn judge(files: &Files, target: &Target, old: Option<&Meta>, expect: &Expect) -> Result<Commit, FileError> {
    let (current, commit) = match old {
        None if *expect == Expect::Anything => (None, Commit::Overwrite),
        None => (None, Commit::Create),
        Some(old) if expect.needs_hash() => {
            let (file, meta) = target.open_file()?;
            let etag = read::strong_etag(files, &file, &meta)?;
            if meta.version != old.version {
                return Err(FileError::Precondition { current: Some(etag) });
            }
            (Some(etag), Commit::Swap(old.version))
        }
        Some(old) => (Some(read::cheap_etag(files, old)), Commit::Overwrite),
    };
    if expect.holds(current.as_ref()) { Ok(commit) } else { Err(FileError::Precondition { current }) }
}

/// The commit point. The agent takes none of our locks: so where a version was judged, the names are exchanged,
/// and changed back if the one that came out is not the one that was judged. True if the temporary name is still
/// taken, by the old file.
fn replace(temp: &Temp, target: &Target, commit: Commit) -> Result<bool, FileError> {
    let (dir, name) = temp.place()?;
    let rename = |flags| renameat_with(dir, name, &target.parent, &target.name, flags);
    let judged = match commit {
        Commit::Overwrite => return rename(RenameFlags::empty()).map(|()| false).map_err(failed("rename")),
        Commit::Create => {
            return match rename(RenameFlags::NOREPLACE) {
                Ok(()) => Ok(false),
                Err(Errno::EXIST) => Err(FileError::Precondition { current: None }),
                Err(errno) => Err(FileError::from_errno("rename", errno)),
            };
        }
        Commit::Swap(judged) => judged,
    };
    match rename(RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A file system without the exchange: the lock is then all there is.
        Err(Errno::INVAL | Errno::NOSYS) => {
            return rename(RenameFlags::empty()).map(|()| false).map_err(failed("rename"));
        }
        Err(Errno::NOENT) => return Err(FileError::Precondition { current: None }),
        Err(errno) => return Err(FileError::from_errno("exchange", errno)),
    }
    let came_out = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
    if Meta::of(&came_out).version.is_but_for_ctime(&judged) {
        return Ok(true);
    }
    rename(RenameFlags::EXCHANGE).map_err(failed("exchange back"))?;
    Err(FileError::Precondition { current: None })
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
