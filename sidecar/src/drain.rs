//! The machine's end, in order. `main` says when; this says what comes after what, and how long each may take.
//!
//! 1. No new writes and no new sockets: 503 with `Retry-After`. Open sockets are closed with 1012. Reads go on.
//! 2. Writes under way finish.
//! 3. Runs of the agent finish, so that messages which it has acknowledged are written down ([`runs`]).
//! 4. The agent ends: SIGTERM, 6 s, SIGKILL. From here on nobody writes to the volume.
//! 5. What was written is made durable.
//! 6. The hook of the data plane: its last copy away from this machine.
//! 7. Listeners close; what is still connected finishes.
//!
//! A step that takes too long, or fails, does not keep the next one from happening: each later step can still
//! save something. The outcome says so, and the exit code with it.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::agent::{runs, supervisor};

/// For writes under way. An upload that is still going on can be resumed.
pub const WRITES_LIMIT: Duration = Duration::from_secs(5);

/// For runs of the agent. Most answers are there by then; one that is not is cut off, as by any restart.
pub const RUNS_LIMIT: Duration = Duration::from_secs(8);

const _: () =
    assert!(runs::QUIET.as_secs() < RUNS_LIMIT.as_secs(), "a quiet agent must not be waited for in vain");

/// For the agent. The supervisor itself ends within its own limit; this is the net below it.
pub const AGENT_LIMIT: Duration = Duration::from_secs(supervisor::STOP_LIMIT.as_secs() + 1);

/// To make the volume durable: 16 MiB/s on the smallest machine, for what the kernel lets wait.
pub const SYNC_LIMIT: Duration = Duration::from_secs(15);

/// For the data plane's last copy.
pub const LAST_SYNC_LIMIT: Duration = Duration::from_secs(60);

/// For what is still connected.
pub const CLIENTS_LIMIT: Duration = Duration::from_secs(5);

/// All of it. The platform's `kill_timeout` must be longer.
pub const BUDGET: Duration = Duration::from_secs(
    WRITES_LIMIT.as_secs()
        + RUNS_LIMIT.as_secs()
        + AGENT_LIMIT.as_secs()
        + SYNC_LIMIT.as_secs()
        + LAST_SYNC_LIMIT.as_secs()
        + CLIENTS_LIMIT.as_secs(),
);

/// What `fly.toml` asks for; see there.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(120);

const _: () = assert!(BUDGET.as_secs() < KILL_TIMEOUT.as_secs(), "the drain must end before it is ended");

/// Where the data plane does its last copy. It begins when nobody writes any more, and all is on the disk.
pub trait LastSync: Send + Sync {
    /// Copies what is not yet copied. Dropped when its time is up.
    ///
    /// # Errors
    /// Something is only on this machine.
    fn run(&self) -> impl Future<Output = Result<(), LastSyncError>> + Send;
}

/// Why the last copy is not complete.
#[derive(Debug, thiserror::Error)]
#[error("the last copy is not complete: {0}")]
pub struct LastSyncError(pub String);

/// There is no data plane yet: the volume is the only copy.
#[derive(Debug, Clone, Copy)]
pub struct NoDataPlane;

impl LastSync for NoDataPlane {
    async fn run(&self) -> Result<(), LastSyncError> {
        Ok(())
    }
}

/// The steps, each in its own time.
pub trait Steps: Send + Sync {
    fn refuse_writes_and_tell_clients(&self);
    fn writes_done(&self) -> impl Future<Output = ()> + Send;
    /// # Errors
    /// It cannot be told whether there are any.
    fn runs_done(&self) -> impl Future<Output = io::Result<()>> + Send;
    fn end_agent(&self) -> impl Future<Output = ()> + Send;
    /// # Errors
    /// The disk does not take it.
    fn make_durable(&self) -> impl Future<Output = io::Result<()>> + Send;
    fn let_clients_go(&self) -> impl Future<Output = ()> + Send;
}

/// How it went. Anything but "all false" is worth a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub writes_cut: bool,
    pub runs_cut: bool,
    pub agent_left: bool,
    pub not_durable: bool,
    pub not_copied: bool,
    pub clients_cut: bool,
}

impl Outcome {
    /// Whether all that was acknowledged is where it should be.
    #[must_use]
    pub const fn is_safe(&self) -> bool {
        !self.agent_left && !self.not_durable && !self.not_copied
    }
}

/// Runs all steps, within [`BUDGET`].
pub async fn run(steps: &impl Steps, last_sync: &impl LastSync) -> Outcome {
    let mut outcome = Outcome::default();
    steps.refuse_writes_and_tell_clients();
    if timeout(WRITES_LIMIT, steps.writes_done()).await.is_err() {
        tracing::warn!("drain: writes were still under way after {} s", WRITES_LIMIT.as_secs());
        outcome.writes_cut = true;
    }
    match timeout(RUNS_LIMIT, steps.runs_done()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "drain: whether the agent is at work cannot be told: {error}");
            outcome.runs_cut = true;
        }
        Err(_) => {
            tracing::warn!("drain: the agent was still at work after {} s", RUNS_LIMIT.as_secs());
            outcome.runs_cut = true;
        }
    }
    if timeout(AGENT_LIMIT, steps.end_agent()).await.is_err() {
        tracing::error!("drain: the agent has not ended");
        outcome.agent_left = true;
    }
    match timeout(SYNC_LIMIT, steps.make_durable()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "drain: the volume cannot be made durable: {error}");
            outcome.not_durable = true;
        }
        Err(_) => {
            tracing::error!("drain: the volume is not durable after {} s", SYNC_LIMIT.as_secs());
            outcome.not_durable = true;
        }
    }
    match timeout(LAST_SYNC_LIMIT, last_sync.run()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "drain: {error}");
            outcome.not_copied = true;
        }
        Err(_) => {
            tracing::error!("drain: the last copy was not complete after {} s", LAST_SYNC_LIMIT.as_secs());
            outcome.not_copied = true;
        }
    }
    if timeout(CLIENTS_LIMIT, steps.let_clients_go()).await.is_err() {
        tracing::warn!("drain: clients were still connected after {} s", CLIENTS_LIMIT.as_secs());
        outcome.clients_cut = true;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    /// Records what is called, and hangs or fails where it is told to.
    #[derive(Default)]
    struct Fake {
        calls: Mutex<Vec<&'static str>>,
        hangs: &'static [&'static str],
        fails: &'static [&'static str],
    }

    impl Fake {
        async fn call(&self, name: &'static str) -> Result<(), String> {
            self.calls.lock().unwrap().push(name);
            if self.hangs.contains(&name) {
                pending::<()>().await;
            }
            if self.fails.contains(&name) { Err(name.to_owned()) } else { Ok(()) }
        }
    }

    impl Steps for Fake {
        fn refuse_writes_and_tell_clients(&self) {
            self.calls.lock().unwrap().push("refuse");
        }
        async fn writes_done(&self) {
            self.call("writes").await.unwrap();
        }
        async fn runs_done(&self) -> io::Result<()> {
            self.call("runs").await.map_err(io::Error::other)
        }
        async fn end_agent(&self) {
            self.call("agent").await.unwrap();
        }
        async fn make_durable(&self) -> io::Result<()> {
            self.call("durable").await.map_err(io::Error::other)
        }
        async fn let_clients_go(&self) {
            self.call("clients").await.unwrap();
        }
    }

    impl LastSync for Fake {
        async fn run(&self) -> Result<(), LastSyncError> {
            self.call("last sync").await.map_err(LastSyncError)
        }
    }

    const ORDER: [&str; 7] = ["refuse", "writes", "runs", "agent", "durable", "last sync", "clients"];

    #[tokio::test(start_paused = true)]
    async fn the_order_holds_whatever_hangs_or_fails_and_the_budget_too() {
        let good = Outcome::default();
        let rows: [(&'static [&'static str], &'static [&'static str], Outcome, bool); 9] = [
            (&[], &[], good, true),
            (&["writes"], &[], Outcome { writes_cut: true, ..good }, true),
            (&["runs"], &[], Outcome { runs_cut: true, ..good }, true),
            (&[], &["runs"], Outcome { runs_cut: true, ..good }, true),
            (&["agent"], &[], Outcome { agent_left: true, ..good }, false),
            (&["durable"], &["last sync"], Outcome { not_durable: true, not_copied: true, ..good }, false),
            (&[], &["durable"], Outcome { not_durable: true, ..good }, false),
            (&["clients"], &[], Outcome { clients_cut: true, ..good }, true),
            (
                &["writes", "runs", "agent", "durable", "last sync", "clients"],
                &[],
                Outcome {
                    writes_cut: true,
                    runs_cut: true,
                    agent_left: true,
                    not_durable: true,
                    not_copied: true,
                    clients_cut: true,
                },
                false,
            ),
        ];
        for (hangs, fails, expect, safe) in rows {
            let fake = Fake { hangs, fails, ..Fake::default() };
            let begun = Instant::now();
            let outcome = run(&fake, &fake).await;
            assert_eq!((outcome, outcome.is_safe()), (expect, safe), "{hangs:?} {fails:?}");
            assert_eq!(*fake.calls.lock().unwrap(), ORDER, "{hangs:?} {fails:?}");
            // The paused clock moves by what was waited for, and by a millisecond for each timer.
            assert!(begun.elapsed() <= BUDGET + Duration::from_millis(10), "{hangs:?} {:?}", begun.elapsed());
        }
    }
}
