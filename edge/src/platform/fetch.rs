//! The Worker's handler: one request, from the route table to the answer.

use std::cell::OnceCell;

use shared::id::RequestId;
use shared::time::UnixMillis;
use shared::wire::{REFUSAL_HEADER, SIDECAR_HEADER};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Request, Response};
use worker::js_sys::futures::JsFuture;
use worker::{Context, Env, console_error, event};

use crate::access::{self, Access};
use crate::config::{Config, Keys};
use crate::cors;
use crate::error::EdgeError;
use crate::forward::{self, MachineAnswer, Outgoing};
use crate::lease::Lease;
use crate::placement::Place;
use crate::request::{Description, Headers, Route, Target, UserRoute};

use super::{answer, dashboard, env, isolate, js, ops};

/// How often one request is sent to a back end: once, and once more after a typed refusal.
const MAX_ATTEMPTS: u32 = 2;

/// One request, with what is asked of it again and again.
pub(super) struct Exchange<'a> {
    pub(super) request: &'a Request,
    pub(super) target: Target<'a>,
    /// The headers of these names.
    origin: Option<&'a str>,
    accept: Option<&'a str>,
    pub(super) env: &'a Env,
    pub(super) config: &'a Config,
    id: OnceCell<RequestId>,
    now: UnixMillis,
}

struct RequestHeaders<'a>(&'a Request);

impl Headers for RequestHeaders<'_> {
    fn get(&self, name: &str) -> Option<String> {
        self.0.headers().get(name).ok().flatten()
    }
}

/// What can go wrong on the way: an answer that we know, or the runtime refusing something.
pub(super) enum Failure {
    Edge(EdgeError),
    Runtime(JsValue),
}

impl From<EdgeError> for Failure {
    fn from(error: EdgeError) -> Self {
        Self::Edge(error)
    }
}

impl From<JsValue> for Failure {
    fn from(error: JsValue) -> Self {
        Self::Runtime(error)
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self::Runtime(error.into())
    }
}

#[event(fetch)]
async fn fetch(request: Request, env: Env, ctx: Context) -> worker::Result<Response> {
    let description = js::describe(&request);
    let config = isolate::config(&env);
    let exchange = Exchange::new(&request, &description, &env, &config);
    let error = match dispatch(&exchange, &ctx).await {
        Ok(response) => return Ok(response),
        Err(Failure::Edge(error)) => error,
        Err(Failure::Runtime(error)) => {
            // The text is the runtime's own, about a header or a stream; it holds no URL.
            let text =
                error.as_string().or_else(|| error.dyn_ref::<js_sys::Error>().map(|e| e.message().into()));
            console_error!(
                "{}",
                serde_json::json!({"event": "runtime_error", "requestId": exchange.id().as_str(), "error": text})
            );
            EdgeError::Internal
        }
    };
    let response = answer::error(&error, exchange.id())?;
    if !matches!(Route::of(&exchange.target), Route::Ops(_)) {
        exchange.add_cors(&response)?;
    }
    Ok(response)
}

/// The short way: the answer, or the promise of one, for a request that needs nothing from Rust on its way back
/// and nothing to be asked first. That is most of them, and a future in WASM costs as much as all the rest of
/// them. `undefined` sends the request the long way, [`fetch`], which also has an answer to every failure; so
/// does a promise that fails.
#[wasm_bindgen(js_name = atOnce)]
#[expect(unreachable_pub, reason = "exports have to be public; who calls them is JavaScript")]
pub fn at_once(request: &Request, env: &JsValue) -> JsValue {
    let env: &Env = env.unchecked_ref();
    let description = js::describe(request);
    let config = isolate::config(env);
    Exchange::new(request, &description, env, &config).at_once().unwrap_or(JsValue::UNDEFINED)
}

async fn dispatch(exchange: &Exchange<'_>, ctx: &Context) -> Result<Response, Failure> {
    match Route::of(&exchange.target) {
        Route::Preflight => exchange.preflight(),
        Route::Health => exchange.health(),
        Route::Session => exchange.session(),
        Route::Ops(path) => ops::handle(exchange, &path).await,
        Route::Dashboard(call) => dashboard::handle(exchange, call, ctx).await,
        Route::LegacyAsset => exchange.legacy_asset().await,
        Route::Closed => Err(EdgeError::NotFound.into()),
        Route::User(route) => exchange.user(route, ctx).await,
    }
}

impl<'a> Exchange<'a> {
    fn new(request: &'a Request, description: &'a str, env: &'a Env, config: &'a Config) -> Self {
        let Description { target, origin, accept } = Description::parse(description);
        Self { request, target, origin, accept, env, config, id: OnceCell::new(), now: env::now() }
    }

    /// The request's name, made when first asked for: most requests are never named.
    pub(super) fn id(&self) -> &RequestId {
        self.id.get_or_init(env::request_id)
    }

    fn at_once(&self) -> Option<JsValue> {
        if self.origin.is_some() || self.accepts_pages() || !self.target.is_safe() {
            return None;
        }
        match Route::of(&self.target) {
            Route::Session => {
                self.authenticate(UserRoute::Other).ok()?;
                answer::empty(204).ok().map(JsValue::from)
            }
            Route::User(route) => {
                let access = self.authenticate(route).ok()?;
                let lease = isolate::lease_at_hand(self.env, access.user(), self.now)?;
                let sent = match &lease.target.place {
                    Place::Legacy => {
                        let outgoing = forward::to_legacy(self.config, &self.target, &access, &lease.proof);
                        js::send(&self.legacy()?, self.request, &outgoing.to_lines())
                    }
                    Place::Fly(machine) => {
                        let outgoing =
                            forward::to_machine(self.config, &self.target, machine, &lease.proof, self.id());
                        js::send_to_machine(&js::network(), self.request, &outgoing.to_lines())
                    }
                };
                sent.ok().map(JsValue::from)
            }
            Route::Preflight
            | Route::Health
            | Route::Ops(_)
            | Route::Dashboard(_)
            | Route::LegacyAsset
            | Route::Closed => None,
        }
    }

    fn preflight(&self) -> Result<Response, Failure> {
        let response = answer::empty(204)?;
        for (name, value) in cors::preflight(self.config, self.origin) {
            response.headers().set(name, &value)?;
        }
        Ok(response)
    }

    /// The contract's public health route. It says that the edge answers, and nothing about any agent.
    fn health(&self) -> Result<Response, Failure> {
        let response =
            answer::json(200, r#"{"status":"ok","service":"moltbot-sandbox","gateway_port":18789}"#)?;
        self.add_cors(&response)?;
        Ok(response)
    }

    /// `GET`: 204 while the proof is good. `DELETE`: forgets the cookie.
    fn session(&self) -> Result<Response, Failure> {
        let access = self.authenticate(UserRoute::Other);
        let response = match self.target.method {
            "GET" | "HEAD" => {
                access?;
                answer::empty(204)?
            }
            "DELETE" => {
                access?;
                let response = answer::empty(204)?;
                response.headers().set("set-cookie", &access::cookie_to_forget())?;
                response
            }
            _ => return Err(EdgeError::MethodNotAllowed { allow: "GET, HEAD, DELETE" }.into()),
        };
        self.add_cors(&response)?;
        Ok(response)
    }

    async fn legacy_asset(&self) -> Result<Response, Failure> {
        let outgoing = forward::to_legacy_asset(self.config, &self.target);
        self.send_to_legacy(&outgoing).await
    }

    /// A user's own request: authenticate, place, forward.
    async fn user(&self, route: UserRoute, ctx: &Context) -> Result<Response, Failure> {
        let access = self.authenticate(route)?;
        isolate::freshen_policy(self.env, ctx, self.now).await;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let lease = isolate::lease(self.env, access.user(), env::now()).await?;
            let response = match &lease.target.place {
                Place::Legacy => self.via_legacy(&access, &lease).await?,
                Place::Fly(machine) => {
                    let outgoing =
                        forward::to_machine(self.config, &self.target, machine, &lease.proof, self.id());
                    let response = self.send(&js::network(), &outgoing, "machine").await?;
                    let headers = response.headers();
                    let refusal = headers.get(REFUSAL_HEADER)?;
                    match forward::judge(response.status(), refusal.as_deref(), headers.has(SIDECAR_HEADER)?)
                    {
                        MachineAnswer::Genuine => response,
                        MachineAnswer::Unreachable => {
                            return Err(EdgeError::BackendUnavailable { backend: "machine" }.into());
                        }
                        MachineAnswer::Refused(_) => {
                            isolate::refused(self.env, access.user(), &lease.target);
                            // A body has been given away with the first attempt, and cannot be sent again.
                            if attempts < MAX_ATTEMPTS && self.request.body().is_none() {
                                continue;
                            }
                            return Err(EdgeError::PlacementChanged.into());
                        }
                    }
                }
            };
            return self.decorate(response, &access);
        }
    }

    async fn via_legacy(&self, access: &Access, lease: &Lease) -> Result<Response, Failure> {
        let epoch = lease.target.epoch;
        let outgoing = forward::to_legacy(self.config, &self.target, access, &lease.proof);
        let response = self.send_to_legacy(&outgoing).await?;
        // An acknowledgement is looked at a second time on its way back: if its lease is over and the user
        // has moved, nobody knows whether the write is part of what moved.
        if !self.target.is_safe() && !lease.holds(env::now()) {
            let again = isolate::lease(self.env, access.user(), env::now()).await?;
            if again.target.epoch != epoch {
                return Err(EdgeError::OutcomeUnknown.into());
            }
        }
        Ok(response)
    }

    async fn send_to_legacy(&self, outgoing: &Outgoing) -> Result<Response, Failure> {
        let through = self.legacy().ok_or(EdgeError::NotConfigured { missing: "LEGACY_ORIGIN" })?;
        self.send(&through, outgoing, "sandbox").await
    }

    /// The way to the legacy Worker: its service binding, or the network if there is an origin.
    fn legacy(&self) -> Option<js::Fetcher> {
        js::service(self.env, "LEGACY").or_else(|| self.config.legacy_origin.as_ref().map(|_| js::network()))
    }

    /// Sends the request on, body and upgrade included, without looking at either.
    async fn send(
        &self,
        through: &js::Fetcher,
        outgoing: &Outgoing,
        backend: &'static str,
    ) -> Result<Response, Failure> {
        let sent = js::send(through, self.request, &outgoing.to_lines())?;
        match JsFuture::from(sent).await {
            Ok(response) => Ok(response.unchecked_into()),
            Err(_) => Err(EdgeError::BackendUnavailable { backend }.into()),
        }
    }

    /// Adds what the browser needs. An answer that needs nothing, and every upgrade, is returned as it came.
    fn decorate(&self, response: Response, access: &Access) -> Result<Response, Failure> {
        if response.status() == 101 {
            return Ok(response);
        }
        let cookie = if self.is_page_load(&response)? { access.cookie_to_set(self.now) } else { None };
        if cookie.is_none() && self.origin.is_none() {
            return Ok(response);
        }
        let response = answer::reopened(&response)?;
        if let Some(cookie) = cookie {
            let headers = response.headers();
            headers.append("set-cookie", &cookie)?;
            // The page's URL is a credential: it goes into no cache and no referrer.
            headers.set("cache-control", "no-store")?;
            headers.set("referrer-policy", "no-referrer")?;
        }
        self.add_cors(&response)?;
        Ok(response)
    }

    /// Whether a browser has just loaded a page by this request.
    fn is_page_load(&self, response: &Response) -> Result<bool, JsValue> {
        let navigates = self.target.method == "GET" && !self.target.query.is_empty() && self.accepts_pages();
        Ok(navigates
            && response.headers().get("content-type")?.is_some_and(|kind| kind.starts_with("text/html")))
    }

    fn accepts_pages(&self) -> bool {
        self.accept.is_some_and(|accept| accept.contains("text/html"))
    }

    pub(super) fn add_cors(&self, response: &Response) -> Result<(), JsValue> {
        let Some(origin) = self.origin else { return Ok(()) };
        let headers = response.headers();
        for name in ["access-control-allow-origin", "access-control-allow-credentials"] {
            headers.delete(name)?;
        }
        for (name, value) in cors::on_answer(self.config, origin) {
            headers.set(name, &value)?;
        }
        headers.append("vary", "Origin")
    }

    fn authenticate(&self, route: UserRoute) -> Result<Access, EdgeError> {
        let keys = self.keys()?;
        let headers = RequestHeaders(self.request);
        access::authenticate(self.config, &keys.signing, route, &self.target, &headers, self.now)
    }

    pub(super) fn keys(&self) -> Result<&Keys, EdgeError> {
        self.config.keys.as_ref().ok_or(EdgeError::NotConfigured { missing: "MOLTBOT_SIGNING_SECRET" })
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        RequestHeaders(self.request).get(name)
    }
}
