//! `/api/files/events`.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{LIMIT, Sidecar, Ticket};

/// A stream as a browser reads it.
struct Events {
    stream: TcpStream,
    head: String,
    text: String,
}

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Events {
    async fn open(sidecar: &Sidecar, target: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(sidecar.public).await.unwrap();
        let ticket = Ticket::of_epoch(1).issue();
        // HTTP/1.0: no chunks in the body.
        let head = format!("GET {target} HTTP/1.0\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self { stream, head: String::new(), text: String::new() };
        while !events.text.contains("\r\n\r\n") {
            assert!(events.read().await, "{}", events.text);
        }
        let (head, body) = events.text.split_once("\r\n\r\n").unwrap();
        (events.head, events.text) = (head.to_owned(), body.to_owned());
        events
    }

    /// False: it has ended.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read =
            tokio::time::timeout(LIMIT, self.stream.read(&mut buffer)).await.expect("nothing came").unwrap();
        self.text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        read > 0
    }

    /// The next event; comments and the rest are passed over. None: the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
                };
                let event = Event {
                    id: field("id: "),
                    name: field("event: "),
                    data: serde_json::from_str(&field("data: ")).unwrap_or_default(),
                };
                self.text = rest.to_owned();
                if !event.name.is_empty() {
                    return Some(event);
                }
            }
            if !self.read().await {
                assert_eq!(self.text, "", "the stream ended within an event");
                return None;
            }
        }
    }

    async fn expect(&mut self, name: &str, path: &str) -> Event {
        let event = self.next().await.expect("the stream has ended");
        assert_eq!((event.name.as_str(), event.data["path"].as_str()), (name, Some(path)), "{event:?}");
        event
    }

    async fn ready(&mut self) -> String {
        let event = self.next().await.unwrap();
        assert_eq!((event.name.as_str(), event.data["cursor"].as_str()), ("ready", Some(event.id.as_str())));
        event.id
    }
}

const TARGET: &str = "/api/files/events";

#[tokio::test]
async fn what_the_api_and_the_agent_do_is_told() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    fs::create_dir(root.join("d")).unwrap();
    let mut events = Events::open(&sidecar, TARGET, "").await;
    assert!(events.head.starts_with("HTTP/1.0 200"), "{}", events.head);
    assert!(events.head.contains("content-type: text/event-stream") && events.head.contains("no-store"));
    events.ready().await;

    // By the API: the tag is the one that the answer had.
    let put = sidecar.call("PUT", "/api/files/raw/d/a.md", &[], "hello").await;
    let created = events.expect("created", "/root/clawd/d/a.md").await;
    assert_eq!((&created.data["type"], &created.data["size"]), (&"file".into(), &5.into()));
    assert!(created.data["etag"].is_string() && put.header("etag").is_some());
    // By the agent.
    fs::write(root.join("d/a.md"), "hello there").unwrap();
    let modified = events.expect("modified", "/root/clawd/d/a.md").await;
    assert_eq!(modified.data["size"], 11);
    let body = r#"{"from":"/root/clawd/d","to":"/root/clawd/e"}"#;
    assert_eq!(sidecar.post("/api/files/move", &[], body).await.status(), 200);
    let moved = events.expect("moved", "/root/clawd/e").await;
    assert_eq!((&moved.data["from"], &moved.data["type"]), (&"/root/clawd/d".into(), &"directory".into()));
    // To the trash and back.
    assert_eq!(sidecar.call("DELETE", "/api/files?path=/root/clawd/e/a.md", &[], "").await.status(), 200);
    events.expect("deleted", "/root/clawd/e/a.md").await;
    fs::write(root.join(".automna-tmp-x"), "").unwrap();
    let outside = root.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let link = events.expect("created", "/root/clawd/link").await;
    assert_eq!((&link.data["special"], &link.data["etag"]), (&"symlink".into(), &Value::Null));
    fs::write(outside.join("secret"), "").unwrap();
    fs::write(root.join("last"), "").unwrap();
    events.expect("created", "/root/clawd/last").await;
}

#[tokio::test]
async fn a_client_that_comes_back_gets_exactly_what_it_missed() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    let mut events = Events::open(&sidecar, TARGET, "").await;
    let ready = events.ready().await;
    fs::write(root.join("one"), "").unwrap();
    let one = events.expect("created", "/root/clawd/one").await;
    drop(events);
    let mut witness = Events::open(&sidecar, TARGET, "").await;
    witness.ready().await;
    for name in ["two", "three"] {
        fs::create_dir(root.join(name)).unwrap();
        witness.expect("created", &format!("/root/clawd/{name}")).await;
    }
    // The header is newer than the query, since browsers keep the latter as it was.
    for (target, headers, first) in [
        (format!("/ws/api/files/events?cursor={}", one.id), String::new(), "two"),
        (format!("{TARGET}?cursor={ready}"), format!("last-event-id: {}\r\n", one.id), "two"),
        (format!("{TARGET}?cursor={ready}"), String::new(), "one"),
    ] {
        let mut events = Events::open(&sidecar, &target, &headers).await;
        if first == "one" {
            events.expect("created", "/root/clawd/one").await;
        }
        events.expect("created", "/root/clawd/two").await;
        let three = events.expect("created", "/root/clawd/three").await;
        assert_eq!(events.ready().await, three.id);
    }
    for bad in ["x", "1", "00000000000000a1-", "%ff"] {
        sidecar.get(&format!("{TARGET}?cursor={bad}")).await.assert_error(400, "bad_cursor");
    }
    let mut events = Events::open(&sidecar, &format!("{TARGET}?cursor=00000000000000a1-1"), "").await;
    let rescan = events.next().await.unwrap();
    assert_eq!((rescan.name.as_str(), &rescan.data["cause"]), ("rescan", &"unknown".into()));
    assert_eq!(events.ready().await, rescan.id);
}

#[tokio::test]
async fn across_a_restart_and_a_crash() {
    let (mut sidecar, _gateway) = Sidecar::start().await;
    let mut events = Events::open(&sidecar, TARGET, "").await;
    let cursor = events.ready().await;
    fs::write(sidecar.workspace().join("seen"), "").unwrap();
    events.expect("created", "/root/clawd/seen").await;
    // The stream ends by itself, between two events, and does not hold the process.
    let (code, log) = sidecar.stop().await;
    assert_eq!((code, log.contains("still connected")), (Some(0), false), "{log}");
    assert!(events.next().await.is_none());
    fs::write(sidecar.workspace().join("unseen"), "").unwrap();

    let mut sidecar = sidecar.again().await;
    let mut events = Events::open(&sidecar, &format!("{TARGET}?cursor={cursor}"), "").await;
    events.expect("created", "/root/clawd/seen").await;
    let rescan = events.next().await.unwrap();
    assert_eq!((rescan.name.as_str(), &rescan.data["cause"]), ("rescan", &"restart".into()));
    events.ready().await;
    fs::write(sidecar.workspace().join("later"), "").unwrap();
    let later = events.expect("created", "/root/clawd/later").await;

    sidecar.kill().await;
    let sidecar = sidecar.again().await;
    let mut events = Events::open(&sidecar, TARGET, &format!("last-event-id: {}\r\n", later.id)).await;
    let rescan = events.next().await.unwrap();
    assert_eq!((rescan.name.as_str(), &rescan.data["cause"]), ("rescan", &"restart".into()));
    events.ready().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_nothing_and_is_told() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    let root = sidecar.workspace();
    let mut slow = Events::open(&sidecar, TARGET, "").await;
    let cursor = slow.ready().await;
    let mut quick = Events::open(&sidecar, TARGET, "").await;
    quick.ready().await;
    // Several times what is kept, and what sockets hold.
    for round in 0..6 {
        for n in 0..10_000 {
            fs::write(root.join(format!("a-name-that-is-rather-long-{round}-{n}")), "").unwrap();
        }
        let last = format!("/root/clawd/a-name-that-is-rather-long-{round}-9999");
        while quick.next().await.unwrap().data["path"] != last.as_str() {}
    }
    assert!(sidecar.resident_bytes() < 100 << 20, "{}", sidecar.resident_bytes());
    let mut expired = Events::open(&sidecar, &format!("{TARGET}?cursor={cursor}"), "").await;
    assert_eq!(expired.next().await.unwrap().data["cause"], "expired");
    let mut events = 0;
    loop {
        let event = slow.next().await.unwrap();
        if event.name == "rescan" {
            break assert_eq!(event.data["cause"], "slow");
        }
        events += 1;
    }
    assert!(events < 60_000, "{events}");
    fs::write(root.join("last"), "").unwrap();
    slow.expect("created", "/root/clawd/last").await;
}
