//! Traps of the agent's own behaviour that neither its boot nor its supervision is about. Numbered as all tests
//! whose names begin with `trap`; the others are in `boot`, `supervision` and the sidecar's own tests.

use std::fs;

use serde_json::{Value, json};
use testbed::tools::Tools;

use crate::chat::MAIN;
use crate::support::eventually_within;
use crate::whole::{AGAIN, Bed, text_of};

const UNTRUSTED: &str = "Proxy headers detected from untrusted address";

/// Trap 4: addresses of proxies are compared as text. Trap 7: the agent answers any path with its page. Trap 8: its
/// program starts itself again as a child, which a kill of the first leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn trap_04_07_and_08_one_process_that_trusts_its_proxy_behind_our_routes() {
    let bed = Bed::start("user_trapped").await;
    let pid = bed.pid().await;
    bed.chat().await.close().await;
    let log = bed.system.machine.data().join(".automna/agent.log");
    let read = || fs::read_to_string(&log).unwrap();
    assert!(read().contains(&format!("(PID {pid})")), "who listens is whom we have started: {}", read());
    assert!(!read().contains(UNTRUSTED), "{}", read());

    let agent = format!("http://{}", bed.system.machine.agent_addr());
    for path in ["/api/no-such-route", "/api/files/no-such-route"] {
        let page = bed.http.get(format!("{agent}{path}")).send().await.unwrap();
        assert_eq!(
            (page.status().as_u16(), page.text().await.unwrap().contains("<html")),
            (200, true),
            "{path}"
        );
        let (status, body) = bed.get(path, "").await;
        assert_eq!(status, 404, "{path}: {body}");
        assert!(serde_json::from_str::<Value>(&body).unwrap()["code"].is_string(), "{path}: {body}");
    }

    // What it says if it is told of a net, as the old start script did: then nobody is trusted.
    bed.change_config(|config| config["gateway"]["trustedProxies"] = json!(["0.0.0.0/0"]));
    eventually_within(AGAIN, "the agent distrusts us", async || {
        bed.pid().await;
        // Within the change, a socket can end at any moment.
        let socket = bed.url("/ws", "").replace("http://", "ws://");
        if let Ok(chat) = crate::chat::Chat::try_connect(&socket, None).await {
            chat.close().await;
        }
        read().contains(UNTRUSTED)
    })
    .await;
    bed.system.stop().await.unwrap();
}

/// Trap 5: a client that says `main` writes into a conversation that the agent itself then does not find.
#[tokio::test(flavor = "multi_thread")]
async fn trap_05_either_spelling_of_the_main_conversation_has_all_of_it() {
    let bed = Bed::start("user_spelled").await;
    bed.pid().await;
    let mut chat = bed.chat().await;
    let mut expect = Vec::new();
    for (n, key) in ["main", MAIN, "main"].into_iter().enumerate() {
        let (text, id) = (format!("line {n}"), format!("k-{n}"));
        let params = json!({"sessionKey": key, "message": text, "idempotencyKey": id});
        assert_eq!(chat.call("chat.send", params).await["payload"]["status"], "started");
        let answer = format!("You said: {text}");
        assert_eq!(chat.outcome(&id).await.0.as_deref(), Some(answer.as_str()));
        expect.extend([text, answer]);
    }
    for key in ["main", MAIN] {
        let (status, text) = bed.get("/ws/api/history", &format!("&sessionKey={key}")).await;
        assert_eq!(status, 200, "{text}");
        let history: Value = serde_json::from_str(&text).unwrap();
        let messages = history["messages"].as_array().unwrap();
        let lines: Vec<String> = messages
            .iter()
            .map(|message| text_of(&message["content"]).lines().next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(lines, expect, "{key}");
    }
    // The agent itself has two conversations.
    let own = bed.call_agent("chat.history", json!({"sessionKey": MAIN})).await;
    assert_eq!(own["messages"].as_array().unwrap().len(), 2, "the trap is gone: {own}");
    bed.system.stop().await.unwrap();
}

/// Trap 10: one dependency is a git repository, which a machine that knows only the registry cannot fetch.
#[test]
fn trap_10_all_of_the_agent_comes_from_the_registry() {
    let folder = Tools::of_this_repository().repository().join("sidecar/image/agent");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap() };
    let (package, lock) = (read("package.json"), read("package-lock.json"));
    let packages = lock["packages"].as_object().unwrap();
    let from_git = |text: &str| text.starts_with("git") || text.contains("://");
    let asks_for_git = packages.values().any(|package| {
        let dependencies = package["dependencies"].as_object();
        dependencies.is_some_and(|all| all.values().any(|version| version.as_str().is_some_and(from_git)))
    });
    assert!(asks_for_git, "the agent asks for no repository any more: the override can go");
    assert_eq!(packages["node_modules/libsignal"]["version"], package["overrides"]["libsignal"]);
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        let resolved = package["resolved"].as_str().unwrap_or_default();
        let registry = resolved.is_empty() || resolved.starts_with("https://registry.npmjs.org/");
        assert!(registry && package["integrity"].is_string(), "{name}: {package}");
    }
}
