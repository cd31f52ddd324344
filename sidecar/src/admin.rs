//! The private port: what the machine asks about itself. It is bound to loopback by default and has no gate.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use http::StatusCode;
use serde_json::json;

use crate::error::ApiError;
use crate::readiness::Watch;
use crate::respond;

/// The routes of the private port.
pub fn app(readiness: Watch) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .fallback(async || ApiError::UnknownRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn(respond::layer))
        .with_state(readiness)
}

/// Whether the process answers at all: restart the sidecar if not.
async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// Whether the agent answers too: send clients elsewhere, or let them wait, if not.
async fn ready(State(readiness): State<Watch>) -> Response {
    let answer = readiness.now();
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer)).into_response()
}
