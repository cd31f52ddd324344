//! Files on their way to a client: what is in memory at once, the rest by the pool, in bounded pieces.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use super::Files;
use super::error::{FileError, failed, failed_io};
use super::etag::is_settled;
use super::handles::Handle;
use super::meta::{Kind, Meta};
use super::path::WorkspacePath;
use super::read;
use super::root::Mechanism;
use crate::clock;
use crate::http_semantics::digest::{Algorithm, Hasher};
use crate::http_semantics::etag::EntityTag;
use crate::sendfile;
use crate::sendfile::body::HandOver;

/// One read of a body. A thousand slow downloads hold one each; more would leave the processor's cache and be
/// slower, not faster.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Files up to this size always get their strong tag, if need be by reading them: it holds whatever an editor can
/// open. Of larger ones it is made when something in the request depends on it.
pub const MAX_EAGER_HASH_BYTES: u64 = 16 * 1024 * 1024;

/// A digest in a header has to be known before the first byte is sent. Of longer content it would keep the client
/// waiting for seconds, and it is a wish that we may decline.
pub const MAX_DIGEST_BYTES: u64 = 256 * 1024 * 1024;

/// What short contents are read into. A client that takes nothing holds as much; a thousand of them, 32 MB.
const SHORT_BUFFER_BYTES: usize = 32 * 1024;

/// Less is sent from here as fast.
const MIN_BULK_BYTES: u64 = 2 * CHUNK_BYTES as u64;

/// A file that is open to be sent.
#[derive(Debug)]
pub struct Opened {
    pub file: Arc<File>,
    pub meta: Meta,
    pub etag: EntityTag,
    /// All of it, if it was asked for, is short, and was in memory.
    content: Option<Bytes>,
}

/// What an answer is going to need of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A tag, be it weak.
    Tag,
    /// A strong tag, whatever the size.
    StrongTag,
    /// A tag, then all of the content.
    Content,
}

/// Opens a file to be sent. What is in the kernel's caches is opened on the spot; else the pool does it.
///
/// # Errors
/// As [`super::root::Root::open_file`].
pub async fn open(files: &Files, path: &WorkspacePath, wanted: Wanted) -> Result<Opened, FileError> {
    if let Some(opened) = open_cached(files, path, wanted) {
        return Ok(opened);
    }
    let path = path.clone();
    files
        .run(move |files| {
            let (file, meta) = files.root.open_file(&path)?;
            let etag = if wanted == Wanted::StrongTag || meta.size() <= MAX_EAGER_HASH_BYTES {
                read::strong_etag(files, &file, &meta)?
            } else {
                read::cheap_etag(files, &meta)
            };
            Ok(Opened { file: file.into(), meta, etag, content: None })
        })
        .await
}

/// Never blocks: every call in here fails if it would have to wait for the disk. `None` for any reason at all;
/// the pool then finds out which.
fn open_cached(files: &Files, path: &WorkspacePath, wanted: Wanted) -> Option<Opened> {
    const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_MAGICLINKS)
        .union(ResolveFlags::NO_XDEV)
        .union(ResolveFlags::CACHED);
    if files.root.mechanism() != Mechanism::Kernel || path.is_root() {
        return None;
    }
    let open = |flags| {
        openat2(files.root.fd(), path.relative(), flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE).ok()
    };
    let look = |fd: BorrowedFd<'_>| {
        fstat(fd).ok().map(|stat| Meta::of(&stat)).filter(|meta| meta.kind == Kind::File)
    };
    let kept = files.handles.get(path);
    let began = clock::now();
    // As the root does it: to open a FIFO, even only to look, wakes its writer.
    let Some(place) = open(OFlags::PATH) else {
        files.handles.forget(path);
        return None;
    };
    let read = |file: &File, size| if wanted == Wanted::Content { read_short(file, size) } else { None };
    if let Some(kept) = kept {
        // First read, then seen: of a version that was settled when it was opened, nothing has changed till then.
        let content = read(&kept.file, kept.meta.size());
        let meta = look(place.as_fd())?;
        if meta.version == kept.meta.version {
            let content = content.filter(|bytes| bytes.len() as u64 == meta.size());
            return Some(Opened { file: kept.file, meta, etag: kept.etag, content });
        }
    }
    let seen = look(place.as_fd())?;
    let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    let content = read(&file, seen.size());
    let meta = look(file.as_fd())?;
    // What is seen after the read is true of it, if it has been true for longer than the read took.
    let is_whole = |bytes: &Bytes| bytes.len() as u64 == meta.size() && is_settled(&meta.version, began);
    let content = content.filter(is_whole);
    let etag = files.hashes.get(&meta.version)?.tag();
    let file = Arc::new(file);
    files.handles.keep(path, Handle { file: file.clone(), meta, etag: etag.clone() }, began);
    Some(Opened { file, meta, etag, content })
}

/// Up to `size` bytes, if they are few and in memory.
fn read_short(file: &File, size: u64) -> Option<Bytes> {
    thread_local! {
        /// Content is cut off its front. Its memory is used again once all that was cut off is sent: a block of its
        /// own for each file costs more than the read.
        static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SHORT_BUFFER_BYTES));
    }
    let size = usize::try_from(size).ok().filter(|size| (1..=CHUNK_BYTES).contains(size))?;
    if size > SHORT_BUFFER_BYTES / 4 {
        return read_into(file, BytesMut::zeroed(size)).map(BytesMut::freeze);
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(size, 0);
        read_into(file, buffer.split()).map(BytesMut::freeze)
    })
}

fn read_into(file: &File, mut bytes: BytesMut) -> Option<BytesMut> {
    let read = preadv2(file, &mut [IoSliceMut::new(&mut bytes)], 0, ReadWriteFlags::NOWAIT).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// The digest of `length` bytes from `start`, for a header. `None` if they are too many.
///
/// # Errors
/// The disk fails, or the file has become shorter.
pub async fn digest(
    files: &Files,
    opened: &Opened,
    algorithm: Algorithm,
    start: u64,
    length: u64,
) -> Result<Option<Vec<u8>>, FileError> {
    if length > MAX_DIGEST_BYTES {
        return Ok(None);
    }
    let file = opened.file.clone();
    files
        .run(move |_| {
            let mut hasher = Hasher::new([algorithm]);
            let mut buffer = vec![0; CHUNK_BYTES];
            let (mut at, mut left) = (start, length);
            while left > 0 {
                let want = want(left);
                let read = file.read_at(buffer.get_mut(..want).unwrap_or_default(), at);
                let read = read.map_err(failed_io("read"))?;
                if read == 0 {
                    return Err(shorter());
                }
                hasher.update(buffer.get(..read).unwrap_or_default());
                (at, left) = (at.saturating_add(read as u64), left.saturating_sub(read as u64));
            }
            Ok(hasher.digest(algorithm))
        })
        .await
}

/// A piece of a body.
#[derive(Debug)]
pub enum Part {
    /// The frame between ranges.
    Text(Bytes),
    Range {
        start: u64,
        length: u64,
    },
}

/// The body of an answer: pieces of one file, and texts between them.
///
/// If the file changes while it is read, in place and not by a new one of its name, the body ends with an error,
/// which ends the connection: what was promised cannot be sent, and a mixture of two versions must not look whole.
#[derive(Debug)]
pub struct FileBody {
    opened: Opened,
    parts: VecDeque<Part>,
    left: u64,
    /// Its memory is used again as soon as the connection has let go of the chunk before.
    buffer: BytesMut,
    /// A chunk that the pool is reading.
    pending: Option<JoinHandle<Result<Bytes, FileError>>>,
}

impl FileBody {
    #[must_use]
    pub fn new(opened: Opened, parts: impl IntoIterator<Item = Part>) -> Self {
        let parts: VecDeque<Part> = parts.into_iter().collect();
        let length = |part: &Part| match part {
            Part::Text(text) => text.len() as u64,
            Part::Range { length, .. } => *length,
        };
        let left = parts.iter().map(length).fold(0, u64::saturating_add);
        Self { opened, parts, left, buffer: BytesMut::new(), pending: None }
    }

    /// As the body of an answer. On a connection that offers it, the kernel moves the bulk of a single long range;
    /// the end of it is sent from here, after the last look at the file.
    pub fn into_body(mut self, offer: Option<&sendfile::Offer>) -> axum::body::Body {
        if let Some(content) = self.opened.content.take()
            && matches!(self.parts.front(), Some(Part::Range { start: 0, length }) if *length == content.len() as u64)
            && self.parts.len() == 1
        {
            return content.into();
        }
        let bulk = offer.and_then(|_| self.split_bulk());
        let body = axum::body::Body::new(self);
        match bulk {
            Some(bulk) => axum::body::Body::new(HandOver::new(bulk, body)),
            None => body,
        }
    }

    fn split_bulk(&mut self) -> Option<sendfile::body::Range> {
        let [Part::Range { start, length }] = self.parts.make_contiguous() else { return None };
        let bulk = length.checked_sub(CHUNK_BYTES as u64).filter(|bulk| *bulk >= MIN_BULK_BYTES)?;
        let range = sendfile::body::Range { file: self.opened.file.clone(), start: *start, length: bulk };
        *start = start.saturating_add(bulk);
        *length = CHUNK_BYTES as u64;
        self.left = CHUNK_BYTES as u64;
        Some(range)
    }

    /// Accounts for a chunk of the range at the front.
    fn take(&mut self, chunk: Bytes) -> Result<Bytes, FileError> {
        let got = chunk.len() as u64;
        self.left = self.left.saturating_sub(got);
        if let Some(Part::Range { start, length }) = self.parts.front_mut() {
            *start = start.saturating_add(got);
            *length = length.saturating_sub(got);
        }
        // Before the last chunk goes out. The ctime moves when the name is taken away, which harms nobody.
        if self.left == 0 {
            let (then, now) = (self.opened.meta.version, look(&self.opened.file)?.version);
            if (then.size, then.mtime_ns) != (now.size, now.mtime_ns) {
                return Err(FileError::from_io(
                    "read",
                    io::Error::other("the file changed while it was sent"),
                ));
            }
        }
        Ok(chunk)
    }

    /// Reads what is in memory. `Err` if the pool has to.
    fn read_cached(&mut self, at: u64, want: usize) -> Result<Result<Bytes, FileError>, Errno> {
        self.buffer.clear();
        self.buffer.resize(want, 0);
        let read =
            preadv2(&self.opened.file, &mut [IoSliceMut::new(&mut self.buffer)], at, ReadWriteFlags::NOWAIT)?;
        if read == 0 {
            return Ok(Err(shorter()));
        }
        Ok(Ok(self.buffer.split_to(read).freeze()))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = FileError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FileError>>> {
        let body = self.get_mut();
        if let Some(pending) = &mut body.pending {
            let chunk = ready!(Pin::new(pending).poll(cx));
            body.pending = None;
            let chunk =
                chunk.unwrap_or_else(|error| Err(FileError::from_io("read", io::Error::other(error))));
            return Poll::Ready(Some(chunk.and_then(|chunk| body.take(chunk)).map(Frame::data)));
        }
        loop {
            match body.parts.front() {
                None => return Poll::Ready(None),
                Some(Part::Range { length: 0, .. }) => {
                    body.parts.pop_front();
                }
                Some(Part::Text(text)) => {
                    let text = text.clone();
                    body.parts.pop_front();
                    return Poll::Ready(Some(body.take_text(text).map(Frame::data)));
                }
                Some(&Part::Range { start, length }) => {
                    let want = want(length);
                    match body.read_cached(start, want) {
                        Ok(chunk) => {
                            return Poll::Ready(Some(
                                chunk.and_then(|chunk| body.take(chunk)).map(Frame::data),
                            ));
                        }
                        // Not in memory, or a file system that cannot tell; a fault of the disk shows again.
                        Err(_) => {
                            let file = body.opened.file.clone();
                            body.pending =
                                Some(tokio::task::spawn_blocking(move || read_chunk(&file, start, want)));
                            let Some(pending) = &mut body.pending else { return Poll::Ready(None) };
                            let chunk = ready!(Pin::new(pending).poll(cx));
                            body.pending = None;
                            let chunk = chunk.unwrap_or_else(|error| {
                                Err(FileError::from_io("read", io::Error::other(error)))
                            });
                            return Poll::Ready(Some(
                                chunk.and_then(|chunk| body.take(chunk)).map(Frame::data),
                            ));
                        }
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.pending.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl FileBody {
    fn take_text(&mut self, text: Bytes) -> Result<Bytes, FileError> {
        self.left = self.left.saturating_sub(text.len() as u64);
        Ok(text)
    }
}

fn look(file: &File) -> Result<Meta, FileError> {
    Ok(Meta::of(&fstat(file).map_err(failed("fstat"))?))
}

fn read_chunk(file: &File, at: u64, want: usize) -> Result<Bytes, FileError> {
    let mut buffer = vec![0; want];
    let read = file.read_at(&mut buffer, at).map_err(failed_io("read"))?;
    if read == 0 {
        return Err(shorter());
    }
    buffer.truncate(read);
    Ok(buffer.into())
}

fn want(left: u64) -> usize {
    usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

fn shorter() -> FileError {
    FileError::from_io("read", io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use http_body_util::BodyExt;
    use shared::time::UnixMillis;

    use super::*;
    use crate::files::test_support::path;

    /// Keeps `a`, as if it had been read long after its last change.
    fn keep(files: &Files) -> Arc<File> {
        let (file, meta) = files.root.open_file(&path("a")).unwrap();
        let etag = read::strong_etag(files, &file, &meta).unwrap();
        let handle = Handle { file: file.into(), meta, etag };
        files.handles.keep(&path("a"), handle.clone(), UnixMillis(u64::MAX));
        handle.file
    }

    async fn content(opened: Opened) -> Vec<u8> {
        let whole = Part::Range { start: 0, length: opened.meta.size() };
        FileBody::new(opened, [whole]).into_body(None).collect().await.unwrap().to_bytes().into()
    }

    #[tokio::test]
    async fn what_is_kept_open_is_served_only_while_it_has_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        let files = Files::open(&root).unwrap();
        let (a, other) = (root.join("a"), root.join("other"));
        fs::write(dir.path().join("secret"), "secret").unwrap();
        /// What happens to the file, and what is served then.
        type Change<'a> = (&'static str, &'a dyn Fn(), Option<&'static str>);
        let changes: &[Change<'_>] = &[
            ("nothing", &|| {}, Some("old")),
            (
                "permissions",
                &|| fs::set_permissions(&a, fs::Permissions::from_mode(0o600)).unwrap(),
                Some("old"),
            ),
            ("written in place", &|| fs::write(&a, "new").unwrap(), Some("new")),
            ("shorter", &|| fs::write(&a, "").unwrap(), Some("")),
            (
                "replaced",
                &|| fs::write(&other, "new").and_then(|()| fs::rename(&other, &a)).unwrap(),
                Some("new"),
            ),
            ("removed", &|| fs::remove_file(&a).unwrap(), None),
            ("a link out", &|| fs::remove_file(&a).and_then(|()| symlink("../secret", &a)).unwrap(), None),
            ("a folder", &|| fs::remove_file(&a).and_then(|()| fs::create_dir(&a)).unwrap(), None),
        ];
        for (name, change, expect) in changes {
            let _none_at_first = fs::remove_file(&a);
            fs::write(&a, "old").unwrap();
            // An hour old: what changes it is later, whatever the resolution of the file system's clock.
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            File::open(&a).unwrap().set_modified(then).unwrap();
            let kept = keep(&files);
            change();
            let opened = open(&files, &path("a"), Wanted::Content).await;
            let is_kept = opened.as_ref().is_ok_and(|opened| Arc::ptr_eq(&opened.file, &kept));
            assert!(!is_kept || matches!(*name, "nothing" | "permissions"), "{name}");
            assert!(is_kept || *name != "nothing", "{name}");
            match (opened, expect) {
                (Ok(opened), Some(expect)) => {
                    let etag = opened.etag.clone();
                    assert_eq!(content(opened).await, expect.as_bytes(), "{name}");
                    assert_eq!(etag, crate::files::etag::ContentHash::of(expect.as_bytes()).tag(), "{name}");
                }
                (Err(_), None) => {}
                (opened, _) => panic!("{name}: {opened:?}"),
            }
        }
    }

    #[tokio::test]
    async fn short_contents_do_not_share_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut bodies = Vec::new();
        for n in 0..40_u8 {
            let bytes = vec![n; 1 + 211 * usize::from(n)];
            fs::write(dir.path().join("f"), &bytes).unwrap();
            let file = File::open(dir.path().join("f")).unwrap();
            let Some(read) = read_short(&file, bytes.len() as u64) else { continue };
            bodies.push((read, bytes));
            // Some are sent at once, some late.
            if n % 3 == 0 {
                bodies.remove(0);
            }
        }
        assert!(!bodies.is_empty());
        for (read, bytes) in bodies {
            assert_eq!(read, bytes);
        }
    }
}
