//! The edge in workerd, between two upstreams that record what reaches them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use shared::id::UserId;
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::wire::SIDECAR_HEADER;
use tempfile::TempDir;
use testbed::edge_build;
use testbed::forward::{Body, Server};
use testbed::system::{System, SystemSpec, sign};
use testbed::tools::Tools;
use testbed::workerd::{Edge, EdgeSpec};

pub(crate) const SECRET: &str = "test-secret-key-12345";
pub(crate) const ADMIN: &str = "test-admin-bearer";

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// The installed tools; a test that was started without them says how to get them.
pub(crate) fn tools() -> Tools {
    let tools = Tools::of_this_repository();
    let built = edge_build::output(&tools).join("index_bg.wasm").exists() && tools.workerd().exists();
    assert!(
        built,
        "the edge or its runtime is missing: run `cargo xtask test`, which builds and installs them"
    );
    tools
}

/// The sidecar's binary, which `cargo xtask test` has built beside ours.
pub(crate) fn sidecar() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("sidecar")
}

/// The whole system, with real agents on both sides.
pub(crate) async fn system(dir: &Path, who: &str) -> System {
    system_with(dir, who, BTreeMap::new()).await
}

/// The same, with further settings of the edge.
pub(crate) async fn system_with(dir: &Path, who: &str, edge_vars: BTreeMap<String, String>) -> System {
    let spec = SystemSpec {
        dir: dir.to_owned(),
        user: user(who),
        sidecar: sidecar(),
        edge_vars,
        machine_env: BTreeMap::new(),
        legacy_sleeps_after: None,
        legacy_cold_start: Duration::from_secs(1),
    };
    System::start(&tools(), spec, |_| {}).await.unwrap()
}

/// Waits until `condition` holds, and fails the test if it does not in time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    eventually_within(PATIENCE, what, condition).await;
}

/// The same, for what may take longer.
pub(crate) async fn eventually_within<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = tokio::time::Instant::now() + limit;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request that reached an upstream.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body_bytes: u64,
}

/// Which back end an upstream plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plays {
    Legacy,
    Machine,
}

/// An upstream. `/bulk?bytes=N` streams N bytes, `/slow?ms=N` takes its time, `/page` is a page, `/refuse?n=N`
/// refuses by a stale epoch N times, a machine's `/api/status` says what it was told to; any other path answers 200 with the name of the back end.
#[derive(Debug)]
pub(crate) struct Upstream {
    server: Server,
    seen: Arc<Mutex<Vec<Seen>>>,
    status: Arc<Mutex<Option<String>>>,
}

impl Upstream {
    pub(crate) async fn start(plays: Plays) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let for_handler = Arc::clone(&seen);
        let status = Arc::new(Mutex::new(None));
        let status_for_handler = Arc::clone(&status);
        let server = Server::start(0, move |request, _| {
            let status = status_for_handler.lock().unwrap().clone();
            answer(plays, Arc::clone(&for_handler), status, request)
        })
        .await
        .unwrap();
        Self { server, seen, status }
    }

    /// Sets the body of `/api/status`.
    pub(crate) fn says_of_its_agent(&self, status: &str) {
        *self.status.lock().unwrap() = Some(status.to_owned());
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn answer(
    plays: Plays,
    seen: Arc<Mutex<Vec<Seen>>>,
    status: Option<String>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let headers: BTreeMap<String, String> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let number = |name: &str| -> u64 {
        let query = parts.uri.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .find(|(n, _)| n == name)
            .map_or(0, |(_, v)| v.parse().unwrap())
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|s| s.target == target).count() as u64;
        seen.push(Seen { method: parts.method.to_string(), target: target.clone(), headers, body_bytes });
        before
    };
    let mut response = Response::builder().header("x-upstream", format!("{plays:?}"));
    if plays == Plays::Machine {
        response = response.header(SIDECAR_HEADER, "test");
    }
    if let (Some(status), "/api/status") = (status, parts.uri.path()) {
        return response.body(text(status)).unwrap();
    }
    match parts.uri.path() {
        "/bulk" => {
            let chunk = Bytes::from(vec![7_u8; 64 * 1024]);
            let chunks = number("bytes") / chunk.len() as u64;
            let stream = futures_util::stream::iter(0..chunks).map(move |_| Ok(Frame::data(chunk.clone())));
            response.body(StreamBody::new(stream).boxed_unsync()).unwrap()
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            response.body(text(format!("{plays:?}"))).unwrap()
        }
        "/page" => response
            .header("content-type", "text/html; charset=utf-8")
            .body(text("<p>page</p>".into()))
            .unwrap(),
        "/refuse" if before < number("n") => {
            response.status(409).header("x-automna-refusal", "stale-epoch").body(text(String::new())).unwrap()
        }
        "/proxy-error" => Response::builder().status(502).body(text(String::new())).unwrap(),
        _ => response
            .header("access-control-allow-origin", "*")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(text(format!("{plays:?}")))
            .unwrap(),
    }
}

fn text(text: String) -> Body {
    http_body_util::Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// The edge between its upstreams.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) edge: Edge,
    pub(crate) legacy: Upstream,
    pub(crate) machine: Upstream,
    pub(crate) http: reqwest::Client,
    _dir: TempDir,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts the edge after `change` has been at its settings.
    pub(crate) async fn with(change: impl FnOnce(&mut EdgeSpec)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let legacy = Upstream::start(Plays::Legacy).await;
        let machine = Upstream::start(Plays::Machine).await;
        let vars = [
            ("MOLTBOT_SIGNING_SECRET", SECRET.to_owned()),
            ("ADMIN_BEARER", ADMIN.to_owned()),
            ("LEGACY_ORIGIN", legacy.url()),
            ("MACHINE_ORIGIN", machine.url()),
            ("DIRECT_FLIPS", "allow".to_owned()),
            ("TEST_HOOKS", "on".to_owned()),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut spec = EdgeSpec {
            dir: dir.path().join("edge"),
            vars,
            legacy_service: None,
            faults: false,
            instead: None,
        };
        change(&mut spec);
        let edge = Edge::start(&tools(), spec).await.unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { edge, legacy, machine, http, _dir: dir }
    }

    pub(crate) fn url(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.edge.url())
    }

    pub(crate) async fn get(&self, path_and_query: &str) -> reqwest::Response {
        self.http.get(self.url(path_and_query)).send().await.unwrap()
    }

    /// `path`, signed for `user`.
    pub(crate) fn signed(&self, path: &str, user: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}{}", query(user))
    }

    pub(crate) async fn ops(
        &self,
        method: &str,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> (u16, serde_json::Value) {
        let method = method.parse().unwrap();
        let mut request =
            self.http.request(method, self.url(&format!("/_ops/api/{path}"))).bearer_auth(ADMIN);
        if let Some(body) = body {
            request = request.json(&body);
        } else {
            request = request.header("content-length", "0");
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}")))
    }

    pub(crate) async fn policy(&self, change: serde_json::Value) {
        let (status, body) = self.ops("POST", "policy", Some(change)).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Gives `user` the machine upstream as a machine.
    pub(crate) async fn attach(&self, user: &str) {
        let body = serde_json::json!({"app": "app-1", "machineId": "m1", "generation": 1});
        let (status, body) = self.ops("POST", &format!("users/{user}/machine"), Some(body)).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Puts `user` on the machine, and waits until requests go there.
    pub(crate) async fn put_on_fly(&self, user: &str) {
        self.attach(user).await;
        self.policy(serde_json::json!({"pins": {user: "fly"}})).await;
        let path = self.signed("/settle", user);
        eventually("requests go to the machine", async || {
            self.get(&path).await.text().await.unwrap() == "Machine"
        })
        .await;
    }
}

pub(crate) fn keys() -> SigningKeys {
    SigningKeys::new(Secret::new(SECRET).unwrap(), None)
}

pub(crate) fn user(text: &str) -> UserId {
    text.parse().unwrap()
}

/// A signed query that holds for an hour.
pub(crate) fn query(who: &str) -> String {
    sign(&Secret::new(SECRET).unwrap(), &user(who), 3600)
}

/// The JSON of an error, and that it is one of ours.
pub(crate) async fn error_body(response: reqwest::Response) -> serde_json::Value {
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.text().await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    assert_eq!(body["requestId"], request_id.as_str());
    assert!(body["code"].is_string(), "{body}");
    body
}
