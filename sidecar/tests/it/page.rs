//! HTTP: our own routes, and the agent's page.

use crate::gateway::{PAGE, header};
use crate::harness::{Sidecar, Ticket, USER};

#[tokio::test]
async fn keepalive() {
    let (sidecar, gateway) = Sidecar::start().await;
    let ticket = Ticket::of_epoch(1).issue();
    for target in ["/api/keepalive", "/ws/api/keepalive?userId=x&exp=1&sig=s"] {
        let answer = sidecar.get(target).await;
        assert_eq!(answer.status(), 200);
        let text = std::str::from_utf8(&answer.body).unwrap();
        assert!(text.starts_with(&format!(r#"{{"status":"alive","userId":"{USER}","timestamp":"#)), "{text}");
        assert!(text.ends_with(r#","syncing":true,"preCaching":true}"#), "{text}");

        let head = sidecar.send("HEAD", target, &[("x-automna-ticket", &ticket)]).await;
        assert_eq!((head.status(), head.body.len()), (200, 0));
        let post = sidecar.send("POST", target, &[("x-automna-ticket", &ticket)]).await;
        post.assert_error(405, "method_not_allowed");
        assert_eq!(post.header("allow"), Some("GET,HEAD"));
    }
    assert_eq!(gateway.heads(), [""; 0]);
}

#[tokio::test]
async fn only_the_page_reaches_the_agent() {
    let (sidecar, gateway) = Sidecar::start().await;
    let ticket = Ticket::of_epoch(1).issue();
    let rows = [
        ("GET", "/api", 404, "unknown_route"),
        ("GET", "/api/", 404, "unknown_route"),
        ("GET", "/api/unknown", 404, "unknown_route"),
        ("POST", "/api/unknown", 404, "unknown_route"),
        ("GET", "/ws/api/unknown", 404, "unknown_route"),
        ("GET", "/ws", 404, "unknown_route"),
        ("GET", "/health", 404, "unknown_route"),
        ("GET", "/tools/invoke", 404, "unknown_route"),
        ("GET", "/hooks/wake", 404, "unknown_route"),
        ("GET", "/v1/models", 404, "unknown_route"),
        ("GET", "/__clawdbot__/canvas/", 404, "unknown_route"),
        ("GET", "/%61ssets/app.css", 404, "unknown_route"),
        ("POST", "/tools/invoke", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("DELETE", "/chat", 405, "method_not_allowed"),
        ("GET", "/assets/../tools/invoke", 400, "bad_path"),
        ("GET", "/assets/%2e%2e/tools/invoke", 400, "bad_path"),
        ("GET", "/assets/..%2Ftools/invoke", 400, "bad_path"),
        ("GET", "//assets/app.css", 400, "bad_path"),
        ("GET", "/assets%5capp.css", 400, "bad_path"),
    ];
    for (method, target, status, code) in rows {
        let answer = sidecar.send(method, target, &[("x-automna-ticket", &ticket)]).await;
        answer.assert_error(status, code);
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {target}");
    }
    assert_eq!(gateway.heads(), [""; 0]);

    for target in ["/", "/index.html", "/chat", "/overview?session=main", "/favicon.ico", "/avatar/main"] {
        let answer = sidecar.get(target).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, PAGE.as_bytes()), "{target}");
    }
    assert_eq!(gateway.heads().len(), 6);
}

#[tokio::test]
async fn headers_and_queries_are_sifted_both_ways() {
    let (sidecar, gateway) = Sidecar::start().await;
    let ticket = Ticket::of_epoch(1).issue();
    let target = "/?gatewayUrl=wss://evil.example&token=t&userId=u&exp=1&sig=s";
    let headers = [
        ("x-automna-ticket", ticket.as_str()),
        ("cookie", "session=1"),
        ("authorization", "Bearer x"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("fly-client-ip", "6.6.6.6"),
        ("cf-connecting-ip", "6.6.6.6"),
        ("x-request-id", "request-1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("accept-language", "en"),
    ];
    let answer = sidecar.send("GET", target, &headers).await;

    let heads = gateway.heads();
    let head = &heads[0];
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    let mut names: Vec<String> =
        head.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0.to_lowercase())).collect();
    names.sort();
    assert_eq!(names, ["accept-language", "host", "x-forwarded-for", "x-request-id"]);
    assert_eq!(header(head, "host"), Some(gateway.address.to_string().as_str()));
    assert_eq!(header(head, "x-forwarded-for"), Some("127.0.0.1"));

    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
    for name in ["set-cookie", "x-automna-refusal", "x-hop", "connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(sidecar.get("/assets/app.css").await.header("referrer-policy"), None);

    let head = sidecar.send("HEAD", "/", &[("x-automna-ticket", &ticket)]).await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(PAGE.len().to_string().as_str()));
}

#[tokio::test]
async fn an_agent_that_is_down_is_a_503_worth_a_retry() {
    let sidecar = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    let answer = sidecar.get("/").await;
    answer.assert_error(503, "agent_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(sidecar.get("/api/keepalive").await.status(), 200);
}
