//! Whether the agent's event loop turns: an HTTP request that anything may answer.
//!
//! It has one thread. A long reply was seen to hold it for two minutes, with pauses in which it answered; so a
//! single miss says nothing, and only [`SILENT_AFTER`] of misses in a row does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use tokio::time::timeout;

use crate::proxy::agent;

/// Between two probes.
pub const INTERVAL: Duration = Duration::from_secs(15);

/// For an answer's head.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first miss in a row.
pub const SILENT_AFTER: Duration = Duration::from_secs(75);

/// What the probes have said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Liveness {
    missing_since: Option<Instant>,
}

impl Liveness {
    /// Takes in a probe that was sent at `sent` and is over at `now`. True: the agent is silent for too long.
    #[must_use]
    pub fn record(&mut self, answered: bool, sent: Instant, now: Instant) -> bool {
        if answered {
            self.missing_since = None;
            return false;
        }
        let since = *self.missing_since.get_or_insert(sent);
        now.saturating_duration_since(since) >= SILENT_AFTER
    }
}

/// Whether anything answers at the agent's address, whatever it says.
pub async fn probe(address: SocketAddr) -> bool {
    let mut request = Request::new(Empty::<Bytes>::new());
    request.headers_mut().insert(header::HOST, agent::host(address));
    request.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    matches!(timeout(PROBE_TIMEOUT, agent::exchange(address, request)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_row_of_misses_counts() {
        // Seconds at which a probe was sent, whether it was answered, whether that makes it silent.
        let rows = [
            (0, false, false),
            (15, false, false),
            (30, false, false),
            (45, false, false),
            (60, true, false),
            (75, false, false),
            (90, false, false),
            (140, false, false),
            (145, false, true),
        ];
        let start = Instant::now();
        let mut liveness = Liveness::default();
        for (sent, answered, silent) in rows {
            let sent = start + Duration::from_secs(sent);
            assert_eq!(liveness.record(answered, sent, sent + PROBE_TIMEOUT), silent, "{sent:?}");
        }
    }
}
