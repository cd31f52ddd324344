//! Cross-origin rules: the legacy contract's (B.1), with its faults mended. DELETE and HEAD were missing, so
//! that no browser could delete a file; `Vary` was missing, so that a cache could hand one origin's permission
//! to another; and pages could not read the headers that downloads need.

use crate::config::Config;

/// What a preflight allows. PUT is for the resource path of the file API.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// Beside the contract's two: conditions and ranges, digests, resumable uploads, idempotent sends.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, \
    If-Match, If-Modified-Since, If-None-Match, If-Range, If-Unmodified-Since, Range, \
    Content-Digest, Repr-Digest, Want-Content-Digest, Want-Repr-Digest, \
    Tus-Resumable, Upload-Checksum, Upload-Defer-Length, Upload-Length, Upload-Metadata, Upload-Offset, \
    Idempotency-Key, Last-Event-ID, X-Require-Precondition";
const RESPONSE_HEADERS: &str = "Accept-Ranges, Content-Digest, Content-Disposition, Content-Range, ETag, \
    Last-Modified, Location, Repr-Digest, Retry-After, \
    Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Expires, Upload-Length, Upload-Offset, \
    X-Request-Id";

/// Seconds for which a browser may remember a preflight.
const MAX_AGE: &str = "86400";

/// Origin named in preflights from pages that are not allowed, so that their browsers refuse.
const CANONICAL_ORIGIN: &str = "https://automna.ai";

type Header = (&'static str, String);

/// Headers of the answer to any preflight, which is 204.
#[must_use]
pub fn preflight(config: &Config, origin: Option<&str>) -> Vec<Header> {
    let allowed = origin.filter(|origin| config.allows_origin(origin)).unwrap_or(CANONICAL_ORIGIN);
    vec![
        ("access-control-allow-origin", allowed.to_owned()),
        ("access-control-allow-methods", METHODS.to_owned()),
        ("access-control-allow-headers", REQUEST_HEADERS.to_owned()),
        ("access-control-max-age", MAX_AGE.to_owned()),
        ("vary", "Origin".to_owned()),
    ]
}

/// Headers to set on an answer to a request that named its origin. They replace what a back end has set, so
/// that there is one place which says who may read. `vary` is to be appended.
#[must_use]
pub fn on_answer(config: &Config, origin: &str) -> Vec<Header> {
    if !config.allows_origin(origin) {
        return Vec::new();
    }
    vec![
        ("access-control-allow-origin", origin.to_owned()),
        ("access-control-allow-methods", METHODS.to_owned()),
        ("access-control-allow-headers", REQUEST_HEADERS.to_owned()),
        ("access-control-expose-headers", RESPONSE_HEADERS.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
        headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn preflights() {
        let config = Config::read(|_| None);
        for (origin, allowed) in [
            (Some("https://automna.ai"), "https://automna.ai"),
            (Some("https://www.automna.ai"), "https://www.automna.ai"),
            (Some("http://localhost:3000"), "http://localhost:3000"),
            (Some("https://evil.example"), "https://automna.ai"),
            (Some("https://automna.ai.evil.example"), "https://automna.ai"),
            (Some("null"), "https://automna.ai"),
            (None, "https://automna.ai"),
        ] {
            let headers = preflight(&config, origin);
            assert_eq!(value(&headers, "access-control-allow-origin"), Some(allowed), "{origin:?}");
            assert_eq!(value(&headers, "vary"), Some("Origin"));
        }
        let headers = preflight(&config, None);
        let methods = value(&headers, "access-control-allow-methods").unwrap();
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
            assert!(methods.split(", ").any(|m| m == method), "{method} in {methods}");
        }
    }

    #[test]
    fn answers() {
        let config = Config::read(|_| None);
        assert_eq!(on_answer(&config, "https://evil.example"), []);
        let headers = on_answer(&config, "https://automna.ai");
        assert_eq!(value(&headers, "access-control-allow-origin"), Some("https://automna.ai"));
        assert_eq!(value(&headers, "access-control-allow-credentials"), None);
        for exposed in ["Content-Disposition", "ETag", "Content-Range"] {
            assert!(value(&headers, "access-control-expose-headers").unwrap().contains(exposed));
        }
    }
}
