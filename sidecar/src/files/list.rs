//! Listing a folder in the legacy shape and order: folders first, then as the browser sorts.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{AtFlags, FileType, RawDir, statat};
use rustix::io::Errno;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::Files;
use super::collation::{Key, Order};
use super::error::{FileError, failed};
use super::meta::{Kind, Meta, Timestamp};
use super::path::{RESERVED_PREFIX, WorkspacePath};

/// Entries of one answer where the client names no limit: all of any folder that people use. More come with a
/// cursor, since an answer of this length takes some 30 MB while it is made.
pub const MAX_ENTRIES: usize = 200_000;

/// Longest page that a client can ask for.
pub const MAX_LIMIT: usize = 1000;

/// One read of a folder's names, some hundreds of them. The longest name is far shorter.
const NAMES_BYTES: usize = 32 * 1024;

/// A page of a listing, in order.
#[derive(Debug)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// Asks for what follows, if anything does.
    pub next: Option<Cursor>,
}

/// One entry. The contract's fields come first, in its order; the rest says what legacy could not.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    #[schema(value_type = String)]
    pub name: Name,
    #[schema(value_type = WorkspacePath)]
    pub path: Below,
    /// `file` or `directory`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(file|directory)$")]
    pub kind: &'static str,
    /// In bytes. Of a folder, what its own entry takes.
    pub size: u64,
    pub modified: Timestamp,
    /// Behind the last dot of the name; the whole name if there is none. Folders have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub extension: Option<Extension>,
    /// `symlink` or `special`, where `type` says `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(symlink|special)$")]
    pub special: Option<&'static str>,
    /// The name is not UTF-8. It is shown with replacement characters, and cannot be asked for.
    #[serde(rename = "lossyName", skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub is_lossy: bool,
}

/// A name, shared by all that is made of it: there can be many thousands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl std::ops::Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The path of an entry, put together as it is written.
#[derive(Debug)]
pub struct Below {
    folder: Name,
    name: Name,
}

impl Serialize for Below {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As one text: a formatter writes it in pieces, which takes longer.
        serializer.serialize_str(&[&*self.folder, "/", &*self.name].concat())
    }
}

/// The extension of a name.
#[derive(Debug)]
pub struct Extension(Name);

impl Serialize for Extension {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(extension(&self.0))
    }
}

/// Where a page ended. Opaque to clients; holds across changes of the folder, since it is a name and no count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    is_dir: bool,
    name: String,
}

impl Cursor {
    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// [`FileError::BadCursor`]
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| FileError::BadCursor)?;
        let text = String::from_utf8(bytes).map_err(|_| FileError::BadCursor)?;
        let (is_dir, name) = match text.split_at_checked(1) {
            Some(("d", name)) => (true, name),
            Some(("f", name)) => (false, name),
            _ => return Err(FileError::BadCursor),
        };
        Ok(Self { is_dir, name: name.to_owned() })
    }

    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{}", if self.is_dir { 'd' } else { 'f' }, self.name))
    }
}

/// An entry as it was found.
struct Found {
    name: Name,
    /// What it is called, if that is not UTF-8.
    raw: Option<OsString>,
    is_dir: bool,
    /// What the file system says of it, once it was asked. `None` within: it is gone.
    meta: Option<Option<Meta>>,
}

impl Found {
    fn raw(&self) -> &OsStr {
        self.raw.as_deref().unwrap_or(OsStr::new(&*self.name))
    }

    fn look(&self, dir: impl AsFd) -> Result<Option<Meta>, FileError> {
        match statat(dir, self.raw(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::from_errno("stat", errno)),
        }
    }
}

/// What is sorted in the place of an entry: small, and mostly decided without a look at the name.
#[derive(Clone, Copy)]
struct Place {
    is_dir: bool,
    key: Key,
    index: usize,
}

/// Lists `path`. Only what is on the page is looked at. Names of ours are left out. Blocks.
///
/// # Errors
/// It is missing, no folder, outside, or the disk fails.
pub fn list(
    files: &Files,
    path: &WorkspacePath,
    limit: usize,
    after: Option<&Cursor>,
) -> Result<Listing, FileError> {
    let dir = files.root.open_dir(path)?;
    let order = Order::shared();
    let mut found = names(&dir)?;
    if let Some(cursor) = after {
        let compare =
            |f: &Found| cursor.is_dir.cmp(&f.is_dir).then_with(|| order.compare(&f.name, &cursor.name));
        found.retain(|f| compare(f) == Ordering::Greater);
    }
    if found.len() <= limit {
        // In the order in which the folder has them: so the kernel finds them faster than in ours.
        for f in &mut found {
            f.meta = Some(f.look(&dir)?);
        }
    }
    let mut places = sort(order, &found);
    let next = (places.len() > limit).then(|| places.get(limit.saturating_sub(1))).flatten();
    let next = next.and_then(|last| found.get(last.index));
    let next = next.map(|last| Cursor { is_dir: last.is_dir, name: last.name.to_string() });
    places.truncate(limit);

    let folder = Name(path.to_string().into());
    let mut entries = Vec::with_capacity(places.len());
    for place in places {
        let Some(f) = found.get(place.index) else { continue };
        let meta = match f.meta {
            Some(meta) => meta,
            None => f.look(&dir)?,
        };
        // Gone since it was found.
        let Some(meta) = meta else { continue };
        let (name, is_lossy) = (f.name.clone(), f.raw.is_some());
        let path = Below { folder: folder.clone(), name: name.clone() };
        entries.push(entry(name, path, &meta, is_lossy));
    }
    Ok(Listing { entries, next })
}

fn sort(order: &Order, found: &[Found]) -> Vec<Place> {
    let place = |(index, f): (usize, &Found)| Place { is_dir: f.is_dir, key: order.key(&f.name), index };
    let mut places: Vec<Place> = found.iter().enumerate().map(place).collect();
    places.sort_unstable_by(|a, b| {
        b.is_dir.cmp(&a.is_dir).then_with(|| a.key.compare(b.key)).then_with(|| {
            let (Some(a), Some(b)) = (found.get(a.index), found.get(b.index)) else {
                return Ordering::Equal;
            };
            order.compare(&a.name, &b.name).then_with(|| a.raw().cmp(b.raw()))
        })
    });
    places
}

fn names(dir: impl AsFd) -> Result<Vec<Found>, FileError> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(NAMES_BYTES);
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed("read folder"))?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." || bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // Some file systems do not say.
            let stat = statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            kind = stat.map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode));
        }
        let is_dir = kind == FileType::Directory;
        let (name, raw) = match std::str::from_utf8(bytes) {
            Ok(name) => (Name(name.into()), None),
            Err(_) => {
                let raw = OsString::from_vec(bytes.to_vec());
                (Name(String::from_utf8_lossy(bytes).into()), Some(raw))
            }
        };
        found.push(Found { name, raw, is_dir, meta: None });
    }
    Ok(found)
}

fn entry(name: Name, path: Below, meta: &Meta, is_lossy: bool) -> Entry {
    let is_dir = meta.kind == Kind::Directory;
    let extension = (!is_dir).then(|| Extension(name.clone()));
    let special = match meta.kind {
        Kind::File | Kind::Directory => None,
        Kind::Symlink => Some("symlink"),
        Kind::Special => Some("special"),
    };
    Entry {
        name,
        path,
        kind: if is_dir { "directory" } else { "file" },
        size: meta.size(),
        modified: meta.modified(),
        extension,
        special,
        is_lossy,
    }
}

/// What follows the last dot; the whole name if there is none.
#[must_use]
pub fn extension(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(listing: &Listing) -> Vec<&str> {
        listing.entries.iter().map(|entry| &*entry.name).collect()
    }

    #[test]
    fn everything_in_order_and_by_pages() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        for name in ["b.md", "B.md", "a", ".env", "Makefile", "x|y", "new\nline"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        for name in ["zoo", "Apps", ".trash"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join(".automna-tmp-1"), "").unwrap();
        fs::write(dir.path().join(OsString::from_vec(b"bad\xff".to_vec())), "").unwrap();
        std::os::unix::fs::symlink("zoo", dir.path().join("link")).unwrap();
        let root = WorkspacePath::root();
        let all = list(&files, &root, MAX_ENTRIES, None).unwrap();
        let expect = [
            ".trash",
            "Apps",
            "zoo",
            ".env",
            "a",
            "b.md",
            "B.md",
            "bad\u{fffd}",
            "link",
            "Makefile",
            "new\nline",
            "x|y",
        ];
        assert_eq!(names(&all), expect);
        assert!(all.next.is_none());
        let entry = |name: &str| all.entries.iter().find(|entry| &*entry.name == name).unwrap();
        assert_eq!((entry("link").kind, entry("link").special), ("file", Some("symlink")));
        assert!(entry("bad\u{fffd}").is_lossy && !entry("a").is_lossy);
        let shown = |name: &str| entry(name).extension.as_ref().map(|Extension(name)| extension(name));
        assert_eq!(shown("Makefile"), Some("Makefile"));
        assert_eq!(shown(".env"), Some("env"));
        assert_eq!(shown("zoo"), None);

        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = list(&files, &root, 5, cursor.as_ref()).unwrap();
            seen.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
            let Some(next) = page.next else { break };
            assert_eq!(Cursor::parse(&next.to_text()).unwrap(), next);
            cursor = Some(next);
        }
        assert_eq!(seen, expect);
    }

    #[test]
    fn cursors_that_are_none() {
        for text in ["", "!", "eA", "ZA==", "\u{e9}"] {
            assert!(Cursor::parse(text).is_err(), "{text:?}");
        }
    }
}
