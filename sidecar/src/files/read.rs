//! Reading whole files and streaming long ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

use super::Files;
use super::error::{FileError, failed, failed_io};
use super::etag::{ContentHash, weak_tag};
use super::meta::Meta;
use super::path::WorkspacePath;
use super::pool;
use crate::clock;
use crate::http_semantics::etag::EntityTag;

/// One read of a stream. A thousand slow downloads hold one each.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// A file that is rewritten in place while we read it is read again, so often at most; then as it was found.
const MAX_TORN_READS: usize = 3;

/// A file's whole content, and what it was when it was read.
#[derive(Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub meta: Meta,
    pub etag: EntityTag,
}

/// Reads a whole file of at most `max` bytes. Blocks.
///
/// # Errors
/// It is missing, no regular file, too large, outside, or the disk fails.
pub fn whole(files: &Files, path: &WorkspacePath, max: u64) -> Result<Content, FileError> {
    let mut attempt = 1;
    loop {
        let (file, meta) = files.root.open_file(path)?;
        let bytes = read_all(&file, meta.size(), max)?;
        let after = now(&file)?;
        if after.version == meta.version && bytes.len() as u64 == meta.size() || attempt >= MAX_TORN_READS {
            let hash = ContentHash::of(&bytes);
            if after.version == meta.version {
                files.hashes.put(meta.version, hash, clock::now());
            }
            return Ok(Content { bytes, meta: after, etag: hash.tag() });
        }
        attempt += 1;
    }
}

fn read_all(file: &File, size: u64, max: u64) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    if size > max {
        return Err(FileError::TooLarge { size, max });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    // One more than allowed, in case that it grows meanwhile.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed_io("read"))?;
    let size = bytes.len() as u64;
    if size > max { Err(FileError::TooLarge { size, max }) } else { Ok(bytes) }
}

/// The strong tag of a file that is open, from the cache or by reading it. Blocks as long as that takes.
///
/// # Errors
/// The disk fails.
pub fn strong_etag(files: &Files, file: &File, meta: &Meta) -> Result<EntityTag, FileError> {
    if let Some(hash) = files.hashes.get(&meta.version) {
        return Ok(hash.tag());
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at).map_err(failed_io("read"))?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        at = at.saturating_add(read as u64);
    }
    let hash = ContentHash::finish(&hasher);
    if now(file)?.version == meta.version {
        files.hashes.put(meta.version, hash, clock::now());
    }
    Ok(hash.tag())
}

/// The strong tag if it is known, else a weak one. Reads nothing.
#[must_use]
pub fn cheap_etag(files: &Files, meta: &Meta) -> EntityTag {
    files.hashes.get(&meta.version).map_or_else(|| weak_tag(&meta.version), |hash| hash.tag())
}

fn now(file: &File) -> Result<Meta, FileError> {
    Ok(Meta::of(&rustix::fs::fstat(file).map_err(failed("fstat"))?))
}

/// Streams `length` bytes from `start`. Each chunk is one job on the pool, begun when the one before was taken.
/// A file that has become shorter ends the stream with an error, since the length was promised.
pub fn stream(
    file: File,
    start: u64,
    length: u64,
) -> impl Stream<Item = Result<Bytes, FileError>> + Send + 'static {
    let file = Arc::new(file);
    futures_util::stream::unfold((start, length), move |(at, left)| {
        let file = file.clone();
        async move {
            if left == 0 {
                return None;
            }
            let want = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = pool(move || chunk(&file, at, want)).await;
            let rest = match &chunk {
                Ok(bytes) => {
                    let got = bytes.len() as u64;
                    (at.saturating_add(got), left.saturating_sub(got))
                }
                Err(_) => (at, 0),
            };
            Some((chunk, rest))
        }
    })
}

fn chunk(file: &File, at: u64, want: usize) -> Result<Bytes, FileError> {
    let mut buffer = vec![0; want];
    let read = file.read_at(&mut buffer, at).map_err(failed_io("read"))?;
    if read == 0 {
        return Err(FileError::from_io("read", std::io::ErrorKind::UnexpectedEof.into()));
    }
    buffer.truncate(read);
    Ok(buffer.into())
}
