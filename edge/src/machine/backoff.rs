//! How long to wait before the next attempt.

use shared::time::UnixMillis;

/// The first attempt's longest wait, in ms; doubled with each one.
const BASE_MS: u64 = 500;

/// No wait is longer, in ms.
const CAP_MS: u64 = 60_000;

/// Attempts before a user needs attention. With full jitter they spread over some two minutes on average.
pub const MAX_ATTEMPTS: u32 = 10;

/// When to try again after the `attempt`th failure in a row (from 1). Full jitter: anything from nothing to the
/// doubled base, chosen by `random`, so that users who failed together do not come back together. What Fly asks
/// for (`Retry-After`) is the least; the jitter comes on top, for the same reason.
#[must_use]
pub fn next_attempt(attempt: u32, retry_after_ms: Option<u64>, random: u64, now: UnixMillis) -> UnixMillis {
    let doublings = attempt.saturating_sub(1).min(16);
    let longest_ms = BASE_MS.saturating_mul(1 << doublings).min(CAP_MS);
    let jitter_ms = random.checked_rem(longest_ms.saturating_add(1)).unwrap_or(0);
    now.plus_ms(retry_after_ms.unwrap_or(0)).plus_ms(jitter_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bounds(attempt: u32, retry_after in prop::option::of(0_u64..60_000), random: u64) {
            let at = next_attempt(attempt, retry_after, random, UnixMillis(1000)).0;
            let least = 1000 + retry_after.unwrap_or(0);
            prop_assert!((least..=least + CAP_MS).contains(&at));
            prop_assert!(attempt > 1 || at <= least + BASE_MS);
        }

        /// The whole range is used: users who failed together spread over all of it.
        #[test]
        fn full_jitter(share in 0_u64..=500) {
            prop_assert_eq!(next_attempt(1, None, share, UnixMillis(0)), UnixMillis(share));
        }
    }

    #[test]
    fn it_doubles_up_to_a_minute() {
        let longest = |attempt| (0..=CAP_MS).map(|r| next_attempt(attempt, None, r, UnixMillis(0)).0).max();
        let waits: Vec<_> = (1..=9).filter_map(longest).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }
}
