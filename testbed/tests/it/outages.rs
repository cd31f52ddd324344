//! The policy object out of reach, and secrets that are not configured.

use std::time::Duration;

use serde_json::json;

use crate::support::{Bed, error_body};

const USER: &str = "user_abc123";

async fn fault(bed: &Bed, mode: &str) {
    let url = format!("{}/?mode={mode}", bed.edge.faults_url().unwrap());
    assert_eq!(bed.http.get(url).send().await.unwrap().text().await.unwrap(), mode);
}

#[tokio::test]
async fn without_the_policy_object_the_last_known_policy_holds() {
    for mode in ["hang", "error"] {
        let bed = Bed::with(|spec| spec.faults = true).await;
        bed.put_on_fly(USER).await;
        fault(&bed, mode).await;
        // Longer than any copy of the policy and any lease holds.
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let response = bed.get(&bed.signed("/x", USER)).await;
            assert_eq!(
                (response.status().as_u16(), response.text().await.unwrap().as_str()),
                (200, "Machine"),
                "{mode}"
            );
        }
        fault(&bed, "ok").await;
        bed.policy(json!({"kill": true})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            bed.get(&bed.signed("/x", USER)).await.text().await.unwrap(),
            "Legacy",
            "and it is heard again"
        );
    }
}

#[tokio::test]
async fn without_any_policy_users_go_to_legacy() {
    for mode in ["hang", "error"] {
        let bed = Bed::with(|spec| spec.faults = true).await;
        fault(&bed, mode).await;
        bed.attach(USER).await;
        for _ in 0..3 {
            let response = bed.get(&bed.signed("/x", USER)).await;
            assert_eq!(
                (response.status().as_u16(), response.text().await.unwrap().as_str()),
                (200, "Legacy"),
                "{mode}"
            );
        }
        assert_eq!(bed.machine.count(), 0);
    }
}

#[tokio::test]
async fn without_secrets_the_edge_is_closed() {
    let bed = Bed::with(|spec| {
        spec.vars.remove("MOLTBOT_SIGNING_SECRET");
        spec.vars.insert("ADMIN_BEARER".into(), "  ".into());
    })
    .await;
    for path in
        ["/", "/ws", "/api/keepalive", "/api/history", "/api/files/list", "/ws/api/history", "/_edge/session"]
    {
        for path in [path.to_owned(), bed.signed(path, USER)] {
            let response = bed.get(&path).await;
            assert_eq!(response.status(), 503, "{path}");
            let body = error_body(response).await;
            assert_eq!(
                (body["code"].as_str(), body["error"].as_str()),
                (Some("not_configured"), Some("Configuration error"))
            );
        }
    }
    let ops = bed.http.get(bed.url("/_ops/api/policy")).bearer_auth("  ").send().await.unwrap();
    assert_eq!(ops.status(), 503);
    assert_eq!((bed.legacy.count(), bed.machine.count()), (0, 0));
    assert_eq!(bed.get("/sandbox-health").await.status(), 200, "what needs no secret still answers");
}
