//! The control plane under everything that can go wrong, ten thousand times.
//!
//! `CONTROL_PLANE_HISTORIES=1000000 cargo test -p edge --test control_plane` lives more of them, and
//! `CONTROL_PLANE_SEED=17` one alone. A failure prints its seed and its whole trace.

use std::sync::atomic::{AtomicU64, Ordering};

use control_sim::fleet::{Kept, sign_up};
use control_sim::{Failure, Mutation, Summary, history};

/// Histories in CI: within two minutes on two slow cores.
const HISTORIES: u64 = 10_000;

/// In how many histories at most a missing rule has to show.
const MUTATED_HISTORIES: u64 = 4_000;

/// Decisions, faults and causes that the histories together must have met.
const WALKED: &[&str] = &[
    "CreateApp Missing",
    "AssignAddress Missing",
    "CreateVolume Missing",
    "CreateMachine Missing",
    "ReadApp InDoubt",
    "ListVolumes InDoubt",
    "ListMachines InDoubt",
    "DiscardVolume NoRoom",
    "Recreate Stuck",
    "Start Stopped",
    "Restart Silent",
    "Restart NotReady",
    "Update Drifted",
    "ReleaseLease Updated",
    "ExtendVolume Full",
    "NextGeneration HostLost",
    "NextGeneration VolumeLost",
    "NextGeneration Relocated",
    "RestoreData DataAwaited",
    "Stop Suspended",
    "DeleteVolume Deleted",
    "DeleteApp Deleted",
    "PurgeData Deleted",
    "DeleteRetiredVolume Retired",
    "fault MachineExists",
    "fault NameTaken",
    "fault Changed",
    "fault HostFull",
    "fault HostUnavailable",
    "fault LeaseHeld",
    "fault Quota",
    "fault RateLimited",
    "fault RegionFull",
    "fault Unauthorized",
    "fault VolumeInUse",
    "fault VolumeNotFound",
    "attention ApiUnavailable",
    "attention CrashLoop",
    "attention DataLost",
    "attention NameForeign",
    "attention UpdateReverted",
];

#[expect(clippy::disallowed_methods, reason = "a test's own settings")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lives the histories of `seeds`, on all cores; the first failure by seed among those found.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
fn live(seeds: std::ops::Range<u64>, mutation: Option<Mutation>) -> Result<Summary, Failure> {
    let next = AtomicU64::new(seeds.start);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let results: Vec<Result<Summary, Failure>> = std::thread::scope(|scope| {
        let work = || {
            let mut sum = Summary::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok(sum);
                }
                match history(seed, mutation) {
                    Ok(summary) => sum = sum.and(&summary),
                    Err(failure) => {
                        next.store(seeds.end, Ordering::Relaxed);
                        return Err(failure);
                    }
                }
            }
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let mut total = Summary::default();
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(sum) => total = total.and(&sum),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.into_iter().min_by_key(|failure| failure.seed) {
        Some(failure) => Err(failure),
        None => Ok(total),
    }
}

#[test]
fn ten_thousand_histories() {
    let seeds = match number("CONTROL_PLANE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CONTROL_PLANE_HISTORIES").unwrap_or(HISTORIES),
    };
    let one = seeds.end - seeds.start == 1;
    match live(seeds, None) {
        Ok(total) => {
            println!("{total:#?}");
            // Histories in which nothing happens would prove nothing.
            if !one {
                for (what, count) in [
                    ("crash", total.crashes),
                    ("fault", total.faults),
                    ("ready user", total.ready),
                    ("suspended user", total.suspended),
                    ("deleted user", total.deleted),
                    ("user in need of attention", total.attention),
                    ("recovery or move", total.generations),
                ] {
                    assert!(count >= 20, "too few: {what}");
                }
                for what in WALKED {
                    assert!(total.seen.contains_key(*what), "never: {what}");
                }
            }
        }
        Err(failure) => panic!("{failure}\nrepeat it with CONTROL_PLANE_SEED={}", failure.seed),
    }
}

/// `cargo xtask test --long`.
#[test]
#[ignore = "a quarter of an hour"]
fn half_a_million_histories() {
    if let Err(failure) = live(HISTORIES..HISTORIES + 500_000, None) {
        panic!("{failure}\nrepeat it with CONTROL_PLANE_SEED={}", failure.seed);
    }
}

#[test]
fn many_sign_up_at_once() {
    for kept in [Kept::PerUser, Kept::Shared] {
        let users = number("CONTROL_PLANE_SIGN_UPS").unwrap_or(300);
        let report = sign_up(usize::try_from(users).unwrap(), kept).unwrap();
        println!("{report:?}");
        assert_eq!(report.refused, 0, "{report:?}");
        assert!(report.used_percent >= 90.0, "{report:?}");
        assert_eq!(report.bottleneck_calls, users, "each is made once: {report:?}");
    }
}

#[test]
fn every_rule_is_missed() {
    for mutation in Mutation::ALL {
        match live(0..MUTATED_HISTORIES, Some(mutation)) {
            Ok(_) => panic!("{mutation:?} goes unnoticed"),
            Err(failure) => println!("{mutation:?}: seed {}: {:.100}", failure.seed, failure.what),
        }
    }
}

#[test]
fn a_failure_can_be_repeated() {
    let first = live(0..MUTATED_HISTORIES, Some(Mutation::NoLookUp)).unwrap_err();
    let again = history(first.seed, Some(Mutation::NoLookUp)).unwrap_err();
    assert_eq!((first.what, first.trace), (again.what, again.trace));
}
