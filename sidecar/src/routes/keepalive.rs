//! `GET /api/keepalive`: what pages call every four minutes.
//!
//! On the legacy side this woke the container and started a sync. Here nothing sleeps and data is synced all the
//! time, so it only answers, in the legacy shape.

use axum::Json;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use shared::time::UnixMillis;
use utoipa::ToSchema;

use super::describe::{Op, Tag};
use crate::auth::Authenticated;
use crate::clock;

/// Sign of life.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alive {
    /// Always `alive`.
    status: &'static str,
    user_id: String,
    /// Milliseconds since 1970.
    #[schema(value_type = u64)]
    timestamp: UnixMillis,
    /// Always true.
    syncing: bool,
    /// Always true.
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

pub(super) fn describe() -> Op {
    let example = json!({
        "status": "alive", "userId": "user_abc123", "timestamp": 1_767_225_600_250_u64, "syncing": true,
        "preCaching": true
    });
    Op::new(Tag::Machine, "keepAlive", "Say that a page is open")
        .about("Pages call it every four minutes. Nothing sleeps here, so it only answers.")
        .json::<Alive>(StatusCode::OK, "The machine is there.", example)
}
