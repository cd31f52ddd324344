//! The drain under load: it ends in time, and what was acknowledged is on the volume.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::harness::{Sidecar, eventually, token};
use crate::kill::{BODY_BYTES, put};

const FILES: usize = 4;

/// Ends in its order, with a last line that it writes while it does.
const AGENT: &str = "trap 'echo last >> last-words; exit 0' TERM; while :; do sleep 0.05; done";

async fn drains(times: u64) {
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..times {
        let gateway = Gateway::start(token()).await;
        let mut sidecar = Sidecar::supervising_quiet(AGENT, gateway.address).await;
        eventually("the agent is ready", async || sidecar.admin("/ready").await.status() == 200).await;
        let workspace = sidecar.volume().join("workspace");
        // What was begun and what was acknowledged last, by file.
        let begun: Arc<[AtomicU8; FILES]> = Arc::default();
        let acknowledged: Arc<[AtomicU8; FILES]> = Arc::default();
        let public = sidecar.public;
        let writers: Vec<_> = (0..FILES)
            .map(|n| {
                let (begun, acknowledged) = (begun.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for byte in 1..=u8::MAX {
                        begun[n].store(byte, Ordering::Relaxed);
                        if !put(public, n, byte).await {
                            break;
                        }
                        acknowledged[n].store(byte, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let first = acknowledged.clone();
        eventually("each has written", async || first.iter().all(|byte| byte.load(Ordering::Relaxed) > 0))
            .await;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        tokio::time::sleep(Duration::from_micros(dice % 50_000)).await;

        let told = Instant::now();
        let (code, log) = sidecar.stop().await;
        assert_eq!(code, Some(0), "round {round}: {log}");
        assert!(told.elapsed() < sidecar::drain::BUDGET, "round {round}");
        for writer in writers {
            writer.await.unwrap();
        }
        for n in 0..FILES {
            let content = fs::read(workspace.join("k").join(n.to_string())).unwrap();
            let byte = content[0];
            assert!(content.len() == BODY_BYTES && content.iter().all(|b| *b == byte), "round {round}: torn");
            let allowed = [&acknowledged[n], &begun[n]].map(|byte| byte.load(Ordering::Relaxed));
            assert!(allowed.contains(&byte), "round {round}: {byte}, not one of {allowed:?}");
        }
        assert_eq!(fs::read_to_string(workspace.join("last-words")).unwrap(), "last\n", "round {round}");
        assert!(log.contains(r#""safe":true"#), "round {round}: {log}");
    }
}

#[tokio::test]
async fn a_drain_under_load_loses_nothing_that_was_acknowledged() {
    drains(5).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn fifty_drains_under_load_lose_nothing_that_was_acknowledged() {
    drains(50).await;
}
