//! The things that there are, and what happens to them by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use crate::profile::{Profile, Range};
use crate::rates::Rates;
use crate::secrets::Secrets;

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Starting,
    Started,
    Stopping,
    Stopped,
    Failed,
    Replacing,
    Destroying,
    Destroyed,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Replacing => "replacing",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether it takes memory of its host.
    #[must_use]
    pub const fn reserves(self) -> bool {
        match self {
            Self::Created | Self::Starting | Self::Started | Self::Stopping | Self::Replacing => true,
            Self::Stopped | Self::Failed | Self::Destroying | Self::Destroyed => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    Creating,
    /// A copy that can be mounted already.
    Hydrating,
    Created,
    PendingDestroy,
}

impl VolumeState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Hydrating => "hydrating",
            Self::Created => "created",
            Self::PendingDestroy => "pending_destroy",
        }
    }
}

#[derive(Debug, Clone)]
pub struct App {
    pub network: String,
    /// When it is found.
    pub visible_at: u64,
    /// When it is gone.
    pub gone_at: Option<u64>,
    pub addresses: BTreeSet<String>,
    pub secrets: Secrets,
}

#[derive(Debug, Clone)]
pub struct Host {
    pub region: String,
    pub zone: String,
    pub memory_mb: u64,
    /// What other organisations use of it.
    pub others_mb: u64,
    pub alive: bool,
    /// Takes no orders for now.
    pub maintenance: bool,
    /// Images that it has run.
    pub images: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub app: String,
    pub name: String,
    pub host: usize,
    pub state: State,
    /// What comes next by itself.
    pub next: VecDeque<(u64, State)>,
    pub config: Map<String, Value>,
    pub instance: String,
    pub lease: Option<(String, u64)>,
    pub visible_at: u64,
    pub destroyed_at: Option<u64>,
    /// Until then a start is refused.
    pub active_until: u64,
    /// To go back to after an update that does not fit.
    pub revert: Option<(Map<String, Value>, String)>,
    pub cordoned: bool,
    /// The newest last.
    pub events: VecDeque<Note>,
    /// Where it is reached from inside of its network.
    pub private_ip: String,
    /// How often it has started.
    pub run: u64,
    /// A process of it is there, as far as whoever runs it has told.
    pub process: bool,
    /// When it was started again after it had ended by itself, within the last five minutes.
    pub restarts: VecDeque<u64>,
    /// How the one who asked wants it stopped, if not as configured: a signal, and what time it has in ms.
    pub stop_as: (Option<String>, Option<u64>),
    /// The version of the app's secrets that its boot has to have at least; 0 for any.
    pub min_secrets_version: u64,
    pub skip_secrets: bool,
    /// What it was given at its last start.
    pub secrets: BTreeMap<String, String>,
}

impl Machine {
    /// What its guest takes.
    #[must_use]
    pub fn memory_mb(&self) -> u64 {
        memory_of(&self.config)
    }

    #[must_use]
    pub fn mount(&self) -> Option<&str> {
        self.config.get("mounts")?.get(0)?.get("volume")?.as_str()
    }

    #[must_use]
    pub fn image(&self) -> &str {
        self.config.get("image").and_then(Value::as_str).unwrap_or_default()
    }

    #[must_use]
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.get("env")?.get(name)?.as_str()
    }

    pub(crate) fn note(&mut self, now: u64, kind: &'static str, status: &'static str, source: &'static str) {
        self.note_with(now, kind, status, source, None);
    }

    pub(crate) fn note_with(
        &mut self,
        at: u64,
        kind: &'static str,
        status: &'static str,
        source: &'static str,
        request: Option<Value>,
    ) {
        if self.events.len() >= 50 {
            self.events.pop_front();
        }
        self.events.push_back(Note { at, kind, status, source, request });
    }
}

pub(crate) fn memory_of(config: &Map<String, Value>) -> u64 {
    config.get("guest").and_then(|guest| guest.get("memory_mb")).and_then(Value::as_u64).unwrap_or(256)
}

#[derive(Debug, Clone)]
pub struct Volume {
    pub app: String,
    pub name: String,
    pub host: usize,
    pub size_gb: u64,
    pub state: VolumeState,
    pub ready_at: u64,
    pub attached: Option<String>,
    /// Until then it stays claimed by a machine that is gone.
    pub claimed_until: u64,
    pub visible_at: u64,
    pub deleted_at: Option<u64>,
    /// What is on it, for whoever plays the machine: empty, or whose data.
    pub data: String,
    pub snapshots: Vec<(u64, String)>,
}

/// An entry of a machine's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub at: u64,
    pub kind: &'static str,
    pub status: &'static str,
    pub source: &'static str,
    pub request: Option<Value>,
}

/// Something that happened to a volume, for whoever keeps its files. Only with [`Profile::real_processes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    Made {
        volume: String,
    },
    /// A copy, which begins once the process of `machine` has ended.
    Copied {
        from: String,
        to: String,
        machine: Option<String>,
    },
    Snapshot {
        volume: String,
        snapshot: String,
    },
    Restored {
        volume: String,
        snapshot: String,
    },
    /// Its host is lost.
    Lost {
        volume: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    pub oom_killed: bool,
}

/// Something that happened to a machine, for whoever runs its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Started { machine: String },
    Ended { machine: String },
}

/// The whole of it.
#[derive(Debug, Clone)]
pub struct Fly {
    pub profile: Profile,
    pub hosts: Vec<Host>,
    pub apps: BTreeMap<String, App>,
    pub machines: BTreeMap<String, Machine>,
    pub volumes: BTreeMap<String, Volume>,
    /// What happened to machines since this was last drained.
    pub events: Vec<Event>,
    /// What happened to volumes since this was last drained.
    pub disks: Vec<Disk>,
    /// Fields of requests that Fly would ignore without a word.
    pub ignored: Vec<String>,
    /// How many calls were refused with 429.
    pub refused: u64,
    pub(crate) names: BTreeMap<(String, String), String>,
    pub(crate) in_app: BTreeMap<String, BTreeSet<String>>,
    pub(crate) due: BTreeSet<(u64, String)>,
    pub(crate) rates: Rates,
    pub(crate) rng: fastrand::Rng,
    pub(crate) serial: u64,
    pub(crate) reserved: Vec<u64>,
}

impl Fly {
    /// An empty one.
    #[must_use]
    pub fn new(profile: Profile, seed: u64) -> Self {
        let mut hosts = Vec::new();
        for region in &profile.regions {
            for (n, memory_mb) in region.hosts_mb.iter().enumerate() {
                hosts.push(Host {
                    region: region.code.clone(),
                    zone: format!("{}-z{n}", region.code),
                    memory_mb: *memory_mb,
                    others_mb: 0,
                    alive: true,
                    maintenance: false,
                    images: BTreeSet::new(),
                });
            }
        }
        let reserved = vec![0; hosts.len()];
        Self {
            profile,
            hosts,
            apps: BTreeMap::new(),
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            events: Vec::new(),
            disks: Vec::new(),
            ignored: Vec::new(),
            refused: 0,
            names: BTreeMap::new(),
            in_app: BTreeMap::new(),
            due: BTreeSet::new(),
            rates: Rates::default(),
            rng: fastrand::Rng::with_seed(seed),
            serial: 0,
            reserved,
        }
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next_change(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Lets happen what happens by itself up to `now`.
    pub fn advance(&mut self, now: u64) {
        while let Some((at, id)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.due.pop_first();
            if let Some(app) = id.strip_prefix("app ") {
                self.bury_app(app, at);
                continue;
            }
            let Some(machine) = self.machines.get_mut(&id) else { continue };
            let Some(&(due, state)) = machine.next.front() else { continue };
            let waits_for_exit = machine.process && machine.state != State::Started;
            if due != at || waits_for_exit || !self.hosts.get(machine.host).is_some_and(|host| host.alive) {
                continue;
            }
            machine.next.pop_front();
            self.enter(&id, state, at);
            if let Some(&(due, _)) = self.machines.get(&id).and_then(|machine| machine.next.front()) {
                self.due.insert((due, id));
            }
        }
    }

    /// Puts a machine into a state, with what follows from it.
    pub(crate) fn enter(&mut self, id: &str, state: State, now: u64) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        let before = machine.state;
        let host = machine.host;
        if let Some(reserved) = self.reserved.get_mut(host) {
            if before.reserves() && !state.reserves() {
                *reserved = reserved.saturating_sub(machine.memory_mb());
            } else if !before.reserves() && state.reserves() {
                *reserved = reserved.saturating_add(machine.memory_mb());
            }
        }
        machine.state = state;
        match state {
            State::Started => {
                if let Some(host) = self.hosts.get_mut(host) {
                    host.images.insert(machine.image().to_owned());
                }
                machine.note(now, "start", "started", "flyd");
                self.run_process(id, now);
            }
            State::Failed => machine.note(now, "launch", "failed", "flyd"),
            State::Stopped => {
                machine.active_until = now.saturating_add(self.profile.still_active);
                if let Some((config, instance)) = machine.revert.take() {
                    // Rule 10: it did not fit. The memory was given back above, by the new guest's size.
                    machine.config = config;
                    machine.instance = instance;
                    machine.note(now, "revert", "stopped", "flyd");
                }
            }
            State::Destroyed => {
                machine.destroyed_at = Some(now);
                let mount = machine.mount().map(str::to_owned);
                let name = (machine.app.clone(), machine.name.clone());
                self.names.remove(&name);
                let linger = self.pick(self.profile.claim);
                if let Some(volume) = mount.and_then(|mount| self.volumes.get_mut(&mount)) {
                    volume.claimed_until = now.saturating_add(linger);
                    volume.attached = None;
                }
            }
            State::Created | State::Starting | State::Stopping | State::Replacing | State::Destroying => {}
        }
        if before == State::Started && state != State::Started {
            self.events.push(Event::Ended { machine: id.to_owned() });
        }
    }

    /// Sets what comes next for a machine; what was to come does not.
    pub(crate) fn schedule(&mut self, id: &str, steps: &[(u64, State)]) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        if let Some((due, _)) = machine.next.front() {
            self.due.remove(&(*due, id.to_owned()));
        }
        machine.next = steps.iter().copied().collect();
        if let Some((due, _)) = steps.first() {
            self.due.insert((*due, id.to_owned()));
        }
    }

    /// A number from a range.
    pub(crate) fn pick(&mut self, range: Range) -> u64 {
        let Range(low, high) = range;
        if high <= low { low } else { self.rng.u64(low..=high) }
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.saturating_add(1);
        self.serial
    }

    /// What is to be told to whoever keeps volumes.
    pub(crate) fn tell_disk(&mut self, disk: Disk) {
        if self.profile.real_processes {
            self.disks.push(disk);
        }
    }

    /// An address for a machine: unique as long as there are fewer than 64,000.
    pub(crate) fn new_address(&mut self) -> String {
        let serial = self.next_serial();
        match self.profile.loopback {
            Some(net) => format!("127.{net}.{}.{}", (serial / 250) % 256, (serial % 250).saturating_add(2)),
            None => format!("fdaa:0:1:{:x}::3", serial % 0xffff),
        }
    }

    pub(crate) fn new_instance(&mut self) -> String {
        format!("01M{:023}", self.next_serial())
    }

    /// Memory that is free on a host, in MB.
    pub(crate) fn free_mb(&self, host: usize) -> u64 {
        let total = self.hosts.get(host).map_or(0, |host| host.memory_mb.saturating_sub(host.others_mb));
        total.saturating_sub(self.reserved.get(host).copied().unwrap_or(0))
    }

    /// Memory that the organisation uses in a region, in MB.
    pub(crate) fn used_mb(&self, region: &str) -> u64 {
        self.hosts
            .iter()
            .zip(&self.reserved)
            .filter(|(host, _)| host.region == region)
            .map(|(_, reserved)| *reserved)
            .sum()
    }

    fn bury_app(&mut self, app: &str, now: u64) {
        let ids: Vec<String> = self.in_app.get(app).into_iter().flatten().cloned().collect();
        for id in ids {
            if self.machines.get(&id).is_some_and(|machine| machine.state != State::Destroyed) {
                self.schedule(&id, &[]);
                self.enter(&id, State::Destroyed, now);
            }
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.state = VolumeState::PendingDestroy;
                volume.deleted_at.get_or_insert(now);
            }
        }
        self.apps.remove(app);
        self.in_app.remove(app);
    }
}
