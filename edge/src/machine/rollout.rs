//! Taking a fleet to a new image: 1, 10, 50, 100 percent, and back for those who had it when too many fail.
//!
//! A rollout only says who should have which image. Each user's own plan brings it about.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared::id::UserId;

/// The shares of the fleet, in percent.
pub const STAGES: [u8; 4] = [1, 10, 50, 100];

/// A stage stops when this many of its users, in percent, are not ready on the new image.
pub const STOP_AT_PERCENT: usize = 3;

/// How one user of the present stage fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// On its way to the new image, within its time.
    Updating,
    /// Ready on the new image.
    Ready,
    /// Not ready in time, crashed, or taken back by Fly.
    Failed,
}

/// A rollout's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// By digest; also the salt of the order, so that not always the same users come first.
    pub image: String,
    /// What those get back who had the new one.
    pub previous: String,
    pub stage: usize,
    pub stopped: bool,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Users of the present stage are still updating.
    Wait,
    /// All of them are well: this stage is next.
    Advance(usize),
    /// Too many failed: nobody else gets the image, and those who have it go back.
    Stop { failed: usize, of: usize },
    /// Everybody has it.
    Finished,
    /// It was stopped.
    Stopped,
}

impl Rollout {
    #[must_use]
    pub const fn new(image: String, previous: String) -> Self {
        Self { image, previous, stage: 0, stopped: false }
    }

    /// The image that `user` should have. Of two stages the later includes the earlier.
    #[must_use]
    pub fn image_for(&self, user: &UserId) -> &str {
        if !self.stopped && self.includes(user) { &self.image } else { &self.previous }
    }

    /// Whether the present stage reaches this user.
    #[must_use]
    pub fn includes(&self, user: &UserId) -> bool {
        let percent = STAGES.get(self.stage).copied().unwrap_or(100);
        place(&self.image, user) < u32::from(percent).saturating_mul(100)
    }

    /// What follows from how the users of the present stage fare. A stage without users is over at once.
    #[must_use]
    pub fn step(&self, healths: &[Health]) -> Step {
        if self.stopped {
            return Step::Stopped;
        }
        let count = |wanted| healths.iter().filter(|health| **health == wanted).count();
        let (failed, of) = (count(Health::Failed), healths.len());
        // It does not take the last answer to know that there are too many; one of a few is no trend, but the
        // stage is as large as it is.
        if failed > 0 && failed.saturating_mul(100) >= of.saturating_mul(STOP_AT_PERCENT) {
            return Step::Stop { failed, of };
        }
        if count(Health::Updating) > 0 {
            return Step::Wait;
        }
        let next = self.stage.saturating_add(1);
        if next < STAGES.len() { Step::Advance(next) } else { Step::Finished }
    }

    /// The state after a step.
    #[must_use]
    pub fn after(&self, step: Step) -> Self {
        match step {
            Step::Advance(stage) => Self { stage, ..self.clone() },
            Step::Stop { .. } => Self { stopped: true, ..self.clone() },
            Step::Wait | Step::Finished | Step::Stopped => self.clone(),
        }
    }
}

/// A user's place in the order, in hundredths of a percent: 0 to 9999.
fn place(salt: &str, user: &UserId) -> u32 {
    let hash = Sha256::new().chain_update(salt).chain_update(b"\0").chain_update(user.as_str()).finalize();
    let number = hash.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    u32::try_from(number.checked_rem(10_000).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rollout(stage: usize) -> Rollout {
        Rollout { stage, ..Rollout::new("new@sha256:02".into(), "old@sha256:01".into()) }
    }

    fn healths(ready: usize, failed: usize, updating: usize) -> Vec<Health> {
        [(ready, Health::Ready), (failed, Health::Failed), (updating, Health::Updating)]
            .into_iter()
            .flat_map(|(n, health)| std::iter::repeat_n(health, n))
            .collect()
    }

    #[test]
    fn steps() {
        for (stage, ready, failed, updating, expected) in [
            (0, 0, 0, 0, Step::Advance(1)),
            (0, 1, 0, 0, Step::Advance(1)),
            (0, 0, 1, 0, Step::Stop { failed: 1, of: 1 }),
            (1, 5, 0, 5, Step::Wait),
            (2, 98, 2, 0, Step::Advance(3)),
            (2, 97, 3, 0, Step::Stop { failed: 3, of: 100 }),
            (2, 0, 3, 97, Step::Stop { failed: 3, of: 100 }),
            (3, 98, 2, 0, Step::Finished),
        ] {
            assert_eq!(rollout(stage).step(&healths(ready, failed, updating)), expected);
        }
        let stopped = rollout(2).after(Step::Stop { failed: 3, of: 100 });
        assert_eq!(stopped.step(&[]), Step::Stopped);
    }

    #[test]
    fn stages_are_about_as_large_as_they_say() {
        let users: Vec<UserId> = (0..10_000).map(|n| format!("user_{n}").parse().unwrap()).collect();
        for (stage, percent) in STAGES.into_iter().enumerate() {
            let reached = users.iter().filter(|user| rollout(stage).includes(user)).count();
            let expected = usize::from(percent) * 100;
            assert!(reached.abs_diff(expected) <= 200, "{percent} %: {reached}");
        }
    }

    #[test]
    fn a_stop_takes_back_those_who_had_it() {
        let user: UserId = "user_a".parse().unwrap();
        let all = rollout(3);
        assert_eq!(all.image_for(&user), all.image);
        let stopped = all.after(Step::Stop { failed: 1, of: 1 });
        assert_eq!(stopped.image_for(&user), stopped.previous);
    }

    proptest! {
        /// Nobody goes back and forth while a rollout advances.
        #[test]
        fn later_stages_include_earlier_ones(id in "user_[a-zA-Z0-9]{1,20}", stage in 0_usize..3) {
            let user: UserId = id.parse().unwrap();
            prop_assert!(!rollout(stage).includes(&user) || rollout(stage + 1).includes(&user));
        }
    }
}
