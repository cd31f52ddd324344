//! The two history routes, which only differ in what they show, as on the legacy side:
//!
//! * `GET /ws/api/history`: `role`, `content` and `timestamp` of the last messages, oldest first.
//! * `GET /api/history`: the messages as the agent stored them. Legacy had no limit here; ours is the largest.
//!
//! Both take `sessionKey`, `limit`, `before` (the `nextBefore` of an earlier answer) and `full=true`, which adds
//! tools' results. What differs from legacy on purpose: a limit that is no number is the default and not
//! everything; keys may be canonical, with `:`; nothing is too large; that a conversation does not exist is still
//! 200 with the legacy text in `error`, but with `messages`, empty; what cannot be read is a 503 and never 200.

use std::time::Instant;

use axum::Json;
use axum::extract::{RawQuery, State};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::describe::{Op, Tag, choice, integer, text};
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::history::cursor::Cursor;
use crate::history::reader::{Budget, MAX_SCAN_BYTES};
use crate::history::search::{self, Match};
use crate::history::store::{Page, Store, bare_key, is_session_key};
use crate::history::transcript::{Entry, Roles};
use crate::state::App;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ask {
    key: String,
    limit: usize,
    before: Option<Cursor>,
    roles: Roles,
}

impl Ask {
    fn parse(query: &str, no_limit: usize) -> Result<Self, ApiError> {
        let key = param(query, "sessionKey").unwrap_or_else(|| "main".to_owned());
        if !is_session_key(&key) {
            return Err(ApiError::BadSessionKey);
        }
        let before = match param(query, "before") {
            Some(text) => Some(Cursor::parse(&text).ok_or(ApiError::BadCursor)?),
            None => None,
        };
        let limit = limit(param(query, "limit").as_deref(), no_limit);
        let roles = if param(query, "full").as_deref() == Some("true") { Roles::All } else { Roles::Talk };
        Ok(Self { key, limit, before, roles })
    }
}

/// The first value of a parameter; an empty one counts as missing.
pub(super) fn param(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
}

/// The number at the beginning, as JavaScript reads it, kept within 1 and the maximum.
fn limit(text: Option<&str>, default: usize) -> usize {
    let Some(text) = text.map(str::trim_start) else { return default };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    match digits.get(..end) {
        None | Some("") => default,
        Some(_) if negative => 1,
        // Too many digits are too large a number.
        Some(digits) => digits.parse().unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT),
    }
}

/// A page of a conversation, oldest message first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = History)]
pub(super) struct Shown {
    session_key: String,
    messages: Vec<Entry>,
    /// Always `volume`.
    source: &'static str,
    /// As it was used.
    limit: usize,
    /// Milliseconds that it took.
    elapsed: u64,
    #[serde(flatten)]
    rest: Rest,
}

/// A page of a conversation, oldest message first, as the agent stored it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StoredHistory)]
pub(super) struct Raw {
    session_key: String,
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Box<RawValue>>,
    #[serde(flatten)]
    rest: Rest,
}

/// What both answers may have besides.
#[derive(Serialize, Default, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryRest)]
struct Rest {
    /// There may be more: what to send as `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_before: Option<String>,
    /// Why there is nothing: the contract's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<&'static str>,
    /// Beside `session not found`: the conversations that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    keys: Option<Vec<String>>,
}

pub(super) async fn shown(
    State(app): State<App>,
    _: Authenticated,
    RawQuery(query): RawQuery,
) -> Result<Json<Shown>, ApiError> {
    let began = Instant::now();
    let ask = Ask::parse(&query.unwrap_or_default(), DEFAULT_LIMIT)?;
    let (session_key, limit) = (ask.key.clone(), ask.limit);
    let (messages, rest) = read(&app, ask).await?;
    let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(Shown { session_key, messages, source: "volume", limit, elapsed, rest }))
}

pub(super) async fn raw(
    State(app): State<App>,
    _: Authenticated,
    RawQuery(query): RawQuery,
) -> Result<Json<Raw>, ApiError> {
    let ask = Ask::parse(&query.unwrap_or_default(), MAX_LIMIT)?;
    let session_key = ask.key.clone();
    let (entries, rest) = read(&app, ask).await?;
    Ok(Json(Raw { session_key, messages: entries.into_iter().map(|entry| entry.raw).collect(), rest }))
}

async fn read(app: &App, ask: Ask) -> Result<(Vec<Entry>, Rest), ApiError> {
    let state = app.agent_state_dir.clone();
    let read = move || {
        let Some(store) = Store::open(&state)? else {
            let rest = Rest { error: Some("sessions.json not found"), ..Rest::default() };
            return Ok((Vec::new(), rest));
        };
        let mut budget = Budget::new(MAX_SCAN_BYTES);
        let Page { entries, before } =
            store.page(&ask.key, ask.before.as_ref(), ask.limit, ask.roles, &mut budget)?;
        let mut rest = Rest { next_before: before.map(|cursor| cursor.to_text()), ..Rest::default() };
        if entries.is_empty() && rest.next_before.is_none() && !store.has(&ask.key) {
            rest.error = Some("session not found");
            rest.keys = Some(store.sessions().iter().map(|session| session.key.clone()).collect());
        }
        Ok((entries, rest))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| ApiError::HistoryUnavailable(error.into()))
}

/// Longest text to search for.
const MAX_QUERY_BYTES: usize = 256;

/// Messages in which the words were found, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FoundMessages)]
pub(super) struct Found {
    session_key: String,
    query: String,
    matches: Vec<Match>,
    /// There may be more, even if nothing was found: what to send as `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_before: Option<String>,
}

/// `GET /api/history/search?q=`: newest first. Bounded in time and bytes: an answer without matches can have
/// `nextBefore`, from where to search on.
pub(super) async fn search(
    State(app): State<App>,
    _: Authenticated,
    RawQuery(query): RawQuery,
) -> Result<Json<Found>, ApiError> {
    let query = query.unwrap_or_default();
    let ask = Ask::parse(&query, DEFAULT_LIMIT)?;
    let words =
        param(&query, "q").filter(|words| words.len() <= MAX_QUERY_BYTES).ok_or(ApiError::BadSearch)?;
    let (session_key, query) = (ask.key.clone(), words.clone());
    let state = app.agent_state_dir.clone();
    let find = move || {
        let Some(store) = Store::open(&state)? else { return Ok((Vec::new(), None)) };
        let mut budget = Budget::new(MAX_SCAN_BYTES);
        let found = search::search(&store, &ask.key, &words, ask.before, ask.limit, &mut budget)?;
        Ok((found.matches, found.before.map(|cursor| cursor.to_text())))
    };
    let (matches, next_before) = tokio::task::spawn_blocking(find)
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| ApiError::HistoryUnavailable(error.into()))?;
    Ok(Json(Found { session_key, query, matches, next_before }))
}

/// The conversations.
#[derive(Serialize, ToSchema)]
pub(super) struct Sessions {
    /// Last active first.
    sessions: Vec<Listed>,
}

/// A conversation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct Listed {
    /// What to send as `sessionKey`.
    key: String,
    /// For people.
    name: String,
    /// Milliseconds since 1970.
    last_active: u64,
    token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    session_id: Option<String>,
}

/// `GET /api/sessions`: newest first.
pub(super) async fn sessions(State(app): State<App>, _: Authenticated) -> Result<Json<Sessions>, ApiError> {
    let state = app.agent_state_dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&state))
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| ApiError::HistoryUnavailable(error.into()))?;
    let listed = store.iter().flat_map(Store::sessions).map(|session| Listed {
        key: session.key.clone(),
        name: (session.label.clone())
            .or_else(|| session.display_name.clone())
            .unwrap_or_else(|| bare_key(&session.key).to_owned()),
        last_active: session.updated_at,
        token_count: session.total_tokens,
        session_id: session.session_id.clone(),
    });
    let mut sessions: Vec<Listed> = listed.collect();
    sessions.sort_by_key(|session| std::cmp::Reverse(session.last_active));
    Ok(Json(Sessions { sessions }))
}

/// What the three routes over one conversation share.
fn describe(id: &'static str, summary: &str, most: &str) -> Op {
    let unreadable = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    Op::new(Tag::History, id, summary)
        .query(
            "sessionKey",
            text(),
            "Of the conversation: 1 to 100 of `A-Z a-z 0-9 _ . - :`, without `..`. `main` if it is missing.",
        )
        .query("limit", integer(), most)
        .query("before", text(), "The `nextBefore` of an earlier answer: what is older than that.")
        .fails([
            ApiError::BadSessionKey,
            ApiError::BadCursor,
            ApiError::HistoryUnavailable(unreadable.into()),
        ])
}

const EMPTY: &str = "A conversation that does not exist is no error of HTTP: `error` says so, and `messages` is empty. \
    What cannot be read is 503.";

pub(super) fn describe_shown() -> Op {
    let example = json!({
        "sessionKey": "main",
        "messages": [{ "role": "user", "content": "Hello", "timestamp": 1_767_225_600_250_u64 }],
        "source": "volume", "limit": 50, "elapsed": 1, "nextBefore": "1767225600250~a.jsonl~1024"
    });
    describe("showHistory", "Show a conversation", "1 to 200 messages, by default 50.")
        .about(format!("The last messages, without tools and their results. {EMPTY}"))
        .query("full", choice(["true"]), "Also the results of tools, and what else a message has.")
        .json::<Shown>(StatusCode::OK, "A page of it.", example)
}

pub(super) fn describe_raw() -> Op {
    let example = json!({
        "sessionKey": "main",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hello" }] }]
    });
    describe("getHistory", "Read a conversation as it is stored", "1 to 200 messages, by default 200.")
        .about(format!("The last messages, as the agent stored them. {EMPTY}"))
        .query("full", choice(["true"]), "Also the results of tools.")
        .json::<Raw>(StatusCode::OK, "A page of it.", example)
}

pub(super) fn describe_search() -> Op {
    let example = json!({
        "sessionKey": "main", "query": "hello",
        "matches": [{ "role": "user", "timestamp": 1_767_225_600_250_u64, "snippet": "Hello" }]
    });
    describe("searchHistory", "Search a conversation", "1 to 200 matches, by default 50.")
        .about("Newest first, whatever the case. At most two seconds; `nextBefore` goes on from there.")
        .required_query("q", text(), "What to find: 1 to 256 bytes.")
        .json::<Found>(StatusCode::OK, "What was found.", example)
        .fails([ApiError::BadSearch])
}

pub(super) fn describe_sessions() -> Op {
    let unreadable = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let session = json!({
        "key": "agent:main:main", "name": "main", "lastActive": 1_767_225_600_250_u64, "tokenCount": 1234,
        "sessionId": "6f0d1f0e-8a0e-4b57-9a59-6c1c3c1b0d4e"
    });
    Op::new(Tag::History, "listSessions", "List the conversations")
        .json::<Sessions>(StatusCode::OK, "All of them.", json!({ "sessions": [session] }))
        .fails([ApiError::HistoryUnavailable(unreadable.into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks() {
        let longest = format!("sessionKey={}", "a".repeat(100));
        let too_long = format!("sessionKey={}", "a".repeat(101));
        let rows = [
            ("", Ok(("main", 50))),
            ("limit=1&sessionKey=", Ok(("main", 1))),
            ("limit=200", Ok(("main", 200))),
            ("limit=201", Ok(("main", 200))),
            ("limit=0", Ok(("main", 1))),
            ("limit=-5", Ok(("main", 1))),
            ("limit=10abc", Ok(("main", 10))),
            ("limit=+7", Ok(("main", 7))),
            ("limit=99999999999999999999", Ok(("main", 200))),
            ("limit=abc", Ok(("main", 50))),
            ("limit=-", Ok(("main", 50))),
            ("sessionKey=agent%3Amain%3Awork", Ok(("agent:main:work", 50))),
            ("sessionKey=a.b-c_D9&sessionKey=/", Ok(("a.b-c_D9", 50))),
            (longest.as_str(), Ok(("", 50))),
            (too_long.as_str(), Err("bad_session_key")),
            ("sessionKey=a..b", Err("bad_session_key")),
            ("sessionKey=a%2Fb", Err("bad_session_key")),
            ("sessionKey=a%00", Err("bad_session_key")),
            ("before=x", Err("bad_cursor")),
        ];
        for (query, expect) in rows {
            let got = Ask::parse(query, DEFAULT_LIMIT).map_err(|error| error.code());
            let got = got.as_ref().map(|ask| (ask.key.as_str(), ask.limit)).map_err(|code| *code);
            match expect {
                Ok(("", limit)) => assert_eq!(got.map(|(_, limit)| limit), Ok(limit), "{query}"),
                expect => assert_eq!(got, expect, "{query}"),
            }
        }
    }
}
