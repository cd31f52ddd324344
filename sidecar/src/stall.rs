//! Clients that take nothing. Each holds a place of the listener, and a file that it downloads.
//!
//! The kernel knows best what a client takes, whoever writes to the socket: hyper, a relay of frames, or the kernel
//! itself from a file. So it keeps the time: once data has waited for so long without a byte of it being
//! acknowledged, or without the client's window opening at all, it ends the connection, and whoever writes gets an
//! error. A client that is slow but takes something begins anew each time.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;

/// Longer than a person pauses a page or a train takes through a tunnel; a download that is cut can go on with a
/// range, and a page opens its WebSocket again.
pub const MAX_STALL: Duration = Duration::from_secs(120);

/// Has the kernel disconnect whoever takes nothing for `most`. To be called before the first accept: connections
/// have it from their listener.
///
/// # Errors
/// It is no TCP socket, or the kernel does not have it.
pub fn limit(listener: impl AsFd, most: Duration) -> io::Result<()> {
    let ms = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
    set_tcp_user_timeout(listener, ms).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use bytes::Bytes;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::{self, Slots};
    use crate::stop;

    const STALL: Duration = Duration::from_secs(1);

    /// Longest wait for anything. Generous, since the machine may be busy; nothing waits for it in vain.
    const LIMIT: Duration = Duration::from_secs(30);

    fn endless() -> Router {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let chunks = futures_util::stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone()));
        Router::new().route("/", get(async move || Body::from_stream(chunks.clone())))
    }

    async fn client(listener: &TcpListener) -> TcpStream {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        client
    }

    #[tokio::test]
    async fn who_takes_nothing_is_disconnected_and_who_is_slow_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        limit(&listener, STALL).unwrap();
        let (mut slow, _silent) = (client(&listener).await, client(&listener).await);
        let (slots, (stopper, stop)) = (Slots::default(), stop::channel());
        let serving = tokio::spawn(server::serve(listener, endless(), slots.clone(), stop));

        // More than the kernel's buffers hold, so that the answer really is as slow as its client.
        let mut buffer = vec![0; 256 * 1024];
        for _ in 0..60 {
            tokio::time::timeout(LIMIT, slow.read_exact(&mut buffer)).await.unwrap().unwrap();
            tokio::time::sleep(STALL / 10).await;
        }
        drop(slow);
        // Else no connection would end by itself: the body has no end.
        stopper.stop();
        serving.await.unwrap();
        tokio::time::timeout(LIMIT, slots.all_free()).await.expect("the silent client still has its place");
    }

    #[tokio::test]
    async fn a_socket_of_another_kind_is_refused() {
        let (one, _other) = tokio::net::UnixStream::pair().unwrap();
        assert!(limit(&one, STALL).is_err());
    }
}
