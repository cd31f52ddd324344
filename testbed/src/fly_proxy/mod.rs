//! Fly's proxy and the reading half of its Machines API, for machines that are processes on this one.
//!
//! The proxy chooses by `fly-force-instance-id` and by nothing else: without a machine named there, or with one
//! that it does not know, it answers 503. The app comes from the host name if that is `<app>.fly.dev`; a machine
//! of another app is unknown then. It has no TLS, and yet tells the machine what a machine is told in production:
//! `https` on port 443.
//!
//! | port | routes |
//! |---|---|
//! | [`FlyProxy::url`] | everything, to the machines; `GET /__standin/stats` |
//! | [`FlyProxy::api_url`] | `GET /v1/apps/{app}/machines`, `GET /v1/apps/{app}/machines/{id}`, any bearer token |

mod api;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fly_emulator::proxy::headers;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use shared::id::{AppName, MachineId};

use crate::forward::{self, Answer, Context, ForwardError, Server};

/// How long a machine that refuses connections is tried. Fly's own bound is some ten times as long.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// Where every machine of the stand-in is said to be.
pub const REGION: &str = "lhr";

/// A machine as the proxy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its app.
    pub app: AppName,
    /// Where its service listens.
    pub addr: SocketAddr,
}

/// What the proxy has forwarded since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlyStats {
    /// All requests, also those that found no machine.
    pub requests: u64,
    /// Requests that were forwarded, by machine id.
    pub by_machine: BTreeMap<String, u64>,
    /// Upgrades that a machine accepted.
    pub upgrades: u64,
}

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<String, Machine>,
    stats: FlyStats,
}

#[derive(Debug, Clone, Default)]
struct Registry(Arc<Mutex<State>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy with its API.
#[derive(Debug)]
pub struct FlyProxy {
    proxy: Server,
    api: Server,
    registry: Registry,
}

impl FlyProxy {
    /// Starts both on loopback; 0 is any free port.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(proxy_port: u16, api_port: u16) -> Result<Self> {
        let registry = Registry::default();
        let for_proxy = registry.clone();
        let proxy =
            Server::start(proxy_port, move |request, context| route(request, context, for_proxy.clone()))
                .await?;
        let for_api = registry.clone();
        let api = Server::start(api_port, move |request, _| {
            let answer = api::answer(&request, &for_api.lock().machines);
            async move { answer }
        })
        .await?;
        Ok(Self { proxy, api, registry })
    }

    /// The proxy's base URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// The API's base URL, without `/v1`.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.api.url()
    }

    /// Makes a machine known. One with the same id is replaced.
    pub fn add_machine(&self, app: AppName, id: &MachineId, addr: SocketAddr) {
        self.registry.lock().machines.insert(id.to_string(), Machine { app, addr });
    }

    /// Forgets a machine; whether it was known. Its open sockets stay.
    pub fn remove_machine(&self, id: &MachineId) -> bool {
        self.registry.lock().machines.remove(id.as_str()).is_some()
    }

    /// Gives a machine another address, as after a restart; whether it was known.
    pub fn set_addr(&self, id: &MachineId, addr: SocketAddr) -> bool {
        match self.registry.lock().machines.get_mut(id.as_str()) {
            Some(machine) => {
                machine.addr = addr;
                true
            }
            None => false,
        }
    }

    /// What it has forwarded.
    #[must_use]
    pub fn stats(&self) -> FlyStats {
        self.registry.lock().stats.clone()
    }

    /// Ends both; relays are cut.
    pub async fn stop(self) {
        tokio::join!(self.proxy.stop(), self.api.stop());
    }
}

async fn route(mut request: Request<Incoming>, context: Context, registry: Registry) -> Answer {
    if request.method() == Method::GET && request.uri().path() == "/__standin/stats" {
        let stats = registry.lock().stats.clone();
        return forward::json(StatusCode::OK, &stats);
    }
    let (request_id, target) = {
        let mut state = registry.lock();
        state.stats.requests += 1;
        let target = find(&state.machines, request.headers());
        if let Some((id, _)) = &target {
            *state.stats.by_machine.entry(id.clone()).or_default() += 1;
        }
        (headers::request_id(state.stats.requests, REGION), target)
    };
    let Some((_, addr)) = target else {
        return headers::towards_client(forward::empty(StatusCode::SERVICE_UNAVAILABLE), &request_id);
    };
    headers::towards_machine(request.headers_mut(), context.peer, &request_id, REGION);
    let answer = match forward::forward(request, addr, CONNECT_PATIENCE, &context.tasks).await {
        Ok(answer) => answer,
        // Both are the proxy's own 502, without a body.
        Err(ForwardError::Connect { .. } | ForwardError::Exchange { .. }) => {
            forward::empty(StatusCode::BAD_GATEWAY)
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        registry.lock().stats.upgrades += 1;
    }
    headers::towards_client(answer, &request_id)
}

/// The machine that the request names, if there is one and it belongs to the app of the host name.
fn find(machines: &BTreeMap<String, Machine>, headers: &hyper::HeaderMap) -> Option<(String, SocketAddr)> {
    let id = headers.get(headers::FORCE_INSTANCE)?.to_str().ok()?;
    let machine = machines.get(id)?;
    match headers::app_of_host(headers) {
        Some(app) if app != machine.app.as_str() => None,
        _ => Some((id.to_owned(), machine.addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    #[test]
    fn a_machine_is_found_by_its_id_within_the_app_of_the_host() {
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let machine = Machine { app: "app-a".parse().unwrap(), addr };
        let machines = BTreeMap::from([("m1".to_owned(), machine)]);
        for (host, id, found) in [
            (Some("127.0.0.1:4000"), Some("m1"), true),
            (Some("app-a.fly.dev"), Some("m1"), true),
            (Some("app-a.fly.dev:443"), Some("m1"), true),
            (Some("APP-A.FLY.DEV"), Some("m1"), true),
            (None, Some("m1"), true),
            (Some("app-b.fly.dev"), Some("m1"), false),
            (Some("app-a.fly.dev"), Some("m2"), false),
            (Some("app-a.fly.dev"), Some(""), false),
            (Some("app-a.fly.dev"), None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert("host", host.parse().unwrap());
            }
            if let Some(id) = id {
                headers.insert(headers::FORCE_INSTANCE, id.parse().unwrap());
            }
            assert_eq!(find(&machines, &headers).is_some(), found, "{host:?} {id:?}");
        }
    }
}
