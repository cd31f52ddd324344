//! File names in `Content-Disposition` (RFC 6266).

use std::fmt::Write;

use http::HeaderValue;

/// `attachment` with the name twice: in ASCII for every client, and exactly, in UTF-8, for all of today's. Names
/// that are not UTF-8 have replacement characters in their place.
#[must_use]
pub fn attachment(name: &[u8]) -> HeaderValue {
    let name = String::from_utf8_lossy(name);
    // A quote or backslash could end the name early or escape its end, `%` is decoded by some clients, and a
    // control character could end the line.
    let plain = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%');
    let ascii: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{ascii}\"");
    if ascii != name {
        text.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _infallible = write!(text, "%{byte:02X}");
            }
        }
    }
    // All of it is printable ASCII by now.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows() {
        let rows: [(&[u8], &str); 7] = [
            (b"a.txt", "attachment; filename=\"a.txt\""),
            (b"a b;c.txt", "attachment; filename=\"a b;c.txt\""),
            (b"a\"b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
            (b"a\\", "attachment; filename=\"a_\"; filename*=UTF-8''a%5C"),
            (b"a\r\nX: y", "attachment; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
            ("é.md".as_bytes(), "attachment; filename=\"_.md\"; filename*=UTF-8''%C3%A9.md"),
            (b"\xff", "attachment; filename=\"_\"; filename*=UTF-8''%EF%BF%BD"),
        ];
        for (name, expected) in rows {
            assert_eq!(attachment(name), expected);
        }
    }

    proptest! {
        #[test]
        fn it_is_one_line_with_one_quoted_name(name in prop::collection::vec(any::<u8>(), 0..255)) {
            let value = attachment(&name);
            let text = value.to_str().unwrap();
            prop_assert_eq!(text.matches('"').count(), 2);
            prop_assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }
}
