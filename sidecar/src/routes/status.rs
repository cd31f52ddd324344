//! `GET /api/status`: always 200, in the legacy shape, with what it did not say.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::describe::{Op, Tag};
use crate::VERSION;
use crate::auth::Authenticated;
use crate::readiness::{Answer, Health};
use crate::state::App;

/// How the machine is.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// Whether the agent answers.
    ok: bool,
    /// `running`, `not_running` or `not_responding`.
    #[schema(pattern = "^(running|not_running|not_responding)$")]
    status: &'static str,
    /// The sidecar's version.
    version: &'static str,
    readiness: Answer,
}

pub(super) async fn get(State(app): State<App>, _: Authenticated) -> Json<Status> {
    let (health, readiness) = app.readiness.look();
    let status = match health {
        Health::Running => "running",
        Health::NotRunning => "not_running",
        Health::NotResponding => "not_responding",
    };
    Json(Status { ok: health == Health::Running, status, version: VERSION, readiness })
}

pub(super) fn describe() -> Op {
    let example = json!({
        "ok": true, "status": "running", "version": "0.1.0",
        "readiness": { "ready": true, "reason": "the agent answers" }
    });
    Op::new(Tag::Machine, "getStatus", "Ask how the agent is").json::<Status>(
        StatusCode::OK,
        "Always, whatever the agent does.",
        example,
    )
}
