//! Taking the secrets that we know out of what the agent prints.
//!
//! It finds a secret as it is. One that was encoded, or printed in pieces, it does not find.

use std::borrow::Cow;

use memchr::memmem;
use shared::secret::Secret;

/// What stands for a secret.
const MASK: &[u8] = b"[redacted]";

/// A shorter value, as `1` or `true`, is a setting rather than a secret, and would blot out half of a text.
const MIN_SECRET_BYTES: usize = 8;

/// Knows the secrets.
#[derive(Debug, Clone)]
pub struct Redactor {
    /// Longest first, so that one within another leaves nothing of the longer one.
    secrets: Vec<Secret>,
}

impl Redactor {
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let long = |secret: &Secret| secret.expose().len() >= MIN_SECRET_BYTES;
        let mut secrets: Vec<Secret> = secrets.into_iter().filter(long).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self { secrets }
    }

    /// `line` without secrets. If it was `cut` somewhere, what could be the beginning of one goes too.
    #[must_use]
    pub fn clean<'a>(&self, line: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
        let mut line = Cow::Borrowed(line);
        for secret in &self.secrets {
            if let Some(masked) = mask(&line, secret.expose().as_bytes()) {
                line = Cow::Owned(masked);
            }
        }
        if cut {
            let begun = self.secrets.iter().map(|secret| begun(&line, secret.expose().as_bytes())).max();
            let keep = line.len().saturating_sub(begun.unwrap_or(0));
            match &mut line {
                Cow::Borrowed(bytes) => *bytes = bytes.get(..keep).unwrap_or(bytes),
                Cow::Owned(bytes) => bytes.truncate(keep),
            }
        }
        line
    }
}

/// `None` if the secret is not in it.
fn mask(line: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let finder = memmem::Finder::new(secret);
    finder.find(line)?;
    let (mut masked, mut from) = (Vec::with_capacity(line.len()), 0);
    for at in finder.find_iter(line) {
        masked.extend_from_slice(line.get(from..at)?);
        masked.extend_from_slice(MASK);
        from = at.checked_add(secret.len())?;
    }
    masked.extend_from_slice(line.get(from..)?);
    Some(masked)
}

/// How many bytes at the end of the line are the beginning of the secret.
fn begun(line: &[u8], secret: &[u8]) -> usize {
    let starts = (1..secret.len()).rev();
    starts.filter_map(|n| secret.get(..n)).find(|start| line.ends_with(start)).map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::new(secrets.iter().filter_map(|secret| Secret::new(secret)))
    }

    #[test]
    fn lines() {
        let redactor = redactor(&["token-123", "token-123-longer", "1", "sk-ant-key"]);
        let rows = [
            ("nothing here", false, "nothing here"),
            ("token-123", false, "[redacted]"),
            ("a token-123-longer z", false, "a [redacted] z"),
            ("token-123token-123", false, "[redacted][redacted]"),
            ("key=sk-ant-key, 1 of 1", false, "key=[redacted], 1 of 1"),
            ("it begins with sk-ant-", false, "it begins with sk-ant-"),
            ("it begins with sk-ant-", true, "it begins with "),
            ("ends in t", true, "ends in "),
            ("", true, ""),
        ];
        for (line, cut, expect) in rows {
            assert_eq!(redactor.clean(line.as_bytes(), cut), expect.as_bytes(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_is_left_wherever_it_stands_and_wherever_the_line_is_cut(
            before in "[a-c]{0,20}", after in "[a-c]{0,20}", secret in "[a-c]{8,12}", keep in 0_usize..60,
        ) {
            let line = format!("{before}{secret}{after}");
            let redactor = redactor(&[&secret]);
            let whole = redactor.clean(line.as_bytes(), false);
            prop_assert!(memmem::find(&whole, secret.as_bytes()).is_none());
            let cut = &line.as_bytes()[..keep.min(line.len())];
            // What the cut shows is what the whole line shows there: nothing of a secret, begun or not.
            prop_assert!(whole.starts_with(&redactor.clean(cut, true)));
        }
    }
}
