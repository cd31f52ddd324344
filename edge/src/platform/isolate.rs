//! What an isolate remembers between requests: settings, the policy, leases. All of it may vanish at any time,
//! and nothing here is a promise, a request or a stream: those belong to the request that made them.

use std::cell::RefCell;
use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use shared::id::UserId;
use shared::time::UnixMillis;
use worker::{Context, Delay, Env, console_error};

use crate::config::Config;
use crate::error::EdgeError;
use crate::forward;
use crate::lease::{self, Lease, Leases};
use crate::placement::{Ask, Grant, Stays, Target};
use crate::policy::{Freshness, Held, Policy, REFRESH_WAIT_MS, Why};

use super::{env, user_object};

/// Name of the one Switchboard object.
pub(super) const SWITCHBOARD: &str = "main";

/// How long a request waits for its user's object.
const ASK_WAIT_MS: u64 = 3000;

/// The same under the kill switch, whose promise is a second.
const ASK_WAIT_KILLED_MS: u64 = 1000;

/// How long a request waits for a user who is between two back ends, and how often it asks.
const HOLD_WAIT_MS: u64 = 5000;
const HOLD_POLL_MS: u64 = 250;

/// Where a user is, and why not where the policy wants them.
pub(super) struct Standing {
    /// `None` is a hold.
    pub(super) lease: Option<Lease>,
    pub(super) stays: Stays,
}

struct Isolate {
    config: Rc<Config>,
    policy: Held,
    leases: Leases,
}

thread_local! {
    static ISOLATE: RefCell<Option<Isolate>> = const { RefCell::new(None) };
}

/// Borrows the isolate's state, for a stretch without an await.
fn with<T>(env: &Env, body: impl FnOnce(&mut Isolate) -> T) -> T {
    ISOLATE.with_borrow_mut(|slot| {
        let isolate = slot.get_or_insert_with(|| {
            let config = env::config(env);
            let policy = Held::fallback(config.default_backend);
            Isolate { config, policy, leases: Leases::default() }
        });
        body(isolate)
    })
}

/// The settings.
pub(super) fn config(env: &Env) -> Rc<Config> {
    with(env, |isolate| Rc::clone(&isolate.config))
}

/// Makes sure that the policy is as young as it has to be, or as young as can be had within the bound.
pub(super) async fn freshen_policy(env: &Env, ctx: &Context, now: UnixMillis) {
    let freshness = with(env, |isolate| {
        let freshness = isolate.policy.freshness(now);
        if freshness != Freshness::Fresh {
            isolate.policy.refresh_started(now);
        }
        freshness
    });
    match freshness {
        Freshness::Fresh => {}
        Freshness::RefreshBehind => ctx.wait_until(refresh_policy(env.clone(), now)),
        Freshness::RefreshFirst => {
            // The refresh outlives the wait: on a path that is slower than the bound, a refresh that died
            // with its wait would never arrive at all.
            let (done, arrived) = oneshot::channel::<()>();
            let env = env.clone();
            ctx.wait_until(async move {
                refresh_policy(env, now).await;
                let _ = done.send(());
            });
            let _ = select(arrived, delay(REFRESH_WAIT_MS)).await;
        }
    }
}

async fn refresh_policy(env: Env, asked: UnixMillis) {
    match fetch_policy(&env).await {
        Ok(policy) => with(&env, |isolate| isolate.policy.refreshed(policy, asked)),
        Err(error) => console_error!(
            "{}",
            serde_json::json!({"event": "policy_refresh_failed", "error": error.to_string()})
        ),
    }
}

async fn fetch_policy(env: &Env) -> worker::Result<Policy> {
    let stub = env.durable_object("SWITCHBOARD")?.get_by_name(SWITCHBOARD)?;
    let mut response = stub.fetch_with_str("http://switchboard/policy").await?;
    if response.status_code() != 200 {
        return Err(worker::Error::RustError(format!("status {}", response.status_code())));
    }
    response.json().await
}

/// A lease to route `user` by, if nothing has to be asked or refreshed before it may be used.
pub(super) fn lease_at_hand(env: &Env, user: &UserId, now: UnixMillis) -> Option<Lease> {
    with(env, |isolate| {
        if isolate.policy.freshness(now) != Freshness::Fresh {
            return None;
        }
        isolate.leases.get(user, isolate.policy.policy().version, now).cloned()
    })
}

/// A lease to route `user` by: one that holds, or a new one.
pub(super) async fn lease(env: &Env, user: &UserId, now: UnixMillis) -> Result<Lease, EdgeError> {
    let held = with(env, |isolate| {
        let version = isolate.policy.policy().version;
        isolate.leases.get(user, version, now).cloned()
    });
    if let Some(lease) = held {
        return Ok(lease);
    }
    let started = now;
    let mut asked = now;
    loop {
        match ask(env, user, asked).await?.lease {
            Some(lease) => return Ok(lease),
            None if asked.since(started) >= HOLD_WAIT_MS => return Err(EdgeError::Moving),
            None => delay(HOLD_POLL_MS).await,
        }
        asked = env::now();
    }
}

/// Asks the user's object, and remembers the lease that it grants.
pub(super) async fn ask(env: &Env, user: &UserId, asked: UnixMillis) -> Result<Standing, EdgeError> {
    let question = with(env, |isolate| {
        let policy = isolate.policy.policy();
        Ask { wanted: policy.assign(user), policy_version: policy.version }
    });
    let wait = if question.wanted.why == Why::KillSwitch { ASK_WAIT_KILLED_MS } else { ASK_WAIT_MS };
    let answer = Box::pin(fetch_grant(env, user, question));
    let (grant, stays) = match select(answer, delay(wait)).await {
        Either::Left((Ok(answer), _)) => answer,
        Either::Left((Err(error), _)) => {
            console_error!(
                "{}",
                serde_json::json!({"event": "placement_failed", "error": error.to_string()})
            );
            return Err(EdgeError::PlacementUnavailable);
        }
        Either::Right(((), _)) => {
            console_error!("{}", serde_json::json!({"event": "placement_timeout", "waited_ms": wait}));
            return Err(EdgeError::PlacementUnavailable);
        }
    };
    let Grant::Lease(target) = grant else { return Ok(Standing { lease: None, stays }) };
    let now = env::now();
    let config = config(env);
    let keys = config.keys.as_ref().ok_or(EdgeError::NotConfigured { missing: "MOLTBOT_SIGNING_SECRET" })?;
    let proof = forward::proof(keys, user, &target, now);
    let lease = Lease { target, asked, policy_version: question.policy_version, proof };
    with(env, |isolate| isolate.leases.put(user.clone(), lease.clone(), now));
    Ok(Standing { lease: Some(lease), stays })
}

/// Forgets a lease by which a back end refused to be routed.
pub(super) fn refused(env: &Env, user: &UserId, target: &Target) {
    with(env, |isolate| isolate.leases.drop_refused(user, target));
}

async fn fetch_grant(env: &Env, user: &UserId, ask: Ask) -> worker::Result<(Grant, Stays)> {
    let stub = env.durable_object("USER")?.get_by_name(user.as_str())?;
    let response = stub.fetch_with_str(&user_object::place_url(user, ask)).await?;
    let grant = response.headers().get(user_object::GRANT_HEADER)?;
    let stays = response.headers().get(user_object::STAYS_HEADER)?;
    let grant = grant.as_deref().and_then(lease::decode);
    grant
        .zip(stays.as_deref().and_then(Stays::parse))
        .ok_or_else(|| worker::Error::RustError(format!("no grant, status {}", response.status_code())))
}

fn delay(ms: u64) -> Delay {
    Delay::from(std::time::Duration::from_millis(ms))
}
