//! `GET /api/status`: always 200, in the legacy shape, with what it did not say.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::describe::{Op, Tag};
use crate::VERSION;
use crate::agent::status::Status as Process;
use crate::auth::Authenticated;
use crate::boot::Report;
use crate::readiness::{Answer, Health};
use crate::state::App;

/// How the machine is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Whether the agent answers.
    ok: bool,
    /// `running`, `not_running` or `not_responding`.
    #[schema(pattern = "^(running|not_running|not_responding)$")]
    status: &'static str,
    /// The agent's, while it has one that we have started.
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
    /// The sidecar's version.
    version: &'static str,
    readiness: Answer,
    /// Absent if another supervises the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Process>,
    /// What the last boot has found and done, with what somebody should look at. Absent likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
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

pub(super) fn describe() -> Op {
    let example = json!({
        "ok": true, "status": "running", "version": "0.1.0",
        "readiness": { "ready": true, "reason": "the agent answers" }, "draining": false
    });
    Op::new(Tag::Machine, "getStatus", "Ask how the agent is").json::<Status>(
        StatusCode::OK,
        "Always, whatever the agent does.",
        example,
    )
}
