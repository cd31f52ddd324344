//! What every request can reach. Frozen after the start, but for the arbiter's epoch.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::{Config, Identity};
use crate::epoch::Arbiter;
use crate::files::Files;
use crate::files::serve_archive::MAX_ARCHIVES;
use crate::files::serve_tus::Uploads;
use crate::logging;
use crate::proxy::connect::ConnectPolicy;
use crate::proxy::pulse::Pulse;
use crate::readiness::Watch;
use crate::stop::Stop;

/// A cheap handle; clones share one state.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

/// See [`App`].
#[derive(Debug)]
pub struct Inner {
    pub identity: Identity,
    /// The user in logs.
    pub user_hash: String,
    pub arbiter: Arbiter,
    /// The workspace.
    pub files: Files,
    pub uploads: Arc<Uploads>,
    /// Places for archives that are being made.
    pub archives: Arc<Semaphore>,
    /// Where the agent listens.
    pub agent: SocketAddr,
    /// Where the agent keeps sessions.
    pub agent_state_dir: PathBuf,
    /// Where the agent works.
    pub workspace_dir: PathBuf,
    /// What is done to a client's `connect`.
    pub connect: ConnectPolicy,
    /// What all open WebSockets hear at once.
    pub pulse: Pulse,
    /// What is known of the agent.
    pub readiness: Watch,
    /// For tasks that outlive their request.
    pub stop: Stop,
}

impl App {
    /// Puts the state together. `config` is used up, so that nothing reads it later.
    #[must_use]
    pub fn new(
        config: Config,
        arbiter: Arbiter,
        files: Files,
        uploads: Arc<Uploads>,
        readiness: Watch,
        stop: Stop,
    ) -> Self {
        let Config { identity, agent, agent_state_dir, workspace_dir, client_scopes, .. } = config;
        let user_hash = logging::user_hash(&identity.user);
        let connect = ConnectPolicy::new(identity.key.gateway_token(), client_scopes);
        let archives = Arc::new(Semaphore::new(MAX_ARCHIVES));
        Self(Arc::new(Inner {
            identity,
            user_hash,
            arbiter,
            files,
            uploads,
            archives,
            agent,
            agent_state_dir,
            workspace_dir,
            connect,
            pulse: Pulse::default(),
            readiness,
            stop,
        }))
    }
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
