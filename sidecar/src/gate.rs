//! The gate before every route of the public port: ticket, then epoch, then the handler. It also writes the
//! request's one log line, since it alone sees both ends.

use std::time::Instant;

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use shared::id::RequestId;
use shared::ticket::Claims;
use shared::wire::REQUEST_ID_HEADER;

use crate::auth::{self, Authenticated};
use crate::epoch::Verdict;
use crate::error::ApiError;
use crate::metrics::Served;
use crate::metrics::labels::Route;
use crate::proxy::handshake;
use crate::state::App;
use crate::writes::Write;
use crate::{clock, random, respond};

/// The layer around every route of the router.
pub async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let is_upgrade = matched.is_none() && handshake::is_upgrade(request.headers());
    let route = route_name(matched.as_ref(), is_upgrade);
    pass(&app, route, request, |request| next.run(request)).await
}

/// Lets a request through to `handle`, or answers it. `route` is its name in the log.
pub async fn pass<F: Future<Output = Response>>(
    app: &App,
    route: &str,
    request: Request,
    handle: impl FnOnce(Request) -> F,
) -> Response {
    let started = Instant::now();
    let ticket = auth::verify(request.headers(), &app.identity, clock::now());
    // Without a ticket the id is anybody's text, and not worth a line in the log.
    let request_id = ticket.as_ref().ok().and_then(|_| brought_id(request.headers()));
    let request_id = request_id.unwrap_or_else(random::request_id);
    let method = request.method().clone();
    let received_bytes = request.body().size_hint().exact().unwrap_or(0);

    let response = match admit(app, ticket, request_id.clone(), request).await {
        Ok((request, _write)) => handle(request).await,
        Err(error) => error.into_response(),
    };

    let (response, error) = respond::finish(response, &request_id);
    let status = response.status().as_u16();
    let took = started.elapsed();
    let sent_bytes = response.body().size_hint().exact().unwrap_or(0);
    let served = Served { route: Route::of(route), status, took, received_bytes, sent_bytes };
    app.metrics.served(served, error.as_ref());
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let request_id = request_id.as_str();
    let user_hash = app.user_hash.as_str();
    match error {
        Some(error) => tracing::warn!(
            request.id = request_id, user.hash = user_hash, %method, route, http.status = status, duration_ms,
            code = error.code(), %error, "{method} {route} {status}: {error}"
        ),
        None => tracing::info!(
            request.id = request_id, user.hash = user_hash, %method, route, http.status = status, duration_ms,
            "{method} {route} {status}"
        ),
    }
    response
}

/// Settles who asks and under which epoch, and puts the proof into the request. A write is counted until the
/// second value is dropped; during the drain there is none.
async fn admit(
    app: &App,
    ticket: Result<Claims, ApiError>,
    request_id: RequestId,
    mut request: Request,
) -> Result<(Request, Option<Write>), ApiError> {
    let claims = ticket?;
    match app.arbiter.admit(claims.epoch).await.map_err(|error| ApiError::EpochNotStored(error.into()))? {
        Verdict::Serve => {}
        // A raise that has not happened would be a fault of ours: refuse, as for any epoch that is not ours.
        Verdict::Stale | Verdict::Raise => return Err(ApiError::StaleEpoch),
    }
    let write = match writes(&request) {
        Writing::No => None,
        Writing::Yes => Some(app.writes.begin().ok_or(ApiError::Draining)?),
        Writing::WhileOpen if app.stop.is_draining() => return Err(ApiError::Draining),
        Writing::WhileOpen => None,
    };
    request.extensions_mut().insert(Authenticated { claims, request_id });
    Ok((request, write))
}

/// Whether a request writes.
enum Writing {
    No,
    Yes,
    /// A socket: it is told to close, not waited for.
    WhileOpen,
}

fn writes(request: &Request) -> Writing {
    if handshake::is_upgrade(request.headers()) {
        Writing::WhileOpen
    } else if request.method().is_safe() {
        Writing::No
    } else {
        Writing::Yes
    }
}

fn brought_id(headers: &HeaderMap) -> Option<RequestId> {
    headers.get(REQUEST_ID_HEADER)?.to_str().ok()?.parse().ok()
}

/// The name of the route in logs: never a path that a client wrote.
fn route_name(matched: Option<&MatchedPath>, is_upgrade: bool) -> &str {
    match matched {
        Some(matched) => matched.as_str(),
        None if is_upgrade => "websocket",
        None => "agent",
    }
}
