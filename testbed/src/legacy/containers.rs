//! The users' containers: booted by the first request that needs one, stopped when nobody has used it for long
//! enough, booted again on the same directory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use shared::id::UserId;
use shared::secret::Secret;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, AgentSpec};
use crate::forward::Tasks;

/// How often containers are looked at for idleness, at least and at most.
const REAP_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What all containers have in common.
#[derive(Debug, Clone)]
pub(super) struct ContainerSpec {
    pub(super) node: PathBuf,
    pub(super) entry: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) model_url: String,
    pub(super) gateway_token: Secret,
}

/// What can be set while they run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) sleep_after: Option<Duration>,
    pub(super) cold_start: Duration,
}

/// The gateway of a container that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) addr: SocketAddr,
    pub(super) pid: i32,
}

#[derive(Debug)]
pub(super) struct Containers {
    spec: ContainerSpec,
    timing: Mutex<Timing>,
    all: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    boots: AtomicU64,
    /// Boots under way: a client that goes does not end them.
    booting: Tasks,
}

/// One user's place: with or without a container in it.
#[derive(Debug)]
struct Sandbox {
    id: String,
    /// Held while booting and stopping, so that at most one container is up.
    agent: tokio::sync::Mutex<Option<Agent>>,
    /// A copy for those who only look.
    running: Mutex<Option<Running>>,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    visits: usize,
    last_end: Instant,
}

/// Somebody uses a sandbox: as long as this value lives, it does not fall asleep.
#[derive(Debug)]
pub(super) struct Visit {
    sandbox: Arc<Sandbox>,
}

/// The legacy name of a user's sandbox. It folds case, as the legacy does: users whose ids differ in case alone
/// share one.
pub(super) fn sandbox_id(user: &UserId) -> String {
    format!("user-{user}").to_lowercase()
}

impl Containers {
    pub(super) fn new(spec: ContainerSpec, timing: Timing) -> Self {
        Self {
            spec,
            timing: Mutex::new(timing),
            all: Mutex::default(),
            boots: AtomicU64::new(0),
            booting: Tasks::default(),
        }
    }

    pub(super) fn timing(&self) -> MutexGuard<'_, Timing> {
        lock(&self.timing)
    }

    /// Where the user's container lives.
    pub(super) fn dir(&self, user: &UserId) -> PathBuf {
        self.spec.dir.join(sandbox_id(user))
    }

    pub(super) fn boots(&self) -> u64 {
        self.boots.load(Ordering::Relaxed)
    }

    pub(super) fn running_count(&self) -> usize {
        self.sandboxes().iter().filter(|sandbox| lock(&sandbox.running).is_some()).count()
    }

    /// The user's container, if it is up.
    pub(super) fn running(&self, user: &UserId) -> Option<Running> {
        *lock(&self.sandbox(user)?.running)
    }

    /// Begins a visit, without booting.
    pub(super) fn visit(&self, user: &UserId) -> Visit {
        let id = sandbox_id(user);
        let sandbox =
            Arc::clone(lock(&self.all).entry(id).or_insert_with_key(|id| Arc::new(Sandbox::new(id))));
        lock(&sandbox.usage).visits += 1;
        Visit { sandbox }
    }

    /// The visited container, booted if it is not up. Goes on when the caller stops waiting.
    pub(super) async fn boot(self: &Arc<Self>, visit: &Visit) -> Result<Running> {
        if let Some(running) = *lock(&visit.sandbox.running)
            && let Ok(mut agent) = visit.sandbox.agent.try_lock()
            && agent.as_mut().is_some_and(|agent| matches!(agent.has_ended(), Ok(false)))
        {
            return Ok(running);
        }
        let (reply, booted) = tokio::sync::oneshot::channel();
        let (containers, sandbox) = (Arc::clone(self), Arc::clone(&visit.sandbox));
        self.booting.spawn(async move {
            // Nobody may be waiting any more: the container is up all the same.
            let _ = reply.send(containers.ensure(&sandbox).await);
        });
        booted.await.context("the stand-in was stopped while the container booted")?
    }

    async fn ensure(&self, sandbox: &Sandbox) -> Result<Running> {
        let mut slot = sandbox.agent.lock().await;
        if let Some(agent) = slot.as_mut()
            && !agent.has_ended()?
        {
            return Ok(Running { addr: agent.addr(), pid: agent.pid() });
        }
        *slot = None;
        *lock(&sandbox.running) = None;
        self.boots.fetch_add(1, Ordering::Relaxed);
        let cold_start = self.timing().cold_start;
        sleep(cold_start).await;
        let spec = AgentSpec {
            node: self.spec.node.clone(),
            entry: self.spec.entry.clone(),
            dir: self.spec.dir.join(&sandbox.id),
            model_url: self.spec.model_url.clone(),
            gateway_token: self.spec.gateway_token.clone(),
            port: None,
        };
        let agent = Agent::start(&spec)
            .await
            .with_context(|| format!("the container {} does not boot", sandbox.id))?;
        let running = Running { addr: agent.addr(), pid: agent.pid() };
        *slot = Some(agent);
        *lock(&sandbox.running) = Some(running);
        Ok(running)
    }

    /// Stops the user's container, if it is up, whoever uses it.
    pub(super) async fn stop_one(&self, user: &UserId) -> Result<()> {
        let Some(sandbox) = self.sandbox(user) else { return Ok(()) };
        sandbox.stop().await
    }

    /// Kills the user's container, if it is up.
    pub(super) async fn kill_one(&self, user: &UserId) -> Result<()> {
        let Some(sandbox) = self.sandbox(user) else { return Ok(()) };
        let mut slot = sandbox.agent.lock().await;
        *lock(&sandbox.running) = None;
        match slot.take() {
            Some(agent) => agent.kill().await,
            None => Ok(()),
        }
    }

    /// Puts idle containers to sleep, for ever.
    pub(super) async fn reap(&self) {
        loop {
            let sleep_after = self.timing().sleep_after;
            let (least, most) = REAP_EVERY;
            sleep(sleep_after.map_or(most, |after| (after / 4).clamp(least, most))).await;
            let Some(sleep_after) = sleep_after else { continue };
            let mut stopping = JoinSet::new();
            for sandbox in self.sandboxes() {
                if lock(&sandbox.running).is_some() && sandbox.is_idle(sleep_after) {
                    // A request that comes in between waits for the end of this, and boots.
                    stopping.spawn(async move { sandbox.stop().await });
                }
            }
            // A container that will not end stays in nobody's way: its slot is free.
            while stopping.join_next().await.is_some() {}
        }
    }

    /// Ends boots under way, and the processes that they have started.
    pub(super) fn abort_boots(&self) {
        self.booting.abort_all();
    }

    /// Ends every boot and every container.
    pub(super) async fn stop_all(&self) -> Result<()> {
        self.abort_boots();
        let mut stopping = JoinSet::new();
        for sandbox in self.sandboxes() {
            stopping.spawn(async move { sandbox.stop().await });
        }
        let mut outcome = Ok(());
        while let Some(stopped) = stopping.join_next().await {
            outcome = outcome.and(stopped.context("stopping a container failed").and_then(|result| result));
        }
        outcome
    }

    fn sandbox(&self, user: &UserId) -> Option<Arc<Sandbox>> {
        lock(&self.all).get(&sandbox_id(user)).cloned()
    }

    fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.all).values().cloned().collect()
    }
}

impl Sandbox {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            agent: tokio::sync::Mutex::new(None),
            running: Mutex::new(None),
            usage: Mutex::new(Usage { visits: 0, last_end: Instant::now() }),
        }
    }

    fn is_idle(&self, sleep_after: Duration) -> bool {
        let usage = lock(&self.usage);
        usage.visits == 0 && usage.last_end.elapsed() >= sleep_after
    }

    async fn stop(&self) -> Result<()> {
        let mut slot = self.agent.lock().await;
        *lock(&self.running) = None;
        match slot.take() {
            Some(agent) => {
                agent.stop().await.with_context(|| format!("the container {} does not end", self.id))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut usage = lock(&self.sandbox.usage);
        usage.visits -= 1;
        usage.last_end = Instant::now();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_ids_fold_case() {
        assert_eq!(sandbox_id(&"user_2NcQ".parse().unwrap()), "user-user_2ncq");
    }
}
