//! A flip changes where the next request goes, within a second, and no request fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

use crate::support::Bed;

const USERS: usize = 20;
const PER_SECOND: u32 = 200;
const PROMISE: Duration = Duration::from_secs(1);
const STAY: Duration = Duration::from_secs(3);

struct Sample {
    sent: Instant,
    outcome: Result<String, String>,
}

#[tokio::test]
async fn a_flip_acts_within_a_second_under_load() {
    let bed = Arc::new(Bed::start().await);
    for n in 0..USERS {
        bed.attach(&format!("user_{n}")).await;
    }
    let samples = Arc::new(Mutex::new(Vec::new()));
    let load = tokio::spawn({
        let (bed, samples) = (Arc::clone(&bed), Arc::clone(&samples));
        async move {
            // Open loop: requests leave by the clock, whatever becomes of the ones before them.
            let mut tick = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
            for n in 0_usize.. {
                tick.tick().await;
                let (bed, samples) = (Arc::clone(&bed), Arc::clone(&samples));
                tokio::spawn(async move {
                    let user = format!("user_{}", n % USERS);
                    let request = if n % 4 == 0 {
                        bed.http.post(bed.url(&bed.signed("/write", &user))).body("x")
                    } else {
                        bed.http.get(bed.url(&bed.signed("/read", &user)))
                    };
                    let sent = Instant::now();
                    let outcome = match request.send().await {
                        Ok(response) if response.status() == 200 => Ok(response.text().await.unwrap()),
                        Ok(response) => {
                            Err(format!("{} {}", response.status(), response.text().await.unwrap()))
                        }
                        Err(error) => Err(error.to_string()),
                    };
                    samples.lock().await.push(Sample { sent, outcome });
                });
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut flips = Vec::new();
    for (change, to) in [
        (json!({"default": "fly"}), "Machine"),
        (json!({"default": "legacy"}), "Legacy"),
        (json!({"default": "fly"}), "Machine"),
        (json!({"kill": true}), "Legacy"),
    ] {
        bed.policy(change).await;
        flips.push((Instant::now(), to));
        tokio::time::sleep(STAY).await;
    }
    load.abort();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let samples = samples.lock().await;
    let failed: Vec<_> = samples.iter().filter_map(|s| s.outcome.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), samples.len(), failed.first());
    assert!(samples.len() > 2000, "the load ran: {}", samples.len());
    for (at, to) in flips {
        let after: Vec<_> = samples.iter().filter(|s| s.sent >= at && s.sent < at + STAY).collect();
        let slowest = after
            .iter()
            .filter(|s| s.outcome.as_deref() != Ok(to))
            .map(|s| s.sent.duration_since(at))
            .max()
            .unwrap_or_default();
        println!(
            "to {to}: the last request to the old side left {} ms after the answer",
            slowest.as_millis()
        );
        assert!(slowest < PROMISE, "to {to}: {slowest:?}");
    }
}
