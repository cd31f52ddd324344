//! The chat fallback and the history, with the real agent: what is sent over HTTP is answered, and both are read
//! back under either spelling of the session's key.

use serde_json::{Value, json};

use crate::support::{eventually, system};

const TEXT: &str = "remember the milk";

#[tokio::test]
async fn what_is_sent_without_a_socket_is_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let system = system(dir.path(), "user_history").await;
    system.change_policy(json!({"default": "fly"})).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let http = reqwest::Client::new();
    let signed = system.signed_url(&system.user);
    let query = signed.split_once('?').unwrap().1;
    let url = |path: &str, more: &str| format!("{}{path}?{query}{more}", system.edge.url());
    let get = async |path: &str, more: &str| -> Value {
        let answer = http.get(url(path, more)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    };

    let empty = get("/ws/api/history", "").await;
    assert_eq!(empty["messages"], json!([]), "nothing yet, which is not an error: {empty}");

    let send = http.post(url("/api/chat/send", "")).json(&json!({"message": TEXT, "sessionKey": "main"}));
    let sent = send.send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let sent: Value = sent.json().await.unwrap();
    assert_eq!(sent["ok"], true, "{sent}");

    for key in ["main", "agent:main:main"] {
        let more = format!("&sessionKey={key}");
        eventually("the answer is in the history", async || {
            let history = get("/ws/api/history", &more).await;
            history["messages"].to_string().contains(&format!("You said: {TEXT}"))
        })
        .await;
        let history = get("/ws/api/history", &more).await;
        let roles: Vec<&str> =
            history["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant"], "{history}");
    }
    let sessions = get("/api/sessions", "").await;
    assert!(sessions.to_string().contains("agent:main:main"), "{sessions}");
    let found = get("/api/history/search", "&q=MILK").await;
    assert!(found.to_string().contains("milk"), "{found}");
    let status = get("/api/status", "").await;
    assert_eq!((&status["ok"], &status["status"]), (&json!(true), &json!("running")), "{status}");

    let reset = http.post(url("/api/reset-workspace", "")).body("").send().await.unwrap();
    assert_eq!(reset.status(), 200);
    let reset: Value = reset.json().await.unwrap();
    assert_eq!(reset["success"], true, "{reset}");
    assert_eq!(get("/ws/api/history", "").await["messages"], json!([]), "and nothing after a reset");
    system.stop().await.unwrap();
}
