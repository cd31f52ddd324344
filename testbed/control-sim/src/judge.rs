//! What must not be, looked for after everything that happens.

use std::collections::{BTreeMap, BTreeSet};

use edge::fly::budget::Bucket;
use edge::fly::call::Kind;
use edge::fly::{Answer, ApiError};
use edge::machine::desired::Restore;
use edge::machine::plan::Settled;
use edge::machine::record::stage;
use edge::machine::{Action, Cause, Layout, Plan, Record, Stage, Want};
use fly_model::{State, VolumeState};

use crate::world::{Summary, World};

#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) summary: Summary,
    /// Machines whose volumes fill up.
    pub(crate) filling: BTreeSet<String>,
    /// Machines whose agents do not answer, until they are started again.
    pub(crate) dull: BTreeSet<String>,
    /// Users whose machines end as soon as they have started.
    pub(crate) looping: BTreeSet<usize>,
    /// Users of whom a call to make an app came so late that only the sweep for orphans can find it.
    pub(crate) late: BTreeSet<usize>,
    pub(crate) token_fails: bool,
    /// Whether there are hosts with too little room.
    pub(crate) tight: bool,
    /// Before this, nobody is believed to be at rest.
    pub(crate) rest_after: u64,
    /// Fly's own buckets, as the calls leave: tokens in thousandths, and when they were counted.
    buckets: BTreeMap<Bucket, (u64, u64)>,
    /// For each bucket: calls, and when the first and the last of them left.
    used: BTreeMap<Bucket, (u64, u64, u64)>,
    /// Ids that Fly has told, which must be stored before the next call leaves.
    told: Vec<(usize, String)>,
}

impl World {
    /// Before a call leaves: it is within Fly's limits, and every id that was told is stored.
    pub(crate) fn judge_sending(&mut self, n: usize, bucket: &Bucket) -> Result<(), String> {
        let (per_s, burst) = if bucket.kind == Kind::ReadMachine {
            (5, 10)
        } else if bucket.kind == Kind::DeleteApp {
            (1, 100)
        } else {
            (1, 3)
        };
        let most = burst * 1000;
        let (tokens, at) = self.judge.buckets.entry(bucket.clone()).or_insert((most, self.now));
        *tokens = (*tokens + (self.now - *at) * per_s).min(most);
        *at = self.now;
        match tokens.checked_sub(1000) {
            Some(rest) => *tokens = rest,
            None => return Err(format!("the budget of {bucket:?} is exceeded")),
        }
        if self.options.until_ready {
            let (count, _, last) = self.judge.used.entry(bucket.clone()).or_insert((0, self.now, self.now));
            *count = count.saturating_add(1);
            *last = self.now;
            return Ok(());
        }
        let Some(user) = self.users.get(n) else { return Ok(()) };
        let stored = ids(&user.stored);
        let lost = self.judge.told.iter().find(|(who, id)| *who == n && !stored.contains(id));
        if let Some((_, id)) = lost {
            return Err(format!("user {n}: {id} is not stored, and a call leaves"));
        }
        self.judge.told.retain(|(who, _)| *who != n);
        Ok(())
    }

    /// The bucket that had most calls, how much of it was used from its first call to its last, in percent, and
    /// how many calls these were. One call a second is allowed.
    pub(crate) fn bottleneck(&self) -> (String, f64, u64) {
        let most = self.judge.used.iter().max_by_key(|(_, (count, _, _))| *count);
        most.map_or_else(Default::default, |(bucket, (count, first, last))| {
            let allowed = (last.saturating_sub(*first) as f64 / 1000.0).max(1.0);
            (format!("{:?}", bucket.kind), *count as f64 / allowed * 100.0, *count)
        })
    }

    /// An answer has arrived: what it names has to be stored.
    pub(crate) fn judge_delivered(&mut self, n: usize, action: &Action, answer: &Result<Answer, ApiError>) {
        let id = match (action, answer) {
            (Action::CreateVolume { .. }, Ok(Answer::Volume(volume))) => volume.id.to_string(),
            (Action::CreateMachine, Ok(Answer::Machine(machine))) => machine.id.to_string(),
            _ => return,
        };
        self.judge.told.push((n, id));
    }

    /// After a call has reached Fly: one machine and one volume for each user and generation.
    pub(crate) fn judge_fly(&mut self) -> Result<(), String> {
        if self.options.until_ready {
            return Ok(());
        }
        if let Some(ignored) = self.fly.ignored.first() {
            return Err(format!("Fly ignores {ignored}"));
        }
        let mut volumes = BTreeSet::new();
        let live = |volume: &&fly_model::Volume| volume.state != VolumeState::PendingDestroy;
        for volume in self.fly.volumes.values().filter(live) {
            if !volumes.insert((&volume.app, &volume.name)) {
                return Err(format!("a second volume {}", volume.name));
            }
        }
        let mut machines = BTreeSet::new();
        for machine in self.fly.machines.values().filter(|m| m.state != State::Destroyed) {
            let whose = (machine.env("AUTOMNA_USER_ID"), machine.env("AUTOMNA_GENERATION"));
            if !machines.insert(whose) {
                return Err(format!("a second machine for {whose:?}"));
            }
        }
        Ok(())
    }

    /// A machine has started: on a volume of its own user, and not on an empty one if there was data.
    pub(crate) fn boot(&mut self, id: &str) -> Result<(), String> {
        let Some(machine) = self.fly.machines.get(id) else { return Ok(()) };
        let owner = machine.env("AUTOMNA_USER_ID").unwrap_or_default().to_owned();
        let expects = machine.env("AUTOMNA_VOLUME").unwrap_or_default().to_owned();
        let Some(mount) = machine.mount().map(str::to_owned) else {
            return Err(format!("machine {id} runs without its volume"));
        };
        if machine.config.get("services").and_then(|s| s.get(0)).is_none() || machine.env("LOG").is_none() {
            return Err(format!("machine {id} has lost services or environment"));
        }
        let data = self.fly.volumes.get(&mount).map(|volume| volume.data.clone());
        let Some(data) = data else { return Err(format!("machine {id} runs without a volume")) };
        if !data.is_empty() && data != owner {
            return Err(format!("machine {id} of {owner} runs on the data of {data}"));
        }
        let Some(user) = self.by_id.get(&owner).and_then(|n| self.users.get_mut(*n)) else { return Ok(()) };
        match (expects.as_str(), data.is_empty()) {
            ("fresh", true) if user.has_data => {
                return Err(format!("machine {id} starts on an empty volume, and {owner} had data"));
            }
            ("fresh", true) => {
                user.has_data = true;
                self.fly.write(&mount, &owner);
            }
            ("kept", true) => {
                return Err(format!("machine {id} starts on an empty volume that should hold data"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What a plan claims.
    pub(crate) fn judge_plan(&self, n: usize, plan: &Plan) -> Result<(), String> {
        let Some(user) = self.users.get(n) else { return Ok(()) };
        let now = self.clock();
        match plan {
            Plan::NeedsAttention { cause: Cause::DataLost, .. } => {
                let at = stage(&user.desired, &user.stored, now);
                if user.desired.want == Want::Run && at != Stage::Recovering {
                    return Err(format!("user {n} has lost data, and is said to be {at:?}"));
                }
            }
            Plan::Done { settled: Settled::Deleted, .. } => {
                let id = user.desired.user.as_str();
                let lives = self.fly.machines.iter().find(|(_, machine)| {
                    machine.env("AUTOMNA_USER_ID") == Some(id) && machine.state != State::Destroyed
                });
                if let Some((machine, _)) = lives {
                    return Err(format!("user {n} is called deleted, and machine {machine} lives"));
                }
                let kept = self
                    .fly
                    .volumes
                    .iter()
                    .find(|(_, volume)| volume.data == id && volume.deleted_at.is_none());
                if let Some((volume, _)) = kept {
                    return Err(format!("user {n} is called deleted, and volume {volume} is there"));
                }
            }
            Plan::Done { .. } | Plan::Do(..) | Plan::Wait { .. } | Plan::NeedsAttention { .. } => {}
        }
        Ok(())
    }

    /// Whether everybody has what they should.
    pub(crate) fn at_rest(&self) -> bool {
        self.users.iter().enumerate().all(|(n, user)| match user.plan {
            Some(Plan::Done { .. }) => user.stored.sent.is_none() && self.is_as_wished(n),
            Some(Plan::NeedsAttention { cause, .. }) => self.may_need_attention(n, cause),
            Some(Plan::Do(..) | Plan::Wait { .. }) | None => false,
        })
    }

    /// Whether a user's machine is what it should be, by Fly's own books.
    fn is_as_wished(&self, n: usize) -> bool {
        let Some(user) = self.users.get(n) else { return false };
        let id = user.desired.user.as_str();
        let mine = || {
            self.fly
                .machines
                .iter()
                .filter(|(_, m)| m.env("AUTOMNA_USER_ID") == Some(id) && m.state != State::Destroyed)
        };
        match user.desired.want {
            Want::Run => {
                let running: Vec<_> = mine().filter(|(_, machine)| machine.state == State::Started).collect();
                let [(machine, found)] = running.as_slice() else { return false };
                let data =
                    found.mount().and_then(|mount| self.fly.volumes.get(mount)).map(|volume| &volume.data);
                user.stored.machine.present().is_some_and(|held| held.id.as_str() == machine.as_str())
                    && data.is_some_and(|data| data == id)
                    && found.image() == user.desired.spec.image
                    && found.memory_mb() == u64::from(user.desired.spec.guest.memory_mb)
            }
            Want::Suspend => mine().all(|(_, machine)| machine.state != State::Started),
            Want::Delete { .. } => {
                mine().next().is_none()
                    && match self.setup.layout {
                        Layout::PerUser { .. } if self.judge.late.contains(&n) => true,
                        Layout::PerUser { .. } => !self.fly.apps.keys().any(|app| {
                            app.starts_with("automna-u-")
                                && app.ends_with(&edge::machine::names::tag(&user.desired.user))
                        }),
                        Layout::Shared { .. } => true,
                    }
            }
        }
    }

    /// Whether there is a reason that nobody can take away by himself.
    fn may_need_attention(&self, n: usize, cause: Cause) -> bool {
        let Some(user) = self.users.get(n) else { return false };
        match cause {
            Cause::DataLost => user.desired.restore == Restore::Unavailable,
            Cause::NameForeign => !self.fly.profile.foreign_apps.is_empty(),
            Cause::UpdateReverted | Cause::Capacity | Cause::Quota => self.judge.tight,
            Cause::VolumeFull => !self.judge.filling.is_empty(),
            Cause::NoName
            | Cause::ApiUnavailable
            | Cause::NotFound
            | Cause::Blocked
            | Cause::Credentials
            | Cause::Forbidden
            | Cause::Rejected
            | Cause::VolumeInUse
            | Cause::LeaseHeld
            | Cause::Stuck
            | Cause::CrashLoop
            | Cause::NotReady
            | Cause::Silent
            | Cause::UpdateRefused
            | Cause::HostDown
            | Cause::RestoreFailed
            | Cause::PurgeFailed => false,
        }
    }

    /// The end: everybody is ready, suspended, deleted, or in need of attention for a reason.
    pub(crate) fn judge_the_end(&mut self) -> Result<Summary, String> {
        for n in 0..self.users.len() {
            let Some(user) = self.users.get(n) else { continue };
            let generations = u64::from(user.stored.generation.0).saturating_sub(1);
            self.judge.summary.generations = self.judge.summary.generations.saturating_add(generations);
            match &user.plan {
                Some(Plan::Done { settled, .. }) if self.is_as_wished(n) => {
                    let count = match settled {
                        Settled::Ready => &mut self.judge.summary.ready,
                        Settled::Suspended => &mut self.judge.summary.suspended,
                        Settled::Deleted => &mut self.judge.summary.deleted,
                    };
                    *count = count.saturating_add(1);
                }
                Some(Plan::NeedsAttention { cause, .. }) if self.may_need_attention(n, *cause) => {
                    self.judge.summary.attention = self.judge.summary.attention.saturating_add(1);
                }
                plan => {
                    return Err(format!(
                        "user {n} wants {:?} and ends with {plan:?}; stored: {:?}",
                        user.desired.want, user.stored
                    ));
                }
            }
        }
        Ok(self.judge.summary.clone())
    }
}

/// Every id in a record.
fn ids(record: &Record) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> =
        record.discarded.iter().chain(&record.discard).map(ToString::to_string).collect();
    ids.extend(record.machine.present().map(|machine| machine.id.to_string()));
    ids.extend(record.volume.present().map(|volume| volume.id.to_string()));
    for retired in &record.retired {
        ids.extend(retired.machine.iter().map(ToString::to_string));
        ids.extend(retired.volume.iter().map(ToString::to_string));
    }
    ids
}
