//! What the edge looks at in a request, and which of its routes that means.

use std::borrow::Cow;

use crate::dashboard::{self, Call};
use crate::error::{EdgeError, NoProofText};

/// The parts of a request that decisions read. Headers are asked for one by one: each costs a call out of WASM.
pub trait Headers {
    /// The header's value, or `None` if it is absent. `name` is in lower case.
    fn get(&self, name: &str) -> Option<String>;
}

/// A request's method and URL, split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    pub method: &'a str,
    /// `scheme://host[:port]`
    pub origin: &'a str,
    /// Begins with `/`, undecoded.
    pub path: &'a str,
    /// Without `?`; empty if there is none.
    pub query: &'a str,
}

impl<'a> Target<'a> {
    /// Splits an absolute URL. A fragment never reaches a server.
    #[must_use]
    pub fn parse(method: &'a str, url: &'a str) -> Self {
        let scheme_end = url.find("://").map_or(0, |at| at.saturating_add(3));
        let (_, after_scheme) = url.split_at_checked(scheme_end).unwrap_or(("", url));
        let host_bytes = after_scheme.find(['/', '?']).unwrap_or(after_scheme.len());
        let (origin, rest) = url.split_at_checked(scheme_end.saturating_add(host_bytes)).unwrap_or((url, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Self { method, origin, path: if path.is_empty() { "/" } else { path }, query }
    }

    /// Whether the method asks for nothing to be changed.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS")
    }
}

/// What is looked at in every request, as `describe` in `js/calls.js` writes it: method, URL, `origin` and
/// `accept`, a line each. An empty header counts as an absent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description<'a> {
    pub target: Target<'a>,
    pub origin: Option<&'a str>,
    pub accept: Option<&'a str>,
}

impl<'a> Description<'a> {
    /// Reads the lines.
    #[must_use]
    pub fn parse(lines: &'a str) -> Self {
        let mut lines = lines.split('\n');
        let method = lines.next().unwrap_or_default();
        let url = lines.next().unwrap_or_default();
        let mut header = || lines.next().filter(|value| !value.is_empty());
        Self { target: Target::parse(method, url), origin: header(), accept: header() }
    }
}

/// The edge's routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A CORS preflight.
    Preflight,
    /// `GET /sandbox-health`: public, answered here.
    Health,
    /// `/_edge/session`: is my proof good (GET), and forget it (DELETE).
    Session,
    /// `/_ops/…`: the operator's API. The rest of the path, without the prefix.
    Ops(String),
    /// `/api/user/…`: what the dashboard calls.
    Dashboard(Call),
    /// Static files of the legacy side that its own pages load before anybody has signed in.
    LegacyAsset,
    /// Legacy's operator and debug routes: never for users, whatever they sign (contract B.3). And what the
    /// dashboard might call and does not exist.
    Closed,
    /// Anything else belongs to a user, and goes to that user's back end.
    User(UserRoute),
}

/// A user's route, as far as the edge distinguishes them: by what they say to somebody without a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserRoute {
    History,
    KeepaliveOrChat,
    HistoryForBrowsers,
    ResetWorkspace,
    Other,
}

impl Route {
    /// Finds the route. Closed routes are looked for in the path as it is and as the next server may read it.
    #[must_use]
    pub fn of(target: &Target<'_>) -> Self {
        let normal = normalise(target.path);
        if is_closed(target.path) || is_closed(&normal) {
            return Self::Closed;
        }
        let ops = |path: &str| {
            path.strip_prefix("/_ops")
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(str::to_owned)
        };
        if let Some(rest) = ops(&normal) {
            return Self::Ops(rest);
        }
        if target.method == "OPTIONS" {
            return Self::Preflight;
        }
        match dashboard::call_at(target.path) {
            Some(Some(call)) => return Self::Dashboard(call),
            Some(None) => return Self::Closed,
            None => {}
        }
        match target.path {
            "/sandbox-health" => Self::Health,
            "/_edge/session" => Self::Session,
            "/logo.png" | "/logo-small.png" if target.is_safe() => Self::LegacyAsset,
            "/api/history" => Self::User(UserRoute::History),
            "/api/keepalive" | "/ws/api/keepalive" | "/api/chat/send" | "/ws/api/chat/send" => {
                Self::User(UserRoute::KeepaliveOrChat)
            }
            "/ws/api/history" => Self::User(UserRoute::HistoryForBrowsers),
            "/api/reset-workspace" | "/ws/api/reset-workspace" => Self::User(UserRoute::ResetWorkspace),
            _ => Self::User(UserRoute::Other),
        }
    }
}

impl UserRoute {
    /// The answer to a request without a proof (contract A.2, second table).
    #[must_use]
    pub fn without_proof(self, query: &str) -> EdgeError {
        match self {
            Self::History => EdgeError::NoProof(NoProofText::WithNames),
            Self::KeepaliveOrChat => EdgeError::NoProof(NoProofText::Short),
            Self::HistoryForBrowsers if !has_valid_session_key(query) => EdgeError::InvalidSessionKey,
            Self::HistoryForBrowsers | Self::ResetWorkspace => {
                EdgeError::NoProof(NoProofText::NotAuthenticated)
            }
            Self::Other => EdgeError::Auth(shared::signed_url::AuthError::MissingParams),
        }
    }
}

/// Closed with everything below them.
const CLOSED: [&str; 5] = ["/api/admin", "/ws/api/admin", "/_admin", "/cdp", "/__standin"];

/// Closed below. The path itself is a view of the agent's own page.
const CLOSED_BELOW: [&str; 1] = ["/debug"];

fn is_closed(path: &str) -> bool {
    let rest = |closed: &&str| path.strip_prefix(*closed);
    CLOSED.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('/'))
        || CLOSED_BELOW.iter().filter_map(rest).any(|rest| rest.starts_with('/'))
}

/// The path as a lenient server may understand it: percent-decoded once, backslashes turned, empty and dot
/// segments resolved. For comparing only, never for forwarding.
fn normalise(path: &str) -> Cow<'_, str> {
    let plain = !path.contains(['%', '\\', '\t', '\n', '\r']) && !path.contains("//") && !path.contains("/.");
    if plain {
        return Cow::Borrowed(path);
    }
    // `form_urlencoded` decodes values; a `+` in a path would become a space, so it is shielded first.
    let shielded = path.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let decoded: String =
        form_urlencoded::parse(shielded.as_bytes()).map(|(name, _)| name.into_owned()).collect();
    let mut segments: Vec<&str> = Vec::new();
    let clean = decoded.replace('\\', "/").replace(['\t', '\n', '\r'], "");
    for segment in clean.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Longest session key of the browser's history route.
const SESSION_KEY_MAX_BYTES: usize = 100;

/// The legacy check of `sessionKey`: 1 to 100 of `[A-Za-z0-9_.-]`, no `..`; absent or empty means `main`.
fn has_valid_session_key(query: &str) -> bool {
    let key =
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "sessionKey").map(|(_, key)| key);
    key.filter(|key| !key.is_empty()).is_none_or(|key| {
        key.len() <= SESSION_KEY_MAX_BYTES
            && !key.contains("..")
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_split() {
        let rows = [
            ("https://e.example/a/b?x=1&y=?", ("https://e.example", "/a/b", "x=1&y=?")),
            ("http://127.0.0.1:80", ("http://127.0.0.1:80", "/", "")),
            ("http://h/?q", ("http://h", "/", "q")),
            ("http://h?q", ("http://h", "/", "q")),
            ("nonsense", ("nonsense", "/", "")),
            ("", ("", "/", "")),
        ];
        for (url, (origin, path, query)) in rows {
            assert_eq!(Target::parse("GET", url), Target { method: "GET", origin, path, query }, "{url}");
        }
    }

    #[test]
    fn descriptions_are_read() {
        let read = Description::parse("POST\nhttps://e/a?b\nhttps://o\ntext/html");
        assert_eq!(read.target, Target { method: "POST", origin: "https://e", path: "/a", query: "b" });
        assert_eq!((read.origin, read.accept), (Some("https://o"), Some("text/html")));
        let bare = Description::parse("GET\nhttps://e/\n\n");
        assert_eq!((bare.origin, bare.accept), (None, None));
    }

    fn route(method: &str, path: &str) -> Route {
        Route::of(&Target { method, origin: "https://e", path, query: "" })
    }

    #[test]
    fn routes() {
        let other = || Route::User(UserRoute::Other);
        let rows = [
            ("GET", "/", other()),
            ("GET", "/ws", other()),
            ("GET", "/chat", other()),
            ("GET", "/api/files/list", other()),
            ("GET", "/sandbox-health", Route::Health),
            ("GET", "/_edge/session", Route::Session),
            ("OPTIONS", "/api/files/list", Route::Preflight),
            ("OPTIONS", "/_ops/api/policy", Route::Ops("/api/policy".into())),
            ("GET", "/_ops", Route::Ops(String::new())),
            ("POST", "/_ops/api/policy", Route::Ops("/api/policy".into())),
            ("GET", "/_opsx", other()),
            ("GET", "/api/user/gateway", Route::Dashboard(Call::Gateway)),
            ("POST", "/api/user/health", Route::Dashboard(Call::Health)),
            ("OPTIONS", "/api/user/gateway/renew", Route::Preflight),
            ("GET", "/api/user/sessions", Route::Closed),
            ("GET", "/api/users", other()),
            ("GET", "/logo.png", Route::LegacyAsset),
            ("POST", "/logo.png", other()),
            ("GET", "/api/history", Route::User(UserRoute::History)),
            ("GET", "/ws/api/history", Route::User(UserRoute::HistoryForBrowsers)),
            ("GET", "/api/keepalive", Route::User(UserRoute::KeepaliveOrChat)),
            ("POST", "/api/chat/send", Route::User(UserRoute::KeepaliveOrChat)),
            ("POST", "/api/reset-workspace", Route::User(UserRoute::ResetWorkspace)),
        ];
        for (method, path, expected) in rows {
            assert_eq!(route(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn closed_routes_stay_closed_however_they_are_spelt() {
        for path in [
            "/debug/",
            "/debug/cli",
            "/%64ebug/cli",
            "//debug/cli",
            "/x/../debug/cli",
            "/x/%2e%2e/debug/cli",
            "/x/%2E./debug/cli",
            "/\\debug/cli",
            "/x\\..\\debug/cli",
            "/./debug/cli",
            "/api/admin/devices",
            "/ws/api/admin/x",
            "/api//admin/x",
            "/api%2fadmin",
            "/_admin/",
            "/cdp/json",
            "/de\tbug/cli",
            "/__standin/stats",
        ] {
            assert_eq!(route("GET", path), Route::Closed, "{path}");
        }
        for path in ["/debug", "/debugger", "/x/debug", "/api/administrator", "/cdpx"] {
            assert_ne!(route("GET", path), Route::Closed, "{path}");
        }
    }

    #[test]
    fn without_a_proof_each_route_says_what_the_contract_says() {
        let code = |route: UserRoute, query: &str| {
            (route.without_proof(query).status(), route.without_proof(query).code())
        };
        assert_eq!(code(UserRoute::History, ""), (401, "missing_params"));
        assert_eq!(code(UserRoute::Other, ""), (401, "missing_params"));
        assert_eq!(code(UserRoute::HistoryForBrowsers, ""), (401, "missing_params"));
        for bad in [
            "sessionKey=a%3Ab",
            "sessionKey=..",
            "sessionKey=a/b",
            &format!("sessionKey={}", "a".repeat(101)),
        ] {
            assert_eq!(code(UserRoute::HistoryForBrowsers, bad), (400, "invalid_session_key"), "{bad}");
        }
        assert_eq!(code(UserRoute::HistoryForBrowsers, "sessionKey=work-1.a_b"), (401, "missing_params"));
    }

    proptest! {
        #[test]
        fn no_url_panics(url in "\\PC*", method in "[A-Z]{1,7}") {
            let _ = Route::of(&Target::parse(&method, &url));
        }

        #[test]
        fn dot_segments_never_open_a_closed_route(prefix in "(/[a-z]{1,3}){0,3}", closed in prop::sample::select(CLOSED.to_vec())) {
            let ups = "/..".repeat(prefix.matches('/').count());
            let path = format!("{prefix}{ups}{closed}/x");
            prop_assert_eq!(route("GET", &path), Route::Closed);
        }
    }
}
