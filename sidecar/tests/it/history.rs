//! History over HTTP, from files as the agent writes them.

use serde_json::json;

use crate::harness::Sidecar;

#[tokio::test]
async fn unavailable_then_empty_then_a_conversation_in_both_shapes() {
    let (sidecar, _gateway) = Sidecar::start().await;
    for target in ["/api/history", "/ws/api/history", "/api/sessions"] {
        let answer = sidecar.get(target).await;
        answer.assert_error(503, "history_unavailable");
        assert_eq!(answer.header("retry-after"), Some("2"));
    }

    let dir = sidecar.sessions_dir();
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    for target in ["/api/history", "/ws/api/history"] {
        let body = sidecar.get(target).await.json();
        assert_eq!(body["messages"], json!([]), "{body}");
        assert_eq!(body["error"], "sessions.json not found");
    }

    std::fs::create_dir_all(&dir).unwrap();
    let store = json!({
        "agent:main:main": {"sessionId": "a", "updatedAt": 2, "totalTokens": 17},
        "agent:main:work": {"sessionId": "b", "updatedAt": 3, "label": "Work",
            "sessionFile": "/root/.clawdbot/agents/main/sessions/b.jsonl"},
    });
    std::fs::write(dir.join("sessions.json"), store.to_string()).unwrap();
    let transcript = concat!(
        r#"{"type":"session","version":3,"id":"a","timestamp":"2026-01-01T00:00:00.000Z"}"#,
        "\n",
        r#"{"type":"message","id":"1","timestamp":"2026-01-01T00:00:01.000Z","message":{"role":"user","content":[{"type":"text","text":"hi"}],"timestamp":5}}"#,
        "\n",
        r#"{"type":"message","id":"2","timestamp":"2026-01-01T00:00:02.000Z","message":{"role":"toolResult","content":[]}}"#,
        "\n",
        r#"{"type":"message","id":"3","timestamp":"2026-01-01T00:00:03.000Z","message":{"role":"assistant","content":"hello"}}"#,
        "\n",
        r#"{"type":"message","message":{"role":"user","content":"torn""#,
    );
    std::fs::write(dir.join("a.jsonl"), transcript).unwrap();
    let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}],
        "timestamp": "2026-01-01T00:00:01.000Z"});
    let assistant = json!({"role": "assistant", "content": "hello", "timestamp": "2026-01-01T00:00:03.000Z"});
    for key in ["main", "agent:main:main"] {
        let body = sidecar.get(&format!("/ws/api/history?sessionKey={key}")).await.json();
        assert_eq!(body["messages"], json!([user, assistant]));
        assert_eq!((&body["sessionKey"], &body["limit"]), (&json!(key), &json!(50)));
        assert!(body["elapsed"].is_u64() && body["source"].is_string(), "{body}");
        let raw = sidecar.get(&format!("/api/history?sessionKey={key}")).await.json();
        assert_eq!(raw["messages"][0]["timestamp"], 5, "{raw}");
    }
    let full = sidecar.get("/ws/api/history?full=true").await.json();
    assert_eq!(full["messages"][1]["role"], "toolResult", "{full}");

    let newest = sidecar.get("/ws/api/history?limit=1").await.json();
    assert_eq!(newest["messages"], json!([assistant]));
    let before = newest["nextBefore"].as_str().unwrap();
    let older = sidecar.get(&format!("/ws/api/history?limit=1&before={before}")).await.json();
    assert_eq!(older["messages"], json!([user]));

    let unknown = sidecar.get("/ws/api/history?sessionKey=nobody").await.json();
    assert_eq!((&unknown["messages"], &unknown["error"]), (&json!([]), &json!("session not found")));
    assert_eq!(unknown["keys"], json!(["agent:main:main", "agent:main:work"]));

    let found = sidecar.get("/api/history/search?q=HELL").await.json();
    assert_eq!(found["matches"][0]["snippet"], "hello", "{found}");
    assert_eq!(found["matches"].as_array().unwrap().len(), 1);
    for bad in ["", "?q=", &format!("?q={}", "x".repeat(257))] {
        sidecar.get(&format!("/api/history/search{bad}")).await.assert_error(400, "bad_search");
    }

    let listed = sidecar.get("/ws/api/sessions").await.json();
    assert_eq!(
        listed["sessions"],
        json!([
            {"key": "agent:main:work", "name": "Work", "lastActive": 3, "tokenCount": 0, "sessionId": "b"},
            {"key": "agent:main:main", "name": "main", "lastActive": 2, "tokenCount": 17, "sessionId": "a"},
        ])
    );
}

#[tokio::test]
async fn bad_keys_and_cursors_are_400_in_the_contracts_words() {
    let (sidecar, _gateway) = Sidecar::start().await;
    for target in ["/api/history", "/ws/api/history"] {
        for key in ["a..b", "a%2Fb", "a%00", "%ff"] {
            let answer = sidecar.get(&format!("{target}?sessionKey={key}")).await;
            answer.assert_error(400, "bad_session_key");
            assert_eq!(answer.json()["error"], "Invalid session key");
        }
        sidecar.get(&format!("{target}?before=x")).await.assert_error(400, "bad_cursor");
    }
}
