//! Who acts for a user: load, plan, store, perform, learn, store. It may crash between any two of these.

use edge::fly::budget::Bucket;
use edge::fly::{ApiError, Call, HttpReply, Lost};
use edge::machine::call::{Performed, call};
use edge::machine::learn::LocalFault;
use edge::machine::plan::Settled;
use edge::machine::record::Report;
use edge::machine::{Action, Layout, Outcome, Plan, Record, plan};
use fly_model::{Event, State};
use shared::id::Generation;

use crate::mutation::Mutation;
use crate::world::{Fate, Flight, Happening, World, variant};

/// How long the caller waits for an answer, in ms.
const PATIENCE_MS: u64 = 10_000;

/// How late a call can still take effect, in ms: less than the control plane takes to look for what it made.
const LATEST_MS: u64 = 15_000;

impl World {
    /// A user's executor looks what to do, and does it.
    pub(crate) fn wake(&mut self, n: usize) -> Result<(), String> {
        let clock = self.clock();
        let Some(user) = self.users.get(n) else { return Ok(()) };
        if self.options.until_ready && user.ready_at.is_some() {
            return Ok(());
        }
        let record = user.memory.clone().unwrap_or_else(|| user.stored.clone());
        let decided = plan(&self.setup, &user.desired, &record, clock);
        self.note_plan(n, &decided)?;
        let action = match decided {
            Plan::Do(action, why) => {
                self.judge.summary.see(format!("{} {why:?}", variant(&action)));
                self.say(|_| format!("user {n}: {action:?} ({why:?})"));
                action
            }
            Plan::Wait { until, .. } => {
                self.at(until.since(clock).max(1), Happening::Wake(n));
                return Ok(());
            }
            Plan::Done { until, .. } | Plan::NeedsAttention { until, .. } => {
                if let Some(until) = until {
                    self.at(until.since(clock).max(1), Happening::Wake(n));
                }
                return Ok(());
            }
        };
        let Some(user) = self.users.get(n) else { return Ok(()) };
        let performed = call(&self.setup, &user.desired, &record, &self.keys, &action, clock);
        match performed {
            Err(refusal) => self.learn(n, &action, Outcome::Refused(refusal)),
            Ok(Performed::ByRecord) => {
                if self.crashes(n) {
                    return Ok(());
                }
                self.begin(n, &record, &action);
                self.learn(n, &action, Outcome::Local(Ok(())))
            }
            Ok(Performed::ByDataPlane(_)) => {
                self.begin(n, &record, &action);
                let (call, takes) = (self.await_new(n), self.rng.u64(1_000..25_000));
                self.at(takes, Happening::DataDone { user: n, call, action });
                Ok(())
            }
            Ok(Performed::ByFly(call)) => self.send(n, &record, action, &call),
        }
    }

    /// Waits for the call's turn, stores what is intended, and lets the call go.
    fn send(&mut self, n: usize, record: &Record, action: Action, call: &Call) -> Result<(), String> {
        let clock = self.clock();
        let bucket = call.bucket(&self.setup.org);
        if self.options.mutation != Some(Mutation::NoBudget) {
            let waiting = self.users.get(n).and_then(|user| user.reserved.as_ref());
            let has_turn = waiting.is_some_and(|(reserved, _)| *reserved == bucket);
            if !has_turn && !self.under_way.has_room(clock) {
                self.at(50, Happening::Wake(n));
                return Ok(());
            }
            let turn = self.turn(n, &bucket);
            if turn > self.now {
                self.at(turn.saturating_sub(self.now), Happening::Wake(n));
                return Ok(());
            }
            self.under_way.start(&n.to_string(), clock);
        }
        if self.crashes(n) {
            return Ok(());
        }
        self.begin(n, record, &action);
        if self.crashes(n) {
            return Ok(());
        }
        self.judge_sending(n, &bucket)?;
        let count = self.calls.entry(format!("{:?}", call.kind())).or_default();
        *count = count.saturating_add(1);
        self.judge.summary.calls = self.judge.summary.calls.saturating_add(1);
        self.fly_off(n, action, call);
        // The caller may die while it waits.
        self.crashes(n);
        Ok(())
    }

    /// When a call may be sent: now, or when the reserved turn comes.
    fn turn(&mut self, n: usize, bucket: &Bucket) -> u64 {
        let clock = self.clock();
        let shared = bucket.on == self.setup.org
            || matches!(&self.setup.layout, Layout::Shared { app } if app.as_str() == bucket.on);
        let Some(user) = self.users.get_mut(n) else { return self.now };
        if let Some((_, at)) = user.reserved.take_if(|(reserved, _)| reserved == bucket) {
            if at <= self.now {
                return self.now;
            }
            user.reserved = Some((bucket.clone(), at));
            return at;
        }
        let keeper = if shared { &mut self.shared } else { &mut user.budget };
        let at = keeper.reserve(bucket.clone(), clock).0;
        if at > self.now {
            user.reserved = Some((bucket.clone(), at));
        }
        at
    }

    /// The call leaves. What becomes of it is decided by chance.
    fn fly_off(&mut self, n: usize, action: Action, call: &Call) {
        let http = call.encode();
        let faulty = !self.calm && self.chance(self.options.network);
        let token = self.await_new(n);
        let (there, back) = (self.rng.u64(20..80), self.rng.u64(20..80));
        let mut flight = Flight {
            user: n,
            call: token,
            action: action.clone(),
            method: http.method.as_str(),
            path: http.path,
            nonce: http.nonce,
            body: http.body,
            fate: Fate::Fine,
        };
        let mut there = there;
        if faulty {
            self.judge.summary.faults = self.judge.summary.faults.saturating_add(1);
            let named = matches!(action, Action::CreateApp | Action::CreateMachine);
            match if named && self.rng.bool() { 6 } else { self.rng.u8(0..8) } {
                0 => {
                    self.say(|_| format!("user {n}: the call cannot be sent"));
                    self.at(
                        back,
                        Happening::Answer { user: n, call: token, action, reply: Err(Lost::NotSent) },
                    );
                    return;
                }
                1 => {
                    self.say(|_| format!("user {n}: the call is lost on its way"));
                    self.at(
                        PATIENCE_MS,
                        Happening::Answer { user: n, call: token, action, reply: Err(Lost::NoAnswer) },
                    );
                    return;
                }
                2 => flight.fate = Fate::AnswerLost,
                3 => flight.fate = Fate::AnswerBroken,
                4 => flight.fate = Fate::Broken,
                5 => flight.fate = Fate::Refused,
                // What has a unique name may come as late as it likes.
                6 if named => {
                    if matches!(action, Action::CreateApp) {
                        self.judge.late.insert(n);
                    }
                    // Often just when it has been looked for in vain.
                    there = if self.rng.bool() {
                        self.rng.u64(29_000..37_000)
                    } else {
                        self.rng.u64(0..LATEST_MS * 4)
                    };
                }
                6 => there = self.rng.u64(0..LATEST_MS),
                _ => {
                    // The network delivers twice. Two volumes for one call nobody can prevent; the sweep finds it.
                    if !matches!(action, Action::CreateVolume { .. }) {
                        let echo = Flight { fate: Fate::Echo, ..flight.clone() };
                        let index = self.flights.len();
                        self.flights.push(echo);
                        let late = there.saturating_add(self.rng.u64(0..3_000));
                        self.at(late, Happening::Arrival { call: index });
                    }
                }
            }
        }
        if flight.fate != Fate::Fine {
            let fate = flight.fate;
            self.say(|_| format!("user {n}: this call's fate is {fate:?}"));
        }
        let index = self.flights.len();
        self.flights.push(flight);
        if there > PATIENCE_MS {
            self.at(
                PATIENCE_MS,
                Happening::Answer { user: n, call: token, action, reply: Err(Lost::NoAnswer) },
            );
        }
        self.at(there, Happening::Arrival { call: index });
    }

    /// A call reaches Fly.
    pub(crate) fn arrive(&mut self, index: usize) -> Result<(), String> {
        let Some(flight) = self.flights.get(index).cloned() else { return Ok(()) };
        let Flight { user, call, action, fate, .. } = flight.clone();
        let back = self.rng.u64(20..80);
        let error = |status: u16, text: &str| HttpReply {
            status,
            request_id: Some("01Jerror-sim".to_owned()),
            retry_after: None,
            body: text.as_bytes().to_vec(),
        };
        let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
        match fate {
            Fate::Broken => {
                self.at(back, Happening::Answer { user, call, action, reply: Ok(error(502, page)) });
                return Ok(());
            }
            Fate::Refused => {
                let mut reply = error(429, r#"{"error":"rate limit exceeded"}"#);
                reply.retry_after = Some("2".to_owned());
                self.at(back, Happening::Answer { user, call, action, reply: Ok(reply) });
                return Ok(());
            }
            Fate::Fine | Fate::AnswerLost | Fate::AnswerBroken | Fate::Echo => {}
        }
        let token = if self.judge.token_fails { String::new() } else { self.fly.profile.token.clone() };
        let request = fly_model::Request {
            method: flight.method,
            path: &flight.path,
            token: &token,
            nonce: flight.nonce.as_deref(),
            body: flight.body.as_deref().unwrap_or_default().as_bytes(),
        };
        let response = self.fly.handle(self.now, &request);
        self.say(|_| {
            let body = String::from_utf8_lossy(&response.body);
            let shown: String =
                if response.status < 300 { String::new() } else { body.chars().take(120).collect() };
            format!("   fly: {} {} = {} {shown}", flight.method, flight.path, response.status)
        });
        self.judge_fly()?;
        let after = response.took_ms.saturating_add(back);
        let reply = match fate {
            Fate::Echo => return Ok(()),
            Fate::AnswerLost => {
                self.at(PATIENCE_MS, Happening::Answer { user, call, action, reply: Err(Lost::NoAnswer) });
                return Ok(());
            }
            Fate::AnswerBroken => error(503, ""),
            Fate::Fine | Fate::Broken | Fate::Refused => HttpReply {
                status: response.status,
                request_id: Some(response.request_id),
                retry_after: response.retry_after,
                body: response.body,
            },
        };
        self.at(after, Happening::Answer { user, call, action, reply: Ok(reply) });
        Ok(())
    }

    /// What came back, or that nothing did.
    pub(crate) fn answer(
        &mut self,
        n: usize,
        token: u64,
        action: &Action,
        reply: &Result<HttpReply, Lost>,
    ) -> Result<(), String> {
        let clock = self.clock();
        let Some(user) = self.users.get(n) else { return Ok(()) };
        // Who called is not there any more, or has given up on it.
        if user.awaiting != Some(token) {
            return Ok(());
        }
        let record = user.memory.as_ref().unwrap_or(&user.stored);
        self.under_way.back(&n.to_string());
        let asked = call(&self.setup, &user.desired, record, &self.keys, action, clock);
        let Ok(Performed::ByFly(asked)) = asked else {
            return Err(format!("user {n}: {action:?} does not fit the record any more"));
        };
        let decoded = asked.decode(reply);
        if let Err(error) = &decoded {
            let error: ApiError = error.clone();
            self.judge.summary.see(format!("fault {}", variant(&error.fault)));
            self.say(|_| format!("user {n}: {action:?} failed: {:?}", error.fault));
            if error.fault == edge::fly::Fault::RateLimited {
                let bucket = asked.bucket(&self.setup.org);
                if let Some(user) = self.users.get_mut(n) {
                    user.budget.refused(bucket, error.retry_after_ms, clock);
                }
            }
        }
        if self.crashes(n) {
            return Ok(());
        }
        self.judge_delivered(n, action, &decoded);
        self.learn(n, action, Outcome::Fly(decoded))?;
        self.crashes(n);
        Ok(())
    }

    /// The data plane has finished.
    pub(crate) fn data_done(&mut self, n: usize, token: u64, action: &Action) -> Result<(), String> {
        let Some(user) = self.users.get_mut(n) else { return Ok(()) };
        if user.awaiting != Some(token) {
            return Ok(());
        }
        let machine = user.stored.machine.present().map(|machine| machine.id.to_string());
        let outcome = if matches!(action, Action::PurgeData) {
            user.has_data = false;
            Ok(())
        } else {
            let id = user.desired.user.to_string();
            let found = machine.and_then(|machine| self.fly.machines.get(&machine));
            let running = found.filter(|machine| machine.state == State::Started);
            match running.and_then(|machine| machine.mount()).map(str::to_owned) {
                Some(volume) => {
                    self.fly.write(&volume, &id);
                    Ok(())
                }
                None => Err(LocalFault),
            }
        };
        self.learn(n, action, Outcome::Local(outcome))
    }

    /// Stores what is intended.
    fn begin(&mut self, n: usize, record: &Record, action: &Action) {
        let clock = self.clock();
        let Some(user) = self.users.get_mut(n) else { return };
        let begun = record.begin(&user.desired, action, clock);
        if self.options.mutation == Some(Mutation::NoStoreBeforeCall) {
            user.memory = Some(begun);
        } else {
            user.memory = None;
            user.stored = begun;
        }
    }

    /// Stores what an outcome taught, and goes on.
    fn learn(&mut self, n: usize, action: &Action, outcome: Outcome) -> Result<(), String> {
        let (clock, random, mutation) = (self.clock(), self.rng.u64(..), self.options.mutation);
        let outcome = match mutation {
            Some(mutation) => mutation.outcome(action, outcome),
            None => outcome,
        };
        let Some(user) = self.users.get_mut(n) else { return Ok(()) };
        user.awaiting = None;
        let before = user.memory.take().unwrap_or_else(|| user.stored.clone());
        let learned = before.learn(&self.setup, &user.desired, action, &outcome, clock, random);
        let learned = match mutation {
            Some(mutation) => mutation.record(learned),
            None => learned,
        };
        user.stored = learned;
        self.at(0, Happening::Wake(n));
        Ok(())
    }

    /// By chance, the executor dies here. It comes back, with what was stored.
    fn crashes(&mut self, n: usize) -> bool {
        if self.calm || !self.chance(self.options.crashes) {
            return false;
        }
        self.judge.summary.crashes = self.judge.summary.crashes.saturating_add(1);
        self.say(|_| format!("user {n}: crash"));
        let again_ms = self.rng.u64(0..4_000);
        let mutation = self.options.mutation;
        if let Some(user) = self.users.get_mut(n) {
            user.awaiting = None;
            user.memory = None;
            user.reserved = None;
            user.stored = match mutation {
                Some(Mutation::NoDoubtAfterRestart) => Record { sent: None, ..user.stored.clone() },
                Some(mutation) => mutation.record(user.stored.after_restart()),
                None => user.stored.after_restart(),
            };
        }
        self.under_way.back(&n.to_string());
        self.at(again_ms, Happening::Wake(n));
        true
    }

    /// A new answer to wait for; an earlier one is not waited for any more.
    fn await_new(&mut self, n: usize) -> u64 {
        self.serial = self.serial.saturating_add(1);
        if let Some(user) = self.users.get_mut(n) {
            user.awaiting = Some(self.serial);
        }
        self.serial
    }

    /// Machines' processes start and end as Fly says.
    pub(crate) fn processes(&mut self) -> Result<(), String> {
        self.fly.advance(self.now);
        for event in std::mem::take(&mut self.fly.events) {
            let (Event::Started { machine } | Event::Ended { machine }) = &event;
            let life = self.lives.entry(machine.clone()).or_default();
            *life = life.saturating_add(1);
            let life = *life;
            if let Event::Started { machine } = event {
                self.boot(&machine)?;
                self.hung.remove(&machine);
                self.judge.dull.remove(&machine);
                let owner =
                    self.fly.machines.get(&machine).and_then(|machine| machine.env("AUTOMNA_USER_ID"));
                let owner = owner.and_then(|id| self.by_id.get(id)).copied();
                if let Some(user) = owner.filter(|user| self.judge.looping.contains(user)) {
                    self.at(2_000, Happening::Chaos(crate::chaos::Chaos::MachineEnds { user }));
                }
                let boots_ms = self.rng.u64(5_000..60_000);
                self.at(boots_ms, Happening::Report { machine, life });
            }
        }
        if let Some(at) = self.fly.next_change()
            && at != self.next_tick
        {
            self.next_tick = at;
            self.at(at.saturating_sub(self.now), Happening::Tick);
        }
        Ok(())
    }

    /// A sidecar's minute.
    pub(crate) fn report(&mut self, machine: &str, life: u64) -> Result<(), String> {
        let alive = self.lives.get(machine) == Some(&life)
            && self.fly.machines.get(machine).is_some_and(|m| m.state == State::Started);
        if !alive {
            return Ok(());
        }
        if !self.options.until_ready {
            self.at(60_000, Happening::Report { machine: machine.to_owned(), life });
        }
        if self.hung.contains(machine) {
            return Ok(());
        }
        let Some(found) = self.fly.machines.get(machine) else { return Ok(()) };
        let n = found.env("AUTOMNA_USER_ID").and_then(|id| self.by_id.get(id)).copied();
        let generation = found.env("AUTOMNA_GENERATION").and_then(|text| text.parse().ok()).map(Generation);
        let (Some(n), Some(generation), Ok(id)) = (n, generation, machine.parse()) else { return Ok(()) };
        let volume = found.mount().and_then(|volume| self.fly.volumes.get(volume));
        let Some(volume) = volume else { return Ok(()) };
        let (has_data, size) = (!volume.data.is_empty(), volume.size_gb.saturating_mul(1 << 30));
        let used = if self.judge.filling.contains(machine) { size / 10 * 9 } else { size / 10 };
        let report = Report {
            at: self.clock(),
            machine: id,
            generation,
            // One that waits for its data does not start its agent.
            ready: has_data && !self.judge.dull.contains(machine),
            bytes_used: used,
            bytes_total: size,
        };
        let Some(user) = self.users.get_mut(n) else { return Ok(()) };
        let record = user.memory.as_mut().unwrap_or(&mut user.stored);
        if let Some(heard) = record.hear(report) {
            let news = record.report.as_ref().map(|r| r.ready) != heard.report.as_ref().map(|r| r.ready);
            *record = heard;
            let growing = used > size / 2;
            if news || growing {
                self.at(0, Happening::Wake(n));
            }
        }
        Ok(())
    }

    /// What the latest plan says of the user.
    fn note_plan(&mut self, n: usize, decided: &Plan) -> Result<(), String> {
        let changed = self.users.get(n).is_some_and(|user| user.plan.as_ref() != Some(decided));
        if changed {
            if let Plan::NeedsAttention { cause, .. } = decided {
                self.judge.summary.see(format!("attention {cause:?}"));
            }
            if !matches!(decided, Plan::Do(..)) {
                self.say(|_| format!("user {n}: {decided:?}"));
            }
        }
        self.judge_plan(n, decided)?;
        let now = self.now;
        if let Some(user) = self.users.get_mut(n) {
            user.plan = Some(decided.clone());
            if user.ready_at.is_none() && matches!(decided, Plan::Done { settled: Settled::Ready, .. }) {
                user.ready_at = Some(now);
                self.not_ready = self.not_ready.saturating_sub(1);
            }
        }
        Ok(())
    }
}
