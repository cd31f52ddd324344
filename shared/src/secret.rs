//! Key material that cannot be printed by accident: no `Display`, no `Serialize`, and a `Debug` of one word.

use std::fmt;

/// A text secret from the configuration, without the white space that copying adds at its ends (L-38).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text without leading and trailing white space; `None` if nothing is left, so that an empty
    /// variable counts as a missing one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Takes a text that is known to be a whole secret, as a derived key is.
    pub(crate) const fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The secret itself. The name is loud on purpose: each call is a place to review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `text` is this secret, in time that depends on the lengths alone.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        crate::mac::equal(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_and_refuses_nothing() {
        assert_eq!(Secret::new(" s3cret\n").unwrap().expose(), "s3cret");
        assert_eq!(Secret::new(" \r\n\t"), None);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Some([secret])");
    }

    #[test]
    fn matches_the_whole_text_only() {
        let secret = Secret::new("abc").unwrap();
        for (text, same) in [("abc", true), ("ab", false), ("abcd", false), ("abd", false), ("", false)] {
            assert_eq!(secret.matches(text), same, "{text:?}");
        }
    }
}
