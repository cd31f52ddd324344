//! Which requests reach the agent's HTTP server.
//!
//! The agent serves much more on its port than its page: tool calls, hooks, model endpoints, its canvas and
//! whatever a plugin adds. And it answers any unknown path with its page, so a missing route of ours would look
//! like a success. Hence a list, of what the page of the pinned agent loads; a path that is not on it is a 404.
//!
//! The list is compared with the path as it was sent. None of its entries holds a character that anybody would
//! escape, so an escaped path is never on it, and there is no decoded form that two parsers could read in two
//! ways.

/// The page's client-side routes. A reload under one of them must get the page again. `/ui` is not among them.
const VIEWS: [&str; 11] = [
    "/overview",
    "/channels",
    "/instances",
    "/sessions",
    "/cron",
    "/skills",
    "/nodes",
    "/chat",
    "/config",
    "/debug",
    "/logs",
];

/// Longest file name below `/assets/`, and longest agent id, which the agent bounds likewise.
const MAX_NAME_BYTES: usize = 128;
const MAX_AGENT_ID_BYTES: usize = 64;

/// Whose a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class<'a> {
    /// Our own API's. Its unknown routes never fall through to the agent.
    Own,
    /// The agent's page.
    Page(Page<'a>),
    /// A well-formed path that is nobody's. Good enough for a WebSocket, whose path carries no meaning.
    Other,
    /// Two parsers could read it differently, so nobody gets to read it.
    NotPlain,
}

/// A path of the agent's page, proven to be on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<'a> {
    path: &'a str,
    /// An agent's picture, the one place where the page asks with a query: `meta=1`, for its address.
    avatar: bool,
}

impl Page<'_> {
    /// What to ask the agent for. Of the query only what the agent understands goes along; everything else is
    /// for the page's own script, or is a proof that is no business of the agent.
    #[must_use]
    pub fn target(&self, query: Option<&str>) -> String {
        let wants_meta =
            self.avatar && query.is_some_and(|query| query.split('&').any(|pair| pair == "meta=1"));
        if wants_meta { format!("{}?meta=1", self.path) } else { self.path.to_owned() }
    }
}

/// Tells whose `path` is: the raw path of a request, without its query.
#[must_use]
pub fn classify(path: &str) -> Class<'_> {
    if !is_plain(path) {
        return Class::NotPlain;
    }
    if is_below(path, "/api") || is_below(path, "/ws/api") {
        return Class::Own;
    }
    if path == "/" || path == "/index.html" || path == "/favicon.ico" || VIEWS.contains(&path) {
        return Class::Page(Page { path, avatar: false });
    }
    if path.strip_prefix("/assets/").is_some_and(|name| is_name(name, MAX_NAME_BYTES)) {
        return Class::Page(Page { path, avatar: false });
    }
    if path.strip_prefix("/avatar/").is_some_and(|id| is_name(id, MAX_AGENT_ID_BYTES) && !id.contains('.')) {
        return Class::Page(Page { path, avatar: true });
    }
    Class::Other
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// No dot segments, no empty segments, no backslash, and no escape of a character that changes the structure.
fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let escapes_structure = || {
        let lower = path.to_ascii_lowercase();
        ["%2f", "%5c", "%2e", "%25", "%00"].iter().any(|escape| lower.contains(escape))
    };
    // One empty segment, at the end, is the usual trailing slash.
    let dots_or_gaps = rest.trim_end_matches(|c| c != '/').contains("//")
        || rest.starts_with('/')
        || rest.ends_with("//")
        || rest.split('/').any(|segment| matches!(segment, "." | ".."));
    let odd = path.bytes().any(|b| b == b'\\' || !b.is_ascii_graphic());
    !(dots_or_gaps || odd || escapes_structure())
}

/// A file name or id: letters, digits, `.`, `_`, `-`, and first a letter or a digit.
fn is_name(text: &str, max_bytes: usize) -> bool {
    text.len() <= max_bytes
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes() {
        let pages = [
            "/",
            "/index.html",
            "/favicon.ico",
            "/chat",
            "/overview",
            "/logs",
            "/assets/index-Cl-Y9zqE.js",
            "/assets/index-DEPfFcOb.css",
            "/assets/index-Cl-Y9zqE.js.map",
            "/avatar/main",
            "/avatar/a_b-1",
        ];
        for path in pages {
            assert!(matches!(classify(path), Class::Page(page) if page.path == path), "{path}");
        }
        let own = ["/api", "/api/", "/api/keepalive", "/api/files/x", "/ws/api", "/ws/api/", "/ws/api/x"];
        for path in own {
            assert_eq!(classify(path), Class::Own, "{path}");
        }
        let other = [
            "/ws",
            "/apis",
            "/API/x",
            "/tools/invoke",
            "/hooks/wake",
            "/hooks",
            "/v1/chat/completions",
            "/v1/responses",
            "/slack/events",
            "/__clawdbot__/canvas/",
            "/__clawdbot__/a2ui/",
            "/health",
            "/ui",
            "/chat/",
            "/chat/assets/index.js",
            "/assets/",
            "/assets/a/b.js",
            "/assets/.env",
            "/assets",
            "/avatar/",
            "/avatar/main/x",
            "/avatar/.x",
            "/avatar/x.png",
            "/%61pi/keepalive",
            "/Index.html",
            "/index.html/",
            "/config.json",
            "/favicon.ico;x",
            "/assets/a%20b.js",
            "/.git/config",
        ];
        for path in other {
            assert_eq!(classify(path), Class::Other, "{path}");
        }
        let not_plain = [
            "",
            "*",
            "chat",
            "//",
            "//chat",
            "/assets//x.js",
            "/assets//",
            "/assets/../tools/invoke",
            "/..",
            "/.",
            "/./chat",
            "/chat/..",
            "/assets/%2e%2e/tools",
            "/assets/%2E./x",
            "/assets/..%2ftools",
            "/a%2Fb",
            "/a\\b",
            "/a%5cb",
            "/a%5Cb",
            "/a%00",
            "/a%252fb",
            "/a b",
            "/a\u{7f}",
            "/\u{e4}",
        ];
        for path in not_plain {
            assert_eq!(classify(path), Class::NotPlain, "{path}");
        }
    }

    #[test]
    fn queries() {
        let rows = [
            ("/", None, "/"),
            ("/", Some("gatewayUrl=wss://evil&token=t&session=main"), "/"),
            ("/chat", Some("userId=u&exp=1&sig=s"), "/chat"),
            ("/assets/a.js", Some("meta=1"), "/assets/a.js"),
            ("/avatar/main", None, "/avatar/main"),
            ("/avatar/main", Some("meta=1"), "/avatar/main?meta=1"),
            ("/avatar/main", Some("token=t&meta=1&sig=s"), "/avatar/main?meta=1"),
            ("/avatar/main", Some("meta=10"), "/avatar/main"),
        ];
        for (path, query, expect) in rows {
            let Class::Page(page) = classify(path) else { panic!("{path}") };
            assert_eq!(page.target(query), expect, "{path} {query:?}");
        }
    }

    proptest! {
        #[test]
        fn a_page_is_plain_text_in_every_reading(path in "/?([a-z.%/\\\\]|assets|avatar|chat|%2[ef]|api){0,8}") {
            if let Class::Page(_) = classify(&path) {
                prop_assert!(!path.contains('%') && !path.contains('\\') && !path.contains("//"));
                prop_assert!(!path.contains("/."), "{}", path);
            }
        }
    }
}
