//! The one place of the stand-ins that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use shared::time::UnixMillis;

/// The current time; 1970 if the machine's clock stands before that.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock function that everything else takes time from"
)]
#[must_use]
pub fn now() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
