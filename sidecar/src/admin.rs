//! The private port: what the machine asks about itself. It is bound to loopback by default and has no gate.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use http::{StatusCode, header};
use serde_json::json;

use crate::agent::supervisor::Handle;
use crate::error::ApiError;
use crate::metrics::{self, Metrics, Now};
use crate::readiness::{Answer, Watch};
use crate::respond;
use crate::server::Slots;
use crate::stop::Stop;

/// What the private port answers from.
#[derive(Debug, Clone)]
pub struct Admin {
    pub readiness: Watch,
    pub stop: Stop,
    pub metrics: Metrics,
    /// `None` if another supervises the agent.
    pub supervisor: Option<Handle>,
    /// Of the public port.
    pub slots: Slots,
    pub volume: PathBuf,
}

/// The routes of the private port.
pub fn app(admin: Admin) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || ApiError::UnknownRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn(respond::layer))
        .with_state(admin)
}

/// Whether the process answers at all: restart the sidecar if not.
async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// Whether the agent answers too: send clients elsewhere, or let them wait, if not.
async fn ready(State(admin): State<Admin>) -> Response {
    let answer = if admin.stop.is_draining() {
        Answer { ready: false, reason: "the machine is about to stop" }
    } else {
        admin.readiness.now()
    };
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer)).into_response()
}

/// What Prometheus asks for. It holds no secret, no user and no path.
async fn metrics(State(admin): State<Admin>) -> Response {
    let agent = admin.supervisor.as_ref().map(Handle::status).map(|status| (status.state, status.pid));
    let now = Now {
        connections: admin.slots.taken(),
        agent_ready: admin.readiness.now().ready,
        agent,
        volume: admin.volume,
    };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], admin.metrics.render(&now)).into_response()
}
