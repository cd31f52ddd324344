//! The order of names: that of the browser's `localeCompare`, which is ICU's root collation.
//!
//! Most names are plain ASCII. For those a table of 95 ranks, made from the collator once, gives the same order
//! at a tenth of the price.

use std::cmp::Ordering;

use icu_collator::options::{CollatorOptions, Strength};
use icu_collator::{CollatorBorrowed, CollatorPreferences};

const FIRST: u8 = b' ';
const LAST: u8 = b'~';

/// Compares names. Make one for each listing: it costs some microseconds.
#[derive(Debug)]
pub struct Order {
    collator: Option<CollatorBorrowed<'static>>,
    /// Primary ranks of the printable ASCII characters.
    ranks: [u8; 256],
}

impl Default for Order {
    fn default() -> Self {
        Self::new()
    }
}

impl Order {
    #[must_use]
    pub fn new() -> Self {
        // The data are compiled in, so there is no failure to be had; without them the order would be by bytes.
        let collator =
            CollatorBorrowed::try_new(CollatorPreferences::default(), CollatorOptions::default()).ok();
        Self { collator, ranks: ranks().unwrap_or([0; 256]) }
    }

    /// The order of two names. Names that the collation cannot tell apart are in byte order, so that the order is
    /// total and a cursor exact.
    #[must_use]
    pub fn compare(&self, a: &str, b: &str) -> Ordering {
        let Some(collator) = &self.collator else { return a.cmp(b) };
        let collated =
            if is_plain(a) && is_plain(b) { self.compare_plain(a, b) } else { collator.compare(a, b) };
        collated.then_with(|| a.cmp(b))
    }

    /// First by letter, then by length, then the lower case first.
    fn compare_plain(&self, a: &str, b: &str) -> Ordering {
        let rank = |byte: u8| self.ranks.get(usize::from(byte)).copied().unwrap_or(0);
        let by_rank = a.bytes().map(rank).cmp(b.bytes().map(rank));
        by_rank.then_with(|| {
            let is_upper = |byte: u8| byte.is_ascii_uppercase();
            a.bytes().map(is_upper).cmp(b.bytes().map(is_upper))
        })
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| (FIRST..=LAST).contains(&byte))
}

/// Sorts the characters at primary strength and numbers the classes: `a` and `A` get the same number.
fn ranks() -> Option<[u8; 256]> {
    let mut options = CollatorOptions::default();
    options.strength = Some(Strength::Primary);
    let primary = CollatorBorrowed::try_new(CollatorPreferences::default(), options).ok()?;
    let text = |byte: u8| char::from(byte).to_string();
    let mut bytes: Vec<u8> = (FIRST..=LAST).collect();
    bytes.sort_by(|a, b| primary.compare(&text(*a), &text(*b)));
    let mut ranks = [0; 256];
    let (mut rank, mut previous) = (0_u8, None);
    for byte in bytes {
        if previous.is_none_or(|previous| primary.compare(&text(previous), &text(byte)) != Ordering::Equal) {
            rank += 1;
        }
        previous = Some(byte);
        if let Some(slot) = ranks.get_mut(usize::from(byte)) {
            *slot = rank;
        }
    }
    Some(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_a_browser_sorts() {
        let sorted = [
            "_a",
            "-a",
            ".env",
            "1",
            "10",
            "2",
            "a",
            "A",
            "a.md",
            "a1",
            "aa",
            "Aa",
            "AA",
            "b",
            "B",
            "e",
            "é",
            "f",
            "Makefile",
            "readme",
            "README",
            "z",
            "Z",
            "ä\u{308}z",
            "日本",
        ];
        let order = Order::new();
        let mut names = sorted.to_vec();
        names.reverse();
        names.sort_by(|a, b| order.compare(a, b));
        // `ä` sorts with `a`; the rest is as written.
        assert_eq!(
            names.iter().filter(|n| !n.starts_with('ä')).collect::<Vec<_>>(),
            sorted.iter().filter(|n| !n.starts_with('ä')).collect::<Vec<_>>()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_table_and_the_collator_agree(a in "[ -~]{0,12}", b in "[ -~]{0,12}", c in "[aAbB._-]{0,4}", d in "[aAbB._-]{0,4}") {
            let order = Order::new();
            let collator = order.collator.as_ref().unwrap();
            for (a, b) in [(&a, &b), (&c, &d)] {
                prop_assert_eq!(order.compare_plain(a, b), collator.compare(a, b), "{} {}", a, b);
            }
        }

        #[test]
        fn the_order_is_total(a in "\\PC{0,5}|[a-c]{0,3}", b in "\\PC{0,5}|[a-c]{0,3}", c in "\\PC{0,5}|[A-C]{0,3}") {
            let order = Order::new();
            let mut names = [a.as_str(), b.as_str(), c.as_str()];
            names.sort_by(|a, b| order.compare(a, b));
            prop_assert!(order.compare(names[0], names[2]) != Ordering::Greater);
            prop_assert_eq!(order.compare(&a, &b), order.compare(&b, &a).reverse());
        }
    }
}
