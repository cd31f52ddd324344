//! `/api/files/raw/…`: files as resources.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Sidecar, Ticket, eventually, names, only};

fn sha256(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

async fn put(sidecar: &Sidecar, path: &str, body: &'static str, headers: &[(&str, &str)]) -> Answer {
    sidecar.call("PUT", &format!("/api/files/raw/{path}"), headers, body).await
}

#[tokio::test]
async fn a_file_is_made_read_replaced_and_deleted() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let target = "/ws/api/files/raw/notes/a%20b.md";
    assert_eq!(sidecar.get(target).await.status(), 404);

    let made = sidecar.call("PUT", target, &[], "one").await;
    assert_eq!((made.status(), made.header("location")), (201, Some(target)));
    let etag = made.header("etag").unwrap().to_owned();
    assert!(etag.starts_with("\"b3-"), "{etag}");
    assert_eq!(fs::read(sidecar.workspace().join("notes/a b.md")).unwrap(), b"one");

    let read = sidecar.get(target).await;
    assert_eq!((read.status(), &read.body[..]), (200, &b"one"[..]));
    assert_eq!(read.header("etag"), Some(etag.as_str()));
    assert_eq!(read.header("last-modified"), made.header("last-modified"));
    assert_eq!(read.header("content-type"), Some("text/markdown"));
    assert_eq!(read.header("accept-ranges"), Some("bytes"));
    assert_eq!(read.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(read.header("content-security-policy"), Some("sandbox"));
    assert_eq!(read.header("content-disposition"), None);

    let head = sidecar.call("HEAD", target, &[("range", "bytes=0-0")], "").await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    for name in ["etag", "last-modified", "content-type", "content-length", "accept-ranges"] {
        assert_eq!(head.header(name), read.header(name), "{name}");
    }
    let download = sidecar.get(&format!("{target}?download=1&userId=x")).await;
    assert_eq!(download.header("content-disposition"), Some("attachment; filename=\"a b.md\""));

    // A mode stays, and a replacement is no creation.
    let file = sidecar.workspace().join("notes/a b.md");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let replaced = sidecar.call("PUT", target, &[("if-match", &etag)], "two").await;
    assert_eq!((replaced.status(), replaced.header("location")), (204, None));
    assert_ne!(replaced.header("etag"), Some(etag.as_str()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);

    let deleted = sidecar.call("DELETE", target, &[], "").await;
    assert_eq!(deleted.status(), 200);
    let trash = deleted.json()["trashPath"].as_str().unwrap().to_owned();
    let trash = trash.strip_prefix("/root/clawd/.trash/a b.md.").expect(&trash);
    assert_eq!(fs::read(sidecar.workspace().join(format!(".trash/a b.md.{trash}"))).unwrap(), b"two");
    assert_eq!(sidecar.call("DELETE", target, &[], "").await.status(), 404);

    put(&sidecar, "b", "b", &[]).await;
    let gone = sidecar.call("DELETE", "/api/files/raw/b?permanent=true", &[], "").await;
    assert_eq!((gone.status(), &gone.json()["permanent"]), (200, &true.into()));
    only(&sidecar, &[".trash", "notes"]).await;
}

#[tokio::test]
async fn preconditions_guard_reads_and_writes() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let made = put(&sidecar, "a", "one", &[("if-none-match", "*")]).await;
    assert_eq!(made.status(), 201);
    let etag = made.header("etag").unwrap().to_owned();
    let modified = made.header("last-modified").unwrap().to_owned();
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    let target = "/api/files/raw/a";

    type Headers<'a> = &'a [(&'a str, &'a str)];
    let rows: [(&str, Headers<'_>, u16); 12] = [
        ("GET", &[("if-none-match", &etag)], 304),
        ("HEAD", &[("if-none-match", &etag)], 304),
        ("GET", &[("if-modified-since", &modified)], 304),
        ("GET", &[("if-none-match", "\"x\""), ("if-modified-since", &modified)], 200),
        ("GET", &[("if-match", "\"x\"")], 412),
        ("GET", &[("if-none-match", "x")], 400),
        ("PUT", &[("if-none-match", "*")], 412),
        ("PUT", &[("if-match", "\"x\"")], 412),
        ("PUT", &[("if-match", "x")], 400),
        ("PUT", &[("if-unmodified-since", old)], 412),
        ("PUT", &[("x-require-precondition", "1")], 428),
        ("DELETE", &[("if-match", "\"x\"")], 412),
    ];
    for (method, headers, status) in rows {
        let answer = sidecar.call(method, target, headers, if method == "PUT" { "two" } else { "" }).await;
        assert_eq!(answer.status(), status, "{method} {headers:?}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.body.len()), (Some(etag.as_str()), 0));
        }
        assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"one", "{method} {headers:?}");
    }
    let required = sidecar.call("DELETE", &format!("{target}?requirePrecondition=1"), &[], "").await;
    required.assert_error(428, "precondition_required");
    // What is missing is missing, whatever is asked of it.
    let missing = sidecar.call("GET", "/api/files/raw/b", &[("if-match", "*")], "").await;
    missing.assert_error(404, "file_not_found");
    put(&sidecar, "b", "x", &[("if-match", "*")]).await.assert_error(412, "precondition_failed");

    // The agent writes in place, and within the same second.
    fs::write(sidecar.workspace().join("a"), "agent").unwrap();
    put(&sidecar, "a", "two", &[("if-match", &etag)]).await.assert_error(412, "precondition_failed");
    assert_eq!(sidecar.call("GET", target, &[("if-none-match", &etag)], "").await.body, "agent");
    only(&sidecar, &["a"]).await;
}

#[tokio::test]
async fn of_two_editors_with_the_same_version_one_wins() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let etag = put(&sidecar, "a", "0", &[]).await.header("etag").unwrap().to_owned();
    let headers = [("if-match", etag.as_str())];
    let writes = (0..8).map(|_| put(&sidecar, "a", "1", &headers));
    let answers = futures_util::future::join_all(writes).await;
    let won = answers.iter().filter(|answer| answer.status() == 204).count();
    let lost = answers.iter().filter(|answer| answer.status() == 412).count();
    assert_eq!((won, lost), (1, 7));
}

#[tokio::test]
async fn ranges() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(sidecar.workspace().join("a.bin"), &content).unwrap();
    let target = "/api/files/raw/a.bin";
    let etag = sidecar.get(target).await.header("etag").unwrap().to_owned();
    assert_eq!(sidecar.get(target).await.body, content);

    let one = sidecar.call("GET", target, &[("range", "bytes=100000-299998")], "").await;
    assert_eq!((one.status(), one.header("content-range")), (206, Some("bytes 100000-299998/300000")));
    assert_eq!(one.header("content-length"), Some("199999"));
    assert!(one.body == content[100_000..=299_998]);
    let tail = sidecar.call("GET", target, &[("range", "bytes=-5"), ("if-range", &etag)], "").await;
    assert_eq!((tail.status(), &tail.body[..]), (206, &content[299_995..]));
    for if_range in ["\"x\"", "Thu, 01 Jan 1970 00:00:00 GMT"] {
        let whole = sidecar.call("GET", target, &[("range", "bytes=-5"), ("if-range", if_range)], "").await;
        assert_eq!((whole.status(), whole.body.len()), (200, 300_000));
    }

    let many = sidecar.call("GET", target, &[("range", "bytes=70000-200000, 5-9")], "").await;
    assert_eq!(many.status(), 206);
    let boundary =
        many.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let head = |range: &str| {
        format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/300000\r\n\r\n"
        )
    };
    let expected = [
        head("70000-200000").as_bytes(),
        &content[70_000..=200_000],
        b"\r\n",
        head("5-9").as_bytes(),
        &content[5..=9],
        format!("\r\n--{boundary}--\r\n").as_bytes(),
    ]
    .concat();
    assert!(many.body == expected);
    assert_eq!(many.header("content-length"), Some(expected.len().to_string().as_str()));

    let beyond = sidecar.call("GET", target, &[("range", "bytes=300000-")], "").await;
    beyond.assert_error(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), Some("bytes */300000"));
    for ignored in ["bytes=9-5", "lines=0-1", "bytes=x"] {
        let whole = sidecar.call("GET", target, &[("range", ignored)], "").await;
        assert_eq!((whole.status(), whole.body.len()), (200, 300_000), "{ignored}");
    }
}

#[tokio::test]
async fn digests_both_ways() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let good = sha256(b"hello");
    let bad = sha256(b"other");
    assert_eq!(put(&sidecar, "a", "hello", &[("content-digest", &good)]).await.status(), 201);
    put(&sidecar, "a", "hello", &[("content-digest", &bad)]).await.assert_error(400, "digest_mismatch");
    put(&sidecar, "a", "x", &[("repr-digest", &good)]).await.assert_error(400, "digest_mismatch");
    put(&sidecar, "a", "x", &[("content-digest", "md5=:YQ==:")]).await.assert_error(400, "bad_digest");
    put(&sidecar, "a", "x", &[("content-range", "bytes 0-0/5")]).await.assert_error(400, "content_range");
    put(&sidecar, "a", "x", &[("content-encoding", "gzip")]).await.assert_error(415, "content_encoding");
    assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"hello");
    only(&sidecar, &["a"]).await;

    let want =
        [("want-content-digest", "sha-256=5"), ("want-repr-digest", "sha-256=5"), ("range", "bytes=1-2")];
    let part = sidecar.call("GET", "/api/files/raw/a", &want, "").await;
    assert_eq!(part.body, "el");
    assert_eq!(part.header("content-digest"), Some(sha256(b"el").as_str()));
    assert_eq!(part.header("repr-digest"), Some(good.as_str()));
    let head = sidecar.call("HEAD", "/api/files/raw/a", &want, "").await;
    assert_eq!(head.header("content-digest"), Some(good.as_str()));
}

#[tokio::test]
async fn what_names_no_file_is_refused_and_changes_nothing() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let workspace = sidecar.workspace();
    fs::create_dir(workspace.join("dir")).unwrap();
    fs::write(workspace.join("SOUL.md"), "soul").unwrap();
    fs::write(workspace.parent().unwrap().join("secret"), "secret").unwrap();
    symlink("../secret", workspace.join("climbs")).unwrap();
    symlink("/etc/passwd", workspace.join("absolute")).unwrap();
    symlink("SOUL.md", workspace.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        workspace.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o644),
        0,
    )
    .unwrap();
    let long = "x".repeat(256);
    let deep = "x/".repeat(2100);
    let before = names(&sidecar);
    let rows = [
        ("..%2f..%2fetc%2fpasswd", 400, "bad_path"),
        ("..", 400, "bad_path"),
        ("a/../../etc/passwd", 400, "bad_path"),
        ("%2e%2e/secret", 400, "bad_path"),
        ("%252e%252e%252fsecret", 400, "bad_path"),
        ("a%00b", 400, "bad_path"),
        ("a%2", 400, "bad_path"),
        ("%ff", 400, "bad_path"),
        ("/etc/passwd", 400, "bad_path"),
        ("dir/", 400, "bad_path"),
        (long.as_str(), 400, "bad_path"),
        (deep.as_str(), 400, "bad_path"),
        ("dir", 409, "not_a_file"),
        ("fifo", 409, "not_a_file"),
        ("climbs", 403, "outside_workspace"),
        ("absolute", 403, "outside_workspace"),
        ("SOUL.md/x", 409, "not_a_directory"),
    ];
    for (path, status, code) in rows {
        let target = format!("/api/files/raw/{path}");
        sidecar.get(&target).await.assert_error(status, code);
        sidecar.call("PUT", &target, &[], "x").await.assert_error(status, code);
    }
    for path in ["dir", "fifo"] {
        let deleted = sidecar.call("DELETE", &format!("/api/files/raw/{path}?permanent=true"), &[], "").await;
        deleted.assert_error(409, "not_a_file");
    }
    let soul = sidecar.call("DELETE", "/api/files/raw/SOUL.md?permanent=true", &[], "").await;
    soul.assert_error(403, "protected_path");
    let post = sidecar.call("POST", "/api/files/raw/a", &[], "x").await;
    post.assert_error(405, "method_not_allowed");
    assert_eq!(post.header("allow"), Some("GET,HEAD,PUT,DELETE"));
    assert_eq!(sidecar.get("/api/files/raw/link").await.body, "soul");
    only(&sidecar, &before).await;
    assert_eq!(fs::read(workspace.parent().unwrap().join("secret")).unwrap(), b"secret");
}

/// A connection on which a request has begun.
async fn begin(sidecar: &Sidecar, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
    let ticket = Ticket::of_epoch(1).issue();
    stream
        .write_all(format!("{head}\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file_and_no_litter() {
    let (sidecar, _gateway) = Sidecar::start().await;
    put(&sidecar, "a", "old", &[]).await;
    let mut upload = begin(&sidecar, "PUT /api/files/raw/new/a HTTP/1.1\r\ncontent-length: 1000000").await;
    upload.write_all(&vec![b'x'; 500_000]).await.unwrap();
    eventually("a temporary file", async || names(&sidecar).len() == 2).await;
    drop(upload);
    eventually("it goes away", async || names(&sidecar) == ["a"]).await;
    assert_eq!(fs::read(sidecar.workspace().join("a")).unwrap(), b"old");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_ends_the_connection() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let path = sidecar.workspace().join("a");
    fs::write(&path, vec![b'x'; 64 << 20]).unwrap();
    let mut download = begin(&sidecar, "GET /api/files/raw/a HTTP/1.1").await;
    let mut first = [0; 1000];
    download.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let mut rest = Vec::new();
    // An error or an end, but before its time.
    let _reset = download.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 << 20, "{}", rest.len());
}
