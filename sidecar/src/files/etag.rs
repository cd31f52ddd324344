//! What our entity tags are made of: strong ones of the content, weak ones where its hash is not known.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use shared::time::UnixMillis;

use super::meta::Version;
use crate::http_semantics::etag::EntityTag;

/// Hashes that are remembered, twice over (see [`HashCache`]): some hundred kilobytes, and more than the files
/// that one user has open.
const MAX_CACHED: usize = 4096;

/// A file that changed less than this before it was hashed can change again without a trace in its times: the
/// kernel's clock for files ticks every 1 to 10 ms.
const RACY_MS: u64 = 20;

/// Whether a file of this version last changed so long before `now` that a change since would show.
#[must_use]
pub fn is_settled(version: &Version, now: UnixMillis) -> bool {
    let settled = i128::from(now.0.saturating_sub(RACY_MS)) * 1_000_000;
    version.ctime_ns.max(version.mtime_ns) < settled
}

/// 128 bits of BLAKE3 of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&blake3::hash(bytes))
    }

    #[must_use]
    pub fn finish(hasher: &blake3::Hasher) -> Self {
        Self::from_hash(&hasher.finalize())
    }

    /// The tag of a file with this content.
    #[must_use]
    pub fn tag(&self) -> EntityTag {
        // Made for every read of a file, so without a formatter.
        const PREFIX: &str = "b3-";
        let mut opaque = String::with_capacity(PREFIX.len() + 2 * self.0.len());
        opaque.push_str(PREFIX);
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        opaque.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
        EntityTag::strong(opaque)
    }

    fn from_hash(hash: &blake3::Hash) -> Self {
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        Self(short)
    }
}

/// The tag of a file whose content nobody has hashed.
#[must_use]
pub fn weak_tag(version: &Version) -> EntityTag {
    let Version { ino, size, mtime_ns, ctime_ns, .. } = version;
    EntityTag::weak(format!("{ino:x}-{size:x}-{mtime_ns:x}-{ctime_ns:x}"))
}

/// What must be true of the file that a write replaces, checked at the moment of the replacement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expect {
    #[default]
    Anything,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match` with tags; strong comparison.
    OneOf(Vec<EntityTag>),
    /// `If-None-Match` with tags; weak comparison.
    NoneOf(Vec<EntityTag>),
}

impl Expect {
    /// Whether it holds for a file with this tag, or for none.
    #[must_use]
    pub fn holds(&self, current: Option<&EntityTag>) -> bool {
        match (self, current) {
            (Self::Anything, _)
            | (Self::Absent, None)
            | (Self::Present, Some(_))
            | (Self::NoneOf(_), None) => true,
            (Self::Absent, Some(_)) | (Self::Present | Self::OneOf(_), None) => false,
            (Self::OneOf(tags), Some(current)) => tags.iter().any(|tag| tag.strong_eq(current)),
            (Self::NoneOf(tags), Some(current)) => !tags.iter().any(|tag| tag.weak_eq(current)),
        }
    }

    /// Whether the content's hash is needed to tell.
    #[must_use]
    pub const fn needs_hash(&self) -> bool {
        matches!(self, Self::OneOf(_) | Self::NoneOf(_))
    }
}

/// Hashes by version, bounded: when the newer half is full, it becomes the older one, whose entries are dropped
/// unless they are asked for again.
#[derive(Debug, Default)]
pub struct HashCache(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<Version, ContentHash>,
    older: HashMap<Version, ContentHash>,
}

impl HashCache {
    #[must_use]
    pub fn get(&self, version: &Version) -> Option<ContentHash> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = halves.newer.get(version) {
            return Some(*hash);
        }
        let hash = halves.older.remove(version)?;
        halves.put(*version, hash);
        Some(hash)
    }

    /// Remembers a hash, unless the file is so young at `now` that it may yet change without a trace.
    pub fn put(&self, version: Version, hash: ContentHash, now: UnixMillis) {
        if is_settled(&version, now) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).put(version, hash);
        }
    }
}

impl Halves {
    fn put(&mut self, version: Version, hash: ContentHash) {
        if self.newer.len() >= MAX_CACHED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(version, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(ino: u64, ctime_ms: i128) -> Version {
        Version { dev: 1, ino, size: 0, mtime_ns: 0, ctime_ns: ctime_ms * 1_000_000 }
    }

    #[test]
    fn tags_read_back() {
        let strong = ContentHash::of(b"hello").tag();
        assert_eq!(strong.to_string(), "\"b3-ea8f163db38682925e4491c5e58d4bb3\"");
        assert!(weak_tag(&version(7, 8)).is_weak());
        for tag in [strong, weak_tag(&version(7, 8))] {
            assert_eq!(EntityTag::parse(tag.to_string().as_bytes()), Some(tag));
        }
    }

    #[test]
    fn expectations() {
        let tag = |text| EntityTag::parse(str::as_bytes(text)).unwrap();
        let (a, b, weak_a) = (tag("\"a\""), tag("\"b\""), tag("W/\"a\""));
        let rows = [
            (Expect::Anything, true, true),
            (Expect::Absent, true, false),
            (Expect::Present, false, true),
            (Expect::OneOf(vec![]), false, false),
            (Expect::OneOf(vec![b.clone(), a.clone()]), false, true),
            (Expect::OneOf(vec![b.clone()]), false, false),
            (Expect::OneOf(vec![weak_a.clone()]), false, false),
            (Expect::NoneOf(vec![b]), true, true),
            (Expect::NoneOf(vec![weak_a]), true, false),
        ];
        for (expect, without, with_a) in rows {
            assert_eq!((expect.holds(None), expect.holds(Some(&a))), (without, with_a), "{expect:?}");
        }
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let (cache, hash, now) = (HashCache::default(), ContentHash::of(b""), UnixMillis(1_000_000));
        for ino in 0..20_000 {
            cache.put(version(ino, 0), hash, now);
            assert!(cache.get(&version(0, 0)).is_some(), "lost at {ino}");
        }
        let halves = cache.0.lock().unwrap();
        assert!(halves.newer.len() + halves.older.len() <= 2 * MAX_CACHED);
    }

    #[test]
    fn a_young_file_is_not_remembered() {
        let (cache, hash) = (HashCache::default(), ContentHash::of(b""));
        cache.put(version(1, 1000), hash, UnixMillis(1000 + RACY_MS));
        assert_eq!(cache.get(&version(1, 1000)), None);
        cache.put(version(1, 1000), hash, UnixMillis(1001 + RACY_MS));
        assert_eq!(cache.get(&version(1, 1000)), Some(hash));
    }
}
