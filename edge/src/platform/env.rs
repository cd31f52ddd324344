//! Settings, clock and names from the platform.

use std::cell::Cell;
use std::rc::Rc;

use shared::id::RequestId;
use shared::time::UnixMillis;
use worker::Env;

use crate::config::Config;

/// The clock. On Cloudflare it stands still while a request computes, and moves on with each I/O.
pub(super) fn now() -> UnixMillis {
    // Milliseconds since 1970 as a float are exact and positive until the year 287396.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    UnixMillis(js_sys::Date::now() as u64)
}

/// Reads the settings from the script's bindings.
pub(super) fn config(env: &Env) -> Rc<Config> {
    Rc::new(Config::read(|name| env.var(name).ok().map(|value| value.to_string())))
}

/// Names a request: unique among isolates by a random start, within one by counting.
pub(super) fn request_id() -> RequestId {
    thread_local! {
        static NEXT: Cell<Option<u64>> = const { Cell::new(None) };
    }
    // 2^52: a random start in the range that a float counts exactly.
    const RANGE: f64 = 4_503_599_627_370_496.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "random() is in [0, 1)")]
    let next = NEXT.get().unwrap_or_else(|| (js_sys::Math::random() * RANGE) as u64);
    NEXT.set(Some(next.wrapping_add(1)));
    RequestId::numbered(next)
}
