//! What `/api/status` and metrics know of the agent's process.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::time::UnixMillis;
use utoipa::ToSchema;

use super::supervision::{Cause, State, Why};

/// Where the process is in its life, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AgentPhase)]
pub enum Phase {
    Idle,
    Starting,
    Running,
    /// It ends, and another one follows.
    Restarting,
    /// It ends, and the machine with it.
    Stopping,
    /// A pause before the next start.
    Waiting,
    /// It does not like its configuration, so no start is tried until that changes or somebody asks for one.
    ConfigurationFailed,
    Ended,
}

impl Phase {
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Starting,
        Self::Running,
        Self::Restarting,
        Self::Stopping,
        Self::Waiting,
        Self::ConfigurationFailed,
        Self::Ended,
    ];

    /// As in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::ConfigurationFailed => "configuration_failed",
            Self::Ended => "ended",
        }
    }
}

impl From<State> for Phase {
    fn from(state: State) -> Self {
        match state {
            State::Idle => Self::Idle,
            State::Starting { .. } => Self::Starting,
            State::Running { .. } => Self::Running,
            State::Ending { why: Why::Drain, .. } => Self::Stopping,
            State::Ending { why: Why::Restart | Why::Silent, .. } => Self::Restarting,
            State::Waiting { .. } => Self::Waiting,
            State::Halted => Self::ConfigurationFailed,
            State::Ended => Self::Ended,
        }
    }
}

/// How the last process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AgentExit)]
pub struct LastExit {
    pub cause: Cause,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    pub at: UnixMillis,
    pub up_ms: u64,
}

/// The process as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AgentProcess)]
pub struct Status {
    pub state: Phase,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
    #[serde(skip)]
    pub pid: Option<i32>,
    /// Starts after the first, since the sidecar has started.
    pub restarts: u64,
    /// How often a process has ended, by cause.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub exits: BTreeMap<Cause, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next_start_at: Option<UnixMillis>,
    /// The agent's own last words, without the secrets that we know, if it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
}

impl Status {
    /// Before the first start.
    #[must_use]
    pub const fn new(now: UnixMillis) -> Self {
        Self {
            state: Phase::Idle,
            since: now,
            pid: None,
            restarts: 0,
            exits: BTreeMap::new(),
            last_exit: None,
            next_start_at: None,
            words: Vec::new(),
        }
    }
}
