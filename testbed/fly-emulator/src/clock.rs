//! The time that the model lives in, in ms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock.
#[derive(Debug)]
pub enum Clock {
    /// The wall's, faster by a factor.
    Wall {
        /// When it was started.
        since: Instant,
        /// So many ms of the model in one of ours.
        speed: f64,
    },
    /// Stands still until it is moved.
    ByHand(AtomicU64),
}

/// Where both begin: the model takes 0 for never.
const BEGIN: u64 = 1_000;

impl Clock {
    /// The wall's clock. A speed that is none counts as 1.
    #[must_use]
    pub fn wall(speed: f64) -> Self {
        let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
        Self::Wall { since: Instant::now(), speed }
    }

    /// One that is moved by hand.
    #[must_use]
    pub fn by_hand() -> Self {
        Self::ByHand(AtomicU64::new(BEGIN))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> u64 {
        match self {
            Self::Wall { since, speed } => {
                BEGIN.saturating_add((since.elapsed().as_secs_f64() * 1_000.0 * speed) as u64)
            }
            Self::ByHand(at) => at.load(Ordering::SeqCst),
        }
    }

    /// Moves it on, if that is done by hand; the time after that.
    pub fn advance(&self, ms: u64) -> Option<u64> {
        match self {
            Self::Wall { .. } => None,
            Self::ByHand(at) => Some(at.fetch_add(ms, Ordering::SeqCst).saturating_add(ms)),
        }
    }

    /// How long to sleep for so much of the model's time; `None` if sleeping does not help.
    #[must_use]
    pub fn real(&self, ms: u64) -> Option<Duration> {
        match self {
            Self::Wall { speed, .. } => Some(Duration::from_secs_f64(ms as f64 / 1_000.0 / speed)),
            Self::ByHand(_) => None,
        }
    }
}
