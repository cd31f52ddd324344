//! What a WebSocket upgrade must look like, and what of it goes on to the agent.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use super::{agent, headers};

/// The only version there is.
const VERSION: &str = "13";

/// A well-formed key is 16 bytes in base64: 22 characters and two signs of padding.
const KEY_CHARS: usize = 22;

/// What is wrong with an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUpgrade {
    #[error("the method must be GET")]
    Method,
    #[error("it needs HTTP/1.1")]
    HttpVersion,
    #[error("only the protocol websocket is served")]
    Protocol,
    #[error("the header Connection does not say upgrade")]
    Connection,
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    Key,
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
}

/// Whether a request asks for another protocol at all.
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// A client's upgrade, proven to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    key: HeaderValue,
    /// Subprotocols, which the agent chooses from.
    protocols: Vec<HeaderValue>,
}

impl Offer {
    /// Checks an upgrade.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(method: &Method, version: Version, headers: &HeaderMap) -> Result<Self, BadUpgrade> {
        if method != Method::GET {
            return Err(BadUpgrade::Method);
        }
        if version != Version::HTTP_11 {
            return Err(BadUpgrade::HttpVersion);
        }
        if !has_token(headers, &header::UPGRADE, "websocket") {
            return Err(BadUpgrade::Protocol);
        }
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(BadUpgrade::Connection);
        }
        let key = single(headers, &header::SEC_WEBSOCKET_KEY).ok_or(BadUpgrade::Key)?;
        if !is_key(key.as_bytes()) {
            return Err(BadUpgrade::Key);
        }
        if single(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
            return Err(BadUpgrade::Version);
        }
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
        Ok(Self { key: key.clone(), protocols })
    }

    /// The headers of our own upgrade at the agent, made afresh so that nothing else comes along. Extensions are
    /// not offered: compressed frames could not be read.
    #[must_use]
    pub fn for_agent(self, agent: SocketAddr, peer: IpAddr) -> HeaderMap {
        let mut upgrade = HeaderMap::new();
        upgrade.insert(header::HOST, agent::host(agent));
        upgrade.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        upgrade.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        upgrade.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        upgrade.insert(headers::FORWARDED_FOR, headers::forwarded_for(peer));
        upgrade.insert(header::SEC_WEBSOCKET_KEY, self.key);
        for protocols in self.protocols {
            upgrade.append(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        }
        upgrade
    }
}

/// The headers of our 101, from those of the agent's. The client checks the accept key itself.
#[must_use]
pub fn for_client(agent: &HeaderMap) -> HeaderMap {
    let mut accept = HeaderMap::new();
    accept.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    accept.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in [header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL] {
        if let Some(value) = agent.get(&name) {
            accept.insert(name, value.clone());
        }
    }
    accept
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_key(bytes: &[u8]) -> bool {
    bytes.strip_suffix(b"==").is_some_and(|key| {
        key.len() == KEY_CHARS && key.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    fn headers(change: Option<(&'static str, Option<&'static str>)>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in GOOD {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        match change {
            Some((name, Some(value))) => {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            Some((name, None)) => {
                headers.remove(name);
            }
            None => {}
        }
        headers
    }

    #[test]
    fn upgrades() {
        let rows = [
            (None, None),
            (Some(("upgrade", Some("WebSocket"))), None),
            (Some(("upgrade", Some("h2c"))), Some(BadUpgrade::Protocol)),
            (Some(("upgrade", None)), Some(BadUpgrade::Protocol)),
            (Some(("connection", Some("keep-alive"))), Some(BadUpgrade::Connection)),
            (Some(("connection", Some("upgrade"))), None),
            (Some(("connection", None)), Some(BadUpgrade::Connection)),
            (Some(("sec-websocket-key", Some("short=="))), Some(BadUpgrade::Key)),
            (Some(("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"))), Some(BadUpgrade::Key)),
            (Some(("sec-websocket-key", None)), Some(BadUpgrade::Key)),
            (Some(("sec-websocket-version", Some("8"))), Some(BadUpgrade::Version)),
            (Some(("sec-websocket-version", None)), Some(BadUpgrade::Version)),
        ];
        for (change, expect) in rows {
            let result = Offer::parse(&Method::GET, Version::HTTP_11, &headers(change));
            assert_eq!(result.err(), expect, "{change:?}");
        }
        let good = headers(None);
        assert_eq!(Offer::parse(&Method::POST, Version::HTTP_11, &good), Err(BadUpgrade::Method));
        assert_eq!(Offer::parse(&Method::GET, Version::HTTP_10, &good), Err(BadUpgrade::HttpVersion));
        let mut twice = headers(None);
        twice.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(Offer::parse(&Method::GET, Version::HTTP_11, &twice), Err(BadUpgrade::Key));
    }

    #[test]
    fn only_the_handshake_itself_goes_on() {
        let mut client = headers(None);
        for name in ["cookie", "authorization", "sec-websocket-extensions", "x-automna-ticket", "origin"] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        client.insert("sec-websocket-protocol", HeaderValue::from_static("a, b"));
        let offer = Offer::parse(&Method::GET, Version::HTTP_11, &client).unwrap();
        let onward = offer.for_agent(([127, 0, 0, 1], 1).into(), [10, 0, 0, 1].into());
        let mut names: Vec<&str> = onward.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expect = [
            "connection",
            "host",
            "sec-websocket-key",
            "sec-websocket-protocol",
            "sec-websocket-version",
            "upgrade",
            "x-forwarded-for",
        ];
        assert_eq!(names, expect);
    }
}
