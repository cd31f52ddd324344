//! The order of names: that of the browser's `localeCompare`, which is ICU's root collation.
//!
//! The collation compares letters first, over the whole length of both names, and only then accents and case. Most
//! names consist of ASCII and of Latin letters with accents, and the letters of those are in a table that the
//! collator has made once: nearly all pairs are decided by it, at a small part of the collator's price. The collator
//! itself decides between names of equal letters, and wherever another character occurs.

use std::cmp::Ordering;
use std::sync::LazyLock;

use icu_collator::options::{CollatorOptions, Strength};
use icu_collator::{CollatorBorrowed, CollatorPreferences};

const FIRST: u8 = b' ';
const LAST: u8 = b'~';

/// Latin letters with accents, and some that are two letters in one.
const LATIN: std::ops::RangeInclusive<u32> = 0xC0..=0x17F;

/// What such a letter can stand for, beside a single letter.
const PAIRS: [&str; 4] = ["ss", "ae", "oe", "ij"];

/// Letters that a [`Key`] holds.
const KEY_LETTERS: usize = 16;

/// Compares names.
#[derive(Debug)]
pub struct Order {
    collator: Option<CollatorBorrowed<'static>>,
    /// Primary ranks of the printable ASCII characters. 0 is none.
    ascii: [u8; 256],
    /// Those of [`LATIN`], of which each is one or two ASCII letters.
    latin: Vec<[u8; 2]>,
}

/// The beginning of a name, as a number that is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(Option<u128>);

impl Key {
    /// `Equal` if the names have to be compared themselves.
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        match (self.0, other.0) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => Ordering::Equal,
        }
    }
}

impl Order {
    /// The one of this process. Made at its first use, in some milliseconds.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Order> = LazyLock::new(Order::new);
        &SHARED
    }

    fn new() -> Self {
        let none = Self { collator: None, ascii: [0; 256], latin: Vec::new() };
        // The data are compiled in, so there is no failure to be had; without them the order would be by bytes.
        let Some((collator, primary)) = collators() else { return none };
        let ascii = ascii_ranks(&primary);
        let latin = LATIN.map(|point| latin_ranks(&primary, &ascii, point)).collect();
        Self { collator: Some(collator), ascii, latin }
    }

    /// The order of two names. Names that the collation cannot tell apart are in byte order, so that the order is
    /// total and a cursor exact.
    #[must_use]
    pub fn compare(&self, a: &str, b: &str) -> Ordering {
        let Some(collator) = &self.collator else { return a.cmp(b) };
        let collated = match self.compare_letters(a, b) {
            Some(Ordering::Equal) if is_plain(a) && is_plain(b) => compare_case(a, b),
            Some(Ordering::Equal) | None => collator.compare(a, b),
            Some(decided) => decided,
        };
        collated.then_with(|| a.cmp(b))
    }

    /// What can be known of a name before it is compared with any other.
    #[must_use]
    pub fn key(&self, name: &str) -> Key {
        if self.collator.is_none() {
            return Key(None);
        }
        // One letter more than it holds: what follows a letter could make another of it, unless it is known.
        let (mut key, mut count) = (0_u128, 0);
        for letter in self.letters(name).take(KEY_LETTERS + 1) {
            let Some(letter) = letter else { return Key(None) };
            if count < KEY_LETTERS {
                key = key << 8 | u128::from(letter);
                count += 1;
            }
        }
        let missing = u32::try_from(8 * (KEY_LETTERS - count)).unwrap_or(u128::BITS);
        Key(Some(key.checked_shl(missing).unwrap_or(0)))
    }

    /// By letters alone. `None`: one of the names has a character that is not in the tables.
    fn compare_letters(&self, a: &str, b: &str) -> Option<Ordering> {
        let (mut a, mut b) = (self.letters(a), self.letters(b));
        let mut decided = Ordering::Equal;
        loop {
            match (a.next(), b.next()) {
                (None, None) => return Some(decided),
                (Some(None), _) | (_, Some(None)) => return None,
                // To the end all the same: what comes later may not be known.
                (x, y) => decided = decided.then_with(|| x.flatten().cmp(&y.flatten())),
            }
        }
    }

    /// The ranks of a name's letters; `None` for what is not in the tables.
    fn letters(&self, name: &str) -> impl Iterator<Item = Option<u8>> {
        name.chars().flat_map(|c| {
            let [first, second] = self.ranks_of(c);
            let known = (first > 0).then_some(first);
            std::iter::once(known).chain((second > 0).then_some(Some(second)))
        })
    }

    fn ranks_of(&self, c: char) -> [u8; 2] {
        let point = u32::from(c);
        if let Ok(byte) = u8::try_from(point)
            && byte.is_ascii()
        {
            return [self.ascii.get(usize::from(byte)).copied().unwrap_or(0), 0];
        }
        let place = point.checked_sub(*LATIN.start()).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.latin.get(place)).copied().unwrap_or([0; 2])
    }
}

/// Of two plain names with the same letters: the lower case first.
fn compare_case(a: &str, b: &str) -> Ordering {
    let is_upper = |byte: u8| byte.is_ascii_uppercase();
    a.bytes().map(is_upper).cmp(b.bytes().map(is_upper))
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| (FIRST..=LAST).contains(&byte))
}

/// The collator, and one that sees nothing but letters.
fn collators() -> Option<(CollatorBorrowed<'static>, CollatorBorrowed<'static>)> {
    let mut options = CollatorOptions::default();
    let all = CollatorBorrowed::try_new(CollatorPreferences::default(), options).ok()?;
    options.strength = Some(Strength::Primary);
    Some((all, CollatorBorrowed::try_new(CollatorPreferences::default(), options).ok()?))
}

/// Sorts the characters at primary strength and numbers the classes: `a` and `A` get the same number.
fn ascii_ranks(primary: &CollatorBorrowed<'_>) -> [u8; 256] {
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
    ranks
}

/// The ranks of the ASCII letters that a character is equal to at primary strength; zeros if there are none.
fn latin_ranks(primary: &CollatorBorrowed<'_>, ascii: &[u8; 256], point: u32) -> [u8; 2] {
    let rank = |byte: u8| ascii.get(usize::from(byte)).copied().unwrap_or(0);
    let Some(c) = char::from_u32(point) else { return [0; 2] };
    let text = c.to_string();
    let is = |letters: &str| primary.compare(&text, letters) == Ordering::Equal;
    if let Some(letter) = (b'a'..=b'z').find(|letter| is(&char::from(*letter).to_string())) {
        return [rank(letter), 0];
    }
    match PAIRS.iter().find(|pair| is(pair)).map(|pair| pair.as_bytes()) {
        Some([first, second]) => [rank(*first), rank(*second)],
        _ => [0; 2],
    }
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
        let order = Order::shared();
        let mut names = sorted.to_vec();
        names.reverse();
        names.sort_by(|a, b| order.compare(a, b));
        // `ä` sorts with `a`; the rest is as written.
        assert_eq!(
            names.iter().filter(|n| !n.starts_with('ä')).collect::<Vec<_>>(),
            sorted.iter().filter(|n| !n.starts_with('ä')).collect::<Vec<_>>()
        );
    }

    #[test]
    fn accents_are_in_the_table() {
        let order = Order::shared();
        for (name, expect) in [("äöü", "aou"), ("ß", "ss"), ("Œ", "oe"), ("Ångström", "angstrom")] {
            assert_eq!(order.compare_letters(name, expect), Some(Ordering::Equal), "{name}");
        }
        for name in ["日", "\u{301}", "l·", "×"] {
            assert_eq!(order.compare_letters(name, "l"), None, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_table_and_the_collator_agree(a in "[ -~]{0,12}", b in "[ -~]{0,12}", c in "[aAbB._-]{0,4}", d in "[aAbB._-]{0,4}") {
            let order = Order::shared();
            let collator = order.collator.as_ref().unwrap();
            for (a, b) in [(&a, &b), (&c, &d)] {
                prop_assert_eq!(order.compare(a, b), collator.compare(a, b).then_with(|| a.cmp(b)), "{} {}", a, b);
            }
        }

        /// Letters with accents, marks of their own, other scripts, symbols; and what differs late.
        #[test]
        fn keys_and_letters_agree_with_the_collator(
            start in "[a-zA-Zà-ž·ł]{0,18}",
            a in "([ -~]|[À-ž]|\\u{301}|\\u{b7}|\\u{387}|[а-я]|日|本|ﬁ|½){0,6}",
            b in "([ -~]|[À-ž]|\\u{301}|\\u{b7}|\\u{387}|[а-я]|日|本|ﬁ|½){0,6}",
        ) {
            let order = Order::shared();
            let collator = order.collator.as_ref().unwrap();
            let (a, b) = (format!("{start}{a}"), format!("{start}{b}"));
            let expect = collator.compare(&a, &b).then_with(|| a.cmp(&b));
            prop_assert_eq!(order.compare(&a, &b), expect, "{} {}", a, b);
            let keyed = order.key(&a).compare(order.key(&b));
            prop_assert!(keyed == Ordering::Equal || keyed == expect, "{} {}", a, b);
        }

        #[test]
        fn the_order_is_total(a in "\\PC{0,5}|[a-c]{0,3}", b in "\\PC{0,5}|[a-c]{0,3}", c in "\\PC{0,5}|[A-C]{0,3}") {
            let order = Order::shared();
            let mut names = [a.as_str(), b.as_str(), c.as_str()];
            names.sort_by(|a, b| order.compare(a, b));
            prop_assert!(order.compare(names[0], names[2]) != Ordering::Greater);
            prop_assert_eq!(order.compare(&a, &b), order.compare(&b, &a).reverse());
        }
    }
}
