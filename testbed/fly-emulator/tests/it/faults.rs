//! What goes wrong on purpose, the clock by hand, and the rest of the rules over HTTP.

use serde_json::{Value, json};

use crate::support::{Bench, text};

#[tokio::test]
async fn drop_after_does_and_does_not_tell() {
    let bench = Bench::plain().await;
    let fault = json!({"match": {"action": "create_volume"}, "effect": {"drop_after": true}, "count": 1});
    assert_eq!(bench.admin("/faults", &fault).await, 201);
    let wanted = json!({"name": "v", "region": "sjc", "size_gb": 1});
    assert!(bench.try_call("POST", "/apps/a/volumes", None, Some(&wanted)).await.is_none());
    let listed = async || bench.get("/apps/a/volumes").await.body.as_array().unwrap().len();
    bench.until(async || listed().await == 1).await;
    bench.volume("a", "v").await;
    bench.until(async || listed().await == 2).await;
    bench.emulator.stop().await;
}

#[tokio::test]
async fn drop_before_does_nothing() {
    let bench = Bench::plain().await;
    bench.admin("/faults", &json!({"match": {"nth": 1}, "effect": {"drop_before": true}})).await;
    let wanted = json!({"name": "v", "region": "sjc", "size_gb": 1});
    assert!(bench.try_call("POST", "/apps/a/volumes", None, Some(&wanted)).await.is_none());
    assert!(bench.emulator.look(|fly| fly.volumes.is_empty()));
    bench.volume("a", "v").await;
    bench.emulator.stop().await;
}

#[tokio::test]
async fn rule_24_a_page_of_html_has_an_id_too() {
    let bench = Bench::plain().await;
    bench.admin("/faults", &json!({"effect": {"status": 502}, "count": 1})).await;
    let answer = bench.get("/apps/a").await;
    assert_eq!(answer.status, 502);
    assert!(text(&answer.body).starts_with("<html>"));
    assert_eq!(answer.headers["content-type"], "text/html");
    assert_eq!(bench.get("/apps/a").await.status, 200);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn time_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let config = fly_emulator::Config {
        api_port: 0,
        proxy_port: 0,
        dir: dir.path().to_owned(),
        clock_by_hand: true,
        ..fly_emulator::Config::default()
    };
    let emulator = fly_emulator::Emulator::start(config).await.unwrap();
    let http = reqwest::Client::new();
    let (api, admin) = (emulator.api_url(), emulator.admin_url());
    let app = json!({"name": "a", "org_slug": "automna"});
    let made = http.post(format!("{api}/apps")).bearer_auth("token").json(&app).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let clock = async |ms: u64| {
        let body = json!({"advance_ms": ms});
        let moved = http.post(format!("{admin}/clock")).json(&body).send().await.unwrap();
        moved.json::<Value>().await.unwrap()["now"].as_u64().unwrap()
    };
    let begun = clock(0).await;
    assert_eq!(clock(800).await, begun + 800);
    let read = http.get(format!("{api}/apps/a")).bearer_auth("token").send().await.unwrap();
    assert_eq!(read.status(), 200, "an app is found 800 ms after it was made, at the latest");
    let statuses = async || {
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let read = http.get(format!("{api}/apps/a/volumes")).bearer_auth("token").send().await.unwrap();
            statuses.push(read.status().as_u16());
        }
        statuses
    };
    // Rule 13: without a clock that runs by itself, a budget is exact.
    assert_eq!(statuses().await, [200, 200, 200, 429]);
    clock(2_000).await;
    assert_eq!(statuses().await, [200, 200, 429, 429]);
    emulator.stop().await;
}

#[tokio::test]
async fn what_is_not_said_by_processes_is_as_published_as_well() {
    let bench = Bench::start(|config| config.foreign_apps.push("theirs".into())).await;
    let (id, volume) = bench.machine("m", "script").await;
    for (method, path, body, status) in [
        ("GET", "/apps?org_slug=automna".to_owned(), json!(null), 200),
        ("GET", "/apps".to_owned(), json!(null), 400),
        ("GET", "/apps/none".to_owned(), json!(null), 404),
        ("GET", "/apps/theirs".to_owned(), json!(null), 403),
        ("POST", "/apps".to_owned(), json!({"name": "theirs", "org_slug": "automna"}), 422),
        ("POST", "/apps/a/ip_assignments".to_owned(), json!({"type": "shared_v4"}), 200),
        ("GET", "/apps/a/ip_assignments".to_owned(), json!(null), 200),
        ("GET", "/apps/a/machines".to_owned(), json!(null), 200),
        ("GET", format!("/apps/a/volumes/{volume}"), json!(null), 200),
        ("DELETE", format!("/apps/a/volumes/{volume}"), json!(null), 412),
        ("PUT", format!("/apps/a/volumes/{volume}/extend"), json!({"size_gb": 2}), 200),
        ("PUT", format!("/apps/a/volumes/{volume}/extend"), json!({"size_gb": 1}), 400),
        ("POST", "/apps/a/machines".to_owned(), Bench::wanted("m", "script", &volume), 409),
        ("POST", "/apps/a/machines".to_owned(), Bench::wanted("n", "script", &volume), 412),
        ("GET", format!("/apps/a/machines/{id}/wait?timeout=61"), json!(null), 400),
        ("POST", format!("/apps/a/machines/{id}/cordon"), json!({}), 200),
        ("POST", format!("/apps/a/machines/{id}/uncordon"), json!({}), 200),
        ("GET", "/orgs/automna/machines".to_owned(), json!(null), 200),
        ("GET", "/orgs/automna/volumes?limit=1".to_owned(), json!(null), 200),
        ("PATCH", format!("/apps/a/machines/{id}/metadata"), json!({"metadata": {"k": "v"}}), 204),
        ("GET", format!("/apps/a/machines/{id}/metadata"), json!(null), 200),
        ("GET", format!("/apps/a/machines/{id}/metadata/k"), json!(null), 200),
        ("DELETE", format!("/apps/a/machines/{id}/metadata/k"), json!(null), 204),
        ("POST", "/platform/placements".to_owned(), json!({"org_slug": "automna"}), 200),
        ("GET", "/platform/regions".to_owned(), json!(null), 200),
    ] {
        let body = (!body.is_null()).then_some(body);
        let answer = bench.call(method, &path, body.as_ref()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    assert_eq!(bench.admin("/token", &json!({"token": "new"})).await, 204);
    assert_eq!(bench.get("/apps/a").await.status, 401);
    bench.emulator.stop().await;
}

#[tokio::test]
async fn the_admin_routes_may_be_closed() {
    let bench = Bench::start(|config| config.admin_token = Some("word".into())).await;
    assert_eq!(bench.admin("/regions/sjc/fill", &json!({})).await, 401);
    bench.emulator.stop().await;
}
