//! What is searched for, checked once: everything below takes it as it is.

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};

use crate::files::path::WorkspacePath;

/// Longest text, regular expression or glob. Nobody types more, and each is compiled.
pub const MAX_PATTERN_BYTES: usize = 1000;

/// What a compiled expression may take: `\w{1000}` takes more. Two searches run at a time.
const MAX_REGEX_BYTES: usize = 2 << 20;

/// For the tables that are made while searching.
const MAX_DFA_BYTES: usize = 4 << 20;

/// Parentheses within parentheses; each level is a call on the stack.
const MAX_NESTING: u32 = 50;

/// Hits where the client names no number, and at most: two lines of a screen for each of a thousand files.
pub const DEFAULT_LIMIT: usize = 200;
pub const MAX_LIMIT: usize = 2000;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    Names,
    Contents,
    #[default]
    Both,
}

/// Whether `A` is `a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Case {
    /// Only if the pattern has a capital letter.
    #[default]
    Smart,
    Sensitive,
    Insensitive,
}

/// A search before its patterns are compiled.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub text: String,
    pub is_regex: bool,
    pub case: Case,
    pub scope: Scope,
    pub path: WorkspacePath,
    pub glob: Option<String>,
    pub gitignore: bool,
    pub hidden: bool,
    pub limit: usize,
}

/// A search that can be made.
#[derive(Debug, Clone)]
pub struct Ask {
    pub(super) matcher: RegexMatcher,
    /// Names are compared with their folders below the start, since the text has a `/`.
    pub(super) whole_paths: bool,
    pub(super) scope: Scope,
    pub(super) path: WorkspacePath,
    pub(super) glob: Option<Glob>,
    pub(super) gitignore: bool,
    pub(super) hidden: bool,
    pub(super) limit: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Glob {
    pub(super) matcher: GlobMatcher,
    /// It has a `/`, so it speaks of paths below the start; else of names.
    pub(super) whole_paths: bool,
}

/// Why a search cannot be made. Its text never holds the pattern, since it is logged; the explanations do, for the
/// client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("nothing to search for")]
    Empty,
    #[error("the pattern is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    #[error("the regular expression cannot be used")]
    Regex { explained: String },
    #[error("the glob cannot be used")]
    Glob { explained: String },
    #[error("{0} has a value that it cannot have")]
    Parameter(&'static str),
}

impl Ask {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// One is empty, too long, or none.
    pub fn new(wanted: Wanted) -> Result<Self, AskError> {
        let Wanted { text, is_regex, case, scope, path, glob, gitignore, hidden, limit } = wanted;
        if text.is_empty() {
            return Err(AskError::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES || glob.as_ref().is_some_and(|glob| glob.len() > MAX_PATTERN_BYTES)
        {
            return Err(AskError::TooLong);
        }
        let matcher = RegexMatcherBuilder::new()
            .fixed_strings(!is_regex)
            .case_smart(case == Case::Smart)
            .case_insensitive(case == Case::Insensitive)
            // `^` and `$` are the ends of lines, also of those that end with CRLF. Nothing matches across lines: an
            // expression that asks for a newline is refused.
            .multi_line(true)
            .crlf(true)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_DFA_BYTES)
            .nest_limit(MAX_NESTING)
            .build(&text)
            .map_err(|error| AskError::Regex { explained: error.to_string() })?;
        let glob = glob.map(|text| {
            let built = GlobBuilder::new(&text).literal_separator(true).build();
            let built = built.map_err(|error| AskError::Glob { explained: error.to_string() })?;
            Ok(Glob { matcher: built.compile_matcher(), whole_paths: text.contains('/') })
        });
        Ok(Self {
            matcher,
            whole_paths: text.contains('/') && !is_regex,
            scope,
            path,
            glob: glob.transpose()?,
            gitignore,
            hidden,
            limit: limit.clamp(1, MAX_LIMIT),
        })
    }
}
