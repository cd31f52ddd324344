//! What to do next for one user: [`plan()`].
//!
//! Each function below looks at one rung of the ladder and answers with a plan, or with `None` if there is
//! nothing to do on it; the first that answers decides.

use serde::{Deserialize, Serialize};
use shared::id::{Generation, MachineId, VolumeId};
use shared::time::UnixMillis;

use super::config::drifted;
use super::desired::{Desired, Layout, Restore, Setup, Want};
use super::names::names;
use super::record::{
    Cause, Content, HeldMachine, HeldVolume, Knowledge, LOOK_AGAIN_MS, Made, Record, Report, Retired,
    RetiredWhy, is_lost,
};
use crate::fly::Fault;
use crate::fly::budget::CALL_LIMIT_MS;
use crate::fly::wire::{AddressKind, HostStatus, MachineState};

const MINUTE_MS: u64 = 60_000;

/// How often a machine that seems well is looked at, in ms; up to a minute is added, by user.
pub const RECONCILE_MS: u64 = 5 * MINUTE_MS;

/// The sidecar reports each minute. After this it counts as silent, in ms.
pub const SILENCE_MS: u64 = 3 * MINUTE_MS;

/// From the machine's start to the agent's first answer, in ms. An image may have to be pulled before (70 to 98 s
/// were seen), an agent takes 45 to 60 s.
pub const GATEWAY_PATIENCE_MS: u64 = 5 * MINUTE_MS;

/// How long a host may be out of reach before its machine counts as lost, in ms; two looks have to agree.
pub const UNREACHABLE_MS: u64 = 10 * MINUTE_MS;

/// How long a machine may be between two states, in ms. Fly calls it stuck after 5 minutes, updates after 10.
pub const STUCK_MS: u64 = 10 * MINUTE_MS;

/// How long a machine may be made and not start, in ms.
const CREATED_MS: u64 = 3 * MINUTE_MS;

/// Between polls of a machine that is changing: a quarter of the time it has been at it, within these bounds.
const POLL_MIN_MS: u64 = 600;
const POLL_MAX_MS: u64 = 15_000;

/// Starts that end again, or restarts that bring nothing, before somebody has to look.
pub const MAX_STARTS: u32 = 5;
pub const MAX_RESTARTS: u32 = 2;
pub const MAX_RECREATIONS: u32 = 2;
pub const MAX_UPDATES: u32 = 3;

/// After these limits, one more try each, in ms.
pub const SLOW_RETRY_MS: u64 = 15 * MINUTE_MS;

/// For how long a copied volume is kept after a move, in ms.
pub const KEEP_MOVED_MS: u64 = 7 * 24 * 60 * MINUTE_MS;

/// A volume grows when this much of it is used, in percent.
pub const EXTEND_AT_PERCENT: u64 = 80;

/// After a volume has grown, reports still count the old size for so long, in ms.
const EXTENDED_MS: u64 = 2 * MINUTE_MS;

/// One thing to do. Names, ids and nonces are in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    ReadApp,
    CreateApp,
    ListAddresses,
    AssignAddress(AddressKind),
    ListVolumes,
    CreateVolume {
        region: String,
    },
    ReadVolume,
    ExtendVolume {
        size_gb: u32,
    },
    /// Deletes a volume on which no machine has ever run, to make another elsewhere.
    DiscardVolume(VolumeId),
    ListMachines,
    CreateMachine,
    ReadMachine,
    Start,
    Stop,
    Restart,
    Lease,
    Update,
    ReleaseLease,
    /// Deletes a machine that is stuck, to make it again on the same volume.
    Recreate,
    /// Nothing leaves: the record goes on to the next generation.
    NextGeneration {
        why: RetiredWhy,
        region: Option<String>,
    },
    /// The data plane's: brings the user's data to the new machine.
    RestoreData,
    DeleteMachine,
    DeleteVolume,
    DeleteRetiredMachine(MachineId),
    ReadRetiredMachine(MachineId),
    DeleteRetiredVolume(VolumeId),
    ReadRetiredVolume(VolumeId),
    DeleteApp,
    /// The data plane's: deletes what is outside Fly.
    PurgeData,
}

/// Why it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nothing is known.
    Unknown,
    /// It is surely not there.
    Missing,
    /// It may have been made.
    InDoubt,
    /// It is changing, or was changed.
    Changing,
    /// It has not been looked at for a while.
    Routine,
    /// It does not run and should.
    Stopped,
    /// It is not as desired.
    Drifted,
    /// The drift is over.
    Updated,
    /// It does not leave its state.
    Stuck,
    /// Its sidecar says nothing.
    Silent,
    /// Its agent does not answer.
    NotReady,
    /// Its volume fills up, or has grown.
    Full,
    /// There is no room where it is.
    NoRoom,
    HostLost,
    VolumeLost,
    /// The data is elsewhere.
    DataAwaited,
    Relocated,
    Suspended,
    Deleted,
    /// It belongs to an earlier generation.
    Retired,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// The outcome of a call.
    Answer,
    /// The next attempt.
    Backoff,
    /// A call without an answer to have taken effect, if it does.
    Settling,
    /// A machine to change its state.
    Machine,
    /// A second look at something that was not found.
    SecondLook,
    /// The sidecar's first word, or the agent's.
    Gateway,
    /// A host to come back, or to be counted as lost.
    Host,
    /// The end of the time for which data is kept.
    Retention,
}

/// A state in which nothing needs to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    Ready,
    Suspended,
    Deleted,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Do(Action, Why),
    /// Ask again then, or when something is heard.
    Wait {
        until: UnixMillis,
        why: Waiting,
    },
    /// All is as desired; ask again then.
    Done {
        settled: Settled,
        until: Option<UnixMillis>,
    },
    /// Somebody has to look; it is tried again then, if at all.
    NeedsAttention {
        cause: Cause,
        until: Option<UnixMillis>,
    },
}

/// What everything below looks at.
#[derive(Clone, Copy)]
struct View<'a> {
    setup: &'a Setup,
    desired: &'a Desired,
    record: &'a Record,
    now: UnixMillis,
}

/// What to do next. It forgets everything but its arguments.
#[must_use]
pub fn plan(setup: &Setup, desired: &Desired, record: &Record, now: UnixMillis) -> Plan {
    if names(&setup.layout, &desired.user, record.generation).is_none() {
        return Plan::NeedsAttention { cause: Cause::NoName, until: None };
    }
    let record = &record.without_lost_call(now);
    let view = View { setup, desired, record, now };
    held_back(view).unwrap_or_else(|| match desired.want {
        Want::Run => run(view),
        Want::Suspend => suspend(view),
        Want::Delete { purge_at } => delete(view, purge_at),
    })
}

/// Whether the sidecar has said lately that the agent answers.
#[must_use]
pub fn is_ready(record: &Record, now: UnixMillis) -> bool {
    let started = record.machine.present().is_some_and(|machine| machine.state == MachineState::Started);
    started && record.content == Content::Held && fresh_report(record, now).is_some_and(|report| report.ready)
}

fn fresh_report(record: &Record, now: UnixMillis) -> Option<&Report> {
    record.report.as_ref().filter(|report| now.since(report.at) <= SILENCE_MS)
}

/// What comes before any wish.
fn held_back(view: View<'_>) -> Option<Plan> {
    let View { desired, record, now, .. } = view;
    if let Some(sent) = &record.sent {
        return Some(Plan::Wait {
            until: sent.at.plus_ms(CALL_LIMIT_MS.saturating_add(1)),
            why: Waiting::Answer,
        });
    }
    if let Some(attention) = &record.attention
        && !attention.probing
        && attention.version == desired.version
        && attention.retry_at.is_none_or(|at| now < at)
    {
        return Some(Plan::NeedsAttention { cause: attention.cause, until: attention.retry_at });
    }
    if now < record.not_before {
        return Some(Plan::Wait { until: record.not_before, why: Waiting::Backoff });
    }
    let doubt = record.doubt?;
    if now < doubt.next_look {
        return Some(Plan::Wait { until: doubt.next_look, why: Waiting::Settling });
    }
    let look_up = match doubt.about {
        Made::App => Action::ReadApp,
        Made::Volume => Action::ListVolumes,
        Made::Machine => Action::ListMachines,
    };
    Some(Plan::Do(look_up, Why::InDoubt))
}

fn run(view: View<'_>) -> Plan {
    app(view).or_else(|| volume(view)).unwrap_or_else(|| match &view.record.machine {
        Knowledge::Unknown => Plan::Do(Action::ListMachines, Why::Unknown),
        Knowledge::Absent => no_machine(view),
        Knowledge::Present(machine) => a_machine(view, machine),
    })
}

/// The app and its addresses. A shared app is there: somebody made it by hand.
fn app(view: View<'_>) -> Option<Plan> {
    match view.setup.layout {
        Layout::Shared { .. } => return None,
        Layout::PerUser { .. } => {}
    }
    match (&view.record.app, &view.record.addresses) {
        (Knowledge::Unknown, _) => Some(Plan::Do(Action::ReadApp, Why::Unknown)),
        (Knowledge::Present(app), _) if app.deleting || app.missing_since.is_some() => {
            Some(Plan::Do(Action::ReadApp, Why::Changing))
        }
        (Knowledge::Absent, _) if is_lost(view.record) => Some(lost(view, Why::VolumeLost)),
        (Knowledge::Absent, _) => Some(Plan::Do(Action::CreateApp, Why::Missing)),
        (Knowledge::Present(_), Knowledge::Unknown | Knowledge::Absent) => {
            Some(Plan::Do(Action::ListAddresses, Why::Unknown))
        }
        (Knowledge::Present(_), Knowledge::Present(there)) => AddressKind::ALL
            .into_iter()
            .find(|kind| !there.contains(kind))
            .map(|kind| Plan::Do(Action::AssignAddress(kind), Why::Missing)),
    }
}

fn volume(view: View<'_>) -> Option<Plan> {
    let View { record, now, .. } = view;
    if let Some(discard) = &record.discard {
        return Some(Plan::Do(Action::DiscardVolume(discard.clone()), Why::NoRoom));
    }
    match &record.volume {
        Knowledge::Unknown => Some(Plan::Do(Action::ListVolumes, Why::Unknown)),
        Knowledge::Absent if is_lost(record) => Some(lost(view, Why::VolumeLost)),
        Knowledge::Absent => Some(match free_region(view) {
            Some(region) => Plan::Do(Action::CreateVolume { region }, Why::Missing),
            None => Plan::NeedsAttention {
                cause: Cause::Capacity,
                until: record.full.iter().map(|f| f.until).min(),
            },
        }),
        Knowledge::Present(volume) => doubtful_volume(volume, now),
    }
}

fn doubtful_volume(volume: &HeldVolume, now: UnixMillis) -> Option<Plan> {
    if !volume.stale {
        return None;
    }
    Some(match volume.missing_since {
        Some(since) if now < since.plus_ms(LOOK_AGAIN_MS) => {
            Plan::Wait { until: since.plus_ms(LOOK_AGAIN_MS), why: Waiting::SecondLook }
        }
        Some(_) | None => Plan::Do(Action::ReadVolume, Why::Changing),
    })
}

/// The first region that has not said lately that it is full: an operator's choice, then the list.
fn free_region(view: View<'_>) -> Option<String> {
    let View { desired, record, now, .. } = view;
    record.region.iter().chain(&desired.spec.regions).find(|region| !record.is_full(region, now)).cloned()
}

/// What held the user's data is gone. Nothing empty takes its place unless the data can be brought there.
fn lost(view: View<'_>, why: Why) -> Plan {
    match (view.record.content, view.desired.restore) {
        (Content::Empty, _) => next_generation(RetiredWhy::Empty, None, why),
        (Content::Awaited | Content::Held, Restore::Available) => {
            next_generation(RetiredWhy::Lost, None, why)
        }
        (Content::Awaited | Content::Held, Restore::Unavailable) => {
            let look = view.record.machine.present().map(|machine| machine.read_at.plus_ms(MINUTE_MS));
            match look {
                // The host may come back meanwhile, and all is well.
                Some(at) if view.now >= at => Plan::Do(Action::ReadMachine, why),
                Some(_) | None => Plan::NeedsAttention { cause: Cause::DataLost, until: look },
            }
        }
    }
}

const fn next_generation(retired: RetiredWhy, region: Option<String>, why: Why) -> Plan {
    Plan::Do(Action::NextGeneration { why: retired, region }, why)
}

/// A volume and no machine.
fn no_machine(view: View<'_>) -> Plan {
    let View { record, now, .. } = view;
    let Some(volume) = record.volume.present() else {
        return Plan::Do(Action::ListVolumes, Why::Unknown);
    };
    if volume.host == HostStatus::Unreachable {
        return out_of_reach(view, volume.read_at, Action::ReadVolume);
    }
    // Without a machine only if none can be made here: one whose create comes late would be left behind.
    let refused = record.last_error.as_ref().map(|error| &error.fault);
    if let Some(Fault::HostFull | Fault::Quota) = refused
        && let Some(order) = relocation(view)
    {
        return order;
    }
    let efforts = record.efforts_under(view.desired);
    if efforts.recreations > MAX_RECREATIONS && now < efforts.last_at.plus_ms(SLOW_RETRY_MS) {
        return Plan::NeedsAttention {
            cause: Cause::Stuck,
            until: Some(efforts.last_at.plus_ms(SLOW_RETRY_MS)),
        };
    }
    Plan::Do(Action::CreateMachine, Why::Missing)
}

/// The host of what we hold is out of reach. `read_at` is when we last looked.
fn out_of_reach(view: View<'_>, read_at: UnixMillis, look: Action) -> Plan {
    let View { record, now, .. } = view;
    let since = record.unreachable_since.unwrap_or(read_at);
    if read_at >= since.plus_ms(UNREACHABLE_MS) {
        return lost(view, Why::HostLost);
    }
    let next = read_at.plus_ms(MINUTE_MS);
    if now >= next { Plan::Do(look, Why::Changing) } else { Plan::Wait { until: next, why: Waiting::Host } }
}

/// Looks at a machine that is changing, not too often; `stuck` once it has taken too long, as a fresh look shows.
fn poll(machine: &HeldMachine, now: UnixMillis, why: Waiting, stuck: Plan) -> Plan {
    let at_it_ms = now.since(machine.since);
    let too_long = at_it_ms > STUCK_MS;
    let gap_ms = if too_long {
        MINUTE_MS
    } else {
        // By the last look, so that the next one does not move while it is waited for.
        machine.read_at.since(machine.since).checked_div(4).unwrap_or(0).clamp(POLL_MIN_MS, POLL_MAX_MS)
    };
    let next = machine.read_at.plus_ms(gap_ms);
    if now >= next {
        return Plan::Do(Action::ReadMachine, Why::Changing);
    }
    if let Plan::NeedsAttention { cause, .. } = stuck
        && too_long
    {
        return Plan::NeedsAttention { cause, until: Some(next) };
    }
    if too_long && machine.read_at > machine.since { stuck } else { Plan::Wait { until: next, why } }
}

/// A machine that was not found, or of which nothing certain is known.
fn doubtful_machine(machine: &HeldMachine, now: UnixMillis) -> Option<Plan> {
    if !machine.stale {
        return None;
    }
    Some(match machine.missing_since {
        Some(since) if now < since.plus_ms(LOOK_AGAIN_MS) => {
            Plan::Wait { until: since.plus_ms(LOOK_AGAIN_MS), why: Waiting::SecondLook }
        }
        Some(_) | None => Plan::Do(Action::ReadMachine, Why::Changing),
    })
}

/// A machine that should run.
fn a_machine(view: View<'_>, machine: &HeldMachine) -> Plan {
    use MachineState as S;
    let now = view.now;
    if let Some(plan) = doubtful_machine(machine, now) {
        return plan;
    }
    if machine.host == HostStatus::Unreachable {
        return out_of_reach(view, machine.read_at, Action::ReadMachine);
    }
    match machine.state {
        S::Stopped | S::Suspended | S::Failed => {
            relocation(view).or_else(|| update(view, machine)).unwrap_or_else(|| start(view))
        }
        // It goes on by itself, unless it was made without being launched; it is not moved before it has run.
        S::Created if now.since(machine.since) > CREATED_MS => start(view),
        S::Created => poll(machine, now, Waiting::Machine, start(view)),
        S::Started => relocation(view)
            .or_else(|| update(view, machine))
            .or_else(|| release(view, machine))
            .unwrap_or_else(|| started(view, machine)),
        S::Destroying => {
            let stuck = Plan::NeedsAttention { cause: Cause::Stuck, until: Some(now.plus_ms(SLOW_RETRY_MS)) };
            poll(machine, now, Waiting::Machine, stuck)
        }
        S::Destroyed | S::LaunchFailed => Plan::Do(Action::ReadMachine, Why::Changing),
        S::Creating
        | S::Starting
        | S::Stopping
        | S::Suspending
        | S::Restarting
        | S::Updating
        | S::Replacing
        | S::Replaced
        | S::Migrated
        | S::Other => poll(machine, now, Waiting::Machine, recreate(view)),
    }
}

fn start(view: View<'_>) -> Plan {
    let efforts = view.record.efforts_under(view.desired);
    let slow = efforts.last_at.plus_ms(SLOW_RETRY_MS);
    if efforts.starts >= MAX_STARTS && view.now < slow {
        return Plan::NeedsAttention { cause: Cause::CrashLoop, until: Some(slow) };
    }
    Plan::Do(Action::Start, Why::Stopped)
}

/// The machine is stuck: away with it. Its volume stays.
fn recreate(view: View<'_>) -> Plan {
    let efforts = view.record.efforts_under(view.desired);
    let slow = efforts.last_at.plus_ms(SLOW_RETRY_MS);
    if efforts.recreations >= MAX_RECREATIONS && view.now < slow {
        return Plan::NeedsAttention { cause: Cause::Stuck, until: Some(slow) };
    }
    Plan::Do(Action::Recreate, Why::Stuck)
}

/// An order to move that has not been carried out: the machine is stopped, then its volume is copied.
fn relocation(view: View<'_>) -> Option<Plan> {
    let order = view.desired.relocation.as_ref()?;
    if order.number <= view.record.relocated || view.record.content != Content::Held {
        return None;
    }
    match view.record.machine.present().map(|machine| machine.state) {
        Some(MachineState::Started) => Some(Plan::Do(Action::Stop, Why::Relocated)),
        Some(MachineState::Stopped | MachineState::Suspended | MachineState::Failed) | None => {
            Some(next_generation(RetiredWhy::Moved, Some(order.region.clone()), Why::Relocated))
        }
        Some(_) => None,
    }
}

/// A configuration that is not as desired: lease, read, replace.
fn update(view: View<'_>, machine: &HeldMachine) -> Option<Plan> {
    let View { desired, record, now, .. } = view;
    let config = machine.config.as_ref()?;
    if !drifted(config, &desired.spec) || record.efforts_under(desired).updates >= MAX_UPDATES {
        return None;
    }
    let Some(lease) = record.lease_on(&machine.id, now) else {
        return Some(Plan::Do(Action::Lease, Why::Drifted));
    };
    // What is replaced is what was read under the lease.
    Some(if machine.read_at <= lease.from {
        Plan::Do(Action::ReadMachine, Why::Drifted)
    } else {
        Plan::Do(Action::Update, Why::Drifted)
    })
}

/// A lease that is not needed any more.
fn release(view: View<'_>, machine: &HeldMachine) -> Option<Plan> {
    view.record.lease_on(&machine.id, view.now).map(|_| Plan::Do(Action::ReleaseLease, Why::Updated))
}

/// A machine that runs as it should, so far as Fly can tell.
fn started(view: View<'_>, machine: &HeldMachine) -> Plan {
    let View { desired, record, now, .. } = view;
    let report = fresh_report(record, now);
    if let Some(report) = report {
        if record.content == Content::Awaited {
            return Plan::Do(Action::RestoreData, Why::DataAwaited);
        }
        if report.ready {
            return growth(view, report)
                .or_else(|| retired(view, false))
                .or_else(|| reverted(view, machine))
                .unwrap_or_else(|| settled(view, machine, Settled::Ready));
        }
    }
    let efforts = record.efforts_under(desired);
    let heard = record.report.as_ref().map_or(UnixMillis(0), |report| report.at);
    let begun = machine.since.max(efforts.last_at);
    let (deadline, why, cause) = if report.is_some() {
        (begun.plus_ms(GATEWAY_PATIENCE_MS), Why::NotReady, Cause::NotReady)
    } else if heard < begun {
        (begun.plus_ms(GATEWAY_PATIENCE_MS), Why::Silent, Cause::Silent)
    } else {
        (heard.plus_ms(SILENCE_MS), Why::Silent, Cause::Silent)
    };
    if now < deadline {
        return Plan::Wait { until: deadline, why: Waiting::Gateway };
    }
    // What Fly says counts before anything is done to the machine.
    if machine.read_at < deadline {
        return Plan::Do(Action::ReadMachine, why);
    }
    let slow = efforts.last_at.plus_ms(SLOW_RETRY_MS);
    if efforts.restarts >= MAX_RESTARTS && now < slow {
        return Plan::NeedsAttention { cause, until: Some(slow) };
    }
    Plan::Do(Action::Restart, why)
}

/// A volume that fills up.
fn growth(view: View<'_>, report: &Report) -> Option<Plan> {
    let View { desired, record, .. } = view;
    let volume = record.volume.present()?;
    if volume.restart_due {
        return Some(Plan::Do(Action::Restart, Why::Full));
    }
    let full = report.bytes_total > 0
        && report.bytes_used.saturating_mul(100) >= report.bytes_total.saturating_mul(EXTEND_AT_PERCENT);
    let counted = volume.extended_at.is_none_or(|at| report.at > at.plus_ms(EXTENDED_MS));
    if !full || !counted {
        return None;
    }
    if volume.size_gb >= desired.spec.volume_limit_gb {
        let until = Some(view.now.plus_ms(SLOW_RETRY_MS));
        return Some(Plan::NeedsAttention { cause: Cause::VolumeFull, until });
    }
    let quarter = volume.size_gb.checked_div(4).unwrap_or(0).max(1);
    let size_gb = volume.size_gb.saturating_add(quarter).min(desired.spec.volume_limit_gb);
    Some(Plan::Do(Action::ExtendVolume { size_gb }, Why::Full))
}

/// The machine runs, but on what it had before: Fly took every update back.
fn reverted(view: View<'_>, machine: &HeldMachine) -> Option<Plan> {
    let config = machine.config.as_ref()?;
    drifted(config, &view.desired.spec).then_some(Plan::NeedsAttention {
        cause: Cause::UpdateReverted,
        until: Some(view.now.plus_ms(RECONCILE_MS)),
    })
}

/// Nothing to do; a routine look from time to time.
fn settled(view: View<'_>, machine: &HeldMachine, settled: Settled) -> Plan {
    let next = machine.read_at.plus_ms(RECONCILE_MS).plus_ms(spread_ms(view));
    if view.now >= next {
        Plan::Do(Action::ReadMachine, Why::Routine)
    } else {
        Plan::Done { settled, until: Some(next) }
    }
}

/// Up to a minute, different for each user.
fn spread_ms(view: View<'_>) -> u64 {
    let sum = view
        .desired
        .user
        .as_str()
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    sum.checked_rem(MINUTE_MS).unwrap_or(0)
}

/// What is left of earlier generations. While the user lives, a volume with data that is still owed stays.
fn retired(view: View<'_>, everything: bool) -> Option<Plan> {
    let View { desired, record, now, .. } = view;
    let may_go = |retired: &Retired| {
        let released = desired.released.is_some_and(|Generation(upto)| retired.generation.0 <= upto);
        everything
            || released
            || match retired.why {
                RetiredWhy::Empty => true,
                RetiredWhy::Moved => now.since(retired.at) >= KEEP_MOVED_MS,
                RetiredWhy::Lost => false,
            }
    };
    record.retired.iter().filter(|retired| now >= retired.not_before).find_map(|retired| {
        let action = match (&retired.machine, &retired.volume) {
            (Some(machine), _) if retired.deleting => Action::ReadRetiredMachine(machine.clone()),
            (Some(machine), _) => Action::DeleteRetiredMachine(machine.clone()),
            (None, Some(volume)) if retired.deleting => Action::ReadRetiredVolume(volume.clone()),
            (None, Some(volume)) if may_go(retired) => Action::DeleteRetiredVolume(volume.clone()),
            (None, _) => return None,
        };
        Some(Plan::Do(action, Why::Retired))
    })
}

/// Stopped, with everything kept. What was never begun is not begun for this.
fn suspend(view: View<'_>) -> Plan {
    use MachineState as S;
    let View { record, now, .. } = view;
    let done = Plan::Done { settled: Settled::Suspended, until: None };
    let machine = match &record.machine {
        Knowledge::Unknown if record.volume == Knowledge::Unknown && record.retired.is_empty() => {
            return done;
        }
        Knowledge::Unknown => return Plan::Do(Action::ListMachines, Why::Unknown),
        // A create that came very late may have made one after all.
        Knowledge::Absent => {
            let next = record.looked_at.plus_ms(RECONCILE_MS).plus_ms(spread_ms(view));
            return retired(view, false).unwrap_or(if now >= next {
                Plan::Do(Action::ListMachines, Why::Routine)
            } else {
                Plan::Done { settled: Settled::Suspended, until: Some(next) }
            });
        }
        Knowledge::Present(machine) => machine,
    };
    if let Some(plan) = doubtful_machine(machine, now) {
        return plan;
    }
    // One that cannot be stopped is deleted; its volume is what is kept.
    let stuck = recreate(view);
    match machine.state {
        S::Started => Plan::Do(Action::Stop, Why::Suspended),
        S::Stopped | S::Suspended | S::Failed | S::Destroyed => {
            retired(view, false).unwrap_or_else(|| settled(view, machine, Settled::Suspended))
        }
        _ if machine.host == HostStatus::Unreachable => settled(view, machine, Settled::Suspended),
        S::Creating
        | S::Created
        | S::Starting
        | S::Stopping
        | S::Suspending
        | S::Restarting
        | S::Updating
        | S::Replacing
        | S::Replaced
        | S::Migrated
        | S::LaunchFailed
        | S::Destroying
        | S::Other => poll(machine, now, Waiting::Machine, stuck),
    }
}

/// Gone, with proof: each thing was seen to be gone before the next is touched.
fn delete(view: View<'_>, purge_at: UnixMillis) -> Plan {
    infrastructure(view).unwrap_or_else(|| {
        if view.record.purged {
            Plan::Done { settled: Settled::Deleted, until: None }
        } else if view.now < purge_at {
            Plan::Wait { until: purge_at, why: Waiting::Retention }
        } else {
            Plan::Do(Action::PurgeData, Why::Deleted)
        }
    })
}

fn infrastructure(view: View<'_>) -> Option<Plan> {
    let View { setup, record, now, .. } = view;
    let own_app = match setup.layout {
        Layout::PerUser { .. } => true,
        Layout::Shared { .. } => false,
    };
    if own_app {
        match &record.app {
            Knowledge::Unknown => return Some(Plan::Do(Action::ReadApp, Why::Unknown)),
            // Everything was in it.
            Knowledge::Absent => return None,
            Knowledge::Present(_) => {}
        }
    }
    match &record.machine {
        Knowledge::Unknown => return Some(Plan::Do(Action::ListMachines, Why::Unknown)),
        Knowledge::Absent => {}
        Knowledge::Present(machine) => {
            return Some(match (doubtful_machine(machine, now), machine.state) {
                (Some(plan), _) => plan,
                (None, MachineState::Destroying | MachineState::LaunchFailed) => {
                    let until = Some(now.plus_ms(SLOW_RETRY_MS));
                    poll(machine, now, Waiting::Machine, Plan::NeedsAttention { cause: Cause::Stuck, until })
                }
                (None, _) => Plan::Do(Action::DeleteMachine, Why::Deleted),
            });
        }
    }
    match &record.volume {
        Knowledge::Unknown => return Some(Plan::Do(Action::ListVolumes, Why::Unknown)),
        Knowledge::Absent => {}
        Knowledge::Present(volume) => {
            return Some(match doubtful_volume(volume, now) {
                Some(plan) => plan,
                None if volume.deleting => Plan::Do(Action::ReadVolume, Why::Changing),
                None => Plan::Do(Action::DeleteVolume, Why::Deleted),
            });
        }
    }
    if let Some(plan) = retired(view, true) {
        return Some(plan);
    }
    // One that could not be deleted just now is tried again before anything is called done.
    if let Some(until) = record.retired.iter().map(|retired| retired.not_before).min() {
        return Some(Plan::Wait { until, why: Waiting::Backoff });
    }
    let app = record.app.present().filter(|_| own_app)?;
    Some(if app.deleting || app.missing_since.is_some() {
        Plan::Do(Action::ReadApp, Why::Changing)
    } else {
        Plan::Do(Action::DeleteApp, Why::Deleted)
    })
}
