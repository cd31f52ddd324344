//! Who is let in.

use shared::id::Backend;

use crate::harness::{GENERATION, Sidecar, Ticket, USER, eventually, key_of};

fn ticket() -> Ticket {
    Ticket::of_epoch(1)
}

#[tokio::test]
async fn nothing_is_answered_or_forwarded_without_a_good_ticket() {
    let (sidecar, gateway) = Sidecar::start().await;
    let other_user = || "user_b".parse().unwrap();
    let rows = [
        (None, "ticket_missing"),
        (Some("garbage".to_owned()), "ticket_malformed"),
        (
            Some(Ticket { user: other_user(), key: key_of("user_b", GENERATION), ..ticket() }.issue()),
            "ticket_bad_tag",
        ),
        (Some(Ticket { user: other_user(), ..ticket() }.issue()), "ticket_other_user"),
        (Some(Ticket { generation: 2, ..ticket() }.issue()), "ticket_other_generation"),
        (Some(Ticket { generation: 2, key: key_of(USER, 2), ..ticket() }.issue()), "ticket_bad_tag"),
        (Some(Ticket { backend: Backend::Legacy, ..ticket() }.issue()), "ticket_other_backend"),
        (Some(Ticket { expires_in: -1, ..ticket() }.issue()), "ticket_expired"),
    ];
    let requests = [
        ("GET", "/", false),
        ("GET", "/ws", true),
        ("GET", "/api/keepalive", false),
        ("POST", "/api/keepalive", false),
        ("GET", "/api/unknown", false),
        ("GET", "/..%2f", false),
        ("OPTIONS", "/", false),
    ];
    for (ticket, code) in &rows {
        for (method, target, upgrade) in requests {
            let mut headers = vec![("x-request-id", "chosen-by-a-stranger")];
            headers.extend(ticket.as_deref().map(|ticket| ("x-automna-ticket", ticket)));
            if upgrade {
                headers.extend([
                    ("upgrade", "websocket"),
                    ("connection", "Upgrade"),
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ]);
            }
            let answer = sidecar.send(method, target, &headers).await;
            answer.assert_error(401, code);
            assert_eq!(answer.json()["error"], "Unauthorized");
            assert_ne!(answer.header("x-request-id"), Some("chosen-by-a-stranger"));
        }
    }
    assert_eq!(gateway.heads(), [""; 0]);
    assert!(!sidecar.epoch_file().exists(), "a refused ticket raised the epoch");
}

#[tokio::test]
async fn a_stale_epoch_is_refused_and_a_raised_one_survives_a_restart() {
    let (sidecar, gateway) = Sidecar::start().await;
    let ask = async |sidecar: &Sidecar, epoch: u64| {
        sidecar.send("GET", "/", &[("x-automna-ticket", &Ticket::of_epoch(epoch).issue())]).await
    };
    assert_eq!(ask(&sidecar, 7).await.status(), 200);
    assert_eq!(std::fs::read_to_string(sidecar.epoch_file()).unwrap(), "7\n");
    assert_eq!(gateway.heads().len(), 1);

    let refused = ask(&sidecar, 6).await;
    refused.assert_error(409, "stale_epoch");
    assert_eq!(refused.header("x-automna-refusal"), Some("stale-epoch"));
    assert_eq!(gateway.heads().len(), 1, "a stale request reached the agent");

    let sidecar = sidecar.restart().await;
    ask(&sidecar, 6).await.assert_error(409, "stale_epoch");
    assert_eq!(ask(&sidecar, 7).await.status(), 200);
}

#[tokio::test]
async fn an_epoch_that_cannot_be_stored_is_not_served() {
    let (sidecar, gateway) = Sidecar::start().await;
    std::fs::remove_dir_all(sidecar.epoch_file().parent().unwrap()).unwrap();
    sidecar.get("/").await.assert_error(503, "epoch_not_stored");
    assert_eq!(gateway.heads(), [""; 0]);
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_one() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let ticket = ticket().issue();
    for (brought, kept) in [("request-1", true), ("short", false), ("with spaces in it", false)] {
        let headers = [("x-automna-ticket", ticket.as_str()), ("x-request-id", brought)];
        for target in ["/", "/api/keepalive", "/api/unknown"] {
            let answer = sidecar.send("GET", target, &headers).await;
            assert_eq!(answer.header("x-request-id") == Some(brought), kept, "{target} {brought}");
            assert_eq!(answer.header("x-automna-sidecar"), Some(env!("CARGO_PKG_VERSION")), "{target}");
        }
    }
}

#[tokio::test]
async fn the_private_port_needs_no_ticket_and_tells_ready_from_live() {
    let (sidecar, _gateway) = Sidecar::start().await;
    assert_eq!(sidecar.admin("/live").await.json(), serde_json::json!({ "live": true }));
    eventually("ready", async || sidecar.admin("/ready").await.status() == 200).await;
    assert_eq!(sidecar.admin("/ready").await.json()["ready"], true);
    sidecar.admin("/").await.assert_error(404, "unknown_route");
    sidecar.admin("/api/keepalive").await.assert_error(404, "unknown_route");

    let alone = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    assert_eq!(alone.admin("/live").await.status(), 200);
    let answer = alone.admin("/ready").await;
    assert_eq!((answer.status(), answer.json()["ready"].as_bool()), (503, Some(false)));
}
