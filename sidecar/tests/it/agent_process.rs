//! The agent's process under supervision. The process is a shell script, `agent.sh`, whose knobs are its text; the
//! gateway that answers is the fake one in this process, so readiness does not depend on the script.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::gateway::Gateway;
use crate::harness::{LIMIT, Sidecar, eventually, next, token};

/// Ignores nothing and stays.
const STAYS: &str = "sleep 1000 & wait";

/// A sidecar that supervises `script`, with a gateway that answers at the agent's address.
async fn supervising(script: &str) -> (Sidecar, Gateway) {
    let gateway = Gateway::start(token()).await;
    let sidecar = Sidecar::supervising(script, gateway.address).await;
    (sidecar, gateway)
}

/// The same, before an agent that never listens.
async fn supervising_unready(script: &str) -> Sidecar {
    Sidecar::supervising(script, "127.0.0.1:1".parse().unwrap()).await
}

async fn status(sidecar: &Sidecar) -> Value {
    let answer = sidecar.get("/api/status").await;
    assert_eq!(answer.status(), 200);
    answer.json()
}

async fn in_state(sidecar: &Sidecar, state: &str) -> Value {
    eventually(state, async || status(sidecar).await["agent"]["state"] == state).await;
    status(sidecar).await
}

fn exists(pid: &str) -> bool {
    // A zombie is gone for all but its parent.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn kill(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
}

async fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let answer = sidecar.admin("/metrics").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// The lines of a file that the script writes; empty while there is none.
fn lines(path: &PathBuf) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn it_is_started_again_after_any_exit_also_exit_0() {
    for (ending, cause) in [("exit 0", "clean"), ("exit 3", "failed"), ("kill -KILL $$", "signal")] {
        let (sidecar, _gateway) = supervising(&format!("echo up; sleep 0.3; {ending}")).await;
        eventually(ending, async || status(&sidecar).await["agent"]["restarts"].as_u64() >= Some(2)).await;
        let agent = &status(&sidecar).await["agent"];
        // A machine that has counted a kill for lack of memory meanwhile is busy with something else.
        assert_eq!(agent["lastExit"]["cause"], cause, "{agent}");
        let exits = metric(&sidecar, &format!("sidecar_agent_exits_total{{cause=\"{cause}\"}}")).await;
        assert!(exits >= 2.0 && metric(&sidecar, "sidecar_agent_starts_total").await >= exits);
    }
}

#[tokio::test]
async fn three_quick_failures_halt_it_and_show_its_words_without_secrets_until_the_file_changes() {
    let script = "
        if grep -q good $CLAWDBOT_CONFIG_PATH; then sleep 1000; fi
        echo 'Config invalid: agents.foo is not a key' >&2
        echo \"the token is $CLAWDBOT_GATEWAY_TOKEN\" >&2
        exit 1";
    let sidecar = supervising_unready(script).await;
    let halted = in_state(&sidecar, "configuration_failed").await;
    let agent = &halted["agent"];
    assert_eq!((&halted["ok"], &halted["status"]), (&false.into(), &"not_running".into()), "{halted}");
    assert_eq!((&halted["processId"], &agent["restarts"]), (&Value::Null, &2.into()), "{halted}");
    assert_eq!(agent["lastExit"]["cause"], "failed_at_start");
    assert_eq!(agent["exits"]["failed_at_start"], 3);
    let words = agent["words"].to_string();
    assert!(
        words.contains("agents.foo is not a key") && words.contains("the token is [redacted]"),
        "{words}"
    );
    assert!(!words.contains(&token()));

    std::fs::write(sidecar.volume().join("clawdbot/clawdbot.json"), "good").unwrap();
    let started = in_state(&sidecar, "starting").await;
    assert!(started["processId"].is_string() && started["status"] == "not_responding", "{started}");
}

#[tokio::test]
async fn a_halted_agent_is_tried_again_when_somebody_asks() {
    let sidecar = supervising_unready("exit 1").await;
    in_state(&sidecar, "configuration_failed").await;
    let answer = sidecar.post("/api/agent/restart", &[], "").await;
    assert_eq!((answer.status(), answer.json()["attempt"].as_u64()), (202, Some(4)));
    eventually("a fourth start", async || status(&sidecar).await["agent"]["restarts"] == 3).await;
}

#[tokio::test]
async fn a_restart_that_is_asked_for_is_limited_and_kills_what_does_not_listen() {
    let (sidecar, _gateway) = supervising("trap '' TERM; echo up; while :; do sleep 1; done").await;
    let before = in_state(&sidecar, "running").await;
    let answer = sidecar.post("/ws/api/agent/restart", &[], "").await;
    assert_eq!((answer.status(), answer.json()["attempt"].as_u64()), (202, Some(2)));
    // It ends now, so there is nothing to restart.
    sidecar.post("/api/agent/restart", &[], "").await.assert_error(409, "agent_stopping");
    eventually("the second process", async || {
        let now = status(&sidecar).await;
        now["agent"]["state"] == "running" && now["processId"] != before["processId"]
    })
    .await;
    let after = status(&sidecar).await;
    assert_eq!(after["agent"]["lastExit"]["cause"], "restart", "{after}");
    assert_eq!(after["agent"]["lastExit"]["signal"], 9, "it did not hear SIGTERM: {after}");
    assert!(!exists(before["processId"].as_str().unwrap()));
    let again = sidecar.post("/api/agent/restart", &[], "").await;
    // The interval may just be over, as the first process took 6 s of it.
    if again.status() != 202 {
        again.assert_error(429, "restart_too_soon");
        assert!(again.header("retry-after").unwrap().parse::<u64>().unwrap() <= 11);
    }
}

/// Trap 8 of the agent: a wrapper, or a child in a session of its own, outlives a kill of its parent.
#[tokio::test]
async fn trap_08_no_orphan_keeps_the_port_whatever_session_it_has_moved_to() {
    let script = "
        setsid sh -c 'echo $$ >> orphans; sleep 1000 & echo $! >> orphans; wait' &
        (setsid sleep 1001 & echo $! >> orphans)
        sleep 1000 & echo $! >> orphans
        echo $$ >> parents
        wait";
    let (sidecar, _gateway) = supervising(script).await;
    in_state(&sidecar, "running").await;
    let (orphans, parents) = (
        sidecar.volume().join("workspace").join("orphans"),
        sidecar.volume().join("workspace").join("parents"),
    );
    eventually("all have started", async || lines(&orphans).len() == 4 && lines(&parents).len() == 1).await;
    let first = lines(&orphans);
    assert!(first.iter().all(|pid| exists(pid)), "{first:?}");

    kill("-KILL", &lines(&parents)[0]);
    eventually("a second process", async || lines(&parents).len() == 2).await;
    assert!(!first.iter().any(|pid| exists(pid)), "{first:?}");
}

/// The sidecar is the reaper of what the agent's children leave behind, and takes nothing from who waits for the
/// agent itself.
#[tokio::test]
async fn orphans_are_reaped_and_the_agent_s_own_exit_is_not_lost() {
    let script = "
        for n in 1 2 3 4 5 6 7 8; do (sh -c 'echo $PPID $$ >> orphans; sleep 0.2' &) ; done
        sleep 1; exit 42";
    let (sidecar, _gateway) = supervising(script).await;
    let orphans = sidecar.volume().join("workspace").join("orphans");
    eventually("its exit code", async || status(&sidecar).await["agent"]["lastExit"]["code"] == 42).await;
    let seen: Vec<String> = lines(&orphans);
    assert!(seen.len() >= 8);
    eventually("no zombie is left", async || zombies_of(sidecar.pid()).is_empty()).await;
}

fn zombies_of(parent: u32) -> Vec<String> {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    stats
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| stat.contains(&format!(") Z {parent} ")))
        .collect()
}

#[tokio::test]
async fn the_agent_does_not_outlive_a_sidecar_that_is_killed() {
    let (mut sidecar, _gateway) = supervising("echo $$ >> parents; sleep 1000").await;
    let parents = sidecar.volume().join("workspace").join("parents");
    eventually("it has started", async || lines(&parents).len() == 1).await;
    let pid = lines(&parents)[0].clone();
    assert!(exists(&pid));
    let adjusted = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(adjusted.trim(), "500", "the kernel takes the agent before the sidecar");
    sidecar.kill().await;
    eventually("it is gone", async || !exists(&pid)).await;
}

/// Trap 7 of the agent: its page answers 200 to anything, which says nothing about its gateway.
#[tokio::test]
async fn trap_07_a_page_with_200_is_not_readiness() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let page = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
            let _gone = stream.write_all(page.as_bytes()).await;
        }
    });
    let sidecar = Sidecar::supervising(STAYS, address).await;
    eventually("it was asked a few times", async || asked.load(std::sync::atomic::Ordering::Relaxed) > 3)
        .await;
    let status = status(&sidecar).await;
    assert_eq!((&status["ok"], &status["agent"]["state"]), (&false.into(), &"starting".into()), "{status}");
    assert_eq!(sidecar.admin("/ready").await.status(), 503);
}

#[tokio::test]
async fn its_environment_is_its_own_and_no_secret_is_in_its_command_line() {
    let (sidecar, _gateway) = supervising(&format!("echo $$ >> parents; {STAYS}")).await;
    let parents = sidecar.volume().join("workspace").join("parents");
    eventually("it has started", async || lines(&parents).len() == 1).await;
    let pid = &lines(&parents)[0];
    let read = |name: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{name}")).unwrap()).into_owned()
    };
    let (environment, arguments) = (read("environ"), read("cmdline"));
    assert!(environment.contains(&token()) && !environment.contains("AUTOMNA_MACHINE_KEY"), "{environment}");
    assert!(!arguments.contains(&token()), "{arguments}");
}

#[tokio::test]
async fn its_log_can_be_read_and_followed_without_secrets() {
    let script = "
        echo \"one $CLAWDBOT_GATEWAY_TOKEN\"
        echo two >&2
        while ! [ -e more ]; do sleep 0.05; done
        echo three; sleep 1000";
    let (sidecar, _gateway) = supervising(script).await;
    let text = async |target: &str| {
        let answer = sidecar.get(target).await;
        assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-store")));
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    eventually("two lines", async || text("/api/agent/logs").await.lines().count() == 2).await;
    let all = text("/ws/api/agent/logs?tail=10").await;
    assert!(all.contains(" O one [redacted]\n") && all.contains(" E two\n"), "{all}");
    assert_eq!(text("/api/agent/logs?tail=1").await.lines().count(), 1);
    sidecar.get("/api/agent/logs?tail=x").await.assert_error(400, "bad_tail");

    let mut follower = sidecar.stream("/api/agent/logs?tail=1&follow=true").await;
    follower.until("\n").await;
    std::fs::write(sidecar.volume().join("workspace").join("more"), "").unwrap();
    let seen = follower.until("three\n").await;
    assert_eq!(seen.lines().count(), 2, "{seen}");

    let file = sidecar.volume().join(".automna/agent.log");
    eventually("the file on the volume", async || lines(&file).len() == 3).await;
    assert!(!std::fs::read_to_string(file).unwrap().contains(&token()));
}

#[tokio::test]
async fn a_drain_refuses_writes_closes_sockets_and_ends_the_agent_before_the_process() {
    let script = "
        trap 'sleep 2; echo written >> last-words; exit 0' TERM
        echo $$ >> parents
        while :; do sleep 0.1; done";
    let (mut sidecar, _gateway) = supervising(script).await;
    in_state(&sidecar, "running").await;
    let parents = sidecar.volume().join("workspace").join("parents");
    let mut socket = sidecar.socket("/ws").await;
    next(&mut socket).await;
    let mut follower = sidecar.stream("/api/agent/logs?follow=true").await;

    sidecar.terminate();
    loop {
        if let tokio_tungstenite::tungstenite::Message::Close(frame) = next(&mut socket).await {
            assert_eq!(u16::from(frame.unwrap().code), 1012);
            break;
        }
    }
    // The agent takes 2 s for its last words, so the drain is under way now.
    let write = sidecar.call("PUT", "/api/files/raw/a", &[("if-none-match", "*")], "x").await;
    write.assert_error(503, "draining");
    assert!(write.header("retry-after").is_some());
    let upgrade = sidecar.try_socket("/ws", &[]).await;
    assert!(format!("{:?}", upgrade.err()).contains("503"));
    assert_eq!(sidecar.get("/api/keepalive").await.status(), 200, "reads go on");
    assert_eq!(sidecar.admin("/ready").await.status(), 503);
    assert_eq!(status(&sidecar).await["draining"], true);

    let (code, log) = sidecar.finish().await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(lines(&sidecar.volume().join("workspace").join("last-words")), ["written"], "{log}");
    assert!(lines(&parents).iter().all(|pid| !exists(pid)) && lines(&parents).len() == 1);
    follower.until_end().await;
}

#[tokio::test]
async fn a_drain_ends_within_its_budget_though_the_agent_ignores_sigterm() {
    let script = "trap '' TERM; echo $$ >> parents; while :; do sleep 0.5; done";
    let (mut sidecar, _gateway) = supervising(script).await;
    in_state(&sidecar, "running").await;
    let pid = lines(&sidecar.volume().join("workspace").join("parents"))[0].clone();
    let told = std::time::Instant::now();
    let (code, log) = sidecar.stop().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!exists(&pid));
    assert!(told.elapsed() >= Duration::from_secs(6), "it had its time to end");
    assert!(told.elapsed() < LIMIT.min(sidecar::drain::BUDGET));
}

#[tokio::test]
async fn no_secret_and_no_chat_is_in_the_log_or_in_the_metrics() {
    let script = "echo \"canary-chat says $CLAWDBOT_GATEWAY_TOKEN\"; sleep 0.5; echo canary-chat >&2; exit 1";
    let (mut sidecar, _gateway) = supervising(script).await;
    eventually("it was started again", async || status(&sidecar).await["agent"]["restarts"] != 0).await;
    sidecar.get("/api/keepalive?sig=canary-signature").await;
    sidecar.get("/canary-path").await;
    let metrics = sidecar.admin("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let (_, log) = sidecar.stop().await;
    let key = crate::harness::key_of(crate::harness::USER, crate::harness::GENERATION).expose();
    for text in [&log, &metrics] {
        assert!(!text.contains("canary"), "{text}");
        for secret in [token().as_str(), key.as_str(), crate::harness::USER, "x-automna-ticket"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert!(log.contains("agent ended"), "{log}");
}
