//! `GET /api/status`: always 200, in the legacy shape, with what it did not say.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::VERSION;
use crate::agent::status::Status as Process;
use crate::auth::Authenticated;
use crate::boot::Report;
use crate::readiness::{Answer, Health};
use crate::state::App;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    ok: bool,
    status: &'static str,
    /// The agent's, while it has one that we have started.
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
    version: &'static str,
    readiness: Answer,
    /// Absent if another supervises the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Process>,
    /// What the last boot has found and done, with what somebody should look at. Absent likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Report>,
    draining: bool,
}

pub(super) async fn get(State(app): State<App>, _: Authenticated) -> Json<Status> {
    let (health, readiness) = app.readiness.look();
    let agent = app.supervisor.as_ref().map(|supervisor| supervisor.status());
    let process_id = agent.as_ref().and_then(|agent| agent.pid).map(|pid| pid.to_string());
    let status = match health {
        Health::Running => "running",
        // There is a process, so in the contract's words it does not respond.
        Health::NotRunning if process_id.is_some() => "not_responding",
        Health::NotRunning => "not_running",
        Health::NotResponding => "not_responding",
    };
    let draining = app.stop.is_draining();
    let (ok, boot) = (health == Health::Running, app.boot.clone());
    Json(Status { ok, status, process_id, version: VERSION, readiness, agent, boot, draining })
}
