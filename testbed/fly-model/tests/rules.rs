//! The rules of Fly's API that the model keeps, by number. Those that are about processes or the proxy (16, 21)
//! belong to the emulator around it (`testbed/fly-emulator`), and so does the waiting of 11.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use fly_model::{Disk, Event, Exit, Fly, Profile, Range, Region, Request, Response, State};
use serde_json::{Value, json};

/// A Fly with one app, `a`, and no limits unless asked for.
struct Bench {
    fly: Fly,
    now: u64,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Profile)) -> Self {
        let mut profile = Profile { limits: false, ..Profile::default() };
        change(&mut profile);
        let mut bench = Self { fly: Fly::new(profile, 7), now: 10_000 };
        assert_eq!(bench.post("/apps", &json!({"name": "a", "org_slug": "automna"})).status, 201);
        bench.pass(1_000);
        bench
    }

    fn plain() -> Self {
        Self::new(|_| {})
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.fly.advance(self.now);
    }

    fn ask(&mut self, method: &str, path: &str, nonce: Option<&str>, body: &[u8]) -> Response {
        let request = Request { method, path, token: "token", nonce, body };
        self.fly.handle(self.now, &request)
    }

    fn post(&mut self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, None, body.to_string().as_bytes())
    }

    fn get(&mut self, path: &str) -> Value {
        let response = self.ask("GET", path, None, b"");
        assert_eq!(response.status, 200, "{path}");
        body(&response)
    }

    /// A volume that can be mounted.
    fn volume(&mut self, name: &str) -> String {
        let response = self.post(
            "/apps/a/volumes",
            &json!({"name": name, "region": "sjc", "size_gb": 1, "require_unique_zone": false}),
        );
        assert_eq!(response.status, 200, "{}", text(&response));
        id(&response)
    }

    /// A machine that runs on a volume of its own.
    fn machine(&mut self, name: &str) -> String {
        let volume = self.volume(&name.replace('-', "_"));
        let response = self.post("/apps/a/machines", &create(name, &volume, 1024));
        assert_eq!(response.status, 200, "{}", text(&response));
        self.pass(5_000);
        let id = id(&response);
        assert_eq!(self.state(&id), "started");
        id
    }

    fn state(&mut self, machine: &str) -> String {
        self.get(&format!("/apps/a/machines/{machine}"))["state"].as_str().unwrap().to_owned()
    }

    fn of(&mut self, machine: &str, action: &str) -> Response {
        self.post(&format!("/apps/a/machines/{machine}/{action}"), &json!({}))
    }
}

fn create(name: &str, volume: &str, memory_mb: u64) -> Value {
    json!({"name": name, "region": "sjc", "config": {
        "image": "i@sha256:1",
        "guest": {"cpu_kind": "shared", "cpus": 4, "memory_mb": memory_mb},
        "env": {"A": "1"},
        "mounts": [{"volume": volume, "path": "/data"}],
    }})
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn id(response: &Response) -> String {
    body(response)["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(response: &Response, status: u16, piece: &str) {
    assert!(
        response.status == status && text(response).contains(piece),
        "{} {}",
        response.status,
        text(response)
    );
}

#[test]
fn rule_01_who_may_ask() {
    let mut bench = Bench::new(|profile| profile.foreign_apps.push("theirs".into()));
    let request = Request { method: "GET", path: "/apps/a", token: "wrong", nonce: None, body: b"" };
    refused(&bench.fly.handle(bench.now, &request), 401, "token validation error");
    refused(&bench.ask("GET", "/apps/theirs/machines", None, b""), 403, "another organization");
    refused(&bench.ask("GET", "/apps/none/machines", None, b""), 404, "App");
}

#[test]
fn rule_02_names_of_apps() {
    let mut bench = Bench::new(|profile| profile.foreign_apps.push("theirs".into()));
    for name in ["A", "a_b", "", &"x".repeat(63)] {
        refused(&bench.post("/apps", &json!({"name": name, "org_slug": "automna"})), 400, "app name");
    }
    for name in ["a", "theirs"] {
        refused(&bench.post("/apps", &json!({"name": name, "org_slug": "automna"})), 422, "name_taken");
    }
}

#[test]
fn rule_03_an_app_goes_with_everything_in_it() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    assert_eq!(bench.ask("DELETE", "/apps/a?force=true", None, b"").status, 202);
    bench.pass(3_100);
    refused(&bench.ask("GET", "/apps/a", None, b""), 404, "App");
    assert_eq!(bench.fly.machines[&machine].state, State::Destroyed);
    assert!(bench.fly.volumes.values().all(|volume| volume.deleted_at.is_some()));
}

#[test]
fn rule_04_what_no_machine_may_be() {
    let mut bench = Bench::plain();
    let volume = bench.volume("v");
    let mut two = create("m", &volume, 1024);
    two["config"]["mounts"] = json!([{"volume": volume, "path": "/a"}, {"volume": volume, "path": "/b"}]);
    refused(&bench.post("/apps/a/machines", &two), 400, "1 mount");
    refused(&bench.post("/apps/a/machines", &create("m", &volume, 1000)), 400, "multiple of 256");
    refused(&bench.post("/apps/a/machines", &create("m", &volume, 16_384)), 400, "too much memory");
    refused(&bench.post("/apps/a/machines", &create("m", "vol_none", 1024)), 400, "volume not found");
    refused(&bench.post("/apps/a/volumes", &json!({"name": "v", "region": "xxx"})), 400, "region");
    refused(&bench.ask("POST", "/apps/a/machines/x/stop", None, b"[]"), 400, "cannot unmarshal");
    let mut misspelt = create("m", &volume, 1024);
    misspelt["config"]["services"] =
        json!([{"protocol": "tcp", "internal_port": 1, "auto_stop_machines": true}]);
    assert_eq!(bench.post("/apps/a/machines", &misspelt).status, 200, "ignored without a word");
    assert_eq!(bench.fly.ignored, ["service.auto_stop_machines"]);
}

#[test]
fn rule_05_a_name_is_taken_while_its_machine_lives() {
    let mut bench = Bench::plain();
    let first = bench.machine("m");
    let other = bench.volume("v");
    let again = bench.post("/apps/a/machines", &create("m", &other, 1024));
    refused(&again, 409, &format!("machine ID {first} already exists"));
    bench.ask("DELETE", &format!("/apps/a/machines/{first}?force=true"), None, b"");
    bench.pass(5_100);
    assert_eq!(bench.post("/apps/a/machines", &create("m", &other, 1024)).status, 200);
}

#[test]
fn rule_06_one_machine_for_one_volume() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let volume = bench.fly.machines[&machine].mount().unwrap().to_owned();
    refused(&bench.post("/apps/a/machines", &create("n", &volume, 1024)), 412, "volume already claimed");
    let mut elsewhere = create("n", &bench.volume("w"), 1024);
    elsewhere["region"] = json!("iad");
    refused(&bench.post("/apps/a/machines", &elsewhere), 400, "another region");
}

#[test]
fn rule_07_capacity_is_refused_in_many_ways() {
    let mut bench = Bench::new(|profile| {
        profile.regions = vec![Region { code: "sjc".into(), hosts_mb: vec![4096] }];
        profile.quota_mb = 5000;
    });
    let (one, two) = (bench.volume("one"), bench.volume("two"));
    let first = id(&bench.post("/apps/a/machines", &create("one", &one, 3072)));
    refused(&bench.post("/apps/a/machines", &create("two", &two, 2048)), 412, "volume_placement_capacity");
    for _ in 0..8 {
        let full = bench
            .post("/apps/a/volumes", &json!({"name": "x", "region": "sjc", "compute": {"memory_mb": 2048}}));
        assert!([400, 409, 422].contains(&full.status), "{}", text(&full));
    }
    bench.pass(5_000);
    bench.of(&first, "stop");
    bench.pass(5_000);
    assert_eq!(
        bench.post("/apps/a/machines", &create("two", &two, 2048)).status,
        200,
        "one that is stopped makes room"
    );
    refused(&bench.of(&first, "start"), 409, "could not reserve resource");
    bench.fly.hosts[0].memory_mb = 9999;
    let three = bench.volume("three");
    refused(&bench.post("/apps/a/machines", &create("three", &three, 4096)), 403, "over the allowed quota");
}

#[test]
fn rule_08_zones_are_used_up() {
    let mut bench = Bench::plain();
    let volume = json!({"name": "same", "region": "sjc"});
    for _ in 0..3 {
        assert_eq!(bench.post("/apps/a/volumes", &volume).status, 200);
    }
    refused(&bench.post("/apps/a/volumes", &volume), 422, "candidate host");
}

#[test]
fn rule_09_what_may_be_done_in_which_state() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let path = format!("/apps/a/machines/{machine}");
    refused(&bench.ask("DELETE", &path, None, b""), 412, "not currently stopped");
    assert_eq!(bench.of(&machine, "stop").status, 200);
    refused(&bench.of(&machine, "start"), 412, "unable to start machine from current state: 'stopping'");
    while bench.state(&machine) != "stopped" {
        bench.pass(10);
    }
    refused(&bench.of(&machine, "start"), 412, "still active, refusing to start");
    bench.pass(400);
    assert_eq!(bench.of(&machine, "start").status, 200);
    bench.pass(600);
    assert_eq!(bench.state(&machine), "started");
    assert_eq!(bench.ask("DELETE", &format!("{path}?force=true"), None, b"").status, 200);
    bench.pass(5_100);
    assert_eq!(bench.state(&machine), "destroyed", "still readable");
    refused(&bench.ask("DELETE", &format!("{path}?force=true"), None, b""), 404, "not found");
    bench.pass(300_000);
    refused(&bench.ask("GET", &path, None, b""), 404, "not found");
}

#[test]
fn rule_10_an_update_replaces_everything_and_may_be_taken_back() {
    let mut bench =
        Bench::new(|profile| profile.regions = vec![Region { code: "sjc".into(), hosts_mb: vec![4096] }]);
    let machine = bench.machine("m");
    let path = format!("/apps/a/machines/{machine}");
    let before = bench.get(&path);
    let (version, mount) = (&before["instance_id"], &before["config"]["mounts"]);
    let config = |memory_mb: u64| json!({"image": "i@sha256:2", "guest": {"cpus": 4, "memory_mb": memory_mb}, "mounts": mount});
    refused(
        &bench.post(&path, &json!({"config": config(1024), "current_version": "old"})),
        409,
        "concurrent update",
    );
    let moved = json!({"image": "i", "mounts": [{"volume": "vol_other", "path": "/data"}]});
    refused(&bench.post(&path, &json!({"config": moved})), 400, "cannot be changed");

    assert_eq!(bench.post(&path, &json!({"config": config(2048), "current_version": version})).status, 200);
    refused(&bench.of(&machine, "start"), 412, "getting replaced");
    bench.pass(3_000);
    let after = bench.get(&path);
    assert_eq!(after["state"], "started");
    assert_ne!(after["instance_id"], *version);
    assert_eq!(after["config"]["env"], Value::Null, "what is not sent is gone");

    assert_eq!(bench.post(&path, &json!({"config": config(8192)})).status, 200, "accepted");
    bench.pass(200);
    let reverted = bench.get(&path);
    assert_eq!((&reverted["state"], &reverted["instance_id"]), (&json!("stopped"), &after["instance_id"]));
    assert_eq!(reverted["config"], after["config"]);
    let events = bench.get(&format!("{path}/events?limit=2"));
    assert_eq!((&events[0]["type"], &events[1]["status"]), (&json!("revert"), &json!("replacing")));
    bench.pass(400);
    assert_eq!(bench.of(&machine, "start").status, 200, "and the old one still fits");
}

#[test]
fn rule_11_waiting() {
    let mut bench = Bench::plain();
    let volume = bench.volume("v");
    let machine = id(&bench.post("/apps/a/machines", &create("m", &volume, 1024)));
    let wait = format!("/apps/a/machines/{machine}/wait?state=started");
    refused(&bench.ask("GET", &format!("{wait}&timeout=61"), None, b""), 400, "[1s, 1m0s]");
    refused(&bench.ask("GET", &wait, None, b""), 408, "currently created");
    refused(&bench.ask("GET", &format!("{wait}&version=01OLD"), None, b""), 400, "replaced");
    bench.pass(5_000);
    assert_eq!(bench.get(&wait)["ok"], true);
}

#[test]
fn rule_12_leases() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let lease = bench.post(&format!("/apps/a/machines/{machine}/lease?ttl=60"), &json!({}));
    assert_eq!(lease.status, 201);
    let nonce = body(&lease)["data"]["nonce"].as_str().unwrap().to_owned();
    for action in ["start", "lease"] {
        refused(&bench.of(&machine, action), 409, "lease currently held by");
    }
    let path = format!("/apps/a/machines/{machine}/start");
    assert_eq!(bench.ask("POST", &path, Some(&nonce), b"{}").status, 200);
    let lease_path = format!("/apps/a/machines/{machine}/lease");
    refused(&bench.ask("DELETE", &lease_path, Some("other"), b""), 404, "lease not found");
    assert_eq!(bench.ask("DELETE", &lease_path, Some(&nonce), b"").status, 200);
    assert_eq!(bench.of(&machine, "lease").status, 201);
    bench.pass(60_000);
    assert_eq!(bench.of(&machine, "lease").status, 201, "it ends by itself");
}

#[test]
fn rule_13_limits() {
    let mut bench = Bench::new(|profile| profile.limits = true);
    let statuses: Vec<u16> = (0..4).map(|_| bench.ask("GET", "/apps/a/volumes", None, b"").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    let refused = bench.ask("GET", "/apps/a/volumes", None, b"");
    assert_eq!((refused.status, refused.retry_after.as_deref()), (429, Some("1")));
    assert_eq!(bench.ask("GET", "/apps/a/machines", None, b"").status, 200, "a bucket of its own");
    bench.pass(1_000);
    assert_eq!(bench.ask("GET", "/apps/a/volumes", None, b"").status, 200);
    let reads = (0..12).filter(|_| bench.ask("GET", "/apps/a/machines/x", None, b"").status == 404).count();
    assert_eq!(reads, 10);
}

#[test]
fn rule_14_secrets_reach_a_boot_late_unless_it_insists() {
    for (least, expected) in [(0, "old"), (2, "new")] {
        let mut bench = Bench::new(|profile| {
            profile.secrets_lag = Range(60_000, 60_000);
            profile.create_to_starting = Range(1, 1);
        });
        let set = |bench: &mut Bench, value: &str| {
            let set = bench.post("/apps/a/secrets", &json!({"values": {"K": value, "GONE": null}}));
            body(&set)["version"].as_u64().unwrap()
        };
        assert_eq!(set(&mut bench, "old"), 1);
        bench.pass(60_000);
        assert_eq!(set(&mut bench, "new"), 2);
        let volume = bench.volume("v");
        let mut wanted = create("m", &volume, 1024);
        wanted["min_secrets_version"] = json!(3);
        refused(&bench.post("/apps/a/machines", &wanted), 412, "min_secrets_version");
        wanted["min_secrets_version"] = json!(least);
        let machine = id(&bench.post("/apps/a/machines", &wanted));
        bench.pass(5_000);
        assert_eq!(bench.fly.machines[&machine].secrets["K"], expected, "{least}");
        bench.of(&machine, "stop");
        bench.pass(60_000);
        assert_eq!(bench.of(&machine, "start").status, 200);
        bench.pass(1_000);
        assert_eq!(bench.fly.machines[&machine].secrets["K"], "new", "once it has settled");
    }
}

#[test]
fn rule_15_metadata_makes_no_version() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let path = format!("/apps/a/machines/{machine}");
    let version = bench.get(&path)["instance_id"].clone();
    let patch = |bench: &mut Bench, body: Value| {
        bench.ask("PATCH", &format!("{path}/metadata"), None, body.to_string().as_bytes())
    };
    assert_eq!(patch(&mut bench, json!({"metadata": {"a": "1", "b": "2"}})).status, 204);
    assert_eq!(patch(&mut bench, json!({"metadata": {"a": ""}, "machine_version": version})).status, 204);
    refused(&patch(&mut bench, json!({"metadata": {}, "machine_version": "01OLD"})), 412, "machine_version");
    assert_eq!(bench.get(&format!("{path}/metadata")), json!({"b": "2"}));
    assert_eq!(bench.post(&format!("{path}/metadata/c"), &json!({"value": "3"})).status, 204);
    assert_eq!(bench.get(&format!("{path}/metadata/c"))["value"], "3");
    assert_eq!(bench.ask("DELETE", &format!("{path}/metadata/c"), None, b"").status, 204);
    refused(&bench.ask("GET", &format!("{path}/metadata/c"), None, b""), 404, "not found");
    let after = bench.get(&path);
    assert_eq!((&after["instance_id"], &after["state"]), (&version, &json!("started")));
}

#[test]
fn rule_17_snapshots() {
    let mut bench = Bench::plain();
    let volume = bench.volume("v");
    bench.fly.write(&volume, "data");
    let path = format!("/apps/a/volumes/{volume}/snapshots");
    assert_eq!(bench.post(&path, &json!({})).status, 200);
    refused(&bench.post(&path, &json!({})), 412, "already scheduled");
    bench.ask("DELETE", &format!("/apps/a/volumes/{volume}"), None, b"");
    let list = bench.get(&path);
    let snapshot = list[0]["id"].as_str().unwrap();
    let restored = id(&bench.post(
        "/apps/a/volumes",
        &json!({"name": "w", "region": "sjc", "size_gb": 1, "snapshot_id": snapshot}),
    ));
    assert_eq!(bench.fly.volumes[&restored].data, "data");
}

#[test]
fn rule_18_volumes_grow_only() {
    let mut bench = Bench::plain();
    let volume = bench.volume("v");
    let path = format!("/apps/a/volumes/{volume}/extend");
    for (size_gb, status) in [(1, 400), (2, 200), (1, 400), (501, 400)] {
        let body = json!({"size_gb": size_gb}).to_string();
        assert_eq!(bench.ask("PUT", &path, None, body.as_bytes()).status, status, "{size_gb}");
    }
}

#[test]
fn rule_19_a_host_dies() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let (host, volume) =
        (bench.fly.machines[&machine].host, bench.fly.machines[&machine].mount().unwrap().to_owned());
    bench.fly.events.clear();
    bench.fly.kill_host(host, bench.now);
    assert_eq!(bench.fly.events, [Event::Ended { machine: machine.clone() }]);
    let path = format!("/apps/a/machines/{machine}");
    let seen = bench.get(&path);
    assert_eq!((&seen["host_status"], &seen["config"]), (&json!("unreachable"), &Value::Null));
    assert!(seen["incomplete_config"].is_object());
    assert_eq!(bench.get(&format!("/apps/a/volumes/{volume}"))["host_status"], "unreachable");
    assert!([408, 503].contains(&bench.of(&machine, "stop").status));
    let copy = json!({"name": "c", "region": "sjc", "source_volume_id": volume});
    refused(&bench.post("/apps/a/volumes", &copy), 412, "unreachable");
    assert_eq!(bench.ask("DELETE", &format!("{path}?force=true"), None, b"").status, 200);
    bench.pass(60_000);
    assert_eq!(bench.state(&machine), "destroying", "until the host is back");
    bench.fly.revive_host(host, bench.now);
    bench.pass(1_000);
    assert_eq!(bench.state(&machine), "destroyed");
    assert!(bench.fly.volumes[&volume].deleted_at.is_none(), "its volume is there");
}

#[test]
fn rule_19_a_host_is_lost() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let (host, volume) =
        (bench.fly.machines[&machine].host, bench.fly.machines[&machine].mount().unwrap().to_owned());
    bench.fly.kill_host(host, bench.now);
    bench.fly.lose_host(host, bench.now);
    bench.pass(10_000);
    assert_eq!(bench.state(&machine), "destroyed");
    refused(&bench.ask("GET", &format!("/apps/a/volumes/{volume}"), None, b""), 404, "not found");
}

#[test]
fn rule_20_fly_moves_a_machine() {
    let mut bench = Bench::plain();
    let machine = bench.machine("m");
    let volume = bench.fly.machines[&machine].mount().unwrap().to_owned();
    bench.fly.write(&volume, "data");
    bench.fly.migrate(&machine, bench.now);
    let moved = bench.fly.machines[&machine].mount().unwrap().to_owned();
    assert_ne!(moved, volume);
    assert_eq!(bench.fly.volumes[&moved].data, "data");
    assert_eq!(bench.state(&machine), "stopped", "and nobody starts it but us");
}

#[test]
fn rule_22_placements_say_where_there_is_room() {
    let mut bench = Bench::new(|profile| {
        profile.regions = vec![
            Region { code: "sjc".into(), hosts_mb: vec![4096] },
            Region { code: "iad".into(), hosts_mb: vec![2048, 2048] },
        ];
    });
    let ask = |bench: &mut Bench, region: &str| {
        let wanted = json!({"org_slug": "automna", "region": region, "compute": {"memory_mb": 2048}});
        body(&bench.post("/platform/placements", &wanted))["Regions"].clone()
    };
    let both = ask(&mut bench, "any");
    assert_eq!((&both[0]["Region"], &both[0]["Count"]), (&json!("iad"), &json!(2)));
    assert_eq!((&both[1]["Region"], &both[1]["Count"]), (&json!("sjc"), &json!(2)));
    bench.fly.fill_region("sjc");
    assert_eq!(ask(&mut bench, "sjc,iad").as_array().unwrap().len(), 1, "a full region is absent");
    refused(&bench.post("/platform/placements", &json!({"org_slug": "theirs"})), 403, "forbidden");
}

#[test]
fn rule_23_what_the_organisation_has() {
    let mut bench = Bench::plain();
    for name in ["m", "n", "o"] {
        bench.machine(name);
    }
    let page = bench.get("/orgs/automna/machines?limit=2");
    assert_eq!(page["machines"].as_array().unwrap().len(), 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = bench.get(&format!("/orgs/automna/machines?limit=2&cursor={cursor}"));
    assert_eq!((rest["machines"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    bench.fly.kill_host(0, bench.now);
    assert_eq!(
        bench.get("/orgs/automna/volumes?limit=9")["error_regions"],
        json!(["sjc"]),
        "absence proves nothing"
    );
}

#[test]
fn rule_24_every_answer_has_an_id_and_no_two_the_same() {
    let mut bench = Bench::plain();
    let ids: Vec<String> = (0..3).map(|_| bench.ask("GET", "/apps/none", None, b"").request_id).collect();
    assert!(!ids[0].is_empty() && ids[0] != ids[1] && ids[1] != ids[2]);
}

#[test]
fn lists_are_late_and_reads_are_not() {
    let mut bench = Bench::new(|profile| profile.list_lag = Range(900, 900));
    let volume = bench.volume("v");
    assert_eq!(bench.get("/apps/a/volumes"), json!([]));
    assert_eq!(bench.get(&format!("/apps/a/volumes/{volume}"))["id"], json!(volume));
    bench.pass(900);
    assert_eq!(bench.get("/apps/a/volumes")[0]["id"], json!(volume));
    bench.ask("DELETE", &format!("/apps/a/volumes/{volume}"), None, b"");
    assert_eq!(bench.get("/apps/a/volumes")[0]["state"], "pending_destroy");
    bench.pass(5_000);
    assert_eq!(bench.get("/apps/a/volumes"), json!([]));
}

#[test]
fn a_volume_stays_claimed_for_a_while() {
    let mut bench = Bench::new(|profile| profile.claim = Range(3_000, 3_000));
    let machine = bench.machine("m");
    let volume = bench.fly.machines[&machine].mount().unwrap().to_owned();
    bench.ask("DELETE", &format!("/apps/a/machines/{machine}?force=true"), None, b"");
    while bench.state(&machine) != "destroyed" {
        bench.pass(10);
    }
    refused(&bench.ask("DELETE", &format!("/apps/a/volumes/{volume}"), None, b""), 412, "currently bound");
    refused(&bench.post("/apps/a/machines", &create("m", &volume, 1024)), 412, "already claimed");
    bench.pass(3_000);
    assert_eq!(bench.post("/apps/a/machines", &create("m", &volume, 1024)).status, 200);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let run = || {
        let mut bench = Bench::plain();
        for n in 0..5 {
            bench.machine(&format!("m{n}"));
        }
        (bench.now, bench.get("/apps/a/machines"))
    };
    assert_eq!(run(), run());
}

/// A Fly whose machines are processes of somebody else's, with one machine that runs.
fn with_processes(restart: &Value) -> (Bench, String) {
    let mut bench = Bench::new(|profile| profile.real_processes = true);
    let volume = bench.volume("v");
    let mut wanted = create("m", &volume, 1024);
    wanted["config"]["restart"] = restart.clone();
    let machine = id(&bench.post("/apps/a/machines", &wanted));
    bench.pass(5_000);
    assert_eq!(bench.fly.disks, [Disk::Made { volume }]);
    assert_eq!(bench.fly.machines[&machine].run, 1);
    (bench, machine)
}

#[test]
fn what_follows_a_stop_waits_for_the_process() {
    let (mut bench, machine) = with_processes(&json!({"policy": "always"}));
    bench.of(&machine, "stop");
    bench.pass(60_000);
    assert_eq!(bench.state(&machine), "stopping");
    bench.fly.exited(&machine, 0, Exit::default(), bench.now);
    assert_eq!(bench.state(&machine), "stopping", "another run's end");
    bench.fly.exited(&machine, 1, Exit::default(), bench.now);
    assert_eq!(bench.state(&machine), "stopped", "and is not started again");
    let events = bench.get(&format!("/apps/a/machines/{machine}/events"));
    let exit = &events[0]["request"]["exit_event"];
    assert_eq!((&exit["requested_stop"], &exit["exit_code"]), (&json!(true), &Value::Null));
}

#[test]
fn restart_policies() {
    let (failed, done) = (Exit { code: 3, ..Exit::default() }, Exit::default());
    for (restart, exit, again) in [
        (json!({"policy": "always"}), done, 20),
        (json!({"policy": "no"}), failed, 0),
        (json!({"policy": "on-failure"}), done, 0),
        (json!({"policy": "on-failure"}), Exit { signal: 9, ..done }, 10),
        (json!({"policy": "on-failure", "max_retries": 2}), failed, 2),
        (Value::Null, failed, 10),
    ] {
        let (mut bench, machine) = with_processes(&restart);
        let mut restarts = 0;
        while restarts < 20 {
            let run = bench.fly.machines[&machine].run;
            bench.fly.exited(&machine, run, exit, bench.now);
            bench.pass(1_000);
            if bench.state(&machine) != "started" {
                break;
            }
            restarts += 1;
        }
        assert_eq!(restarts, again, "{restart} {exit:?}");
        assert_eq!(bench.state(&machine), if again == 20 { "started" } else { "stopped" });
    }
}

#[test]
fn a_lease_can_come_with_the_machine() {
    let mut bench = Bench::plain();
    let volume = bench.volume("v");
    let mut wanted = create("m", &volume, 1024);
    wanted["lease_ttl"] = json!(60);
    let made = bench.post("/apps/a/machines", &wanted);
    let nonce = body(&made)["nonce"].as_str().unwrap().to_owned();
    bench.pass(5_000);
    refused(&bench.of(&id(&made), "restart"), 409, "lease currently held");
    let path = format!("/apps/a/machines/{}/restart", id(&made));
    assert_eq!(bench.ask("POST", &path, Some(&nonce), b"").status, 200);
}
