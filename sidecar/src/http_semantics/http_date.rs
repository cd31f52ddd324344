//! Dates in headers. They have whole seconds, so two versions of a file can share one; only entity tags tell
//! them apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;

/// `None` if it is no HTTP date, in any of its three forms. Such a header is ignored (RFC 9110 section 13.1.3).
#[must_use]
pub fn parse(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim_ascii()).ok()
}

/// For `Last-Modified` and the like. `None` for times that HTTP cannot write: before 1970 or after 9999.
#[must_use]
pub fn header(time: SystemTime) -> Option<HeaderValue> {
    let time = whole_seconds(time)?;
    HeaderValue::from_maybe_shared(Bytes::from(httpdate::fmt_http_date(time))).ok()
}

/// What remains of `time` in a header. `None` as for [`header()`].
#[must_use]
pub fn whole_seconds(time: SystemTime) -> Option<SystemTime> {
    /// The first second of the year 10000.
    const END: u64 = 253_402_300_800;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds < END).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_forms_are_read_and_one_is_written() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse(text.as_bytes()), Some(time), "{text}");
        }
        for text in ["", "1994", "Sun, 06 Nov 1994 08:49:37", "Sun, 31 Feb 1994 08:49:37 GMT", "0", "\u{ff}"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(header(time + Duration::from_millis(999)).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(header(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(header(UNIX_EPOCH + Duration::from_secs(253_402_300_800)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0u64..253_402_300_800, nanos in 0u32..1_000_000_000) {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            let text = header(time).unwrap();
            prop_assert_eq!(parse(text.as_bytes()), whole_seconds(time));
        }

        #[test]
        fn anything_is_a_date_or_nothing(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _date = parse(&text);
        }
    }
}
