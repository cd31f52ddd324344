//! The file's path in a request's target, behind `/api/files/raw/`.
//!
//! It is percent-decoded exactly once. The result is only bytes without surprises; the workspace's own path type
//! then judges names and lengths.

/// Why the target names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("a percent sign is not followed by two hexadecimal digits")]
    Escape,
    #[error("a separator is percent-encoded")]
    EncodedSeparator,
    /// Some part between the client and us encodes twice, and would soon read another file than it names.
    #[error("the path is percent-encoded twice")]
    EncodedTwice,
    #[error("the path holds a NUL")]
    Nul,
    #[error("a part of the path is empty")]
    EmptySegment,
    #[error("a part of the path is . or ..")]
    DotSegment,
}

/// Decodes `target`, which begins after the slash that ends the route's own part.
///
/// # Errors
/// See [`BadTarget`].
pub fn decode(target: &str) -> Result<Vec<u8>, BadTarget> {
    let mut path = Vec::with_capacity(target.len());
    for (index, segment) in target.split('/').enumerate() {
        if index > 0 {
            path.push(b'/');
        }
        let name = unescape(segment)?;
        match name.as_slice() {
            b"" => return Err(BadTarget::EmptySegment),
            b"." | b".." => return Err(BadTarget::DotSegment),
            name if name.contains(&b'/') => return Err(BadTarget::EncodedSeparator),
            name if name.contains(&0) => return Err(BadTarget::Nul),
            name if means_more_when_decoded_again(name) => return Err(BadTarget::EncodedTwice),
            name => path.extend_from_slice(name),
        }
    }
    Ok(path)
}

fn unescape(segment: &str) -> Result<Vec<u8>, BadTarget> {
    let mut bytes = segment.bytes();
    let mut name = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = bytes.next().and_then(hex).ok_or(BadTarget::Escape)?;
                let low = bytes.next().and_then(hex).ok_or(BadTarget::Escape)?;
                high << 4 | low
            }
            other => other,
        };
        name.push(byte);
    }
    Ok(name)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Whether `name` still holds an escape of a separator, a dot or a NUL. A file may be called `100%`, or `%20`;
/// nobody calls one `%2F`.
fn means_more_when_decoded_again(name: &[u8]) -> bool {
    const SUSPECT: [&[u8; 3]; 4] = [b"%2f", b"%5c", b"%2e", b"%00"];
    name.windows(3).any(|window| SUSPECT.iter().any(|escape| window.eq_ignore_ascii_case(*escape)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows() {
        let rows: [(&str, Result<&[u8], BadTarget>); 27] = [
            ("a.txt", Ok(b"a.txt")),
            ("a/b/c", Ok(b"a/b/c")),
            ("%61%2Etxt", Ok(b"a.txt")),
            ("a%20b", Ok(b"a b")),
            ("a+b", Ok(b"a+b")),
            ("100%25", Ok(b"100%")),
            ("%2520", Ok(b"%20")),
            ("a..b", Ok(b"a..b")),
            ("...", Ok(b"...")),
            ("a%5Cb", Ok(b"a\\b")),
            ("%C3%A9", Ok("é".as_bytes())),
            ("%FF", Ok(b"\xff")),
            ("", Err(BadTarget::EmptySegment)),
            ("a/", Err(BadTarget::EmptySegment)),
            ("/etc/passwd", Err(BadTarget::EmptySegment)),
            ("a//b", Err(BadTarget::EmptySegment)),
            ("..", Err(BadTarget::DotSegment)),
            ("a/../b", Err(BadTarget::DotSegment)),
            ("a/%2e%2E/b", Err(BadTarget::DotSegment)),
            ("./a", Err(BadTarget::DotSegment)),
            ("a%2Fb", Err(BadTarget::EncodedSeparator)),
            ("..%2f..%2fetc", Err(BadTarget::EncodedSeparator)),
            ("a%252Fb", Err(BadTarget::EncodedTwice)),
            ("%252e%252e", Err(BadTarget::EncodedTwice)),
            ("a%00b", Err(BadTarget::Nul)),
            ("a%2", Err(BadTarget::Escape)),
            ("a%zzb", Err(BadTarget::Escape)),
        ];
        for (target, expected) in rows {
            assert_eq!(decode(target).as_deref(), expected.as_ref().map(|path| *path), "{target}");
        }
    }

    fn escaped(path: &[u8]) -> String {
        path.iter().map(|byte| if *byte == b'/' { "/".to_owned() } else { format!("%{byte:02x}") }).collect()
    }

    proptest! {
        #[test]
        fn what_comes_out_stays_beneath_and_means_one_thing(target in "[a./%025eEfFc\\\\]{0,30}") {
            if let Ok(path) = decode(&target) {
                prop_assert!(!path.contains(&0));
                for segment in path.split(|byte| *byte == b'/') {
                    prop_assert!(!segment.is_empty() && segment != b"." && segment != b"..");
                }
                prop_assert_eq!(target.matches('/').count(), path.iter().filter(|byte| **byte == b'/').count());
                prop_assert_eq!(decode(&escaped(&path)), Ok(path));
            }
        }

        #[test]
        fn any_target_decodes_or_is_refused(target: String) {
            let _path = decode(&target);
        }
    }
}
