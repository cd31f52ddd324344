//! What nobody asks Fly for: hosts that die, power cuts, faults, the clock.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use fly_model::State as MachineState;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api;
use crate::emulator::Shared;
use crate::faults::Fault;

type Refusal = (StatusCode, Json<Value>);

pub(crate) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/state", get(state))
        .route("/clock", get(clock).post(advance))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/token", post(token))
        .route("/hosts/{host}/{what}", post(host))
        .route("/regions/{region}/{what}", post(region))
        .route("/machines/{machine}/{what}", post(machine))
        .layer(from_fn_with_state(Arc::clone(shared), operators_only))
}

async fn operators_only(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match &shared.config.admin_token {
        Some(token) if api::bearer(request.headers()) != token => {
            api::plain(StatusCode::UNAUTHORIZED, "unauthorized")
        }
        _ => next.run(request).await,
    }
}

fn refused(status: StatusCode, text: &str) -> Refusal {
    (status, Json(json!({"error": text})))
}

/// What there is, and what somebody who uses the API should know: fields that Fly would have ignored.
async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let fly = shared.fly();
    let hosts = fly.hosts.iter().enumerate();
    let hosts: Vec<Value> = hosts
        .map(|(n, host)| {
            json!({"id": n, "region": host.region, "zone": host.zone, "alive": host.alive,
                "memory_mb": host.memory_mb, "others_mb": host.others_mb})
        })
        .collect();
    let machines = fly.machines.iter().map(|(id, machine)| {
        let state = json!({"app": machine.app, "name": machine.name, "state": machine.state.as_str(),
            "host": machine.host, "run": machine.run, "address": machine.private_ip});
        (id.clone(), state)
    });
    let volumes = fly.volumes.iter().map(|(id, volume)| {
        let state = json!({"app": volume.app, "name": volume.name, "state": volume.state.as_str(),
            "host": volume.host, "attached": volume.attached, "deleted": volume.deleted_at.is_some()});
        (id.clone(), state)
    });
    Json(json!({
        "now": shared.clock.now(),
        "apps": fly.apps.keys().collect::<Vec<_>>(),
        "machines": machines.collect::<serde_json::Map<_, _>>(),
        "volumes": volumes.collect::<serde_json::Map<_, _>>(),
        "hosts": hosts,
        "ignored_fields": fly.ignored,
        "refused_by_limits": fly.refused,
        "proxy": shared.proxied.describe(),
    }))
}

async fn clock(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"now": shared.clock.now()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

async fn advance(
    State(shared): State<Arc<Shared>>,
    Json(body): Json<Advance>,
) -> Result<Json<Value>, Refusal> {
    let Some(now) = shared.clock.advance(body.advance_ms) else {
        return Err(refused(StatusCode::CONFLICT, "the clock is the wall's"));
    };
    shared.change(|fly, now| fly.advance(now));
    Ok(Json(json!({"now": now})))
}

async fn faults(State(shared): State<Arc<Shared>>) -> Json<Vec<Fault>> {
    Json(shared.faults().list().to_vec())
}

async fn add_fault(State(shared): State<Arc<Shared>>, Json(fault): Json<Fault>) -> StatusCode {
    shared.faults().add(fault);
    StatusCode::CREATED
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.faults().clear();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

/// The old token is refused from now on.
async fn token(State(shared): State<Arc<Shared>>, Json(body): Json<Token>) -> StatusCode {
    shared.change(|fly, _| fly.profile.token = body.token);
    StatusCode::NO_CONTENT
}

/// Rule 19.
async fn host(
    State(shared): State<Arc<Shared>>,
    Path((host, what)): Path<(usize, String)>,
) -> Result<StatusCode, Refusal> {
    if host >= shared.fly().hosts.len() {
        return Err(refused(StatusCode::NOT_FOUND, "no such host"));
    }
    shared.change(|fly, now| {
        match what.as_str() {
            "kill" => fly.kill_host(host, now),
            "revive" => fly.revive_host(host, now),
            "lose" => {
                fly.kill_host(host, now);
                fly.lose_host(host, now);
            }
            "maintain" | "serve" => {
                if let Some(host) = fly.hosts.get_mut(host) {
                    host.maintenance = what == "maintain";
                }
            }
            _ => return Err(refused(StatusCode::NOT_FOUND, "kill, revive, lose, maintain or serve")),
        }
        Ok(StatusCode::NO_CONTENT)
    })
}

async fn region(
    State(shared): State<Arc<Shared>>,
    Path((region, what)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    shared.change(|fly, _| {
        match what.as_str() {
            "fill" => fly.fill_region(&region),
            "empty" => fly.empty_region(&region),
            _ => return Err(refused(StatusCode::NOT_FOUND, "fill or empty")),
        }
        Ok(StatusCode::NO_CONTENT)
    })
}

/// Rules 20 and 21.
async fn machine(
    State(shared): State<Arc<Shared>>,
    Path((id, what)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let found = shared.fly().machines.get(&id).map(|machine| (machine.state, machine.run));
    let Some((state, run)) = found else { return Err(refused(StatusCode::NOT_FOUND, "no such machine")) };
    match what.as_str() {
        "migrate" => shared.change(|fly, now| fly.migrate(&id, now)),
        "stick" => shared.change(|fly, now| fly.stick(&id, now)),
        "powercut" if state == MachineState::Started => {
            if let Some(runner) = shared.runners().get(&id) {
                runner.kill(run);
            }
        }
        "powercut" => return Err(refused(StatusCode::CONFLICT, "it has no power")),
        _ => return Err(refused(StatusCode::NOT_FOUND, "migrate, stick or powercut")),
    }
    Ok(StatusCode::NO_CONTENT)
}
