//! The frame of `multipart/byteranges` (RFC 9110 section 14.6): what stands before, between and after the ranges.

use http::HeaderValue;

use super::range::ByteRange;

/// The frame around the ranges of one answer. Its length is known beforehand, so that the answer has a
/// `Content-Length` and a client sees when it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    boundary: String,
    /// What stands before each range.
    heads: Vec<String>,
    tail: String,
    length: u64,
}

impl Frame {
    /// `boundary` must not occur in the file: 128 random bits do not. It holds letters and digits only.
    #[must_use]
    pub fn new(boundary: &str, content_type: &str, ranges: &[ByteRange], size: u64) -> Self {
        let head = |(index, range): (usize, &ByteRange)| {
            let line_end = if index == 0 { "" } else { "\r\n" };
            let content_range = range.content_range(size);
            format!(
                "{line_end}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range}\r\n\r\n"
            )
        };
        let heads: Vec<String> = ranges.iter().enumerate().map(head).collect();
        let tail = format!("\r\n--{boundary}--\r\n");
        let framing = heads.iter().map(String::len).sum::<usize>() + tail.len();
        let framing = u64::try_from(framing).unwrap_or(u64::MAX);
        let length = ranges.iter().fold(framing, |sum, range| sum.saturating_add(range.len()));
        Self { boundary: boundary.to_owned(), heads, tail, length }
    }

    /// Of the whole body.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Never: the tail is always there.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    #[must_use]
    pub fn content_type(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("multipart/byteranges; boundary={}", self.boundary)).ok()
    }

    /// The texts before each range, and the one after the last.
    #[must_use]
    pub fn into_texts(self) -> (Vec<String>, String) {
        (self.heads, self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::{Selection, select};
    use super::*;

    #[test]
    fn the_frame_and_its_length() {
        let Selection::Many(ranges) = select(Some(b"bytes=0-1,8-9"), 10) else { panic!() };
        let frame = Frame::new("b0", "text/plain", &ranges, 10);
        assert_eq!(frame.content_type().unwrap(), "multipart/byteranges; boundary=b0");
        let length = frame.len();
        let (heads, tail) = frame.into_texts();
        let body = format!("{}01{}89{tail}", heads[0], heads[1]);
        assert_eq!(
            body,
            "--b0\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n\
             --b0\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--b0--\r\n"
        );
        assert_eq!(length, body.len() as u64);
    }
}
