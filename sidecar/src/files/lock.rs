//! Who may replace a name now. Requests that want the same one take turns, so that of two with the same
//! `If-Match` one wins. Agents do not ask for these locks.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::root::Target;

/// Names share locks by their hash: a fixed number, and hardly ever two at once that share one.
const STRIPES: usize = 64;

#[derive(Debug)]
pub struct Locks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

/// Held by whoever acts on the names.
#[derive(Debug)]
pub struct Held<'a> {
    _guards: Vec<MutexGuard<'a, ()>>,
}

impl Default for Locks {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }
}

impl Locks {
    /// Waits until all of `targets` are free. Blocks; only for the pool. The order is fixed, so two that want the
    /// same names cannot wait for each other.
    #[must_use]
    pub fn hold(&self, targets: &[&Target]) -> Held<'_> {
        let mut wanted: Vec<usize> = targets.iter().map(|target| self.stripe(target)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let stripes = wanted.iter().filter_map(|index| self.stripes.get(*index));
        // A guard protects no data of ours, so a poisoned one is as good.
        Held {
            _guards: stripes.map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner)).collect(),
        }
    }

    fn stripe(&self, target: &Target) -> usize {
        let hash = self.hasher.hash_one((target.id, &target.name));
        usize::try_from(hash % STRIPES as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::path::WorkspacePath;
    use crate::files::root::Root;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_at_a_time_and_no_deadlock_whatever_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let target =
            |name: &str| root.target(&WorkspacePath::parse(&format!("/root/clawd/{name}")).unwrap()).unwrap();
        let (locks, count) = (Locks::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (locks, count) = (&locks, &count);
                let (a, b) = (target("a"), target("b"));
                scope.spawn(move || {
                    let both = if n % 2 == 0 { [&a, &b] } else { [&b, &a] };
                    for _ in 0..500 {
                        let _held = locks.hold(&both);
                        let seen = count.load(Ordering::Relaxed);
                        std::thread::yield_now();
                        count.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 2000);
    }
}
