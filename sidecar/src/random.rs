//! Randomness for names and masks. Nothing secret is made from it.

use std::hash::{BuildHasher, RandomState};

use shared::id::RequestId;

/// 64 bits that an outsider cannot foresee: std's hasher under keys that it takes from the system. That spares
/// a dependency, and an error case that would have to be handled at every call.
fn bits() -> u64 {
    RandomState::new().hash_one(())
}

/// The key of a masked WebSocket frame.
#[must_use]
pub fn mask_key() -> [u8; 4] {
    let [a, b, c, d, ..] = nonce();
    [a, b, c, d]
}

/// Any number, by which waiting times differ.
#[must_use]
pub fn jitter() -> u8 {
    let [jitter, ..] = bits().to_be_bytes();
    jitter
}

/// Eight bytes that nobody else would send by chance.
#[must_use]
pub fn nonce() -> [u8; 8] {
    bits().to_be_bytes()
}

/// 16 hexadecimal digits, for the name of a temporary file.
#[must_use]
pub fn name() -> String {
    format!("{:016x}", bits())
}

/// A name for a request that came without one.
#[must_use]
pub fn request_id() -> RequestId {
    loop {
        // 32 hexadecimal digits are always well formed, so this returns at once; the compiler cannot know.
        let digits = [bits(), bits()].into_iter().flat_map(u64::to_be_bytes).flat_map(hex_digits);
        let mut text = String::with_capacity(32);
        text.extend(digits);
        if let Ok(id) = text.try_into() {
            return id;
        }
    }
}

/// Made for most requests, so without a formatter.
fn hex_digits(byte: u8) -> impl Iterator<Item = char> {
    [byte >> 4, byte & 0xf].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16))
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_names_differ() {
        assert_ne!(super::request_id(), super::request_id());
    }
}
