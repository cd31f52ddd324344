//! A fresh signed URL for a page whose own is about to expire.
//!
//! A signed URL says nothing about when it was first made, and whoever holds one can ask for the next. Without a
//! bound, one that leaks would be good for ever instead of an hour. So the user's object remembers when the chain
//! began that a renewed URL belongs to, for as long as that URL holds; a chain ends after [`CHAIN_SECONDS`], and
//! the page has to ask the dashboard, which knows whether its user is still signed in.
//!
//! The object needs to remember one second per URL that it has renewed and that still holds: expiry is what tells
//! them apart, and two chains that share one share the older beginning. That is at most [`URL_TTL_SECONDS`] rows.

use serde::{Deserialize, Serialize};
use shared::time::UnixSeconds;

/// How long a URL holds that this edge signs, in seconds: what the contract's front end is used to.
pub const URL_TTL_SECONDS: u64 = 3600;

/// How long a page can go on by renewing alone, in seconds.
pub const CHAIN_SECONDS: u64 = 24 * 3600;

/// What a renewal comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Until when the URL holds: never less than the one that was shown.
    pub expires: UnixSeconds,
    /// When its chain began.
    pub began: UnixSeconds,
}

impl Renewed {
    /// Until when renewing can go on.
    #[must_use]
    pub const fn renewable_until(&self) -> UnixSeconds {
        self.began.plus(CHAIN_SECONDS)
    }
}

/// Renews a URL that holds until `shown`. `remembered` is the beginning of its chain, if it came out of a renewal;
/// otherwise the dashboard has made it, at most [`URL_TTL_SECONDS`] before it ends.
#[must_use]
pub fn renew(shown: UnixSeconds, remembered: Option<UnixSeconds>, now: UnixSeconds) -> Renewed {
    let made = UnixSeconds(shown.0.saturating_sub(URL_TTL_SECONDS)).min(now);
    let began = remembered.map_or(made, |began| began.min(made));
    let fresh = now.plus(URL_TTL_SECONDS).min(began.plus(CHAIN_SECONDS));
    Renewed { expires: fresh.max(shown), began }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn renewals() {
        let now = 1_000_000;
        let rows = [
            // shown, remembered, then: expires, began
            ("made just now", now + 3600, None, (now + 3600, now)),
            ("half over", now + 1800, None, (now + 3600, now - 1800)),
            ("about to expire", now, None, (now + 3600, now - 3600)),
            ("in a chain", now + 10, Some(now - 7200), (now + 3600, now - 7200)),
            ("near its end", now + 10, Some(now - 86_000), (now + 400, now - 86_000)),
            ("at its end", now + 10, Some(now - 86_390), (now + 10, now - 86_390)),
            ("one that holds for longer", now + 90_000, None, (now + 90_000, now)),
        ];
        for (name, shown, remembered, (expires, began)) in rows {
            let renewed = renew(UnixSeconds(shown), remembered.map(UnixSeconds), UnixSeconds(now));
            assert_eq!(
                renewed,
                Renewed { expires: UnixSeconds(expires), began: UnixSeconds(began) },
                "{name}"
            );
        }
    }

    proptest! {
        /// Whatever a holder does with the URLs of one chain, none outlives it, and the memory stays small.
        #[test]
        fn a_chain_ends(steps in prop::collection::vec((0_u64..3600, any::<prop::sample::Index>()), 1..200)) {
            let start = 1_000_000;
            let (mut now, mut held) = (start, vec![start + URL_TTL_SECONDS]);
            let mut memory: BTreeMap<u64, UnixSeconds> = BTreeMap::new();
            for (wait, which) in steps {
                now += wait;
                held.retain(|expires| *expires >= now);
                memory.retain(|expires, _| *expires >= now);
                if held.is_empty() {
                    break;
                }
                let shown = held[which.index(held.len())];
                let renewed = renew(UnixSeconds(shown), memory.get(&shown).copied(), UnixSeconds(now));
                memory.insert(renewed.expires.0, renewed.began);
                held.push(renewed.expires.0);
                prop_assert!(renewed.expires.0 >= shown);
                prop_assert!(renewed.expires.0 <= start + CHAIN_SECONDS);
                prop_assert!(memory.len() as u64 <= URL_TTL_SECONDS + 1);
            }
        }
    }
}
