//! What is known about one user's things, what was begun, and what was given up. This is what is stored; nothing
//! else survives a crash.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shared::id::{Generation, MachineId, VolumeId};
use shared::time::UnixMillis;

use super::desired::Desired;
use super::plan::Action;
use crate::fly::budget::CALL_LIMIT_MS;
use crate::fly::wire::{self, AddressKind, HostStatus, MachineConfig, MachineState};
use crate::fly::{ApiError, Fault};

/// How long after a create whose outcome is unknown the first look-up is of use, in ms: the call may still be on
/// its way, and what it made may not be listed yet. Anything that takes effect later than this is found as a
/// name conflict (apps, machines) or by the sweep for orphans (volumes).
pub const SETTLE_MS: u64 = 20_000;

/// Between the two look-ups that have to agree that something is absent, in ms.
pub const LOOK_AGAIN_MS: u64 = 5_000;

/// What is known of a thing: nothing, that it is not there, or what it was when last seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knowledge<T> {
    #[default]
    Unknown,
    Absent,
    Present(T),
}

impl<T> Knowledge<T> {
    #[must_use]
    pub const fn present(&self) -> Option<&T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Unknown | Self::Absent => None,
        }
    }

    pub const fn present_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// Whether there is anything on the volume to lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// No machine has ever run on it.
    #[default]
    Empty,
    /// It is empty, and the user's data is to be restored to it before the agent starts.
    Awaited,
    /// A machine has run on it, or it was found and not made.
    Held,
}

/// The app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldApp {
    /// It was ordered to be deleted.
    pub deleting: bool,
    /// It was not found, once. One that was made just now is not found everywhere.
    pub missing_since: Option<UnixMillis>,
}

/// The volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldVolume {
    pub id: VolumeId,
    pub region: String,
    pub size_gb: u32,
    pub host: HostStatus,
    pub read_at: UnixMillis,
    /// What is known of it is doubtful: read it.
    pub stale: bool,
    /// It was not found, once.
    pub missing_since: Option<UnixMillis>,
    /// It was ordered to be deleted.
    pub deleting: bool,
    /// When it last grew; reports from before count the old size.
    pub extended_at: Option<UnixMillis>,
    /// It has grown, and the machine sees it after a restart only.
    pub restart_due: bool,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldMachine {
    pub id: MachineId,
    /// Its version.
    pub instance: String,
    pub state: MachineState,
    pub host: HostStatus,
    /// Its configuration, when it was last read; Fly does not tell while the host is out of reach.
    pub config: Option<MachineConfig>,
    /// Since when it has been in this state, as far as we have seen.
    pub since: UnixMillis,
    pub read_at: UnixMillis,
    /// What is known of it is doubtful: read it.
    pub stale: bool,
    /// It was not found, once.
    pub missing_since: Option<UnixMillis>,
}

/// An action that has left, and whose outcome has not been taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub action: Action,
    pub at: UnixMillis,
}

/// Something that was to be made, and nobody knows whether it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    pub about: Made,
    pub next_look: UnixMillis,
    /// Look-ups that did not find it.
    pub absent_reads: u8,
}

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    App,
    Volume,
    Machine,
}

/// Our lease on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    pub machine: MachineId,
    pub nonce: String,
    pub from: UnixMillis,
    /// Earlier than Fly's own end.
    pub until: UnixMillis,
}

/// What the sidecar last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it arrived.
    pub at: UnixMillis,
    pub machine: MachineId,
    pub generation: Generation,
    /// The agent has answered the sidecar's handshake.
    pub ready: bool,
    pub bytes_used: u64,
    pub bytes_total: u64,
}

/// How often things were tried since the machine was last ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Efforts {
    /// [`Desired::version`] that they were made under; with another one they count anew.
    pub version: u64,
    pub starts: u32,
    pub restarts: u32,
    pub updates: u32,
    pub recreations: u32,
    /// When the last start or restart was.
    pub last_at: UnixMillis,
}

impl Efforts {
    const fn under(version: u64) -> Self {
        Self { version, starts: 0, restarts: 0, updates: 0, recreations: 0, last_at: UnixMillis(0) }
    }
}

/// Why nothing is done for this user until somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No name can be made of the user's id.
    NoName,
    /// The name that belongs to this user is somebody else's.
    NameForeign,
    /// Fly does not answer.
    ApiUnavailable,
    /// Fly answers that something which we hold is not there.
    NotFound,
    /// No room on the host or in any region.
    Capacity,
    Quota,
    /// Billing or abuse control.
    Blocked,
    Credentials,
    Forbidden,
    /// Fly refuses what we ask for; a mistake of ours.
    Rejected,
    /// The volume stays bound to a machine that is gone.
    VolumeInUse,
    LeaseHeld,
    /// The machine cannot be made to change its state.
    Stuck,
    /// It starts and ends, again and again.
    CrashLoop,
    /// The machine runs, the agent does not answer.
    NotReady,
    /// The machine runs, its sidecar says nothing.
    Silent,
    /// Fly took an update back.
    UpdateReverted,
    /// An update would have dropped mounts, services or environment.
    UpdateRefused,
    /// The host is out of reach.
    HostDown,
    /// The host or the volume is lost, and data cannot be restored yet.
    DataLost,
    RestoreFailed,
    PurgeFailed,
    /// Nearly full, and at its limit.
    VolumeFull,
}

impl Cause {
    /// After how long it is worth while to see whether it has gone away, in ms; `None` if only somebody's word
    /// changes it.
    #[must_use]
    pub const fn recheck_ms(self) -> Option<u64> {
        const MINUTE: u64 = 60_000;
        match self {
            Self::ApiUnavailable | Self::NotFound | Self::VolumeInUse | Self::LeaseHeld => Some(5 * MINUTE),
            Self::Capacity
            | Self::Credentials
            | Self::HostDown
            | Self::Stuck
            | Self::CrashLoop
            | Self::NotReady
            | Self::Silent
            | Self::VolumeFull
            | Self::RestoreFailed
            | Self::PurgeFailed
            | Self::DataLost => Some(15 * MINUTE),
            Self::Quota | Self::Blocked => Some(60 * MINUTE),
            Self::NoName
            | Self::NameForeign
            | Self::Forbidden
            | Self::Rejected
            | Self::UpdateReverted
            | Self::UpdateRefused => None,
        }
    }
}

/// The last try has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    pub cause: Cause,
    pub since: UnixMillis,
    /// [`Desired::version`] at the time: a newer one is a word to try again.
    pub version: u64,
    /// When it is tried again without one.
    pub retry_at: Option<UnixMillis>,
    /// It is being tried again.
    pub probing: bool,
}

/// What is left of an earlier generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub generation: Generation,
    pub at: UnixMillis,
    pub why: RetiredWhy,
    /// Until it is proven to be gone.
    pub machine: Option<MachineId>,
    pub volume: Option<VolumeId>,
    /// The deletion that was ordered last was accepted; it remains to be seen.
    pub deleting: bool,
    pub not_before: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetiredWhy {
    /// Its host or volume was lost: what is on it may be newer than any copy.
    Lost,
    /// Its data was copied to the next generation.
    Moved,
    /// There was nothing on it.
    Empty,
}

/// A region that had no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullRegion {
    pub region: String,
    pub until: UnixMillis,
}

/// Everything that is stored about a user's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub generation: Generation,
    pub app: Knowledge<HeldApp>,
    pub addresses: Knowledge<BTreeSet<AddressKind>>,
    pub volume: Knowledge<HeldVolume>,
    pub machine: Knowledge<HeldMachine>,
    /// When the machine was last looked for by its name.
    pub looked_at: UnixMillis,
    pub content: Content,
    /// The volume to copy when this generation's is made.
    pub copy_of: Option<VolumeId>,
    /// The region that an operator has chosen for this generation.
    pub region: Option<String>,
    /// The last order to move that was carried out.
    pub relocated: u64,
    pub sent: Option<Sent>,
    pub doubt: Option<Doubt>,
    pub lease: Option<HeldLease>,
    pub report: Option<Report>,
    /// A sidecar has reported in this generation: what is on the volume was begun.
    pub heard: bool,
    pub efforts: Efforts,
    /// Failures in a row, and when to try again.
    pub attempts: u32,
    pub not_before: UnixMillis,
    pub last_error: Option<ApiError>,
    pub attention: Option<Attention>,
    pub unreachable_since: Option<UnixMillis>,
    /// A volume of this generation on which no machine could be made.
    pub discard: Option<VolumeId>,
    /// Such volumes, deleted. Fly lists them for a while; they are never adopted.
    pub discarded: Vec<VolumeId>,
    pub full: Vec<FullRegion>,
    pub retired: Vec<Retired>,
    /// The data outside Fly is gone.
    pub purged: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

impl Record {
    /// Nothing is known, and nothing was begun. It need not be stored.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            generation: Generation(1),
            app: Knowledge::Unknown,
            addresses: Knowledge::Unknown,
            volume: Knowledge::Unknown,
            machine: Knowledge::Unknown,
            looked_at: UnixMillis(0),
            content: Content::Empty,
            copy_of: None,
            region: None,
            relocated: 0,
            sent: None,
            doubt: None,
            lease: None,
            report: None,
            heard: false,
            efforts: Efforts::under(0),
            attempts: 0,
            not_before: UnixMillis(0),
            last_error: None,
            attention: None,
            unreachable_since: None,
            discard: None,
            discarded: Vec::new(),
            full: Vec::new(),
            retired: Vec::new(),
            purged: false,
        }
    }

    /// The record to store before `action` leaves: what was intended is known even if nothing else happens.
    #[must_use]
    pub fn begin(&self, desired: &Desired, action: &Action, now: UnixMillis) -> Self {
        let mut next = self.clone();
        next.sent = Some(Sent { action: action.clone(), at: now });
        if next.efforts.version != desired.version {
            next.efforts = Efforts::under(desired.version);
        }
        if let Some(attention) = &mut next.attention
            && !attention.probing
        {
            attention.version = desired.version;
            attention.probing = true;
            next.attempts = 0;
        }
        next
    }

    /// What is to be believed after a restart of whoever executes: an action that had left may have taken effect,
    /// and its answer will not come.
    #[must_use]
    pub fn after_restart(&self) -> Self {
        let mut next = self.clone();
        if let Some(sent) = next.sent.take() {
            next.lose(&sent.action, sent.at);
        }
        next
    }

    /// The same for an action that has not come back in the time that calls are given.
    pub(super) fn without_lost_call(&self, now: UnixMillis) -> Self {
        match &self.sent {
            Some(sent) if now.since(sent.at) > CALL_LIMIT_MS => self.after_restart(),
            Some(_) | None => self.clone(),
        }
    }

    /// The outcome of `action`, which left at `at`, is not known.
    pub(super) fn lose(&mut self, action: &Action, at: UnixMillis) {
        let about = if matches!(action, Action::CreateApp) {
            Some(Made::App)
        } else if matches!(action, Action::CreateVolume { .. }) {
            Some(Made::Volume)
        } else if matches!(action, Action::CreateMachine) {
            Some(Made::Machine)
        } else {
            None
        };
        if let Some(about) = about {
            self.doubt = Some(Doubt { about, next_look: at.plus_ms(SETTLE_MS), absent_reads: 0 });
        }
        if matches!(action, Action::AssignAddress(_)) {
            self.addresses = Knowledge::Unknown;
        }
        if matches!(action, Action::DeleteApp) {
            self.app = Knowledge::Unknown;
        }
        let on_volume =
            matches!(action, Action::ExtendVolume { .. } | Action::DeleteVolume | Action::DiscardVolume(_));
        if let Some(volume) = self.volume.present_mut() {
            volume.stale |= on_volume;
        }
        let on_machine = matches!(
            action,
            Action::Start
                | Action::Stop
                | Action::Restart
                | Action::Update
                | Action::DeleteMachine
                | Action::Recreate
        );
        if let Some(machine) = self.machine.present_mut() {
            machine.stale |= on_machine;
        }
    }

    /// The sidecar's word. One that speaks for another machine or generation is not heard.
    #[must_use]
    pub fn hear(&self, report: Report) -> Option<Self> {
        let machine = self.machine.present()?;
        if machine.id != report.machine || report.generation != self.generation {
            return None;
        }
        let mut next = self.clone();
        if report.ready {
            next.efforts.starts = 0;
            next.efforts.restarts = 0;
            next.efforts.recreations = 0;
        }
        next.report = Some(report);
        next.heard = true;
        Some(next)
    }

    /// Our lease on the machine, if one holds.
    #[must_use]
    pub fn lease_on(&self, machine: &MachineId, now: UnixMillis) -> Option<&HeldLease> {
        self.lease.as_ref().filter(|lease| lease.machine == *machine && now < lease.until)
    }

    /// Whether `region` has said lately that it has no room.
    #[must_use]
    pub fn is_full(&self, region: &str, now: UnixMillis) -> bool {
        self.full.iter().any(|full| full.region == region && now < full.until)
    }

    /// The efforts that count under this version of the wish.
    #[must_use]
    pub fn efforts_under(&self, desired: &Desired) -> Efforts {
        if self.efforts.version == desired.version {
            self.efforts.clone()
        } else {
            Efforts::under(desired.version)
        }
    }

    /// Takes in a machine as Fly reports it.
    pub(super) fn see_machine(&mut self, seen: &wire::Machine, now: UnixMillis) {
        let before = self.machine.present().filter(|held| held.id == seen.id);
        let same = before.filter(|held| held.state == seen.state && held.instance == seen.instance_id);
        let held = HeldMachine {
            id: seen.id.clone(),
            instance: seen.instance_id.clone(),
            state: seen.state,
            host: seen.host_status,
            config: seen.config.clone().or_else(|| before.and_then(|held| held.config.clone())),
            since: same.map_or(now, |held| held.since),
            read_at: now,
            stale: false,
            missing_since: None,
        };
        // Fly moves a machine to another host under another volume id.
        let mount = seen.config.as_ref().and_then(|config| config.mounts.first());
        if let (Some(mount), Some(volume)) = (mount, self.volume.present_mut())
            && mount.volume != volume.id
        {
            volume.id = mount.volume.clone();
            volume.stale = true;
        }
        self.note_host(seen.host_status, now);
        // The volume is where its machine is.
        if let Some(volume) = self.volume.present_mut() {
            volume.host = seen.host_status;
        }
        if matches!(seen.state, MachineState::Destroyed) {
            self.machine = Knowledge::Absent;
        } else {
            self.machine = Knowledge::Present(held);
            // It has run, or is about to.
            if self.content == Content::Empty {
                self.content = Content::Held;
            }
        }
    }

    /// Takes in a volume as Fly reports it.
    pub(super) fn see_volume(&mut self, seen: &wire::Volume, now: UnixMillis) {
        let before = self.volume.present().filter(|held| held.id == seen.id);
        let held = HeldVolume {
            id: seen.id.clone(),
            region: seen.region.clone(),
            size_gb: seen.size_gb,
            host: seen.host_status,
            read_at: now,
            stale: false,
            missing_since: None,
            deleting: before.is_some_and(|held| held.deleting),
            extended_at: before.and_then(|held| held.extended_at),
            restart_due: before.is_some_and(|held| held.restart_due),
        };
        self.volume = Knowledge::Present(held);
        self.note_host(seen.host_status, now);
    }

    /// Out of reach is out of reach since it was first seen so. `Unknown` says nothing either way.
    const fn note_host(&mut self, host: HostStatus, now: UnixMillis) {
        match host {
            HostStatus::Ok => self.unreachable_since = None,
            HostStatus::Unreachable if self.unreachable_since.is_none() => self.unreachable_since = Some(now),
            HostStatus::Unreachable | HostStatus::Unknown => {}
        }
    }

    /// Begins the next generation: other names, nothing known, and what there was is kept aside.
    pub(super) fn next_generation(&mut self, why: RetiredWhy, region: Option<String>, now: UnixMillis) {
        let machine = self.machine.present().map(|held| held.id.clone());
        let volume = self.volume.present().map(|held| held.id.clone());
        self.copy_of = match why {
            RetiredWhy::Moved => volume.clone(),
            RetiredWhy::Lost | RetiredWhy::Empty => None,
        };
        self.content = match why {
            RetiredWhy::Lost => Content::Awaited,
            RetiredWhy::Moved | RetiredWhy::Empty => Content::Empty,
        };
        if machine.is_some() || volume.is_some() {
            self.retired.push(Retired {
                generation: self.generation,
                at: now,
                why,
                machine,
                volume,
                deleting: false,
                not_before: now,
            });
        }
        let Generation(number) = self.generation;
        self.generation = Generation(number.saturating_add(1));
        self.volume = Knowledge::Unknown;
        self.machine = Knowledge::Unknown;
        self.region = region;
        self.unreachable_since = None;
        self.lease = None;
        self.report = None;
        // What was begun there is in the copy.
        self.heard &= why == RetiredWhy::Moved;
    }

    /// The last try has failed, or there is no point in another.
    pub(super) fn give_up(
        &mut self,
        cause: Cause,
        desired: &Desired,
        retry_at: Option<UnixMillis>,
        now: UnixMillis,
    ) {
        let since = self.attention.as_ref().filter(|old| old.cause == cause).map_or(now, |old| old.since);
        let retry_at = retry_at.or_else(|| cause.recheck_ms().map(|ms| now.plus_ms(ms)));
        self.attempts = 0;
        self.not_before = UnixMillis(0);
        self.attention = Some(Attention { cause, since, version: desired.version, retry_at, probing: false });
    }
}

/// Where a user stands, as the dashboard shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    NotStarted,
    CreatingApp,
    AllocatingIps,
    CreatingVolume,
    CreatingMachine,
    Starting,
    WaitingForGateway,
    Ready,
    /// Its host or volume is out of reach or lost; data is being brought back, or waited for.
    Recovering,
    Moving,
    Suspended,
    Deleting,
    Deleted,
}

/// The stage of a record. Whether the user needs attention is said by the plan, in addition.
#[must_use]
pub fn stage(desired: &Desired, record: &Record, now: UnixMillis) -> Stage {
    use super::desired::Want;
    match desired.want {
        Want::Delete { .. } => {
            return if record.purged { Stage::Deleted } else { Stage::Deleting };
        }
        Want::Suspend => return Stage::Suspended,
        Want::Run => {}
    }
    if record.content == Content::Awaited || record.unreachable_since.is_some() || is_lost(record) {
        return Stage::Recovering;
    }
    let relocating = desired.relocation.as_ref().is_some_and(|order| order.number > record.relocated);
    let ready = super::plan::is_ready(record, now);
    if (relocating && record.content == Content::Held) || (record.copy_of.is_some() && !ready) {
        return Stage::Moving;
    }
    if ready {
        return Stage::Ready;
    }
    match (&record.app, &record.volume, &record.machine) {
        (Knowledge::Unknown, _, _) if record.sent.is_none() && record.last_error.is_none() => {
            Stage::NotStarted
        }
        (Knowledge::Unknown | Knowledge::Absent, _, _) => Stage::CreatingApp,
        (Knowledge::Present(_), Knowledge::Unknown, _) if record.addresses.present().is_none() => {
            Stage::AllocatingIps
        }
        (Knowledge::Present(_), Knowledge::Unknown | Knowledge::Absent, _) => Stage::CreatingVolume,
        (Knowledge::Present(_), Knowledge::Present(_), Knowledge::Present(machine)) => {
            if machine.state == MachineState::Started { Stage::WaitingForGateway } else { Stage::Starting }
        }
        (Knowledge::Present(_), Knowledge::Present(_), _) => Stage::CreatingMachine,
    }
}

/// Whether there was data, and the volume is gone.
pub(super) fn is_lost(record: &Record) -> bool {
    record.content == Content::Held && matches!(record.volume, Knowledge::Absent)
}

/// What an error that cannot be helped is called.
pub(super) const fn cause_of(fault: &Fault) -> Cause {
    match fault {
        Fault::NameTaken | Fault::MachineExists(_) => Cause::NameForeign,
        Fault::NotFound | Fault::VolumeNotFound => Cause::NotFound,
        Fault::RegionFull | Fault::HostFull => Cause::Capacity,
        Fault::Quota => Cause::Quota,
        Fault::Blocked => Cause::Blocked,
        Fault::Unauthorized => Cause::Credentials,
        Fault::Forbidden => Cause::Forbidden,
        Fault::LeaseHeld | Fault::LeaseLost | Fault::Changed => Cause::LeaseHeld,
        Fault::VolumeInUse => Cause::VolumeInUse,
        Fault::NotYet => Cause::Stuck,
        Fault::HostUnavailable => Cause::HostDown,
        Fault::Rejected => Cause::Rejected,
        Fault::RateLimited | Fault::NotSent | Fault::Unknown => Cause::ApiUnavailable,
    }
}
