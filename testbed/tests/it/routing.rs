//! Where requests go, and what becomes of a back end's answer.

use serde_json::json;

use crate::support::{Bed, error_body};

const USER: &str = "user_abc123";

#[tokio::test]
async fn pins_default_and_kill_switch_decide_in_their_order() {
    let bed = Bed::start().await;
    bed.attach(USER).await;
    let to = |bed: &Bed| {
        let path = bed.signed("/x", USER);
        let request = bed.http.get(bed.url(&path));
        async move { request.send().await.unwrap().text().await.unwrap() }
    };
    assert_eq!(to(&bed).await, "Legacy", "nothing is known yet");
    let steps = [
        (json!({"default": "fly"}), "Machine"),
        (json!({"pins": {USER: "legacy"}}), "Legacy"),
        (json!({"default": "legacy", "pins": {USER: "fly"}}), "Machine"),
        (json!({"kill": true}), "Legacy"),
        (json!({"kill": false}), "Machine"),
        (json!({"pins": {USER: null}}), "Legacy"),
    ];
    for (change, expected) in steps {
        bed.policy(change.clone()).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(to(&bed).await, expected, "a second after {change}");
    }
    let (_, record) = bed.ops("GET", &format!("users/{USER}"), None).await;
    let epochs: Vec<u64> =
        record["history"].as_array().unwrap().iter().map(|r| r["epoch"].as_u64().unwrap()).collect();
    assert!(epochs.is_sorted_by(|a, b| a >= b), "newest first: {epochs:?}");
    assert_eq!(record["placement"]["epoch"], 7, "each of the six changes took an epoch: {record}");

    let (_, audit) = bed.ops("GET", "audit?limit=3", None).await;
    let audit = audit.as_array().unwrap();
    assert_eq!(audit.len(), 3);
    assert_eq!(audit[0]["version"], 6);
    assert_eq!(audit[0]["change"], json!({"pins": {USER: null}}));
}

#[tokio::test]
async fn nobody_leaves_legacy_without_a_machine_or_without_leave() {
    let bed = Bed::with(|spec| {
        spec.vars.remove("DIRECT_FLIPS");
    })
    .await;
    bed.policy(json!({"default": "fly"})).await;
    assert_eq!(bed.get(&bed.signed("/x", USER)).await.text().await.unwrap(), "Legacy", "no machine");
    bed.attach(USER).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(
        bed.get(&bed.signed("/x", USER)).await.text().await.unwrap(),
        "Legacy",
        "data would have to move"
    );
    assert_eq!(
        bed.get(&bed.signed("/x", "user_a.b")).await.text().await.unwrap(),
        "Legacy",
        "no name for a machine"
    );
    assert_eq!(bed.machine.count(), 0);
}

#[tokio::test]
async fn the_policy_is_changed_by_the_operator_only_and_never_by_mistake() {
    let bed = Bed::start().await;
    let post = |bearer: Option<&str>, body: &str| {
        let mut request = bed.http.post(bed.url("/_ops/api/policy")).body(body.to_owned());
        if let Some(bearer) = bearer {
            request = request.header("authorization", bearer.to_owned());
        }
        async move { request.send().await.unwrap() }
    };
    for bearer in [None, Some("Bearer wrong"), Some("Basic dGVzdA=="), Some("Bearer"), Some("Bearer ")] {
        let response = post(bearer, r#"{"kill":true}"#).await;
        assert_eq!(response.status(), 401, "{bearer:?}");
        assert_eq!(error_body(response).await["code"], "not_operator");
    }
    let signed = bed
        .http
        .post(bed.url(&bed.signed("/_ops/api/policy", USER)))
        .body(r#"{"kill":true}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(signed.status(), 401, "a user's proof opens nothing here");
    let admin = Some("Bearer test-admin-bearer");
    for (body, code) in [
        ("", "bad_request"),
        ("[]", "bad_request"),
        (r#"{"kil":true}"#, "bad_request"),
        (r#"{"reason":"nothing"}"#, "bad_request"),
        (r#"{"pins":{"../x":"fly"}}"#, "bad_request"),
        (r#"{"kill":true,"expectedVersion":9}"#, "version_conflict"),
    ] {
        assert_eq!(error_body(post(admin, body).await).await["code"], code, "{body}");
    }
    let big = format!(r#"{{"reason":"{}"}}"#, "x".repeat(300_000));
    assert_eq!(post(admin, &big).await.status(), 413);
    let (_, policy) = bed.ops("GET", "policy", None).await;
    assert_eq!(policy["version"], 0, "nothing has changed");
    assert_eq!(
        post(admin, r#"{"kill":true,"expectedVersion":0,"author":"a","reason":"r"}"#).await.status(),
        200
    );
    let (_, audit) = bed.ops("GET", "audit", None).await;
    assert_eq!((&audit[0]["author"], &audit[0]["reason"]), (&json!("a"), &json!("r")));
}

#[tokio::test]
async fn a_typed_refusal_is_routed_again_and_the_client_sees_nothing() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let once = bed.get(&bed.signed("/refuse?n=1", USER)).await;
    assert_eq!(once.status(), 200);
    assert!(!once.headers().contains_key("x-automna-refusal"));
    // One that goes on refusing is an error that says to try again, not a loop.
    let always = bed.get(&bed.signed("/refuse?n=99", USER)).await;
    assert_eq!(always.status(), 503);
    assert_eq!(always.headers()["retry-after"], "1");
    assert_eq!(error_body(always).await["code"], "placement_changed");
    // A body is gone with the first attempt.
    let path = bed.signed("/refuse?n=1&with=body", USER);
    let post = bed.http.post(bed.url(&path)).body("x").send().await.unwrap();
    assert_eq!(error_body(post).await["code"], "placement_changed");
}

#[tokio::test]
async fn a_back_end_that_is_not_there_is_a_503_in_our_shape() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let response = bed.get(&bed.signed("/proxy-error", USER)).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    assert_eq!(error_body(response).await["code"], "backend_unavailable");

    let dead = Bed::with(|spec| {
        spec.vars.insert("LEGACY_ORIGIN".into(), "http://127.0.0.1:1".into());
    })
    .await;
    let response = dead.get(&dead.signed("/x", USER)).await;
    assert_eq!(response.status(), 503);
    assert_eq!(error_body(response).await["code"], "backend_unavailable");
}

#[tokio::test]
async fn legacy_can_be_a_service_binding() {
    let behind = crate::support::Upstream::start(crate::support::Plays::Legacy).await;
    let address = behind.url().trim_start_matches("http://").to_owned();
    let bed = Bed::with(|spec| {
        spec.vars.remove("LEGACY_ORIGIN");
        spec.legacy_service = Some(address);
    })
    .await;
    let path = bed.signed("/api/files/list?path=%2Froot", USER);
    assert_eq!(bed.get(&path).await.text().await.unwrap(), "Legacy");
    assert_eq!(behind.seen()[0].target, path, "under its own URL");
}
