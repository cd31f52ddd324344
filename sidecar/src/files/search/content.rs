//! One file, line by line.

use std::io::{self, Read};
use std::ops::Range;

use grep_matcher::Matcher;
use grep_regex::RegexMatcher;
use grep_searcher::{BinaryDetection, MmapChoice, Searcher, SearcherBuilder, Sink, SinkFinish, SinkMatch};
use serde::Serialize;
use utoipa::ToSchema;

use super::Budget;
use super::excerpt::{Excerpt, excerpt};

/// Longest line that is searched: minified programs have lines of some megabytes. It bounds memory.
const MAX_LINE_BYTES: usize = 4 << 20;

/// What is shown of a line: more than a screen is wide.
const MAX_SHOWN_BYTES: usize = 400;

/// Matches that are marked within one line.
const MAX_RANGES: usize = 32;

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SearchLine)]
pub struct Line {
    /// From 1.
    pub line: u64,
    #[serde(flatten)]
    pub excerpt: Excerpt,
}

/// What a file has.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    /// There are more than were asked for.
    pub(super) has_more: bool,
    /// It has a NUL, so it is no text; the lines before that are not shown.
    pub(super) is_binary: bool,
    /// It was not read to its end, because of this.
    pub(super) failure: Option<io::Error>,
}

/// For all files of one search.
pub(super) fn searcher() -> Searcher {
    SearcherBuilder::new()
        .line_number(true)
        .line_terminator(grep_matcher::LineTerminator::crlf())
        .binary_detection(BinaryDetection::quit(0))
        .heap_limit(Some(MAX_LINE_BYTES))
        // A mapped file that is cut short meanwhile kills the process.
        .memory_map(MmapChoice::never())
        .build()
}

/// The lines of `from` that match, `max` at most.
pub(super) fn search(
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    from: impl Read,
    max: usize,
    budget: &Budget,
) -> Lines {
    let mut sink = Collect { matcher, max, found: Lines::default() };
    let result = searcher.search_reader(matcher, Until { from, budget }, &mut sink);
    let mut found = sink.found;
    found.failure = result.err();
    if found.is_binary {
        found.lines.clear();
        found.has_more = false;
    }
    found
}

/// Where `matcher` matches in one line or name.
pub(super) fn ranges(matcher: &RegexMatcher, line: &[u8]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    // Its error type has no values.
    let _cannot_fail = matcher.find_iter(line, |found| {
        ranges.push(found.start()..found.end());
        ranges.len() < MAX_RANGES
    });
    ranges
}

struct Collect<'a> {
    matcher: &'a RegexMatcher,
    max: usize,
    found: Lines,
}

impl Sink for Collect<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        if self.found.lines.len() >= self.max {
            self.found.has_more = true;
            return Ok(false);
        }
        let line = found.bytes();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.found.lines.push(Line {
            line: found.line_number().unwrap_or(0),
            excerpt: excerpt(line, &ranges(self.matcher, line), MAX_SHOWN_BYTES),
        });
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _offset: u64) -> io::Result<bool> {
        self.found.is_binary = true;
        Ok(false)
    }

    fn finish(&mut self, _: &Searcher, end: &SinkFinish) -> io::Result<()> {
        self.found.is_binary |= end.binary_byte_offset().is_some();
        Ok(())
    }
}

/// Fails once the budget is used up, so that one long file cannot hold the search.
struct Until<'a, R> {
    from: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Until<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.budget.is_used_up() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.from.read(buffer)
    }
}
