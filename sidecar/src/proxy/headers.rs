//! Which headers pass between client and agent.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use shared::wire::HEADER_PREFIX;

/// They describe one connection, not the request. `Connection` may name more.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a client's request loses: proofs that are for the edge and for us, claims about where it comes from,
/// and the length of a body that does not go along.
const NOT_FOR_AGENT: [&str; 8] = [
    "authorization",
    "cookie",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "host",
    "content-length",
    "expect",
];

/// As [`NOT_FOR_AGENT`]: headers that proxies in front add, and that the agent would believe from loopback.
const PREFIXES_NOT_FOR_AGENT: [&str; 5] = ["x-forwarded-", "fly-", "cf-", "tailscale-", HEADER_PREFIX];

/// Without it, the agent takes a client for a local one and trusts it more.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The headers for the agent, from those of a request without a body.
#[must_use]
pub fn for_agent(client: &HeaderMap, host: &HeaderValue, peer: IpAddr) -> HeaderMap {
    let mut headers = end_to_end(client, |name| {
        NOT_FOR_AGENT.contains(&name) || PREFIXES_NOT_FOR_AGENT.iter().any(|prefix| name.starts_with(prefix))
    });
    headers.insert(header::HOST, host.clone());
    headers.insert(FORWARDED_FOR, forwarded_for(peer));
    headers
}

/// The headers for the client, from those of the agent's answer. The agent's code is the user's, so it must not
/// speak for us to the edge, nor set the edge's cookies.
#[must_use]
pub fn for_client(agent: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(agent, |name| name == header::SET_COOKIE || name.starts_with(HEADER_PREFIX));
    let is_html = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html"));
    if is_html {
        // The page's address can hold a signed query; it must not travel to a font server.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    }
    headers
}

/// The value of [`FORWARDED_FOR`].
#[must_use]
pub fn forwarded_for(peer: IpAddr) -> HeaderValue {
    // An address is digits, letters, dots and colons, all of which a header can hold.
    HeaderValue::from_str(&peer.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

fn end_to_end(from: &HeaderMap, dropped: impl Fn(&str) -> bool) -> HeaderMap {
    let named: Vec<String> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let text = name.as_str();
        if HOP_BY_HOP.contains(&text) || named.iter().any(|n| n == text) || dropped(text) {
            continue;
        }
        headers.append(name.clone(), value.clone());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_the_agent_sees() {
        let dropped = [
            "x-automna-ticket",
            "x-automna-anything",
            "cookie",
            "authorization",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "forwarded",
            "x-real-ip",
            "true-client-ip",
            "fly-client-ip",
            "fly-region",
            "cf-connecting-ip",
            "cf-ray",
            "tailscale-user-login",
            "keep-alive",
            "te",
            "upgrade",
            "proxy-authorization",
            "proxy-connection",
            "transfer-encoding",
            "content-length",
            "trailer",
            "x-named",
            "expect",
        ];
        for name in dropped {
            let client = map(&[("connection", "close, X-Named"), (name, "1"), ("accept", "*/*")]);
            let agent = for_agent(&client, &HeaderValue::from_static("a:1"), [10, 0, 0, 1].into());
            let expect = map(&[("accept", "*/*"), ("host", "a:1"), ("x-forwarded-for", "10.0.0.1")]);
            assert_eq!(agent, expect, "{name}");
        }
    }

    #[test]
    fn the_host_is_the_agents() {
        let client = map(&[("host", "evil.example"), ("user-agent", "b")]);
        let agent = for_agent(&client, &HeaderValue::from_static("a:1"), [10, 0, 0, 1].into());
        assert_eq!(agent, map(&[("user-agent", "b"), ("host", "a:1"), ("x-forwarded-for", "10.0.0.1")]));
    }

    #[test]
    fn what_the_client_sees() {
        for name in
            ["x-automna-refusal", "x-automna-sidecar", "set-cookie", "connection", "transfer-encoding"]
        {
            let agent = map(&[(name, "stale-epoch"), ("content-type", "text/css"), ("etag", "1")]);
            assert_eq!(for_client(&agent), map(&[("content-type", "text/css"), ("etag", "1")]), "{name}");
        }
        for kind in ["text/html", "Text/HTML; charset=utf-8"] {
            let agent = map(&[("content-type", kind)]);
            assert_eq!(for_client(&agent)["referrer-policy"], "same-origin");
        }
    }
}
