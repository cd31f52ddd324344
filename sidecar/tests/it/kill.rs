//! The process is killed while files are written: each is old or new, and no temporary file outlives the restart.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sidecar::files::{Files, litter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Sidecar, Ticket};

const FILES: usize = 4;
pub(crate) const BODY_BYTES: usize = 400_000;

/// Replaces file `n` by [`BODY_BYTES`] times `byte`; true if the answer says that it has happened.
pub(crate) async fn put(to: SocketAddr, n: usize, byte: u8) -> bool {
    let ticket = Ticket::of_epoch(1).issue();
    let head = format!(
        "PUT /api/files/raw/k/{n} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-automna-ticket: {ticket}\r\n\
         content-length: {BODY_BYTES}\r\n\r\n"
    );
    let Ok(mut stream) = TcpStream::connect(to).await else { return false };
    if stream.write_all(head.as_bytes()).await.is_err()
        || stream.write_all(&vec![byte; BODY_BYTES]).await.is_err()
    {
        return false;
    }
    let mut answer = Vec::new();
    // What came before the end of the process counts.
    let _cut_off = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 20")
}

fn temps(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".automna-tmp")).count()
}

async fn kills(times: u64) {
    let (mut sidecar, _gateway) = Sidecar::start_quiet().await;
    let dir = sidecar.workspace().join("k");
    for n in 0..FILES {
        assert!(put(sidecar.public, n, 0).await);
    }
    // What was begun and what was acknowledged last, by file.
    let begun: Arc<[AtomicU8; FILES]> = Arc::default();
    let acknowledged: Arc<[AtomicU8; FILES]> = Arc::default();
    let (mut litter_seen, mut dice) = (0, 0x9E37_79B9_7F4A_7C15_u64);
    for round in 0..times {
        let public = sidecar.public;
        let writers: Vec<_> = (0..FILES)
            .map(|n| {
                let (begun, acknowledged) = (begun.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    loop {
                        let byte = begun[n].load(Ordering::Relaxed).wrapping_add(1);
                        begun[n].store(byte, Ordering::Relaxed);
                        if !put(public, n, byte).await {
                            break;
                        }
                        acknowledged[n].store(byte, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        tokio::time::sleep(Duration::from_micros(5_000 + dice % 100_000)).await;
        sidecar.kill().await;
        for writer in writers {
            writer.await.unwrap();
        }
        litter_seen += temps(&sidecar.workspace()) + temps(&dir);
        for n in 0..FILES {
            let content = fs::read(dir.join(n.to_string())).unwrap();
            let byte = content[0];
            assert_eq!(content.len(), BODY_BYTES, "round {round}");
            assert!(content.iter().all(|b| *b == byte), "round {round}: a mixture");
            let old_or_new = [&acknowledged[n], &begun[n]].map(|byte| byte.load(Ordering::Relaxed));
            assert!(old_or_new.contains(&byte), "round {round}: {byte}, not one of {old_or_new:?}");
            // For the next round this is the old one.
            acknowledged[n].store(byte, Ordering::Relaxed);
        }
        sidecar = sidecar.again().await;
        // As `main` does at the start.
        litter::sweep(&Files::open(&sidecar.workspace()).unwrap()).unwrap();
        assert_eq!(temps(&sidecar.workspace()) + temps(&dir), 0, "round {round}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES, "round {round}");
    }
    assert!(litter_seen > 0, "no kill has met a write");
}

#[tokio::test]
async fn a_killed_process_leaves_files_old_or_new() {
    kills(10).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_process_killed_often_leaves_files_old_or_new() {
    kills(200).await;
}
