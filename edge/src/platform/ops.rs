//! The operator's API under `/_ops/api`. Every route needs the admin bearer.

use shared::id::UserId;
use web_sys::Response;
use worker::js_sys::futures::JsFuture;

use crate::access;
use crate::error::EdgeError;

use super::fetch::{Exchange, Failure};
use super::refusal::Refusal;
use super::{answer, chaos, isolate};

/// Largest request body, in bytes: a document of a thousand pins fits twice.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// Answers `/_ops{path}`.
pub(super) async fn handle(exchange: &Exchange<'_>, path: &str) -> Result<Response, Failure> {
    authorise(exchange)?;
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let method = exchange.target.method;
    match (segments.as_slice(), method) {
        (["api", "policy"], "GET") => switchboard(exchange, "GET", "policy", None).await,
        (["api", "policy"], "POST") => {
            let body = body(exchange).await?;
            switchboard(exchange, "POST", "policy", Some(body)).await
        }
        (["api", "policy"], _) => Err(EdgeError::MethodNotAllowed { allow: "GET, POST" }.into()),
        (["api", "audit"], "GET") => switchboard(exchange, "GET", "audit", None).await,
        (["api", "audit"], _) => Err(EdgeError::MethodNotAllowed { allow: "GET" }.into()),
        (["api", "users", user], "GET") => user_object(exchange, user, "GET", "record", None).await,
        (["api", "users", _], _) => Err(EdgeError::MethodNotAllowed { allow: "GET" }.into()),
        (["api", "users", user, "machine"], "POST") => {
            let body = body(exchange).await?;
            user_object(exchange, user, "POST", "machine", Some(body)).await
        }
        (["api", "users", _, "machine"], _) => Err(EdgeError::MethodNotAllowed { allow: "POST" }.into()),
        (["api", "chaos", "edge"], "POST") if exchange.config.test_hooks => chaos::panic_now(),
        (["api", "chaos", user, what @ ("object" | "alarm" | "tick")], "POST")
            if exchange.config.test_hooks =>
        {
            user_object(exchange, user, "POST", &format!("chaos/{what}"), None).await
        }
        _ => Err(EdgeError::NotFound.into()),
    }
}

fn authorise(exchange: &Exchange<'_>) -> Result<(), EdgeError> {
    let expected =
        exchange.config.admin_bearer.as_ref().ok_or(EdgeError::NotConfigured { missing: "ADMIN_BEARER" })?;
    let header = exchange.header("authorization").unwrap_or_default();
    match access::bearer(&header) {
        Some(token) if expected.matches(token) => Ok(()),
        _ => Err(EdgeError::NotOperator),
    }
}

async fn body(exchange: &Exchange<'_>) -> Result<String, Failure> {
    if exchange.request.body().is_none() {
        return Ok(String::new());
    }
    let too_large = EdgeError::TooLarge { limit_bytes: MAX_BODY_BYTES };
    let declared = exchange.header("content-length").and_then(|text| text.parse::<usize>().ok());
    if declared.is_none_or(|bytes| bytes > MAX_BODY_BYTES) {
        // An operator's client knows how long its document is; a stream without end is not read at all.
        return Err(too_large.into());
    }
    let text = JsFuture::from(exchange.request.text()?).await?;
    text.as_string().ok_or_else(|| EdgeError::BadRequest("The body is not text".into()).into())
}

async fn switchboard(
    exchange: &Exchange<'_>,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Result<Response, Failure> {
    let stub = exchange.env.durable_object("SWITCHBOARD")?.get_by_name(isolate::SWITCHBOARD)?;
    let url = format!("http://switchboard/{path}?{}", exchange.target.query);
    relay(&stub, method, &url, body).await
}

async fn user_object(
    exchange: &Exchange<'_>,
    user: &str,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Result<Response, Failure> {
    let user: UserId = user.parse().map_err(|_| EdgeError::BadRequest("Not a user id".into()))?;
    let stub = exchange.env.durable_object("USER")?.get_by_name(user.as_str())?;
    relay(&stub, method, &format!("http://user/{path}?user={user}"), body).await
}

/// Asks an object and answers with its JSON. An object that fails is one failed call, in our error shape.
async fn relay(
    stub: &worker::Stub,
    method: &str,
    url: &str,
    body: Option<String>,
) -> Result<Response, Failure> {
    let mut init = worker::RequestInit::new();
    init.with_method(method.to_owned().into());
    init.with_body(body.map(Into::into));
    let request = worker::Request::new_with_init(url, &init)?;
    let Ok(mut response) = stub.fetch_with_request(request).await else {
        return Err(EdgeError::PlacementUnavailable.into());
    };
    let text = response.text().await?;
    match response.status_code() {
        200 => Ok(answer::json(200, &text)?),
        _ => Err(Refusal::read(&text).into()),
    }
}
