//! What every request can reach. Frozen after the start, but for the arbiter's epoch.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::agent::supervisor::Handle;
use crate::boot::Report;
use crate::config::{Config, Identity};
use crate::epoch::Arbiter;
use crate::files::Files;
use crate::files::search::MAX_SEARCHES;
use crate::files::serve_archive::MAX_ARCHIVES;
use crate::files::serve_tus::Uploads;
use crate::logging;
use crate::metrics::Metrics;
use crate::proxy::connect::ConnectPolicy;
use crate::proxy::pulse::Pulse;
use crate::readiness::Watch;
use crate::routes::MAX_FOLLOWERS;
use crate::stop::Stop;
use crate::watch::feed::Feed;
use crate::writes::Writes;

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
    /// Places for searches that are under way.
    pub searches: Arc<Semaphore>,
    /// What changes in the workspace.
    pub feed: Feed,
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
    /// Keeps the agent alive; `None` if another does.
    pub supervisor: Option<Handle>,
    /// What the boot has found and done; `None` if there was none.
    pub boot: Option<Report>,
    pub metrics: Metrics,
    /// Writes under way.
    pub writes: Writes,
    /// Places for clients that follow the agent's log.
    pub followers: Arc<Semaphore>,
}

/// What the process has set up by its settings.
#[derive(Debug)]
pub struct Parts {
    pub arbiter: Arbiter,
    pub files: Files,
    pub uploads: Arc<Uploads>,
    pub readiness: Watch,
    pub stop: Stop,
    /// See [`Inner::supervisor`].
    pub supervisor: Option<Handle>,
    /// See [`Inner::boot`].
    pub boot: Option<Report>,
    pub metrics: Metrics,
}

impl Parts {
    /// Of a sidecar that supervises no agent.
    #[must_use]
    pub fn unsupervised(
        arbiter: Arbiter,
        files: Files,
        uploads: Arc<Uploads>,
        readiness: Watch,
        stop: Stop,
    ) -> Self {
        let metrics = Metrics::default();
        Self { arbiter, files, uploads, readiness, stop, supervisor: None, boot: None, metrics }
    }
}

impl App {
    /// Puts the state together. `config` is used up, so that nothing reads it later.
    #[must_use]
    pub fn new(config: Config, parts: Parts) -> Self {
        let Parts { arbiter, files, uploads, readiness, stop, supervisor, boot, metrics } = parts;
        let Config { identity, data_dir, agent, agent_state_dir, workspace_dir, client_scopes, .. } = config;
        let user_hash = logging::user_hash(&identity.user);
        let connect = ConnectPolicy::new(identity.key.gateway_token(), client_scopes);
        let archives = Arc::new(Semaphore::new(MAX_ARCHIVES));
        let searches = Arc::new(Semaphore::new(MAX_SEARCHES));
        let feed = Feed::new(files.clone(), data_dir.join(".automna/changes"));
        Self(Arc::new(Inner {
            identity,
            user_hash,
            arbiter,
            files,
            uploads,
            archives,
            searches,
            feed,
            agent,
            agent_state_dir,
            workspace_dir,
            connect,
            pulse: Pulse::default(),
            readiness,
            writes: Writes::new(stop.clone()),
            stop,
            supervisor,
            boot,
            metrics,
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }))
    }
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
