//! Session tokens of the dashboard's users: JSON Web Tokens (RFC 7519), as Clerk issues them.
//!
//! One algorithm is accepted, RS256, and it is looked at before anything else: a token that names another one
//! (`none`, or `HS256` under the public key as a secret) never gets as far as a key. Keys come from the
//! configuration, so no token makes this edge ask a server anything.
//!
//! The signature is verified by the platform, between two steps that are pure:
//! [`parse`] → [`Unverified`] → (the platform verifies [`Unverified::signed`]) → [`Unverified::settle`] →
//! [`Claims`] → [`check`] → [`UserId`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use shared::id::UserId;
use shared::time::UnixMillis;

/// Longest token accepted, in bytes. Clerk keeps its own below 4 KiB, the limit of a cookie.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Longest key id accepted, in bytes. Clerk's have 32.
const KID_MAX_BYTES: usize = 128;

/// Bytes of an RSA modulus, and so of a signature: 2048 to 4096 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// How far the issuer's clock and ours may be apart, in ms.
pub const LEEWAY_MS: u64 = 5_000;

/// Why a token is refused. The texts go to the client; none repeats what the token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("Not a token of three parts in base64url")]
    Malformed,
    #[error("The token is too long")]
    TooLong,
    #[error("Tokens are signed with RS256, and with nothing else")]
    Algorithm,
    #[error("The token is of another type, or asks for an extension")]
    Type,
    #[error("The token's claims are missing or of the wrong kind")]
    InvalidClaims,
    #[error("The token's key is not known")]
    UnknownKey,
    #[error("The token's signature does not fit")]
    Signature,
    #[error("The token is from another issuer")]
    Issuer,
    #[error("The token was issued to another party")]
    AuthorizedParty,
    #[error("The token has expired")]
    Expired,
    #[error("The token is not valid yet")]
    NotYetValid,
    #[error("The session has steps to finish first")]
    Pending,
    #[error("The token's subject is no user")]
    Subject,
}

impl TokenError {
    /// The stable code in error bodies.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::TooLong => "token_too_long",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::InvalidClaims => "token_claims",
            Self::UnknownKey => "token_key_unknown",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::AuthorizedParty => "token_party",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Pending => "token_pending",
            Self::Subject => "token_subject",
        }
    }
}

/// A token that says what it says. Nobody has looked at its signature, so nothing of its claims can be had.
pub struct Unverified {
    kid: String,
    signed: String,
    signature: Vec<u8>,
    claims: Claims,
}

/// Shows no part of the token: it is a credential.
impl std::fmt::Debug for Unverified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unverified([not shown])")
    }
}

/// What a signed token claims. Its times and names still have to pass [`check`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    iss: String,
    sub: String,
    /// The origin that the token was issued to.
    azp: Option<String>,
    /// Seconds since 1970, as the other two.
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    /// The session's status.
    sts: Option<String>,
}

/// Whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPolicy {
    pub issuer: String,
    /// Origins of which one has to be the token's `azp`. Empty: not looked at. Clerk leaves the claim out for a
    /// browser that hides its origin; such a token could be anybody's, so it is refused too.
    pub authorized_parties: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood. We understand none.
    crit: Option<serde::de::IgnoredAny>,
}

/// Reads a token without believing it. Of a repeated JSON key that matters, neither value counts: the token is
/// refused.
///
/// # Errors
/// Form, algorithm and type, in this order.
pub fn parse(token: &str) -> Result<Unverified, TokenError> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = json(header).ok_or(TokenError::Malformed)?;
    if header.alg != "RS256" {
        return Err(TokenError::Algorithm);
    }
    // An access token for another application names its type, bears the same key's signature, and is not for us.
    if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) || header.crit.is_some() {
        return Err(TokenError::Type);
    }
    let kid = header.kid.filter(|kid| is_key_id(kid)).ok_or(TokenError::UnknownKey)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    if !MODULUS_BYTES.contains(&signature.len()) {
        return Err(TokenError::Signature);
    }
    let claims = json(payload).ok_or(TokenError::InvalidClaims)?;
    Ok(Unverified { kid, signed: signed.to_owned(), signature, claims })
}

impl Unverified {
    /// The id of the key that it names.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The text that is signed.
    #[must_use]
    pub fn signed(&self) -> &str {
        &self.signed
    }

    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The only way to the claims: by saying whether the signature over [`Self::signed`] fits the key of
    /// [`Self::kid`].
    ///
    /// # Errors
    /// It does not.
    pub fn settle(self, signature_fits: bool) -> Result<Claims, TokenError> {
        if signature_fits { Ok(self.claims) } else { Err(TokenError::Signature) }
    }
}

/// Whom signed claims stand for now.
///
/// # Errors
/// The first check that fails: issuer, party, times, the session's status, subject.
pub fn check(claims: &Claims, now: UnixMillis, policy: &TokenPolicy) -> Result<UserId, TokenError> {
    if claims.iss != policy.issuer {
        return Err(TokenError::Issuer);
    }
    let parties = &policy.authorized_parties;
    if !parties.is_empty() && !claims.azp.as_ref().is_some_and(|azp| parties.contains(azp)) {
        return Err(TokenError::AuthorizedParty);
    }
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    if ms(claims.exp).saturating_add(LEEWAY_MS) <= now.0 {
        return Err(TokenError::Expired);
    }
    let latest = now.plus_ms(LEEWAY_MS).0;
    if [claims.nbf, claims.iat].into_iter().flatten().any(|from| ms(from) > latest) {
        return Err(TokenError::NotYetValid);
    }
    // Signed in, and with a task left that the application asks of its users: for Clerk that is signed out.
    if claims.sts.as_deref() == Some("pending") {
        return Err(TokenError::Pending);
    }
    claims.sub.parse().map_err(|_| TokenError::Subject)
}

/// A segment's JSON. Base64url is read strictly: no padding, no spare bits, no other alphabet.
fn json<T: for<'de> Deserialize<'de>>(segment: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn is_key_id(text: &str) -> bool {
    (1..=KID_MAX_BYTES).contains(&text.len())
}

/// Public keys by id: a JWK Set (RFC 7517), as Clerk publishes it under `/.well-known/jwks.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet(Vec<PublicKey>);

/// One RSA key. Modulus and exponent stay in base64url, the form in which the platform takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub kid: String,
    pub modulus: String,
    pub exponent: String,
}

/// Why a JWK Set is no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("not a JSON object with keys")]
    Json,
    #[error("it holds no key for RS256 signatures")]
    Empty,
    #[error("a key has no id, or shares it with another")]
    Id,
    #[error("a key is not of 2048 to 4096 bits, or not in base64url")]
    Size,
}

impl KeySet {
    /// Reads a JWK Set. Keys for other algorithms or uses are passed over: they sign nothing that is accepted.
    ///
    /// # Errors
    /// A set that could not verify anything, or would do so by the wrong key.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Jwk>,
        }
        #[derive(Deserialize)]
        struct Jwk {
            kty: String,
            #[serde(rename = "use")]
            usage: Option<String>,
            alg: Option<String>,
            kid: Option<String>,
            n: Option<String>,
            e: Option<String>,
        }
        let set: Set = serde_json::from_str(text).map_err(|_| KeySetError::Json)?;
        let mut keys: Vec<PublicKey> = Vec::new();
        for jwk in set.keys {
            let signs = jwk.usage.as_deref().unwrap_or("sig") == "sig";
            if jwk.kty != "RSA" || !signs || jwk.alg.as_deref().unwrap_or("RS256") != "RS256" {
                continue;
            }
            let kid = jwk.kid.filter(|kid| is_key_id(kid)).ok_or(KeySetError::Id)?;
            if keys.iter().any(|key| key.kid == kid) {
                return Err(KeySetError::Id);
            }
            let (modulus, exponent) = jwk.n.zip(jwk.e).ok_or(KeySetError::Size)?;
            let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| KeySetError::Size);
            let n = bytes(&modulus)?;
            let significant = n.iter().skip_while(|byte| **byte == 0).count();
            // An exponent of one would make every text its own signature.
            let e = bytes(&exponent)?;
            if !MODULUS_BYTES.contains(&significant) || matches!(e.as_slice(), [] | [0..=2]) {
                return Err(KeySetError::Size);
            }
            keys.push(PublicKey { kid, modulus, exponent });
        }
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self(keys)) }
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.kid == kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const NOW_S: u64 = 1_800_000_000;

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", encode(header), encode(payload), encode([7; 256]))
    }

    fn header() -> Value {
        json!({"alg": "RS256", "kid": "k1", "typ": "JWT"})
    }

    fn claims() -> Value {
        json!({
            "iss": "https://clerk.example", "sub": "user_a", "azp": "https://automna.ai",
            "exp": NOW_S + 60, "nbf": NOW_S - 10, "iat": NOW_S, "sid": "sess_1",
        })
    }

    /// `base` with one member replaced, or removed by `null`.
    fn with(mut base: Value, name: &str, value: Value) -> String {
        let members = base.as_object_mut().unwrap();
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.to_owned(), value);
        }
        base.to_string()
    }

    fn refusal(token: &str) -> Option<TokenError> {
        parse(token).err()
    }

    #[test]
    fn headers() {
        let rows = [
            ("alg", json!("RS256"), None),
            ("alg", json!("none"), Some(TokenError::Algorithm)),
            ("alg", json!("None"), Some(TokenError::Algorithm)),
            ("alg", json!(""), Some(TokenError::Algorithm)),
            ("alg", json!("HS256"), Some(TokenError::Algorithm)),
            ("alg", json!("rs256"), Some(TokenError::Algorithm)),
            ("alg", json!("RS384"), Some(TokenError::Algorithm)),
            ("alg", json!("PS256"), Some(TokenError::Algorithm)),
            ("alg", json!("ES256"), Some(TokenError::Algorithm)),
            ("alg", json!(["RS256"]), Some(TokenError::Malformed)),
            ("alg", Value::Null, Some(TokenError::Malformed)),
            ("typ", json!("jwt"), None),
            ("typ", Value::Null, None),
            ("typ", json!("at+jwt"), Some(TokenError::Type)),
            ("crit", json!(["b64"]), Some(TokenError::Type)),
            ("crit", json!([]), Some(TokenError::Type)),
            ("kid", Value::Null, Some(TokenError::UnknownKey)),
            ("kid", json!(""), Some(TokenError::UnknownKey)),
            ("kid", json!("k".repeat(KID_MAX_BYTES)), None),
            ("kid", json!("k".repeat(KID_MAX_BYTES + 1)), Some(TokenError::UnknownKey)),
            ("kid", json!(1), Some(TokenError::Malformed)),
            // Members by which a token could bring its own key are not even read.
            ("jwk", json!({"kty": "RSA"}), None),
            ("jku", json!("https://evil.example/keys"), None),
        ];
        for (name, value, expected) in rows {
            let token = token(&with(header(), name, value.clone()), &claims().to_string());
            assert_eq!(refusal(&token), expected, "{name}: {value}");
        }
    }

    #[test]
    fn an_algorithm_is_refused_before_anything_behind_it_is_read() {
        for algorithm in ["none", "HS256"] {
            let header = encode(json!({"alg": algorithm}).to_string());
            assert_eq!(refusal(&format!("{header}.!.!")), Some(TokenError::Algorithm));
            assert_eq!(refusal(&format!("{header}..")), Some(TokenError::Algorithm));
        }
    }

    #[test]
    fn forms() {
        let good = token(&header().to_string(), &claims().to_string());
        assert_eq!(refusal(&good), None);
        let parts: Vec<&str> = good.split('.').collect();
        let (head, body, sig) = (parts[0], parts[1], parts[2]);
        let short = encode([7; 255]);
        let long = encode([7; 513]);
        let padding = "A".repeat(TOKEN_MAX_BYTES);
        let plus = format!("{}+", &body[..body.len() - 1]);
        let rows = [
            (String::new(), TokenError::Malformed),
            ("x".into(), TokenError::Malformed),
            (format!("{head}.{body}"), TokenError::Malformed),
            (format!("{head}.{body}.{sig}="), TokenError::Malformed),
            (format!("{head}.{body}.{sig} "), TokenError::Malformed),
            (format!("{head}=.{body}.{sig}"), TokenError::Malformed),
            (format!("{head}.{body}."), TokenError::Signature),
            (format!("{head}.{body}.{short}"), TokenError::Signature),
            (format!("{head}.{body}.{long}"), TokenError::Signature),
            (format!("{head}..{sig}"), TokenError::InvalidClaims),
            (format!("{head}.{plus}.{sig}"), TokenError::InvalidClaims),
            // A fourth part ends up in the claims, where no dot is base64url.
            (format!("{good}.{sig}"), TokenError::InvalidClaims),
            (format!("{head}.{body}.{padding}"), TokenError::TooLong),
        ];
        for (token, expected) in rows {
            assert_eq!(refusal(&token), Some(expected), "{token:.80}");
        }
        // The last character of 256 bytes carries four spare bits: they have to be zero.
        let sloppy = format!("{head}.{body}.{}9", &sig[..sig.len() - 1]);
        assert_eq!(refusal(&sloppy), Some(TokenError::Malformed));
    }

    #[test]
    fn a_repeated_key_is_nobodys() {
        let twice = r#"{"alg":"RS256","alg":"none","kid":"k1"}"#;
        assert_eq!(refusal(&token(twice, &claims().to_string())), Some(TokenError::Malformed));
        let body = claims().to_string();
        for extra in [r#""sub":"user_b""#, r#""exp":9999999999"#, r#""iss":"x""#, r#""azp":"x""#] {
            let doubled = format!("{},{extra}}}", &body[..body.len() - 1]);
            assert_eq!(refusal(&token(&header().to_string(), &doubled)), Some(TokenError::InvalidClaims));
        }
    }

    fn judge(body: &str, policy: &TokenPolicy) -> Result<String, TokenError> {
        let claims = parse(&token(&header().to_string(), body))?.settle(true)?;
        check(&claims, NOW, policy).map(|user| user.to_string())
    }

    fn policy(parties: &[&str]) -> TokenPolicy {
        TokenPolicy {
            issuer: "https://clerk.example".into(),
            authorized_parties: parties.iter().map(|party| (*party).to_owned()).collect(),
        }
    }

    #[test]
    fn claims_are_judged() {
        use TokenError::{AuthorizedParty, Expired, InvalidClaims, Issuer, NotYetValid, Pending, Subject};
        let ours: &[&str] = &["https://www.automna.ai", "https://automna.ai"];
        let leeway = LEEWAY_MS / 1000;
        let null = Value::Null;
        let rows: Vec<(&str, Value, &[&str], Option<TokenError>)> = vec![
            ("sid", json!("other"), ours, None),
            ("iss", json!("https://clerk.example/"), ours, Some(Issuer)),
            ("iss", json!("https://evil.example"), ours, Some(Issuer)),
            ("iss", null.clone(), ours, Some(InvalidClaims)),
            ("azp", json!("https://evil.example"), ours, Some(AuthorizedParty)),
            ("azp", null.clone(), ours, Some(AuthorizedParty)),
            ("azp", json!("https://evil.example"), &[], None),
            ("azp", null.clone(), &[], None),
            ("azp", json!(["https://automna.ai"]), ours, Some(InvalidClaims)),
            ("exp", json!(NOW_S), ours, None),
            ("exp", json!(NOW_S - leeway + 1), ours, None),
            ("exp", json!(NOW_S - leeway), ours, Some(Expired)),
            ("exp", json!(0), ours, Some(Expired)),
            ("exp", null.clone(), ours, Some(InvalidClaims)),
            ("exp", json!("9999999999"), ours, Some(InvalidClaims)),
            ("exp", json!(-1), ours, Some(InvalidClaims)),
            ("exp", json!(1e300), ours, Some(InvalidClaims)),
            ("exp", json!(u64::MAX), ours, None),
            ("nbf", json!(NOW_S + leeway), ours, None),
            ("nbf", json!(NOW_S + leeway + 1), ours, Some(NotYetValid)),
            ("nbf", json!(u64::MAX), ours, Some(NotYetValid)),
            ("nbf", null.clone(), ours, None),
            ("iat", json!(NOW_S + leeway + 1), ours, Some(NotYetValid)),
            ("iat", null.clone(), ours, None),
            ("sts", json!("active"), ours, None),
            ("sts", json!("pending"), ours, Some(Pending)),
            ("sub", json!("user_B"), ours, None),
            ("sub", json!("sess_a"), ours, Some(Subject)),
            ("sub", json!("user_a/../b"), ours, Some(Subject)),
            ("sub", json!("user_"), ours, Some(Subject)),
            ("sub", null, ours, Some(InvalidClaims)),
        ];
        for (name, value, parties, expected) in rows {
            let judged = judge(&with(claims(), name, value.clone()), &policy(parties));
            assert_eq!(judged.err(), expected, "{name}: {value}");
        }
        assert_eq!(judge(&claims().to_string(), &policy(ours)), Ok("user_a".into()));
    }

    #[test]
    fn without_a_fitting_signature_there_are_no_claims() {
        let token = token(&header().to_string(), &claims().to_string());
        assert_eq!(parse(&token).unwrap().settle(false), Err(TokenError::Signature));
        let unverified = parse(&token).unwrap();
        assert_eq!((unverified.kid(), unverified.signature()), ("k1", [7; 256].as_slice()));
        assert_eq!(token, format!("{}.{}", unverified.signed(), encode([7; 256])));
        assert!(!format!("{unverified:?}").contains("user_a"));
    }

    #[test]
    fn key_sets() {
        let n = encode([0xc5; 256]);
        let key =
            |kid: &str| json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": "AQAB"});
        let read = |keys: Value| KeySet::parse(&json!({"keys": keys}).to_string()).map(|set| set.0.len());
        let changed = |name: &str, value: Value| -> Value {
            serde_json::from_str(&with(key("a"), name, value)).unwrap()
        };
        let rows = [
            (json!([key("a")]), Ok(1)),
            (json!([key("a"), key("b")]), Ok(2)),
            (json!([changed("use", Value::Null), key("b")]), Ok(2)),
            (json!([changed("alg", Value::Null)]), Ok(1)),
            (json!([key("a"), {"kty": "EC", "kid": "a", "crv": "P-256"}]), Ok(1)),
            (json!([key("a"), key("a")]), Err(KeySetError::Id)),
            (json!([changed("kid", Value::Null)]), Err(KeySetError::Id)),
            (json!([]), Err(KeySetError::Empty)),
            (json!([changed("kty", json!("oct"))]), Err(KeySetError::Empty)),
            (json!([changed("use", json!("enc"))]), Err(KeySetError::Empty)),
            (json!([changed("alg", json!("RS512"))]), Err(KeySetError::Empty)),
            (json!([changed("n", json!(encode([0xc5; 128])))]), Err(KeySetError::Size)),
            (json!([changed("n", json!(encode([0; 256])))]), Err(KeySetError::Size)),
            (json!([changed("n", json!(encode([0xc5; 513])))]), Err(KeySetError::Size)),
            (json!([changed("n", json!("+/"))]), Err(KeySetError::Size)),
            (json!([changed("e", json!(encode([1])))]), Err(KeySetError::Size)),
            (json!([changed("e", json!(""))]), Err(KeySetError::Size)),
            (json!([changed("e", Value::Null)]), Err(KeySetError::Size)),
        ];
        for (keys, expected) in rows {
            assert_eq!(read(keys.clone()), expected, "{keys}");
        }
        for text in ["", "[]", "{}", "-----BEGIN PUBLIC KEY-----"] {
            assert_eq!(KeySet::parse(text), Err(KeySetError::Json), "{text}");
        }
        let set = KeySet::parse(&json!({"keys": [key("a"), key("b")]}).to_string()).unwrap();
        assert_eq!(set.get("b").map(|key| key.kid.as_str()), Some("b"));
        assert_eq!(set.get("c"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", dots in "[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}") {
            prop_assert!(parse(&text).is_err());
            prop_assert!(parse(&dots).is_err());
        }

        #[test]
        fn no_other_algorithm_passes(alg in "\\PC{0,12}") {
            prop_assume!(alg != "RS256");
            let token = token(&with(header(), "alg", json!(alg)), &claims().to_string());
            prop_assert_eq!(refusal(&token), Some(TokenError::Algorithm));
        }

        #[test]
        fn what_is_read_is_what_was_signed(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
            let good = token(&header().to_string(), &claims().to_string());
            let at = at.index(good.len());
            prop_assume!(good.as_bytes()[at] != b'.' && !with.starts_with(&good[at..=at]));
            let changed = format!("{}{with}{}", &good[..at], &good[at + 1..]);
            // Whatever still parses is another text or another signature: no change goes unseen by the verifier.
            if let Ok(read) = parse(&changed) {
                let before = parse(&good).unwrap();
                prop_assert!(read.signed() != before.signed() || read.signature() != before.signature());
            }
        }

        #[test]
        fn a_token_holds_from_its_start_to_its_end(from in 0_u64..4_000_000_000, length in 0_u64..100_000, now in 0_u64..4_000_000_000_000) {
            let body = with(claims(), "nbf", json!(from));
            let body: Value = serde_json::from_str(&body).unwrap();
            let body: Value = serde_json::from_str(&with(body, "iat", json!(from))).unwrap();
            let body = with(body, "exp", json!(from + length));
            let claims = parse(&token(&header().to_string(), &body)).unwrap().settle(true).unwrap();
            let holds = check(&claims, UnixMillis(now), &policy(&[])).is_ok();
            let expected = from * 1000 <= now + LEEWAY_MS && now < (from + length) * 1000 + LEEWAY_MS;
            prop_assert_eq!(holds, expected);
        }
    }
}
