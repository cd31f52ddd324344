//! `/api/files/search`.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::{LIMIT, Sidecar, Ticket, eventually};

fn fill(sidecar: &Sidecar) {
    let root = sidecar.workspace();
    fs::create_dir_all(root.join("notes/deep")).unwrap();
    fs::create_dir_all(root.join(".trash")).unwrap();
    fs::write(root.join("notes/plan.md"), "one\n\u{1f600} The Plan, a plan\r\n").unwrap();
    fs::write(root.join("notes/deep/other.txt"), "no plan\n").unwrap();
    fs::write(root.join("notes/.gitignore"), "deep/\n").unwrap();
    fs::write(root.join("binary"), b"plan\0").unwrap();
    fs::write(root.join(".trash/plan.1"), "plan").unwrap();
    fs::write(root.parent().unwrap().join("plan-secret"), "plan").unwrap();
    symlink("..", root.join("out")).unwrap();
}

fn paths(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|hit| hit["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn names_and_contents_under_both_prefixes() {
    let (sidecar, _gateway) = Sidecar::start().await;
    fill(&sidecar);
    for prefix in ["/api", "/ws/api"] {
        let answer = sidecar.get(&format!("{prefix}/files/search?q=plan")).await;
        assert_eq!(answer.status(), 200);
        let expect = json!({
            "results": [
                {"path": "/root/clawd/notes/deep/other.txt", "type": "file", "lines": [
                    {"line": 1, "column": 4, "text": "no plan", "ranges": [[3, 7]]},
                ]},
                {"path": "/root/clawd/notes/plan.md", "type": "file",
                    "name": {"text": "plan.md", "ranges": [[0, 4]]},
                    "lines": [
                        {"line": 2, "column": 8, "text": "\u{1f600} The Plan, a plan", "ranges": [[7, 11], [15, 19]]},
                    ]},
            ],
            "truncated": [],
            "searched": {"entries": 8, "files": 4, "binaryFiles": 1},
        });
        assert_eq!(answer.json(), expect);
    }
    let rows = [
        ("q=Plan", &["/root/clawd/notes/plan.md"][..]),
        ("q=%5Eno+p&regex=true", &["/root/clawd/notes/deep/other.txt"]),
        ("q=plan&in=names", &["/root/clawd/notes/plan.md"]),
        ("q=plan&gitignore=true", &["/root/clawd/notes/plan.md"]),
        ("q=plan&glob=*.txt", &["/root/clawd/notes/deep/other.txt"]),
        ("q=plan&path=/root/clawd/notes/deep", &["/root/clawd/notes/deep/other.txt"]),
        ("q=secret", &[]),
    ];
    for (query, expect) in rows {
        let answer = sidecar.get(&format!("/api/files/search?{query}")).await.json();
        assert_eq!((paths(&answer), &answer["truncated"]), (expect.to_vec(), &json!([])), "{query}");
    }
    let answer = sidecar.get("/api/files/search?q=plan&limit=1").await.json();
    assert_eq!((paths(&answer).len(), &answer["truncated"]), (1, &json!(["results"])));
}

#[tokio::test]
async fn what_cannot_be_searched_for() {
    let (mut sidecar, _gateway) = Sidecar::start().await;
    fill(&sidecar);
    let rows = [
        ("", 400, "bad_search"),
        ("q=", 400, "bad_search"),
        ("q=x&limit=0", 400, "bad_search"),
        ("q=x&in=all", 400, "bad_search"),
        ("q=x&regex=1", 400, "bad_search"),
        ("q=topsecret(&regex=true", 400, "bad_regex"),
        ("q=x&glob=%7Btopsecret", 400, "bad_glob"),
        ("q=x&path=/etc", 400, "bad_path"),
        ("q=x&path=/root/clawd/..", 400, "bad_path"),
        ("q=x&path=/root/clawd/missing", 404, "file_not_found"),
        ("q=x&path=/root/clawd/binary", 409, "not_a_directory"),
        ("q=x&path=/root/clawd/out", 403, "outside_workspace"),
    ];
    for (query, status, code) in rows {
        sidecar.get(&format!("/api/files/search?{query}")).await.assert_error(status, code);
    }
    let explained = sidecar.get("/api/files/search?q=topsecret(&regex=true").await.json();
    assert!(explained["details"].as_str().unwrap().contains("unclosed group"), "{explained}");
    sidecar
        .send("POST", "/api/files/search?q=x", &[("x-automna-ticket", &Ticket::of_epoch(1).issue())])
        .await
        .assert_error(405, "method_not_allowed");
    let (_, log) = sidecar.stop().await;
    assert!(log.contains("bad_regex") && !log.contains("topsecret"), "{log}");
}

/// More searches than places: some wait for nothing but are told when to come again. Askers that go away free their
/// place long before the time limit.
#[tokio::test]
async fn places_are_few_and_come_free() {
    let (sidecar, _gateway) = Sidecar::start().await;
    // Enough to keep a search busy for seconds, without as much on the disk.
    let first = sidecar.workspace().join("0");
    fs::write(&first, "needle in a haystack of needles\n".repeat(1 << 20)).unwrap();
    for n in 1..40 {
        fs::hard_link(&first, sidecar.workspace().join(n.to_string())).unwrap();
    }
    let target = "/api/files/search?q=(n%7Ce)%2B%5B%5E%5Cw%5D%2Bzzz&regex=true&in=contents";
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let public = sidecar.public;
        asked.spawn(async move { ask(public, target).await });
    }
    let mut statuses = Vec::new();
    while let Some(head) = asked.join_next().await {
        statuses.push(head.unwrap());
    }
    assert!(
        statuses.iter().any(|head| head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 5")),
        "{statuses:?}"
    );
    assert!(statuses.iter().filter(|head| head.starts_with("HTTP/1.1 200")).count() >= 2, "{statuses:?}");
    for _ in 0..4 {
        let mut stream = tokio::net::TcpStream::connect(sidecar.public).await.unwrap();
        write_request(&mut stream, target).await;
        drop(stream);
    }
    eventually("a place is free", async || {
        sidecar.get("/api/files/search?q=zzz&in=names").await.status() == 200
    })
    .await;
}

async fn write_request(stream: &mut tokio::net::TcpStream, target: &str) {
    use tokio::io::AsyncWriteExt;
    let ticket = Ticket::of_epoch(1).issue();
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-automna-ticket: {ticket}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
}

async fn ask(public: std::net::SocketAddr, target: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(public).await.unwrap();
    write_request(&mut stream, target).await;
    tokio::time::timeout(LIMIT, crate::harness::read_all(stream)).await.unwrap()
}
