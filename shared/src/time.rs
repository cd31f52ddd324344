//! Points in time, as values. Nothing in this crate reads a clock.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixMillis {
    /// The second that this instant lies in.
    #[must_use]
    pub const fn floor_seconds(self) -> UnixSeconds {
        UnixSeconds(self.0 / 1000)
    }

    /// This instant, `ms` later; stays at the end of time rather than wrapping round.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that lies in the future, as after a clock that was set back.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl UnixSeconds {
    /// This instant, `s` seconds later; stays at the end of time rather than wrapping round.
    #[must_use]
    pub const fn plus(self, s: u64) -> Self {
        Self(self.0.saturating_add(s))
    }

    /// True once the clock stands past the very start of this second: a value equal to the current second has
    /// expired as soon as the clock shows a fraction. This is the legacy rule (`exp < now`, compared as
    /// floats), and no skew is allowed for.
    #[must_use]
    pub const fn is_before(self, now: UnixMillis) -> bool {
        match self.0.checked_mul(1000) {
            Some(ms) => ms < now.0,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_over_as_soon_as_the_clock_has_a_fraction() {
        let exp = UnixSeconds(1_700_000_000);
        for (now_ms, expired) in [
            (1_699_999_999_999, false),
            (1_700_000_000_000, false),
            (1_700_000_000_001, true),
            (u64::MAX, true),
        ] {
            assert_eq!(exp.is_before(UnixMillis(now_ms)), expired, "at {now_ms}");
        }
        assert!(!UnixSeconds(u64::MAX).is_before(UnixMillis(u64::MAX)));
    }
}
