//! A line as it is shown: decoded, cut to a length, with its matches in the units that browsers count in.

use std::ops::Range;

use serde::Serialize;
use utoipa::ToSchema;

/// Part of a line, or all of it. Positions are in UTF-16 code units, as JavaScript's strings and editors have
/// them: `text.slice(start, end)` is a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchExcerpt)]
pub struct Excerpt {
    /// Where the first match begins in the whole line, from 1.
    pub column: usize,
    /// Bytes that are not UTF-8 are shown as U+FFFD.
    pub text: String,
    /// The line has more before, or after, than `text`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut_before: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut_after: bool,
    /// Start and end of each match, as far as it lies within `text`.
    pub ranges: Vec<[usize; 2]>,
}

/// Cuts `line` to at most `max_bytes` of UTF-8 around its first match, never within a character. `matches` are in
/// bytes of `line`, in order.
#[must_use]
pub fn excerpt(line: &[u8], matches: &[Range<usize>], max_bytes: usize) -> Excerpt {
    let first = matches.first().cloned().unwrap_or(0..0);
    // The line's beginning, if the match can be seen then; else some of what stands before the match.
    let from = if first.end <= max_bytes { 0 } else { first.start.saturating_sub(max_bytes / 4) };
    let (mut text, mut before, mut units) = (String::new(), 0_usize, 0_usize);
    let (mut cut_before, mut cut_after) = (false, false);
    // Where each character of `text` begins: in bytes of the line, and in units of the text.
    let mut marks: Vec<(usize, usize)> = Vec::new();
    let mut end = (from, 0);
    for (at, character) in characters(line) {
        if at.end <= first.start {
            before = before.saturating_add(character.len_utf16());
        }
        if at.start < from {
            cut_before = true;
        } else if cut_after || text.len().saturating_add(character.len_utf8()) > max_bytes {
            cut_after = true;
            if at.start >= first.start {
                break;
            }
        } else {
            marks.push((at.start, units));
            text.push(character);
            units = units.saturating_add(character.len_utf16());
            end = (at.end, units);
        }
    }
    marks.push(end);
    let unit_at = |index: usize| marks.get(index).or(marks.last()).map_or(0, |(_, unit)| *unit);
    let shown = |found: &Range<usize>| {
        // A match can begin within a character only if the pattern speaks of bytes.
        let start = marks.partition_point(|(byte, _)| *byte <= found.start).saturating_sub(1);
        let stop = marks.partition_point(|(byte, _)| *byte < found.end).max(start);
        [unit_at(start), unit_at(stop)]
    };
    let visible = matches.iter().filter(|found| found.start < end.0 || (found.start == end.0 && !cut_after));
    Excerpt {
        column: before.saturating_add(1),
        ranges: visible.map(shown).collect(),
        text,
        cut_before,
        cut_after,
    }
}

/// The characters of a line with their places; what is not UTF-8 counts as U+FFFD.
fn characters(line: &[u8]) -> impl Iterator<Item = (Range<usize>, char)> {
    let mut at = 0_usize;
    line.utf8_chunks().flat_map(move |chunk| {
        let start = at;
        let invalid = start.saturating_add(chunk.valid().len());
        at = invalid.saturating_add(chunk.invalid().len());
        let valid = chunk.valid().char_indices().map(move |(offset, character)| {
            let from = start.saturating_add(offset);
            (from..from.saturating_add(character.len_utf8()), character)
        });
        let replaced = (!chunk.invalid().is_empty()).then_some((invalid..at, char::REPLACEMENT_CHARACTER));
        valid.chain(replaced)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice(text: &str, [start, end]: [usize; 2]) -> String {
        let units: Vec<u16> = text.encode_utf16().collect();
        String::from_utf16(&units[start..end]).unwrap()
    }

    /// With every place at which `needle` is.
    fn of(line: &[u8], needle: &str, max: usize) -> Excerpt {
        let needle = needle.as_bytes();
        let all = (0..line.len()).filter(|at| line[*at..].starts_with(needle));
        let matches: Vec<_> = all.map(|at| at..at + needle.len()).collect();
        excerpt(line, &matches, max)
    }

    #[test]
    fn rows() {
        let long = format!("{}needle{}", "a".repeat(100), "b".repeat(100));
        type Row<'a> = (&'a [u8], &'a str, usize, &'a str, &'a [[usize; 2]], (bool, bool));
        let rows: &[Row<'_>] = &[
            (b"a needle", "needle", 3, "a needle", &[[2, 8]], (false, false)),
            (b"", "", 1, "", &[], (false, false)),
            (
                "\u{e9} needle needle".as_bytes(),
                "needle",
                3,
                "\u{e9} needle needle",
                &[[2, 8], [9, 15]],
                (false, false),
            ),
            // Two units.
            ("\u{1f600}needle".as_bytes(), "needle", 3, "\u{1f600}needle", &[[2, 8]], (false, false)),
            (b"\xff\xfeneedle", "needle", 3, "\u{fffd}\u{fffd}needle", &[[2, 8]], (false, false)),
            (
                long.as_bytes(),
                "needle",
                101,
                "aaaaaaaaaaneedlebbbbbbbbbbbbbbbbbbbbbbbb",
                &[[10, 16]],
                (true, true),
            ),
        ];
        for (line, needle, column, text, ranges, cut) in rows {
            let found = of(line, needle, 40);
            assert_eq!((found.column, found.text.as_str()), (*column, *text));
            assert_eq!((&found.ranges[..], (found.cut_before, found.cut_after)), (*ranges, *cut), "{text}");
        }
    }

    #[test]
    fn a_match_that_is_longer_than_the_text_is_cut_with_it() {
        let line = [b'a'; 100];
        let found = excerpt(&line, std::slice::from_ref(&(0..100)), 40);
        assert_eq!((found.ranges, found.text.len(), found.cut_after), (vec![[0, 40]], 40, true));
    }

    #[test]
    fn an_empty_match_is_a_place() {
        assert_eq!(excerpt(b"ab", &[0..0, 2..2], 40).ranges, [[0, 0], [2, 2]]);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_the_match(
            before in "[a\u{e9}\u{1f600}]{0,60}", after in "[b\u{e9}\u{1f600}]{0,60}", max in 32_usize..80
        ) {
            let line = format!("{before}needle{after}");
            let found = of(line.as_bytes(), "needle", max);
            prop_assert!(found.text.len() <= max);
            prop_assert!(line.contains(&found.text));
            prop_assert_eq!(slice(&found.text, found.ranges[0]), "needle");
            prop_assert_eq!(found.column, before.encode_utf16().count() + 1);
            prop_assert_eq!(found.cut_before, !line.starts_with(&found.text));
            prop_assert_eq!(found.cut_after, !line.ends_with(&found.text));
        }

        #[test]
        fn any_bytes_and_any_matches(
            line in proptest::collection::vec(any::<u8>(), 0..200), max in 8_usize..100,
            (start, length) in (0_usize..200, 0_usize..50)
        ) {
            let start = start.min(line.len());
            let end = (start + length).min(line.len());
            let found = excerpt(&line, std::slice::from_ref(&(start..end)), max);
            prop_assert!(found.text.len() <= max);
            prop_assert!(String::from_utf8_lossy(&line).contains(&found.text));
            for [from, to] in &found.ranges {
                prop_assert!(from <= to && *to <= found.text.encode_utf16().count());
            }
        }
    }
}
