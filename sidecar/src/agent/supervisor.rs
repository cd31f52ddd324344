//! The task that keeps the agent alive. It decides nothing: [`supervision`](super::supervision) does.

use std::fmt;
use std::fs;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use shared::secret::Secret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::command::{AgentCommand, EnvValue};
use super::liveness::{self, Liveness};
use super::output::{Output, Stream};
use super::process::{self, Process};
use super::status::{LastExit, Phase, Status};
use super::supervision::{Cause, Effect, Event, Exit, NoRestart, State, Supervision};
use super::{oom, supervision};
use crate::metrics::Metrics;
use crate::metrics::labels::Step;
use crate::readiness::Watch;
use crate::{clock, random};

/// Of the agent's last words.
const MAX_WORDS: usize = 40;

/// What the agent says when it does not start for its configuration's sake.
const REFUSES_CONFIG: &str = "Config invalid";

/// For what is still in the pipes of a process that has ended.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at a configuration that has failed.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// Of orders that wait. There are two kinds, from two places.
const WAITING_ORDERS: usize = 8;

/// From the order to stop to the end of the process and of all it had started: SIGTERM, 6 s, SIGKILL, leftovers.
pub const STOP_LIMIT: Duration = Duration::from_secs(supervision::STOP_GRACE.as_secs() + 3);

/// What is supervised.
#[derive(Debug)]
pub struct Settings {
    pub command: AgentCommand,
    /// Where the agent listens.
    pub address: SocketAddr,
    /// Looked at while the agent does not like it.
    pub config_file: PathBuf,
    /// Puts right what a process may have left behind: run before each start but the first, while there is none.
    /// It may block.
    pub heal: Heal,
}

/// See [`Settings::heal`].
#[derive(Clone)]
pub struct Heal(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Heal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heal")
    }
}

enum Order {
    Restart(oneshot::Sender<Result<u64, NoRestart>>),
    Drain,
}

/// Speaks to the task. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    pub output: Output,
}

impl Handle {
    /// How the process is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Has the agent end and start again. Returns the number of the start that follows.
    ///
    /// # Errors
    /// See [`NoRestart`].
    pub async fn restart(&self) -> Result<u64, NoRestart> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Restart(reply)).await.map_err(|_| NoRestart::Stopping)?;
        answer.await.map_err(|_| NoRestart::Stopping)?
    }

    /// Ends the agent for good; returns once nothing of it is left, within [`STOP_LIMIT`].
    pub async fn drain(&self) {
        // Without a task there is no process either.
        let _gone = self.orders.send(Order::Drain).await;
        let mut status = self.status.clone();
        let _gone = status.wait_for(|status| status.state == Phase::Ended).await;
    }
}

/// Starts the agent and keeps it alive until it is told to drain. To be called once, on the thread that lives as
/// long as the process.
///
/// # Errors
/// The kernel does not let us look after processes.
pub fn start(settings: Settings, output: Output, readiness: Watch, metrics: Metrics) -> io::Result<Handle> {
    process::adopt_orphans()?;
    let child_ended = signal(SignalKind::child())?;
    let (orders, inbox) = mpsc::channel(WAITING_ORDERS);
    let (status, watch) = watch::channel(Status::new(clock::now()));
    let keeper = Keeper {
        settings,
        output: output.clone(),
        readiness,
        metrics,
        supervision: Supervision::default(),
        running: None,
        last_spawn: Before::default(),
        status,
    };
    tokio::spawn(keeper.run(inbox, child_ended));
    Ok(Handle { orders, status: watch, output })
}

/// The values that a command hides in its environment, for the redactor.
pub fn secrets_of(command: &AgentCommand) -> impl Iterator<Item = Secret> + '_ {
    command.env.values().filter_map(|value| match value {
        EnvValue::Secret(secret) => Some(secret.clone()),
        EnvValue::Plain(_) => None,
    })
}

struct Keeper {
    settings: Settings,
    output: Output,
    readiness: Watch,
    metrics: Metrics,
    supervision: Supervision,
    running: Option<Running>,
    last_spawn: Before,
    status: watch::Sender<Status>,
}

/// What belongs to one process.
struct Running {
    process: Process,
    readers: JoinSet<()>,
    /// Says nothing until the event loop is silent for too long.
    silence: mpsc::Receiver<()>,
    prober: Option<mpsc::Sender<()>>,
    probing: Option<Probing>,
}

/// A probe task that ends with its process.
struct Probing(AbortHandle);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How things were before a process was started.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    spawned: Option<Instant>,
    lines: u64,
    oom_kills: Option<u64>,
    config: Fingerprint,
}

/// Enough to see that a file is another one or has been written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Fingerprint(Option<(u64, u64, i64, i64)>);

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>, mut child_ended: Signal) {
        self.handle(Event::Begin).await;
        while self.supervision.state() != State::Ended {
            let event = tokio::select! {
                order = inbox.recv() => match order {
                    Some(Order::Restart(reply)) => self.judge_restart(reply),
                    // Nobody can give an order any more: the process is about to end.
                    Some(Order::Drain) | None => Some(Event::Drain),
                },
                news = news(&mut self.running) => Some(match news {
                    News::Ended(status, pid) => self.after_exit(status, pid).await,
                    News::Silent => Event::Silent,
                }),
                () = at(self.supervision.deadline()) => Some(Event::Timer),
                () = ready(self.supervision.state(), &mut self.readiness) => Some(Event::Ready),
                () = config_changed(self.supervision.state(), &self.settings.config_file, self.last_spawn.config) => {
                    Some(Event::ConfigChanged)
                }
                _ = child_ended.recv() => {
                    process::reap(self.running.as_ref().map(|running| running.process.pid));
                    None
                }
            };
            if let Some(event) = event {
                self.handle(event).await;
            }
        }
    }

    fn judge_restart(&self, reply: oneshot::Sender<Result<u64, NoRestart>>) -> Option<Event> {
        let judged = self.supervision.may_restart(Instant::now());
        let answer = judged.map(|()| self.supervision.starts().saturating_add(1));
        // Who has asked may be gone; the order stands.
        let _gone = reply.send(answer);
        judged.is_ok().then_some(Event::Restart)
    }

    async fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let before = self.supervision;
            let (after, effect) = before.step(event, Instant::now());
            self.supervision = after;
            if let Event::Exited { exit, .. } = event {
                self.record_exit(exit, before.state());
            } else if matches!(event, Event::NotSpawned { .. }) {
                self.record_exit(Exit { code: None, signal: None }, before.state());
            }
            match effect {
                Some(Effect::Spawn) => {
                    self.heal().await;
                    next = self.spawn().err();
                }
                Some(Effect::Terminate) => self.process().into_iter().for_each(Process::terminate),
                Some(Effect::Kill) => self.process().into_iter().for_each(Process::kill),
                None => {}
            }
            if let (State::Starting { spawned }, State::Running { .. }) = (before.state(), after.state()) {
                self.metrics.booted(Step::Agent, spawned.elapsed());
                self.begin_to_probe();
            }
            if before.state() != after.state() {
                self.publish();
            }
        }
    }

    fn process(&self) -> Option<&Process> {
        self.running.as_ref().map(|running| &running.process)
    }

    fn spawn(&mut self) -> Result<(), Event> {
        self.last_spawn = Before {
            spawned: Some(Instant::now()),
            lines: self.output.count(),
            oom_kills: oom::kills(),
            config: Fingerprint::of(&self.settings.config_file),
        };
        let attempt = self.supervision.starts();
        self.readiness.begin_anew();
        match process::spawn(&self.settings.command) {
            Ok(mut process) => {
                tracing::info!(pid = process.pid.as_raw_nonzero(), attempt, "agent started");
                self.metrics.agent_started();
                let mut readers = JoinSet::new();
                if let Some(out) = process.child.stdout.take() {
                    readers.spawn(self.output.clone().take(out, Stream::Out));
                }
                if let Some(err) = process.child.stderr.take() {
                    readers.spawn(self.output.clone().take(err, Stream::Err));
                }
                let (prober, silence) = mpsc::channel(1);
                let prober = Some(prober);
                self.running = Some(Running { process, readers, silence, prober, probing: None });
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, attempt, "agent could not be started: {error}");
                Err(Event::NotSpawned { jitter: random::jitter() })
            }
        }
    }

    /// A lock of a process that is gone would be taken for another's with the same number, and a line that was cut
    /// off would swallow the next one.
    async fn heal(&self) {
        if self.supervision.starts() > 1 {
            let heal = self.settings.heal.clone();
            // It says itself what it could not do, and the agent starts all the same.
            let _said = tokio::task::spawn_blocking(move || (heal.0)()).await;
        }
    }

    fn begin_to_probe(&mut self) {
        if let Some(running) = &mut self.running
            && let Some(tell) = running.prober.take()
        {
            let (address, metrics) = (self.settings.address, self.metrics.clone());
            running.probing = Some(Probing(tokio::spawn(probe(address, tell, metrics)).abort_handle()));
        }
    }

    /// Ends what the process left behind and reads its last words.
    async fn after_exit(&mut self, status: io::Result<ExitStatus>, pid: Pid) -> Event {
        use std::os::unix::process::ExitStatusExt as _;
        process::end_leftovers(pid).await;
        if let Some(mut running) = self.running.take() {
            let _in_time =
                timeout(LAST_WORDS_WITHIN, async { while running.readers.join_next().await.is_some() {} })
                    .await;
        }
        let exit = status.map_or(Exit { code: None, signal: None }, |status| Exit {
            code: status.code(),
            signal: status.signal(),
        });
        let words = self.output.since(self.last_spawn.lines, MAX_WORDS);
        let oom = oom::judge(self.last_spawn.oom_kills, oom::kills(), &words);
        let refuses_config = words.iter().any(|line| line.contains(REFUSES_CONFIG));
        Event::Exited { exit, oom, refuses_config, jitter: random::jitter() }
    }

    /// After the step, so that the cause is known.
    fn record_exit(&mut self, exit: Exit, before: State) {
        let Some(cause) = self.supervision.last_cause() else { return };
        let up = self.last_spawn.spawned.map_or(Duration::ZERO, |at| at.elapsed());
        let up_ms = u64::try_from(up.as_millis()).unwrap_or(u64::MAX);
        let Exit { code, signal } = exit;
        let (cause_text, phase) = (cause.as_str(), Phase::from(before).as_str());
        let asked_for = matches!(cause, Cause::Restart | Cause::Drain);
        if asked_for {
            tracing::info!(cause = cause_text, ?code, ?signal, up_ms, phase, "agent ended: {cause_text}");
        } else {
            tracing::warn!(cause = cause_text, ?code, ?signal, up_ms, phase, "agent ended: {cause_text}");
        }
        self.metrics.agent_exited(cause);
        let words = if asked_for { Vec::new() } else { self.output.since(self.last_spawn.lines, MAX_WORDS) };
        let last_exit = Some(LastExit { cause, code, signal, at: clock::now(), up_ms });
        self.status.send_modify(|status| {
            let count = status.exits.entry(cause).or_default();
            *count = count.saturating_add(1);
            status.last_exit = last_exit;
            status.words = words;
        });
    }

    fn publish(&self) {
        let state = self.supervision.state();
        let now = clock::now();
        let next_start_at = match state {
            State::Waiting { until } => {
                let pause = until.saturating_duration_since(Instant::now());
                Some(now.plus_ms(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)))
            }
            State::Idle
            | State::Starting { .. }
            | State::Running { .. }
            | State::Ending { .. }
            | State::Halted
            | State::Ended => None,
        };
        if state == State::Halted {
            tracing::error!("agent not started again: it does not like its configuration");
        }
        let pid = self.process().map(|process| process.pid.as_raw_nonzero().get());
        self.status.send_modify(|status| {
            status.state = state.into();
            status.since = now;
            status.pid = pid;
            status.restarts = self.supervision.starts().saturating_sub(1);
            status.next_start_at = next_start_at;
            // What it said when it failed is over once it works.
            if status.state == Phase::Running {
                status.words.clear();
            }
        });
    }
}

impl Fingerprint {
    fn of(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        Self(found.map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec())))
    }
}

/// Of the process that runs.
enum News {
    Ended(io::Result<ExitStatus>, Pid),
    Silent,
}

async fn news(running: &mut Option<Running>) -> News {
    let Some(Running { process, silence, .. }) = running else { return pending().await };
    tokio::select! {
        status = process.child.wait() => News::Ended(status, process.pid),
        // It says so once; then, and when nobody probes any more, this way is closed.
        Some(()) = silence.recv() => News::Silent,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

async fn ready(state: State, readiness: &mut Watch) {
    match state {
        State::Starting { spawned } => readiness.connected_after(spawned).await,
        State::Idle
        | State::Running { .. }
        | State::Ending { .. }
        | State::Waiting { .. }
        | State::Halted
        | State::Ended => pending().await,
    }
}

async fn config_changed(state: State, file: &Path, before: Fingerprint) {
    if state != State::Halted {
        return pending().await;
    }
    while Fingerprint::of(file) == before {
        sleep(CONFIG_POLL).await;
    }
}

/// Looks after the event loop; speaks once, when it is silent for too long.
async fn probe(address: SocketAddr, tell: mpsc::Sender<()>, metrics: Metrics) {
    let mut liveness = Liveness::default();
    loop {
        sleep(liveness::INTERVAL).await;
        let sent = Instant::now();
        let answered = liveness::probe(address).await;
        if !answered {
            metrics.agent_missed_a_probe();
        }
        if liveness.record(answered, sent, Instant::now()) {
            tracing::error!("agent silent for more than {} s", liveness::SILENT_AFTER.as_secs());
            let _gone = tell.send(()).await;
            return;
        }
    }
}
