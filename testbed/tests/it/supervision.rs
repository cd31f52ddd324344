//! The machine with the real agent: it dies, hangs, dislikes its configuration, is stopped; and what a user sees.
//! The tests whose names begin with `trap` are the traps of the agent's own behaviour.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shared::id::Generation;
use shared::key::SigningKeys;
use testbed::system::{MODEL_KEY, System};

use crate::chat::{Chat, MAIN};
use crate::support::{eventually_within, system};

/// For the agent to be there again, or to fail three times: some 3 s of CPU each, on a machine that others use too.
const AGAIN: Duration = Duration::from_secs(120);

/// What a chat says, to be looked for where it must not be.
const CANARY: &str = "canary-in-the-chat";

struct Bed {
    system: System,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Bed {
    /// A whole system, whose user is on the machine.
    async fn start(user: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let system = system(dir.path(), user).await;
        system.change_policy(json!({"default": "fly"})).await.unwrap();
        let bed = Self { system, http: reqwest::Client::new(), _dir: dir };
        eventually_within(AGAIN, "requests go to the machine", async || {
            bed.status().await["agent"].is_object()
        })
        .await;
        bed
    }

    fn url(&self, path: &str, more: &str) -> String {
        let signed = self.system.signed_url(&self.system.user);
        format!("{}{path}?{}{more}", self.system.edge.url(), signed.split_once('?').unwrap().1)
    }

    async fn get(&self, path: &str, more: &str) -> (u16, String) {
        let answer = self.http.get(self.url(path, more)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn status(&self) -> Value {
        let (status, text) = self.get("/api/status", "").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn restart_agent(&self) -> u16 {
        self.http.post(self.url("/api/agent/restart", "")).body("").send().await.unwrap().status().as_u16()
    }

    /// Returns the status once it is as `expected` says.
    async fn when(&self, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        eventually_within(AGAIN, what, async || expected(&self.status().await)).await;
        self.status().await
    }

    async fn pid(&self) -> String {
        let status =
            self.when("it runs", |s| s["status"] == "running" && s["agent"]["state"] == "running").await;
        status["processId"].as_str().unwrap().to_owned()
    }

    async fn chat(&self) -> Chat {
        Chat::connect(&self.url("/ws", "").replace("http://", "ws://"), None).await
    }

    /// What people and the agent have said, in order.
    async fn history(&self) -> Vec<String> {
        let (status, text) = self.get("/ws/api/history", &format!("&sessionKey={MAIN}&limit=200")).await;
        assert_eq!(status, 200, "{text}");
        let history: Value = serde_json::from_str(&text).unwrap();
        let messages = history["messages"].as_array().unwrap_or_else(|| panic!("{text}"));
        // Below a line of a person's the agent notes its id.
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        messages.iter().map(|message| first_line(text_of(&message["content"]))).collect()
    }

    fn agent_config(&self) -> std::path::PathBuf {
        self.system.machine.state_dir().join("clawdbot.json")
    }

    /// Changes the agent's configuration as an editor would that writes beside it and renames.
    fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.agent_config();
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        let beside = path.with_extension("new");
        fs::write(&beside, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        fs::rename(beside, path).unwrap();
    }

    fn gateway_token(&self) -> String {
        let keys = SigningKeys::new(self.system.secrets.signing.clone(), None);
        keys.machine_key(&self.system.user, Generation(1)).gateway_token().expose().to_owned()
    }
}

fn text_of(content: &Value) -> String {
    content.as_str().or_else(|| content[0]["text"].as_str()).unwrap_or_default().to_owned()
}

fn kill(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Kills the agent and the sidecar by turns, each time in the middle of a run. Returns how long each was away.
async fn kills(user: &str, rounds: usize) -> Vec<Duration> {
    let mut bed = Bed::start(user).await;
    let mut again = Vec::new();
    let mut expect = Vec::new();
    for round in 0..rounds {
        let mut chat = bed.chat().await;
        let text = format!("round {round}");
        assert_eq!(chat.say(&text, &format!("k-{round}")).await.unwrap(), format!("You said: {text}"));
        expect.extend([text.clone(), format!("You said: {text}")]);
        // A conversation is under way: its question is written down, its answer never comes.
        chat.start("[[stub slow=500ms]] one two three four five", &format!("k-cut-{round}")).await;
        let before = bed.pid().await;
        let killed = std::time::Instant::now();
        if round % 2 == 0 {
            kill("-KILL", &before);
        } else {
            bed.system.machine.kill().await.unwrap();
            assert!(!is_alive(&before) || process_gone(&before).await, "the agent goes with its sidecar");
            bed.system.machine.start_again().await.unwrap();
        }
        if let Some(close) = chat.end().await {
            assert!([1001, 1011, 1012].contains(&u16::from(close.code)), "{close:?}");
        }
        bed.when("it is another one", |s| s["processId"].as_str().is_some_and(|now| now != before)).await;
        bed.pid().await;
        again.push(killed.elapsed());
        let history = bed.history().await;
        // The history has the last 200 messages.
        let mut told = expect.iter().skip(expect.len().saturating_sub(40));
        let mut next = told.next();
        for message in &history {
            if next.is_some_and(|expected| message.contains(expected.as_str())) {
                next = told.next();
            }
        }
        assert_eq!(next, None, "lost of {expect:?}: {history:?}");
    }
    let mut chat = bed.chat().await;
    assert_eq!(chat.say("still there", "k-last").await.as_deref(), Some("You said: still there"));
    bed.system.stop().await.unwrap();
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_machine_that_are_killed_come_back_and_history_is_complete() {
    println!("away for {:?}", kills("user_killed", 2).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour"]
async fn a_hundred_kills_lose_no_line_and_leave_no_session_stuck() {
    println!("away for {:?}", kills("user_killed_often", 100).await);
}

async fn process_gone(pid: &str) -> bool {
    eventually_within(Duration::from_secs(5), "the agent is gone", async || !is_alive(pid)).await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_the_agent_refuses_is_shown_in_its_own_words() {
    let bed = Bed::start("user_config").await;
    bed.pid().await;
    bed.change_config(|config| config["nonsense"] = json!({"key": true}));
    assert_eq!(bed.restart_agent().await, 202);
    let halted = bed.when("it is given up", |s| s["agent"]["state"] == "configuration_failed").await;
    let words = halted["agent"]["words"].to_string();
    assert!(words.contains("nonsense") && words.to_lowercase().contains("config"), "{halted}");
    assert_eq!(
        (&halted["status"], &halted["agent"]["exits"]["failed_at_start"]),
        (&"not_running".into(), &3.into())
    );
    let (_, logs) = bed.get("/api/agent/logs", "&tail=50").await;
    assert!(logs.contains("nonsense"), "{logs}");

    bed.change_config(|config| drop(config.as_object_mut().unwrap().remove("nonsense")));
    bed.pid().await;
    bed.system.stop().await.unwrap();
}

/// A change of `gateway.*` restarts the gateway within its process; if a client does not complete the close, the
/// agent exits with 0 instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_change_with_a_stuck_client_is_exit_0_and_the_agent_comes_back() {
    let bed = Bed::start("user_stuck").await;
    let before = bed.pid().await;
    // Once it has said hello, nobody reads from it or answers for it.
    let agent = format!("ws://{}/", bed.system.machine.agent_addr());
    let stuck = Chat::connect(&agent, Some(&bed.gateway_token())).await;

    bed.change_config(|config| {
        config["gateway"]["trustedProxies"] = json!(["127.0.0.1", "::1", "127.0.0.9"]);
    });
    let status = bed.when("it has exited", |s| s["agent"]["exits"]["clean"] == 1).await;
    assert_eq!(status["agent"]["lastExit"]["code"], 0, "{status}");
    assert_ne!(bed.pid().await, before);
    drop(stuck);
    bed.system.stop().await.unwrap();
}

/// A process that is there, has its port, and does nothing: only its event loop tells.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes, since no less of silence is a reason"]
async fn an_agent_whose_event_loop_stands_still_is_killed_and_comes_back() {
    let bed = Bed::start("user_frozen").await;
    let before = bed.pid().await;
    kill("-STOP", &before);
    let limit = Duration::from_secs(240);
    eventually_within(limit, "it is killed", async || bed.status().await["agent"]["exits"]["silent"] == 1)
        .await;
    assert_ne!(bed.pid().await, before);
    bed.system.stop().await.unwrap();
}

/// Trap 2: a run leaves its lock behind even when the agent ends in order, and a lock whose process id is alive
/// again holds up every message for ever.
#[tokio::test(flavor = "multi_thread")]
async fn trap_2_a_lock_that_a_run_left_behind_stops_no_message_after_a_restart() {
    let mut bed = Bed::start("user_locked").await;
    let mut chat = bed.chat().await;
    chat.say("before", "k-before").await;
    chat.start("[[stub hang]] wait", "k-hang").await;
    eventually_within(AGAIN, "the model hangs", async || bed.system.model.stats().hanging == 1).await;
    assert_eq!(bed.system.machine.shut_down().await.unwrap(), Some(0));
    let sessions = bed.system.machine.state_dir().join("agents/main/sessions");
    let transcript = fs::read_dir(&sessions).unwrap().flatten().map(|entry| entry.path());
    let transcript = transcript.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max().unwrap();
    // Ours is as good as any process that lives and has the number.
    let lock = json!({"pid": std::process::id(), "createdAt": "2030-01-01T00:00:00.000Z"});
    fs::write(format!("{}.lock", transcript.display()), lock.to_string()).unwrap();
    bed.system.model.release();

    bed.system.machine.start_again().await.unwrap();
    bed.pid().await;
    let mut chat = bed.chat().await;
    assert_eq!(chat.say("after", "k-after").await.as_deref(), Some("You said: after"));

    // The same, when only the agent dies: what heals at a boot heals before every start.
    fs::write(format!("{}.lock", transcript.display()), lock.to_string()).unwrap();
    let before = bed.pid().await;
    kill("-KILL", &before);
    bed.when("it is another one", |s| s["processId"].as_str().is_some_and(|pid| pid != before)).await;
    bed.pid().await;
    let mut chat = bed.chat().await;
    assert_eq!(chat.say("and again", "k-again").await.as_deref(), Some("You said: and again"));
    bed.system.stop().await.unwrap();
}

/// The agent makes nothing durable and ends with its runs cut off; what was said before is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_stopped_ends_in_order_and_goes_on_where_it_was() {
    let mut bed = Bed::start("user_drained").await;
    let mut chat = bed.chat().await;
    for n in 0..3 {
        chat.say(&format!("line {n}"), &format!("k-{n}")).await;
    }
    let agent = bed.pid().await;
    let told = std::time::Instant::now();
    assert_eq!(bed.system.machine.shut_down().await.unwrap(), Some(0));
    println!("drained in {} ms", told.elapsed().as_millis());
    assert!(!is_alive(&agent));
    let close = chat.end().await.expect("a close frame");
    assert_eq!(u16::from(close.code), 1012);
    let log = fs::read_to_string(bed.system.machine.log()).unwrap();
    let stopped = log.lines().find(|line| line.contains(r#""message":"stopped""#)).expect("it says so");
    assert!(stopped.contains(r#""safe":true"#), "{stopped}");

    bed.system.machine.start_again().await.unwrap();
    bed.pid().await;
    let history = bed.history().await;
    let expect: Vec<String> =
        (0..3).flat_map(|n| [format!("line {n}"), format!("You said: line {n}")]).collect();
    assert_eq!(history, expect);
    bed.system.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_no_signature_and_no_chat_is_in_any_log_or_metric_of_a_run() {
    let bed = Bed::start("user_canary").await;
    let mut chat = bed.chat().await;
    chat.say(CANARY, "k-canary").await;
    let send = json!({"message": CANARY, "sessionKey": "main"});
    let sent = bed.http.post(bed.url("/api/chat/send", "")).json(&send).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    bed.get("/ws/api/history", "").await;
    bed.get("/api/history/search", &format!("&q={CANARY}")).await;
    bed.get("/api/files/nothing-there", "&path=/root/clawd/none").await;
    let pid = bed.pid().await;
    kill("-KILL", &pid);
    bed.when("it is another one", |s| s["processId"].as_str().is_some_and(|now| now != pid)).await;
    bed.pid().await;
    let metrics = bed.http.get(format!("{}/metrics", bed.system.machine.admin_url())).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for name in ["sidecar_requests_total{", "sidecar_agent_exits_total{", "sidecar_volume_free_bytes "] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }

    let signed = bed.url("/", "");
    let signature = signed.split_once("sig=").unwrap().1.to_owned();
    let keys = SigningKeys::new(bed.system.secrets.signing.clone(), None);
    let machine_key = keys.machine_key(&bed.system.user, Generation(1)).expose();
    let secrets = [
        bed.system.secrets.signing.expose().to_owned(),
        bed.system.secrets.admin.expose().to_owned(),
        machine_key.clone(),
        bed.gateway_token(),
        MODEL_KEY.to_owned(),
        signature,
        "v1~fly~".to_owned(),
    ];
    let data = bed.system.machine.data().to_owned();
    let agent_log = fs::read_to_string(data.join(".automna/agent.log")).unwrap();
    let sidecar_log = bed.system.machine.log().to_owned();
    let edge_logs = logs_below(&sidecar_log.parent().unwrap().parent().unwrap().join("edge"));
    bed.system.stop().await.unwrap();
    let sidecar_log = fs::read_to_string(sidecar_log).unwrap();
    assert!(sidecar_log.contains("agent ended") && agent_log.contains("listening on ws://"), "{sidecar_log}");
    for (name, text) in
        [("the sidecar's log", &sidecar_log), ("the metrics", &metrics), ("the edge's logs", &edge_logs)]
    {
        assert!(!text.contains(CANARY), "chat in {name}");
    }
    for (name, text) in [
        ("the sidecar's log", &sidecar_log),
        ("the metrics", &metrics),
        ("the edge's logs", &edge_logs),
        ("the agent's log", &agent_log),
    ] {
        for (n, secret) in secrets.iter().enumerate() {
            assert!(!text.contains(secret.as_str()), "secret {n} in {name}");
        }
    }
    assert!(!metrics.contains("user_canary"), "{metrics}");
}

/// All files below a folder that are named like logs, one after the other.
fn logs_below(dir: &std::path::Path) -> String {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let logs: Vec<_> = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(!logs.is_empty(), "no log in {}", dir.display());
    logs.concat()
}
