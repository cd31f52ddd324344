//! `GET /api/keepalive`: what pages call every four minutes.
//!
//! On the legacy side this woke the container and started a sync. Here nothing sleeps and data is synced all the
//! time, so it only answers, in the legacy shape.

use axum::Json;
use serde::Serialize;
use shared::time::UnixMillis;

use crate::auth::Authenticated;
use crate::clock;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alive {
    status: &'static str,
    user_id: String,
    timestamp: UnixMillis,
    syncing: bool,
    pre_caching: bool,
}

pub(super) async fn get(auth: Authenticated) -> Json<Alive> {
    Json(Alive {
        status: "alive",
        user_id: auth.claims.user.into(),
        timestamp: clock::now(),
        syncing: true,
        pre_caching: true,
    })
}
