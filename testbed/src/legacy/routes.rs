//! The Worker's routes, in the order in which it tries them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;
use shared::id::UserId;
use shared::signed_url::{self, AuthError, Presented, SignedQuery};
use shared::wire::PERMIT_HEADER;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::clock::now;
use super::history::{self, Limit};
use super::socket::Proxy;
use super::{Gauge, Inner, chat, cors, files, reset};
use crate::forward::{self, Answer, Context};

/// How long a gateway may take to accept a connection before `/api/status` calls it unresponsive.
const STATUS_PROBE: Duration = Duration::from_secs(5);

/// How long the container's HTTP is tried; it has been seen ready before.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn route(request: Request<Incoming>, context: Context, inner: Arc<Inner>) -> Answer {
    let permit = request.headers().contains_key(PERMIT_HEADER);
    let origin = cors::allowed_origin(request.headers());
    let path = request.uri().path().to_owned();
    if request.method() == Method::OPTIONS {
        inner.count(&path, false, permit);
        return cors::preflight(origin);
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let caller = authenticate(&inner, &query);
    inner.count(&path, matches!(caller, Ok(Some(_))), permit);
    let answer = match caller {
        Ok(user) => dispatch(request, context, inner, &path, &query, user).await,
        Err(error) => {
            let details = Some(error.to_string());
            Refusal { error: "Unauthorized", details, ..Refusal::default() }.answer(StatusCode::UNAUTHORIZED)
        }
    };
    cors::decorate(answer, origin)
}

/// The user of a signed request; nobody, when the proof is not all there: routes that need one say so.
fn authenticate(inner: &Inner, query: &str) -> Result<Option<UserId>, AuthError> {
    match SignedQuery::read(query) {
        Presented::Nothing | Presented::Partly => Ok(None),
        Presented::Whole(signed) => {
            let verified = signed_url::verify(&inner.keys, &signed, now())?;
            Ok(Some(verified.user().clone()))
        }
    }
}

async fn dispatch(
    request: Request<Incoming>,
    context: Context,
    inner: Arc<Inner>,
    path: &str,
    query: &str,
    user: Option<UserId>,
) -> Answer {
    match (request.method(), path, user) {
        (&Method::GET, "/sandbox-health", _) => {
            let body = Health { status: "ok", service: "moltbot-sandbox", gateway_port: 18789 };
            forward::json(StatusCode::OK, &body)
        }
        (&Method::GET, "/api/status", user) => status(&inner, user).await,
        (&Method::GET, "/api/history", None) => unauthorized("Missing auth params (userId, exp, sig)"),
        (&Method::GET, "/api/history", Some(user)) => raw_history(&inner, &user, query).await,
        (&Method::GET, "/ws/api/history", user) => history(&inner, user, query).await,
        (&Method::GET, "/api/keepalive", None) | (&Method::POST, "/api/chat/send", None) => {
            unauthorized("Missing auth params")
        }
        (&Method::GET, "/api/keepalive", Some(user)) => keepalive(&inner, user).await,
        (&Method::POST, "/api/reset-workspace" | "/ws/api/reset-workspace", None) => {
            unauthorized("Not authenticated")
        }
        (_, _, None) => {
            let hint = Some("Missing Cloudflare Access JWT.");
            Refusal { error: "Unauthorized", hint, ..Refusal::default() }.answer(StatusCode::UNAUTHORIZED)
        }
        (&Method::POST, "/api/chat/send", Some(user)) => chat::send(request, &inner, &user).await,
        (&Method::POST, "/api/reset-workspace" | "/ws/api/reset-workspace", Some(user)) => {
            reset::reset(&inner, &user, query).await
        }
        (_, path, Some(user)) if files::rest(path).is_some() => {
            let rest = files::rest(path).unwrap_or_default();
            on_files(request, &inner, &user, rest, query).await
        }
        (_, path, Some(_)) if is_left_out(path) => {
            // Better than the agent's page with status 200, which is what falling through would give.
            Refusal { error: "Not part of the legacy stand-in", ..Refusal::default() }
                .answer(StatusCode::NOT_IMPLEMENTED)
        }
        (_, _, Some(user)) if forward::is_upgrade(request.headers()) => {
            socket(request, context, inner, user).await
        }
        (_, _, Some(user)) => proxy(request, context, inner, user).await,
    }
}

/// Routes that the Worker has and the stand-in has not.
fn is_left_out(path: &str) -> bool {
    let api = path.strip_prefix("/ws").unwrap_or(path);
    api.strip_prefix("/api/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Every error body of the Worker. Keys come in this order.
#[derive(Default, serde::Serialize)]
struct Refusal<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed: Option<u64>,
}

impl Refusal<'_> {
    fn answer(&self, status: StatusCode) -> Answer {
        forward::json(status, self)
    }
}

fn unauthorized(error: &str) -> Answer {
    Refusal { error, ..Refusal::default() }.answer(StatusCode::UNAUTHORIZED)
}

#[derive(serde::Serialize)]
struct Health {
    status: &'static str,
    service: &'static str,
    gateway_port: u16,
}

#[derive(serde::Serialize)]
struct Status {
    ok: bool,
    status: &'static str,
    #[serde(rename = "processId", skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
}

/// Looks without waking anybody.
async fn status(inner: &Inner, user: Option<UserId>) -> Answer {
    let visit = user.as_ref().map(|user| inner.containers.visit(user));
    let running = user.as_ref().and_then(|user| inner.containers.running(user));
    let (ok, status) = match running {
        None => (false, "not_running"),
        Some(running) => match timeout(STATUS_PROBE, TcpStream::connect(running.addr)).await {
            Ok(Ok(_)) => (true, "running"),
            _ => (false, "not_responding"),
        },
    };
    let body = Status { ok, status, process_id: running.map(|running| running.pid.to_string()) };
    drop(visit);
    forward::json(StatusCode::OK, &body)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Alive<'a> {
    status: &'static str,
    user_id: &'a UserId,
    timestamp: u64,
    syncing: bool,
    pre_caching: bool,
}

#[derive(serde::Serialize)]
struct NotAlive {
    status: &'static str,
    error: String,
}

async fn keepalive(inner: &Inner, user: UserId) -> Answer {
    let visit = inner.containers.visit(&user);
    match inner.containers.boot(&visit).await {
        Ok(_) => {
            let body = Alive {
                status: "alive",
                user_id: &user,
                timestamp: now().0,
                syncing: true,
                pre_caching: true,
            };
            forward::json(StatusCode::OK, &body)
        }
        Err(error) => {
            let body = NotAlive { status: "error", error: format!("{error:#}") };
            forward::json(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}

/// `/api/history`: any key, no limit, the messages as they are stored.
async fn raw_history(inner: &Inner, user: &UserId, query: &str) -> Answer {
    let key = param(query, "sessionKey").unwrap_or("main".into());
    let visit = inner.containers.visit(user);
    if let Err(error) = inner.containers.boot(&visit).await {
        return Refusal { error: &format!("{error:#}"), ..Refusal::default() }
            .answer(StatusCode::INTERNAL_SERVER_ERROR);
    }
    match history::read(&inner.state_dir(user), &key, Limit::All).await {
        Ok(entries) => {
            let body =
                RawHistory { session_key: &key, messages: entries.iter().map(history::Entry::raw).collect() };
            forward::json(StatusCode::OK, &body)
        }
        Err(nothing) => forward::json(StatusCode::OK, &nothing),
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct RawHistory<'a> {
    session_key: &'a str,
    messages: Vec<&'a Value>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct History<'a> {
    session_key: &'a str,
    messages: Vec<history::Shown<'a>>,
    source: &'static str,
    limit: Option<u64>,
    elapsed: u64,
}

/// `/ws/api/history`: the key is checked before anything else, also before who asks.
async fn history(inner: &Inner, user: Option<UserId>, query: &str) -> Answer {
    let began = Instant::now();
    let elapsed = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let key = param(query, "sessionKey").unwrap_or("main".into());
    if !history::is_session_key(&key) {
        return Refusal { error: "Invalid session key", ..Refusal::default() }
            .answer(StatusCode::BAD_REQUEST);
    }
    let Some(user) = user else { return unauthorized("Not authenticated") };
    let limit = Limit::parse(param(query, "limit").as_deref());
    let visit = inner.containers.visit(&user);
    if let Err(error) = inner.containers.boot(&visit).await {
        let (error, elapsed) = (format!("{error:#}"), Some(elapsed()));
        return Refusal { error: &error, elapsed, ..Refusal::default() }
            .answer(StatusCode::INTERNAL_SERVER_ERROR);
    }
    match history::read(&inner.state_dir(&user), &key, limit).await {
        Ok(entries) => {
            let messages = entries.iter().map(history::Entry::shown).collect();
            let body = History {
                session_key: &key,
                messages,
                source: "container",
                limit: limit.number(),
                elapsed: elapsed(),
            };
            forward::json(StatusCode::OK, &body)
        }
        Err(nothing) => forward::json(StatusCode::OK, &nothing),
    }
}

/// The Worker answers some of this from its object store, without the container; here the files are the container's.
async fn on_files(
    request: Request<Incoming>,
    inner: &Inner,
    user: &UserId,
    rest: &str,
    query: &str,
) -> Answer {
    let visit = inner.containers.visit(user);
    match inner.containers.boot(&visit).await {
        Ok(_) => files::route(request, &inner.workspace_dir(user), rest, query).await,
        Err(error) => does_not_start(&error),
    }
}

async fn socket(request: Request<Incoming>, context: Context, inner: Arc<Inner>, user: UserId) -> Answer {
    let visit = inner.containers.visit(&user);
    match inner.containers.boot(&visit).await {
        Ok(running) => {
            let gauge = Gauge::open(&inner.open_sockets);
            let gateway_token = inner.gateway_token.clone();
            Proxy { running, gateway_token, visit, gauge }.accept(request, &context.tasks).await
        }
        Err(error) => does_not_start(&error),
    }
}

async fn proxy(request: Request<Incoming>, context: Context, inner: Arc<Inner>, user: UserId) -> Answer {
    let visit = inner.containers.visit(&user);
    let running = match inner.containers.boot(&visit).await {
        Ok(running) => running,
        Err(error) => return does_not_start(&error),
    };
    let path = HeaderValue::from_str(request.uri().path()).ok();
    match forward::forward(request, running.addr, CONNECT_PATIENCE, &context.tasks).await {
        Ok(mut answer) => {
            answer.headers_mut().insert("x-worker-debug", HeaderValue::from_static("proxy-to-moltbot"));
            if let Some(path) = path {
                answer.headers_mut().insert("x-debug-path", path);
            }
            // The visit lasts as long as the body does.
            answer.map(|body| {
                body.map_frame(move |frame| {
                    let _ = &visit;
                    frame
                })
                .boxed_unsync()
            })
        }
        Err(error) => does_not_start(&error.into()),
    }
}

fn does_not_start(error: &anyhow::Error) -> Answer {
    let (details, hint) = (Some(format!("{error:#}")), Some("See the container's log"));
    Refusal { error: "Moltbot gateway failed to start", details, hint, ..Refusal::default() }
        .answer(StatusCode::SERVICE_UNAVAILABLE)
}

/// The first value of a query parameter; an empty one counts as missing.
pub(super) fn param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_are_left_out() {
        for (path, left_out) in [
            ("/api/admin", true),
            ("/ws/api/admin/devices", true),
            ("/api/reset-workspace", false),
            ("/api/administration", false),
            ("/files/api/admin", false),
            ("/api/anything", false),
            ("/", false),
        ] {
            assert_eq!(is_left_out(path), left_out, "{path}");
        }
    }
}
