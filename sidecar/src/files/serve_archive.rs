//! A folder as a zip or tar, made while it is sent.
//!
//! * Memory: one chunk here and a few on their way; for zip also its index, some hundred bytes for each entry,
//!   since that stands at the end. Hence [`MAX_ZIP_ENTRIES`]; tar has no such bound.
//! * Links are never followed. Tar stores them as links; zip leaves them out. What is left out is named in the last
//!   entry, [`SKIPPED`]. The trash and the sidecar's own files are left out without a word.
//! * A file that becomes shorter meanwhile ends the stream with an error, so that the archive is seen to be broken.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Dir, readlinkat};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Files;
use super::error::{FileError, failed};
use super::meta::{Kind, Meta};
use super::path::{TRASH_DIR, WorkspacePath};

/// Archives that are made at the same time. Each has a thread, which mostly waits for its client.
pub const MAX_ARCHIVES: usize = 4;

/// The index of a zip is kept until its end: some tens of megabytes at this number.
const MAX_ZIP_ENTRIES: usize = 100_000;

/// Names in [`SKIPPED`]; a tree of sockets should not fill the memory.
const MAX_SKIPPED: usize = 1000;

/// The entry that names what is not in the archive.
pub const SKIPPED: &str = "automna-skipped.txt";

const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks between the thread and the connection.
const CHUNKS: usize = 2;

/// A client that takes nothing for so long gives its place to others.
const SILENCE: Duration = Duration::from_secs(60);

/// What an archive is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Zip,
    Tar,
    TarGz,
}

/// The archive of a folder, chunk by chunk; an error ends it early. `top` is the folder's name in the archive;
/// `permit` is held until the end. Must be called within the runtime.
///
/// # Errors
/// No thread can be started.
pub fn start(
    files: Files,
    folder: WorkspacePath,
    format: Format,
    top: String,
    permit: impl Send + 'static,
) -> Result<mpsc::Receiver<Result<Bytes, io::Error>>, FileError> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let runtime = Handle::current();
    let work = move || {
        let _permit = permit;
        let mut out = Out { sender, runtime, chunk: Vec::with_capacity(CHUNK_BYTES) };
        let result = match format {
            Format::Zip => zip(&files, &folder, &top, &mut out),
            Format::Tar => tar(&files, &folder, &top, &mut out),
            Format::TarGz => {
                let mut gzip = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
                tar(&files, &folder, &top, &mut gzip).and_then(|()| gzip.try_finish())
            }
        };
        if let Err(error) = result.and_then(|()| out.flush()) {
            tracing::warn!(%error, "an archive ended early: {error}");
            // Without this the body would end as if it were whole.
            let _gone = out.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new().name("archive".to_owned()).spawn(work);
    thread.map_err(|error| FileError::from_io("start thread", error))?;
    Ok(receiver)
}

/// Sends what is written, in chunks, no faster than the client takes them.
struct Out {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    runtime: Handle,
    chunk: Vec<u8>,
}

impl Out {
    fn send(&self, chunk: Result<Bytes, io::Error>) -> io::Result<()> {
        let sent = async { tokio::time::timeout(SILENCE, self.sender.send(chunk)).await };
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.chunk.extend_from_slice(taken);
        if self.chunk.len() >= CHUNK_BYTES {
            self.push()?;
        }
        Ok(taken.len())
    }

    /// Only at the end: the encoders flush more often than is good.
    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { self.push() }
    }
}

impl Out {
    fn push(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.send(Ok(chunk.into()))
    }
}

/// What one entry of the tree is.
enum Entry {
    Folder(Meta),
    File(std::fs::File, Meta),
    Link(std::ffi::OsString, Meta),
}

/// Calls `add` for everything below `folder`, in the order of names, with names that begin with `top`. Returns
/// what cannot be in an archive.
fn visit(
    files: &Files,
    folder: &WorkspacePath,
    top: &str,
    mut add: impl FnMut(&str, Entry) -> io::Result<bool>,
) -> io::Result<Vec<String>> {
    let mut skipped = Vec::new();
    let mut skip = |name: String| {
        if skipped.len() < MAX_SKIPPED {
            skipped.push(name);
        }
    };
    let mut pending = vec![(folder.clone(), top.to_owned())];
    while let Some((path, name)) = pending.pop() {
        let entry = match open(files, &path) {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(FileError::Outside) => {
                skip(name);
                continue;
            }
            // Gone since its folder was read.
            Err(FileError::NotFound) => continue,
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                skip(name);
                continue;
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let is_folder = matches!(entry, Entry::Folder(_));
        if !add(&name, entry)? {
            skip(name);
            continue;
        }
        if is_folder {
            let names = match children(files, &path) {
                Ok(names) => names,
                Err(_gone_or_closed) => {
                    skip(name);
                    continue;
                }
            };
            for child in names.into_iter().rev() {
                let Ok(child) = std::str::from_utf8(&child) else {
                    skip(format!("{name}/{}", String::from_utf8_lossy(&child)));
                    continue;
                };
                // Ours, as the trash is.
                let Ok(below) = path.join(child) else { continue };
                if below.relative() != TRASH_DIR {
                    pending.push((below, format!("{name}/{child}")));
                }
            }
        }
    }
    Ok(skipped)
}

fn open(files: &Files, path: &WorkspacePath) -> Result<Option<Entry>, FileError> {
    let meta = files.root.metadata(path)?;
    Ok(match meta.kind {
        Kind::Directory => Some(Entry::Folder(meta)),
        Kind::File => {
            let (file, meta) = files.root.open_file(path)?;
            Some(Entry::File(file, meta))
        }
        Kind::Symlink => {
            let target = files.root.target(path)?;
            let text = readlinkat(&target.parent, &target.name, Vec::new()).map_err(failed("readlink"))?;
            Some(Entry::Link(std::ffi::OsStr::from_bytes(text.as_bytes()).to_owned(), meta))
        }
        Kind::Special => None,
    })
}

fn children(files: &Files, path: &WorkspacePath) -> Result<Vec<Vec<u8>>, FileError> {
    let folder = files.root.open_dir(path)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder).map_err(failed("read folder"))? {
        let entry = entry.map_err(failed("read folder"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Exactly as many bytes as were promised, or an error.
struct Exactly<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let read = self.from.read(buffer.get_mut(..want).unwrap_or_default())?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

fn tar(files: &Files, folder: &WorkspacePath, top: &str, out: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    let header = |kind, meta: &Meta, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode & 0o777);
        header.set_mtime(meta.modified().0.0 / 1000);
        header.set_size(size);
        header
    };
    let skipped = visit(files, folder, top, |name, entry| {
        match entry {
            Entry::Folder(meta) => {
                let mut header = header(tar::EntryType::Directory, &meta, 0);
                archive.append_data(&mut header, format!("{name}/"), io::empty())?;
            }
            Entry::File(file, meta) => {
                let mut header = header(tar::EntryType::Regular, &meta, meta.size());
                archive.append_data(&mut header, name, Exactly { from: file, left: meta.size() })?;
            }
            Entry::Link(text, meta) => {
                let mut header = header(tar::EntryType::Symlink, &meta, 0);
                archive.append_link(&mut header, name, text)?;
            }
        }
        Ok(true)
    })?;
    if !skipped.is_empty() {
        let text = skipped.join("\n");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, format!("{top}/{SKIPPED}"), text.as_bytes())?;
    }
    archive.finish()
}

fn zip(files: &Files, folder: &WorkspacePath, top: &str, out: &mut impl Write) -> io::Result<()> {
    let mut archive = zip::ZipWriter::new_stream(out);
    let options = |meta: &Meta| {
        zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(1))
            .unix_permissions(meta.mode & 0o777)
            .last_modified_time(dos_time(&meta.modified().to_string()))
            .large_file(meta.size() >= u64::from(u32::MAX))
    };
    let mut entries = 0;
    let skipped = visit(files, folder, top, |name, entry| {
        entries += 1;
        if entries > MAX_ZIP_ENTRIES {
            return Err(io::Error::other("too many entries for a zip; tar has no such bound"));
        }
        match entry {
            Entry::Folder(meta) => archive.add_directory(name, options(&meta))?,
            Entry::File(file, meta) => {
                archive.start_file(name, options(&meta))?;
                let mut from =
                    io::BufReader::with_capacity(CHUNK_BYTES, Exactly { from: file, left: meta.size() });
                io::copy(&mut from, &mut archive)?;
            }
            Entry::Link(..) => return Ok(false),
        }
        Ok(true)
    })?;
    if !skipped.is_empty() {
        archive.start_file(format!("{top}/{SKIPPED}"), zip::write::SimpleFileOptions::default())?;
        archive.write_all(skipped.join("\n").as_bytes())?;
    }
    archive.finish()?;
    Ok(())
}

/// From ISO 8601; the first moment that zip can write for what it cannot.
fn dos_time(text: &str) -> zip::DateTime {
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<u8>().ok());
    let year = text.get(..4).and_then(|digits| digits.parse().ok());
    let time = (|| {
        let (month, day) = (number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        zip::DateTime::from_date_and_time(year?, month, day, hour, minute, second).ok()
    })();
    time.unwrap_or_default()
}
