//! The dashboard's calls: authenticate, ask the user's object, look at the machine, answer.

use std::time::Duration;

use futures_util::future::{Either, select};
use serde::Serialize;
use shared::id::UserId;
use shared::wire::{REFUSAL_HEADER, SIDECAR_HEADER};
use wasm_bindgen::JsCast;
use web_sys::{Request, Response};
use worker::js_sys::futures::JsFuture;
use worker::{Context, Delay};

use crate::dashboard::{self, Call, Caller, Credential, Gateway, Health, Links, Next, Waiting};
use crate::error::EdgeError;
use crate::forward::{self, MachineAnswer, Proof};
use crate::placement::Machine;
use crate::request::Target;

use super::fetch::{Exchange, Failure};
use super::{answer, env, isolate, js, user_object, verify};

/// How long the machine may take to say how it is (contract B.6).
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// Longest answer of a machine that is read, in bytes. It is the machine of a user, who can make it say anything.
const MAX_STATUS_BYTES: usize = 256 * 1024;

/// Answers one of the dashboard's calls.
pub(super) async fn handle(exchange: &Exchange<'_>, call: Call, ctx: &Context) -> Result<Response, Failure> {
    if exchange.target.method != "GET" {
        return Err(EdgeError::MethodNotAllowed { allow: "GET" }.into());
    }
    let response = match call {
        Call::Gateway => gateway(exchange, ctx).await?,
        Call::Renew => renew(exchange).await?,
        Call::Health => health(exchange, ctx).await?,
    };
    exchange.add_cors(&response)?;
    Ok(response)
}

async fn gateway(exchange: &Exchange<'_>, ctx: &Context) -> Result<Response, Failure> {
    let caller = authenticate(exchange).await?;
    let keys = &exchange.keys()?.signing;
    let (machine, found) = look(exchange, ctx, caller.user()).await?;
    found.map_err(EdgeError::NotReady)?;
    let now = env::now().floor_seconds();
    json(&Gateway::new(keys, exchange.target.origin, caller.user(), machine.as_ref(), now))
}

async fn health(exchange: &Exchange<'_>, ctx: &Context) -> Result<Response, Failure> {
    let caller = authenticate(exchange).await?;
    let (machine, found) = look(exchange, ctx, caller.user()).await?;
    json(&Health::new(machine.as_ref(), found))
}

async fn renew(exchange: &Exchange<'_>) -> Result<Response, Failure> {
    let keys = &exchange.keys()?.signing;
    let shown = dashboard::renewing(keys, exchange.target.query, env::now())?;
    let user = shown.user();
    let renewed = user_object::ask_to_renew(exchange.env, user, shown.expires())
        .await
        .map_err(|_| EdgeError::PlacementUnavailable)?;
    json(&Links::new(keys, exchange.target.origin, user, renewed))
}

async fn authenticate(exchange: &Exchange<'_>) -> Result<Caller, Failure> {
    let header = exchange.header("authorization");
    let query = exchange.target.query;
    match dashboard::credential(&exchange.config.dashboard, header.as_deref())? {
        Credential::Service => Ok(dashboard::service_caller(query)?),
        Credential::Session { token, key, policy } => {
            let fits = verify::fits(&token, key).await?;
            Ok(dashboard::session_caller(*token, fits, policy, query, env::now())?)
        }
    }
}

/// The user's machine, if they are on one, and whether there is an agent to talk to.
async fn look(
    exchange: &Exchange<'_>,
    ctx: &Context,
    user: &UserId,
) -> Result<(Option<Machine>, Result<(), Waiting>), Failure> {
    let now = env::now();
    isolate::freshen_policy(exchange.env, ctx, now).await;
    let standing = isolate::ask(exchange.env, user, env::now()).await?;
    match dashboard::next(standing.lease.as_ref(), standing.stays) {
        Next::Legacy => Ok((None, Ok(()))),
        Next::Wait(waiting) => Ok((None, Err(waiting))),
        Next::Probe(machine, ticket) => {
            let found = probe(exchange, machine, ticket).await?;
            Ok((Some(machine.clone()), found))
        }
    }
}

/// Asks the machine's sidecar how the agent is. A machine that does not answer is one that is starting.
async fn probe(
    exchange: &Exchange<'_>,
    machine: &Machine,
    ticket: &Proof,
) -> Result<Result<(), Waiting>, Failure> {
    let target = Target { method: "GET", origin: "", path: "/api/status", query: "" };
    let outgoing = forward::to_machine(exchange.config, &target, machine, ticket, exchange.id());
    let request = Request::new_with_str(&outgoing.url)?;
    let sent = js::send(&js::network(), &request, &outgoing.to_lines())?;
    let status = Box::pin(async {
        let response: Response = JsFuture::from(sent).await.ok()?.unchecked_into();
        read(&response).await
    });
    match select(status, Delay::from(PROBE_WAIT)).await {
        Either::Left((Some(found), _)) => Ok(found),
        Either::Left((None, _)) | Either::Right(((), _)) => Ok(Err(Waiting::Starting)),
    }
}

/// What the answer says; `None` if it is not the sidecar's, or too long to be its status.
async fn read(response: &Response) -> Option<Result<(), Waiting>> {
    let headers = response.headers();
    let refusal = headers.get(REFUSAL_HEADER).ok()?;
    match forward::judge(response.status(), refusal.as_deref(), headers.has(SIDECAR_HEADER).ok()?) {
        MachineAnswer::Genuine => {}
        MachineAnswer::Refused(_) => return Some(Err(Waiting::Moving)),
        MachineAnswer::Unreachable => return None,
    }
    // Without a length it could go on for ever.
    let length = headers.get("content-length").ok()??.parse::<usize>().ok()?;
    if length > MAX_STATUS_BYTES {
        return None;
    }
    let body = JsFuture::from(response.text().ok()?).await.ok()?.as_string()?;
    Some(dashboard::read_status(&body))
}

fn json(body: &impl Serialize) -> Result<Response, Failure> {
    let body = serde_json::to_string(body).map_err(|_| EdgeError::Internal)?;
    Ok(answer::json(200, &body)?)
}
