//! Requests that write and are under way: the drain waits for them before it makes their work durable.

use std::sync::Arc;

use tokio::sync::watch;

use crate::stop::Stop;

/// Counts them. Clones count the same ones.
#[derive(Debug, Clone)]
pub struct Writes {
    under_way: Arc<watch::Sender<usize>>,
    stop: Stop,
}

/// A write that is under way until this is dropped.
#[derive(Debug)]
pub struct Write(Arc<watch::Sender<usize>>);

impl Drop for Write {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Writes {
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self { under_way: Arc::new(watch::channel(0).0), stop }
    }

    /// Begins one; `None` once the drain has begun.
    #[must_use]
    pub fn begin(&self) -> Option<Write> {
        // First counted, then asked: the drain, which asks in the other order, cannot miss it.
        self.under_way.send_modify(|count| *count = count.saturating_add(1));
        let write = Write(self.under_way.clone());
        (!self.stop.is_draining()).then_some(write)
    }

    /// Returns once none is under way.
    pub async fn done(&self) {
        let mut under_way = self.under_way.subscribe();
        // It fails only when the sender is gone, and we hold it.
        let _none = under_way.wait_for(|count| *count == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop;

    #[tokio::test]
    async fn the_drain_waits_for_those_that_were_let_in() {
        let (stopper, stop) = stop::channel();
        let writes = Writes::new(stop);
        let first = writes.begin().unwrap();
        stopper.drain();
        assert!(writes.begin().is_none());
        let waiting = tokio::spawn({
            let writes = writes.clone();
            async move { writes.done().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
