//! What the proxy takes off a request and what it puts on.

use std::net::SocketAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use loopback::forward::Answer;

/// Names the machine. It is for the proxy alone: the machine does not see it.
pub const FORCE_INSTANCE: HeaderName = HeaderName::from_static("fly-force-instance-id");

/// Names a machine that is asked first. Of the same kind.
pub const PREFER_INSTANCE: HeaderName = HeaderName::from_static("fly-prefer-instance-id");

/// Where a replayed request comes from.
pub const REPLAY_SRC: HeaderName = HeaderName::from_static("fly-replay-src");

const REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const VIA: HeaderName = HeaderName::from_static("via");

/// The proxy's word only: what a client says under these names is dropped.
const DROPPED: [HeaderName; 9] = [
    FORCE_INSTANCE,
    PREFER_INSTANCE,
    HeaderName::from_static("fly-preferred-instance-unavailable"),
    HeaderName::from_static("fly-replay-failed"),
    REQUEST_ID,
    CLIENT_IP,
    FLY_REGION,
    REPLAY_SRC,
    HeaderName::from_static("fly-replay-cache-status"),
];

/// Rewrites a request's headers for the machine.
pub fn towards_machine(headers: &mut HeaderMap, peer: SocketAddr, request_id: &HeaderValue, region: &str) {
    for name in DROPPED {
        headers.remove(name);
    }
    let client = text(&peer.ip().to_string());
    let chain = headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let chain = chain.map_or_else(|| client.clone(), |before| text(&format!("{before}, {}", peer.ip())));
    headers.insert(FORWARDED_FOR, chain);
    headers.insert(CLIENT_IP, client);
    headers.insert(FLY_REGION, text(region));
    headers.insert("fly-forwarded-port", HeaderValue::from_static("443"));
    headers.insert("x-forwarded-port", HeaderValue::from_static("443"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert("x-forwarded-ssl", HeaderValue::from_static("on"));
    headers.append(VIA, HeaderValue::from_static("1.1 fly.io"));
    headers.insert(REQUEST_ID, request_id.clone());
}

/// Marks an answer as one that came through the proxy.
#[must_use]
pub fn towards_client(mut answer: Answer, request_id: &HeaderValue) -> Answer {
    answer.headers_mut().append(VIA, HeaderValue::from_static("1.1 fly.io"));
    answer.headers_mut().insert(REQUEST_ID, request_id.clone());
    answer
}

/// The id of the request with this number: as long as a real one, and countable.
#[must_use]
pub fn request_id(number: u64, region: &str) -> HeaderValue {
    text(&format!("01STANDIN{number:017}-{region}"))
}

/// The app in `<app>.fly.dev`, if the host is named so.
#[must_use]
pub fn app_of_host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get("host")?.to_str().ok()?.to_ascii_lowercase();
    let name = host.split(':').next()?;
    name.strip_suffix(".fly.dev").map(str::to_owned)
}

/// Only called with texts of our own, which are all valid.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_hears_the_proxy_and_not_the_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("fly-force-instance-id", "m1"),
            ("fly-client-ip", "6.6.6.6"),
            ("fly-region", "moon"),
            ("fly-replay-src", "instance=x"),
            ("fly-replay-cache-status", "hit"),
            ("fly-request-id", "mine"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "http"),
            ("x-custom", "kept"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        towards_machine(&mut headers, "127.0.0.1:5".parse().unwrap(), &request_id(7, "lhr"), "lhr");
        for (name, expected) in [
            ("fly-force-instance-id", None),
            ("fly-client-ip", Some("127.0.0.1")),
            ("fly-region", Some("lhr")),
            ("fly-replay-src", None),
            ("fly-replay-cache-status", None),
            ("fly-request-id", Some("01STANDIN00000000000000007-lhr")),
            ("x-forwarded-for", Some("9.9.9.9, 127.0.0.1")),
            ("x-forwarded-proto", Some("https")),
            ("x-forwarded-port", Some("443")),
            ("fly-forwarded-port", Some("443")),
            ("via", Some("1.1 fly.io")),
            ("x-custom", Some("kept")),
        ] {
            let found = headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{name}");
        }
    }
}
