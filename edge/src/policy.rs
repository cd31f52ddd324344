//! The rollout policy: one versioned document, and the decision that it makes for a user.
//!
//! Precedence, highest first: kill switch, pin, default. (Lists and percentage come between pin and default
//! once users can be moved with their data.)

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::id::{Backend, UserId};
use shared::time::UnixMillis;

/// Most pins in one document. Pins are for exceptions; a fleet is moved by the default.
pub const MAX_PINS: usize = 1000;

/// Longest reason or author, in bytes.
pub const MAX_TEXT_BYTES: usize = 500;

/// The document, as the Switchboard object stores it and isolates hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Grows by one with each change. 0 is the static policy of a deployment that knows no other.
    pub version: u64,
    /// Everybody to legacy, whatever the rest says.
    pub kill: bool,
    /// Where users go whom nothing else decides.
    pub default: Backend,
    /// Users whom an operator has placed by hand.
    #[serde(default)]
    pub pins: BTreeMap<UserId, Backend>,
    /// When this version was made.
    pub updated_at: UnixMillis,
}

impl Policy {
    /// What holds while no document is known: version 0, so that any real one wins over it.
    #[must_use]
    pub const fn fallback(default: Backend) -> Self {
        Self { version: 0, kill: false, default, pins: BTreeMap::new(), updated_at: UnixMillis(0) }
    }

    /// Where `user` should be, and why.
    #[must_use]
    pub fn assign(&self, user: &UserId) -> Assignment {
        if self.kill {
            return Assignment { backend: Backend::Legacy, why: Why::KillSwitch };
        }
        if let Some(&backend) = self.pins.get(user) {
            return Assignment { backend, why: Why::Pin };
        }
        Assignment { backend: self.default, why: Why::Default }
    }

    /// The next version, with `change` applied.
    ///
    /// # Errors
    /// When the document has moved on since the author read it, or the change is over a limit.
    pub fn change(&self, change: &Change, now: UnixMillis) -> Result<Self, ChangeError> {
        if let Some(expected) = change.expected_version
            && expected != self.version
        {
            return Err(ChangeError::Conflict { expected, actual: self.version });
        }
        for (what, text) in [("reason", &change.reason), ("author", &change.author)] {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES) {
                return Err(ChangeError::TooLong(what));
            }
        }
        if change.is_empty() {
            return Err(ChangeError::Nothing);
        }
        let mut next = self.clone();
        next.version = self.version.checked_add(1).ok_or(ChangeError::Nothing)?;
        next.updated_at = now;
        next.kill = change.kill.unwrap_or(self.kill);
        next.default = change.default.unwrap_or(self.default);
        for (user, pin) in &change.pins {
            match pin {
                Some(backend) => next.pins.insert(user.clone(), *backend),
                None => next.pins.remove(user),
            };
        }
        if next.pins.len() > MAX_PINS {
            return Err(ChangeError::TooManyPins);
        }
        Ok(next)
    }
}

/// Where a user should be, and the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    pub backend: Backend,
    pub why: Why,
}

/// The rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    KillSwitch,
    Pin,
    Default,
}

impl Why {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KillSwitch => "kill_switch",
            Self::Pin => "pin",
            Self::Default => "default",
        }
    }

    /// Reads [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::KillSwitch, Self::Pin, Self::Default].into_iter().find(|why| why.as_str() == text)
    }
}

/// What an operator asks for: only the fields that change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// Refuse unless the document is at this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Backend>,
    /// A backend pins the user, null takes the pin away; users not named stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<UserId, Option<Backend>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.kill.is_none() && self.default.is_none() && self.pins.is_empty()
    }
}

/// Why a change is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the policy is at version {actual}, not {expected}")]
    Conflict { expected: u64, actual: u64 },
    #[error("the change names nothing to change: give kill, default or pins")]
    Nothing,
    #[error("more than {MAX_PINS} pins")]
    TooManyPins,
    #[error("{0} is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong(&'static str),
}

/// How old an isolate's copy of the policy is, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Use it.
    Fresh,
    /// Use it, and refresh it behind the answer.
    RefreshBehind,
    /// Refresh it first, for at most [`REFRESH_WAIT_MS`]; then use the last known.
    RefreshFirst,
}

/// Older than this, a copy is refreshed in the background.
pub const REFRESH_BEHIND_MS: u64 = 500;

/// Older than this, a copy is refreshed before it is used: what makes the kill switch act within a second.
pub const REFRESH_FIRST_MS: u64 = 900;

/// How long a request waits for a refresh.
pub const REFRESH_WAIT_MS: u64 = 250;

/// A refresh that has not come back after this is taken for lost, and another may start.
pub const REFRESH_LOST_MS: u64 = 1000;

/// An isolate's copy of the policy.
#[derive(Debug, Clone)]
pub struct Held {
    policy: Policy,
    /// When the question was sent that this copy answers; `None` for the fallback.
    asked: Option<UnixMillis>,
    /// When a refresh was started that has not come back. A time, not a flag: one that was cancelled with its
    /// request would otherwise block all others for ever.
    refreshing_since: Option<UnixMillis>,
}

impl Held {
    /// Nothing heard yet.
    #[must_use]
    pub const fn fallback(default: Backend) -> Self {
        Self { policy: Policy::fallback(default), asked: None, refreshing_since: None }
    }

    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What to do before using the copy at `now`.
    #[must_use]
    pub fn freshness(&self, now: UnixMillis) -> Freshness {
        let Some(asked) = self.asked else { return Freshness::RefreshFirst };
        let age = now.since(asked);
        let running = self.refreshing_since.is_some_and(|since| now.since(since) < REFRESH_LOST_MS);
        if age >= REFRESH_FIRST_MS {
            Freshness::RefreshFirst
        } else if age >= REFRESH_BEHIND_MS && !running {
            Freshness::RefreshBehind
        } else {
            Freshness::Fresh
        }
    }

    /// Notes that a refresh starts.
    pub const fn refresh_started(&mut self, now: UnixMillis) {
        self.refreshing_since = Some(now);
    }

    /// Takes in the answer to a question that was sent at `asked`. An answer that was overtaken by a newer
    /// version is dropped; its news is older than what is known.
    pub fn refreshed(&mut self, policy: Policy, asked: UnixMillis) {
        self.refreshing_since = None;
        if policy.version >= self.policy.version {
            self.policy = policy;
            self.asked = self.asked.max(Some(asked));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    fn policy(kill: bool, default: Backend, pins: &[(&str, Backend)]) -> Policy {
        let pins = pins.iter().map(|(name, backend)| (user(name), *backend)).collect();
        Policy { version: 3, kill, default, pins, updated_at: UnixMillis(0) }
    }

    #[test]
    fn precedence() {
        use Backend::{Fly, Legacy};
        let rows = [
            (policy(false, Legacy, &[]), Legacy, Why::Default),
            (policy(false, Fly, &[]), Fly, Why::Default),
            (policy(false, Legacy, &[("user_a", Fly)]), Fly, Why::Pin),
            (policy(false, Fly, &[("user_a", Legacy)]), Legacy, Why::Pin),
            (policy(false, Fly, &[("user_b", Legacy)]), Fly, Why::Default),
            (policy(true, Fly, &[("user_a", Fly)]), Legacy, Why::KillSwitch),
        ];
        for (policy, backend, why) in rows {
            assert_eq!(policy.assign(&user("user_a")), Assignment { backend, why }, "{policy:?}");
        }
    }

    #[test]
    fn changes() {
        let before = policy(false, Backend::Legacy, &[("user_a", Backend::Fly)]);
        let change = |json: &str| before.change(&serde_json::from_str(json).unwrap(), UnixMillis(5));
        let next = change(r#"{"default":"fly","reason":"go"}"#).unwrap();
        assert_eq!((next.version, next.default, next.kill, next.pins.len()), (4, Backend::Fly, false, 1));
        assert_eq!(next.updated_at, UnixMillis(5));
        assert!(change(r#"{"kill":true,"expectedVersion":3}"#).unwrap().kill);
        assert_eq!(change(r#"{"pins":{"user_a":null}}"#).unwrap().pins.len(), 0);
        assert_eq!(change(r#"{"pins":{"user_b":"fly"}}"#).unwrap().pins.len(), 2);
        assert_eq!(
            change(r#"{"kill":true,"expectedVersion":2}"#),
            Err(ChangeError::Conflict { expected: 2, actual: 3 })
        );
        assert_eq!(change(r#"{"reason":"nothing"}"#), Err(ChangeError::Nothing));
        let long = format!(r#"{{"kill":true,"reason":"{}"}}"#, "x".repeat(501));
        assert_eq!(change(&long), Err(ChangeError::TooLong("reason")));
    }

    #[test]
    fn a_misspelt_change_is_refused_rather_than_half_done() {
        for json in [
            r#"{"Kill":true}"#,
            r#"{"default":"Fly"}"#,
            r#"{"pins":{"../x":"fly"}}"#,
            r#"{"percentage":5}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Change>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn too_many_pins() {
        let pins = (0..=MAX_PINS).map(|n| (user(&format!("user_{n}")), Some(Backend::Fly))).collect();
        let change = Change { pins, ..Change::default() };
        assert_eq!(
            policy(false, Backend::Legacy, &[]).change(&change, UnixMillis(0)),
            Err(ChangeError::TooManyPins)
        );
    }

    #[test]
    fn ages() {
        let mut held = Held::fallback(Backend::Legacy);
        assert_eq!(held.freshness(UnixMillis(0)), Freshness::RefreshFirst);
        held.refreshed(policy(false, Backend::Fly, &[]), UnixMillis(1000));
        let rows = [
            (1000, Freshness::Fresh),
            (1499, Freshness::Fresh),
            (1500, Freshness::RefreshBehind),
            (1899, Freshness::RefreshBehind),
            (1900, Freshness::RefreshFirst),
            // An isolate that slept for an hour must not answer from before its sleep.
            (3_601_000, Freshness::RefreshFirst),
        ];
        for (now, expected) in rows {
            assert_eq!(held.freshness(UnixMillis(now)), expected, "at {now}");
        }
        held.refresh_started(UnixMillis(1500));
        assert_eq!(held.freshness(UnixMillis(1600)), Freshness::Fresh, "one refresh at a time");
        assert_eq!(
            held.freshness(UnixMillis(1900)),
            Freshness::RefreshFirst,
            "but the bound holds regardless"
        );
    }

    #[test]
    fn a_refresh_that_was_cancelled_does_not_block_the_next() {
        let mut held = Held::fallback(Backend::Legacy);
        held.refreshed(policy(false, Backend::Fly, &[]), UnixMillis(10_000));
        held.refresh_started(UnixMillis(9_000));
        assert_eq!(held.freshness(UnixMillis(10_500)), Freshness::RefreshBehind);
    }

    #[test]
    fn an_overtaken_answer_changes_nothing() {
        let mut held = Held::fallback(Backend::Legacy);
        let newer = Policy { version: 9, ..policy(true, Backend::Fly, &[]) };
        held.refreshed(newer.clone(), UnixMillis(100));
        held.refreshed(Policy { version: 8, ..policy(false, Backend::Fly, &[]) }, UnixMillis(200));
        assert_eq!(held.policy(), &newer);
        assert_eq!(held.freshness(UnixMillis(100 + REFRESH_FIRST_MS)), Freshness::RefreshFirst);
    }

    proptest! {
        #[test]
        fn the_kill_switch_beats_everything(pin: Option<bool>, fly: bool) {
            let backend = |fly| if fly { Backend::Fly } else { Backend::Legacy };
            let pins: Vec<_> = pin.map(|fly| ("user_a", backend(fly))).into_iter().collect();
            prop_assert_eq!(policy(true, backend(fly), &pins).assign(&user("user_a")).backend, Backend::Legacy);
        }

        #[test]
        fn a_version_never_falls(versions in prop::collection::vec(0_u64..20, 1..20)) {
            let mut held = Held::fallback(Backend::Legacy);
            let mut highest = 0;
            for (at, version) in versions.into_iter().enumerate() {
                held.refreshed(Policy { version, ..policy(false, Backend::Fly, &[]) }, UnixMillis(at as u64));
                highest = highest.max(version);
                prop_assert_eq!(held.policy().version, highest);
            }
        }
    }
}
