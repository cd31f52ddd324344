//! Machines as processes, volumes as directories.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Bench, read, text};

#[tokio::test]
async fn from_nothing_to_a_process_and_back() {
    let bench = Bench::plain().await;
    let (id, volume) = bench.machine("m", "script").await;
    let dir = bench.volume_dir(&volume);
    let env = bench.lines(&dir.join("env"), 1).await;
    let seen = bench.get(&format!("/apps/a/machines/{id}")).await.body;
    let ip = text(&seen["private_ip"]);
    assert!(ip.starts_with("127."), "{ip}");
    assert_eq!(env.trim(), format!("a {id} sjc {ip} {} 1", dir.display()));
    let listing = bench.lines(&dir.join("listing"), 2).await;
    assert!(listing.contains("lost+found"), "{listing}");

    let path = format!("/apps/a/machines/{id}");
    assert_eq!(bench.post(&format!("{path}/stop"), &json!({})).await.status, 200);
    bench.wait(&id, "stopped").await;
    assert_eq!(read(&dir.join("ended")), "term\n", "the signal of its configuration");
    let events = bench.get(&format!("{path}/events")).await.body;
    let exit = events.as_array().unwrap().iter().find(|event| event["type"] == "exit").unwrap();
    let exit = &exit["request"]["exit_event"];
    assert_eq!((&exit["requested_stop"], &exit["exit_code"]), (&json!(true), &Value::Null));

    bench.until(async || bench.post(&format!("{path}/start"), &json!({})).await.status == 200).await;
    bench.wait(&id, "started").await;
    assert_eq!(bench.lines(&dir.join("runs"), 2).await, "run\nrun\n", "its volume is kept");
    assert!(!read(&dir.join("env")).contains("not wiped"), "and its root is not");

    assert_eq!(bench.call("DELETE", &path, None).await.status, 412, "it runs");
    assert_eq!(bench.call("DELETE", &format!("{path}?force=true"), None).await.status, 200);
    bench.until(async || bench.state(&id).await == "destroyed").await;
    let volume_path = format!("/apps/a/volumes/{volume}");
    bench.until(async || bench.call("DELETE", &volume_path, None).await.status == 200).await;
    assert_eq!(bench.call("DELETE", "/apps/a?force=true", None).await.status, 202);
    bench.until(async || bench.get("/apps/a").await.status == 404).await;
    bench.emulator.stop().await;
}

#[tokio::test]
async fn one_that_does_not_heed_the_signal_is_killed() {
    let bench = Bench::plain().await;
    let (id, volume) = bench.machine("m", "deaf").await;
    bench.lines(&bench.volume_dir(&volume).join("runs"), 1).await;
    let stop = json!({"signal": "SIGINT", "timeout": "1s"});
    assert_eq!(bench.post(&format!("/apps/a/machines/{id}/stop"), &stop).await.status, 200);
    bench.wait(&id, "stopped").await;
    let events = bench.get(&format!("/apps/a/machines/{id}/events")).await.body;
    let exit = events.as_array().unwrap().iter().find(|event| event["type"] == "exit").unwrap();
    assert_eq!(exit["request"]["exit_event"]["guest_signal"], 9);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn one_that_crashes_is_started_again_and_given_up() {
    let bench = Bench::plain().await;
    let volume = bench.volume("a", "v").await;
    let mut wanted = Bench::wanted("m", "crash", &volume);
    wanted["config"]["restart"] = json!({"policy": "on-failure", "max_retries": 2});
    let id = text(&bench.post("/apps/a/machines", &wanted).await.body["id"]);
    bench.wait(&id, "stopped").await;
    assert_eq!(read(&bench.volume_dir(&volume).join("runs")).lines().count(), 3);
    let events = bench.get(&format!("/apps/a/machines/{id}/events")).await.body;
    let exit = events.as_array().unwrap().iter().find(|event| event["type"] == "exit").unwrap();
    let request = &exit["request"];
    assert_eq!((&request["exit_event"]["exit_code"], &request["restart_count"]), (&json!(3), &json!(2)));
    bench.emulator.stop().await;
}

#[tokio::test]
async fn an_image_that_there_is_not() {
    let bench = Bench::plain().await;
    let volume = bench.volume("a", "v").await;
    let id =
        text(&bench.post("/apps/a/machines", &Bench::wanted("m", "none@sha256:0", &volume)).await.body["id"]);
    bench.wait(&id, "failed").await;
    bench.emulator.stop().await;
}

#[tokio::test]
async fn an_update_replaces_the_process() {
    let bench = Bench::plain().await;
    let (id, volume) = bench.machine("m", "script").await;
    let dir = bench.volume_dir(&volume);
    bench.lines(&dir.join("env"), 1).await;
    let path = format!("/apps/a/machines/{id}");
    let before = bench.get(&path).await.body;
    let mut config = before["config"].clone();
    config["env"] = json!({"A": "2"});
    config["files"] =
        json!([{"guest_path": "/etc/x", "raw_value": "eA=="}, {"guest_path": "/../y", "raw_value": "eA=="}]);
    let update = json!({"config": config, "current_version": before["instance_id"]});
    let updated = bench.post(&path, &update).await;
    assert_eq!(updated.status, 200, "{}", updated.body);
    bench.wait(&id, "started").await;
    assert_eq!(bench.lines(&dir.join("runs"), 2).await, "run\nrun\n");
    bench.until(async || read(&dir.join("env")).trim().ends_with(" 2")).await;
    assert_eq!(read(&dir.join("ended")), "term\n", "the old one was asked to end first");
    let root = bench.dir.path().join("machines").join(&id).join("root");
    assert_eq!((read(&root.join("etc/x")), root.join("../y").exists()), ("x".to_owned(), false));
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_12_a_stop_waits_for_the_end_of_anothers_lease() {
    let bench = Bench::plain().await;
    let (id, _) = bench.machine("m", "script").await;
    let path = format!("/apps/a/machines/{id}");
    // 40 s of Fly are 2 s of ours.
    let lease = bench.post(&format!("{path}/lease"), &json!({"ttl": 40})).await;
    assert_eq!(lease.status, 201);
    assert_eq!(bench.get(&format!("{path}/lease")).await.status, 200);
    assert_eq!(bench.post(&format!("{path}/restart"), &json!({})).await.status, 409);
    assert_eq!(bench.post(&format!("{path}/stop"), &json!({})).await.status, 200);
    assert_eq!(bench.get(&format!("{path}/lease")).await.status, 404, "it is over by then");
    bench.wait(&id, "stopped").await;
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_14_secrets_reach_the_process() {
    let bench = Bench::plain().await;
    let set = bench.post("/apps/a/secrets", &json!({"values": {"SECRET": "s3"}})).await;
    let volume = bench.volume("a", "v").await;
    let mut wanted = Bench::wanted("m", "script", &volume);
    wanted["min_secrets_version"] = set.body["version"].clone();
    let made = bench.post("/apps/a/machines", &wanted).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let env = bench.lines(&bench.volume_dir(&volume).join("env"), 1).await;
    assert!(env.trim().ends_with(" 1 s3"), "{env}");
    assert!(!bench.get("/apps/a/secrets").await.body.to_string().contains("s3"));
    assert_eq!(bench.get("/apps/a/secrets/SECRET").await.status, 200);
    assert_eq!(bench.post("/apps/a/secrets/OTHER", &json!({"value": "x"})).await.status, 201);
    assert_eq!(bench.call("DELETE", "/apps/a/secrets/OTHER", None).await.status, 200);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_16_commands_in_a_machine() {
    let bench = Bench::plain().await;
    let (id, _) = bench.machine("m", "script").await;
    let path = format!("/apps/a/machines/{id}");
    let exec = async |body: Value| bench.post(&format!("{path}/exec"), &body).await;
    bench.until(async || exec(json!({"command": ["true"]})).await.status == 200).await;
    let script = "echo $FLY_MACHINE_ID; cat; echo bad >&2; exit 4";
    let done = exec(json!({"command": ["sh", "-c", script], "stdin": "ignored"})).await;
    assert_eq!(done.status, 200, "a command that fails is a call that does not");
    let Value::Object(done) = done.body else { panic!("no object") };
    assert_eq!((&done["exit_code"], &done["stderr"]), (&json!(4), &json!("bad\n")));
    assert_eq!(done["stdout"], json!(format!("{id}\n")));
    assert_eq!(exec(json!({"command": ["sleep", "30"], "timeout": 1})).await.status, 408);
    assert_eq!(exec(json!({"command": ["none-such"]})).await.body["exit_code"], 127);
    assert_eq!(exec(json!({"command": []})).await.status, 400);

    assert_eq!(bench.post(&format!("{path}/signal"), &json!({"signal": "SIGNONE"})).await.status, 400);
    assert_eq!(bench.post(&format!("{path}/signal"), &json!({"signal": "SIGUSR1"})).await.status, 200);
    bench.until(async || bench.state(&id).await != "started").await;
    bench.post(&format!("{path}/stop"), &json!({})).await;
    bench.wait(&id, "stopped").await;
    assert_eq!(exec(json!({"command": ["true"]})).await.status, 400, "it does not run");
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_17_snapshots_and_copies_hold_the_files() {
    let bench = Bench::plain().await;
    let volume = bench.volume("a", "v").await;
    let dir = bench.volume_dir(&volume);
    bench.until(async || dir.join("lost+found").exists()).await;
    std::fs::write(dir.join("file"), "then").unwrap();
    let snapshots = format!("/apps/a/volumes/{volume}/snapshots");
    assert_eq!(bench.post(&snapshots, &json!({})).await.status, 200);
    let id = text(&bench.get(&snapshots).await.body[0]["id"]);
    bench.until(async || read(&bench.dir.path().join("snapshots").join(&id).join("file")) == "then").await;
    std::fs::write(dir.join("file"), "now").unwrap();
    let wanted = |key: &str, value: &str| json!({"name": "w", "region": "sjc", "size_gb": 1, (key): value});
    for (key, value, expected) in
        [("snapshot_id", id.as_str(), "then"), ("source_volume_id", volume.as_str(), "now")]
    {
        let made = bench.post("/apps/a/volumes", &wanted(key, value)).await;
        assert_eq!(made.status, 200, "{}", made.body);
        let copy = bench.volume_dir(&text(&made.body["id"])).join("file");
        bench.until(async || read(&copy) == expected).await;
    }
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_19_a_host_goes_and_comes_back_or_does_not() {
    let bench = Bench::plain().await;
    let (id, volume) = bench.machine("m", "script").await;
    let dir = bench.volume_dir(&volume);
    bench.lines(&dir.join("runs"), 1).await;
    let host = bench.emulator.look(|fly| fly.machines[&id].host);
    assert_eq!(bench.admin(&format!("/hosts/{host}/kill"), &json!({})).await, 204);
    bench.until(async || bench.emulator.look(|fly| !fly.machines[&id].process)).await;
    assert!(!dir.join("ended").exists(), "it had no time for a goodbye");
    let seen = bench.get(&format!("/apps/a/machines/{id}")).await.body;
    assert_eq!((&seen["host_status"], &seen["config"]), (&json!("unreachable"), &Value::Null));
    assert_eq!(bench.admin(&format!("/hosts/{host}/revive"), &json!({})).await, 204);
    assert_eq!(bench.lines(&dir.join("runs"), 2).await, "run\nrun\n", "with everything on it");
    assert_eq!(bench.admin(&format!("/hosts/{host}/lose"), &json!({})).await, 204);
    bench.until(async || !dir.exists()).await;
    bench.until(async || bench.state(&id).await == "destroyed").await;
    assert_eq!(bench.admin("/hosts/99/kill", &json!({})).await, 404);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_20_fly_moves_a_machine() {
    let bench = Bench::plain().await;
    let (id, volume) = bench.machine("m", "script").await;
    bench.lines(&bench.volume_dir(&volume).join("env"), 1).await;
    let path = format!("/apps/a/machines/{id}");
    let before = bench.get(&path).await.body;
    assert_eq!(bench.admin(&format!("/machines/{id}/migrate"), &json!({})).await, 204);
    bench.wait(&id, "stopped").await;
    let after = bench.get(&path).await.body;
    let moved = text(&after["config"]["mounts"][0]["volume"]);
    assert!(moved != volume && after["private_ip"] != before["private_ip"]);
    let dir = bench.volume_dir(&moved);
    bench.until(async || read(&dir.join("ended")) == "term\n").await;
    bench.until(async || bench.post(&format!("{path}/start"), &json!({})).await.status == 200).await;
    assert_eq!(bench.lines(&dir.join("runs"), 2).await, "run\nrun\n");
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_21_the_power_goes() {
    let bench = Bench::plain().await;
    let volume = bench.volume("a", "v").await;
    let mut wanted = Bench::wanted("m", "script", &volume);
    wanted["config"]["restart"] = json!({"policy": "always"});
    let id = text(&bench.post("/apps/a/machines", &wanted).await.body["id"]);
    let dir = bench.volume_dir(&volume);
    bench.lines(&dir.join("runs"), 1).await;
    assert_eq!(bench.admin(&format!("/machines/{id}/powercut"), &json!({})).await, 204);
    bench.lines(&dir.join("runs"), 2).await;
    assert!(!dir.join("ended").exists());
    assert_eq!(bench.emulator.look(|fly| fly.machines[&id].run), 2);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn dropping_the_emulator_ends_the_machines() {
    let bench = Bench::plain().await;
    let (_, volume) = bench.machine("m", "deaf").await;
    let dir = bench.volume_dir(&volume);
    bench.lines(&dir.join("runs"), 1).await;
    let Bench { emulator, dir: _kept, .. } = bench;
    drop(emulator);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let mark = format!("FLYFAKE_MOUNT_DATA={}", dir.display());
    while running_with(&mark) {
        assert!(std::time::Instant::now() < deadline, "it goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process has this in its environment.
fn running_with(mark: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("environ")).ok())
        .any(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
}
