//! Searching a conversation, newest message first.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::cursor::Cursor;
use super::reader::Budget;
use super::store::Store;
use super::transcript::Roles;

/// Longest search, for a person waits. What has been found is then the answer, with a cursor.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Messages between two looks at the clock, and as many as are kept in memory at a time.
const PAGE: usize = 100;

/// Of a message, before and behind what was found. In characters, so that none is cut in two.
const CONTEXT_CHARS: usize = 80;

/// A message in which the words were found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FoundMessage)]
pub struct Match {
    pub role: String,
    /// As it was written: a text or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub timestamp: Option<Box<RawValue>>,
    /// The words and 80 characters on each side.
    pub snippet: String,
}

/// What was found, newest first.
#[derive(Debug)]
pub struct Found {
    pub matches: Vec<Match>,
    /// Where to go on, if there may be more.
    pub before: Option<Cursor>,
}

/// Finds up to `limit` messages of `key` that hold `query`, whatever the case of either.
///
/// # Errors
/// A file or the directory cannot be read.
pub fn search(
    store: &Store,
    key: &str,
    query: &str,
    mut before: Option<Cursor>,
    limit: usize,
    budget: &mut Budget,
) -> io::Result<Found> {
    let needle = query.to_lowercase();
    let finder = memchr::memmem::Finder::new(needle.as_bytes());
    let began = Instant::now();
    let mut matches = Vec::new();
    loop {
        // A page never holds more than what is still wanted, so that the cursor stands right behind the last one.
        let wanted = PAGE.min(limit - matches.len());
        let page = store.page(key, before.as_ref(), wanted, Roles::Talk, budget)?;
        for entry in page.entries.into_iter().rev() {
            let text = super::transcript::text_of(entry.content.as_deref());
            if finder.find(text.to_lowercase().as_bytes()).is_some() {
                let snippet = snippet(&text, &needle);
                matches.push(Match { role: entry.role, timestamp: entry.timestamp, snippet });
            }
        }
        before = page.before;
        let over = before.is_none() || budget.left() == 0 || matches.len() >= limit;
        if over || began.elapsed() >= MAX_TIME {
            return Ok(Found { matches, before });
        }
    }
}

/// The surroundings of the first place at which `needle`, in lower case, is.
fn snippet(text: &str, needle: &str) -> String {
    // Case can change a text's length, so places are counted in characters of the original.
    let chars: Vec<char> = text.chars().collect();
    let starts = |from: &[char]| {
        let mut lower = from.iter().flat_map(|c| c.to_lowercase());
        needle.chars().all(|c| lower.next() == Some(c))
    };
    let at = (0..chars.len()).find(|at| chars.get(*at..).is_some_and(starts)).unwrap_or(0);
    let from = at.saturating_sub(CONTEXT_CHARS);
    let to = (at + needle.chars().count() + CONTEXT_CHARS).min(chars.len());
    let middle: String = chars.get(from..to).unwrap_or_default().iter().collect();
    let dots = |there: bool| if there { "…" } else { "" };
    format!("{}{middle}{}", dots(from > 0), dots(to < chars.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets() {
        let long = format!("{}İ NEEDLE {}", "ä".repeat(200), "b".repeat(200));
        let shown = snippet(&long, "needle");
        assert!(shown.starts_with('…') && shown.ends_with('…') && shown.contains(" NEEDLE "), "{shown}");
        assert_eq!(snippet("a Needle", "needle"), "a Needle");
        assert_eq!(snippet("", "x"), "");
    }
}
