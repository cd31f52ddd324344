//! A small HTTP/1.1 forwarder, shared by the two proxies of the testbed, and the server that both stand on.
//!
//! Bodies stream both ways and are never held. An upgrade that the upstream accepts becomes a relay of bytes.
//! Each request has an upstream connection of its own: a pooled one that the upstream has just dropped would
//! show as an error that no real part made, and over loopback a fresh one costs some tens of microseconds.

mod server;

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

pub use server::{
    Answer, Body, BoxError, Context, Cut, Server, Tasks, empty, json, no_body, read_body, streaming, text,
    whole,
};

/// Between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Headers that speak about one connection only, and therefore end here.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why a request found no answer upstream.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Nothing accepts connections there, as long as the caller was willing to wait.
    #[error("no connection to {addr}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// What the last attempt said.
        #[source]
        source: std::io::Error,
    },
    /// The connection was there, an answer was not.
    #[error("no answer from {addr}")]
    Exchange {
        /// Where from.
        addr: SocketAddr,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
}

/// Whether the request asks for another protocol on its connection.
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Sends `request` to `addr` as it stands, and hands back the answer as it comes. A refused connection is
/// tried again until `patience` is over. Relays of upgraded connections live in `tasks`.
///
/// # Errors
/// When nothing listens there, or when the connection ends before an answer.
pub async fn forward<B>(
    mut request: Request<B>,
    addr: SocketAddr,
    patience: Duration,
    tasks: &Tasks,
) -> Result<Answer, ForwardError>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let stream = connect(addr, patience).await?;
    let exchange = |source| ForwardError::Exchange { addr, source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
    tasks.spawn(async move {
        // Its errors are also those of the request or the body, where somebody looks at them.
        let _ = connection.with_upgrades().await;
    });

    let upgrade =
        is_upgrade(request.headers()).then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    strip_hop_by_hop(request.headers_mut());
    if let Some(protocol) = upgrade {
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol);
    }
    *request.version_mut() = Version::HTTP_11;

    let mut response = sender.send_request(request).await.map_err(exchange)?;
    match client_side {
        Some(client_side) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let upstream_side = hyper::upgrade::on(&mut response);
            tasks.spawn(async move {
                if let (Ok(client), Ok(upstream)) = tokio::join!(client_side, upstream_side) {
                    // Either side may vanish at any moment: that is the end of the relay, not a fault.
                    let _ =
                        tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream))
                            .await;
                }
            });
            let (parts, _) = response.into_parts();
            Ok(Response::from_parts(parts, no_body()))
        }
        _ => {
            strip_hop_by_hop(response.headers_mut());
            Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
        }
    }
}

async fn connect(addr: SocketAddr, patience: Duration) -> Result<TcpStream, ForwardError> {
    let deadline = Instant::now() + patience;
    loop {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                // Without it, small frames wait for acknowledgements. The socket works either way.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(source) if Instant::now() + CONNECT_PAUSE >= deadline => {
                return Err(ForwardError::Connect { addr, source });
            }
            Err(_) => sleep(CONNECT_PAUSE).await,
        }
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_an_upgrade() {
        let rows: &[(&[(&str, &str)], bool)] = &[
            (&[("upgrade", "websocket"), ("connection", "Upgrade")], true),
            (&[("upgrade", "websocket"), ("connection", "keep-alive, upgrade")], true),
            (&[("upgrade", "websocket"), ("connection", "keep-alive"), ("connection", "UPGRADE")], true),
            (&[("upgrade", "websocket"), ("connection", "close")], false),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (&[], false),
        ];
        for (pairs, expected) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in *pairs {
                headers.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            assert_eq!(is_upgrade(&headers), *expected, "{pairs:?}");
        }
    }
}
