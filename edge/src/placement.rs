//! The placement record: which back end may take a user's writes, under which epoch, and how that changes.
//!
//! The record lives in the user's object and nowhere else; copies decide nothing. Each change of who may write
//! takes a new epoch, and no epoch is ever used twice. Moves that carry a user's data (`freezing`, `importing`,
//! `draining`) have their place in the record from the start; what exists so far is the *direct flip*, which
//! changes the back end at once and moves nothing. It is refused unless a deployment asks for it, and the
//! emergency flip to legacy under the kill switch is always possible.

use serde::{Deserialize, Serialize};
use shared::id::{AppName, Backend, Epoch, Generation, MachineId, UserId};
use shared::time::UnixMillis;

use crate::policy::{Assignment, Why};

/// Where a user is, or between what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Legacy,
    /// The legacy side is being fenced.
    Freezing,
    /// The machine is taking the data over.
    Importing,
    Fly,
    /// The machine is handing the data back.
    Draining,
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Freezing => "freezing",
            Self::Importing => "importing",
            Self::Fly => "fly",
            Self::Draining => "draining",
        }
    }
}

/// A user's machine, as an operator or the provisioner has recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub app: AppName,
    pub machine_id: MachineId,
    pub generation: Generation,
}

/// Why the record is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody has moved the user yet.
    Untouched,
    /// A direct flip, decided by a rule of the policy.
    FlippedByKillSwitch,
    FlippedByPin,
    FlippedByDefault,
    /// The machine behind the user was recorded or replaced.
    MachineAttached,
}

impl Reason {
    const fn flipped_by(why: Why) -> Self {
        match why {
            Why::KillSwitch => Self::FlippedByKillSwitch,
            Why::Pin => Self::FlippedByPin,
            Why::Default => Self::FlippedByDefault,
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    pub phase: Phase,
    pub epoch: Epoch,
    pub machine: Option<Machine>,
    /// The newest policy that has moved this user, or kept them when it was asked.
    pub policy_version: u64,
    pub reason: Reason,
    /// When phase or epoch last changed.
    pub since: UnixMillis,
}

/// A question to the record: where may this user's requests go, given what the policy wants?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub wanted: Assignment,
    /// Version of the policy that wants it.
    pub policy_version: u64,
}

/// What the record allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Send requests there, for the length of a lease.
    Lease(Target),
    /// Send requests nowhere: the user is between two back ends.
    Hold,
}

/// Where to, and under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub epoch: Epoch,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Legacy,
    Fly(Machine),
}

impl Place {
    #[must_use]
    pub const fn backend(&self) -> Backend {
        match self {
            Self::Legacy => Backend::Legacy,
            Self::Fly(_) => Backend::Fly,
        }
    }
}

/// Why a user is not where the policy wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// They are.
    Settled,
    /// The question came from an isolate with an older policy.
    Overtaken,
    /// There is no machine yet.
    NoMachine,
    /// No machine's name can be made of this id.
    IdNotPortable,
    /// Data would have to move, and this deployment does not flip without it.
    MoveRequired,
    /// A move is under way.
    Moving,
    /// The last epoch is used up.
    Exhausted,
}

impl Stays {
    const ALL: [Self; 7] = [
        Self::Settled,
        Self::Overtaken,
        Self::NoMachine,
        Self::IdNotPortable,
        Self::MoveRequired,
        Self::Moving,
        Self::Exhausted,
    ];

    /// Reads [`Self::as_str`] back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stays| stays.as_str() == text)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Overtaken => "overtaken",
            Self::NoMachine => "no_machine",
            Self::IdNotPortable => "id_not_portable",
            Self::MoveRequired => "move_required",
            Self::Moving => "moving",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Whether users may be flipped without their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectFlips {
    Allowed,
    Refused,
}

/// The answer to an [`Ask`]: a new record to store before anything else happens, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routing {
    Flip(Placement),
    Stay(Stays),
}

/// Why a machine cannot be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error("generation {given} is not above the recorded generation {recorded}")]
    OldGeneration { given: u32, recorded: u32 },
    #[error("no machine can be named after this user id")]
    IdNotPortable,
    #[error("the user is being moved")]
    Moving,
    #[error("the last epoch is used up")]
    Exhausted,
}

impl Placement {
    /// The record of a user whom nobody has touched: on legacy, in the first epoch. It need not be stored.
    #[must_use]
    pub const fn untouched() -> Self {
        Self {
            phase: Phase::Legacy,
            epoch: Epoch(1),
            machine: None,
            policy_version: 0,
            reason: Reason::Untouched,
            since: UnixMillis(0),
        }
    }

    /// What requests may do as things stand.
    #[must_use]
    pub fn grant(&self) -> Grant {
        let place = match (self.phase, &self.machine) {
            (Phase::Legacy, _) => Place::Legacy,
            (Phase::Fly, Some(machine)) => Place::Fly(machine.clone()),
            // A record that is on Fly and has no machine cannot be made here; if one is read, nobody writes.
            (Phase::Fly, None) | (Phase::Freezing | Phase::Importing | Phase::Draining, _) => {
                return Grant::Hold;
            }
        };
        Grant::Lease(Target { epoch: self.epoch, place })
    }

    /// Whether the policy's wish moves the user, and if not, why not.
    #[must_use]
    pub fn route(&self, user: &UserId, ask: Ask, flips: DirectFlips, now: UnixMillis) -> Routing {
        if ask.policy_version < self.policy_version {
            return Routing::Stay(Stays::Overtaken);
        }
        let killed = ask.wanted.why == Why::KillSwitch;
        let stays = match (self.phase, ask.wanted.backend) {
            (Phase::Legacy, Backend::Legacy) | (Phase::Fly, Backend::Fly) => Some(Stays::Settled),
            (Phase::Legacy, Backend::Fly) => {
                if !user.is_portable() {
                    Some(Stays::IdNotPortable)
                } else if self.machine.is_none() {
                    Some(Stays::NoMachine)
                } else if flips == DirectFlips::Refused {
                    Some(Stays::MoveRequired)
                } else {
                    None
                }
            }
            (Phase::Fly, Backend::Legacy) => {
                (flips == DirectFlips::Refused && !killed).then_some(Stays::MoveRequired)
            }
            (Phase::Freezing | Phase::Importing | Phase::Draining, Backend::Legacy) if killed => None,
            (Phase::Freezing | Phase::Importing | Phase::Draining, Backend::Legacy | Backend::Fly) => {
                Some(Stays::Moving)
            }
        };
        if let Some(stays) = stays {
            return Routing::Stay(stays);
        }
        let Some(epoch) = self.epoch.next() else { return Routing::Stay(Stays::Exhausted) };
        let phase = match ask.wanted.backend {
            Backend::Legacy => Phase::Legacy,
            Backend::Fly => Phase::Fly,
        };
        Routing::Flip(Self {
            phase,
            epoch,
            machine: self.machine.clone(),
            policy_version: ask.policy_version,
            reason: Reason::flipped_by(ask.wanted.why),
            since: now,
        })
    }

    /// Records the user's machine. While the user is on Fly this changes who may write, and takes a new epoch.
    ///
    /// # Errors
    /// For a generation that does not grow, an id that no name can be made of, and during a move.
    pub fn attach(&self, user: &UserId, machine: Machine, now: UnixMillis) -> Result<Self, AttachError> {
        if !user.is_portable() {
            return Err(AttachError::IdNotPortable);
        }
        if self.machine.as_ref() == Some(&machine) {
            return Ok(self.clone());
        }
        if let Some(recorded) = &self.machine
            && machine.generation <= recorded.generation
        {
            return Err(AttachError::OldGeneration {
                given: machine.generation.0,
                recorded: recorded.generation.0,
            });
        }
        let mut next = Self { machine: Some(machine), ..self.clone() };
        match self.phase {
            Phase::Legacy => {}
            Phase::Fly => {
                next.epoch = self.epoch.next().ok_or(AttachError::Exhausted)?;
                next.reason = Reason::MachineAttached;
                next.since = now;
            }
            Phase::Freezing | Phase::Importing | Phase::Draining => return Err(AttachError::Moving),
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user() -> UserId {
        "user_a".parse().unwrap()
    }

    fn machine(generation: u32) -> Machine {
        Machine {
            app: "automna-u-1".parse().unwrap(),
            machine_id: "e2865013d93d68".parse().unwrap(),
            generation: Generation(generation),
        }
    }

    fn at(phase: Phase, with_machine: bool) -> Placement {
        Placement {
            phase,
            epoch: Epoch(5),
            machine: with_machine.then(|| machine(1)),
            policy_version: 3,
            ..Placement::untouched()
        }
    }

    fn ask(backend: Backend, why: Why, policy_version: u64) -> Ask {
        Ask { wanted: Assignment { backend, why }, policy_version }
    }

    #[test]
    fn routing_table() {
        use Backend::{Fly, Legacy};
        use DirectFlips::{Allowed, Refused};
        use Why::{Default, KillSwitch, Pin};
        let settled = Err(Stays::Settled);
        let rows = [
            // what is, what is wanted, whether flips are allowed, what follows
            (at(Phase::Legacy, true), ask(Legacy, Default, 3), Allowed, settled),
            (at(Phase::Legacy, true), ask(Fly, Default, 3), Allowed, Ok(Phase::Fly)),
            (at(Phase::Legacy, true), ask(Fly, Pin, 3), Allowed, Ok(Phase::Fly)),
            (at(Phase::Legacy, true), ask(Fly, Default, 3), Refused, Err(Stays::MoveRequired)),
            (at(Phase::Legacy, false), ask(Fly, Default, 3), Allowed, Err(Stays::NoMachine)),
            (at(Phase::Fly, true), ask(Fly, Default, 4), Allowed, settled),
            (at(Phase::Fly, true), ask(Legacy, Default, 4), Allowed, Ok(Phase::Legacy)),
            (at(Phase::Fly, true), ask(Legacy, Default, 4), Refused, Err(Stays::MoveRequired)),
            (at(Phase::Fly, true), ask(Legacy, Pin, 4), Refused, Err(Stays::MoveRequired)),
            // The kill switch asks nobody.
            (at(Phase::Fly, true), ask(Legacy, KillSwitch, 4), Refused, Ok(Phase::Legacy)),
            (at(Phase::Legacy, true), ask(Legacy, KillSwitch, 4), Refused, settled),
            (at(Phase::Freezing, true), ask(Legacy, KillSwitch, 4), Refused, Ok(Phase::Legacy)),
            (at(Phase::Importing, true), ask(Legacy, KillSwitch, 4), Refused, Ok(Phase::Legacy)),
            (at(Phase::Draining, true), ask(Legacy, KillSwitch, 4), Refused, Ok(Phase::Legacy)),
            // A move that is under way is not overturned by a wish.
            (at(Phase::Freezing, true), ask(Legacy, Default, 4), Allowed, Err(Stays::Moving)),
            (at(Phase::Draining, true), ask(Fly, Default, 4), Allowed, Err(Stays::Moving)),
            // Neither does an isolate with an old policy decide anything.
            (at(Phase::Legacy, true), ask(Fly, Default, 2), Allowed, Err(Stays::Overtaken)),
            (at(Phase::Fly, true), ask(Legacy, KillSwitch, 2), Allowed, Err(Stays::Overtaken)),
        ];
        for (before, ask, flips, expected) in rows {
            let got = match before.route(&user(), ask, flips, UnixMillis(9)) {
                Routing::Flip(next) => {
                    assert_eq!(next.epoch, Epoch(6), "a flip takes a new epoch");
                    assert_eq!((next.policy_version, next.since), (ask.policy_version, UnixMillis(9)));
                    Ok(next.phase)
                }
                Routing::Stay(stays) => Err(stays),
            };
            assert_eq!(got, expected, "{before:?} {ask:?} {flips:?}");
        }
    }

    #[test]
    fn an_id_with_a_dot_never_leaves_legacy() {
        let dotted: UserId = "user_a.b".parse().unwrap();
        let asked = ask(Backend::Fly, Why::Pin, 9);
        let routing = at(Phase::Legacy, true).route(&dotted, asked, DirectFlips::Allowed, UnixMillis(0));
        assert_eq!(routing, Routing::Stay(Stays::IdNotPortable));
        let attached = Placement::untouched().attach(&dotted, machine(1), UnixMillis(0));
        assert_eq!(attached, Err(AttachError::IdNotPortable));
    }

    #[test]
    fn grants() {
        let lease = |placement: &Placement| match placement.grant() {
            Grant::Lease(target) => Some(target.place.backend()),
            Grant::Hold => None,
        };
        assert_eq!(lease(&at(Phase::Legacy, true)), Some(Backend::Legacy));
        assert_eq!(lease(&at(Phase::Fly, true)), Some(Backend::Fly));
        assert_eq!(lease(&at(Phase::Fly, false)), None, "nobody writes under a record that makes no sense");
        for phase in [Phase::Freezing, Phase::Importing, Phase::Draining] {
            assert_eq!(lease(&at(phase, true)), None, "{phase:?}");
        }
    }

    #[test]
    fn attaching() {
        let now = UnixMillis(7);
        let legacy = Placement::untouched().attach(&user(), machine(1), now).unwrap();
        assert_eq!((legacy.epoch, legacy.machine.clone()), (Epoch(1), Some(machine(1))));
        assert_eq!(legacy.attach(&user(), machine(1), now).unwrap(), legacy, "again is nothing");
        let other = Machine { machine_id: "other".parse().unwrap(), ..machine(1) };
        assert_eq!(
            legacy.attach(&user(), other, now),
            Err(AttachError::OldGeneration { given: 1, recorded: 1 })
        );
        let replaced = at(Phase::Fly, true).attach(&user(), machine(2), now).unwrap();
        assert_eq!((replaced.epoch, replaced.reason), (Epoch(6), Reason::MachineAttached));
        assert_eq!(at(Phase::Draining, true).attach(&user(), machine(2), now), Err(AttachError::Moving));
    }

    proptest! {
        /// P1 and P2, over any history of wishes: epochs only grow, and each has one back end.
        #[test]
        fn one_backend_per_epoch(steps in prop::collection::vec((any::<bool>(), 0_u8..3, 0_u64..6, any::<bool>()), 0..40)) {
            let mut placement = Placement::untouched().attach(&user(), machine(1), UnixMillis(0)).unwrap();
            let mut backend_of = std::collections::BTreeMap::new();
            for (fly, why, version, allowed) in steps {
                let why = [Why::KillSwitch, Why::Pin, Why::Default][usize::from(why)];
                let backend = if fly && why != Why::KillSwitch { Backend::Fly } else { Backend::Legacy };
                let flips = if allowed { DirectFlips::Allowed } else { DirectFlips::Refused };
                if let Routing::Flip(next) = placement.route(&user(), ask(backend, why, version), flips, UnixMillis(0)) {
                    prop_assert!(next.epoch > placement.epoch);
                    prop_assert!(next.policy_version >= placement.policy_version);
                    placement = next;
                }
                if let Grant::Lease(target) = placement.grant() {
                    let backend = target.place.backend();
                    prop_assert_eq!(*backend_of.entry(target.epoch).or_insert(backend), backend);
                }
            }
        }
    }
}
