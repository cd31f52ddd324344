#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sidecar::http_semantics::conditional::{self, Access, Preconditions, Validators, Verdict};
use sidecar::http_semantics::etag::EntityTag;

const NAMES: [&str; 6] = [
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "if-modified-since",
    "if-range",
    "x-require-precondition",
];

// One header a line; its first byte chooses the name.
fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]), value);
    }
    let etag = EntityTag::strong("now");
    let now = Validators { etag, last_modified: Some(UNIX_EPOCH + Duration::from_secs(1_000_000_000)) };
    let _holds =
        conditional::if_range_holds(headers.get("if-range").map(|value| value.as_bytes()), &now.etag);
    let Ok(preconditions) = Preconditions::parse(&headers) else { return };
    for current in [None, Some(&now)] {
        assert_ne!(preconditions.evaluate(Access::Read, current), Verdict::PreconditionRequired);
        assert!(!matches!(preconditions.evaluate(Access::Write, current), Verdict::NotModified(_)));
    }
    // Nobody writes over a file that must not be there, nor creates one that must be.
    if headers.get_all("if-none-match").iter().any(|value| value == "*") {
        assert_ne!(preconditions.evaluate(Access::Write, Some(&now)), Verdict::Proceed);
    }
    if headers.contains_key("if-match") {
        assert_ne!(preconditions.evaluate(Access::Write, None), Verdict::Proceed);
    }
});
