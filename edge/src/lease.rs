//! Routing leases: what an isolate may assume about a user's placement without asking again.
//!
//! A lease is counted from the moment its question was *sent*. It is no fence (a socket outlives it, and a late
//! request passes it): the back ends check the epoch. It bounds how long a flip takes to reach an isolate.

use std::collections::HashMap;

use shared::id::UserId;
use shared::time::UnixMillis;

use crate::forward::Proof;
use crate::placement::{Grant, Machine, Place, Target};

/// For how long an object stands by its answer.
pub const LEASE_MS: u64 = 2000;

/// How much of it an isolate leaves unused, for the time between looking at its clock and sending.
pub const MARGIN_MS: u64 = 200;

/// Most users whose leases one isolate remembers. A lease is about 200 bytes; an isolate has 128 MB.
pub const CAPACITY: usize = 10_000;

/// A granted lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub target: Target,
    /// When the question was sent.
    pub asked: UnixMillis,
    /// The policy that the question spoke for. Another policy has to ask anew.
    pub policy_version: u64,
    /// What the back end is shown.
    pub proof: Proof,
}

impl Lease {
    /// Whether requests may still be sent by it.
    #[must_use]
    pub const fn holds(&self, now: UnixMillis) -> bool {
        now.0 >= self.asked.0 && now.since(self.asked) < LEASE_MS - MARGIN_MS
    }
}

/// The leases of one isolate.
#[derive(Debug, Default)]
pub struct Leases {
    by_user: HashMap<UserId, Lease>,
}

impl Leases {
    /// The lease to route `user` by, if one holds under this version of the policy.
    #[must_use]
    pub fn get(&self, user: &UserId, policy_version: u64, now: UnixMillis) -> Option<&Lease> {
        self.by_user.get(user).filter(|lease| lease.policy_version == policy_version && lease.holds(now))
    }

    /// Takes a lease in; of two, the one with the higher epoch, and then the younger one, is kept.
    pub fn put(&mut self, user: UserId, lease: Lease, now: UnixMillis) {
        if self.by_user.len() >= CAPACITY && !self.by_user.contains_key(&user) {
            self.by_user.retain(|_, lease| lease.holds(now));
            if self.by_user.len() >= CAPACITY {
                // More users within two seconds than fit: forgetting is always safe, it only costs questions.
                self.by_user.clear();
            }
        }
        let newer = |old: &Lease| (lease.target.epoch, lease.asked) >= (old.target.epoch, old.asked);
        if self.by_user.get(&user).is_none_or(newer) {
            self.by_user.insert(user, lease);
        }
    }

    /// Forgets a lease that a back end has refused.
    pub fn drop_refused(&mut self, user: &UserId, refused: &Target) {
        if self.by_user.get(user).is_some_and(|lease| lease.target.epoch <= refused.epoch) {
            self.by_user.remove(user);
        }
    }
}

/// The object's answer as one header value: a body would cost three times as much.
///
/// `hold`, `legacy;{epoch}` or `fly;{epoch};{generation};{app};{machine}`.
#[must_use]
pub fn encode(grant: &Grant) -> String {
    match grant {
        Grant::Hold => "hold".to_owned(),
        Grant::Lease(Target { epoch, place: Place::Legacy }) => format!("legacy;{}", epoch.0),
        Grant::Lease(Target { epoch, place: Place::Fly(machine) }) => {
            format!("fly;{};{};{};{}", epoch.0, machine.generation.0, machine.app, machine.machine_id)
        }
    }
}

/// Reads [`encode`] back.
#[must_use]
pub fn decode(text: &str) -> Option<Grant> {
    let mut fields = text.split(';');
    let kind = fields.next()?;
    if kind == "hold" {
        return fields.next().is_none().then_some(Grant::Hold);
    }
    let epoch = shared::id::Epoch(fields.next()?.parse().ok()?);
    let place = match kind {
        "legacy" => Place::Legacy,
        "fly" => {
            let generation = shared::id::Generation(fields.next()?.parse().ok()?);
            let app = fields.next()?.parse().ok()?;
            let machine_id = fields.next()?.parse().ok()?;
            Place::Fly(Machine { app, machine_id, generation })
        }
        _ => return None,
    };
    fields.next().is_none().then_some(Grant::Lease(Target { epoch, place }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Keys;
    use proptest::prelude::*;
    use shared::id::{Epoch, Generation};
    use shared::key::SigningKeys;
    use shared::secret::Secret;

    fn lease(epoch: u64, asked: u64) -> Lease {
        let target = Target { epoch: Epoch(epoch), place: Place::Legacy };
        let signing = SigningKeys::new(Secret::new("s").unwrap(), None);
        let keys = Keys { permit: signing.permit_key(), signing };
        let proof = crate::forward::proof(&keys, &user(1), &target, UnixMillis(asked));
        Lease { target, asked: UnixMillis(asked), policy_version: 1, proof }
    }

    fn user(n: usize) -> UserId {
        format!("user_{n}").parse().unwrap()
    }

    #[test]
    fn a_lease_is_counted_from_the_question() {
        let lease = lease(1, 1000);
        for (now, holds) in [(999, false), (1000, true), (2799, true), (2800, false), (9000, false)] {
            assert_eq!(lease.holds(UnixMillis(now)), holds, "at {now}");
        }
    }

    #[test]
    fn another_policy_has_to_ask_anew() {
        let mut leases = Leases::default();
        leases.put(user(1), lease(1, 0), UnixMillis(0));
        assert!(leases.get(&user(1), 1, UnixMillis(10)).is_some());
        assert!(leases.get(&user(1), 2, UnixMillis(10)).is_none());
        assert!(leases.get(&user(2), 1, UnixMillis(10)).is_none());
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_replace_a_newer_epoch() {
        let mut leases = Leases::default();
        leases.put(user(1), lease(7, 100), UnixMillis(100));
        leases.put(user(1), lease(6, 200), UnixMillis(200));
        assert_eq!(leases.get(&user(1), 1, UnixMillis(200)).unwrap().target.epoch, Epoch(7));
        leases.put(user(1), lease(7, 300), UnixMillis(300));
        assert_eq!(leases.get(&user(1), 1, UnixMillis(300)).unwrap().asked, UnixMillis(300));
    }

    #[test]
    fn a_refused_lease_is_forgotten_and_a_newer_one_is_not() {
        let mut leases = Leases::default();
        leases.put(user(1), lease(7, 0), UnixMillis(0));
        leases.drop_refused(&user(1), &lease(6, 0).target);
        assert!(leases.get(&user(1), 1, UnixMillis(1)).is_some());
        leases.drop_refused(&user(1), &lease(7, 0).target);
        assert!(leases.get(&user(1), 1, UnixMillis(1)).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut leases = Leases::default();
        for n in 0..(3 * CAPACITY) {
            leases.put(user(n), lease(1, 0), UnixMillis(0));
            assert!(leases.by_user.len() <= CAPACITY);
        }
        assert!(leases.get(&user(3 * CAPACITY - 1), 1, UnixMillis(1)).is_some());
    }

    #[test]
    fn nonsense_is_no_grant() {
        for text in
            ["", "hold;1", "legacy", "legacy;x", "legacy;1;2", "fly;1;1;app", "fly;1;1;app;ID", "moon;1"]
        {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn answers_round_trip(epoch: u64, generation: u32, app in "[a-z0-9]{1,30}", id in "[a-z0-9]{1,20}", kind in 0..3) {
            let machine = Machine { app: app.parse().unwrap(), machine_id: id.parse().unwrap(), generation: Generation(generation) };
            let grant = match kind {
                0 => Grant::Hold,
                1 => Grant::Lease(Target { epoch: Epoch(epoch), place: Place::Legacy }),
                _ => Grant::Lease(Target { epoch: Epoch(epoch), place: Place::Fly(machine) }),
            };
            prop_assert_eq!(decode(&encode(&grant)), Some(grant));
        }
    }
}
