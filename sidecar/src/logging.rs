//! Logs: one JSON object per line on standard output.
//!
//! Never in a log: query strings, tickets, tokens, what people write, and user ids (a hash stands for them).

use sha2::{Digest, Sha256};
use shared::id::UserId;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait for a reader. A reader that is slow for a moment loses nothing.
const WAITING_LINES: usize = 10_000;

/// Starts logging. `filter` is what `RUST_LOG` says; without it, or if it cannot be read, the level is `info`.
///
/// Lines are written by a thread of their own, and dropped while more than [`WAITING_LINES`] wait: a pipe that
/// nobody reads would otherwise stop the one thread that serves all connections. What waits is written when the
/// guard is dropped.
pub fn start(filter: Option<&str>) -> WorkerGuard {
    let filter =
        filter.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(std::io::stdout());
    let format = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer);
    // A second start, as in a test, keeps the first one.
    let _already_started = format.with_env_filter(filter).try_init();
    guard
}

/// What stands for a user in logs: 12 hexadecimal digits of a hash, enough to tell customers apart.
#[must_use]
pub fn user_hash(user: &UserId) -> String {
    let digest = Sha256::digest(user.as_str().as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
