//! From a host name to a process.

use fly_emulator::Image;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, client::ClientRequestBuilder};

use crate::support::{Bench, text};

/// A small server, in the only language that is on every machine that runs these tests. It tells what it was asked,
/// echoes WebSocket messages, and replays `/replay/<app>/<machine>`.
const SERVER: &str = r#"
import base64, hashlib, http.server, json, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self): self.do_GET()
    def do_GET(self):
        if self.headers.get("upgrade"):
            key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.wfile.write(("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %s\r\n\r\n" % accept).encode())
            self.wfile.flush()
            head = self.rfile.read(2); size = head[1] & 127
            mask = self.rfile.read(4); data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            self.wfile.write(bytes([head[0], size]) + data); self.wfile.flush()
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        parts = self.path.split("/")
        self.send_response(200)
        if parts[1] == "replay" and not self.headers.get("fly-replay-src"):
            self.send_header("fly-replay", "app=%s;instance=%s;state=s1" % (parts[2], parts[3]))
        said = json.dumps({"machine": os.environ["FLY_MACHINE_ID"], "path": self.path, "body": body,
            "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_header("content-length", str(len(said))); self.end_headers(); self.wfile.write(said)
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
Server((os.environ["FLY_PRIVATE_IP"], 8080), Handler).serve_forever()
"#;

async fn bench(cross_network_replays: bool) -> Bench {
    Bench::start(|config| {
        let command = ["/usr/bin/env", "python3", "-c", SERVER].map(str::to_owned).to_vec();
        config.images.insert("server".into(), Image { command, env: [].into() });
        config.cross_network_replays = cross_network_replays;
        config.hostnames.insert("agent.example".into(), "a".into());
    })
    .await
}

async fn server(bench: &Bench, app: &str, name: &str, autostart: bool) -> String {
    let volume = bench.volume(app, name).await;
    let mut wanted = Bench::wanted(name, "server", &volume);
    wanted["config"]["services"] = json!([{"protocol": "tcp", "internal_port": 8080, "autostart": autostart,
        "ports": [{"port": 443, "handlers": ["tls", "http"]}]}]);
    let made = bench.post(&format!("/apps/{app}/machines"), &wanted).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let id = text(&made.body["id"]);
    bench
        .until(async || {
            ask(bench, &format!("{app}.fly.dev"), "/", &[("fly-force-instance-id", &id)]).await.0 == 200
        })
        .await;
    id
}

async fn ask(bench: &Bench, host: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let url = format!("{}{path}", bench.emulator.proxy_url());
    let mut request = reqwest::Client::new().post(url).header("host", host).body("body");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.headers().contains_key("fly-request-id"));
    assert_ne!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

#[tokio::test]
async fn a_request_reaches_the_machine_that_it_names() {
    let bench = bench(false).await;
    bench.app("b").await;
    let (one, two) = (server(&bench, "a", "one", false).await, server(&bench, "a", "two", false).await);
    let other = server(&bench, "b", "other", false).await;
    for (host, header, expected) in [
        ("a.fly.dev", ("fly-force-instance-id", one.as_str()), Ok(&one)),
        ("agent.example:443", ("fly-force-instance-id", two.as_str()), Ok(&two)),
        ("127.0.0.1", ("fly-force-instance-id", two.as_str()), Ok(&two)),
        ("127.0.0.1", ("x-flyfake-app", "b"), Ok(&other)),
        ("a.fly.dev", ("fly-prefer-instance-id", two.as_str()), Ok(&two)),
        ("a.fly.dev", ("fly-force-instance-id", other.as_str()), Err(503)),
        ("b.fly.dev", ("accept", "*/*"), Ok(&other)),
        ("none.fly.dev", ("accept", "*/*"), Err(404)),
        ("127.0.0.1", ("accept", "*/*"), Err(404)),
    ] {
        let (status, body) = ask(&bench, host, "/x?y=1", &[header, ("fly-client-ip", "6.6.6.6")]).await;
        match expected {
            Ok(machine) => {
                assert_eq!((status, &body["machine"]), (200, &json!(machine)), "{host} {header:?}");
                let seen = &body["headers"];
                assert_eq!((&body["path"], &body["body"]), (&json!("/x?y=1"), &json!("body")));
                assert_eq!(
                    (&seen["fly-client-ip"], &seen["fly-force-instance-id"]),
                    (&json!("127.0.0.1"), &Value::Null)
                );
            }
            Err(expected) => assert_eq!(status, expected, "{host} {header:?}"),
        }
    }
    let (_, body) = ask(&bench, "b.fly.dev", "/", &[("fly-prefer-instance-id", &one)]).await;
    assert_eq!(body["headers"]["fly-preferred-instance-unavailable"], json!(one));
    bench.emulator.stop().await;
}

#[tokio::test]
async fn one_that_is_stopped_is_started_only_if_it_says_so() {
    let bench = bench(false).await;
    for (name, autostart, expected) in [("asleep", true, 200), ("off", false, 503)] {
        let id = server(&bench, "a", name, autostart).await;
        bench.post(&format!("/apps/a/machines/{id}/stop"), &json!({})).await;
        bench.wait(&id, "stopped").await;
        // Not at once after a stop: Fly refuses that.
        bench
            .until(async || {
                ask(&bench, "a.fly.dev", "/", &[("fly-force-instance-id", &id)]).await.0 == expected
            })
            .await;
        assert_eq!(bench.state(&id).await == "started", autostart);
    }
    bench.emulator.stop().await;
}

#[tokio::test]
async fn websockets_pass() {
    let bench = bench(false).await;
    let id = server(&bench, "a", "ws", false).await;
    let url = bench.emulator.proxy_url().replace("http://", "ws://");
    let request = ClientRequestBuilder::new(url.parse().unwrap()).with_header("fly-force-instance-id", &id);
    let (mut socket, _) =
        tokio_tungstenite::connect_async(request.into_client_request().unwrap()).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    bench.emulator.stop().await;
}

#[tokio::test]
async fn replays_go_where_they_are_sent_within_a_network() {
    for (cross, expected) in [(true, 200), (false, 502)] {
        let bench = bench(cross).await;
        bench.app("b").await;
        let (router, target) =
            (server(&bench, "a", "router", false).await, server(&bench, "b", "target", false).await);
        let path = format!("/replay/b/{target}");
        let forged = ("fly-replay-src", "instance=forged");
        let (status, body) = ask(&bench, "a.fly.dev", &path, &[forged]).await;
        assert_eq!(status, expected);
        if cross {
            assert_eq!((&body["machine"], &body["body"]), (&json!(target), &json!("body")));
            let source = text(&body["headers"]["fly-replay-src"]);
            assert!(
                source.starts_with(&format!("instance={router};")) && source.ends_with(";state=s1"),
                "{source}"
            );
        }
        bench.emulator.stop().await;
    }
}
