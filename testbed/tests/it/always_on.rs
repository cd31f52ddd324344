//! A machine that nobody looks at works on: the agent's clock and its heartbeat need no client.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::legacy::now;

use crate::support::eventually_within;
use crate::whole::Bed;

/// How long before its time the job is made: longer than a busy machine needs to let its clients go.
const AHEAD_MS: u64 = 20_000;

/// How late a job may be.
const LATE_MS: u64 = 2_000;

/// For the job, its run, and the heartbeats in between.
const LIMIT: Duration = Duration::from_secs(120);

/// In no other text of a conversation.
const HEARTBEAT: &str = "the-heartbeat-of-this-test";
const JOB: &str = "the-job-of-this-test";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_a_job_runs_in_time_and_the_heart_beats() {
    let mut bed = Bed::start("user_away").await;
    bed.pid().await;
    // The user's own keys, in the agent's own file: another boot leaves them.
    assert_eq!(bed.system.machine.shut_down().await.unwrap(), Some(0));
    let heartbeat = json!({"every": "20s", "prompt": HEARTBEAT});
    bed.change_config(|config| config["agents"]["defaults"]["heartbeat"] = heartbeat.clone());
    bed.system.machine.start_again().await.unwrap();
    bed.pid().await;
    let config: Value = serde_json::from_slice(&fs::read(bed.agent_config()).unwrap()).unwrap();
    assert_eq!(config["agents"]["defaults"]["heartbeat"], heartbeat);

    let mut chat = bed.chat().await;
    chat.say("good night", "k-night").await;
    // The agent's own file has headings only, with which it would not ask the model.
    fs::write(bed.system.machine.workspace().join("HEARTBEAT.md"), "# Heartbeat\n\n- Water the plants.\n")
        .unwrap();
    let due = now().0 + AHEAD_MS;
    let job = bed
        .call_agent(
            "cron.add",
            json!({
                "name": "in a while", "schedule": {"kind": "at", "atMs": due}, "sessionTarget": "isolated",
                "wakeMode": "next-heartbeat", "payload": {"kind": "agentTurn", "message": JOB},
            }),
        )
        .await;
    chat.close().await;
    let heartbeats = |text: String| text.matches(HEARTBEAT).count();
    let before = heartbeats(bed.transcripts());
    assert!(now().0 < due, "the job came due before its clients were gone");

    // From here on only files are read.
    let runs = bed.system.machine.state_dir().join("cron/runs");
    let runs = runs.join(format!("{}.jsonl", job["id"].as_str().unwrap()));
    eventually_within(LIMIT, "the job has run", async || {
        fs::read_to_string(&runs).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    let run: Value =
        serde_json::from_str(fs::read_to_string(&runs).unwrap().lines().next().unwrap()).unwrap();
    let at = run["runAtMs"].as_u64().unwrap();
    println!("the job ran {} ms after its time", i128::from(at) - i128::from(due));
    assert!((due..due + LATE_MS).contains(&at), "due at {due}: {run}");
    assert_eq!(run["status"], "ok", "{run}");
    assert!(bed.transcripts().contains(JOB), "the model was asked");

    eventually_within(LIMIT, "a heartbeat", async || heartbeats(bed.transcripts()) > before).await;
    let last = bed.call_agent("last-heartbeat", json!({})).await;
    assert_ne!(last["reason"], "empty-heartbeat-file", "{last}");
    bed.system.stop().await.unwrap();
}
