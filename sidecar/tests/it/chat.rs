//! What is sent without a WebSocket, and how the agent is.

use serde_json::json;

use crate::harness::{Sidecar, eventually};

#[tokio::test]
async fn a_message_reaches_the_agent_under_its_canonical_key() {
    let (sidecar, gateway) = Sidecar::start().await;
    let rows = [
        (r#"{"message":" hi "}"#, None, "main", "agent:main:main", None),
        (
            r#"{"message":"hi","sessionKey":"work","idempotencyKey":"k1"}"#,
            None,
            "work",
            "agent:main:work",
            Some("k1"),
        ),
        (
            r#"{"message":"hi","sessionKey":"agent:main:x"}"#,
            Some("k2"),
            "agent:main:x",
            "agent:main:x",
            Some("k2"),
        ),
    ];
    for (body, header, shown, canonical, run_id) in rows {
        for prefix in ["/api", "/ws/api"] {
            let headers: Vec<_> = header.map(|key| ("idempotency-key", key)).into_iter().collect();
            let answer = sidecar.post(&format!("{prefix}/chat/send"), &headers, body).await;
            let said = answer.json();
            assert_eq!(
                (answer.status(), &said["ok"], &said["sessionKey"]),
                (200, &json!(true), &json!(shown)),
                "{said}"
            );
            assert!(said["timestamp"].is_u64());
            let call = gateway.calls().pop().unwrap();
            assert_eq!(
                (&call["method"], &call["params"]["sessionKey"]),
                (&json!("chat.send"), &json!(canonical))
            );
            assert_eq!(call["params"]["idempotencyKey"], said["runId"]);
            assert!(run_id.is_none_or(|run_id| said["runId"] == run_id), "{said}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_says_whose_fault_it_is() {
    let (sidecar, gateway) = Sidecar::start().await;
    let (large, huge) = ("x".repeat(600 * 1024), "x".repeat(4 * 1024 * 1024));
    let long_key = "k".repeat(129);
    let rows = [
        ("{".to_owned(), 400, "bad_json"),
        ("7".to_owned(), 400, "bad_json"),
        (r#"{"message":7}"#.to_owned(), 400, "bad_json"),
        ("{}".to_owned(), 400, "no_message"),
        (r#"{"message":" \n "}"#.to_owned(), 400, "no_message"),
        (r#"{"message":"a","sessionKey":"$(id)"}"#.to_owned(), 400, "bad_session_key"),
        (r#"{"message":"a","idempotencyKey":""}"#.to_owned(), 400, "bad_idempotency_key"),
        (json!({"message": "a", "idempotencyKey": long_key}).to_string(), 400, "bad_idempotency_key"),
        (json!({"message": large}).to_string(), 413, "message_too_large"),
        (json!({"message": huge}).to_string(), 413, "message_too_large"),
    ];
    for (body, status, code) in rows {
        sidecar.post("/api/chat/send", &[], &body).await.assert_error(status, code);
    }
    assert!(gateway.calls().is_empty());
    assert_eq!(sidecar.post("/api/chat/send", &[], "{}").await.json()["error"], "Message is required");

    let refused = sidecar.post("/api/chat/send", &[], r#"{"message":"refuse me"}"#).await;
    refused.assert_error(502, "agent_refused");
    assert_eq!(refused.json()["details"], "INVALID_REQUEST: no");
    let broken = sidecar.post("/api/chat/send", &[], r#"{"message":"break off"}"#).await;
    broken.assert_error(504, "agent_timeout");

    let get = sidecar.get("/api/chat/send").await;
    get.assert_error(405, "method_not_allowed");
    assert_eq!(get.header("allow"), Some("POST"));

    let alone = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    let answer = alone.post("/api/chat/send", &[], r#"{"message":"a"}"#).await;
    answer.assert_error(503, "agent_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn status_is_always_200() {
    let (sidecar, _gateway) = Sidecar::start().await;
    eventually("running", async || sidecar.get("/api/status").await.json()["ok"] == true).await;
    let body = sidecar.get("/ws/api/status").await.json();
    assert_eq!((&body["status"], &body["readiness"]["ready"]), (&json!("running"), &json!(true)), "{body}");
    let alone = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    let answer = alone.get("/api/status").await;
    assert_eq!((answer.status(), answer.json()["status"].as_str()), (200, Some("not_running")));
}

#[tokio::test]
async fn a_reset_puts_everything_away_and_destroys_nothing() {
    let (sidecar, gateway) = Sidecar::start().await;
    let (sessions, workspace) = (sidecar.sessions_dir(), sidecar.workspace());
    std::fs::create_dir_all(&sessions).unwrap();
    std::fs::create_dir_all(&workspace).unwrap();
    let store = json!({"agent:main:main": {"sessionId": "new"}, "agent:main:work": {"sessionId": "work"}});
    std::fs::write(sessions.join("sessions.json"), store.to_string()).unwrap();
    for name in ["old.jsonl", "work.jsonl"] {
        std::fs::write(sessions.join(name), "{\"role\":\"user\",\"content\":\"a\"}\n").unwrap();
    }
    std::fs::write(workspace.join("a.txt"), "a").unwrap();

    let other = sidecar.post("/api/reset-workspace?targetUserId=user_b&adminSecret=x", &[], "").await;
    other.assert_error(403, "other_user");
    let only_files = sidecar.post("/api/reset-workspace?clearSessions=false", &[], "").await.json();
    assert_eq!(only_files["cleared"], json!({"workspace": "deleted"}));
    assert!(gateway.calls().is_empty() && !workspace.join("a.txt").exists());
    assert!(sessions.join("old.jsonl").exists());

    let body = sidecar.post("/ws/api/reset-workspace", &[], "").await.json();
    assert_eq!((&body["success"], &body["userId"]), (&json!(true), &json!(crate::harness::USER)), "{body}");
    assert_eq!(body["cleared"], json!({"workspace": "deleted", "clawdbot": "deleted"}));
    assert_eq!(gateway.calls()[0]["params"], json!({"key": "agent:main:main"}));
    let forgotten = json!({"key": "agent:main:work", "deleteTranscript": false});
    assert_eq!(gateway.calls()[1]["params"], forgotten);
    assert!(!sessions.join("work.jsonl").exists() && !sessions.join("old.jsonl").exists());
    for key in ["main", "work"] {
        let history = sidecar.get(&format!("/ws/api/history?sessionKey={key}")).await.json();
        assert_eq!(history["messages"], json!([]), "{key}");
    }
    let kept = std::fs::read_dir(workspace.join(".trash")).unwrap();
    assert!(kept.flatten().any(|reset| reset.path().join("a.txt").exists()));
    let kept = std::fs::read_dir(&sessions).unwrap();
    let kept: Vec<_> = kept.flatten().map(|reset| reset.path()).collect();
    for name in ["old.jsonl", "work.jsonl"] {
        assert!(kept.iter().any(|reset| reset.join(name).exists()), "{name}");
    }

    let alone = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    std::fs::create_dir_all(alone.workspace().join("kept")).unwrap();
    alone.post("/api/reset-workspace", &[], "").await.assert_error(503, "agent_unavailable");
    assert!(alone.workspace().join("kept").exists(), "a refused reset has changed something");
}
