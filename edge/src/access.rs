//! Who is asking: from a signed URL, or from the session cookie that one left behind.

use shared::id::UserId;
use shared::key::SigningKeys;
use shared::signed_url::{self, Presented, SignedQuery, VerifiedUser};
use shared::time::UnixMillis;

use crate::config::Config;
use crate::error::EdgeError;
use crate::request::{Headers, Target, UserRoute};

/// The session cookie. The prefix makes browsers refuse it unless it is secure, for this host alone and for
/// the whole of it, so that no neighbouring subdomain can plant another user's session.
pub const COOKIE: &str = "__Host-automna_session";

/// A request whose sender has proven to be `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    verified: VerifiedUser,
    proof: Proof,
}

/// How the sender has proven it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// By the URL. Holds the cookie that a page load would leave.
    Url { cookie_value: String },
    /// By the cookie. Holds the signed query that it stands for.
    Cookie { signed_query: String },
}

impl Access {
    #[must_use]
    pub const fn user(&self) -> &UserId {
        self.verified.user()
    }

    /// The query that the legacy side needs and that the request itself does not carry.
    #[must_use]
    pub fn missing_query(&self) -> Option<&str> {
        match &self.proof {
            Proof::Url { .. } => None,
            Proof::Cookie { signed_query } => Some(signed_query),
        }
    }

    /// The `Set-Cookie` for a page that was loaded by a signed URL: the same proof, for as long as it holds.
    #[must_use]
    pub fn cookie_to_set(&self, now: UnixMillis) -> Option<String> {
        let Proof::Url { cookie_value } = &self.proof else { return None };
        let seconds = self.verified.expires().0.saturating_sub(now.floor_seconds().0);
        Some(format!("{COOKIE}={cookie_value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"))
    }
}

/// The `Set-Cookie` that ends a session.
#[must_use]
pub fn cookie_to_forget() -> String {
    format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax")
}

/// Authenticates a request to a user's route.
///
/// A URL that carries all three parameters is judged by them alone, whatever cookie comes along: it says whom
/// the page means. The cookie counts where the URL says nothing, and for writes and upgrades only from a page
/// that may use it, since browsers attach cookies to requests of other sites' making.
///
/// # Errors
/// The contract's 401, 403 for a foreign page, 503 without a signing secret.
pub fn authenticate(
    config: &Config,
    keys: &SigningKeys,
    route: UserRoute,
    target: &Target<'_>,
    headers: &impl Headers,
    now: UnixMillis,
) -> Result<Access, EdgeError> {
    if let Presented::Whole(query) = SignedQuery::read(target.query) {
        let verified = signed_url::verify(keys, &query, now).map_err(EdgeError::Auth)?;
        return Ok(Access { verified, proof: Proof::Url { cookie_value: query.to_cookie_value() } });
    }
    let cookies = headers.get("cookie").unwrap_or_default();
    let Some(value) = cookie(&cookies, COOKIE) else { return Err(route.without_proof(target.query)) };
    let query = SignedQuery::from_cookie_value(value)
        .ok_or(EdgeError::Auth(signed_url::AuthError::InvalidSignature))?;
    let verified = signed_url::verify(keys, &query, now).map_err(EdgeError::Auth)?;
    let upgrade = headers.get("upgrade").is_some();
    if upgrade || !target.is_safe() {
        let origin = headers.get("origin").unwrap_or_default();
        if origin != target.origin && !config.allows_origin(&origin) {
            return Err(EdgeError::ForeignOrigin);
        }
    }
    Ok(Access { verified, proof: Proof::Cookie { signed_query: query.to_query() } })
}

/// The token in an `authorization` header of the bearer scheme.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of the one cookie of this name. Two of them mean that somebody has planted one: then neither.
fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let mut values = header.split(';').filter_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value.trim())
    });
    let first = values.next().filter(|value| !value.is_empty())?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::secret::Secret;
    use shared::time::UnixSeconds;
    use std::collections::HashMap;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    struct Map(HashMap<&'static str, String>);

    impl Headers for Map {
        fn get(&self, name: &str) -> Option<String> {
            self.0.get(name).cloned()
        }
    }

    fn keys() -> SigningKeys {
        SigningKeys::new(Secret::new("test-secret-key-12345").unwrap(), None)
    }

    fn query(user: &str, expires: u64) -> String {
        signed_url::sign(&keys(), &user.parse().unwrap(), UnixSeconds(expires))
    }

    fn cookie_for(user: &str, expires: u64) -> String {
        let query = query(user, expires);
        let Presented::Whole(signed) = SignedQuery::read(&query) else { panic!("{query}") };
        format!("{COOKIE}={}", signed.to_cookie_value())
    }

    fn ask(method: &str, query: &str, headers: &[(&'static str, &str)]) -> Result<Access, EdgeError> {
        let config = Config::read(|_| None);
        let target = Target { method, origin: "https://edge.example", path: "/", query };
        let headers = Map(headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
        authenticate(&config, &keys(), UserRoute::Other, &target, &headers, NOW)
    }

    fn who(result: Result<Access, EdgeError>) -> Result<String, &'static str> {
        result.map(|access| access.user().to_string()).map_err(|error| error.code())
    }

    #[test]
    fn proofs() {
        let good = query("user_a", 1_800_003_600);
        let cookie = cookie_for("user_a", 1_800_003_600);
        let stale = cookie_for("user_a", 1_799_999_999);
        let own = "https://edge.example";
        type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'static str, &'a str)], Result<&'a str, &'a str>);
        let rows: &[Row<'_>] = &[
            ("signed URL", "GET", &good, &[], Ok("user_a")),
            (
                "signed URL, any page may post",
                "POST",
                &good,
                &[("origin", "https://evil.example")],
                Ok("user_a"),
            ),
            ("nothing", "GET", "", &[], Err("missing_params")),
            ("cookie", "GET", "", &[("cookie", &cookie)], Ok("user_a")),
            (
                "cookie among others",
                "GET",
                "x=1",
                &[("cookie", &format!("a=b; {cookie}; c=d"))],
                Ok("user_a"),
            ),
            ("expired cookie", "GET", "", &[("cookie", &stale)], Err("url_expired")),
            ("garbage cookie", "GET", "", &[("cookie", &format!("{COOKIE}=x"))], Err("invalid_signature")),
            ("empty cookie", "GET", "", &[("cookie", &format!("{COOKIE}="))], Err("missing_params")),
            (
                "planted second cookie",
                "GET",
                "",
                &[("cookie", &format!("{cookie}; {cookie}"))],
                Err("missing_params"),
            ),
            (
                "bad URL beats good cookie",
                "GET",
                "userId=user_b&exp=1800003600&sig=x",
                &[("cookie", &cookie)],
                Err("invalid_signature"),
            ),
            ("partial URL leaves the cookie", "GET", "userId=user_b", &[("cookie", &cookie)], Ok("user_a")),
            ("cookie post from our page", "POST", "", &[("cookie", &cookie), ("origin", own)], Ok("user_a")),
            (
                "cookie post from the dashboard",
                "POST",
                "",
                &[("cookie", &cookie), ("origin", "https://automna.ai")],
                Ok("user_a"),
            ),
            (
                "cookie post from elsewhere",
                "POST",
                "",
                &[("cookie", &cookie), ("origin", "https://evil.example")],
                Err("foreign_origin"),
            ),
            ("cookie post from nowhere", "POST", "", &[("cookie", &cookie)], Err("foreign_origin")),
            (
                "cookie post from an opaque page",
                "DELETE",
                "",
                &[("cookie", &cookie), ("origin", "null")],
                Err("foreign_origin"),
            ),
            (
                "cookie upgrade from our page",
                "GET",
                "",
                &[("cookie", &cookie), ("origin", own), ("upgrade", "websocket")],
                Ok("user_a"),
            ),
            (
                "cookie upgrade from elsewhere",
                "GET",
                "",
                &[("cookie", &cookie), ("origin", "https://evil.example"), ("upgrade", "websocket")],
                Err("foreign_origin"),
            ),
            (
                "cookie upgrade, look-alike",
                "GET",
                "",
                &[("cookie", &cookie), ("origin", "https://edge.example.evil"), ("upgrade", "websocket")],
                Err("foreign_origin"),
            ),
            (
                "cookie upgrade, no origin",
                "GET",
                "",
                &[("cookie", &cookie), ("upgrade", "websocket")],
                Err("foreign_origin"),
            ),
        ];
        for (name, method, query, headers, expected) in rows {
            assert_eq!(who(ask(method, query, headers)), expected.map(str::to_owned), "{name}");
        }
    }

    #[test]
    fn a_page_load_leaves_the_same_proof_as_a_cookie() {
        let access = ask("GET", &query("user_a", 1_800_003_600), &[]).unwrap();
        let set = access.cookie_to_set(NOW).unwrap();
        let expected = cookie_for("user_a", 1_800_003_600);
        assert_eq!(set, format!("{expected}; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax"));
        let back = ask("GET", "", &[("cookie", &expected)]).unwrap();
        assert_eq!(back.user(), access.user());
        assert_eq!(back.missing_query(), Some(query("user_a", 1_800_003_600).as_str()));
        assert_eq!(back.cookie_to_set(NOW), None, "a cookie does not prolong itself");
    }
}
