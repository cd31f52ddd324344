//! Many clients that hardly move, and what they cost the others.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{LIMIT, Sidecar, Ticket, eventually};

/// What the process may hold while all of them are connected.
const MAX_RESIDENT_BYTES: u64 = 200 << 20;

const FILE_BYTES: usize = 8 << 20;

async fn begin(sidecar: &Sidecar, line: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
    let ticket = Ticket::of_epoch(1).issue();
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Begins an upload of [`FILE_BYTES`], by each of the ways in turn.
async fn begin_upload(sidecar: &Sidecar, n: usize) -> TcpStream {
    let length = format!("content-length: {FILE_BYTES}\r\n");
    match n % 3 {
        0 => begin(sidecar, &format!("PUT /api/files/raw/up/{n}"), &length).await,
        1 => {
            let headers = format!("{length}content-type: multipart/form-data; boundary=X\r\n");
            let mut stream = begin(sidecar, "POST /api/files/upload", &headers).await;
            let part = b"--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
            stream.write_all(part).await.unwrap();
            stream
        }
        _ => {
            let (length_header, metadata) =
                (FILE_BYTES.to_string(), format!("path {}", STANDARD.encode("up")));
            let headers = [
                ("tus-resumable", "1.0.0"),
                ("upload-length", length_header.as_str()),
                ("upload-metadata", metadata.as_str()),
            ];
            let made = sidecar.call("POST", "/api/files/tus", &headers, "").await;
            let target = made.header("location").unwrap();
            let headers = format!(
                "{length}tus-resumable: 1.0.0\r\nupload-offset: 0\r\n\
                 content-type: application/offset+octet-stream\r\n"
            );
            begin(sidecar, &format!("PATCH {target}"), &headers).await
        }
    }
}

/// `clients` connections, half of them reading and half writing, a little at a time. Returns the most memory that
/// was seen, and how long the slowest of some ordinary requests took meanwhile.
async fn crowd(clients: usize, rounds: usize) -> (u64, Duration) {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    fs::write(sidecar.workspace().join("big"), vec![b'x'; FILE_BYTES]).unwrap();
    fs::write(sidecar.workspace().join("small"), vec![b'x'; 4096]).unwrap();
    let mut downloads = Vec::new();
    let mut uploads = Vec::new();
    for n in 0..clients / 2 {
        downloads.push(begin(&sidecar, "GET /api/files/raw/big", "").await);
        uploads.push(begin_upload(&sidecar, n).await);
    }
    let (mut most, mut slowest) = (0, Duration::ZERO);
    let mut buffer = vec![0; 20_000];
    for _ in 0..rounds {
        for (down, up) in downloads.iter_mut().zip(&mut uploads) {
            tokio::time::timeout(LIMIT, down.read_exact(&mut buffer)).await.unwrap().unwrap();
            tokio::time::timeout(LIMIT, up.write_all(&buffer)).await.unwrap().unwrap();
        }
        let started = Instant::now();
        assert_eq!(sidecar.get("/api/files/raw/small").await.body.len(), 4096);
        slowest = slowest.max(started.elapsed());
        most = most.max(sidecar.resident_bytes());
    }
    drop((downloads, uploads));
    // The two files, and nothing of the uploads.
    eventually("no litter", async || fs::read_dir(sidecar.workspace()).unwrap().count() == 2).await;
    (most, slowest)
}

#[tokio::test]
async fn fifty_slow_clients() {
    let (most, slowest) = crowd(50, 10).await;
    println!("50 clients: {} KiB resident, slowest other request {slowest:?}", most >> 10);
    // A thousand may have 200 MB; so many, and the process itself, a small part of it.
    assert!(most < 40 << 20, "{most}");
}

/// The public listener takes 1,024 connections, so one other client still finds a place.
#[tokio::test]
#[ignore = "needs thousands of descriptors and half a minute"]
async fn a_thousand_slow_clients() {
    let (most, slowest) = crowd(1000, 20).await;
    println!("1,000 clients: {} KiB resident, slowest other request {slowest:?}", most >> 10);
    assert!(most < MAX_RESIDENT_BYTES, "{most}");
}

#[tokio::test]
async fn who_reads_nothing_slows_nobody() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    fs::write(sidecar.workspace().join("big"), vec![b'x'; 64 << 20]).unwrap();
    // More than there are threads for files.
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(begin(&sidecar, "GET /api/files/raw/big", "").await);
        stuck.push(begin(&sidecar, "GET /api/files/archive?format=tar", "").await);
    }
    let started = Instant::now();
    for _ in 0..5 {
        assert_eq!(sidecar.get("/api/files/raw/big").await.body.len(), 64 << 20);
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    drop(stuck);
}
