//! Preconditions (RFC 9110 section 13): may this request act on the file as it is now?
//!
//! For a read the answer chooses between content and 304. For a write it is the lock of an editor: the caller
//! evaluates it at the moment of the commit, while nothing else of ours writes that name.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, header};

use super::etag::{EntityTag, TagList};
use super::http_date;

/// With any value but `0`, a write without a precondition is refused with 428. The query `requirePrecondition=1`
/// says the same. A client that must never overwrite blindly sends it always, and a fault of its own that loses
/// the entity tag then cannot lose a file.
pub const REQUIRE_HEADER: HeaderName = HeaderName::from_static("x-require-precondition");

/// Whether a request reads or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// GET and HEAD.
    Read,
    /// Everything else.
    Write,
}

/// What a file is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    pub etag: EntityTag,
    pub last_modified: Option<SystemTime>,
}

/// Which precondition decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    IfMatch,
    IfUnmodifiedSince,
    IfNoneMatch,
    IfModifiedSince,
}

impl Field {
    /// The header's name, as people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IfMatch => "If-Match",
            Self::IfUnmodifiedSince => "If-Unmodified-Since",
            Self::IfNoneMatch => "If-None-Match",
            Self::IfModifiedSince => "If-Modified-Since",
        }
    }
}

/// What follows from the preconditions, and from which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    /// 304.
    NotModified(Field),
    /// 412.
    PreconditionFailed(Field),
    /// 428.
    PreconditionRequired,
}

/// A header of tags that holds none. It is refused, not ignored: a write that meant to be conditional must not
/// become unconditional by a typing error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is neither * nor a list of quoted entity tags", .0.as_str())]
pub struct Malformed(pub Field);

/// A request's preconditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub if_match: Option<TagList>,
    pub if_unmodified_since: Option<SystemTime>,
    pub if_none_match: Option<TagList>,
    pub if_modified_since: Option<SystemTime>,
    /// A write without any is refused.
    pub required: bool,
}

impl Preconditions {
    /// Reads the headers. Dates that are none are ignored, as the RFC asks.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn parse(headers: &HeaderMap) -> Result<Self, Malformed> {
        let tags = |name: HeaderName, field| {
            let mut lines = headers.get_all(name).iter().map(|value| value.as_bytes()).peekable();
            lines.peek().is_some().then(|| TagList::parse(lines)).transpose().map_err(|_| Malformed(field))
        };
        // A date that is given twice is no date.
        let date = |name: HeaderName| {
            let mut lines = headers.get_all(name).iter();
            lines
                .next()
                .filter(|_| lines.next().is_none())
                .and_then(|value| http_date::parse(value.as_bytes()))
        };
        Ok(Self {
            if_match: tags(header::IF_MATCH, Field::IfMatch)?,
            if_unmodified_since: date(header::IF_UNMODIFIED_SINCE),
            if_none_match: tags(header::IF_NONE_MATCH, Field::IfNoneMatch)?,
            if_modified_since: date(header::IF_MODIFIED_SINCE),
            required: headers.get(REQUIRE_HEADER).is_some_and(|value| value != "0"),
        })
    }

    /// Evaluates them against the file, or against its absence. The steps are those of section 13.2.2.
    #[must_use]
    pub fn evaluate(&self, access: Access, current: Option<&Validators>) -> Verdict {
        if access == Access::Write && self.required && !self.guards_a_write() {
            return Verdict::PreconditionRequired;
        }
        let last_modified = current.and_then(|now| now.last_modified).and_then(http_date::whole_seconds);

        // Steps 1 and 2. What has no date is not compared with one.
        if let Some(tags) = &self.if_match {
            if !current.is_some_and(|now| tags.matches_strongly(&now.etag)) {
                return Verdict::PreconditionFailed(Field::IfMatch);
            }
        } else if let (Some(since), Some(modified)) = (self.if_unmodified_since, last_modified)
            && modified > since
        {
            return Verdict::PreconditionFailed(Field::IfUnmodifiedSince);
        }

        // Steps 3 and 4. Beside `If-None-Match` the date does not count, even if that one is true.
        if let Some(tags) = &self.if_none_match {
            if current.is_some_and(|now| tags.matches_weakly(&now.etag)) {
                return match access {
                    Access::Read => Verdict::NotModified(Field::IfNoneMatch),
                    Access::Write => Verdict::PreconditionFailed(Field::IfNoneMatch),
                };
            }
        } else if access == Access::Read
            && let (Some(since), Some(modified)) = (self.if_modified_since, last_modified)
            && modified <= since
        {
            return Verdict::NotModified(Field::IfModifiedSince);
        }
        Verdict::Proceed
    }

    /// `If-Modified-Since` does not: it is only for reads.
    const fn guards_a_write(&self) -> bool {
        self.if_match.is_some() || self.if_none_match.is_some() || self.if_unmodified_since.is_some()
    }
}

/// Step 5: whether a `Range` beside this `If-Range` counts, or the whole file is to be sent.
///
/// A date never suffices. It would have to be a strong validator (section 13.1.5), which needs the certainty that
/// the file did not change twice within its second; agents write more often than that, and the price of a mistake
/// is a file put together from two versions.
#[must_use]
pub fn if_range_holds(if_range: Option<&[u8]>, current: &EntityTag) -> bool {
    if_range.is_none_or(|value| EntityTag::parse(value).is_some_and(|tag| tag.strong_eq(current)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// The file is `"now"`, modified at second 1,000 and a half.
    fn file() -> Validators {
        Validators {
            etag: EntityTag::strong("now"),
            last_modified: Some(UNIX_EPOCH + Duration::from_millis(1_000_500)),
        }
    }

    const BEFORE: &str = "Thu, 01 Jan 1970 00:16:39 GMT";
    const SAME: &str = "Thu, 01 Jan 1970 00:16:40 GMT";
    const AFTER: &str = "Thu, 01 Jan 1970 00:16:41 GMT";

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        rows.iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn one_row_for_each_rule() {
        use Access::{Read, Write};
        use Field::{IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
        use Verdict::{NotModified, PreconditionFailed, PreconditionRequired, Proceed};
        #[expect(
            clippy::type_complexity,
            reason = "the table's columns: headers, method, there or not, verdict"
        )]
        let rows: [(&[(&'static str, &str)], Access, bool, Verdict); 45] = [
            (&[], Read, true, Proceed),
            (&[], Write, true, Proceed),
            (&[], Write, false, Proceed),
            // If-Match: strong, `*` for anything that is there, false for what is not.
            (&[("if-match", "\"now\"")], Write, true, Proceed),
            (&[("if-match", "\"old\", \"now\"")], Write, true, Proceed),
            (&[("if-match", "\"old\"")], Write, true, PreconditionFailed(IfMatch)),
            (&[("if-match", "W/\"now\"")], Write, true, PreconditionFailed(IfMatch)),
            (&[("if-match", "*")], Write, true, Proceed),
            (&[("if-match", "*")], Write, false, PreconditionFailed(IfMatch)),
            (&[("if-match", "\"now\"")], Write, false, PreconditionFailed(IfMatch)),
            (&[("if-match", "\"old\"")], Read, true, PreconditionFailed(IfMatch)),
            (&[("if-match", "\"now\"")], Read, true, Proceed),
            // If-Unmodified-Since, in whole seconds.
            (&[("if-unmodified-since", AFTER)], Write, true, Proceed),
            (&[("if-unmodified-since", SAME)], Write, true, Proceed),
            (&[("if-unmodified-since", BEFORE)], Write, true, PreconditionFailed(IfUnmodifiedSince)),
            (&[("if-unmodified-since", BEFORE)], Read, true, PreconditionFailed(IfUnmodifiedSince)),
            (&[("if-unmodified-since", BEFORE)], Write, false, Proceed),
            (&[("if-unmodified-since", "yesterday")], Write, true, Proceed),
            (&[("if-unmodified-since", BEFORE), ("if-unmodified-since", BEFORE)], Write, true, Proceed),
            // If-Match outranks it, whichever way.
            (&[("if-match", "\"now\""), ("if-unmodified-since", BEFORE)], Write, true, Proceed),
            (
                &[("if-match", "\"x\""), ("if-unmodified-since", AFTER)],
                Write,
                true,
                PreconditionFailed(IfMatch),
            ),
            // If-None-Match: weak, 304 for reads and 412 for writes.
            (&[("if-none-match", "\"now\"")], Read, true, NotModified(IfNoneMatch)),
            (&[("if-none-match", "W/\"now\"")], Read, true, NotModified(IfNoneMatch)),
            (&[("if-none-match", "\"old\"")], Read, true, Proceed),
            (&[("if-none-match", "*")], Read, true, NotModified(IfNoneMatch)),
            (&[("if-none-match", "*")], Write, true, PreconditionFailed(IfNoneMatch)),
            (&[("if-none-match", "*")], Write, false, Proceed),
            (&[("if-none-match", "\"now\"")], Write, true, PreconditionFailed(IfNoneMatch)),
            (&[("if-none-match", "\"old\"")], Write, true, Proceed),
            // If-Modified-Since, for reads only.
            (&[("if-modified-since", AFTER)], Read, true, NotModified(IfModifiedSince)),
            (&[("if-modified-since", SAME)], Read, true, NotModified(IfModifiedSince)),
            (&[("if-modified-since", BEFORE)], Read, true, Proceed),
            (&[("if-modified-since", "x")], Read, true, Proceed),
            (&[("if-modified-since", AFTER)], Write, true, Proceed),
            // If-None-Match outranks it, whichever way.
            (&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)], Read, true, Proceed),
            (
                &[("if-none-match", "\"now\""), ("if-modified-since", BEFORE)],
                Read,
                true,
                NotModified(IfNoneMatch),
            ),
            // The first half comes before the second.
            (&[("if-match", "\"x\""), ("if-none-match", "\"now\"")], Read, true, PreconditionFailed(IfMatch)),
            (&[("if-match", "\"now\""), ("if-none-match", "\"now\"")], Read, true, NotModified(IfNoneMatch)),
            (
                &[("if-match", "\"now\""), ("if-modified-since", AFTER)],
                Read,
                true,
                NotModified(IfModifiedSince),
            ),
            (
                &[("if-unmodified-since", BEFORE), ("if-none-match", "\"now\"")],
                Read,
                true,
                PreconditionFailed(IfUnmodifiedSince),
            ),
            // Required.
            (&[("x-require-precondition", "1")], Write, true, PreconditionRequired),
            (&[("x-require-precondition", "0")], Write, true, Proceed),
            (&[("x-require-precondition", "1")], Read, true, Proceed),
            (
                &[("x-require-precondition", "1"), ("if-modified-since", AFTER)],
                Write,
                true,
                PreconditionRequired,
            ),
            (&[("x-require-precondition", "1"), ("if-none-match", "*")], Write, false, Proceed),
        ];
        for (rows, access, there, expected) in rows {
            let preconditions = Preconditions::parse(&headers(rows)).unwrap();
            let file = file();
            let verdict = preconditions.evaluate(access, there.then_some(&file));
            assert_eq!(verdict, expected, "{rows:?} {access:?} there: {there}");
        }
    }

    #[test]
    fn tags_that_are_none_are_refused() {
        for (name, field) in [("if-match", Field::IfMatch), ("if-none-match", Field::IfNoneMatch)] {
            for value in ["", "now", "\"now", "*, \"now\"", "\"a\" \"b\""] {
                assert_eq!(
                    Preconditions::parse(&headers(&[(name, value)])),
                    Err(Malformed(field)),
                    "{value}"
                );
            }
        }
    }

    #[test]
    fn if_range() {
        let current = EntityTag::strong("now");
        let rows: [(Option<&[u8]>, bool); 6] = [
            (None, true),
            (Some(b"\"now\""), true),
            (Some(b"W/\"now\""), false),
            (Some(b"\"old\""), false),
            (Some(SAME.as_bytes()), false),
            (Some(b"now"), false),
        ];
        for (value, expected) in rows {
            assert_eq!(if_range_holds(value, &current), expected, "{value:?}");
        }
    }

    fn tag_list() -> impl Strategy<Value = Option<TagList>> {
        let tag = prop::sample::select(vec!["\"now\"", "W/\"now\"", "\"a\"", "W/\"b\""])
            .prop_map(|text| EntityTag::parse(text.as_bytes()).unwrap());
        prop_oneof![
            Just(None),
            Just(Some(TagList::Any)),
            prop::collection::vec(tag, 1..4).prop_map(|tags| Some(TagList::Tags(tags))),
        ]
    }

    fn date() -> impl Strategy<Value = Option<SystemTime>> {
        prop::option::of((998u64..1003).prop_map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    proptest! {
        /// The same rules once more, as the plain reading of the RFC: each condition's truth by itself, then the
        /// order.
        #[test]
        fn the_order_is_the_rfcs(
            if_match in tag_list(), if_none_match in tag_list(),
            if_unmodified_since in date(), if_modified_since in date(),
            required: bool, there: bool, dated: bool, read: bool,
        ) {
            let mut now = file();
            if !dated {
                now.last_modified = None;
            }
            let preconditions = Preconditions {
                if_match: if_match.clone(), if_unmodified_since,
                if_none_match: if_none_match.clone(), if_modified_since, required,
            };
            let access = if read { Access::Read } else { Access::Write };
            let verdict = preconditions.evaluate(access, there.then_some(&now));

            let has = |list: &TagList, weakly: bool| match list {
                TagList::Any => there,
                TagList::Tags(tags) => there && tags.iter().any(|tag| {
                    let text = tag.header().unwrap();
                    text == "\"now\"" || (weakly && text == "W/\"now\"")
                }),
            };
            let second = UNIX_EPOCH + Duration::from_secs(1000);
            let dated = there && dated;
            let conditional = if_match.is_some() || if_none_match.is_some() || if_unmodified_since.is_some();
            let expected = if !read && required && !conditional {
                Verdict::PreconditionRequired
            } else if if_match.as_ref().is_some_and(|list| !has(list, false)) {
                Verdict::PreconditionFailed(Field::IfMatch)
            } else if if_match.is_none() && dated && if_unmodified_since.is_some_and(|since| second > since) {
                Verdict::PreconditionFailed(Field::IfUnmodifiedSince)
            } else if if_none_match.as_ref().is_some_and(|list| has(list, true)) {
                if read { Verdict::NotModified(Field::IfNoneMatch) }
                else { Verdict::PreconditionFailed(Field::IfNoneMatch) }
            } else if read && if_none_match.is_none() && dated && if_modified_since.is_some_and(|at| second <= at) {
                Verdict::NotModified(Field::IfModifiedSince)
            } else {
                Verdict::Proceed
            };
            prop_assert_eq!(verdict, expected);
        }

        #[test]
        fn any_headers_are_preconditions_or_refused(
            rows in prop::collection::vec((0usize..5, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            const NAMES: [&str; 5] =
                ["if-match", "if-none-match", "if-unmodified-since", "if-modified-since", "x-require-precondition"];
            let mut headers = HeaderMap::new();
            for (name, value) in rows {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(NAMES[name], value);
                }
            }
            if let Ok(preconditions) = Preconditions::parse(&headers) {
                // A read is never answered as a write would be, and the other way round.
                let file = file();
                prop_assert_ne!(preconditions.evaluate(Access::Read, Some(&file)), Verdict::PreconditionRequired);
                let write = preconditions.evaluate(Access::Write, Some(&file));
                prop_assert!(!matches!(write, Verdict::NotModified(_)));
            }
        }
    }
}
