//! A panic is a failed request with an answer: never a caller that hangs, never an alarm that is stuck.

use std::time::Duration;

use crate::support::{Bed, error_body, eventually};

const USER: &str = "user_abc123";

/// Far above what a guarded panic takes, far below the runtime's own patience.
const ANSWERS: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_panic_in_the_edge_is_answered_and_so_are_its_neighbours() {
    let bed = Bed::start().await;
    let stream = bed.get(&bed.signed("/bulk?bytes=6553600", USER)).await;
    // With a lease at hand, a GET does not wait in WASM; a POST does.
    let spared = tokio::spawn(bed.http.get(bed.url(&bed.signed("/slow?ms=1500", USER))).send());
    let slow = bed.signed("/slow?ms=1501", USER);
    let struck = tokio::spawn(bed.http.post(bed.url(&slow)).body("x").send());
    eventually("both have reached their back end", async || bed.legacy.count() == 3).await;

    let panic = bed.http.post(bed.url("/_ops/api/chaos/edge")).bearer_auth(crate::support::ADMIN);
    let panicked = tokio::time::timeout(ANSWERS, panic.send()).await.expect("a panic is answered").unwrap();
    assert_eq!(panicked.status(), 500);
    assert_eq!(error_body(panicked).await["code"], "internal");

    let struck =
        tokio::time::timeout(ANSWERS, struck).await.expect("a neighbour is answered").unwrap().unwrap();
    assert_eq!(struck.status(), 500);
    assert_eq!(error_body(struck).await["code"], "internal");
    let spared =
        tokio::time::timeout(ANSWERS, spared).await.expect("a neighbour is answered").unwrap().unwrap();
    assert_eq!(spared.status(), 200, "what does not wait in WASM is spared");
    assert_eq!(stream.bytes().await.unwrap().len(), 6_553_600, "a body that is under way passes by");
    assert_eq!(bed.get(&bed.signed("/x", USER)).await.status(), 200, "and the next request is served");
}

#[tokio::test]
async fn a_panic_in_an_object_is_answered_and_loses_nothing() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let (_, before) = bed.ops("GET", &format!("users/{USER}"), None).await;
    let slow = tokio::spawn(bed.http.get(bed.url(&bed.signed("/slow?ms=800", USER))).send());
    eventually("a request is under way", async || {
        bed.machine.seen().iter().any(|s| s.target.starts_with("/slow"))
    })
    .await;

    let path = format!("chaos/{USER}/object");
    let panic = bed.ops("POST", &path, None);
    let (status, body) = tokio::time::timeout(ANSWERS, panic).await.expect("a panic is answered");
    assert_eq!((status, &body["code"]), (503, &"placement_unavailable".into()));

    assert_eq!(slow.await.unwrap().unwrap().status(), 200, "the edge's own requests are spared");
    let (status, after) = bed.ops("GET", &format!("users/{USER}"), None).await;
    assert_eq!((status, &after["placement"]), (200, &before["placement"]));
    assert_eq!(bed.get(&bed.signed("/x", USER)).await.text().await.unwrap(), "Machine");
}

#[tokio::test]
async fn a_panic_in_an_alarm_does_not_stop_alarms() {
    let bed = Bed::start().await;
    bed.put_on_fly(USER).await;
    let runs =
        async || bed.ops("GET", &format!("users/{USER}"), None).await.1["housekeepingRuns"].as_f64().unwrap();
    assert_eq!(runs().await, 0.0);
    for round in 1..=2 {
        let (status, _) = bed.ops("POST", &format!("chaos/{USER}/alarm"), None).await;
        assert_eq!(status, 200);
        eventually("the log shows the panic", async || {
            let log = std::fs::read_to_string(bed.edge.process().log()).unwrap();
            log.matches("a panic that a test asked for").count() >= round
        })
        .await;
        // Set by hand, as the next write would; without the guard no alarm of this object ever fires again.
        let (status, _) = bed.ops("POST", &format!("chaos/{USER}/tick"), None).await;
        assert_eq!(status, 200);
        eventually("the alarm runs again", async || runs().await >= round as f64).await;
    }
}
