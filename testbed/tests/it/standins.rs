//! The stand-ins, against the real agent and against tiny servers of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shared::id::{AppName, MachineId, UserId};
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::signed_url;
use testbed::agent::{Agent, AgentSpec};
use testbed::fly_proxy::FlyProxy;
use testbed::forward::{self, Answer, BoxError, Server};
use testbed::legacy::{self, LegacySpec, LegacyStandin};
use testbed::model_stub::{Behaviour, ModelStub, Outcome};
use testbed::process;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::chat::{Chat, MAIN};
use crate::support::tools;

const TOKEN: &str = "gateway-token-of-the-tests";

fn agent_spec(dir: &Path, model: &ModelStub) -> AgentSpec {
    AgentSpec {
        node: tools().node(),
        entry: tools().agent_entry(),
        dir: dir.to_owned(),
        model_url: model.url(),
        gateway_token: Secret::new(TOKEN).unwrap(),
        port: None,
    }
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn open<B>(method: &str, url: &str, headers: &[(&str, &str)], body: B) -> Response<Incoming>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let stream = TcpStream::connect(host).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(format!("/{path}"));
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", host);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Box::pin(body)).unwrap()).await.unwrap()
}

async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let response = open(method, url, headers, Full::new(Bytes::from(body.to_owned()))).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

async fn get(url: &str) -> Reply {
    send("GET", url, &[], "").await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_talks_to_the_model_stub_which_misbehaves_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelStub::start(0).await.unwrap();
    let agent = Agent::start(&agent_spec(dir.path(), &model)).await.unwrap();
    println!("ready after {:?}, resident {} MiB", agent.start_took(), agent.rss_bytes().unwrap() >> 20);

    let mut chat = Chat::connect(&agent.ws_url(), Some(TOKEN)).await;
    assert_eq!(chat.say("hello world", "k-plain").await.as_deref(), Some("You said: hello world"));

    // Slow: the pieces can be told apart.
    let before = Instant::now();
    chat.start("[[stub slow=200ms]] one two three four", "k-slow").await;
    let (text, deltas) = chat.outcome("k-slow").await;
    assert_eq!(text.as_deref(), Some("You said: one two three four"));
    assert!(deltas >= 3, "{deltas} deltas");
    assert!(before.elapsed() >= Duration::from_secs(1));

    // Big.
    let text = chat.say("[[stub big=300k]] much", "k-big").await.unwrap();
    assert_eq!(text.len(), 300 << 10);

    // Failing: the agent ends the run without a message.
    let failed = model.stats().failed;
    assert_eq!(chat.say("[[stub fail=400]] x", "k-400").await, None);
    assert!(model.stats().failed > failed);

    // Overloaded once: the agent tries again by itself.
    let retries = model.stats().retries;
    let text = chat.say("[[stub fail=529 times=1]] again", "k-529").await;
    assert_eq!(text.as_deref(), Some("You said: again"));
    assert_eq!(model.stats().retries, retries + 1);

    // Hanging, released.
    chat.start("[[stub hang]] wait", "k-hang").await;
    until("hanging", || model.stats().hanging == 1).await;
    model.release();
    assert_eq!(chat.outcome("k-hang").await.0.as_deref(), Some("You said: wait"));

    // Hanging, and the client goes.
    let abandoned = model.stats().abandoned;
    chat.start("[[stub hang]] never", "k-abort").await;
    until("hanging", || model.stats().hanging == 1).await;
    chat.call("chat.abort", json!({"sessionKey": MAIN, "runId": "k-abort"})).await;
    until("abandoned", || model.stats().abandoned == abandoned + 1).await;
    assert_eq!(model.stats().hanging, 0);

    // Cut.
    let text = chat.say("[[stub cut]] a b c d e f g h", "k-cut").await;
    println!("cut: {text:?}, stats {:?}", model.stats());
    assert!(model.stats().cut >= 1);

    // By default, without a directive, and over HTTP.
    model.set_behaviour(Behaviour { outcome: Outcome::Fail(400), ..Behaviour::default() });
    assert_eq!(chat.say("plain", "k-default").await, None);
    let answer = send("POST", &format!("{}/__stub/behaviour", model.url()), &[], "{}").await;
    assert_eq!(answer.status, 204);
    assert_eq!(chat.say("plain", "k-restored").await.as_deref(), Some("You said: plain"));
    let stats = send("GET", &format!("{}/__stub/stats", model.url()), &[], "").await.json();
    assert_eq!(stats["requests"], model.stats().requests);

    println!("resident {} MiB", agent.rss_bytes().unwrap() >> 20);
    chat.close().await;
    let before = Instant::now();
    agent.stop().await.unwrap();
    println!("stopped after {:?}", before.elapsed());
    model.stop().await;
}

// === The legacy stand-in ===

fn keys() -> SigningKeys {
    SigningKeys::new(Secret::new("test-secret-key-12345").unwrap(), None)
}

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

/// The query of a URL that is valid for a minute.
fn signed(user: &UserId) -> String {
    signed_url::sign(&keys(), user, legacy::now().floor_seconds().plus(60))
}

async fn start_legacy(dir: &Path, model: &ModelStub) -> LegacyStandin {
    let spec = LegacySpec {
        node: tools().node(),
        entry: tools().agent_entry(),
        dir: dir.to_owned(),
        model_url: model.url(),
        gateway_token: Secret::new(TOKEN).unwrap(),
        keys: keys(),
        sleep_after: None,
        cold_start: Duration::ZERO,
        port: 0,
    };
    LegacyStandin::start(spec).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_answers_without_a_container_as_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelStub::start(0).await.unwrap();
    let legacy = start_legacy(dir.path(), &model).await;
    let base = legacy.url();
    let (ann, now) = (user("user_Ann"), legacy::now().floor_seconds());
    let good = signed(&ann);
    let expired =
        "userId=user_abc123&exp=1700000000&sig=zmyuZKKbdoFC3ymgpQa5-zllDt2ZkzZWgL5B6L2IbKg".to_owned();
    let forged = good.replace("user_Ann", "user_Bob");
    let no_user = format!("userId=abc&exp={}&sig=x", now.0 + 60);
    let partly = format!("userId=user_Ann&exp={}", now.0 + 60);
    for (method, path, query, status, body) in [
        (
            "GET",
            "/sandbox-health",
            "",
            200,
            r#"{"status":"ok","service":"moltbot-sandbox","gateway_port":18789}"#,
        ),
        ("GET", "/api/status", "", 200, r#"{"ok":false,"status":"not_running"}"#),
        ("GET", "/api/status", &good, 200, r#"{"ok":false,"status":"not_running"}"#),
        ("GET", "/api/keepalive", &expired, 401, r#"{"error":"Unauthorized","details":"URL expired"}"#),
        ("GET", "/api/keepalive", &forged, 401, r#"{"error":"Unauthorized","details":"Invalid signature"}"#),
        ("GET", "/anything", &no_user, 401, r#"{"error":"Unauthorized","details":"Invalid userId format"}"#),
        ("GET", "/sandbox-health", &forged, 401, r#"{"error":"Unauthorized","details":"Invalid signature"}"#),
        ("GET", "/api/keepalive", &partly, 401, r#"{"error":"Missing auth params"}"#),
        ("GET", "/api/keepalive", "", 401, r#"{"error":"Missing auth params"}"#),
        ("POST", "/api/chat/send", "", 401, r#"{"error":"Missing auth params"}"#),
        ("GET", "/api/history", "", 401, r#"{"error":"Missing auth params (userId, exp, sig)"}"#),
        ("GET", "/ws/api/history", "", 401, r#"{"error":"Not authenticated"}"#),
        ("GET", "/ws/api/history", "sessionKey=a:b", 400, r#"{"error":"Invalid session key"}"#),
        ("POST", "/api/reset-workspace", "", 401, r#"{"error":"Not authenticated"}"#),
        ("GET", "/", "", 401, r#"{"error":"Unauthorized","hint":"Missing Cloudflare Access JWT."}"#),
        ("GET", "/api/admin/devices", &good, 501, r#"{"error":"Not part of the legacy stand-in"}"#),
        ("OPTIONS", "/api/files/list", "", 204, ""),
    ] {
        let reply = send(method, &format!("{base}{path}?{query}"), &[("x-automna-permit", "x")], "").await;
        assert_eq!((reply.status, reply.body.as_str()), (status, body), "{method} {path}?{query}");
    }
    let ours = [("origin", "https://www.automna.ai")];
    let reply = send("GET", &format!("{base}/"), &ours, "").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://www.automna.ai"));
    assert_eq!(get(&format!("{base}/")).await.header("access-control-allow-origin"), None);

    let stats = get(&format!("{base}/__standin/stats")).await.json();
    assert_eq!(stats["requests"], 19);
    assert_eq!(stats["signedRequests"], 2);
    assert_eq!(stats["permits"], 17);
    assert_eq!(stats["boots"], 0);
    assert_eq!(stats["byPath"]["/api/keepalive"], 4);
    legacy.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_hibernates_and_wakes_with_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelStub::start(0).await.unwrap();
    let legacy = start_legacy(dir.path(), &model).await;
    let base = legacy.url();
    let ws = base.replace("http://", "ws://");
    let (ann, bob) = (user("user_Ann"), user("user_Bob"));
    let texts = |body: &Value| -> Vec<String> {
        let messages = body["messages"].as_array().unwrap_or_else(|| panic!("{body}"));
        let first = |message: &Value| {
            let text = message["content"][0]["text"].as_str().or(message["content"].as_str());
            text.unwrap().lines().next().unwrap().to_owned()
        };
        messages.iter().map(first).collect()
    };

    // Two at once boot one container.
    let url = format!("{base}/api/keepalive?{}", signed(&ann));
    let (one, two) = tokio::join!(get(&url), get(&url));
    for reply in [one, two] {
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("alive")), "{}", reply.body);
    }
    assert_eq!((legacy.stats().boots, legacy.stats().running), (1, 1));
    let status = get(&format!("{base}/api/status?{}", signed(&ann))).await.json();
    assert_eq!((&status["ok"], &status["status"]), (&json!(true), &json!("running")));

    // A conversation, without a token in the client's hands.
    let mut chat = Chat::connect(&format!("{ws}/ws?{}", signed(&ann)), None).await;
    assert_eq!(legacy.stats().open_sockets, 1);
    assert_eq!(chat.say("hello legacy", "k1").await.as_deref(), Some("You said: hello legacy"));
    let text = chat.say("[[stub big=700k]] much", "k2").await.unwrap();
    assert_eq!(text.len(), 700 << 10);
    chat.close().await;
    until("socket closed", || legacy.stats().open_sockets == 0).await;

    // Both histories show it.
    let url = format!("{base}/ws/api/history?limit=3&{}", signed(&ann));
    let body = get(&url).await.json();
    assert_eq!(
        (&body["sessionKey"], &body["source"], &body["limit"]),
        (&json!("main"), &json!("container"), &json!(3))
    );
    assert_eq!(texts(&body), ["You said: hello legacy", "[[stub big=700k]] much", "You said: much"]);
    let url = format!("{base}/api/history?sessionKey=agent:main:main&{}", signed(&ann));
    assert_eq!(texts(&get(&url).await.json()).len(), 4);

    // The agent's own page comes through.
    let page = get(&format!("{base}/?{}", signed(&ann))).await;
    assert_eq!((page.status, page.header("x-worker-debug")), (200, Some("proxy-to-moltbot")));
    assert!(page.body.contains("<html"), "{}", page.body);

    // Hibernation, and a cold boot that remembers.
    let config = r#"{"sleepAfterMs":1000,"coldStartMs":700}"#;
    assert_eq!(send("POST", &format!("{base}/__standin/config"), &[], config).await.status, 204);
    until("hibernation", || legacy.stats().running == 0).await;
    let status = get(&format!("{base}/api/status?{}", signed(&ann))).await.json();
    assert_eq!(status, json!({"ok": false, "status": "not_running"}));
    let before = Instant::now();
    let mut chat = Chat::connect(&format!("{ws}/?{}", signed(&ann)), None).await;
    println!("cold boot through the stand-in: {:?}", before.elapsed());
    assert!(before.elapsed() >= Duration::from_millis(700));
    assert_eq!(legacy.stats().boots, 2);
    assert_eq!(chat.say("still there?", "k3").await.as_deref(), Some("You said: still there?"));
    let body = get(&format!("{base}/ws/api/history?limit=abc&{}", signed(&ann))).await.json();
    assert_eq!(body["limit"], Value::Null);
    assert_eq!(texts(&body)[0], "hello legacy");
    assert_eq!(texts(&body).len(), 6, "{:?}", texts(&body));

    // An open socket keeps it awake.
    sleep(Duration::from_millis(1500)).await;
    assert!(legacy.is_running(&ann));

    // Another user has another container, and nothing in it.
    let body = get(&format!("{base}/ws/api/history?{}", signed(&bob))).await;
    assert_eq!((body.status, body.json()), (200, json!({"error": "sessions.json not found"})));
    assert_ne!(legacy.container_dir(&ann), legacy.container_dir(&bob));
    assert_eq!(legacy.stats().boots, 3);

    // A container that is stopped says so to its sockets; one that crashes does not, and boots again.
    legacy.set_sleep_after(None);
    let (end, stopped) = tokio::join!(chat.end(), legacy.stop_container(&ann));
    stopped.unwrap();
    assert_eq!(end.code(), Some(CloseCode::Restart.into()));
    let chat = Chat::connect(&format!("{ws}/ws?{}", signed(&ann)), None).await;
    legacy.kill_container(&ann).await.unwrap();
    assert_eq!(chat.end().await.code(), Some(CloseCode::Error.into()));
    assert_eq!(get(&format!("{base}/api/keepalive?{}", signed(&ann))).await.status, 200);

    let before = Instant::now();
    legacy.stop().await.unwrap();
    println!("stopped after {:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_legacy_stand_in_ends_its_containers() {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelStub::start(0).await.unwrap();
    let legacy = start_legacy(dir.path(), &model).await;
    let (base, cat) = (legacy.url(), user("user_Cat"));
    let _chat =
        Chat::connect(&format!("{}/ws?{}", base.replace("http://", "ws://"), signed(&cat)), None).await;
    let status = get(&format!("{base}/api/status?{}", signed(&cat))).await.json();
    let process = PathBuf::from("/proc").join(status["processId"].as_str().unwrap());
    assert!(process.exists());
    drop(legacy);
    until("the container is gone", || !process.exists()).await;
}

// === The Fly proxy ===

fn machine(text: &str) -> MachineId {
    text.parse().unwrap()
}

fn app(text: &str) -> AppName {
    text.parse().unwrap()
}

/// A machine that shows what reaches it.
async fn start_machine(name: &'static str) -> Server {
    let handler = move |request: Request<Incoming>, _| async move {
        match request.uri().path() {
            "/echo" => request.into_body().map_err(BoxError::from).boxed_unsync().into_answer(),
            "/slow" => {
                let pieces = stream::iter(0..5).then(|n| async move {
                    sleep(Duration::from_millis(150)).await;
                    Ok(Bytes::from(format!("{n}")))
                });
                forward::streaming("text/plain", pieces)
            }
            _ => {
                let headers: Vec<(String, String)> = request
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                let path = request.uri().to_string();
                forward::json(StatusCode::OK, &json!({"machine": name, "path": path, "headers": headers}))
            }
        }
    };
    Server::start(0, handler).await.unwrap()
}

trait IntoAnswer {
    fn into_answer(self) -> Answer;
}

impl IntoAnswer for forward::Body {
    fn into_answer(self) -> Answer {
        Response::new(self)
    }
}

/// A machine that speaks WebSocket and repeats what it hears.
async fn start_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fly_proxy_routes_by_machine_id_and_by_nothing_else() {
    let fly = FlyProxy::start(0, 0).await.unwrap();
    let (a, b) = (start_machine("a").await, start_machine("b").await);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], process::free_port().unwrap()));
    fly.add_machine(app("app-a"), &machine("ma"), a.addr());
    fly.add_machine(app("app-b"), &machine("mb"), b.addr());
    fly.add_machine(app("app-b"), &machine("mdown"), nowhere);
    let url = format!("{}/some/path?q=1", fly.url());

    type Row<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);
    let rows: [Row<'_>; 7] = [
        (&[("fly-force-instance-id", "ma")], 200, "a"),
        (&[("fly-force-instance-id", "mb")], 200, "b"),
        (&[("fly-force-instance-id", "mb"), ("host", "app-b.fly.dev")], 200, "b"),
        (&[("fly-force-instance-id", "mb"), ("host", "app-a.fly.dev")], 503, ""),
        (&[("fly-force-instance-id", "other")], 503, ""),
        (&[], 503, ""),
        (&[("fly-force-instance-id", "mdown")], 502, ""),
    ];
    for (headers, status, name) in rows {
        let before = Instant::now();
        let reply = send("GET", &url, headers, "").await;
        assert_eq!(reply.status, status, "{headers:?}");
        assert!(reply.header("fly-request-id").is_some_and(|id| id.len() > 20));
        if status == 200 {
            assert_eq!(
                (&reply.json()["machine"], &reply.json()["path"]),
                (&json!(name), &json!("/some/path?q=1"))
            );
        } else {
            assert_eq!(reply.body, "", "{headers:?}");
        }
        assert!(before.elapsed() < Duration::from_secs(3), "{headers:?}");
    }

    // What the machine hears.
    let sent = [
        ("fly-force-instance-id", "ma"),
        ("fly-client-ip", "6.6.6.6"),
        ("fly-region", "moon"),
        ("fly-replay-src", "x"),
        ("x-automna-ticket", "t"),
    ];
    let reply = send("GET", &url, &sent, "").await.json();
    let heard = |name: &str| {
        let headers = reply["headers"].as_array().unwrap();
        headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned())
    };
    assert_eq!(heard("fly-force-instance-id"), None);
    assert_eq!(heard("fly-replay-src"), None);
    assert_eq!(heard("fly-client-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(heard("fly-region").as_deref(), Some("lhr"));
    assert_eq!(heard("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(heard("x-automna-ticket").as_deref(), Some("t"));

    // Machines come, move and go.
    assert!(fly.set_addr(&machine("mdown"), a.addr()));
    assert_eq!(send("GET", &url, &[("fly-force-instance-id", "mdown")], "").await.json()["machine"], "a");
    assert!(fly.remove_machine(&machine("mdown")));
    assert!(!fly.remove_machine(&machine("mdown")));
    assert_eq!(send("GET", &url, &[("fly-force-instance-id", "mdown")], "").await.status, 503);

    // The API, and the figures, in which neither the API nor the control routes count.
    let bearer = [("authorization", "Bearer t")];
    let list = send("GET", &format!("{}/v1/apps/app-b/machines", fly.api_url()), &bearer, "").await.json();
    assert_eq!(
        (&list[0]["id"], &list[0]["state"], &list[1]),
        (&json!("mb"), &json!("started"), &Value::Null)
    );
    assert_eq!(get(&format!("{}/v1/apps/app-b/machines", fly.api_url())).await.status, 401);
    let stats = get(&format!("{}/__standin/stats", fly.url())).await.json();
    assert_eq!(stats, json!({"requests": 10, "byMachine": {"ma": 2, "mb": 2, "mdown": 2}, "upgrades": 0}));
    fly.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fly_proxy_streams_both_ways_and_relays_sockets() {
    let fly = FlyProxy::start(0, 0).await.unwrap();
    let plain = start_machine("a").await;
    fly.add_machine(app("app-a"), &machine("ma"), plain.addr());
    fly.add_machine(app("app-a"), &machine("mws"), start_echo().await);

    // Down: the first piece is here long before the last.
    let to_a = [("fly-force-instance-id", "ma")];
    let before = Instant::now();
    let mut body =
        open("GET", &format!("{}/slow", fly.url()), &to_a, Full::new(Bytes::new())).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first, before.elapsed() < Duration::from_millis(450)), (Bytes::from("0"), true));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "1234");
    assert!(before.elapsed() >= Duration::from_millis(600));

    // Up and down at once: each piece comes back before the next one is sent.
    let (sender, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces =
        stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|piece| (piece, pieces)) });
    let upload = StreamBody::new(pieces.map(|piece| Ok::<_, BoxError>(Frame::data(piece))));
    let mut echo = open("POST", &format!("{}/echo", fly.url()), &to_a, upload).await.into_body();
    for n in 0..3 {
        sender.send(Bytes::from(format!("piece {n}"))).await.unwrap();
        let frame = timeout(Duration::from_secs(5), echo.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("piece {n}"));
    }
    drop(sender);
    assert!(echo.frame().await.is_none());

    // A socket: text, binary, a large message, and the close code, each way.
    let stream = TcpStream::connect(fly.url().strip_prefix("http://").unwrap()).await.unwrap();
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(
        fly.url().replace("http://", "ws://") + "/ws",
    )
    .unwrap();
    request.headers_mut().insert("fly-force-instance-id", "mws".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for message in
        [Message::text("hello"), Message::binary(vec![0, 1, 2]), Message::text("x".repeat(3 << 20))]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    assert_eq!(fly.stats().upgrades, 1);
    socket.close(Some(CloseFrame { code: CloseCode::from(4001), reason: "bye".into() })).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert_eq!(
        answer,
        Message::Close(Some(CloseFrame { code: CloseCode::from(4001), reason: "bye".into() }))
    );
    fly.stop().await;
}
