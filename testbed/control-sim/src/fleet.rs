//! A day on which nothing fails, and thousands sign up at once: how long it takes, and how many calls.

use edge::machine::desired::Restore;
use edge::machine::{Layout, Setup};
use fly_model::{Profile, Range, Region};

use crate::world::{Happening, Options, START, World, app};

/// What signing everybody up came to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub users: usize,
    pub layout: &'static str,
    /// Virtual seconds until the last user was ready, and until half of them were.
    pub seconds: f64,
    pub median_seconds: f64,
    pub calls: u64,
    /// Calls that Fly refused with 429.
    pub refused: u64,
    /// The action that had to wait most, and how many calls of it were made.
    pub bottleneck: String,
    pub bottleneck_calls: u64,
    /// How much of what Fly allows of that action was used while work remained, in percent.
    pub used_percent: f64,
}

/// Which layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    PerUser,
    Shared,
}

/// Signs up `users` at once. The making of apps is counted on the organisation: Fly's documentation leaves that
/// open, and the control plane assumes the worse.
///
/// # Errors
/// For what [`crate::history`] would call a failure.
pub fn sign_up(users: usize, kept: Kept) -> Result<Report, String> {
    let (name, layout) = match kept {
        Kept::PerUser => ("per-user", Layout::PerUser { prefix: "automna-u".to_owned() }),
        Kept::Shared => ("shared", Layout::Shared { app: app("automna-shared") }),
    };
    // Machines of 2 GB, 32 to a host.
    let hosts = users / 20 + 1;
    let profile = Profile {
        regions: vec![Region { code: "sjc".to_owned(), hosts_mb: vec![65_536; hosts] }],
        pull: Range(5_000, 10_000),
        ..Profile::default()
    };
    let options = Options { mutation: None, trace: false, network: 0, crashes: 0, until_ready: true };
    let mut world = World::new(Setup { org: "automna".to_owned(), layout }, profile, options, 1);
    if kept == Kept::Shared {
        world.make_shared_app();
    }
    for n in 0..users {
        world.add_user(&format!("user_{n}"), Restore::Available);
        world.at(n as u64 % 1000, Happening::Wake(n));
    }
    let mut events = 0_u64;
    while world.not_ready > 0 {
        let Some(happening) = world.next() else { return Err("it has come to a halt".to_owned()) };
        world.happen(happening)?;
        events = events.saturating_add(1);
        if events > users as u64 * 2_000 {
            return Err("it runs in circles".to_owned());
        }
    }
    let mut ready: Vec<u64> =
        world.users.iter().filter_map(|user| user.ready_at).map(|at| at.saturating_sub(START)).collect();
    ready.sort_unstable();
    let seconds = |at: Option<&u64>| at.map_or(0.0, |ms| *ms as f64 / 1000.0);
    let (bottleneck, used_percent, bottleneck_calls) = world.bottleneck();
    Ok(Report {
        users,
        layout: name,
        seconds: seconds(ready.last()),
        median_seconds: seconds(ready.get(ready.len() / 2)),
        calls: world.calls.values().sum(),
        refused: world.fly.refused,
        bottleneck,
        bottleneck_calls,
        used_percent,
    })
}
