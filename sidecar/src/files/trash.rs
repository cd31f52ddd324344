//! The trash: what is deleted can be had back for seven days.
//!
//! A deleted entry is renamed to `.trash/<name>.<epoch_ms>`, as legacy did. Where it came from stands in an index
//! beside it, one JSON line for each deletion, on the disk before the rename: a crash in between leaves a line too
//! much, never an entry without one. Entries without a line, from legacy's time, are listed too, and can be restored
//! to a place that the client names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::PoisonError;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use shared::time::UnixMillis;
use utoipa::ToSchema;

use super::error::{FileError, failed, failed_io};
use super::judged::{self, Judged, Place};
use super::meta::{Kind, Meta, Timestamp};
use super::path::{MAX_SEGMENT_BYTES, RESERVED_PREFIX, TRASH_DIR, WorkspacePath};
use super::root::Target;
use super::temp::Temp;
use super::{Files, remove};

/// How long a deleted entry can be had back.
pub const KEEP_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Beside the entries, under a name of our own, so that no client can ask for it.
const INDEX: &str = ".automna-trash-index";

/// A line for each deletion of seven days: tens of thousands. What lies beyond is not read.
const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// Deletions of the same name in the same millisecond.
const MAX_SAME_NAME: u64 = 1000;

/// What is in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TrashItem)]
pub struct Item {
    /// As it was called.
    pub name: String,
    /// Names it in the trash.
    pub trash_path: String,
    /// Unknown for what was deleted before its place was written down.
    #[schema(required)]
    pub original_path: Option<String>,
    /// `file` or `directory`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(file|directory)$")]
    pub kind: &'static str,
    /// In bytes.
    pub size: u64,
    pub trashed_at: Timestamp,
    /// When it will be deleted for good.
    pub expires_at: Timestamp,
    /// The name in the trash, without the clients' ways to write it.
    #[serde(skip)]
    entry: String,
}

/// Where something is in the trash.
#[derive(Debug, Clone)]
pub struct Trashed {
    pub trash_path: String,
    pub trashed_at: Timestamp,
    /// When it will be deleted for good.
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    entry: String,
    original: String,
}

/// Moves `path` to the trash. Blocks.
///
/// # Errors
/// It is missing, protected or outside; `.trash` is no folder; the disk fails.
pub fn discard(files: &Files, path: &WorkspacePath, now: UnixMillis) -> Result<Trashed, FileError> {
    let Ok(trashed) = discard_if(files, path, now, |_| Ok(Ok::<_, Infallible>(Judged::Anything)))?;
    Ok(trashed)
}

/// As [`discard`], if `judge` has nothing against what is there at that moment. Else, inside, what it has. Blocks.
///
/// # Errors
/// Those of [`discard`], of `judge`, and of [`judged::put`].
pub fn discard_if<V>(
    files: &Files,
    path: &WorkspacePath,
    now: UnixMillis,
    judge: impl FnOnce(&Meta) -> Result<Result<Judged, V>, FileError>,
) -> Result<Result<Trashed, V>, FileError> {
    let target = files.root.target(path)?;
    target.metadata()?.ok_or(FileError::NotFound)?;
    if target.is_protected {
        return Err(FileError::Protected);
    }
    let original = path.to_string();
    let _changing = files.trash.lock().unwrap_or_else(PoisonError::into_inner);
    let _held = files.locks.hold(&[&target]);
    let judged = match judge(&target.metadata()?.ok_or(FileError::NotFound)?)? {
        Ok(judged) => judged,
        Err(against) => return Ok(Err(against)),
    };
    // Not earlier: what is refused changes nothing.
    let trash = open(files, true)?;
    let name = path.name().ok_or(FileError::Protected)?;
    for ms in now.0..now.0.saturating_add(MAX_SAME_NAME) {
        let entry = format!("{}.{ms}", shortened(name, MAX_SEGMENT_BYTES - 21));
        if statat(&trash, &entry, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            continue;
        }
        append(&trash, &Line { entry: entry.clone(), original: original.clone() })?;
        match judged::put(target.place(), Place { dir: &trash, name: entry.as_ref() }, judged) {
            Ok(()) => {}
            Err(FileError::Exists) => continue,
            Err(error) => return Err(error),
        }
        fsync(&trash).map_err(failed("fsync folder"))?;
        target.sync_parent()?;
        return Ok(Ok(Trashed {
            trash_path: path_of(&entry),
            trashed_at: Timestamp(UnixMillis(ms)),
            expires_at: Timestamp(UnixMillis(ms).plus_ms(KEEP_MS)),
        }));
    }
    Err(FileError::Exists)
}

/// What is in the trash, newest first. Blocks.
///
/// # Errors
/// `.trash` is no folder, or the disk fails.
pub fn list(files: &Files) -> Result<Vec<Item>, FileError> {
    match open(files, false) {
        Ok(trash) => items(&trash),
        Err(FileError::NotFound) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Moves the entry at `trash_path` back to where it was, or to `to`. Parents are made; nothing is overwritten.
/// Returns where it is now. Blocks.
///
/// # Errors
/// [`FileError::Exists`] if something is there; [`FileError::NotFound`] if it is not in the trash, or nobody knows
/// where it was; or as [`super::rename::rename`].
pub fn restore(
    files: &Files,
    trash_path: &WorkspacePath,
    to: Option<&WorkspacePath>,
) -> Result<WorkspacePath, FileError> {
    let trash = open(files, false)?;
    let _changing = files.trash.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = trash_path.to_string();
    let item =
        items(&trash)?.into_iter().find(|item| item.trash_path == wanted).ok_or(FileError::NotFound)?;
    let to = match (to, &item.original_path) {
        (Some(to), _) => to.clone(),
        (None, Some(original)) => WorkspacePath::parse(original)?,
        (None, None) => return Err(FileError::NotFound),
    };
    if let Some(parent) = to.parent() {
        files.root.make_dirs(&parent)?;
    }
    let target = files.root.target(&to)?;
    if target.is_protected && item.kind != "file" {
        return Err(FileError::Protected);
    }
    let held = files.locks.hold(&[&target]);
    judged::put(Place { dir: &trash, name: item.entry.as_ref() }, target.place(), Judged::Anything)?;
    drop(held);
    target.sync_parent()?;
    fsync(&trash).map_err(failed("fsync folder"))?;
    // The line without an entry means nothing, and goes with the next purge.
    Ok(to)
}

/// Deletes for good what was trashed before `before`; everything, if that is `None`. Returns how many. Blocks.
///
/// # Errors
/// `.trash` is no folder, or the disk fails.
pub fn purge(files: &Files, before: Option<UnixMillis>) -> Result<usize, FileError> {
    let trash = match open(files, false) {
        Err(FileError::NotFound) => return Ok(0),
        trash => trash?,
    };
    let _changing = files.trash.lock().unwrap_or_else(PoisonError::into_inner);
    let mut purged = 0;
    for item in items(&trash)? {
        if before.is_none_or(|before| item.trashed_at.0 < before) {
            remove::tree(&trash, item.entry.as_ref())?;
            purged += 1;
        }
    }
    compact(files, &trash)?;
    Ok(purged)
}

/// The trash, never behind a link: an agent could have put one there.
fn open(files: &Files, make: bool) -> Result<OwnedFd, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(files.root.fd(), TRASH_DIR, flags, Mode::empty()) {
        Err(Errno::NOENT) if make => {
            files.root.make_dirs(&WorkspacePath::root().join(TRASH_DIR)?)?;
            openat(files.root.fd(), TRASH_DIR, flags, Mode::empty()).map_err(failed("open trash"))
        }
        opened => opened.map_err(failed("open trash")),
    }
}

fn items(trash: &OwnedFd) -> Result<Vec<Item>, FileError> {
    let mut originals: HashMap<String, String> =
        read_index(trash)?.into_iter().map(|line| (line.entry, line.original)).collect();
    let mut items = Vec::new();
    for found in Dir::read_from(trash).map_err(failed("read trash"))? {
        let found = found.map_err(failed("read trash"))?;
        let bytes = found.file_name().to_bytes();
        if bytes == b"." || bytes == b".." || bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
            continue;
        }
        // What is not ours has no time in its name, and nobody can say when it is due.
        let Ok(entry) = std::str::from_utf8(bytes) else { continue };
        let Some((name, ms)) = split(entry) else { continue };
        let stat = statat(trash, found.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
        let meta = Meta::of(&stat);
        let original_path = originals.remove(entry);
        let shown = original_path.as_deref().and_then(|path| path.rsplit('/').next()).unwrap_or(name);
        items.push(Item {
            name: shown.to_owned(),
            trash_path: path_of(entry),
            original_path,
            kind: if meta.kind == Kind::Directory { "directory" } else { "file" },
            size: meta.size(),
            trashed_at: Timestamp(ms),
            expires_at: Timestamp(ms.plus_ms(KEEP_MS)),
            entry: entry.to_owned(),
        });
    }
    items.sort_by(|a, b| b.trashed_at.cmp(&a.trashed_at).then_with(|| a.entry.cmp(&b.entry)));
    Ok(items)
}

fn path_of(entry: &str) -> String {
    format!("{}/{TRASH_DIR}/{entry}", super::path::VIRTUAL_ROOT)
}

/// `<name>.<epoch_ms>`
fn split(entry: &str) -> Option<(&str, UnixMillis)> {
    let (name, ms) = entry.rsplit_once('.')?;
    // Today's times have 13 digits; a file that ends in `.1` was not put there by us.
    (ms.len() >= 13 && ms.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    Some((name, UnixMillis(ms.parse().ok()?)))
}

/// Cuts a name at a character's border, so that the time fits behind it.
fn shortened(name: &str, max: usize) -> &str {
    let mut end = name.len().min(max);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or(name)
}

fn append(trash: &OwnedFd, line: &Line) -> Result<(), FileError> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = openat(trash, INDEX, flags, Mode::from(0o600)).map_err(failed("open trash index"))?;
    let json = serde_json::to_string(line).map_err(|error| FileError::from_io("encode", error.into()))?;
    // The line break comes first as well: a line that was torn by a crash stays alone.
    File::from(file.try_clone().map_err(failed_io("dup"))?)
        .write_all(format!("\n{json}\n").as_bytes())
        .map_err(failed_io("write trash index"))?;
    fsync(&file).map_err(failed("fsync"))
}

fn read_index(trash: &OwnedFd) -> Result<Vec<Line>, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(trash, INDEX, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        file => file.map_err(failed("open trash index"))?,
    };
    let mut bytes = Vec::new();
    File::from(file).take(MAX_INDEX_BYTES).read_to_end(&mut bytes).map_err(failed_io("read trash index"))?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Writes the index anew, with only the lines whose entries are there.
fn compact(files: &Files, trash: &OwnedFd) -> Result<(), FileError> {
    let target = Target {
        parent: trash.try_clone().map_err(failed_io("dup"))?,
        ..files.root.target(&WorkspacePath::root().join(TRASH_DIR)?)?
    };
    let temp = Temp::new(trash)?;
    let mut file = temp.create_file()?;
    for line in read_index(trash)? {
        if statat(trash, &line.entry, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let json =
                serde_json::to_string(&line).map_err(|error| FileError::from_io("encode", error.into()))?;
            file.write_all(format!("{json}\n").as_bytes()).map_err(failed_io("write trash index"))?;
        }
    }
    fsync(&file).map_err(failed("fsync"))?;
    let (dir, name) = temp.place()?;
    renameat(dir, name, trash, std::ffi::OsStr::from_bytes(INDEX.as_bytes())).map_err(failed("rename"))?;
    temp.keep();
    target.sync_parent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{path, workspace};
    use std::fs;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn there_and_back_across_a_restart() {
        let (dir, files) = workspace();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/x.md"), "x").unwrap();
        let trashed = discard(&files, &path("a/b/x.md"), NOW).unwrap();
        assert_eq!(trashed.trash_path, "/root/clawd/.trash/x.md.1800000000000");
        assert_eq!(trashed.expires_at.to_string(), "2027-01-22T08:00:00.000Z");
        fs::remove_dir_all(dir.path().join("a")).unwrap();

        let files = Files::open(dir.path()).unwrap();
        let items = list(&files).unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].original_path.as_deref(), Some("/root/clawd/a/b/x.md"));
        let at = WorkspacePath::parse(&items[0].trash_path).unwrap();
        assert_eq!(restore(&files, &at, None).unwrap(), path("a/b/x.md"));
        assert_eq!(fs::read_to_string(dir.path().join("a/b/x.md")).unwrap(), "x");
        assert!(matches!(restore(&files, &at, None), Err(FileError::NotFound)));
    }

    #[test]
    fn the_same_name_in_the_same_millisecond_and_no_overwriting() {
        let (dir, files) = workspace();
        for text in ["1", "2"] {
            fs::write(dir.path().join("x"), text).unwrap();
            discard(&files, &path("x"), NOW).unwrap();
        }
        fs::write(dir.path().join("x"), "3").unwrap();
        let items = list(&files).unwrap();
        assert_eq!(items.len(), 2);
        let at = WorkspacePath::parse(&items[0].trash_path).unwrap();
        assert!(matches!(restore(&files, &at, None), Err(FileError::Exists)));
        assert_eq!(restore(&files, &at, Some(&path("new/y"))).unwrap(), path("new/y"));
        assert_eq!(fs::read_to_string(dir.path().join("new/y")).unwrap(), "2");
        assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), "3");
    }

    #[test]
    fn purging_by_age_and_emptying() {
        let (dir, files) = workspace();
        for (name, at) in [("old", 0), ("young", KEEP_MS)] {
            fs::create_dir_all(dir.path().join(name).join("deep")).unwrap();
            discard(&files, &path(name), NOW.plus_ms(at)).unwrap();
        }
        fs::write(dir.path().join(".trash/legacy.md.1700000000000"), "").unwrap();
        assert_eq!(list(&files).unwrap().len(), 3);
        assert_eq!(purge(&files, Some(NOW.plus_ms(1))).unwrap(), 2);
        let left = list(&files).unwrap();
        assert_eq!(left.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["young"]);
        assert_eq!(left[0].original_path.as_deref(), Some("/root/clawd/young"));
        assert_eq!(purge(&files, None).unwrap(), 1);
        assert!(list(&files).unwrap().is_empty());
    }

    #[test]
    fn refusals() {
        let (dir, files) = workspace();
        fs::write(dir.path().join("SOUL.md"), "").unwrap();
        fs::write(dir.path().join("x"), "x").unwrap();
        let outside = tempfile::tempdir().unwrap();
        assert!(matches!(discard(&files, &path("SOUL.md"), NOW), Err(FileError::Protected)));
        assert!(matches!(discard(&files, &WorkspacePath::root(), NOW), Err(FileError::Protected)));
        assert!(matches!(discard(&files, &path("missing"), NOW), Err(FileError::NotFound)));
        std::os::unix::fs::symlink(outside.path(), dir.path().join(".trash")).unwrap();
        assert!(discard(&files, &path("x"), NOW).is_err());
        assert!(list(&files).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), "x");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        fs::remove_file(dir.path().join(".trash")).unwrap();
        discard(&files, &path("x"), NOW).unwrap();
        assert!(matches!(discard(&files, &path(".trash"), NOW), Err(FileError::Protected)));
        // A torn line and garbage in the index hurt nobody.
        let index = dir.path().join(".trash").join(INDEX);
        let mut text = fs::read_to_string(&index).unwrap();
        text.push_str("{\"entry\":\"to");
        fs::write(&index, text).unwrap();
        fs::write(dir.path().join("y"), "").unwrap();
        discard(&files, &path("y"), NOW).unwrap();
        assert!(list(&files).unwrap().iter().all(|item| item.original_path.is_some()));
        let long = "\u{e9}".repeat(127);
        fs::write(dir.path().join(&long), "").unwrap();
        discard(&files, &path(&long), NOW).unwrap();
        assert_eq!(list(&files).unwrap().iter().filter(|item| item.name == long).count(), 1);
    }
}
