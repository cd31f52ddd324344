//! The legacy signed URL: `?userId=…&exp=…&sig=…`.
//!
//! `sig` is HMAC-SHA-256 over `{userId}.{exp}` under the signing secret, in base64url without padding. Neither
//! path, method nor body are covered: a signed URL is a bearer proof of who the user is, until `exp` (Unix
//! seconds). The dashboard signs with the same secret; what it signs verifies here unchanged.
//!
//! Closed on purpose, for no URL that a real signer emits (the legacy verifier allowed them):
//! * `exp` is 1 to 12 ASCII digits. The legacy one accepted trailing characters, which together with a dot in
//!   the user id turned one user's expired URL into another's live one.
//! * a user id is well formed ([`UserId`]), not merely prefixed.
//! * each of the three parameters occurs once. The legacy one took the first of several, and whoever reads
//!   the URL after us might take the last.

use std::borrow::Cow;

use crate::id::{USER_ID_PREFIX, UserId};
use crate::key::SigningKeys;
use crate::mac;
use crate::time::{UnixMillis, UnixSeconds};

/// Digits of `exp` at most.
const EXP_MAX_DIGITS: usize = 12;

/// Names of the three parameters, as they stand in the URL.
pub const PARAMS: [&str; 3] = ["userId", "exp", "sig"];

/// Why a proof is refused. The texts are the legacy contract's `details`; the order of the variants is the
/// order in which the checks are made, so an expired forgery says `URL expired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("Missing required params (userId, exp, sig)")]
    MissingParams,
    #[error("Invalid exp format")]
    InvalidExp,
    #[error("URL expired")]
    Expired,
    #[error("Invalid userId format")]
    InvalidUserId,
    #[error("Invalid signature")]
    InvalidSignature,
}

impl AuthError {
    /// The stable code in error bodies.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingParams => "missing_params",
            Self::InvalidExp => "invalid_exp",
            Self::Expired => "url_expired",
            Self::InvalidUserId => "invalid_user_id",
            Self::InvalidSignature => "invalid_signature",
        }
    }
}

/// The three parameters as they came, decoded, unverified.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedQuery<'a> {
    user_id: Cow<'a, str>,
    exp: Cow<'a, str>,
    sig: Cow<'a, str>,
    repeated: bool,
}

/// What a query string holds of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented<'a> {
    /// None of the three parameters, or only empty ones.
    Nothing,
    /// Some of them, not all.
    Partly,
    /// All three.
    Whole(SignedQuery<'a>),
}

impl<'a> SignedQuery<'a> {
    /// Reads a query string (without `?`) as `URLSearchParams` does: percent-decoding, `+` as a space, invalid
    /// UTF-8 as U+FFFD, an empty value as a missing one.
    #[must_use]
    pub fn read(query: &'a str) -> Presented<'a> {
        let mut found: [Option<Cow<'a, str>>; 3] = [None, None, None];
        let mut repeated = false;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = PARAMS.iter().position(|param| *param == name).and_then(|index| found.get_mut(index));
            match slot {
                Some(Some(_)) => repeated = true,
                Some(empty) => *empty = Some(value),
                None => {}
            }
        }
        match found.map(|value| value.filter(|text| !text.is_empty())) {
            [None, None, None] => Presented::Nothing,
            [Some(user_id), Some(exp), Some(sig)] => Presented::Whole(Self { user_id, exp, sig, repeated }),
            _ => Presented::Partly,
        }
    }

    /// The proof as a query string, as the signer wrote it.
    #[must_use]
    pub fn to_query(&self) -> String {
        query(&self.user_id, &self.exp, &self.sig)
    }

    /// The proof as one text, for a cookie. It is the triple itself: worth no more and no less than the URL.
    #[must_use]
    pub fn to_cookie_value(&self) -> String {
        format!("{}.{}.{}", self.user_id, self.exp, self.sig)
    }

    /// Reads [`Self::to_cookie_value`] back. The user id may hold dots; the other two cannot.
    #[must_use]
    pub fn from_cookie_value(value: &'a str) -> Option<Self> {
        let (rest, sig) = value.rsplit_once('.')?;
        let (user_id, exp) = rest.rsplit_once('.')?;
        let all_there = !(user_id.is_empty() || exp.is_empty() || sig.is_empty());
        all_there.then(|| Self { user_id: user_id.into(), exp: exp.into(), sig: sig.into(), repeated: false })
    }
}

impl std::fmt::Debug for SignedQuery<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignedQuery([not shown])")
    }
}

/// A user who has shown a valid proof, and until when it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedUser {
    user: UserId,
    expires: UnixSeconds,
}

impl VerifiedUser {
    /// Who it is.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// The last second in which the proof is valid (exclusive as soon as the clock has a fraction).
    #[must_use]
    pub const fn expires(&self) -> UnixSeconds {
        self.expires
    }
}

/// Checks a proof. The checks and their order are the legacy contract's.
///
/// # Errors
/// The first check that fails. [`AuthError::MissingParams`] is not among them: see [`SignedQuery::read`].
pub fn verify(
    keys: &SigningKeys,
    query: &SignedQuery<'_>,
    now: UnixMillis,
) -> Result<VerifiedUser, AuthError> {
    let expires = parse_exp(&query.exp).ok_or(AuthError::InvalidExp)?;
    if expires.is_before(now) {
        return Err(AuthError::Expired);
    }
    if !query.user_id.starts_with(USER_ID_PREFIX) {
        return Err(AuthError::InvalidUserId);
    }
    let user: UserId = query.user_id.parse().map_err(|_| AuthError::InvalidUserId)?;
    if query.repeated {
        return Err(AuthError::InvalidSignature);
    }
    let sig = mac::decode(&query.sig).ok_or(AuthError::InvalidSignature)?;
    let message: [&[u8]; 3] = [user.as_str().as_bytes(), b".", query.exp.as_bytes()];
    // No early exit: which of the two secrets fits must not show in the time taken.
    let fits = keys.verifying().fold(false, |fits, key| mac::verify(key, &message, &sig) | fits);
    if fits { Ok(VerifiedUser { user, expires }) } else { Err(AuthError::InvalidSignature) }
}

/// Signs a URL's query for `user`: `userId=…&exp=…&sig=…`, under the current secret.
#[must_use]
pub fn sign(keys: &SigningKeys, user: &UserId, expires: UnixSeconds) -> String {
    let exp = expires.0.to_string();
    let sig = signature(keys.signing(), user.as_str(), &exp);
    query(user.as_str(), &exp, &sig)
}

fn query(user_id: &str, exp: &str, sig: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("userId", user_id)
        .append_pair("exp", exp)
        .append_pair("sig", sig)
        .finish()
}

fn signature(key: &[u8], user_id: &str, exp: &str) -> String {
    mac::encode(&mac::tag(key, &[user_id.as_bytes(), b".", exp.as_bytes()]))
}

fn parse_exp(text: &str) -> Option<UnixSeconds> {
    let digits = (1..=EXP_MAX_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok().map(UnixSeconds) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const SECRET: &str = "test-secret-key-12345";
    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn keys(secret: &str) -> SigningKeys {
        SigningKeys::new(Secret::new(secret).unwrap(), None)
    }

    fn outcome(query: &str, now: UnixMillis) -> Result<String, AuthError> {
        match SignedQuery::read(query) {
            Presented::Whole(signed) => verify(&keys(SECRET), &signed, now).map(|ok| ok.user().to_string()),
            Presented::Nothing | Presented::Partly => Err(AuthError::MissingParams),
        }
    }

    fn query_of(user_id: &str, exp: &str, secret: &str) -> String {
        format!("userId={user_id}&exp={exp}&sig={}", signature(secret.as_bytes(), user_id, exp))
    }

    /// The contract's published vectors (A.5).
    #[test]
    fn contract_vectors() {
        let unicode = "s3cr3t/with+chars=and ünïcode";
        let rows = [
            (SECRET, "user_abc123", "1700000000", "zmyuZKKbdoFC3ymgpQa5-zllDt2ZkzZWgL5B6L2IbKg"),
            (SECRET, "user_abc123", "4102444800", "cuYC_M81MOZNpKBccc1PjsXSurPh_3-PbJ4w4DcvOqw"),
            (
                SECRET,
                "user_2NcQnKQ8p9XwZtR4aBcDeFgHiJk",
                "4102444800",
                "ASRZ2ZjxDk3usn-qI1Ak_FFD4SaXzffG6YUd6OO_rbI",
            ),
            (unicode, "user_ABC.def-1", "1893456000", "ZXXB6fB-flyw_iuynUtcXdCl0ASzpG2xQ4eA6vp0ECQ"),
            (SECRET, "user_test1", "4102444800", "sKMQFv_ZtqsKvaIt0S4t-lIB68_122uNmLienmANI1Q"),
        ];
        for (secret, user_id, exp, sig) in rows {
            assert_eq!(signature(secret.as_bytes(), user_id, exp), sig, "{user_id} {exp}");
            let signed = sign(&keys(secret), &user_id.parse().unwrap(), UnixSeconds(exp.parse().unwrap()));
            assert_eq!(signed, format!("userId={user_id}&exp={exp}&sig={sig}"));
            let Presented::Whole(query) = SignedQuery::read(&signed) else { panic!("{signed}") };
            let verified = verify(&keys(secret), &query, UnixMillis(1_699_999_999_000)).unwrap();
            assert_eq!(verified.user().as_str(), user_id);
            assert_eq!(verified.expires().0.to_string(), exp);
        }
    }

    #[test]
    fn legacy_quirks_are_closed() {
        // The legacy verifier accepted both; the second is an expired URL of `user_abc.9999999999`.
        let junk = "userId=user_abc123&exp=4102444800abc&sig=xxPM3o7JLUI3eAwhMHU9UaONZB2ukxmWYtwEGeRM-nY";
        let pair = "1ObUNy3YiI2BXpO8anzo6OzmtlXwzelBP7FlmxDqgO4";
        assert_eq!(outcome(junk, NOW), Err(AuthError::InvalidExp));
        let twin = format!("userId=user_abc&exp=9999999999.1700000000&sig={pair}");
        assert_eq!(outcome(&twin, NOW), Err(AuthError::InvalidExp));
        let original = format!("userId=user_abc.9999999999&exp=1700000000&sig={pair}");
        assert_eq!(outcome(&original, NOW), Err(AuthError::Expired));
        assert_eq!(outcome(&original, UnixMillis(1_600_000_000_000)), Ok("user_abc.9999999999".to_owned()));
    }

    /// The cases of the legacy test-suite (A.3) and of the check order (A.2).
    #[test]
    fn contract_cases() {
        let good = query_of("user_abc123", "4102444800", SECRET);
        let sig = good.rsplit_once('=').unwrap().1;
        let long = format!("user_{}", "a".repeat(5000));
        let rows: &[(&str, String, Result<&str, AuthError>)] = &[
            ("valid", good.clone(), Ok("user_abc123")),
            ("valid among others", format!("a=1&{good}&path=%2Froot"), Ok("user_abc123")),
            ("percent-encoded", good.replace("user_", "%75ser%5F"), Ok("user_abc123")),
            (
                "literal nonsense",
                "userId=user_abc123&exp=4102444800&sig=invalid-signature".into(),
                Err(AuthError::InvalidSignature),
            ),
            (
                "other secret",
                query_of("user_abc123", "4102444800", "other"),
                Err(AuthError::InvalidSignature),
            ),
            ("swapped user", good.replace("abc123", "other1"), Err(AuthError::InvalidSignature)),
            ("later exp", good.replace("4102444800", "4102445800"), Err(AuthError::InvalidSignature)),
            ("an hour ago", query_of("user_abc123", "1799996400", SECRET), Err(AuthError::Expired)),
            ("expired forgery says expired", "userId=nobody&exp=1&sig=x".into(), Err(AuthError::Expired)),
            ("no userId", format!("exp=4102444800&sig={sig}"), Err(AuthError::MissingParams)),
            ("no exp", format!("userId=user_abc123&sig={sig}"), Err(AuthError::MissingParams)),
            ("no sig", "userId=user_abc123&exp=4102444800".into(), Err(AuthError::MissingParams)),
            ("empty sig", "userId=user_abc123&exp=4102444800&sig=".into(), Err(AuthError::MissingParams)),
            ("nothing", String::new(), Err(AuthError::MissingParams)),
            ("names have a case", good.replace("userId", "userid"), Err(AuthError::MissingParams)),
            ("not a user", query_of("abc123", "4102444800", SECRET), Err(AuthError::InvalidUserId)),
            ("exp not a number", query_of("user_abc123", "soon", SECRET), Err(AuthError::InvalidExp)),
            ("exp negative", query_of("user_abc123", "-1", SECRET), Err(AuthError::InvalidExp)),
            ("exp with sign", query_of("user_abc123", "%2B4102444800", SECRET), Err(AuthError::InvalidExp)),
            ("exp with space", query_of("user_abc123", "+4102444800", SECRET), Err(AuthError::InvalidExp)),
            ("exp too long", query_of("user_abc123", "4102444800000", SECRET), Err(AuthError::InvalidExp)),
            ("exp in Arabic digits", query_of("user_abc123", "%D9%A4", SECRET), Err(AuthError::InvalidExp)),
            ("truncated sig", good[..good.len() - 1].into(), Err(AuthError::InvalidSignature)),
            ("padded sig", format!("{good}%3D"), Err(AuthError::InvalidSignature)),
            ("sig twice over", format!("{good}{sig}"), Err(AuthError::InvalidSignature)),
            ("repeated sig", format!("{good}&sig={sig}"), Err(AuthError::InvalidSignature)),
            ("second user", format!("{good}&userId=user_other"), Err(AuthError::InvalidSignature)),
            ("first of two users", format!("userId=user_other&{good}"), Err(AuthError::InvalidSignature)),
            ("empty first user", format!("userId=&{good}"), Err(AuthError::MissingParams)),
            ("not UTF-8", format!("userId=user_%ff&exp=4102444800&sig={sig}"), Err(AuthError::InvalidUserId)),
            (
                "not UTF-8 in sig",
                "userId=user_abc123&exp=4102444800&sig=%ff%fe".into(),
                Err(AuthError::InvalidSignature),
            ),
            (
                "NUL in user",
                format!("userId=user_abc123%00&exp=4102444800&sig={sig}"),
                Err(AuthError::InvalidUserId),
            ),
            ("slash in user", query_of("user_a%2Fb", "4102444800", SECRET), Err(AuthError::InvalidUserId)),
            ("over-long user", query_of(&long, "4102444800", SECRET), Err(AuthError::InvalidUserId)),
            ("over-long sig", format!("{good}{}", "A".repeat(70_000)), Err(AuthError::InvalidSignature)),
        ];
        for (name, query, expected) in rows {
            assert_eq!(outcome(query, NOW), expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn texts_and_codes_are_the_contracts() {
        for (error, text) in [
            (AuthError::MissingParams, "Missing required params (userId, exp, sig)"),
            (AuthError::InvalidExp, "Invalid exp format"),
            (AuthError::Expired, "URL expired"),
            (AuthError::InvalidUserId, "Invalid userId format"),
            (AuthError::InvalidSignature, "Invalid signature"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn expiry_follows_the_fraction_of_the_second() {
        let query = query_of("user_a", "1800000000", SECRET);
        assert!(outcome(&query, UnixMillis(1_800_000_000_000)).is_ok());
        assert_eq!(outcome(&query, UnixMillis(1_800_000_000_001)), Err(AuthError::Expired));
    }

    #[test]
    fn during_a_rotation_both_secrets_verify_and_the_new_one_signs() {
        let both = SigningKeys::new(Secret::new("new").unwrap(), Secret::new("old"));
        for (secret, fits) in [("new", true), ("old", true), ("older", false)] {
            let text = query_of("user_a", "4102444800", secret);
            let Presented::Whole(query) = SignedQuery::read(&text) else { panic!("{text}") };
            assert_eq!(verify(&both, &query, NOW).is_ok(), fits, "{secret}");
        }
        let user = "user_a".parse().unwrap();
        assert_eq!(sign(&both, &user, UnixSeconds(4_102_444_800)), query_of("user_a", "4102444800", "new"));
    }

    #[test]
    fn signatures_are_url_safe() {
        for n in 0..100 {
            let sig = signature(SECRET.as_bytes(), "user_abc123", &n.to_string());
            assert_eq!(sig.len(), 43);
            assert!(sig.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{sig}");
        }
    }

    #[test]
    fn debug_shows_no_proof() {
        let query = query_of("user_abc123", "4102444800", SECRET);
        assert!(!format!("{:?}", SignedQuery::read(&query)).contains("abc123"));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(user in "user_[A-Za-z0-9_.-]{1,123}", exp in 1_800_000_001_u64..=999_999_999_999) {
            let query = sign(&keys(SECRET), &user.parse().unwrap(), UnixSeconds(exp));
            prop_assert_eq!(outcome(&query, NOW), Ok(user.clone()));
            // ... and so does the cookie made of it.
            let Presented::Whole(signed) = SignedQuery::read(&query) else { panic!("{query}") };
            let cookie = signed.to_cookie_value();
            let back = SignedQuery::from_cookie_value(&cookie).unwrap();
            let verified = verify(&keys(SECRET), &back, NOW).unwrap();
            prop_assert_eq!(verified.user().as_str(), user);
        }

        #[test]
        fn any_changed_byte_is_refused(user in "user_[A-Za-z0-9]{1,27}", at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let query = query_of(&user, "4102444800", SECRET);
            let mut bytes = query.clone().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != with);
            bytes[at] = with;
            let changed = String::from_utf8_lossy(&bytes);
            // A change that decodes to the same three values is no tampering; there is none in one byte.
            prop_assert!(outcome(&changed, NOW).is_err(), "{} became {}", query, changed);
        }

        #[test]
        fn no_query_panics(query in "\\PC*") {
            let _ = outcome(&query, NOW);
        }

        #[test]
        fn no_cookie_panics(value in "\\PC*") {
            if let Some(query) = SignedQuery::from_cookie_value(&value) {
                prop_assert!(verify(&keys(SECRET), &query, NOW).is_err());
            }
        }
    }
}
