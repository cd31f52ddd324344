//! What an outcome teaches: [`Record::learn`].

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an outcome concerns a few of thirty actions, and means the same for all others"
)]

use std::collections::BTreeSet;

use shared::time::UnixMillis;

use super::backoff::{MAX_ATTEMPTS, next_attempt};
use super::call::Refusal;
use super::desired::{Desired, Setup, Want};
use super::names::{GENERATION_KEY, Names, names};
use super::plan::Action;
use super::record::{
    Cause, Content, FullRegion, HeldApp, HeldLease, HeldMachine, Knowledge, LOOK_AGAIN_MS, Made, Record,
    cause_of,
};
use crate::fly::call::OWNER_KEY;
use crate::fly::wire::{Address, HostStatus, Machine, MachineState, Volume};
use crate::fly::{Answer, ApiError, Fault};

/// For how long a region counts as full, in ms; and one whose quota is used up.
const FULL_MS: u64 = 10 * 60_000;
const QUOTA_MS: u64 = 6 * 60 * 60_000;

/// Least waits, in ms: while something is deleted; while a host has no room or takes no orders; while a lease or
/// a claim on a volume runs out; while a lost generation cannot be cleared away.
const GOING_MS: u64 = 1_500;
const HOST_MS: u64 = 30_000;
const CLAIM_MS: u64 = 5_000;
const RETIRED_MS: u64 = 10 * 60_000;

/// A lease's life as asked for, in s, and how much of it we leave unused, in ms.
pub const LEASE_S: u32 = 60;
const LEASE_MARGIN_MS: u64 = 10_000;

/// What became of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Fly's answer.
    Fly(Result<Answer, ApiError>),
    /// What is not Fly's has been done, or has failed.
    Local(Result<(), LocalFault>),
    /// No call could be made of it.
    Refused(Refusal),
}

/// Something of ours has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not done")]
pub struct LocalFault;

/// Everything but the record that an outcome is judged by.
#[derive(Clone, Copy)]
struct Seen<'a> {
    desired: &'a Desired,
    names: &'a Names,
    action: &'a Action,
    now: UnixMillis,
    random: u64,
}

impl Record {
    /// The record to store once the outcome of `action` is known. `random` spreads the next attempt.
    #[must_use]
    pub fn learn(
        &self,
        setup: &Setup,
        desired: &Desired,
        action: &Action,
        outcome: &Outcome,
        now: UnixMillis,
        random: u64,
    ) -> Self {
        let mut next = self.clone();
        next.sent = None;
        let Some(names) = names(&setup.layout, &desired.user, self.generation) else { return next };
        let seen = Seen { desired, names: &names, action, now, random };
        match outcome {
            Outcome::Fly(Ok(answer)) => {
                succeeded(&mut next, seen);
                answered(&mut next, seen, answer);
            }
            Outcome::Fly(Err(error)) => {
                next.last_error = Some(error.clone());
                failed(&mut next, seen, error);
            }
            Outcome::Local(Ok(())) => {
                succeeded(&mut next, seen);
                done_here(&mut next, seen);
            }
            Outcome::Local(Err(LocalFault)) => {
                let cause = match action {
                    Action::PurgeData => Cause::PurgeFailed,
                    _ => Cause::RestoreFailed,
                };
                retry(&mut next, seen, cause, None, HOST_MS);
            }
            Outcome::Refused(refusal) => {
                let cause = match refusal {
                    Refusal::Drops(_) => Cause::UpdateRefused,
                    Refusal::NotKnown => Cause::NotFound,
                    Refusal::NoName => Cause::NoName,
                };
                next.give_up(cause, desired, None, now);
            }
        }
        next
    }
}

fn succeeded(next: &mut Record, seen: Seen<'_>) {
    next.attempts = 0;
    next.not_before = UnixMillis(0);
    next.last_error = None;
    // Looking works at any time; only something that was done shows that the cause is gone.
    let looked = matches!(
        seen.action,
        Action::ReadApp
            | Action::ReadMachine
            | Action::ReadVolume
            | Action::ListVolumes
            | Action::ListMachines
            | Action::ListAddresses
    );
    let of_looking = next.attention.as_ref().is_some_and(|attention| {
        matches!(attention.cause, Cause::ApiUnavailable | Cause::Credentials | Cause::NotFound)
    });
    if !looked || of_looking {
        next.attention = None;
    }
}

fn done_here(next: &mut Record, seen: Seen<'_>) {
    match seen.action {
        Action::NextGeneration { why, region } => {
            next.next_generation(*why, region.clone(), seen.now);
            if let (Some(order), Some(_)) = (&seen.desired.relocation, region) {
                next.relocated = order.number;
            }
        }
        Action::RestoreData => next.content = Content::Held,
        Action::PurgeData => next.purged = true,
        _ => {}
    }
}

fn answered(next: &mut Record, seen: Seen<'_>, answer: &Answer) {
    let now = seen.now;
    match answer {
        Answer::Done => ordered(next, seen),
        Answer::App(_) => {
            clear_doubt(next, Made::App);
            match next.app.present() {
                // It was ordered to go, and is still seen.
                Some(app) if app.deleting => next.not_before = now.plus_ms(GOING_MS),
                Some(_) | None => next.app = Knowledge::Present(HeldApp::default()),
            }
        }
        Answer::Addresses(list) => {
            next.addresses = Knowledge::Present(list.iter().filter_map(Address::kind).collect());
        }
        Answer::Volume(volume) => read_volume(next, seen, volume),
        Answer::Volumes(list) => find_volume(next, seen, list),
        Answer::Extended { volume, needs_restart } => {
            next.see_volume(volume, now);
            if let Some(held) = next.volume.present_mut() {
                held.extended_at = Some(now);
                held.restart_due = *needs_restart;
            }
        }
        Answer::Machine(machine) => read_machine(next, seen, machine),
        Answer::Machines(list) => find_machine(next, seen, list),
        Answer::Lease(lease) => {
            if let Some(machine) = next.machine.present() {
                let until =
                    now.plus_ms(u64::from(LEASE_S).saturating_mul(1000).saturating_sub(LEASE_MARGIN_MS));
                next.lease = Some(HeldLease {
                    machine: machine.id.clone(),
                    nonce: lease.nonce.clone(),
                    from: now,
                    until,
                });
            }
        }
        // The sweep's, not a user's.
        Answer::OrgMachines(_) | Answer::OrgVolumes(_) => {}
    }
}

/// An order was accepted. What it leads to remains to be seen.
fn ordered(next: &mut Record, seen: Seen<'_>) {
    let now = seen.now;
    match seen.action {
        Action::CreateApp => {
            next.app = Knowledge::Present(HeldApp::default());
            // It was made just now: there is nothing in it.
            next.addresses = Knowledge::Present(BTreeSet::new());
            if next.retired.is_empty() && next.doubt.is_none() {
                next.volume = Knowledge::Absent;
                next.machine = Knowledge::Absent;
            }
        }
        Action::AssignAddress(kind) => {
            if let Some(there) = next.addresses.present_mut() {
                there.insert(*kind);
            }
        }
        Action::Start => changing(next, seen, MachineState::Starting),
        Action::Restart => changing(next, seen, MachineState::Restarting),
        Action::Stop => changing(next, seen, MachineState::Stopping),
        Action::DeleteMachine => changing(next, seen, MachineState::Destroying),
        Action::Recreate => {
            changing(next, seen, MachineState::Destroying);
            next.efforts.recreations = next.efforts.recreations.saturating_add(1);
            next.efforts.last_at = now;
        }
        Action::ReleaseLease => next.lease = None,
        Action::DeleteVolume => {
            if let Some(volume) = next.volume.present_mut() {
                volume.deleting = true;
                volume.read_at = now;
            }
        }
        Action::DiscardVolume(_) => discarded(next),
        Action::DeleteRetiredMachine(_) | Action::DeleteRetiredVolume(_) => {
            with_retired(next, seen, |retired| {
                retired.deleting = true;
                retired.not_before = now.plus_ms(GOING_MS);
            });
        }
        Action::DeleteApp => {
            next.app = Knowledge::Present(HeldApp { deleting: true, missing_since: None });
            next.not_before = now.plus_ms(GOING_MS);
        }
        _ => {}
    }
    if matches!(seen.action, Action::Start | Action::Restart) {
        next.efforts.last_at = now;
        if matches!(seen.action, Action::Start) {
            next.efforts.starts = next.efforts.starts.saturating_add(1);
        } else {
            next.efforts.restarts = next.efforts.restarts.saturating_add(1);
            if let Some(volume) = next.volume.present_mut() {
                volume.restart_due = false;
            }
        }
        // What it said of itself, it said before.
        next.report = None;
    }
}

fn changing(next: &mut Record, seen: Seen<'_>, state: MachineState) {
    if let Some(machine) = next.machine.present_mut() {
        machine.state = state;
        machine.since = seen.now;
        machine.read_at = seen.now;
    }
}

fn discarded(next: &mut Record) {
    next.discarded.extend(next.discard.take());
    next.volume = Knowledge::Absent;
}

fn with_retired(next: &mut Record, seen: Seen<'_>, change: impl Fn(&mut super::record::Retired)) {
    let about = |retired: &super::record::Retired| match seen.action {
        Action::DeleteRetiredMachine(id) | Action::ReadRetiredMachine(id) => {
            retired.machine.as_ref() == Some(id)
        }
        Action::DeleteRetiredVolume(id) | Action::ReadRetiredVolume(id) => {
            retired.volume.as_ref() == Some(id)
        }
        _ => false,
    };
    next.retired.iter_mut().filter(|retired| about(retired)).for_each(change);
    next.retired.retain(|retired| retired.machine.is_some() || retired.volume.is_some());
}

/// A thing of an earlier generation is proven to be gone.
fn retired_is_gone(next: &mut Record, seen: Seen<'_>) {
    with_retired(next, seen, |retired| {
        retired.deleting = false;
        match seen.action {
            Action::DeleteRetiredMachine(_) | Action::ReadRetiredMachine(_) => retired.machine = None,
            _ => retired.volume = None,
        }
    });
}

fn read_volume(next: &mut Record, seen: Seen<'_>, volume: &Volume) {
    let now = seen.now;
    if let Action::ReadRetiredVolume(_) = seen.action {
        if volume.is_going() {
            retired_is_gone(next, seen);
        } else {
            with_retired(next, seen, |retired| retired.not_before = now.plus_ms(CLAIM_MS));
        }
        return;
    }
    if let Action::CreateVolume { .. } = seen.action {
        next.doubt = None;
        if next.copy_of.is_some() {
            // A copy has in it what its source had.
            next.content = Content::Held;
        }
    }
    let deleting = next.volume.present().is_some_and(|held| held.deleting);
    if volume.is_going() {
        volume_is_gone(next, deleting);
    } else {
        next.see_volume(volume, now);
        if deleting {
            next.not_before = now.plus_ms(GOING_MS);
        }
    }
}

fn volume_is_gone(next: &mut Record, deleted_by_us: bool) {
    next.volume = Knowledge::Absent;
    if deleted_by_us {
        // A user who comes back begins anew.
        next.content = Content::Empty;
        next.copy_of = None;
    }
}

/// A look-up by name. Names of volumes are not unique: of several, the one that a machine has is taken, then
/// whichever Fly made first; a volume that we have given up, or that is going, is none.
fn find_volume(next: &mut Record, seen: Seen<'_>, list: &[Volume]) {
    let mut ours: Vec<&Volume> = list
        .iter()
        .filter(|volume| volume.name == seen.names.volume && !volume.is_going())
        .filter(|volume| !next.discarded.contains(&volume.id))
        .collect();
    ours.sort_by_key(|volume| !volume.is_attached());
    match ours.first() {
        Some(volume) => {
            // One that we made ourselves just now, and on which nothing has run, is known to be empty.
            let just_made =
                next.doubt.is_some_and(|doubt| doubt.about == Made::Volume) && !volume.is_attached();
            if next.content == Content::Empty && (!just_made || next.copy_of.is_some()) {
                next.content = Content::Held;
            }
            clear_doubt(next, Made::Volume);
            next.see_volume(volume, seen.now);
        }
        None if !still_in_doubt(next, Made::Volume, seen.now) => next.volume = Knowledge::Absent,
        None => {}
    }
}

fn read_machine(next: &mut Record, seen: Seen<'_>, machine: &Machine) {
    match seen.action {
        Action::ReadRetiredMachine(_) => {
            if matches!(machine.state, MachineState::Destroyed) {
                retired_is_gone(next, seen);
            } else {
                let wait_ms = if machine.host_status == HostStatus::Ok { CLAIM_MS } else { RETIRED_MS };
                with_retired(next, seen, |retired| retired.not_before = seen.now.plus_ms(wait_ms));
            }
            return;
        }
        Action::CreateMachine => next.doubt = None,
        Action::Update => {
            next.efforts.updates = next.efforts.updates.saturating_add(1);
            next.report = None;
        }
        _ => {}
    }
    if is_foreign(machine, seen) {
        next.give_up(Cause::NameForeign, seen.desired, None, seen.now);
        return;
    }
    next.see_machine(machine, seen.now);
    if matches!(seen.action, Action::Update)
        && let Some(held) = next.machine.present_mut()
    {
        // A new version, whatever it says of its state.
        held.since = seen.now;
    }
}

/// A look-up by name. Names of machines are unique among those that live.
fn find_machine(next: &mut Record, seen: Seen<'_>, list: &[Machine]) {
    next.looked_at = seen.now;
    let ours = list
        .iter()
        .find(|machine| machine.name == seen.names.machine && machine.state != MachineState::Destroyed);
    match ours {
        Some(machine) if is_foreign(machine, seen) => {
            next.give_up(Cause::NameForeign, seen.desired, None, seen.now);
        }
        Some(machine) => {
            clear_doubt(next, Made::Machine);
            next.see_machine(machine, seen.now);
        }
        None if !still_in_doubt(next, Made::Machine, seen.now) => next.machine = Knowledge::Absent,
        None => {}
    }
}

/// Whether a machine says that it is another user's, or of another generation. It never is, unless a record or a
/// name has been mixed up; then nothing is done with it.
fn is_foreign(machine: &Machine, seen: Seen<'_>) -> bool {
    let Some(config) = &machine.config else { return false };
    let differs = |key: &str, ours: &str| config.metadata.get(key).is_some_and(|theirs| theirs != ours);
    differs(OWNER_KEY, &seen.names.tag)
        || config.metadata.contains_key(GENERATION_KEY)
            && !seen
                .names
                .machine
                .ends_with(&format!("-g{}", config.metadata.get(GENERATION_KEY).map_or("", String::as_str)))
}

fn clear_doubt(next: &mut Record, about: Made) {
    if next.doubt.is_some_and(|doubt| doubt.about == about) {
        next.doubt = None;
    }
}

/// It was not found. Whether that settles it: two looks have to agree if it may have been made.
fn still_in_doubt(next: &mut Record, about: Made, now: UnixMillis) -> bool {
    let Some(doubt) = &mut next.doubt else { return false };
    if doubt.about != about {
        return false;
    }
    doubt.absent_reads = doubt.absent_reads.saturating_add(1);
    if doubt.absent_reads < 2 {
        doubt.next_look = now.plus_ms(LOOK_AGAIN_MS);
        return true;
    }
    next.doubt = None;
    false
}

/// Another try after a while; when tries are used up, attention.
fn retry(next: &mut Record, seen: Seen<'_>, cause: Cause, retry_after_ms: Option<u64>, least_ms: u64) {
    next.attempts = next.attempts.saturating_add(1);
    if next.attempts >= MAX_ATTEMPTS {
        next.give_up(cause, seen.desired, None, seen.now);
        return;
    }
    let least_ms = retry_after_ms.unwrap_or(0).max(least_ms);
    next.not_before = next_attempt(next.attempts, Some(least_ms), seen.random, seen.now);
}

fn failed(next: &mut Record, seen: Seen<'_>, error: &ApiError) {
    let now = seen.now;
    let again = |next: &mut Record, least_ms| {
        retry(next, seen, cause_of(&error.fault), error.retry_after_ms, least_ms);
    };
    // Clearing up after an earlier generation is nobody's emergency.
    if let Action::DeleteRetiredMachine(_)
    | Action::ReadRetiredMachine(_)
    | Action::DeleteRetiredVolume(_)
    | Action::ReadRetiredVolume(_) = seen.action
    {
        match error.fault {
            Fault::NotFound => retired_is_gone(next, seen),
            _ => {
                let wait_ms =
                    if matches!(seen.desired.want, Want::Delete { .. }) { HOST_MS } else { RETIRED_MS };
                with_retired(next, seen, |retired| retired.not_before = now.plus_ms(wait_ms));
            }
        }
        return;
    }
    match &error.fault {
        // Fly's word that we are too fast is no failure of this user's.
        Fault::RateLimited => {
            next.attempts = next.attempts.saturating_add(1).min(MAX_ATTEMPTS.saturating_sub(1));
            next.not_before = next_attempt(next.attempts, error.retry_after_ms, seen.random, now);
        }
        Fault::NotSent => again(next, 0),
        Fault::Unknown => {
            next.lose(seen.action, now);
            again(next, 0);
        }
        Fault::NameTaken => {
            next.app = Knowledge::Unknown;
            again(next, GOING_MS);
        }
        Fault::MachineExists(Some(id)) => {
            // An earlier call of ours has made it.
            next.doubt = None;
            if next.content == Content::Empty {
                next.content = Content::Held;
            }
            next.machine = Knowledge::Present(HeldMachine {
                id: id.clone(),
                instance: String::new(),
                state: MachineState::Other,
                host: HostStatus::Ok,
                config: None,
                since: now,
                read_at: now,
                stale: true,
                missing_since: None,
            });
        }
        Fault::MachineExists(None) => {
            next.machine = Knowledge::Unknown;
            again(next, GOING_MS);
        }
        Fault::NotFound => not_found(next, seen, &again),
        Fault::VolumeNotFound => {
            if let Some(volume) = next.volume.present_mut() {
                volume.stale = true;
            }
            again(next, LOOK_AGAIN_MS);
        }
        Fault::RegionFull => match seen.action {
            Action::CreateVolume { region } => mark_full(next, region.clone(), now.plus_ms(FULL_MS), now),
            _ => again(next, HOST_MS),
        },
        Fault::HostFull => no_room(next, seen, now.plus_ms(FULL_MS), &again),
        Fault::Quota => match seen.action {
            Action::CreateVolume { region } => mark_full(next, region.clone(), now.plus_ms(QUOTA_MS), now),
            _ => no_room(next, seen, now.plus_ms(QUOTA_MS), &again),
        },
        // It may have grown already: an earlier order arrived late.
        Fault::Rejected if matches!(seen.action, Action::ExtendVolume { .. }) => {
            if let Some(volume) = next.volume.present_mut() {
                volume.stale = true;
            }
            again(next, 0);
        }
        Fault::Blocked | Fault::Rejected => next.give_up(cause_of(&error.fault), seen.desired, None, now),
        Fault::Forbidden => match seen.action {
            Action::ReadApp | Action::CreateApp => {
                next.give_up(Cause::NameForeign, seen.desired, None, now);
            }
            _ => next.give_up(Cause::Forbidden, seen.desired, None, now),
        },
        Fault::Unauthorized => again(next, GOING_MS),
        Fault::LeaseHeld => {
            next.lease = None;
            again(next, CLAIM_MS);
        }
        Fault::LeaseLost => next.lease = None,
        Fault::Changed | Fault::NotYet => {
            make_stale(next);
            again(next, 0);
        }
        Fault::VolumeInUse => {
            // By a machine that is gone, or by one that came late and that we do not know.
            if matches!(seen.action, Action::DeleteVolume) {
                next.machine = Knowledge::Unknown;
            }
            again(next, CLAIM_MS);
        }
        Fault::HostUnavailable => {
            make_stale(next);
            if let Some(volume) = next.volume.present_mut() {
                volume.stale = true;
            }
            again(next, HOST_MS);
        }
    }
}

const fn make_stale(next: &mut Record) {
    if let Some(machine) = next.machine.present_mut() {
        machine.stale = true;
    }
}

fn mark_full(next: &mut Record, region: String, until: UnixMillis, now: UnixMillis) {
    next.full.retain(|full| full.region != region && now < full.until);
    next.full.push(FullRegion { region, until });
}

/// The host of the volume has no room. A volume on which nothing has ever run makes way for another; one with
/// data stays, and waits.
fn no_room(next: &mut Record, seen: Seen<'_>, until: UnixMillis, again: &impl Fn(&mut Record, u64)) {
    let volume = next.volume.present().map(|held| (held.id.clone(), held.region.clone()));
    match (seen.action, next.content, volume) {
        (Action::CreateMachine, Content::Empty | Content::Awaited, Some((id, region))) => {
            next.discard = Some(id);
            mark_full(next, region, until, seen.now);
        }
        _ => again(next, HOST_MS),
    }
}

/// The thing acted on is not there. What we hold must be missed twice before it counts as gone, except where we
/// have ordered it to go.
fn not_found(next: &mut Record, seen: Seen<'_>, again: &impl Fn(&mut Record, u64)) {
    let now = seen.now;
    match seen.action {
        Action::ReadApp => {
            if still_in_doubt(next, Made::App, now) {
                return;
            }
            if let Some(app) = next.app.present_mut()
                && !app.deleting
                && app.missing_since.is_none()
            {
                app.missing_since = Some(now);
                next.not_before = now.plus_ms(LOOK_AGAIN_MS);
                return;
            }
            let deleted = matches!(seen.desired.want, Want::Delete { .. });
            next.app = Knowledge::Absent;
            next.addresses = Knowledge::Unknown;
            if deleted {
                next.machine = Knowledge::Absent;
                volume_is_gone(next, true);
                next.retired.clear();
            }
        }
        Action::DeleteApp => {
            if let Some(app) = next.app.present_mut() {
                app.missing_since = Some(now);
                next.not_before = now.plus_ms(LOOK_AGAIN_MS);
            }
        }
        Action::ReadMachine
        | Action::Start
        | Action::Stop
        | Action::Restart
        | Action::Update
        | Action::Lease
        | Action::Recreate
        | Action::DeleteMachine => {
            let Some(machine) = next.machine.present_mut() else { return };
            let ordered =
                machine.state == MachineState::Destroying || matches!(seen.action, Action::DeleteMachine);
            match machine.missing_since {
                _ if ordered => next.machine = Knowledge::Absent,
                Some(_) if matches!(seen.action, Action::ReadMachine) => next.machine = Knowledge::Absent,
                Some(_) => {}
                None => {
                    machine.missing_since = Some(now);
                    machine.stale = true;
                }
            }
        }
        Action::ReadVolume | Action::ExtendVolume { .. } | Action::DeleteVolume => {
            let Some(volume) = next.volume.present_mut() else { return };
            let ordered = volume.deleting || matches!(seen.action, Action::DeleteVolume);
            match volume.missing_since {
                _ if ordered => volume_is_gone(next, true),
                Some(_) if matches!(seen.action, Action::ReadVolume) => volume_is_gone(next, false),
                Some(_) => {}
                None => {
                    volume.missing_since = Some(now);
                    volume.stale = true;
                }
            }
        }
        Action::DiscardVolume(_) => discarded(next),
        Action::ReleaseLease => next.lease = None,
        // The app itself: one that was made just now may not be seen everywhere yet.
        _ => {
            let doubtful = next.attempts >= MAX_ATTEMPTS.saturating_div(2);
            again(next, GOING_MS);
            if doubtful {
                next.app = Knowledge::Unknown;
            }
        }
    }
}
