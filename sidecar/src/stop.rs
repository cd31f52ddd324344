//! The order to end, as every task hears it.

use tokio::sync::watch;

/// Gives the order.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Waits for the order. Clones hear the same one.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A new order that has not been given yet.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells every task to end. It stays said: who asks later hears it at once.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once the order was given, or once nobody is left who could give it.
    pub async fn requested(&mut self) {
        let _gone_or_said = self.0.wait_for(|said| *said).await;
    }
}
