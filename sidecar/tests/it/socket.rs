//! WebSockets, from the upgrade to the close.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sidecar::proxy::frame::{Header, Opcode, client_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::gateway::{BIG, header};
use crate::harness::{LIMIT, Sidecar, Socket, eventually, next, token};

const KEY: [u8; 4] = [5, 6, 7, 8];

fn connect() -> Value {
    json!({
        "type": "req", "id": "c1", "method": "connect",
        "params": {
            "client": { "id": "webchat", "mode": "webchat" },
            "device": { "id": "d" },
            "scopes": ["operator.admin", "operator.write"],
        },
    })
}

async fn say(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.unwrap();
}

/// Past the challenge and the connect.
async fn connected(sidecar: &Sidecar, target: &str) -> Socket {
    let mut socket = sidecar.socket(target).await;
    let challenge: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
    assert_eq!(challenge["event"], "connect.challenge");
    say(&mut socket, connect().to_string()).await;
    let answer: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
    assert_eq!(answer, json!({ "type": "res", "id": "c1", "ok": true }));
    socket
}

/// What the client is told at the end.
async fn close_of(socket: &mut Socket) -> CloseFrame {
    match next(socket).await {
        Message::Close(Some(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

/// Frames straight onto the wire, whatever tungstenite would think of them.
async fn raw(socket: &mut Socket, bytes: &[u8]) {
    socket.get_mut().write_all(bytes).await.unwrap();
}

fn fragment(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Header { fin, opcode, mask: Some(KEY), length: payload.len() as u64 }.write(&mut frame);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(b, k)| b ^ k));
    frame
}

#[tokio::test]
async fn the_first_message_is_edited_and_the_rest_is_not() {
    let (sidecar, gateway) = Sidecar::start().await;
    for target in ["/", "/ws?userId=u&exp=1&sig=s", "/any/path"] {
        let mut socket = connected(&sidecar, target).await;
        let params = gateway.connects().pop().unwrap()["params"].take();
        assert_eq!(params["auth"], json!({ "token": token() }));
        assert_eq!(params["scopes"], json!(["operator.write"]));
        assert_eq!(params["client"], json!({ "id": "webchat", "mode": "webchat" }));
        assert!(params.get("device").is_none());

        // A second connect is the agent's business.
        let again = connect().to_string();
        say(&mut socket, again.clone()).await;
        assert_eq!(next(&mut socket).await, Message::text(again));

        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 256) as u8).collect();
        socket.send(Message::binary(bytes.clone())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::binary(bytes));
        say(&mut socket, "big").await;
        assert_eq!(next(&mut socket).await, Message::binary(vec![7; BIG]));
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
    }
    eventually("the agent's sockets have ended", async || gateway.closed() == 3).await;
    for head in gateway.heads() {
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "x-automna-ticket"), None);
    }
}

#[tokio::test]
async fn the_handshake_carries_the_subprotocol_and_no_extension() {
    let (sidecar, gateway) = Sidecar::start().await;
    let headers = [
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("x-request-id", "request-1"),
        ("cookie", "session=1"),
    ];
    let (_socket, response) = sidecar.try_socket("/ws", &headers).await.unwrap();
    let heads = gateway.heads();
    assert_eq!(header(&heads[0], "sec-websocket-protocol"), Some("chat"));
    for name in ["sec-websocket-extensions", "cookie", "origin"] {
        assert_eq!(header(&heads[0], name), None, "{name}");
    }
    let headers = response.headers();
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    assert_eq!(headers["x-request-id"], "request-1");
    assert_eq!(headers["x-automna-sidecar"], env!("CARGO_PKG_VERSION"));
    assert!(!headers.contains_key("x-automna-refusal"), "the agent spoke in our name");
}

#[tokio::test]
async fn fragments_with_a_ping_between() {
    let (sidecar, gateway) = Sidecar::start().await;
    let mut socket = sidecar.socket("/").await;
    next(&mut socket).await;
    let text = connect().to_string();
    let (head, tail) = text.as_bytes().split_at(20);
    raw(&mut socket, &fragment(false, Opcode::Text, head)).await;
    raw(&mut socket, &fragment(true, Opcode::Ping, b"still there?")).await;
    let pong = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong(b"still there?".as_slice().into()));
    assert_eq!(gateway.connects(), [Value::Null; 0]);

    // The tail byte by byte, then a message in the same breath.
    let mut rest = fragment(true, Opcode::Continuation, tail);
    rest.extend(client_message(Opcode::Text, b"next", KEY));
    let (slow, fast) = rest.split_at(30);
    for byte in slow {
        raw(&mut socket, &[*byte]).await;
    }
    raw(&mut socket, fast).await;
    assert!(next(&mut socket).await.to_text().unwrap().contains("true"));
    assert_eq!(next(&mut socket).await, Message::text("next"));
    assert_eq!(gateway.connects()[0]["params"]["auth"]["token"], token());
}

#[tokio::test]
async fn first_messages_that_are_refused() {
    let (sidecar, gateway) = Sidecar::start().await;
    let rows = [
        ("600 KB", client_message(Opcode::Text, &vec![b' '; 600_000], KEY), CloseCode::Size),
        ("not masked", b"\x81\x05Hello".to_vec(), CloseCode::Protocol),
        ("reserved bit", b"\xc1\x80\0\0\0\0".to_vec(), CloseCode::Protocol),
        ("continuation", fragment(true, Opcode::Continuation, b"x"), CloseCode::Protocol),
    ];
    for (name, bytes, code) in rows {
        let mut socket = sidecar.socket("/").await;
        next(&mut socket).await;
        raw(&mut socket, &bytes).await;
        let close = close_of(&mut socket).await;
        assert_eq!(close.code, code, "{name}");
        assert!(!close.reason.is_empty(), "{name}");
    }
    assert_eq!(gateway.connects(), [Value::Null; 0]);
    eventually("the agent is let go", async || gateway.closed() == 4).await;
}

#[tokio::test]
async fn a_first_message_that_is_no_connect_gets_no_token() {
    let (sidecar, gateway) = Sidecar::start().await;
    let message = json!({ "type": "req", "id": "x", "method": "chat.send", "params": { "z": 1, "a": 2 } });
    let mut socket = sidecar.socket("/").await;
    next(&mut socket).await;
    say(&mut socket, message.to_string()).await;
    assert!(next(&mut socket).await.to_text().unwrap().contains("false"));
    assert_eq!(close_of(&mut socket).await.code, CloseCode::Policy);
    assert_eq!(gateway.connects(), [message]);
}

#[tokio::test]
async fn the_agent_s_close_reaches_the_client_with_code_and_reason() {
    let (sidecar, gateway) = Sidecar::start().await;
    let mut socket = connected(&sidecar, "/").await;
    say(&mut socket, "restart").await;
    let close = close_of(&mut socket).await;
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Restart, "service restart"));
    while socket.next().await.is_some() {}
    eventually("the agent's socket has ended", async || gateway.closed() == 1).await;
}

#[tokio::test]
async fn an_agent_that_restarts_does_not_wait_for_a_client_that_sleeps() {
    let (sidecar, gateway) = Sidecar::start().await;
    let mut socket = connected(&sidecar, "/").await;
    say(&mut socket, "restart and wait").await;
    let asked = Instant::now();
    // The client reads nothing and answers nothing.
    eventually("the agent is let go", async || gateway.closed() == 1).await;
    assert!(asked.elapsed().as_secs() < 4, "the agent would have given up restarting");
    assert_eq!(close_of(&mut socket).await.code, CloseCode::Restart);
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_agent_s_side() {
    let (sidecar, gateway) = Sidecar::start().await;
    drop(connected(&sidecar, "/").await);
    eventually("the agent's socket has ended", async || gateway.closed() == 1).await;

    // Half of it: the client sends nothing more, and still gets what it asked for.
    let mut socket = connected(&sidecar, "/").await;
    say(&mut socket, "big").await;
    socket.get_mut().shutdown().await.unwrap();
    assert_eq!(next(&mut socket).await, Message::binary(vec![7; BIG]));
    eventually("the agent's socket has ended", async || gateway.closed() == 2).await;
}

#[tokio::test]
async fn upgrades_that_are_none() {
    let (sidecar, gateway) = Sidecar::start().await;
    let rows: [(&str, &str, u16, &str); 4] = [
        ("GET / HTTP/1.1", "Upgrade: h2c\r\nConnection: Upgrade", 400, "bad_upgrade"),
        (
            "POST / HTTP/1.1",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            400,
            "bad_upgrade",
        ),
        (
            "GET / HTTP/1.1",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8",
            400,
            "bad_upgrade",
        ),
        (
            "GET /ws/api/nothing HTTP/1.1",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            404,
            "unknown_route",
        ),
    ];
    let ticket = crate::harness::Ticket::of_epoch(1).issue();
    for (line, headers, status, code) in rows {
        let mut stream = tokio::net::TcpStream::connect(sidecar.public).await.unwrap();
        let request = format!(
            "{line}\r\nHost: a\r\nX-Automna-Ticket: {ticket}\r\nContent-Length: 0\r\n{headers}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        assert!(answer.contains(code), "{headers}: {answer}");
    }
    assert_eq!(gateway.heads(), [""; 0]);
}

#[tokio::test]
async fn an_agent_that_is_down_refuses_upgrades() {
    let sidecar = Sidecar::before("127.0.0.1:1".parse().unwrap()).await;
    match sidecar.try_socket("/ws", &[]).await {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{:?}", other.map(|(_, response)| response)),
    }
}

#[tokio::test]
async fn early_frames_are_not_lost() {
    // A client may send its first message in one packet with its handshake.
    let (sidecar, gateway) = Sidecar::start().await;
    let ticket = crate::harness::Ticket::of_epoch(1).issue();
    let mut stream = tokio::net::TcpStream::connect(sidecar.public).await.unwrap();
    let mut bytes = format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nX-Automna-Ticket: {ticket}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(client_message(Opcode::Text, connect().to_string().as_bytes(), KEY));
    stream.write_all(&bytes).await.unwrap();
    eventually("the agent has the connect", async || !gateway.connects().is_empty()).await;
    assert_eq!(gateway.connects()[0]["params"]["auth"]["token"], token());
}

#[tokio::test]
async fn sigterm_closes_sockets_with_1012() {
    let (mut sidecar, gateway) = Sidecar::start().await;
    let mut open = connected(&sidecar, "/").await;
    let mut silent = sidecar.socket("/").await;
    next(&mut silent).await;
    let asked = Instant::now();
    sidecar.terminate();
    // In the agent's words, to whom would understand them.
    let goodbye: Value = serde_json::from_str(next(&mut open).await.to_text().unwrap()).unwrap();
    assert_eq!(goodbye["event"], "shutdown");
    for socket in [&mut open, &mut silent] {
        assert_eq!(close_of(socket).await.code, CloseCode::Restart);
        while socket.next().await.is_some() {}
    }
    let (code, log) = sidecar.finish().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(asked.elapsed().as_secs() < 5, "the clients answered, so there was nothing to wait for");
    eventually("the agent's sockets have ended", async || gateway.closed() == 2).await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_a_clean_close() {
    let (sidecar, gateway) = Sidecar::start().await;
    for (last_words, announced) in [("die", true), ("die inside", false)] {
        let mut socket = connected(&sidecar, "/").await;
        say(&mut socket, last_words).await;
        if announced {
            let goodbye: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
            assert_eq!(goodbye["event"], "shutdown", "{last_words}");
        }
        let close = close_of(&mut socket).await;
        assert_eq!((close.code, close.reason.as_str()), (CloseCode::Restart, "service restart"));
        // Not a reset: the stream ends in order.
        while let Some(message) = socket.next().await {
            message.unwrap();
        }
    }
    eventually("the agent's sockets have ended", async || gateway.closed() == 2).await;
}

#[tokio::test]
async fn a_call_that_cuts_a_transcript_is_answered_here() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let mut socket = connected(&sidecar, "/").await;
    for method in ["sessions.compact", "\\u0073essions.compact"] {
        let call = format!(
            r#"{{"type":"req","id":"c2","method":"{method}","params":{{"key":"main","maxLines":1}}}}"#
        );
        raw(&mut socket, &fragment(false, Opcode::Text, &call.as_bytes()[..30])).await;
        raw(&mut socket, &fragment(true, Opcode::Continuation, &call.as_bytes()[30..])).await;
        let answer: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
        assert_eq!((&answer["id"], &answer["ok"]), (&json!("c2"), &json!(false)), "{answer}");
    }
    // Others go on as they came.
    let call = r#"{"type":"req", "id":"c3","method":"sessions.reset"}"#;
    say(&mut socket, call).await;
    assert_eq!(next(&mut socket).await, Message::text(call));
}

#[tokio::test]
async fn closes_and_malformed_frames_of_an_open_socket() {
    let (sidecar, gateway) = Sidecar::start().await;
    let close = |payload: &[u8]| fragment(true, Opcode::Close, payload);
    let rows = [
        ("reserved bit", b"\xa1\x80\0\0\0\0".to_vec(), CloseCode::Protocol),
        ("opcode 5", b"\x85\x80\0\0\0\0".to_vec(), CloseCode::Protocol),
        ("not masked", b"\x81\x01x".to_vec(), CloseCode::Protocol),
        ("long ping", b"\x89\xfe\x00\x7e\0\0\0\0".to_vec(), CloseCode::Protocol),
        ("fragmented ping", b"\x09\x80\0\0\0\0".to_vec(), CloseCode::Protocol),
        ("continuation", fragment(true, Opcode::Continuation, b"x"), CloseCode::Protocol),
        ("half a code", close(b"\x03"), CloseCode::Protocol),
        ("code 1005", close(b"\x03\xed"), CloseCode::Protocol),
        ("reason", close(b"\x03\xe8\xff"), CloseCode::Invalid),
        ("600 KB", client_message(Opcode::Binary, &vec![b' '; 600_000], KEY), CloseCode::Size),
        ("a good one", close(b"\x0f\xa0bye"), CloseCode::Library(4000)),
    ];
    let count = rows.len();
    for (name, bytes, code) in rows {
        let mut socket = connected(&sidecar, "/").await;
        raw(&mut socket, &bytes).await;
        assert_eq!(close_of(&mut socket).await.code, code, "{name}");
    }
    eventually("the agent is let go", async || gateway.closed() == count).await;
}
