//! What all sessions hear at once: that another tick has passed, and the order to stop.
//!
//! A timer and a channel for each session would be polled for each message. Here a session reads two numbers, and one
//! task wakes all of them when it is time. That task lives as long as there are sessions.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use super::liveness::TICK;
use crate::stop::Stop;

/// The sessions of a process. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ticks: AtomicU32,
    stopped: AtomicBool,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Whether a task sees to the ticks.
    ticking: bool,
}

#[derive(Debug, Default)]
struct Slot {
    taken: bool,
    waker: Option<Waker>,
}

/// What a session hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    Tick,
    Stop,
}

/// One session's place. Dropping it leaves.
#[derive(Debug)]
pub(super) struct Member {
    pulse: Pulse,
    slot: usize,
    seen: u32,
    waker: Option<Waker>,
}

impl Pulse {
    /// Takes a place. Must be called within the runtime.
    pub(super) fn join(&self, stop: &Stop) -> Member {
        let mut sessions = self.sessions();
        let slot = sessions.free.pop().unwrap_or(sessions.slots.len());
        let taken = Slot { taken: true, waker: None };
        match sessions.slots.get_mut(slot) {
            Some(place) => *place = taken,
            None => sessions.slots.push(taken),
        }
        if !std::mem::replace(&mut sessions.ticking, true) {
            tokio::spawn(self.clone().run(stop.clone()));
        }
        drop(sessions);
        let seen = self.0.ticks.load(Ordering::Acquire);
        Member { pulse: self.clone(), slot, seen, waker: None }
    }

    async fn run(self, mut stop: Stop) {
        loop {
            tokio::select! {
                () = stop.requested() => self.0.stopped.store(true, Ordering::Release),
                () = tokio::time::sleep(TICK) => {
                    self.0.ticks.fetch_add(1, Ordering::AcqRel);
                }
            }
            let mut sessions = self.sessions();
            let wakers: Vec<Waker> = sessions.slots.iter().filter_map(|slot| slot.waker.clone()).collect();
            let stopped = self.0.stopped.load(Ordering::Acquire);
            let empty = sessions.slots.iter().all(|slot| !slot.taken);
            if empty || stopped {
                // Who joins after the order finds it given.
                sessions.ticking = stopped;
            }
            drop(sessions);
            wakers.iter().for_each(Waker::wake_by_ref);
            if empty || stopped {
                return;
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // Nothing in here panics halfway.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// What has happened since the last call, if anything; else the task is woken when it does.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Option<Beat> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            if let Some(place) = self.pulse.sessions().slots.get_mut(self.slot) {
                place.waker.clone_from(&self.waker);
            }
        }
        let shared = &self.pulse.0;
        if shared.stopped.load(Ordering::Acquire) {
            return Some(Beat::Stop);
        }
        let ticks = shared.ticks.load(Ordering::Acquire);
        (std::mem::replace(&mut self.seen, ticks) != ticks).then_some(Beat::Tick)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut sessions = self.pulse.sessions();
        if let Some(place) = sessions.slots.get_mut(self.slot) {
            *place = Slot::default();
        }
        sessions.free.push(self.slot);
        // A crowd that has left must not be remembered for ever.
        if sessions.free.len() == sessions.slots.len() {
            sessions.slots = Vec::new();
            sessions.free = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop;
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::time::Instant;

    async fn beat(member: &mut Member) -> Beat {
        poll_fn(|cx| member.poll(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test(start_paused = true)]
    async fn all_hear_ticks_and_the_end() {
        let (stopper, stop) = stop::channel();
        let pulse = Pulse::default();
        for _ in 0..3 {
            // Each time with a new task, since the one before has ended with its last session.
            let before = Instant::now();
            let (mut a, mut b) = (pulse.join(&stop), pulse.join(&stop));
            for tick in 1..4 {
                assert_eq!((beat(&mut a).await, beat(&mut b).await), (Beat::Tick, Beat::Tick));
                assert_eq!(before.elapsed(), TICK * tick);
            }
            drop((a, b));
            assert!(pulse.sessions().slots.is_empty());
            tokio::time::sleep(TICK * 2).await;
            assert!(!pulse.sessions().ticking);
        }
        let mut a = pulse.join(&stop);
        stopper.stop();
        assert_eq!(beat(&mut a).await, Beat::Stop);
        let mut late = pulse.join(&stop);
        assert_eq!(beat(&mut late).await, Beat::Stop);
    }

    #[test]
    fn places_are_used_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let (_stopper, stop) = stop::channel();
        let pulse = Pulse::default();
        let (a, b) = (pulse.join(&stop), pulse.join(&stop));
        assert_eq!((a.slot, b.slot), (0, 1));
        drop(a);
        assert_eq!(pulse.join(&stop).slot, 0);
    }
}
