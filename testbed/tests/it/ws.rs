//! WebSocket conformance: the same bytes are sent straight to a peer on the agent's own WebSocket library, through
//! the sidecar, and through edge and sidecar. What comes back must be the same, message for message and close for
//! close.
//!
//! Where it is not, on purpose: whoever refuses a malformed stream may say why (codes are compared, reasons are not);
//! fragments of a message may be cut otherwise; an agent that ends without a close is announced and closed by us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use shared::id::Epoch;
use shared::secret::Secret;
use tempfile::TempDir;
use testbed::fly_proxy::FlyProxy;
use testbed::lone_sidecar::{LoneSidecar, LoneSpec};
use testbed::process::{Process, Spec, free_port};
use testbed::raw_ws::{BINARY, CLOSE, CONTINUATION, PING, PONG, RawSocket, TEXT, close_payload, encode};
use testbed::system::{change_policy, ops};
use testbed::workerd::{Edge, EdgeSpec};

use crate::support::{ADMIN, SECRET, eventually, query, sidecar, tools, user};

const USER: &str = "user_abc123";
/// The edge raises the first one when it sends the user to the machine.
const EPOCH: Epoch = Epoch(2);
const MASK: Option<[u8; 4]> = Some([0x11, 0x7f, 0x00, 0xfe]);
const LIMIT: Duration = Duration::from_secs(30);
const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// The peer and the ways to it.
struct Ways {
    peer: Process,
    peer_addr: SocketAddr,
    sidecar: LoneSidecar,
    fly: FlyProxy,
    edge: Edge,
    _dir: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Sidecar,
    Edge,
}

impl Ways {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port().unwrap();
        let script = tools().repository().join("testbed/tests/peers/ws_echo.cjs");
        let modules = tools().dir().join("npm/agent/node_modules");
        let peer = Process::spawn(Spec {
            name: "peer".into(),
            program: tools().node(),
            args: vec![script.into(), port.to_string().into()],
            env: BTreeMap::from([("NODE_PATH".to_owned(), modules.into())]),
            dir: dir.path().to_owned(),
            log: dir.path().join("peer.log"),
        })
        .await
        .unwrap();
        eventually("the peer listens", async || peer.has_logged("listening")).await;
        let peer_addr = SocketAddr::from(([127, 0, 0, 1], port));
        let sidecar = LoneSidecar::start(&LoneSpec {
            program: sidecar(),
            dir: dir.path().join("sidecar"),
            signing_secret: Secret::new(SECRET).unwrap(),
            user: user(USER),
            agent: peer_addr,
        })
        .await
        .unwrap();
        let fly = FlyProxy::start(0, 0).await.unwrap();
        fly.add_machine("app-1".parse().unwrap(), &"m1".parse().unwrap(), sidecar.addr());
        let vars = [
            ("MOLTBOT_SIGNING_SECRET", SECRET.to_owned()),
            ("ADMIN_BEARER", ADMIN.to_owned()),
            ("LEGACY_ORIGIN", format!("http://{peer_addr}")),
            ("MACHINE_ORIGIN", fly.url()),
            ("DIRECT_FLIPS", "allow".to_owned()),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let spec = EdgeSpec {
            dir: dir.path().join("edge"),
            vars,
            legacy_service: None,
            faults: false,
            instead: None,
        };
        let edge = Edge::start(&tools(), spec).await.unwrap();
        let http = reqwest::Client::new();
        let machine = serde_json::json!({"app": "app-1", "machineId": "m1", "generation": 1});
        ops(&http, edge.url(), ADMIN, &format!("users/{USER}/machine"), &machine).await.unwrap();
        let pin = serde_json::json!({"pins": {USER: "fly"}});
        change_policy(&http, edge.url(), ADMIN, &pin).await.unwrap();
        let url = format!("{}/api/keepalive?{}", edge.url(), query(USER));
        eventually("requests go to the machine", async || {
            http.get(&url).send().await.unwrap().headers().contains_key("x-automna-sidecar")
        })
        .await;
        Self { peer, peer_addr, sidecar, fly, edge, _dir: dir }
    }

    async fn open(&self, way: Way) -> RawSocket {
        match way {
            Way::Direct => RawSocket::open(self.peer_addr, "/", &[]).await.unwrap(),
            Way::Sidecar => {
                let ticket = self.sidecar.ticket(EPOCH);
                RawSocket::open(self.sidecar.addr(), "/", &[("x-automna-ticket", &ticket)]).await.unwrap()
            }
            Way::Edge => {
                let addr = self.edge.url().trim_start_matches("http://").parse().unwrap();
                RawSocket::open(addr, &format!("/ws?{}", query(USER)), &[]).await.unwrap()
            }
        }
    }

    /// What comes back for `script` on a fresh connection, until its end or until the marker is echoed.
    async fn transcript(&self, way: Way, script: &[u8]) -> Vec<Event> {
        let mut socket = self.open(way).await;
        // The sidecar looks at the first message in a way of its own; it is no part of the comparison.
        socket.send(&encode(true, TEXT, MASK, b"first")).await.unwrap();
        let mut all = Vec::new();
        // The peer may have hung up on the rest already.
        let _hung_up = socket.send(script).await;
        let work = async {
            let mut message: Option<(u8, Vec<u8>)> = None;
            loop {
                let Ok(Some(frame)) = socket.next().await else {
                    all.push(Event::End);
                    break;
                };
                match frame.opcode {
                    TEXT | BINARY | CONTINUATION => {
                        let begun = message.get_or_insert((frame.opcode, Vec::new()));
                        assert!(begun.1.is_empty() || frame.opcode == CONTINUATION, "{way:?}");
                        begun.1.extend(frame.payload);
                        if frame.fin {
                            let (opcode, payload) = message.take().unwrap();
                            let marker = payload == MARKER;
                            all.push(Event::Message(opcode, Payload(payload)));
                            if marker {
                                break;
                            }
                        }
                    }
                    CLOSE => {
                        all.push(Event::Close(frame.payload));
                        let _hung_up = socket.send(&encode(true, CLOSE, MASK, b"")).await;
                    }
                    opcode => all.push(Event::Control(opcode, frame.payload)),
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{way:?}: nothing comes any more"));
        assert_eq!(all.first(), Some(&Event::Message(TEXT, Payload(b"first".to_vec()))), "{way:?}");
        all.remove(0);
        all
    }

    async fn stop(self) {
        self.edge.stop().await.unwrap();
        self.fly.stop().await;
        self.sidecar.stop().await.unwrap();
        self.peer.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Message(u8, Payload),
    Control(u8, Vec<u8>),
    Close(Vec<u8>),
    End,
}

/// Shown by its length, since some are large.
#[derive(PartialEq, Eq)]
struct Payload(Vec<u8>);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = String::from_utf8_lossy(&self.0[..self.0.len().min(12)]).into_owned();
        write!(f, "{} bytes, {head:?}", self.0.len())
    }
}

/// A script that ends without a close ends with this message.
const MARKER: &[u8] = b"the end";

fn marked(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut script = parts.concat();
    script.extend(encode(true, TEXT, MASK, MARKER));
    script
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i % 23) as u8).collect()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    encode(true, CLOSE, MASK, &close_payload(code, reason))
}

/// What is answered in the very same way, whichever way it goes.
fn well_formed() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let sizes = [0, 1, 125, 126, 127, 65_535, 65_536, 70_001, MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES];
    for size in sizes {
        for (kind, opcode) in [("text", TEXT), ("binary", BINARY)] {
            all.push((format!("{kind} of {size}"), marked(&[encode(true, opcode, MASK, &bytes(size))])));
        }
        let (a, b) = (bytes(size / 3), bytes(size - size / 3 - size / 5));
        let c = bytes(size / 5);
        let ping = |text: &[u8]| encode(true, PING, MASK, text);
        all.push((
            format!("{size} in fragments, with pings between"),
            marked(&[
                encode(false, TEXT, MASK, &a),
                ping(b"1"),
                encode(false, CONTINUATION, MASK, b""),
                ping(&bytes(125)),
                encode(false, CONTINUATION, MASK, &b),
                ping(b""),
                encode(true, CONTINUATION, MASK, &c),
            ]),
        ));
    }
    let many: Vec<Vec<u8>> = std::iter::once(encode(false, BINARY, MASK, b"x"))
        .chain((0..2000).map(|_| encode(false, CONTINUATION, MASK, b"y")))
        .chain([encode(true, CONTINUATION, MASK, b"")])
        .collect();
    all.push(("2,000 fragments of a byte".into(), marked(&many)));
    all.push((
        "an empty message in empty fragments".into(),
        marked(&[
            encode(false, TEXT, MASK, b""),
            encode(false, CONTINUATION, MASK, b""),
            encode(true, CONTINUATION, MASK, b""),
        ]),
    ));
    all.push((
        "a hundred messages at once".into(),
        marked(&(0..100).map(|i| encode(true, TEXT, MASK, &bytes(i))).collect::<Vec<_>>()),
    ));
    all.push(("a pong that nobody asked for".into(), marked(&[encode(true, PONG, MASK, b"hello")])));
    all.push(("a ping of the peer's".into(), marked(&[encode(true, TEXT, MASK, b"ping between")])));
    for size in [70_000, 1_000_000, 6_000_000] {
        all.push((
            format!("{size} from the peer"),
            marked(&[encode(true, TEXT, MASK, format!("big {size}").as_bytes())]),
        ));
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999] {
        all.push((format!("close {code}"), close(code, b"")));
        all.push((
            format!("close {code} by the peer"),
            encode(true, TEXT, MASK, format!("close {code} why not").as_bytes()),
        ));
    }
    all.push(("close without a code".into(), encode(true, CLOSE, MASK, b"")));
    all.push(("close without a code by the peer".into(), encode(true, TEXT, MASK, b"close")));
    all.push(("close with the longest reason".into(), close(1000, "\u{e4}".repeat(61).as_bytes())));
    all.push((
        "close with the longest reason by the peer".into(),
        encode(true, TEXT, MASK, format!("close 4000 {}", "\u{e4}".repeat(61)).as_bytes()),
    ));
    all.push((
        "close within a message".into(),
        [encode(false, TEXT, MASK, b"abc"), close(1000, b"enough")].concat(),
    ));
    all.push((
        "words behind a close".into(),
        [close(1000, b""), encode(true, TEXT, MASK, b"unheard")].concat(),
    ));
    all.push((
        "a message, then a close".into(),
        [encode(true, TEXT, MASK, b"heard"), close(3001, b"x")].concat(),
    ));
    all
}

/// What is refused. Codes are the same; who refuses may say why.
fn malformed() -> Vec<(&'static str, Vec<u8>, u16)> {
    let head = |first: u8, second: u8| vec![first, second, 0, 0, 0, 0];
    vec![
        ("RSV1", head(0xc1, 0x80), 1002),
        ("RSV2", head(0xa1, 0x80), 1002),
        ("RSV3", head(0x91, 0x80), 1002),
        ("opcode 3", head(0x83, 0x80), 1002),
        ("opcode 11", head(0x8b, 0x80), 1002),
        ("not masked", encode(true, TEXT, None, b"x"), 1002),
        ("a ping in fragments", head(0x09, 0x80), 1002),
        ("a ping of 126", encode(true, PING, MASK, &bytes(126)), 1002),
        ("a close of 126", encode(true, CLOSE, MASK, &close_payload(1000, &bytes(124))), 1002),
        ("continuation of nothing", encode(true, CONTINUATION, MASK, b"x"), 1002),
        (
            "text within a message",
            [encode(false, TEXT, MASK, b"x"), encode(true, TEXT, MASK, b"y")].concat(),
            1002,
        ),
        ("close with half a code", encode(true, CLOSE, MASK, b"\x03"), 1002),
        ("close 999", close(999, b""), 1002),
        ("close 1004", close(1004, b""), 1002),
        ("close 1005", close(1005, b""), 1002),
        ("close 1006", close(1006, b""), 1002),
        ("close 1015", close(1015, b""), 1002),
        ("close 2999", close(2999, b""), 1002),
        ("close 5000", close(5000, b""), 1002),
        ("a reason that is not UTF-8", close(1000, b"\xff"), 1007),
        ("text that is not UTF-8", encode(true, TEXT, MASK, b"\xc3\x28"), 1007),
        ("one byte too much", encode(true, BINARY, MASK, &bytes(MAX_MESSAGE_BYTES + 1)), 1009),
        (
            "one byte too much, in fragments",
            [encode(false, TEXT, MASK, &bytes(MAX_MESSAGE_BYTES)), encode(true, CONTINUATION, MASK, b"x")]
                .concat(),
            1009,
        ),
        ("a terabyte announced", [&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0; 4]].concat(), 1009),
    ]
}

fn codes(transcript: &[Event]) -> Vec<Option<u16>> {
    let code = |event: &Event| match event {
        Event::Close(payload) => payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
        Event::Message(..) | Event::Control(..) | Event::End => None,
    };
    transcript.iter().filter(|event| matches!(event, Event::Close(_))).map(code).collect()
}

#[tokio::test]
async fn frames_fare_as_they_do_directly() {
    let ways = Ways::start().await;
    let mut differences = Vec::new();
    for (name, script) in well_formed() {
        let direct = ways.transcript(Way::Direct, &script).await;
        for way in [Way::Sidecar, Way::Edge] {
            let other = ways.transcript(way, &script).await;
            if other != direct {
                differences.push(format!("{name}, {way:?}:\n  {direct:?}\n  {other:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
    ways.stop().await;
}

#[tokio::test]
async fn malformed_frames_are_refused_with_the_codes_of_the_agent() {
    let ways = Ways::start().await;
    let mut differences = Vec::new();
    for (name, script, code) in malformed() {
        for way in [Way::Direct, Way::Sidecar, Way::Edge] {
            let transcript = ways.transcript(way, &script).await;
            if codes(&transcript) != [Some(code)] || transcript.last() != Some(&Event::End) {
                differences.push(format!("{name}, {way:?}: {code} expected, {transcript:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
    ways.stop().await;
}

#[tokio::test]
async fn an_agent_that_hangs_up_is_a_clean_close() {
    let ways = Ways::start().await;
    let script = encode(true, TEXT, MASK, b"terminate");
    for way in [Way::Sidecar, Way::Edge] {
        let transcript = ways.transcript(way, &script).await;
        let [Event::Message(TEXT, Payload(goodbye)), Event::Close(close), Event::End] = &transcript[..]
        else {
            panic!("{way:?}: {transcript:?}")
        };
        let goodbye: serde_json::Value = serde_json::from_slice(goodbye).unwrap();
        assert_eq!(goodbye["event"], "shutdown");
        assert_eq!(*close, close_payload(1012, b"service restart"), "{way:?}");
    }
    ways.stop().await;
}

#[tokio::test]
async fn a_thousand_connections_at_a_time() {
    let ways = Ways::start().await;
    for way in [Way::Sidecar, Way::Edge] {
        let mut sockets = Vec::new();
        for number in 0..1000 {
            let mut socket = ways.open(way).await;
            socket.send(&encode(true, TEXT, MASK, format!("{way:?} {number}").as_bytes())).await.unwrap();
            sockets.push(socket);
        }
        // All are open now; each gets what is its own, twice.
        for (number, socket) in sockets.iter_mut().enumerate() {
            let own = format!("{way:?} {number}");
            let again = encode(true, BINARY, MASK, own.as_bytes());
            socket.send(&again).await.unwrap();
            for opcode in [TEXT, BINARY] {
                let frame = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
                assert_eq!((frame.opcode, frame.payload), (opcode, own.clone().into_bytes()));
            }
        }
        for mut socket in sockets {
            socket.send(&close(1000, b"")).await.unwrap();
            let frame = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
            assert_eq!((frame.opcode, &frame.payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
        }
    }
    ways.stop().await;
}
