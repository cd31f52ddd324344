//! The headers of resumable uploads (tus 1.0.0, <https://tus.io/protocols/resumable-upload>).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::digest::{Algorithm, Expected};

/// The version of the protocol that we speak.
pub const VERSION: &str = "1.0.0";

/// The extensions that we have.
pub const EXTENSIONS: &str = "creation,creation-with-upload,termination,expiration,checksum";

/// The algorithms of `Upload-Checksum`. The protocol demands SHA-1.
pub const CHECKSUM_ALGORITHMS: &str = "sha1,sha256,sha512";

/// Pairs in `Upload-Metadata`. Clients send a name, a type, and what they invent; we read two.
const MAX_PAIRS: usize = 32;

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("it is not a whole number below 2^63")]
    Number,
    #[error("it is not a list of keys with Base64 values")]
    Metadata,
    #[error("it names a key twice")]
    Twice,
    #[error("it is not an algorithm and a Base64 value")]
    Checksum,
    #[error("its algorithm is unknown: {CHECKSUM_ALGORITHMS} are not")]
    Algorithm,
}

/// `Upload-Length` and `Upload-Offset`: digits only, and a size that a file can have.
///
/// # Errors
/// [`BadHeader::Number`].
pub fn number(value: &[u8]) -> Result<u64, BadHeader> {
    let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits).ok_or(BadHeader::Number)?;
    text.parse().ok().filter(|number| i64::try_from(*number).is_ok()).ok_or(BadHeader::Number)
}

/// `Upload-Metadata`: keys and their decoded values, in the order of the header.
///
/// # Errors
/// [`BadHeader::Metadata`], [`BadHeader::Twice`].
pub fn metadata(value: &[u8]) -> Result<Vec<(String, Vec<u8>)>, BadHeader> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    if value.trim_ascii().is_empty() {
        return Ok(pairs);
    }
    for pair in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let (key, value) = match pair.iter().position(|byte| *byte == b' ') {
            Some(space) => pair.split_at(space),
            None => (pair, &b""[..]),
        };
        if key.is_empty() || !key.iter().all(u8::is_ascii_graphic) || pairs.len() == MAX_PAIRS {
            return Err(BadHeader::Metadata);
        }
        let key = String::from_utf8_lossy(key).into_owned();
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(BadHeader::Twice);
        }
        let value = STANDARD.decode(value.trim_ascii_start()).map_err(|_| BadHeader::Metadata)?;
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// `Upload-Checksum`.
///
/// # Errors
/// [`BadHeader::Checksum`], [`BadHeader::Algorithm`].
pub fn checksum(value: &[u8]) -> Result<Expected, BadHeader> {
    let mut words = value.split(|byte| *byte == b' ');
    let (Some(name), Some(digest), None) = (words.next(), words.next(), words.next()) else {
        return Err(BadHeader::Checksum);
    };
    let algorithm = match name {
        b"sha256" => Algorithm::Sha256,
        b"sha512" => Algorithm::Sha512,
        b"sha1" => Algorithm::Sha1,
        _ => return Err(BadHeader::Algorithm),
    };
    let digest = STANDARD.decode(digest).map_err(|_| BadHeader::Checksum)?;
    Expected::of(algorithm, digest).ok_or(BadHeader::Checksum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::digest::Hasher;
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0"), Ok(0));
        assert_eq!(number(b"9223372036854775807"), Ok(i64::MAX as u64));
        for text in ["", "-1", "+1", " 1", "1.0", "0x1", "9223372036854775808", "99999999999999999999", "a"] {
            assert_eq!(number(text.as_bytes()), Err(BadHeader::Number), "{text}");
        }
    }

    #[test]
    fn metadata_rows() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
        let rows = [
            ("", Ok(vec![])),
            ("path YS50eHQ=", Ok(vec![pair("path", "a.txt")])),
            ("path YS50eHQ=,empty", Ok(vec![pair("path", "a.txt"), pair("empty", "")])),
            ("a YQ==, b Yg==", Ok(vec![pair("a", "a"), pair("b", "b")])),
            ("a YQ==,a YQ==", Err(BadHeader::Twice)),
            ("a YQ", Err(BadHeader::Metadata)),
            ("a YQ== YQ==", Err(BadHeader::Metadata)),
            (",", Err(BadHeader::Metadata)),
            ("a YQ==,", Err(BadHeader::Metadata)),
            ("é YQ==", Err(BadHeader::Metadata)),
        ];
        for (text, expected) in rows {
            assert_eq!(metadata(text.as_bytes()), expected, "{text}");
        }
        let many: Vec<String> = (0..=MAX_PAIRS).map(|n| format!("k{n} YQ==")).collect();
        assert_eq!(metadata(many.join(",").as_bytes()), Err(BadHeader::Metadata));
    }

    #[test]
    fn checksums() {
        let good = format!("sha256 {}", STANDARD.encode([7; 32]));
        assert_eq!(checksum(good.as_bytes()), Ok(Expected::of(Algorithm::Sha256, vec![7; 32]).unwrap()));
        // From the protocol's text: of "hello world".
        let expected = checksum(b"sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").unwrap();
        let mut hasher = Hasher::for_check(Some(&expected));
        hasher.update(b"hello world");
        assert_eq!(hasher.check(&expected), Ok(()));
        let rows = [
            ("", BadHeader::Checksum),
            ("sha256", BadHeader::Checksum),
            ("sha256 ", BadHeader::Checksum),
            ("sha256 YQ==", BadHeader::Checksum),
            ("sha256 !", BadHeader::Checksum),
            ("md5 1B2M2Y8AsgTpgAmY7PhCfg==", BadHeader::Algorithm),
            ("SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", BadHeader::Algorithm),
        ];
        for (text, error) in rows {
            assert_eq!(checksum(text.as_bytes()), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn metadata_that_is_written_is_read_back(
            map in prop::collection::btree_map("[a-zA-Z0-9_-]{1,10}", prop::collection::vec(any::<u8>(), 0..30), 0..10),
        ) {
            let text: Vec<String> =
                map.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value))).collect();
            prop_assert_eq!(metadata(text.join(",").as_bytes()), Ok(map.into_iter().collect()));
        }

        #[test]
        fn anything_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _number = number(&text);
            let _metadata = metadata(&text);
            let _checksum = checksum(&text);
        }
    }
}
