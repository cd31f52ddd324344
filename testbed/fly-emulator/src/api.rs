//! HTTP around the model: waiting, what runs in machines, and faults.

use std::sync::Arc;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::{Request as AxumRequest, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use fly_model::{Fly, Request, Response as Answered};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use loopback::forward::{Answer, BoxError, Cut};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::emulator::Shared;
use crate::faults::{Call, Effect};
use crate::runner::{Order, Runner, exec};
use crate::{admin, launch};

/// The largest body that is read, in bytes.
const BODY_MOST: usize = 4 << 20;

/// How often one looks whether a lease is over, in the model's ms.
const LOOK: u64 = 250;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let admin = admin::router(&shared);
    Router::new().nest("/_admin", admin).fallback(machines_api).with_state(shared)
}

/// The router, for a server that speaks in other bodies.
pub(crate) async fn serve(router: Router, request: hyper::Request<Incoming>) -> Answer {
    match router.oneshot(request.map(AxumBody::new)).await {
        Ok(response) => response.map(|body| body.map_err(BoxError::from).boxed_unsync()),
        Err(never) => match never {},
    }
}

async fn machines_api(State(shared): State<Arc<Shared>>, request: AxumRequest) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_MOST).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "");
    };
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(path) = path.strip_prefix("/v1") else { return plain(StatusCode::NOT_FOUND, "") };
    let method = parts.method.as_str();
    let segments: Vec<&str> = path.split(['/', '?']).collect();
    let segment = |n: usize| segments.get(n).copied().unwrap_or_default();
    let action = Fly::action(method, path).unwrap_or("unknown");
    let machine = if segment(3) == "machines" { segment(4) } else { "" };
    let named = named(&body);
    let app = if action == "create_app" { named.as_str() } else { segment(2) };

    let effect = shared.faults().hit(Call { action, app, machine }).unwrap_or_default();
    if effect.drop_before {
        return cut();
    }
    pause(&shared, effect.delay_ms).await;
    if let Some(status) = effect.status {
        return instead(&shared, status, &effect);
    }

    let asked = Request {
        method,
        path,
        token: bearer(&parts.headers),
        nonce: parts.headers.get("fly-machine-lease-nonce").and_then(|value| value.to_str().ok()),
        body: &body,
    };
    let mut answered = ask(&shared, action, &asked).await;
    if answered.status == 200 && matches!(action, "exec" | "signal") {
        (answered.status, answered.body) = inside(&shared, action, machine, &body).await;
    }
    pause(&shared, answered.took_ms).await;
    if effect.drop_after {
        return cut();
    }
    respond(answered)
}

/// Rules 11 and 12: asks the model, and goes on asking as long as Fly would not answer yet.
async fn ask(shared: &Shared, action: &str, asked: &Request<'_>) -> Answered {
    let mut changes = shared.changed.subscribe();
    let begun = shared.clock.now();
    let mut answered = shared.change(|fly, now| fly.handle(now, asked));
    loop {
        let held = || String::from_utf8_lossy(&answered.body).contains("lease currently held");
        let look_at = match (action, answered.status) {
            ("wait", 408) => {
                let until = begun.saturating_add(timeout_of(asked.path).saturating_mul(1_000));
                if shared.clock.now() >= until {
                    return answered;
                }
                until
            }
            ("stop" | "destroy", 409) if held() => shared.clock.now().saturating_add(LOOK),
            _ => return answered,
        };
        match shared.clock.real(look_at.saturating_sub(shared.clock.now())) {
            Some(pause) => {
                let _ = tokio::time::timeout(pause, changes.changed()).await;
            }
            // Sleeping does not help: whoever moves the clock says so.
            None => {
                let _ = changes.changed().await;
            }
        }
        answered = if action == "wait" {
            // It changes nothing: nobody else need look again.
            let now = shared.clock.now();
            shared.fly().handle_again(now, asked)
        } else {
            // Told as a change, or what follows from it would not be carried out.
            let now = shared.clock.now();
            let again = shared.fly().handle_again(now, asked);
            shared.wake.notify_one();
            again
        };
    }
}

fn timeout_of(path: &str) -> u64 {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let text = query.split('&').find_map(|pair| pair.strip_prefix("timeout="));
    text.and_then(|text| text.trim_end_matches('s').parse().ok()).unwrap_or(60)
}

/// Rule 16, once the model has nothing against it.
async fn inside(shared: &Shared, action: &str, machine: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let beside = shared.runners().get(machine).and_then(Runner::beside);
    let done = match beside {
        None => Err((400, "failed_precondition: machine not running")),
        Some(beside) if action == "exec" => exec(&beside, &body).await,
        Some(_) => {
            let named = body.get("signal").and_then(Value::as_str).and_then(launch::signal_named);
            match (named, shared.runners().get(machine)) {
                (Some(signal), Some(runner)) => {
                    runner.order(Order::Signal(signal));
                    Ok(json!({"ok": true}))
                }
                (None, _) => Err((400, "invalid_argument: unknown signal")),
                (Some(_), None) => Err((400, "failed_precondition: machine not running")),
            }
        }
    };
    match done {
        Ok(value) => (200, value.to_string().into_bytes()),
        Err((status, text)) => (status, json!({"error": text}).to_string().into_bytes()),
    }
}

async fn pause(shared: &Shared, ms: u64) {
    if let Some(pause) = shared.clock.real(ms).filter(|pause| !pause.is_zero()) {
        tokio::time::sleep(pause).await;
    }
}

fn named(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = body.get("name").or_else(|| body.get("app_name"));
    name.and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default()
}

fn respond(answered: Answered) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(AxumBody::from(answered.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    for (name, value) in
        [("fly-request-id", Some(answered.request_id)), ("retry-after", answered.retry_after)]
    {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// Rule 24: an answer by a fault has an id as well, and without a body of its own it is an HTML page.
fn instead(shared: &Shared, status: u16, effect: &Effect) -> Response {
    let request = Request { method: "GET", path: "/", token: "", nonce: None, body: b"" };
    let request_id = shared.fly().handle_again(shared.clock.now(), &request).request_id;
    let body = effect.body.clone().unwrap_or_else(|| format!("<html><body>{status}</body></html>"));
    let html = body.starts_with('<');
    let body = body.into_bytes();
    let mut response = respond(Answered { status, request_id, retry_after: None, body, took_ms: 0 });
    if html {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    }
    response
}

pub(crate) fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(AxumBody::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

fn cut() -> Response {
    let mut response = Response::new(AxumBody::empty());
    response.extensions_mut().insert(Cut);
    response
}
