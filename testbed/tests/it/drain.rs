//! The machine is stopped while its user writes files and talks to the real agent.
//!
//! What the agent promises is less than what the sidecar does: `started` says that a message was taken, not that it
//! is on the disk, and at SIGTERM the agent cuts its runs off. So of a message that was acknowledged its line stays
//! if it was written, and a conversation goes on after it; at most the one message that was under way is missing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::chat::Chat;
use crate::support::eventually_within;
use crate::whole::{AGAIN, Bed};

const FILES: usize = 3;

/// Some pages, so that a write takes its time.
const FILE_BYTES: usize = 300_000;

/// What a file's version is made of.
fn content(version: u32) -> Vec<u8> {
    format!("{version:08}").repeat(FILE_BYTES / 8).into_bytes()
}

fn version_of(content: &[u8]) -> u32 {
    let version = std::str::from_utf8(&content[..8]).unwrap().parse().unwrap();
    assert!(content == self::content(version), "torn: {} bytes", content.len());
    version
}

#[derive(Default)]
struct Versions {
    begun: AtomicU32,
    acknowledged: AtomicU32,
}

/// Writes one version after the other until one is refused.
async fn write(http: reqwest::Client, url: String, versions: Arc<Versions>) {
    for version in versions.begun.load(Ordering::Relaxed) + 1.. {
        versions.begun.store(version, Ordering::Relaxed);
        let answer = http.put(&url).body(content(version)).send().await;
        if !answer.is_ok_and(|answer| matches!(answer.status().as_u16(), 201 | 204)) {
            return;
        }
        versions.acknowledged.store(version, Ordering::Relaxed);
    }
}

/// What was said in a round: with an answer, and acknowledged only.
struct Said {
    answered: Vec<String>,
    under_way: Option<String>,
}

/// Talks until the machine goes, of which the client is told.
async fn talk(mut chat: Chat, round: usize, spoken: Arc<AtomicU32>) -> Said {
    let mut said = Said { answered: Vec::new(), under_way: None };
    for n in 0.. {
        let (text, key) = (format!("round {round} line {n}"), format!("k-{round}-{n}"));
        match chat.try_start(&text, &key).await {
            Ok(()) => said.under_way = Some(text.clone()),
            Err(end) => {
                assert_eq!(end.code(), Some(1012), "round {round}: {end:?}");
                return said;
            }
        }
        spoken.fetch_add(1, Ordering::Relaxed);
        match chat.try_outcome(&key).await {
            Ok((Some(answer), _)) if answer == format!("You said: {text}") => {
                said.answered.extend(said.under_way.take());
            }
            // Cut off by the end; the close follows.
            Ok(_) => {}
            Err(end) => {
                assert_eq!(end.code(), Some(1012), "round {round}: {end:?}");
                return said;
            }
        }
    }
    said
}

/// Returns how long the longest took, and how many messages that were under way are not written.
async fn drains(user: &str, rounds: usize) -> (Duration, u32) {
    let mut bed = Bed::start(user).await;
    let versions: Vec<Arc<Versions>> = (0..FILES).map(|_| Arc::default()).collect();
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut missing, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds {
        bed.pid().await;
        let before: Vec<u32> =
            versions.iter().map(|versions| versions.acknowledged.load(Ordering::Relaxed)).collect();
        let writers: Vec<_> = versions
            .iter()
            .enumerate()
            .map(|(n, versions)| {
                let url = bed.url(&format!("/api/files/raw/drained/{n}"), "");
                tokio::spawn(write(bed.http.clone(), url, versions.clone()))
            })
            .collect();
        let spoken = Arc::new(AtomicU32::new(0));
        let talker = tokio::spawn(talk(bed.chat().await, round, spoken.clone()));
        eventually_within(AGAIN, "all are at work", async || {
            let written = versions.iter().zip(&before);
            spoken.load(Ordering::Relaxed) > 2
                && written.into_iter().all(|(v, before)| v.acknowledged.load(Ordering::Relaxed) > *before)
        })
        .await;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        // Somewhere within a run of the agent.
        tokio::time::sleep(Duration::from_millis(dice % 1000)).await;

        let told = Instant::now();
        assert_eq!(bed.system.machine.shut_down().await.unwrap(), Some(0), "round {round}");
        longest = longest.max(told.elapsed());
        assert!(told.elapsed() < sidecar::drain::BUDGET, "round {round}");
        let log = fs::read_to_string(bed.system.machine.log()).unwrap();
        let stopped = log.lines().rfind(|line| line.contains(r#""message":"stopped""#)).unwrap();
        assert!(stopped.contains(r#""safe":true"#), "round {round}: {stopped}");
        for writer in writers {
            writer.await.unwrap();
        }
        for (n, versions) in versions.iter().enumerate() {
            let path = bed.system.machine.workspace().join(format!("drained/{n}"));
            let there = version_of(&fs::read(path).unwrap());
            let allowed = [&versions.acknowledged, &versions.begun].map(|v| v.load(Ordering::Relaxed));
            assert!(allowed.contains(&there), "round {round}: {there}, not one of {allowed:?}");
        }
        let said = talker.await.unwrap();
        assert!(!said.answered.is_empty(), "round {round}");
        let written = bed.transcripts();

        bed.system.machine.start_again().await.unwrap();
        bed.pid().await;
        let history = bed.history().await;
        let mut lines = history.iter();
        for text in said.answered.iter().rev().take(50).rev() {
            let answer = format!("You said: {text}");
            assert!(lines.any(|line| line == text), "round {round}: {text:?} is lost: {history:?}");
            assert!(lines.any(|line| *line == answer), "round {round}: {answer:?} is lost: {history:?}");
        }
        if let Some(text) = &said.under_way {
            let there = history.contains(text);
            let on_disk = written.contains(&format!(r#""{text}\n"#));
            assert!(there || !on_disk, "round {round}: {text:?} was written, and is not told: {history:?}");
            missing += u32::from(!there);
        }
    }
    let mut chat = bed.chat().await;
    assert_eq!(chat.say("still there", "k-last").await.as_deref(), Some("You said: still there"));
    bed.system.stop().await.unwrap();
    (longest, missing)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_people_write_and_talk_loses_nothing_acknowledged() {
    println!("longest, not written: {:?}", drains("user_stopped", 2).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour"]
async fn fifty_stops_while_people_write_and_talk_lose_nothing_acknowledged() {
    println!("longest, not written: {:?}", drains("user_stopped_often", 50).await);
}
