//! The clock, the things, and what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;

use edge::fly::budget::{Bucket, Budget};
use edge::fly::wire::Guest;
use edge::fly::{HttpReply, Lost};
use edge::machine::desired::Restore;
use edge::machine::{Action, Desired, Layout, Plan, Record, Setup, Spec, Want};
use fly_model::{Fly, Profile, Range, Region};
use shared::id::UserId;
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::time::UnixMillis;

use crate::chaos::Chaos;
use crate::judge::Judge;
use crate::mutation::Mutation;

/// When histories begin, in ms: not 0, so that "never" and "at the beginning" differ.
pub(crate) const START: u64 = 1_000_000;

/// How long after the last fault everybody must have come to rest, in ms.
const CALM_MS: u64 = 4 * 60 * 60_000;

/// How long after the last fault nobody is believed to be at rest, in ms: longer than it takes to look again at
/// what seems well.
const REST_MS: u64 = 10 * 60_000;

/// Most things that happen in one history. One that goes beyond runs in circles.
const MAX_EVENTS: u64 = 60_000;

/// What can happen.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// A user's executor looks what to do.
    Wake(usize),
    /// A call reaches Fly.
    Arrival { call: usize },
    /// An answer, or the end of waiting for one, reaches who called.
    Answer { user: usize, call: u64, action: Action, reply: Result<HttpReply, Lost> },
    /// The data plane has finished.
    DataDone { user: usize, call: u64, action: Action },
    /// A sidecar says how things stand.
    Report { machine: String, life: u64 },
    /// Something goes wrong, or right again.
    Chaos(Chaos),
    /// Only the clock goes on.
    Tick,
}

/// A call on its way.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) user: usize,
    pub(crate) call: u64,
    pub(crate) action: Action,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) nonce: Option<String>,
    pub(crate) body: Option<String>,
    pub(crate) fate: Fate,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It is carried out, and the answer is an error page.
    AnswerBroken,
    /// It is not carried out, and the answer is an error page.
    Broken,
    /// Fly says that we are too fast.
    Refused,
    /// A copy that the network made; nobody waits for its answer.
    Echo,
}

/// One user: what should be, what is stored, and who executes.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) desired: Desired,
    /// All that survives a crash.
    pub(crate) stored: Record,
    /// Stored as well.
    pub(crate) budget: Budget,
    /// What the executor remembers; the same as what is stored unless a rule is missing.
    pub(crate) memory: Option<Record>,
    /// A call's time that was reserved.
    pub(crate) reserved: Option<(Bucket, u64)>,
    /// The call whose answer is waited for.
    pub(crate) awaiting: Option<u64>,
    /// Whether data was ever written.
    pub(crate) has_data: bool,
    /// What was decided last.
    pub(crate) plan: Option<Plan>,
    pub(crate) ready_at: Option<u64>,
}

/// How a history is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) mutation: Option<Mutation>,
    pub(crate) trace: bool,
    /// Probability of a fault of the network for each call, and of a crash at each step, in 1000.
    pub(crate) network: u32,
    pub(crate) crashes: u32,
    /// Whether users are done with once they are ready.
    pub(crate) until_ready: bool,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) setup: Setup,
    pub(crate) keys: SigningKeys,
    pub(crate) fly: Fly,
    pub(crate) users: Vec<User>,
    pub(crate) by_id: BTreeMap<String, usize>,
    /// The buckets that users share.
    pub(crate) shared: Budget,
    pub(crate) under_way: edge::fly::budget::UnderWay,
    pub(crate) flights: Vec<Flight>,
    pub(crate) options: Options,
    pub(crate) calm: bool,
    pub(crate) judge: Judge,
    pub(crate) rng: fastrand::Rng,
    pub(crate) trace: Vec<String>,
    /// Lives of machines' processes: grows with each start.
    pub(crate) lives: BTreeMap<String, u64>,
    /// Machines whose sidecar has gone silent, and whose agent does not come up.
    pub(crate) hung: BTreeSet<String>,
    pub(crate) calls: BTreeMap<String, u64>,
    pub(crate) not_ready: usize,
    pub(crate) serial: u64,
    /// When the clock was last asked to go on.
    pub(crate) next_tick: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
}

/// What a history came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub calls: u64,
    pub crashes: u64,
    pub faults: u64,
    pub ready: u64,
    pub suspended: u64,
    pub deleted: u64,
    pub attention: u64,
    /// Generations beyond the first: recoveries and moves.
    pub generations: u64,
    /// What was done and why, what was refused, and what needed attention, each with how often.
    pub seen: BTreeMap<String, u64>,
}

impl Summary {
    pub(crate) fn see(&mut self, what: String) {
        let count = self.seen.entry(what).or_default();
        *count = count.saturating_add(1);
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (mine, theirs) in [
            (&mut self.events, other.events),
            (&mut self.calls, other.calls),
            (&mut self.crashes, other.crashes),
            (&mut self.faults, other.faults),
            (&mut self.ready, other.ready),
            (&mut self.suspended, other.suspended),
            (&mut self.deleted, other.deleted),
            (&mut self.attention, other.attention),
            (&mut self.generations, other.generations),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        for (what, count) in &other.seen {
            let mine = self.seen.entry(what.clone()).or_default();
            *mine = mine.saturating_add(*count);
        }
        self
    }
}

/// The name of a variant, without what is in it.
pub(crate) fn variant(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// A history in which something happened that must not.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Lives one history to its end.
///
/// # Errors
/// For the first thing that must not happen, with the whole trace.
pub fn history(seed: u64, mutation: Option<Mutation>) -> Result<Summary, Failure> {
    let run = |trace| {
        let mut world = World::random(seed, mutation, trace);
        let outcome = world.live();
        (outcome, world.trace)
    };
    run(false).0.map_err(|_| {
        let (outcome, trace) = run(true);
        let what = outcome.err().unwrap_or_else(|| "did not fail when it was repeated".to_owned());
        Failure { seed, what, trace }
    })
}

impl World {
    pub(crate) fn new(setup: Setup, profile: Profile, options: Options, seed: u64) -> Self {
        Self {
            now: START,
            keys: keys(),
            fly: Fly::new(profile, seed),
            users: Vec::new(),
            by_id: BTreeMap::new(),
            shared: Budget::default(),
            under_way: edge::fly::budget::UnderWay::default(),
            flights: Vec::new(),
            options,
            calm: false,
            judge: Judge::default(),
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            trace: Vec::new(),
            lives: BTreeMap::new(),
            hung: BTreeSet::new(),
            calls: BTreeMap::new(),
            not_ready: 0,
            serial: 0,
            next_tick: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            setup,
        }
    }

    /// A few users, some faults, a layout: all by the seed.
    fn random(seed: u64, mutation: Option<Mutation>, trace: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shared = rng.u8(0..4) == 0;
        let layout = if shared {
            Layout::Shared { app: app("automna-shared") }
        } else {
            Layout::PerUser { prefix: "automna-u".to_owned() }
        };
        let setup = Setup { org: "automna".to_owned(), layout };
        // Where hosts are small, a second machine or a larger one may not fit.
        let tight = rng.u8(0..4) == 0;
        let host_mb = if tight { 4_096 } else { 16_384 };
        let region =
            |code: &str, hosts: usize| Region { code: code.to_owned(), hosts_mb: vec![host_mb; hosts] };
        let profile = Profile {
            regions: vec![region("sjc", 2), region("iad", 2)],
            list_lag: Range(0, [0, 1000, 3000].get(rng.usize(0..3)).copied().unwrap_or(0)),
            pull: Range(0, [0, 5_000, 90_000].get(rng.usize(0..3)).copied().unwrap_or(0)),
            claim: Range(0, [0, 10_000, 120_000].get(rng.usize(0..3)).copied().unwrap_or(0)),
            retry_after: rng.bool(),
            misplaced: if tight { 300 } else { 20 },
            meddled: 50,
            quota_mb: if tight { 6_000 } else { u64::MAX },
            ..Profile::default()
        };
        let options = Options {
            mutation,
            trace,
            network: [0, 30, 100, 250].get(rng.usize(0..4)).copied().unwrap_or(0),
            crashes: [0, 20, 80].get(rng.usize(0..3)).copied().unwrap_or(0),
            until_ready: false,
        };
        let mut world = Self::new(setup, profile, options, seed);
        world.judge.tight = tight;
        if shared {
            world.make_shared_app();
        }
        let restore = if rng.u8(0..4) == 0 { Restore::Unavailable } else { Restore::Available };
        for n in 0..rng.usize(1..=2) {
            world.add_user(
                &format!("user_{}{n}", ["a", "B", "c"].get(rng.usize(0..3)).copied().unwrap_or("a")),
                restore,
            );
            let after = rng.u64(0..20_000);
            world.at(after, Happening::Wake(n));
        }
        if rng.u8(0..50) == 0 {
            // Somebody has the first user's name already.
            let app = world.users.first().and_then(|user| {
                edge::machine::names::names(&world.setup.layout, &user.desired.user, user.stored.generation)
            });
            let own = matches!(world.setup.layout, Layout::PerUser { .. });
            world.fly.profile.foreign_apps.extend(app.filter(|_| own).map(|names| names.app.to_string()));
        }
        let chaos_ms = rng.u64(5..40) * 60_000;
        let count = rng.usize(0..6);
        for _ in 0..count {
            let chaos = Chaos::random(&mut rng, world.users.len());
            world.at(rng.u64(0..chaos_ms), Happening::Chaos(chaos));
        }
        world.at(chaos_ms, Happening::Chaos(Chaos::Over));
        world
    }

    /// The app that somebody made by hand.
    pub(crate) fn make_shared_app(&mut self) {
        let body = br#"{"name":"automna-shared","org_slug":"automna"}"#;
        let token = self.fly.profile.token.clone();
        let request = fly_model::Request { method: "POST", path: "/apps", token: &token, nonce: None, body };
        self.fly.handle(0, &request);
    }

    pub(crate) fn add_user(&mut self, id: &str, restore: Restore) {
        let desired = Desired {
            user: user(id),
            version: 1,
            want: Want::Run,
            spec: Spec {
                image: "registry.fly.io/agent@sha256:01".to_owned(),
                guest: Guest {
                    cpu_kind: "shared".to_owned(),
                    cpus: 2,
                    memory_mb: 2048,
                    rest: serde_json::Map::new(),
                },
                volume_gb: 1,
                volume_limit_gb: 4,
                regions: vec!["sjc".to_owned(), "iad".to_owned()],
                env: BTreeMap::from([("LOG".to_owned(), "info".to_owned())]),
            },
            relocation: None,
            restore,
            released: None,
        };
        self.by_id.insert(id.to_owned(), self.users.len());
        self.not_ready = self.not_ready.saturating_add(1);
        self.users.push(User {
            desired,
            stored: Record::new(),
            budget: Budget::default(),
            memory: None,
            reserved: None,
            awaiting: None,
            has_data: false,
            plan: None,
            ready_at: None,
        });
    }

    /// Lets something happen, in so many ms.
    pub(crate) fn at(&mut self, in_ms: u64, happening: Happening) {
        let index = self.happenings.len();
        self.happenings.push(Some(happening));
        let at = self.now.saturating_add(in_ms);
        self.queue.push(Reverse((at, index as u64, index)));
    }

    pub(crate) fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.options.trace {
            let line = format!("{:>9.3} s  {}", (self.now - START) as f64 / 1000.0, line(self));
            self.trace.push(line);
        }
    }

    pub(crate) const fn clock(&self) -> UnixMillis {
        UnixMillis(self.now)
    }

    /// One chance in 1000 per point.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }

    fn live(&mut self) -> Result<Summary, String> {
        let mut end = None;
        while let Some(Reverse((at, _, index))) = self.queue.pop() {
            if let Some(end) = end
                && at > end
            {
                break;
            }
            self.now = self.now.max(at);
            self.judge.summary.events = self.judge.summary.events.saturating_add(1);
            if self.judge.summary.events > MAX_EVENTS {
                return Err("it runs in circles".to_owned());
            }
            let Some(happening) = self.happenings.get_mut(index).and_then(Option::take) else { continue };
            self.happen(happening)?;
            if self.calm && end.is_none() {
                end = Some(self.now.saturating_add(CALM_MS));
                self.judge.rest_after = self.now.saturating_add(REST_MS);
            }
            if self.calm && self.now >= self.judge.rest_after && self.at_rest() {
                break;
            }
        }
        self.judge_the_end()
    }

    /// What follows when `happening` happens.
    pub(crate) fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Wake(user) => self.wake(user)?,
            Happening::Arrival { call } => self.arrive(call)?,
            Happening::Answer { user, call, action, reply } => self.answer(user, call, &action, &reply)?,
            Happening::DataDone { user, call, action } => self.data_done(user, call, &action)?,
            Happening::Tick => {}
            Happening::Report { machine, life } => self.report(&machine, life)?,
            Happening::Chaos(chaos) => self.wreak(chaos),
        }
        self.processes()
    }

    /// Takes the next thing from the queue, for those who count for themselves.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let Reverse((at, _, index)) = self.queue.pop()?;
        self.now = self.now.max(at);
        self.happenings.get_mut(index).and_then(Option::take)
    }
}

pub(crate) fn user(id: &str) -> UserId {
    id.parse().unwrap_or_else(|_| unreachable_id())
}

pub(crate) fn app(name: &str) -> shared::id::AppName {
    name.parse().unwrap_or_else(|_| unreachable_id())
}

#[expect(clippy::panic, reason = "a simulator's own constant is wrong: nothing it says would count")]
fn unreachable_id() -> ! {
    panic!("the simulator uses an id that is none")
}

#[expect(clippy::panic, reason = "a simulator's own constant is wrong: nothing it says would count")]
fn keys() -> SigningKeys {
    match Secret::new("simulated") {
        Some(secret) => SigningKeys::new(secret, None),
        None => panic!("the simulator's secret is empty"),
    }
}
