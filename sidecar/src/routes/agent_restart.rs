//! `POST /api/agent/restart`: the agent ends in its order and starts again. 202 with the number of that start.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;

use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::state::App;

#[derive(Serialize)]
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
