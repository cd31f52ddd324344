//! The only place that reads the wall clock. Everything else takes time as a value.

use std::time::UNIX_EPOCH;

use shared::time::UnixMillis;

/// Now. A clock before 1970 reads as 0: every ticket is then far from its end, but still needs its tag.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the `clock` function")]
pub fn now() -> UnixMillis {
    let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
