//! Digests in headers (RFC 9530): `Content-Digest`, `Repr-Digest`, and the wish for one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

/// What bytes are hashed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha512,
    /// Only for tus, which demands it. As a guard against faults of transmission it still serves.
    Sha1,
}

impl Algorithm {
    /// Those that RFC 9530 lists as secure. In its headers, others are ignored, as it asks.
    const SECURE: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The key in RFC 9530's headers.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
            Self::Sha1 => "sha",
        }
    }

    const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
        }
    }
}

/// Why a header of digests cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDigest {
    #[error("it is not a dictionary of byte sequences, as in sha-256=:…:")]
    Malformed,
    #[error("a digest of this algorithm has another length: {}", .0.key())]
    Length(Algorithm),
    /// The sender wants a check that we cannot make; to accept its bytes unchecked would be to lie.
    #[error("none of its algorithms is known: sha-256 and sha-512 are")]
    NoneKnown,
}

/// What the bytes must hash to: one entry for each algorithm that we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(Vec<(Algorithm, Vec<u8>)>);

impl Expected {
    /// Reads all lines of `Content-Digest` or `Repr-Digest`. `None` if there are none.
    ///
    /// # Errors
    /// See [`BadDigest`].
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Self>, BadDigest> {
        let Some(text) = joined(lines) else { return Ok(None) };
        let dictionary: Dictionary = Parser::new(&text).parse().map_err(|_| BadDigest::Malformed)?;
        let mut known = Vec::new();
        for (key, entry) in &dictionary {
            let ListEntry::Item(item) = entry else { return Err(BadDigest::Malformed) };
            let BareItem::ByteSequence(bytes) = &item.bare_item else { return Err(BadDigest::Malformed) };
            let Some(algorithm) =
                Algorithm::SECURE.into_iter().find(|algorithm| algorithm.key() == key.as_str())
            else {
                continue;
            };
            if bytes.len() != algorithm.length() {
                return Err(BadDigest::Length(algorithm));
            }
            known.push((algorithm, bytes.clone()));
        }
        if known.is_empty() { Err(BadDigest::NoneKnown) } else { Ok(Some(Self(known))) }
    }

    /// For a digest that came another way.
    #[must_use]
    pub fn of(algorithm: Algorithm, digest: Vec<u8>) -> Option<Self> {
        (digest.len() == algorithm.length()).then(|| Self(vec![(algorithm, digest)]))
    }
}

/// The algorithm that `Want-Content-Digest` or `Want-Repr-Digest` likes best among ours. A wish is only that: one
/// that cannot be read is no wish.
#[must_use]
pub fn wanted<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Algorithm> {
    let dictionary: Dictionary = Parser::new(&joined(lines)?).parse().ok()?;
    let preference = |algorithm: Algorithm| match dictionary.get(algorithm.key()) {
        Some(ListEntry::Item(item)) => match &item.bare_item {
            BareItem::Integer(weight) => i64::from(*weight),
            BareItem::Decimal(_)
            | BareItem::String(_)
            | BareItem::ByteSequence(_)
            | BareItem::Boolean(_)
            | BareItem::Token(_)
            | BareItem::Date(_)
            | BareItem::DisplayString(_) => 0,
        },
        Some(ListEntry::InnerList(_)) | None => 0,
    };
    let acceptable =
        Algorithm::SECURE.into_iter().filter(|&algorithm| (1..=10).contains(&preference(algorithm)));
    // Of equals the last wins; hence the reverse order, for the cheaper one.
    acceptable.rev().max_by_key(|&algorithm| preference(algorithm))
}

fn joined<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = lines.into_iter().collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// Hashes bytes as they come by, with the algorithms that somebody waits for and no others.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
    sha1: Option<Sha1>,
}

impl Hasher {
    #[must_use]
    pub fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut hasher = Self::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Sha256 => hasher.sha256 = Some(Sha256::new()),
                Algorithm::Sha512 => hasher.sha512 = Some(Sha512::new()),
                Algorithm::Sha1 => hasher.sha1 = Some(Sha1::new()),
            }
        }
        hasher
    }

    /// What [`Self::check`] needs for `expected`.
    #[must_use]
    pub fn for_check(expected: Option<&Expected>) -> Self {
        Self::new(expected.iter().flat_map(|expected| expected.0.iter().map(|(algorithm, _)| *algorithm)))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha1 {
            hash.update(bytes);
        }
    }

    /// The digest of all that came by. `None` for an algorithm that was not asked for.
    #[must_use]
    pub fn digest(&self, algorithm: Algorithm) -> Option<Vec<u8>> {
        match algorithm {
            Algorithm::Sha256 => self.sha256.clone().map(|hash| hash.finalize().to_vec()),
            Algorithm::Sha512 => self.sha512.clone().map(|hash| hash.finalize().to_vec()),
            Algorithm::Sha1 => self.sha1.clone().map(|hash| hash.finalize().to_vec()),
        }
    }

    /// The first algorithm by which the bytes are not the expected ones.
    ///
    /// # Errors
    /// That algorithm.
    pub fn check(&self, expected: &Expected) -> Result<(), Algorithm> {
        for (algorithm, digest) in &expected.0 {
            if self.digest(*algorithm).as_ref() != Some(digest) {
                return Err(*algorithm);
            }
        }
        Ok(())
    }
}

/// The value of `Content-Digest` or `Repr-Digest`.
#[must_use]
pub fn header(algorithm: Algorithm, digest: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("{}=:{}:", algorithm.key(), STANDARD.encode(digest))).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From RFC 9530, appendix B: of `{"hello": "world"}` and a line feed.
    const BODY: &[u8] = b"{\"hello\": \"world\"}\n";
    const SHA256: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const SHA512: &str = "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCs\
                          yRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:";

    fn parse(text: &str) -> Result<Option<Expected>, BadDigest> {
        Expected::parse([text.as_bytes()])
    }

    #[test]
    fn the_rfcs_example() {
        for (algorithm, text) in [(Algorithm::Sha256, SHA256), (Algorithm::Sha512, SHA512)] {
            let expected = parse(text).unwrap().unwrap();
            let mut hasher = Hasher::for_check(Some(&expected));
            hasher.update(&BODY[..5]);
            hasher.update(&BODY[5..]);
            assert_eq!(hasher.check(&expected), Ok(()));
            assert_eq!(header(algorithm, &hasher.digest(algorithm).unwrap()).unwrap(), text);
            hasher.update(b" ");
            assert_eq!(hasher.check(&expected), Err(algorithm));
        }
        let both = Expected::parse([SHA256.as_bytes(), SHA512.as_bytes()]).unwrap().unwrap();
        assert_eq!(both.0.len(), 2);
        let mut hasher = Hasher::for_check(Some(&both));
        hasher.update(BODY);
        assert_eq!(hasher.check(&both), Ok(()));
    }

    #[test]
    fn bad_headers() {
        let rows = [
            ("", BadDigest::NoneKnown),
            ("sha-256", BadDigest::Malformed),
            ("sha-256=", BadDigest::Malformed),
            ("sha-256=abc", BadDigest::Malformed),
            ("sha-256=\"RK/0qy18\"", BadDigest::Malformed),
            ("sha-256=:RK/0:", BadDigest::Length(Algorithm::Sha256)),
            ("sha-512=::", BadDigest::Length(Algorithm::Sha512)),
            ("sha-256=(:RK/0:)", BadDigest::Malformed),
            ("SHA-256=:RK/0:", BadDigest::Malformed),
            ("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", BadDigest::NoneKnown),
        ];
        for (text, error) in rows {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(Expected::parse([]), Ok(None));
        assert!(parse(&format!("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:, {SHA256}")).unwrap().is_some());
    }

    #[test]
    fn wishes() {
        let rows = [
            ("sha-256=1", Some(Algorithm::Sha256)),
            ("sha-512=3, sha-256=10, unixsum=0", Some(Algorithm::Sha256)),
            ("sha-512=10, sha-256=3", Some(Algorithm::Sha512)),
            ("sha-512=5, sha-256=5", Some(Algorithm::Sha256)),
            ("sha-512=1, sha-256=0", Some(Algorithm::Sha512)),
            ("sha-256=0", None),
            ("sha-256=-1", None),
            ("sha-256=11", None),
            ("sha-256=1.5", None),
            ("sha-256", None),
            ("md5=5", None),
            ("=", None),
        ];
        for (text, expected) in rows {
            assert_eq!(wanted([text.as_bytes()]), expected, "{text}");
        }
        assert_eq!(wanted([]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let mut hasher = Hasher::new(Algorithm::SECURE);
            let (head, tail) = body.split_at(cut.min(body.len()));
            hasher.update(head);
            hasher.update(tail);
            for algorithm in Algorithm::SECURE {
                let text = header(algorithm, &hasher.digest(algorithm).unwrap()).unwrap();
                let expected = Expected::parse([text.as_bytes()]).unwrap().unwrap();
                prop_assert_eq!(hasher.check(&expected), Ok(()));
            }
        }

        #[test]
        fn anything_is_digests_or_an_error(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _expected = Expected::parse([&text[..]]);
            let _wanted = wanted([&text[..]]);
        }

        #[test]
        fn nearly_digests(text in "sha-(256|512)=:[A-Za-z0-9+/=]{0,90}:?(, ?[a-z]=1)?") {
            let _expected = parse(&text);
        }
    }
}
