//! Logs: one JSON object per line on standard output.
//!
//! Never in a log: query strings, tickets, tokens, what people write, and user ids (a hash stands for them).

use sha2::{Digest, Sha256};
use shared::id::UserId;
use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is what `RUST_LOG` says; without it, or if it cannot be read, the level is `info`.
pub fn start(filter: Option<&str>) {
    let filter =
        filter.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let format =
        tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false).with_span_list(false);
    // A second start, as in a test, keeps the first one.
    let _already_started = format.with_env_filter(filter).try_init();
}

/// What stands for a user in logs: 12 hexadecimal digits of a hash, enough to tell customers apart.
#[must_use]
pub fn user_hash(user: &UserId) -> String {
    let digest = Sha256::digest(user.as_str().as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
