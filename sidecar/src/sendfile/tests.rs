//! What keeps tokens from being taken for data. That whole answers arrive as they should is tested with the real
//! process (`it::sendfile`).

use std::convert::Infallible;
use std::fs::File;
use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body as AxumBody;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::body::{HandOver, Outgoing, Piece, Range};
use super::stream::FileStream;
use super::window::{Slot, WINDOW_BYTES};

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

fn noise(length: usize) -> Vec<u8> {
    (0_u64..).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes().to_vec()).take(length).collect()
}

fn hand_over(bytes: &[u8]) -> AxumBody {
    let range = Range { file: file_of(bytes), start: 0, length: bytes.len() as u64 };
    AxumBody::new(HandOver::new(range, AxumBody::from("tail")))
}

async fn first(outgoing: &mut Outgoing) -> Result<Piece, String> {
    let frame = poll_fn(|cx| Pin::new(&mut *outgoing).poll_frame(cx)).await.unwrap();
    frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_body_is_handed_over_from_hand_to_hand_only() {
    let mut straight = Outgoing::new(hand_over(b"0123"), Slot::default());
    assert_eq!(straight.size_hint().exact(), Some(8));
    assert!(matches!(first(&mut straight).await, Ok(Piece::File(token)) if token.remaining() == 4));

    // Boxed once more, but the same body: axum unpacks it.
    let mut again = Outgoing::new(AxumBody::new(hand_over(b"0123")), Slot::default());
    assert!(matches!(first(&mut again).await, Ok(Piece::File(_))));

    // Whoever changes bytes, or only looks at them, gets an error, and so does the client.
    let shouted = |frame: Frame<Bytes>| frame.map_data(|bytes| Bytes::from(bytes.to_ascii_uppercase()));
    for changed in [
        AxumBody::new(hand_over(b"0123").map_frame(shouted)),
        AxumBody::new(hand_over(b"0123").map_err(|error| error)),
        AxumBody::new(http_body_util::Limited::new(hand_over(b"0123"), 1000)),
        AxumBody::from_stream(hand_over(b"0123").into_data_stream()),
    ] {
        let error = first(&mut Outgoing::new(changed, Slot::default())).await.unwrap_err();
        assert!(error.contains("wanted its bytes"), "{error}");
    }
    assert!(hand_over(b"0123").collect().await.is_err());
}

/// An answer with `body`, by hyper over a socket, to its end, without its head.
async fn answer(body: impl FnOnce(&super::stream::Sender) -> Outgoing, flatten: bool) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, sender) = FileStream::new(listener.accept().await.unwrap().0);
    let body = std::sync::Mutex::new(Some(body(&sender)));
    let service =
        service_fn(async |_| Ok::<_, Infallible>(hyper::Response::new(body.lock().unwrap().take().unwrap())));
    let mut http = http1::Builder::new();
    if flatten {
        http.writev(false);
    }
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    let (_ended, read) =
        tokio::join!(http.serve_connection(stream, service), client.read_to_end(&mut received));
    read.unwrap();
    let head = received.windows(4).position(|window| window == b"\r\n\r\n");
    head.map_or_else(Vec::new, |head| received.split_off(head + 4))
}

#[tokio::test]
async fn hyper_sends_the_file_and_then_the_rest() {
    for length in [1, 1000, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES + 77] {
        let bytes = noise(length);
        let received = answer(|sender| sender.outgoing(hand_over(&bytes)), false).await;
        assert!(received == [&bytes[..], b"tail"].concat(), "{length}");
    }
}

/// As hyper would do if it were told to copy everything into one buffer: nothing may arrive then.
#[tokio::test]
async fn a_token_that_was_copied_is_never_sent() {
    let received = answer(|sender| sender.outgoing(hand_over(&noise(1000))), true).await;
    assert_eq!(received, b"");
}

#[test]
fn whoever_reads_a_token_stops_the_stream() {
    let slot = Slot::default();
    let window = super::window::Window { file: file_of(b"0123"), at: 0, left: 4 };
    let mut token = slot.put(window);
    assert!(slot.window().unwrap().is_some());
    let mut copy = BytesMut::new();
    bytes::BufMut::put(&mut copy, &mut token);
    assert_eq!((copy.len(), token.remaining()), (4, 0));
    assert!(slot.window().is_err());
}

#[tokio::test]
async fn a_file_that_is_shorter_than_promised_is_not_filled_up() {
    let bytes = noise(10_000);
    let range = Range { file: file_of(&bytes), start: 0, length: 20_000 };
    let body = AxumBody::new(HandOver::new(range, AxumBody::empty()));
    let received = answer(|sender| sender.outgoing(body), false).await;
    assert!(bytes.starts_with(&received), "{} bytes", received.len());
}
