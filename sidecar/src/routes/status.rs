//! `GET /api/status`: always 200, in the legacy shape, with what it did not say.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::VERSION;
use crate::auth::Authenticated;
use crate::readiness::{Answer, Health};
use crate::state::App;

#[derive(Serialize)]
pub(super) struct Status {
    ok: bool,
    status: &'static str,
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
