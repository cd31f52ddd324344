//! The machine with the real agent: it dies, hangs, dislikes its configuration, is stopped; and what a user sees.
//! The tests whose names begin with `trap` are the traps of the agent's own behaviour.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::chat::Chat;
use crate::support::eventually_within;
use crate::whole::{AGAIN, Bed, is_alive, kill};

/// Kills the agent and the sidecar by turns, each time in the middle of a run. Returns how long each was away, and how
/// often clients were told what: by whether it was the agent, and the code of the close.
async fn kills(user: &str, rounds: usize) -> (Vec<Duration>, BTreeMap<(bool, Option<u16>), u32>) {
    let mut bed = Bed::start(user).await;
    let mut again = Vec::new();
    let mut expect = Vec::new();
    let mut ends: BTreeMap<(bool, Option<u16>), u32> = BTreeMap::new();
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
        // The sidecar outlives the agent and says so to its clients. It cannot when it dies itself.
        let end = chat.end().await;
        if round % 2 == 0 {
            assert!(end.announced && end.code() == Some(1012), "round {round}: {end:?}");
        }
        ends.entry((round % 2 == 0, end.code())).and_modify(|count| *count += 1).or_insert(1);
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
    (again, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_machine_that_are_killed_come_back_and_history_is_complete() {
    println!("away for, closes: {:?}", kills("user_killed", 2).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour"]
async fn a_hundred_kills_lose_no_line_and_leave_no_session_stuck() {
    println!("away for, closes: {:?}", kills("user_killed_often", 100).await);
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
    let stuck = Chat::connect(&agent, Some(bed.gateway_token().expose())).await;

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
async fn trap_02_a_lock_that_a_run_left_behind_stops_no_message_after_a_restart() {
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
    assert_eq!(chat.end().await.code(), Some(1012));
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
