//! `Range` (RFC 9110 section 14): which bytes of a file are asked for.

use http::HeaderValue;

/// Ranges in one request. A reader of video or of an archive's index asks for one or a few; hundreds are a way
/// to make a small request expensive.
pub const MAX_RANGES: usize = 100;

/// Pairs of overlapping ranges in one request. The RFC names more than two as a sign of malice.
const MAX_OVERLAPS: usize = 2;

/// One range as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    /// `first-last`, both included.
    FromTo { first: u64, last: u64 },
    /// `first-`.
    From { first: u64 },
    /// `-length`.
    Suffix { length: u64 },
}

/// Bytes that exist in the file: `first` is not after `last`, and both are below its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    first: u64,
    last: u64,
}

impl ByteRange {
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Never 0.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.last - self.first + 1
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// `bytes 0-9/100`.
    #[must_use]
    pub fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }
}

/// Why a `Range` is treated as if it were not there: the whole file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// None was sent.
    Absent,
    /// Another unit than bytes.
    Unit,
    Malformed,
    /// More than [`MAX_RANGES`].
    TooMany,
    Overlapping,
    /// All ranges together are longer than the file.
    LongerThanWhole,
    /// A suffix of an empty file: there is something to send, and it has no bytes to number.
    Empty,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole(Ignored),
    One(ByteRange),
    /// At least two, in the order in which they were asked for.
    Many(Vec<ByteRange>),
    /// 416.
    Unsatisfiable,
}

/// Reads the header and applies it to a file of `size` bytes.
#[must_use]
pub fn select(value: Option<&[u8]>, size: u64) -> Selection {
    let Some(value) = value else {
        return Selection::Whole(Ignored::Absent);
    };
    match parse(value) {
        Ok(specs) => resolve(&specs, size),
        Err(why) => Selection::Whole(why),
    }
}

/// Reads the header's value.
///
/// # Errors
/// The reason to ignore it.
pub fn parse(value: &[u8]) -> Result<Vec<Spec>, Ignored> {
    let value = value.trim_ascii();
    let equals = value.iter().position(|&byte| byte == b'=').ok_or(Ignored::Malformed)?;
    let (unit, set) = value.split_at_checked(equals).ok_or(Ignored::Malformed)?;
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Err(Ignored::Unit);
    }
    let mut specs = Vec::new();
    let set = set.get(1..).unwrap_or_default();
    for element in set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // A recipient accepts empty elements of a list.
        if element.is_empty() {
            continue;
        }
        if specs.len() == MAX_RANGES {
            return Err(Ignored::TooMany);
        }
        specs.push(spec(element).ok_or(Ignored::Malformed)?);
    }
    if specs.is_empty() { Err(Ignored::Malformed) } else { Ok(specs) }
}

fn spec(element: &[u8]) -> Option<Spec> {
    let dash = element.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (element.get(..dash)?, element.get(dash + 1..)?);
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Spec::Suffix { length: number(last)? }),
        (false, true) => Some(Spec::From { first: number(first)? }),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            // Such a range is invalid, and with it the whole header.
            (first <= last).then_some(Spec::FromTo { first, last })
        }
    }
}

/// A number of any length; what no file can have becomes the largest number.
fn number(digits: &[u8]) -> Option<u64> {
    let digits = digits.iter().map(|byte| byte.is_ascii_digit().then(|| u64::from(byte - b'0')));
    digits.reduce(|a, b| Some(a?.saturating_mul(10).saturating_add(b?))).flatten()
}

/// Applies ranges to a file of `size` bytes.
#[must_use]
pub fn resolve(specs: &[Spec], size: u64) -> Selection {
    let Some(end) = size.checked_sub(1) else {
        let suffix = specs.iter().any(|spec| matches!(spec, Spec::Suffix { length: 1.. }));
        return if suffix { Selection::Whole(Ignored::Empty) } else { Selection::Unsatisfiable };
    };
    let satisfiable = |spec: &Spec| match *spec {
        Spec::FromTo { first, last } => (first <= end).then(|| ByteRange { first, last: last.min(end) }),
        Spec::From { first } => (first <= end).then_some(ByteRange { first, last: end }),
        Spec::Suffix { length } => {
            (length > 0).then(|| ByteRange { first: size.saturating_sub(length), last: end })
        }
    };
    let ranges: Vec<ByteRange> = specs.iter().filter_map(satisfiable).collect();
    match ranges.as_slice() {
        [] => Selection::Unsatisfiable,
        [one] => Selection::One(*one),
        many => {
            let total: u128 = many.iter().map(|range| u128::from(range.len())).sum();
            if overlaps(many) > MAX_OVERLAPS {
                Selection::Whole(Ignored::Overlapping)
            } else if total > u128::from(size) {
                Selection::Whole(Ignored::LongerThanWhole)
            } else {
                Selection::Many(ranges)
            }
        }
    }
}

/// How many ranges begin before an earlier one, in the order of the file, has ended.
fn overlaps(ranges: &[ByteRange]) -> usize {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut reached = None;
    let mut count = 0;
    for range in sorted {
        count += usize::from(reached.is_some_and(|reached| range.first <= reached));
        reached = reached.max(Some(range.last));
    }
    count
}

/// For the answer 416.
#[must_use]
pub fn unsatisfied(size: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("bytes */{size}")).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64) -> ByteRange {
        ByteRange { first, last }
    }

    #[test]
    fn rows() {
        use Selection::{Many, One, Unsatisfiable, Whole};
        let hundred = format!("bytes={}", vec!["0-0"; 101].join(","));
        let spread: Vec<String> = (0..100).map(|n| format!("{n}-{n}")).collect();
        let spread = format!("bytes={}", spread.join(","));
        let rows: [(&str, u64, Selection); 43] = [
            ("bytes=0-9", 100, One(range(0, 9))),
            ("bytes=0-0", 100, One(range(0, 0))),
            ("bytes=99-99", 100, One(range(99, 99))),
            ("bytes=90-200", 100, One(range(90, 99))),
            ("bytes=0-", 100, One(range(0, 99))),
            ("bytes=99-", 100, One(range(99, 99))),
            ("bytes=-1", 100, One(range(99, 99))),
            ("bytes=-100", 100, One(range(0, 99))),
            ("bytes=-101", 100, One(range(0, 99))),
            ("bytes=-99999999999999999999999999", 100, One(range(0, 99))),
            ("bytes=1-99999999999999999999999999", 100, One(range(1, 99))),
            ("BYTES=0-9", 100, One(range(0, 9))),
            ("bytes= 0-9 ", 100, One(range(0, 9))),
            ("bytes=,,0-9,", 100, One(range(0, 9))),
            ("bytes=0-1,3-4", 100, Many(vec![range(0, 1), range(3, 4)])),
            ("bytes=3-4 , 0-1", 100, Many(vec![range(3, 4), range(0, 1)])),
            ("bytes=0-1,-1", 100, Many(vec![range(0, 1), range(99, 99)])),
            // Adjacent is not overlapping, and one pair is forgiven.
            ("bytes=0-1,2-3", 100, Many(vec![range(0, 1), range(2, 3)])),
            ("bytes=0-5,5-9", 100, Many(vec![range(0, 5), range(5, 9)])),
            // What does not exist is left out while something does.
            ("bytes=0-1,100-", 100, One(range(0, 1))),
            ("bytes=0-1,-0", 100, One(range(0, 1))),
            ("bytes=0-9,0-9,0-9,0-9", 100, Whole(Ignored::Overlapping)),
            ("bytes=0-,0-", 100, Whole(Ignored::LongerThanWhole)),
            // Together they are longer than any number of 64 bits.
            ("bytes=11-59,20-", u64::MAX, Whole(Ignored::LongerThanWhole)),
            ("bytes=100-", 100, Unsatisfiable),
            ("bytes=100-200", 100, Unsatisfiable),
            ("bytes=-0", 100, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole(Ignored::Empty)),
            ("lines=0-9", 100, Whole(Ignored::Unit)),
            ("bytes", 100, Whole(Ignored::Malformed)),
            ("bytes=", 100, Whole(Ignored::Malformed)),
            ("bytes=-", 100, Whole(Ignored::Malformed)),
            ("bytes=5", 100, Whole(Ignored::Malformed)),
            ("bytes=9-5", 100, Whole(Ignored::Malformed)),
            ("bytes=0-1,9-5", 100, Whole(Ignored::Malformed)),
            ("bytes=a-b", 100, Whole(Ignored::Malformed)),
            ("bytes=+1-2", 100, Whole(Ignored::Malformed)),
            ("bytes=1--2", 100, Whole(Ignored::Malformed)),
            ("bytes=1- 2", 100, Whole(Ignored::Malformed)),
            (&hundred, 100, Whole(Ignored::TooMany)),
            ("bytes =0-1", 100, Whole(Ignored::Unit)),
        ];
        for (value, size, expected) in rows {
            assert_eq!(select(Some(value.as_bytes()), size), expected, "{value} of {size}");
        }
        assert_eq!(select(None, 100), Whole(Ignored::Absent));
        assert!(matches!(select(Some(spread.as_bytes()), 100), Many(ranges) if ranges.len() == MAX_RANGES));
    }

    #[test]
    fn as_headers() {
        assert_eq!(range(2, 5).content_range(10), "bytes 2-5/10");
        assert_eq!(unsatisfied(10).unwrap(), "bytes */10");
    }

    fn specs() -> impl Strategy<Value = Vec<Spec>> {
        let number = prop_oneof![0u64..50, any::<u64>()];
        let spec = prop_oneof![
            (number.clone(), number.clone())
                .prop_map(|(a, b)| Spec::FromTo { first: a.min(b), last: a.max(b) }),
            number.clone().prop_map(|first| Spec::From { first }),
            number.prop_map(|length| Spec::Suffix { length }),
        ];
        prop::collection::vec(spec, 1..=MAX_RANGES)
    }

    fn written(spec: &Spec) -> String {
        match spec {
            Spec::FromTo { first, last } => format!("{first}-{last}"),
            Spec::From { first } => format!("{first}-"),
            Spec::Suffix { length } => format!("-{length}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(specs in specs()) {
            let text = format!("bytes={}", specs.iter().map(written).collect::<Vec<_>>().join(", "));
            prop_assert_eq!(parse(text.as_bytes()), Ok(specs));
        }

        #[test]
        fn what_is_sent_was_asked_for_and_exists(specs in specs(), size in prop_oneof![0u64..60, any::<u64>()]) {
            let asked = |byte: u64| specs.iter().any(|spec| match *spec {
                Spec::FromTo { first, last } => (first..=last).contains(&byte),
                Spec::From { first } => byte >= first,
                Spec::Suffix { length } => byte >= size.saturating_sub(length),
            });
            let sent = match resolve(&specs, size) {
                Selection::Whole(_) => return Ok(()),
                Selection::Unsatisfiable => {
                    prop_assert!(size > 60 || (0..size).all(|byte| !asked(byte)));
                    return Ok(());
                }
                Selection::One(range) => vec![range],
                Selection::Many(ranges) => {
                    prop_assert!((2..=MAX_RANGES).contains(&ranges.len()));
                    ranges
                }
            };
            for range in &sent {
                prop_assert!(range.first <= range.last && range.last < size);
                prop_assert!(asked(range.first) && asked(range.last));
            }
            let total = sent.iter().map(|range| u128::from(range.len())).sum::<u128>();
            prop_assert!(total <= u128::from(size));
        }

        #[test]
        fn any_header_selects_something(value in prop::collection::vec(any::<u8>(), 0..200), size: u64) {
            let _selection = select(Some(&value), size);
        }

        #[test]
        fn anything_after_the_unit_selects_something(value in "bytes=[-0-9, a]{0,40}", size in 0u64..100) {
            let _selection = select(Some(value.as_bytes()), size);
        }
    }
}
