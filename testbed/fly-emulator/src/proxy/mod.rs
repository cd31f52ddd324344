//! Fly's proxy: from a host name to a machine. [`choice`] is the decision; [`replay`], where an app sends a request
//! on; [`headers`], what is put on and taken off.
//!
//! It has no TLS, and yet tells a machine what machines are told in production: `https` on port 443.

pub mod choice;
pub mod headers;
pub mod replay;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fly_model::{Machine, Request as Asked, State};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use loopback::forward::{self, Answer, Body, BoxError, Context, whole};
use serde_json::{Value, json};

use crate::emulator::Shared;
use choice::{Candidate, Choice, choose};
use replay::Replay;

/// How long a machine that refuses connections is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a machine that is started for a request may take, in ms of the model.
const WAKE_PATIENCE: u64 = 30_000;
/// The largest body that can be replayed, in bytes.
const REPLAY_MOST: u64 = 1 << 20;
/// How often a request is replayed.
const HOPS: usize = 10;
/// The largest head of a request, in bytes.
const HEAD_MOST: usize = 16 << 10;

/// What has been forwarded.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    requests: u64,
    by_machine: BTreeMap<String, u64>,
    upgrades: u64,
}

impl Counts {
    fn update(&self, update: impl FnOnce(&mut Counted)) {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Another number for each request, and the same for the same seed.
    fn chance(&self, seed: u64) -> usize {
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner).requests;
        fastrand::Rng::with_seed(seed ^ requests.rotate_left(32)).usize(..)
    }

    pub(crate) fn describe(&self) -> Value {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"requests": counted.requests, "by_machine": counted.by_machine, "upgrades": counted.upgrades})
    }
}

/// Where a request is to go.
#[derive(Debug, Clone, Default)]
struct Target {
    /// Without one, the machine that is forced may be in any app.
    app: Option<String>,
    force: Option<String>,
    prefer: Option<String>,
}

/// A body that can be sent once, or again and again.
enum Payload {
    Whole(Bytes),
    Once(Option<Body>),
}

pub(crate) async fn route(request: Request<Incoming>, context: Context, shared: Arc<Shared>) -> Answer {
    let mut number = 0;
    shared.proxied.update(|counted| {
        counted.requests = counted.requests.saturating_add(1);
        number = counted.requests;
    });
    let request_id = headers::request_id(number, shared.region());
    let (parts, body) = request.into_parts();
    let answer = if size_of_head(&parts) > HEAD_MOST {
        forward::empty(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        match payload(body).await {
            Ok(payload) => through(&shared, parts, payload, &context, &request_id).await,
            Err(status) => forward::empty(status),
        }
    };
    headers::towards_client(answer, &request_id)
}

fn size_of_head(parts: &Parts) -> usize {
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    headers.fold(parts.uri.to_string().len(), usize::saturating_add)
}

/// A body that says that it is short is taken whole, since it may have to be sent again.
async fn payload(body: Incoming) -> Result<Payload, StatusCode> {
    if body.size_hint().exact().is_none_or(|size| size > REPLAY_MOST) {
        return Ok(Payload::Once(Some(body.map_err(BoxError::from).boxed_unsync())));
    }
    let read = Limited::new(body, REPLAY_MOST as usize).collect().await;
    read.map(|read| Payload::Whole(read.to_bytes())).map_err(|_| StatusCode::BAD_REQUEST)
}

async fn through(
    shared: &Shared,
    parts: Parts,
    mut payload: Payload,
    context: &Context,
    request_id: &HeaderValue,
) -> Answer {
    let mut target = target_of(&parts.headers, shared);
    let mut source = None;
    for _ in 0..=HOPS {
        let (id, addr, missed) = match find(shared, &target).await {
            Ok(found) => found,
            Err(status) => return forward::empty(status),
        };
        let body = match &mut payload {
            Payload::Whole(bytes) => whole(bytes.clone()),
            Payload::Once(body) => match body.take() {
                Some(body) => body,
                // It has been sent already.
                None => return forward::empty(StatusCode::BAD_GATEWAY),
            },
        };
        let mut request = Request::from_parts(parts.clone(), body);
        headers::towards_machine(request.headers_mut(), context.peer, request_id, shared.region());
        set(request.headers_mut(), "fly-replay-src", source.as_deref());
        set(request.headers_mut(), "fly-preferred-instance-unavailable", missed.as_deref());
        shared.proxied.update(|counted| {
            let count = counted.by_machine.entry(id.clone()).or_default();
            *count = count.saturating_add(1);
        });
        let Ok(mut answer) = forward::forward(request, addr, CONNECT_PATIENCE, &context.tasks).await else {
            return forward::empty(StatusCode::BAD_GATEWAY);
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            shared.proxied.update(|counted| counted.upgrades = counted.upgrades.saturating_add(1));
            return answer;
        }
        let Some(asked) = answer.headers_mut().remove("fly-replay") else { return answer };
        let replay = Replay::parse(asked.to_str().unwrap_or_default());
        let (from, to) = (app_of(shared, &id), replay.app.clone().or_else(|| app_of(shared, &id)));
        let (Some(from), Some(to)) = (from, to) else { return forward::empty(StatusCode::BAD_GATEWAY) };
        if !may_replay(shared, &from, &to) {
            return forward::empty(StatusCode::BAD_GATEWAY);
        }
        let state = replay.state.map(|state| format!(";state={state}")).unwrap_or_default();
        source = Some(format!(
            "instance={id};region={};t={}{state}",
            shared.region(),
            shared.clock.now().saturating_mul(1_000)
        ));
        target = Target { app: Some(to), force: replay.instance, prefer: replay.prefer_instance };
    }
    forward::empty(StatusCode::BAD_GATEWAY)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

fn target_of(headers: &HeaderMap, shared: &Shared) -> Target {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = text("host").unwrap_or_default().to_ascii_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    let app = headers::app_of_host(headers)
        .or_else(|| shared.config.hostnames.get(host).cloned())
        .or_else(|| text("x-flyfake-app"));
    Target {
        app,
        force: text(headers::FORCE_INSTANCE.as_str()),
        prefer: text(headers::PREFER_INSTANCE.as_str()),
    }
}

/// The machine for a request, which has been started if need be; or what is answered if there is none.
async fn find(shared: &Shared, target: &Target) -> Result<(String, SocketAddr, Option<String>), StatusCode> {
    let chosen = {
        let mut fly = shared.fly();
        fly.advance(shared.clock.now());
        match &target.app {
            // A name that resolves to nothing.
            None if target.force.is_none() => return Err(StatusCode::NOT_FOUND),
            Some(app) if !fly.apps.contains_key(app) => return Err(StatusCode::NOT_FOUND),
            _ => {}
        }
        let of_app = |machine: &Machine| target.app.as_ref().is_none_or(|app| *app == machine.app);
        let machines = fly.machines.iter().filter(|(_, machine)| of_app(machine));
        let candidates: Vec<Candidate> = machines
            .filter(|(_, machine)| fly.hosts.get(machine.host).is_some_and(|host| host.alive))
            .map(|(id, machine)| candidate(id, machine, shared.config.public_port))
            .collect();
        choose(
            &candidates,
            target.force.as_deref(),
            target.prefer.as_deref(),
            shared.proxied.chance(shared.config.seed),
        )
    };
    match chosen {
        Choice::To { id, addr, missed } => Ok((id, addr, missed)),
        Choice::Nobody => Err(StatusCode::SERVICE_UNAVAILABLE),
        Choice::Wake { id, addr } => match wake(shared, &id).await {
            true => Ok((id, addr, None)),
            false => Err(StatusCode::SERVICE_UNAVAILABLE),
        },
    }
}

fn candidate(id: &str, machine: &Machine, public_port: u16) -> Candidate {
    let services = machine.config.get("services").and_then(Value::as_array);
    let is_public = |service: &&Value| {
        let ports = service.get("ports").and_then(Value::as_array).into_iter().flatten();
        let mut ports = ports.filter_map(|port| port.get("port")?.as_u64());
        ports.any(|port| port == u64::from(public_port))
    };
    let service = services.into_iter().flatten().find(is_public);
    let port = service.and_then(|service| service.get("internal_port")?.as_u64());
    let port = port.and_then(|port| u16::try_from(port).ok());
    let addr = port.and_then(|port| Some(SocketAddr::new(machine.private_ip.parse().ok()?, port)));
    let autostart = service.and_then(|service| service.get("autostart")?.as_bool()).unwrap_or(false);
    Candidate {
        id: id.to_owned(),
        addr,
        started: machine.state == State::Started,
        wakes: autostart && matches!(machine.state, State::Stopped | State::Starting),
        cordoned: machine.cordoned,
    }
}

/// Starts a machine through the API, at the cost of its budget; whether it has started in time.
async fn wake(shared: &Shared, id: &str) -> bool {
    let Some(app) = app_of(shared, id) else { return false };
    let path = format!("/apps/{app}/machines/{id}/start");
    let asked = Asked {
        method: "POST",
        path: &path,
        token: &shared.fly().profile.token.clone(),
        nonce: None,
        body: b"",
    };
    let mut changes = shared.changed.subscribe();
    let until = shared.clock.now().saturating_add(WAKE_PATIENCE);
    if shared.change(|fly, now| fly.handle(now, &asked)).status != 200 {
        return false;
    }
    loop {
        let state = shared.fly().machines.get(id).map(|machine| machine.state);
        if state == Some(State::Started) {
            return true;
        }
        let now = shared.clock.now();
        if now >= until {
            return false;
        }
        match shared.clock.real(until.saturating_sub(now)) {
            Some(pause) => {
                let _ = tokio::time::timeout(pause, changes.changed()).await;
            }
            None => {
                let _ = changes.changed().await;
            }
        }
    }
}

fn app_of(shared: &Shared, machine: &str) -> Option<String> {
    shared.fly().machines.get(machine).map(|machine| machine.app.clone())
}

/// Within an app, and within a network; between networks if the organisation has turned it on.
fn may_replay(shared: &Shared, from: &str, to: &str) -> bool {
    let fly = shared.fly();
    match (fly.apps.get(from), fly.apps.get(to)) {
        (Some(from), Some(to)) => from.network == to.network || shared.config.cross_network_replays,
        _ => false,
    }
}
