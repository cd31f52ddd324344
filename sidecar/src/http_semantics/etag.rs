//! Entity tags (RFC 9110 section 8.8.3) and the lists of `If-Match` and `If-None-Match`: how they are read, written
//! and compared. What goes into a tag of ours is decided in [`crate::files::etag`].

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

/// One entity tag, ours or a client's. Its opaque part is compared byte by byte and never unescaped: it has no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    weak: bool,
    /// As in a header, which then needs no copy.
    text: Bytes,
}

/// Why a header is not a list of entity tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is neither * nor a list of quoted entity tags")]
pub struct NotTags;

impl EntityTag {
    /// A strong tag of our own making. What a tag cannot hold is left out.
    #[must_use]
    pub fn strong(opaque: impl AsRef<[u8]>) -> Self {
        Self::new(false, opaque.as_ref())
    }

    /// As [`Self::strong`], but weak: good for caches, not for `If-Match`.
    #[must_use]
    pub fn weak(opaque: impl AsRef<[u8]>) -> Self {
        Self::new(true, opaque.as_ref())
    }

    fn new(weak: bool, opaque: &[u8]) -> Self {
        let prefix = Self::prefix(weak);
        let mut text = Vec::with_capacity(prefix.len().saturating_add(opaque.len()).saturating_add(1));
        text.extend_from_slice(prefix);
        text.extend(opaque.iter().copied().filter(|&byte| is_etagc(byte)));
        text.push(b'"');
        Self { weak, text: text.into() }
    }

    const fn prefix(weak: bool) -> &'static [u8] {
        if weak { b"W/\"" } else { b"\"" }
    }

    fn opaque(&self) -> &[u8] {
        let quoted = self.text.strip_prefix(Self::prefix(self.weak));
        quoted.and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or_default()
    }

    /// One tag, as in `If-Range`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (tag, rest) = take(text.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// One tag as JSON clients may send it: also without its quotation marks. It is never empty.
    #[must_use]
    pub fn parse_lenient(text: &str) -> Option<Self> {
        let text = text.trim().as_bytes();
        let tag = Self::parse(text).or_else(|| {
            let (weak, opaque) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
            opaque.iter().all(|&byte| is_etagc(byte)).then(|| Self::new(weak, opaque))
        });
        tag.filter(|tag| !tag.opaque().is_empty())
    }

    #[must_use]
    pub const fn is_weak(&self) -> bool {
        self.weak
    }

    /// For `ETag`.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.text.clone()).ok()
    }

    /// Equal, and neither of them weak: the bytes are the same.
    #[must_use]
    pub fn strong_eq(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.text == other.text
    }

    /// Equal in the opaque part: one may stand for the other.
    #[must_use]
    pub fn weak_eq(&self, other: &Self) -> bool {
        self.opaque() == other.opaque()
    }
}

impl fmt::Display for EntityTag {
    /// As in a header. Ours are ASCII; of a client's, what is not UTF-8 is replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagList {
    /// `*`: whatever exists.
    Any,
    Tags(Vec<EntityTag>),
}

impl TagList {
    /// Reads all lines of one header, which count as one list. Their length is bounded with the request's head.
    ///
    /// # Errors
    /// If it is not such a list. `*` stands alone: beside a tag it would be an error of the client's.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NotTags> {
        let mut tags = Vec::new();
        let mut any = false;
        for line in lines {
            let mut rest = line.trim_ascii();
            if rest == b"*" {
                any = true;
                continue;
            }
            loop {
                // A recipient accepts empty elements (RFC 9110 section 5.6.1.2).
                while let Some(after) = rest.strip_prefix(b",") {
                    rest = after.trim_ascii_start();
                }
                if rest.is_empty() {
                    break;
                }
                let (tag, after) = take(rest).ok_or(NotTags)?;
                tags.push(tag);
                rest = after.trim_ascii_start();
                if !rest.is_empty() && !rest.starts_with(b",") {
                    return Err(NotTags);
                }
            }
        }
        match (any, tags.is_empty()) {
            (true, true) => Ok(Self::Any),
            (false, false) => Ok(Self::Tags(tags)),
            (true, false) | (false, true) => Err(NotTags),
        }
    }

    /// Whether one of them is `current`, by strong comparison. For `If-Match`.
    #[must_use]
    pub fn matches_strongly(&self, current: &EntityTag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.strong_eq(current)),
        }
    }

    /// Whether one of them is `current`, by weak comparison. For `If-None-Match`.
    #[must_use]
    pub fn matches_weakly(&self, current: &EntityTag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.weak_eq(current)),
        }
    }
}

/// A tag at the beginning of `text`, and what follows it.
fn take(text: &[u8]) -> Option<(EntityTag, &[u8])> {
    // Case matters: `w/` is no prefix (RFC 9110 section 8.8.3).
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let inner = quoted.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&byte| byte == b'"')?;
    let (opaque, rest) = inner.split_at_checked(end)?;
    let rest = rest.strip_prefix(b"\"")?;
    opaque.iter().all(|&byte| is_etagc(byte)).then(|| (EntityTag::new(weak, opaque), rest))
}

const fn is_etagc(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(weak: bool, opaque: &str) -> EntityTag {
        EntityTag::new(weak, opaque.as_bytes())
    }

    #[test]
    fn lists() {
        let tags = |tags: &[EntityTag]| Ok(TagList::Tags(tags.to_vec()));
        let rows: [(&[&str], Result<TagList, NotTags>); 20] = [
            (&["*"], Ok(TagList::Any)),
            (&[" * "], Ok(TagList::Any)),
            (&["\"a\""], tags(&[tag(false, "a")])),
            (&["W/\"a\""], tags(&[tag(true, "a")])),
            (&["\"\""], tags(&[tag(false, "")])),
            (&["\"a\",W/\"b\" , \"c\""], tags(&[tag(false, "a"), tag(true, "b"), tag(false, "c")])),
            (&["\"a,b\""], tags(&[tag(false, "a,b")])),
            (&["\"a\"", "\"b\""], tags(&[tag(false, "a"), tag(false, "b")])),
            (&[", ,\"a\",,"], tags(&[tag(false, "a")])),
            (&["\"a\\\""], tags(&[tag(false, "a\\")])),
            (&[""], Err(NotTags)),
            (&[","], Err(NotTags)),
            (&["a"], Err(NotTags)),
            (&["\"a"], Err(NotTags)),
            (&["w/\"a\""], Err(NotTags)),
            (&["W/ \"a\""], Err(NotTags)),
            (&["\"a\" \"b\""], Err(NotTags)),
            (&["\"a b\""], Err(NotTags)),
            (&["*, \"a\""], Err(NotTags)),
            (&["*", "\"a\""], Err(NotTags)),
        ];
        for (lines, expected) in rows {
            assert_eq!(TagList::parse(lines.iter().map(|line| line.as_bytes())), expected, "{lines:?}");
        }
    }

    #[test]
    fn comparison_as_in_the_table_of_the_rfc() {
        let rows = [
            (tag(true, "1"), tag(true, "1"), false, true),
            (tag(true, "1"), tag(true, "2"), false, false),
            (tag(true, "1"), tag(false, "1"), false, true),
            (tag(false, "1"), tag(false, "1"), true, true),
        ];
        for (a, b, strong, weak) in rows {
            assert_eq!((a.strong_eq(&b), a.weak_eq(&b)), (strong, weak), "{a:?} {b:?}");
        }
    }

    #[test]
    fn one_tag() {
        assert_eq!(EntityTag::parse(b" \"a\" "), Some(tag(false, "a")));
        assert_eq!(EntityTag::parse(b"\"a\", \"b\""), None);
        assert_eq!(EntityTag::strong("a\"b\n"), tag(false, "ab"));
        assert_eq!(EntityTag::strong("a-1").header().unwrap(), "\"a-1\"");
        assert_eq!(EntityTag::weak("a-1").to_string(), "W/\"a-1\"");
    }

    #[test]
    fn one_tag_from_json() {
        let rows = [
            ("\"a\"", Some(tag(false, "a"))),
            (" W/\"a\" ", Some(tag(true, "a"))),
            ("a", Some(tag(false, "a"))),
            ("W/a", Some(tag(true, "a"))),
        ];
        for (text, expected) in rows {
            assert_eq!(EntityTag::parse_lenient(text), expected, "{text:?}");
        }
        for bad in ["", "\"", "\"\"", "\"a", "\"a\"b\"", "\"a b\"", "W/", "a b"] {
            assert_eq!(EntityTag::parse_lenient(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            list in prop::collection::vec((any::<bool>(), "[!#-~]{0,20}"), 1..20),
            separator in prop::sample::select(vec![",", ", ", " ,", ",, ,"]),
        ) {
            let tags: Vec<_> = list.iter().map(|(weak, opaque)| tag(*weak, opaque)).collect();
            let lines: Vec<_> = tags.iter().map(|tag| tag.header().unwrap().to_str().unwrap().to_owned()).collect();
            let text = lines.join(separator);
            prop_assert_eq!(TagList::parse([text.as_bytes()]), Ok(TagList::Tags(tags.clone())));
            prop_assert!(tags.iter().zip(&lines).all(|(tag, line)| tag.to_string() == *line));
            prop_assert_eq!(TagList::parse(lines.iter().map(|line| line.as_bytes())), Ok(TagList::Tags(tags)));
        }

        #[test]
        fn anything_is_a_list_or_an_error(text in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(TagList::Tags(tags)) = TagList::parse([&text[..]]) {
                prop_assert!(!tags.is_empty());
            }
        }
    }
}
