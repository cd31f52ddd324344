//! When the agent's process is started, ended and started again. Pure: [`Supervision::step`] takes what has
//! happened and returns what to do.
//!
//! ```text
//!          begin              handshake answered
//!  Idle ─────────▶ Starting ───────────────────────▶ Running
//!                   ▲  ▲ │ │                          │ │
//!      time is up   │  │ │ └─────── any exit ─────────┘ │ restart, drain: SIGTERM
//!  ┌──── Waiting ───┘  │ ▼         (also exit 0)        ▼ silent, too slow: SIGKILL
//!  │        ▲ ▲        └─ restart asked for ◀──────── Ending ── 6 s ──▶ SIGKILL
//!  │        │ └───────── was silent ◀────────────────── │
//!  │        │ exit                                      │ drain
//!  │      (exit) ─── third quick exit 1 ──▶ Halted      ▼
//!  │                  configuration changed,  │ drain  Ended
//!  │                  restart: ▶ Starting     ▼
//!  └───────────────────────── drain ────────▶ Ended
//! ```
//!
//! There is at most one process: only [`Effect::Spawn`] makes one, and only where there is none.

use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

/// From SIGTERM to SIGKILL. With a client that does not answer its goodbye the agent needs 5.1 s by itself.
pub const STOP_GRACE: Duration = Duration::from_secs(6);

/// From the spawn to the answered handshake. The first start on a slow shared processor was seen to need a minute.
pub const START_LIMIT: Duration = Duration::from_secs(180);

/// Up for this long, and what failed before is forgotten.
pub const STEADY: Duration = Duration::from_secs(60);

/// An agent that exits with 1 so soon, before it was ready, has not got far: its configuration, its port, its
/// program. Where the processor is slow it takes longer, and then its words count ([`Event::Exited`]).
pub const QUICK: Duration = Duration::from_secs(5);

/// So many quick failures in a row are no accident.
pub const QUICK_FAILURES: u8 = 3;

/// Longest pause before a start, with the jitter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Between two restarts that somebody asked for: one costs seconds of the processor.
pub const RESTART_INTERVAL: Duration = Duration::from_secs(10);

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Idle,
    Starting { spawned: Instant },
    Running { spawned: Instant },
    Ending { why: Why, spawned: Instant, kill_at: Option<Instant> },
    Waiting { until: Instant },
    Halted,
    Ended,
}

/// Why a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Restart,
    Silent,
    Drain,
}

/// What has happened. `jitter` is any number, by which pauses differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Begin,
    /// The handshake of this process was answered.
    Ready,
    /// Its event loop has not answered for too long.
    Silent,
    /// It, and all that it had started, is gone. Its last words say whether it was the configuration.
    Exited {
        exit: Exit,
        oom: Oom,
        refuses_config: bool,
        jitter: u8,
    },
    /// There is no process: it could not be started.
    NotSpawned {
        jitter: u8,
    },
    /// [`Supervision::deadline`] has come.
    Timer,
    Restart,
    ConfigChanged,
    Drain,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Spawn,
    /// SIGTERM to the process.
    Terminate,
    /// SIGKILL to its group.
    Kill,
}

/// How a process ended: by one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// What the kernel's counters say about a lack of memory while the process ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oom {
    /// A process was killed for it, or ours has said that its heap is full.
    Yes,
    No,
    Unknown,
}

/// Why a process ended, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AgentExitCause)]
pub enum Cause {
    /// Exit 0 that we did not ask for. The agent does so when a client hinders its own restart.
    Clean,
    Failed,
    /// Exit 1 before it was ready: at once, or with words about its configuration.
    FailedAtStart,
    Signal,
    OutOfMemory,
    /// Killed by us, since it did not answer.
    Silent,
    /// Asked for.
    Restart,
    /// The machine stops.
    Drain,
    NotSpawned,
}

impl Cause {
    pub const ALL: [Self; 9] = [
        Self::Clean,
        Self::Failed,
        Self::FailedAtStart,
        Self::Signal,
        Self::OutOfMemory,
        Self::Silent,
        Self::Restart,
        Self::Drain,
        Self::NotSpawned,
    ];

    /// As in metrics, logs and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Failed => "failed",
            Self::FailedAtStart => "failed_at_start",
            Self::Signal => "signal",
            Self::OutOfMemory => "out_of_memory",
            Self::Silent => "silent",
            Self::Restart => "restart",
            Self::Drain => "drain",
            Self::NotSpawned => "not_spawned",
        }
    }
}

/// Why a restart is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRestart {
    /// The machine stops, or the agent is about to end anyway.
    Stopping,
    /// The last one was asked for a moment ago.
    TooSoon { retry_after: Duration },
}

/// The whole memory of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supervision {
    state: State,
    /// In a row, for the pause.
    failures: u32,
    /// In a row, for the halt.
    quick_failures: u8,
    starts: u64,
    last_cause: Option<Cause>,
    restart_asked: Option<Instant>,
}

impl Default for Supervision {
    fn default() -> Self {
        let state = State::Idle;
        Self { state, failures: 0, quick_failures: 0, starts: 0, last_cause: None, restart_asked: None }
    }
}

impl Supervision {
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Processes started so far, those that could not be included.
    #[must_use]
    pub const fn starts(&self) -> u64 {
        self.starts
    }

    /// Why the last process ended.
    #[must_use]
    pub const fn last_cause(&self) -> Option<Cause> {
        self.last_cause
    }

    /// When [`Event::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { spawned } => spawned.checked_add(START_LIMIT),
            State::Ending { kill_at, .. } => kill_at,
            State::Waiting { until } => Some(until),
            State::Idle | State::Running { .. } | State::Halted | State::Ended => None,
        }
    }

    /// Whether [`Event::Restart`] may be given.
    ///
    /// # Errors
    /// Why not.
    pub fn may_restart(&self, now: Instant) -> Result<(), NoRestart> {
        if matches!(self.state, State::Idle | State::Ending { .. } | State::Ended) {
            return Err(NoRestart::Stopping);
        }
        let since = self.restart_asked.map(|at| now.saturating_duration_since(at));
        match since.and_then(|since| RESTART_INTERVAL.checked_sub(since)) {
            Some(retry_after) if !retry_after.is_zero() => Err(NoRestart::TooSoon { retry_after }),
            Some(_) | None => Ok(()),
        }
    }

    /// What follows from `event`. An event that means nothing in this state changes nothing.
    #[must_use]
    pub fn step(self, event: Event, now: Instant) -> (Self, Option<Effect>) {
        match (self.state, event) {
            (State::Idle, Event::Begin) => self.spawn(now),
            (State::Starting { spawned }, Event::Ready) => (self.at(State::Running { spawned }), None),
            (State::Starting { spawned }, Event::Timer)
                if now.saturating_duration_since(spawned) >= START_LIMIT =>
            {
                self.kill(spawned)
            }
            (State::Running { spawned }, Event::Silent) => self.kill(spawned),
            (State::Starting { spawned } | State::Running { spawned }, Event::Restart) => {
                let asked = Self { restart_asked: Some(now), ..self };
                asked.terminate(Why::Restart, spawned, now)
            }
            (State::Starting { spawned } | State::Running { spawned }, Event::Drain) => {
                self.terminate(Why::Drain, spawned, now)
            }
            (
                State::Starting { spawned } | State::Running { spawned },
                Event::Exited { exit, oom, refuses_config, jitter },
            ) => {
                let quick = matches!(self.state, State::Starting { .. })
                    && exit.code == Some(1)
                    && (refuses_config || now.saturating_duration_since(spawned) <= QUICK);
                let cause = if quick { Cause::FailedAtStart } else { cause_of(exit, oom) };
                self.exited(cause, spawned, now, jitter)
            }
            (State::Starting { spawned } | State::Running { spawned }, Event::NotSpawned { jitter }) => {
                self.exited(Cause::NotSpawned, spawned, now, jitter)
            }

            (State::Ending { why, spawned, kill_at: Some(at) }, Event::Timer) if now >= at => {
                (self.at(State::Ending { why, spawned, kill_at: None }), Some(Effect::Kill))
            }
            (State::Ending { spawned, kill_at, .. }, Event::Drain) => {
                (self.at(State::Ending { why: Why::Drain, spawned, kill_at }), None)
            }
            (
                State::Ending { why, spawned, .. },
                Event::Exited { jitter, .. } | Event::NotSpawned { jitter },
            ) => match why {
                Why::Restart => {
                    let afresh = Self { failures: 0, quick_failures: 0, ..self };
                    Self { last_cause: Some(Cause::Restart), ..afresh }.spawn(now)
                }
                Why::Silent => self.exited(Cause::Silent, spawned, now, jitter),
                Why::Drain => (Self { last_cause: Some(Cause::Drain), ..self }.at(State::Ended), None),
            },

            (State::Waiting { until }, Event::Timer) if now >= until => self.spawn(now),
            (State::Waiting { .. } | State::Halted, Event::Restart) => {
                let asked = Self { restart_asked: Some(now), failures: 0, quick_failures: 0, ..self };
                asked.spawn(now)
            }
            (State::Halted, Event::ConfigChanged) => {
                Self { failures: 0, quick_failures: 0, ..self }.spawn(now)
            }
            (State::Idle | State::Waiting { .. } | State::Halted, Event::Drain) => {
                (self.at(State::Ended), None)
            }

            // A timer that is early, news of a process that is gone, orders that are already carried out.
            (
                State::Idle
                | State::Starting { .. }
                | State::Running { .. }
                | State::Ending { .. }
                | State::Waiting { .. }
                | State::Halted
                | State::Ended,
                Event::Begin
                | Event::Ready
                | Event::Silent
                | Event::Exited { .. }
                | Event::NotSpawned { .. }
                | Event::Timer
                | Event::Restart
                | Event::ConfigChanged
                | Event::Drain,
            ) => (self, None),
        }
    }

    const fn at(self, state: State) -> Self {
        Self { state, ..self }
    }

    const fn spawn(self, now: Instant) -> (Self, Option<Effect>) {
        let starts = self.starts.saturating_add(1);
        (Self { starts, ..self }.at(State::Starting { spawned: now }), Some(Effect::Spawn))
    }

    fn terminate(self, why: Why, spawned: Instant, now: Instant) -> (Self, Option<Effect>) {
        let kill_at = Some(now.checked_add(STOP_GRACE).unwrap_or(now));
        (self.at(State::Ending { why, spawned, kill_at }), Some(Effect::Terminate))
    }

    /// An event loop that does not turn hears no SIGTERM.
    const fn kill(self, spawned: Instant) -> (Self, Option<Effect>) {
        (self.at(State::Ending { why: Why::Silent, spawned, kill_at: None }), Some(Effect::Kill))
    }

    fn exited(self, cause: Cause, spawned: Instant, now: Instant, jitter: u8) -> (Self, Option<Effect>) {
        let steady = now.saturating_duration_since(spawned) >= STEADY;
        let failures = if steady { 0 } else { self.failures };
        let quick_failures = match cause {
            Cause::FailedAtStart => self.quick_failures.saturating_add(1),
            Cause::Clean
            | Cause::Failed
            | Cause::Signal
            | Cause::OutOfMemory
            | Cause::Silent
            | Cause::Restart
            | Cause::Drain
            | Cause::NotSpawned => 0,
        };
        let state = if quick_failures >= QUICK_FAILURES {
            State::Halted
        } else {
            State::Waiting { until: now.checked_add(pause(failures, jitter)).unwrap_or(now) }
        };
        let failures = failures.saturating_add(1);
        (Self { failures, quick_failures, last_cause: Some(cause), ..self }.at(state), None)
    }
}

/// The kernel says of a process that it killed for lack of memory only that a SIGKILL ended it; we did not send it.
const fn cause_of(exit: Exit, oom: Oom) -> Cause {
    match (exit.code, exit.signal, oom) {
        (Some(0), _, _) => Cause::Clean,
        (_, _, Oom::Yes) | (_, Some(9), Oom::Unknown) => Cause::OutOfMemory,
        (_, Some(_), Oom::No | Oom::Unknown) => Cause::Signal,
        (_, None, Oom::No | Oom::Unknown) => Cause::Failed,
    }
}

/// 1, 2, 4, 8, 16, then 24 s, and up to a quarter more.
fn pause(failures: u32, jitter: u8) -> Duration {
    let base_ms = 1_000_u64.saturating_mul(1_u64.checked_shl(failures.min(5)).unwrap_or(1)).min(24_000);
    let more_ms = base_ms.saturating_mul(u64::from(jitter)) / 1_024;
    Duration::from_millis(base_ms.saturating_add(more_ms)).min(BACKOFF_MAX)
}

#[cfg(test)]
#[path = "supervision_tests.rs"]
mod tests;
