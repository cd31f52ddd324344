//! What should be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::id::{AppName, Generation, UserId};
use shared::time::UnixMillis;

use crate::fly::wire::Guest;

/// Where machines are kept, for all users of a deployment (`FLY_APP_LAYOUT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// An app of its own for each user, on a network of its own.
    PerUser { prefix: String },
    /// One app for everybody, made by hand.
    Shared { app: AppName },
}

/// What a deployment's machines have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub org: String,
    pub layout: Layout,
}

/// What one user should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    pub user: UserId,
    /// Grows with every change below, and with an operator's word to try again.
    pub version: u64,
    pub want: Want,
    pub spec: Spec,
    /// An operator's order to move.
    pub relocation: Option<Relocation>,
    /// Whether data can be restored from outside, so that a lost volume may be followed by a new one.
    pub restore: Restore,
    /// The latest lost generation whose bytes are no longer owed to anybody: its volume may go.
    pub released: Option<Generation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Run,
    /// Stopped, with everything kept: the bill is not paid.
    Suspend,
    /// Gone, with proof; the user's data outside Fly goes at `purge_at`.
    Delete {
        purge_at: UnixMillis,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    Available,
    Unavailable,
}

/// An order to move to another host or region; carried out once for each `number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    pub number: u64,
    pub region: String,
}

/// The machine that a user should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// By digest: a tag can change its meaning between two machines.
    pub image: String,
    pub guest: Guest,
    /// A new volume's size.
    pub volume_gb: u32,
    /// No volume grows beyond.
    pub volume_limit_gb: u32,
    /// Where to try, in this order.
    pub regions: Vec<String>,
    /// Environment for all users; what belongs to the user is added when the call is made.
    pub env: BTreeMap<String, String>,
}
