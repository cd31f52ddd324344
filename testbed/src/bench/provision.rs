//! Thousands of sign-ups at once, in both layouts, on a virtual clock: the control plane's real decisions against
//! the model of Fly. What comes out depends on the model's limits and delays alone, not on this machine.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use control_sim::fleet::{Kept, Report as Row, sign_up};
use serde::Serialize;

/// How many sign up, unless the caller says otherwise.
pub const USERS: usize = 5_000;

/// What was simulated.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub layouts: Vec<Row>,
}

/// Simulates both layouts.
///
/// # Errors
/// When a user does not become ready, or something happens that the simulator forbids.
pub fn run_all(users: usize) -> Result<Report> {
    let layouts = [Kept::PerUser, Kept::Shared]
        .map(|kept| sign_up(users, kept).map_err(|what| anyhow!("{kept:?}: {what}")));
    Ok(Report { layouts: layouts.into_iter().collect::<Result<_>>()? })
}

impl Report {
    /// As a table of Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| layout | users | all ready after, s | half of them, s | calls | 429s | bottleneck | of its rate used |\n|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.layouts {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.0} | {} | {} | {} ({}) | {:.1} % |",
                row.layout,
                row.users,
                row.seconds,
                row.median_seconds,
                row.calls,
                row.refused,
                row.bottleneck,
                row.bottleneck_calls,
                row.used_percent
            );
        }
        text
    }
}
