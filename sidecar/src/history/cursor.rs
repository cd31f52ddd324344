//! Where a page ended, as text for the client to bring back.

use super::store::is_transcript;

/// Files that one cursor may name: those that overlap in time. More were never made here.
const MAX_FILES: usize = 256;

/// Everything newer than `floor_ms` has been shown. Of a file that is named, what ends at its offset is left; of
/// any other, all or nothing, by when it began. It says where to read and not what may be read: a file that is
/// not the conversation's is not opened, whoever names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(super) floor_ms: u64,
    pub(super) files: Vec<(String, u64)>,
}

impl Cursor {
    /// Reads what [`Self::to_text`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('~');
        let floor_ms = parts.next()?.parse().ok()?;
        let mut files = Vec::new();
        while let Some(name) = parts.next() {
            let offset = parts.next()?.parse().ok()?;
            if !is_transcript(name) || files.len() == MAX_FILES {
                return None;
            }
            files.push((name.to_owned(), offset));
        }
        Some(Self { floor_ms, files })
    }

    /// Characters that a query takes as they are.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = self.floor_ms.to_string();
        for (name, offset) in &self.files {
            text.push_str(&format!("~{name}~{offset}"));
        }
        text
    }

    pub(super) fn place(&self, name: &str) -> Option<u64> {
        self.files.iter().find(|(named, _)| named == name).map(|(_, offset)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let cursor = Cursor { floor_ms: 5, files: vec![("a-b.jsonl".into(), 7), ("c.jsonl".into(), 0)] };
        assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        for bad in ["", "x", "-1", "5~", "5~a.jsonl", "5~a.jsonl~x", "5~../a.jsonl~1", "5~.jsonl~1", "5~a~1"]
        {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
