//! `/api/files/tus`: uploads that can be resumed.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Answer, Sidecar, Ticket, eventually};

const TYPE: (&str, &str) = ("content-type", "application/offset+octet-stream");

async fn call(
    sidecar: &Sidecar,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let headers: Vec<_> = headers.iter().copied().chain([("tus-resumable", "1.0.0")]).collect();
    sidecar.call(method, target, &headers, body).await
}

async fn create(sidecar: &Sidecar, length: usize, metadata: &[(&str, &str)]) -> Answer {
    let pairs: Vec<_> =
        metadata.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value))).collect();
    let headers = [("upload-length", length.to_string()), ("upload-metadata", pairs.join(","))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    call(sidecar, "POST", "/api/files/tus", &headers, "").await
}

async fn patch(sidecar: &Sidecar, target: &str, at: usize, body: &'static [u8]) -> Answer {
    call(sidecar, "PATCH", target, &[TYPE, ("upload-offset", &at.to_string())], body).await
}

async fn offset(sidecar: &Sidecar, target: &str) -> String {
    let head = call(sidecar, "HEAD", target, &[], "").await;
    assert_eq!((head.status(), head.header("cache-control")), (200, Some("no-store")));
    head.header("upload-offset").unwrap().to_owned()
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let options = sidecar.call("OPTIONS", "/api/files/tus", &[], "").await;
    assert_eq!((options.status(), options.header("tus-version")), (204, Some("1.0.0")));

    let made = create(&sidecar, 10, &[("path", "deep/er/a.bin"), ("filename", "a.bin")]).await;
    assert_eq!((made.status(), made.header("upload-offset")), (201, Some("0")));
    assert!(made.header("upload-expires").unwrap().ends_with(" GMT"));
    let target = made.header("location").unwrap().to_owned();
    assert_eq!(patch(&sidecar, &target, 0, b"01234").await.header("upload-offset"), Some("5"));
    patch(&sidecar, &target, 4, b"x").await.assert_error(409, "upload_offset");
    assert!(!sidecar.workspace().join("deep").exists());

    let sidecar = sidecar.restart().await;
    assert_eq!(offset(&sidecar, &target).await, "5");
    patch(&sidecar, &target, 5, b"567890").await.assert_error(413, "too_large");
    assert_eq!(offset(&sidecar, &target).await, "5");
    let last = patch(&sidecar, &target, 5, b"56789").await;
    assert_eq!((last.status(), last.header("upload-offset")), (204, Some("10")));
    assert_eq!(fs::read(sidecar.workspace().join("deep/er/a.bin")).unwrap(), b"0123456789");
    let raw = sidecar.get("/api/files/raw/deep/er/a.bin").await;
    assert_eq!(raw.header("etag"), last.header("etag"));

    // A client that missed the last answer learns that it is complete.
    assert_eq!(offset(&sidecar, &target).await, "10");
    assert_eq!(patch(&sidecar, &target, 10, b"").await.status(), 204);
    assert_eq!(call(&sidecar, "DELETE", &target, &[], "").await.status(), 204);
    assert_eq!(call(&sidecar, "HEAD", &target, &[], "").await.status(), 404);
    assert!(sidecar.workspace().join("deep/er/a.bin").exists());
}

#[tokio::test]
async fn what_came_before_a_cut_counts_and_the_next_connection_takes_over() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let target = create(&sidecar, 1_000_000, &[("path", "a")]).await.header("location").unwrap().to_owned();
    let part = sidecar.workspace().parent().unwrap().join(".automna/tus");
    let part = part.join(format!("{}.part", target.rsplit('/').next().unwrap()));
    let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
    let head = format!(
        "PATCH {target} HTTP/1.1\r\nhost: x\r\nx-automna-ticket: {}\r\ntus-resumable: 1.0.0\r\n\
         content-type: {}\r\nupload-offset: 0\r\ncontent-length: 1000000\r\n\r\n",
        Ticket::of_epoch(1).issue(),
        TYPE.1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 200_000]).await.unwrap();
    eventually("some of it is written", async || fs::metadata(&part).unwrap().len() > 100_000).await;
    // The old connection is still open: it hangs, as far as we can see.
    let at: usize = offset(&sidecar, &target).await.parse().unwrap();
    assert_eq!(at as u64, fs::metadata(&part).unwrap().len());
    let rest = vec![b'y'; 1_000_000 - at];
    let headers = [TYPE, ("upload-offset", &at.to_string())];
    assert_eq!(call(&sidecar, "PATCH", &target, &headers, rest).await.status(), 204);
    let file = fs::read(sidecar.workspace().join("a")).unwrap();
    assert_eq!(file.len(), 1_000_000);
    assert!(file[..at].iter().all(|byte| *byte == b'x') && file[at..].iter().all(|byte| *byte == b'y'));
    assert!(!part.exists());
}

#[tokio::test]
async fn checksums_versions_and_bad_requests() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let target =
        create(&sidecar, 4, &[("path", "/root/clawd/a")]).await.header("location").unwrap().to_owned();
    let sum = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(Sha256::digest(bytes)));
    let send = async |sum: &str, body: &'static str| {
        call(&sidecar, "PATCH", &target, &[TYPE, ("upload-offset", "0"), ("upload-checksum", sum)], body)
            .await
    };
    send(&sum(b"xx"), "ab").await.assert_error(460, "checksum_mismatch");
    send("md5 x", "ab").await.assert_error(400, "bad_header");
    assert_eq!(offset(&sidecar, &target).await, "0");
    assert_eq!(send(&sum(b"ab"), "ab").await.header("upload-offset"), Some("2"));

    let old = sidecar.call("HEAD", &target, &[], "").await;
    assert_eq!((old.status(), old.header("tus-version")), (412, Some("1.0.0")));
    let untyped = call(&sidecar, "PATCH", &target, &[("upload-offset", "2")], "cd").await;
    untyped.assert_error(415, "media_type");
    create(&sidecar, 4, &[]).await.assert_error(400, "bad_header");
    create(&sidecar, 4, &[("path", "../a")]).await.assert_error(400, "bad_path");
    create(&sidecar, 4, &[("path", "/etc/passwd")]).await.assert_error(400, "bad_path");
    create(&sidecar, usize::MAX / 4, &[("path", "a")]).await.assert_error(507, "no_space");
    let unknown = format!("/api/files/tus/{}", "0".repeat(32));
    patch(&sidecar, &unknown, 0, b"").await.assert_error(404, "upload_not_found");
    patch(&sidecar, "/api/files/tus/..%2fx", 0, b"").await.assert_error(404, "upload_not_found");
}

#[tokio::test]
async fn the_file_must_still_be_the_one_that_was_to_be_replaced() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let put = sidecar.call("PUT", "/api/files/raw/a", &[], "old").await;
    let etag = put.header("etag").unwrap();
    create(&sidecar, 3, &[("path", "a"), ("ifMatch", "\"x\"")])
        .await
        .assert_error(412, "precondition_failed");
    let made = create(&sidecar, 3, &[("path", "a"), ("ifMatch", etag)]).await;
    let target = made.header("location").unwrap();
    fs::write(sidecar.workspace().join("a"), "agent").unwrap();
    patch(&sidecar, target, 0, b"new").await.assert_error(412, "precondition_failed");
    assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"agent");
    // The bytes are not lost: once the file is as expected again, the end can be tried again.
    sidecar.call("PUT", "/api/files/raw/a", &[], "old").await;
    assert_eq!(offset(&sidecar, target).await, "3");
    assert_eq!(patch(&sidecar, target, 3, b"").await.status(), 204);
    assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"new");
}

#[tokio::test]
async fn creation_can_bring_bytes() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let path = format!("path {}", STANDARD.encode("a"));
    let headers = [TYPE, ("upload-length", "3"), ("upload-metadata", &path)];
    let made = call(&sidecar, "POST", "/ws/api/files/tus/", &headers, "abc").await;
    assert_eq!((made.status(), made.header("upload-offset")), (201, Some("3")));
    assert!(made.header("location").unwrap().starts_with("/ws/api/files/tus/"));
    assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"abc");
    assert_eq!(create(&sidecar, 0, &[("path", "empty")]).await.status(), 201);
    assert_eq!(fs::read(sidecar.workspace().join("empty")).unwrap(), b"");
}
