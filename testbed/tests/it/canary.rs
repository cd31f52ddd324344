//! What was said, and what must not be known, is looked for in all that a run leaves behind: the logs of edge and
//! sidecar, metrics, errors. The agent's own log and transcripts are the user's and may hold what was said.

use std::fs;
use std::path::Path;

use serde_json::json;
use shared::id::Generation;
use shared::key::SigningKeys;
use testbed::system::{MODEL_KEY, System};

use crate::whole::{Bed, kill};

/// In what people say, in names of files and in questions.
const CANARY: &str = "canary-in-the-chat";
const FILE_CANARY: &str = "canary-in-a-file";

/// What is answered to somebody who asks wrongly.
async fn errors(bed: &Bed) -> Vec<(String, String)> {
    let http = &bed.http;
    let (good, machine) = (bed.url("/", ""), bed.system.machine.public_url());
    let query = good.split_once('?').unwrap().1;
    let bad = query.replace("sig=", "sig=A");
    let edge = bed.system.edge.url();
    let send = |body: String| http.post(bed.url("/api/chat/send", "")).body(body);
    let requests = [
        ("a foreign signature", http.get(format!("{edge}/api/status?{bad}"))),
        ("no credentials", http.get(format!("{edge}/ws"))),
        ("no such route", http.get(bed.url(&format!("/api/{CANARY}"), ""))),
        ("no such file", http.get(bed.url(&format!("/api/files/raw/{CANARY}"), ""))),
        (
            "a path outside",
            http.get(
                bed.url(&format!("/api/files/list?path=/etc/{CANARY}"), "").replacen("?userId", "&userId", 1),
            ),
        ),
        ("no such conversation", http.get(bed.url("/ws/api/history", &format!("&sessionKey=..{CANARY}")))),
        ("no JSON", send(format!("{{\"message\": \"{CANARY}"))),
        ("a bad key", send(json!({"message": CANARY, "sessionKey": format!("..{CANARY}")}).to_string())),
        ("no message", send(json!({"text": CANARY}).to_string())),
        ("an operator without a name", http.get(format!("{edge}/_ops/api/policy"))),
        ("an operator with another's", http.get(format!("{edge}/_ops/api/policy")).bearer_auth(CANARY)),
        ("past the edge", http.get(format!("{machine}/api/status?{query}"))),
        (
            "a foreign ticket",
            http.get(format!("{machine}/api/status")).header("x-automna-ticket", format!("v1~{CANARY}")),
        ),
    ];
    let mut answers = Vec::new();
    for (what, request) in requests {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = format!("{:?}", answer.headers());
        let body = answer.text().await.unwrap();
        // An unknown conversation is no error in the contract.
        assert!(status >= 400 || body.contains("error"), "{what}: {status} {body}");
        answers.push((what.to_owned(), format!("{headers}\n{body}")));
    }
    answers
}

fn secrets(system: &System) -> Vec<String> {
    let keys = SigningKeys::new(system.secrets.signing.clone(), None);
    let machine_key = keys.machine_key(&system.user, Generation(1));
    vec![
        system.secrets.signing.expose().to_owned(),
        system.secrets.admin.expose().to_owned(),
        machine_key.expose().as_str().to_owned(),
        machine_key.gateway_token().expose().to_owned(),
        MODEL_KEY.to_owned(),
        // Every signed query, every ticket.
        "sig=".to_owned(),
        "v1~fly~".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_no_signature_and_no_chat_is_in_any_log_metric_or_error_of_a_run() {
    let mut bed = Bed::start("user_canary").await;
    let mut chat = bed.chat().await;
    chat.say(CANARY, "k-canary").await;
    chat.call("sessions.compact", json!({"key": CANARY, "maxLines": 1})).await;
    chat.call("chat.history", json!({"sessionKey": CANARY})).await;
    let send = json!({"message": CANARY, "sessionKey": "main"});
    let sent = bed.http.post(bed.url("/api/chat/send", "")).json(&send).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let file = bed.http.put(bed.url(&format!("/api/files/raw/{CANARY}.txt"), "")).body(FILE_CANARY);
    assert_eq!(file.send().await.unwrap().status(), 201);
    for (path, more) in [
        ("/", String::new()),
        ("/ws/api/history", String::new()),
        ("/api/history/search", format!("&q={CANARY}")),
        (&format!("/api/files/raw/{CANARY}.txt"), String::new()),
    ] {
        let (status, body) = bed.get(path, &more).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let mut answers = errors(&bed).await;

    // The agent dies, and the machine; both are asked for meanwhile.
    let pid = bed.pid().await;
    kill("-KILL", &pid);
    bed.when("it is another one", |s| s["processId"].as_str().is_some_and(|now| now != pid)).await;
    bed.pid().await;
    bed.chat().await.say(CANARY, "k-again").await;
    let metrics = bed.http.get(format!("{}/metrics", bed.system.machine.admin_url())).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for name in ["sidecar_requests_total{", "sidecar_agent_exits_total{", "sidecar_volume_free_bytes "] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert!(!metrics.contains("user_canary"), "{metrics}");
    bed.system.machine.kill().await.unwrap();
    let (status, body) = bed.get(&format!("/api/{CANARY}"), &format!("&q={CANARY}")).await;
    assert!(status >= 500, "{status} {body}");
    answers.push(("no machine".to_owned(), body));
    let sidecar_log = bed.system.machine.log().to_owned();
    let first_log = fs::read_to_string(&sidecar_log).unwrap();
    bed.system.machine.start_again().await.unwrap();
    bed.pid().await;
    let (_, agent_log) = bed.get("/api/agent/logs", "&tail=1000").await;

    let secrets = secrets(&bed.system);
    let own_log = fs::read_to_string(bed.system.machine.data().join(".automna/agent.log")).unwrap();
    let edge_dir = sidecar_log.parent().unwrap().parent().unwrap().join("edge");
    let Bed { system, http: _, dir } = bed;
    system.stop().await.unwrap();
    let edge_log = logs_below(&edge_dir);
    let last_log = fs::read_to_string(&sidecar_log).unwrap();
    assert!(first_log.contains("agent ended") && last_log.contains(r#""message":"stopped""#), "{last_log}");
    assert!(first_log.contains("GET agent 200"), "requests are logged: {first_log}");
    assert!(own_log.contains("listening on ws://") && agent_log.contains("listening on ws://"), "{own_log}");

    let ours = [
        ("the sidecar's log until it was killed".to_owned(), first_log),
        ("the sidecar's log".to_owned(), last_log),
        ("the metrics".to_owned(), metrics),
        ("the edge's log".to_owned(), edge_log),
    ];
    let agents = [("the agent's log".to_owned(), own_log), ("its log over HTTP".to_owned(), agent_log)];
    for (name, text) in ours.iter().chain(&answers) {
        for hidden in [CANARY, FILE_CANARY] {
            assert!(!text.contains(hidden), "{hidden} in {name}: {text}");
        }
    }
    for (name, text) in ours.iter().chain(&answers).chain(&agents) {
        for (n, secret) in secrets.iter().enumerate() {
            assert!(!text.contains(secret.as_str()), "secret {n} in {name}: {text}");
        }
    }
    drop(dir);
}

/// All files below a folder that are named like logs, one after the other.
fn logs_below(dir: &Path) -> String {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let logs: Vec<_> = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(logs.concat().contains("listen"), "no log in {}", dir.display());
    logs.concat()
}
