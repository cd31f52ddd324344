//! The order to end, as every task hears it, in two steps: first no new writes and no sockets, so that what was
//! written can be made durable; then no connections.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Leaving,
}

/// Gives the orders.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Phase>);

/// Waits for the orders. Clones hear the same ones.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Phase>);

/// New orders that have not been given yet.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells every task to begin nothing new. It stays said: who asks later hears it at once.
    pub fn drain(&self) {
        self.0.send_modify(|phase| *phase = (*phase).max(Phase::Draining));
    }

    /// Tells every task to end. It implies [`Self::drain`].
    pub fn stop(&self) {
        self.0.send_replace(Phase::Leaving);
    }
}

impl Stop {
    /// Whether the end has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Returns once the end has begun, or once nobody is left who could begin it.
    pub async fn requested(&mut self) {
        let _gone_or_said = self.0.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Returns once no connection is wanted any more, or once nobody is left who could say so.
    pub async fn leaving(&mut self) {
        let _gone_or_said = self.0.wait_for(|phase| *phase >= Phase::Leaving).await;
    }
}
