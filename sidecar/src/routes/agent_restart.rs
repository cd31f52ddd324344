//! `POST /api/agent/restart`: the agent ends in its order and starts again. 202 with the number of that start.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::describe::{Op, Tag};
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::state::App;

/// A restart that has begun.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentRestart)]
pub(super) struct Begun {
    ok: bool,
    /// Starts are counted from 1 since the sidecar's own.
    attempt: u64,
}

pub(super) async fn post(
    State(app): State<App>,
    _: Authenticated,
) -> Result<(StatusCode, Json<Begun>), ApiError> {
    let supervisor = app.supervisor.as_ref().ok_or(ApiError::AgentElsewhere)?;
    let attempt = supervisor.restart().await?;
    Ok((StatusCode::ACCEPTED, Json(Begun { ok: true, attempt })))
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Machine, "restartAgent", "End the agent in its order, and start it again")
        .about("Conversations go on afterwards; what the agent is saying at the time is cut off. `/api/status` says when it answers again.")
        .json::<Begun>(StatusCode::ACCEPTED, "It has begun.", json!({"ok": true, "attempt": 2}))
        .fails([
            ApiError::AgentElsewhere,
            ApiError::AgentStopping,
            ApiError::RestartTooSoon { retry_after_seconds: 10 },
        ])
}
