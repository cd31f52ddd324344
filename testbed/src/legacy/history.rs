//! The two history routes: what they accept, and how a conversation is read from a container's state directory.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

/// Largest transcript that is read, in bytes.
const MAX_TRANSCRIPT_BYTES: u64 = 5 << 20;

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 200;

/// How many messages a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Last(u64),
    /// What is no number: all of them. The answer's `limit` is null then.
    All,
}

impl Limit {
    /// Reads the parameter as the legacy does: 50 by default, kept within 1 and 200.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            None | Some("") => Self::Last(DEFAULT_LIMIT),
            Some(text) => match parse_int(text) {
                Some(number) => Self::Last(u64::try_from(number).unwrap_or(0).clamp(1, MAX_LIMIT)),
                None => Self::All,
            },
        }
    }

    /// The number in the answer.
    pub(super) const fn number(self) -> Option<u64> {
        match self {
            Self::Last(number) => Some(number),
            Self::All => None,
        }
    }
}

/// JavaScript's `parseInt(text, 10)`: what is a number at the beginning, if anything.
fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = digits.get(..end).filter(|digits| !digits.is_empty())?.parse().unwrap_or(i64::MAX);
    Some(if negative { -number } else { number })
}

/// Whether `/ws/api/history` takes the key: 1 to 100 of `[A-Za-z0-9_.-]`, no `..`.
pub(super) fn is_session_key(key: &str) -> bool {
    (1..=100).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !key.contains("..")
}

/// Why there is no history. These are answers with status 200, and their texts are the contract's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum NoHistory {
    NoStore {
        error: &'static str,
    },
    NoSession {
        error: &'static str,
        keys: Vec<String>,
    },
    NoTranscript {
        error: &'static str,
        #[serde(rename = "sessionFile")]
        session_file: String,
    },
    TooLarge {
        error: &'static str,
        size: u64,
    },
}

/// One message of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The line's own time (text), else the message's (a number), else nothing.
    timestamp: Option<Value>,
    message: Value,
}

/// A message as `/ws/api/history` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    role: &'a Value,
    content: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a Value>,
}

impl Entry {
    /// As `/api/history` shows it.
    pub(super) const fn raw(&self) -> &Value {
        &self.message
    }

    /// As `/ws/api/history` shows it.
    pub(super) fn shown(&self) -> Shown<'_> {
        static NULL: Value = Value::Null;
        Shown {
            role: self.message.get("role").unwrap_or(&NULL),
            content: self.message.get("content").unwrap_or(&NULL),
            timestamp: self.timestamp.as_ref(),
        }
    }
}

/// The last `limit` messages of a session, oldest first.
pub(super) async fn read(state: &Path, key: &str, limit: Limit) -> Result<Vec<Entry>, NoHistory> {
    let sessions = state.join("agents/main/sessions");
    let no_store = NoHistory::NoStore { error: "sessions.json not found" };
    let store = tokio::fs::read(sessions.join("sessions.json")).await.map_err(|_| no_store.clone())?;
    let store: Value = serde_json::from_slice(&store).map_err(|_| no_store)?;
    let Some(entry) = find_session(&store, key) else {
        let keys = store.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
        return Err(NoHistory::NoSession { error: "session not found", keys });
    };
    let file = sessions.join(transcript_name(entry));
    let missing = || NoHistory::NoTranscript {
        error: "JSONL file not found",
        session_file: file.display().to_string(),
    };
    let size = tokio::fs::metadata(&file).await.map_err(|_| missing())?.len();
    if size > MAX_TRANSCRIPT_BYTES {
        return Err(NoHistory::TooLarge { error: "History file too large", size });
    }
    let mut entries = parse_transcript(&tokio::fs::read(&file).await.map_err(|_| missing())?);
    if let Limit::Last(limit) = limit {
        let surplus = entries.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        entries.drain(..surplus);
    }
    Ok(entries)
}

/// A conversation is stored under its bare key (old clients) or its canonical one. With both there, the one that
/// was used last is meant; the canonical one, when that cannot be told.
fn find_session<'a>(store: &'a Value, key: &str) -> Option<&'a Value> {
    let bare = key.strip_prefix("agent:main:").unwrap_or(key);
    let updated = |entry: &Value| entry.get("updatedAt").and_then(Value::as_u64).unwrap_or(0);
    match (store.get(format!("agent:main:{bare}")), store.get(bare)) {
        (Some(canonical), Some(bare)) if updated(bare) > updated(canonical) => Some(bare),
        (Some(canonical), _) => Some(canonical),
        (None, bare) => bare,
    }
}

/// The transcript's name within the sessions directory. Only the last component counts: the path is absolute, and
/// may be another box's.
fn transcript_name(entry: &Value) -> String {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let named = text("sessionFile").and_then(|path| Path::new(path).file_name()?.to_str());
    match named {
        Some(name) => name.to_owned(),
        None => format!("{}.jsonl", text("sessionId").unwrap_or("unknown").replace('/', "_")),
    }
}

/// The messages of user and assistant; lines that cannot be read are passed over, and so is an unfinished one.
fn parse_transcript(bytes: &[u8]) -> Vec<Entry> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| parse_line(serde_json::from_slice(line.trim_ascii()).ok()?)).collect()
}

fn parse_line(mut line: Value) -> Option<Entry> {
    let timestamp = line.get("timestamp").filter(|value| !value.is_null()).cloned();
    let message = match line.get_mut("message") {
        Some(message) => message.take(),
        // The oldest transcripts have bare messages.
        None => line,
    };
    let role = message.get("role").and_then(Value::as_str);
    if !matches!(role, Some("user" | "assistant")) {
        return None;
    }
    let timestamp = timestamp.or_else(|| message.get("timestamp").cloned());
    Some(Entry { timestamp, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits() {
        for (text, expected) in [
            (None, Limit::Last(50)),
            (Some(""), Limit::Last(50)),
            (Some("1"), Limit::Last(1)),
            (Some("200"), Limit::Last(200)),
            (Some("201"), Limit::Last(200)),
            (Some("0"), Limit::Last(1)),
            (Some("-5"), Limit::Last(1)),
            (Some("10abc"), Limit::Last(10)),
            (Some(" 7"), Limit::Last(7)),
            (Some("99999999999999999999"), Limit::Last(200)),
            (Some("abc"), Limit::All),
            (Some("-"), Limit::All),
        ] {
            assert_eq!(Limit::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn session_keys() {
        let (longest, too_long) = ("a".repeat(100), "a".repeat(101));
        for (key, valid) in [
            ("main", true),
            ("a.b-c_D9", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            ("agent:main:main", false),
            ("a..b", false),
            ("a/b", false),
            ("a b", false),
        ] {
            assert_eq!(is_session_key(key), valid, "{key:?}");
        }
    }

    #[test]
    fn both_spellings_of_a_key_are_found() {
        let only_canonical = json!({"agent:main:main": {"n": 1}});
        let only_bare = json!({"main": {"n": 2}});
        let newer_bare =
            json!({"agent:main:main": {"n": 1, "updatedAt": 1}, "main": {"n": 2, "updatedAt": 2}});
        let tie = json!({"agent:main:main": {"n": 1}, "main": {"n": 2}});
        for (store, n) in [(&only_canonical, 1), (&only_bare, 2), (&newer_bare, 2), (&tie, 1)] {
            for key in ["main", "agent:main:main"] {
                assert_eq!(find_session(store, key).unwrap()["n"], n, "{key} in {store}");
            }
            assert_eq!(find_session(store, "work"), None);
        }
    }

    #[test]
    fn transcripts_lie_in_the_sessions_directory_and_nowhere_else() {
        for (entry, name) in [
            (json!({"sessionId": "s1"}), "s1.jsonl"),
            (
                json!({"sessionId": "s1", "sessionFile": "/root/.clawdbot/agents/main/sessions/s2.jsonl"}),
                "s2.jsonl",
            ),
            (json!({"sessionId": "s1", "sessionFile": "../../../etc/passwd"}), "passwd"),
            (json!({"sessionId": "s1", "sessionFile": "/.."}), "s1.jsonl"),
            (json!({"sessionId": "../x"}), ".._x.jsonl"),
        ] {
            assert_eq!(transcript_name(&entry), name, "{entry}");
        }
    }

    #[test]
    fn transcripts_are_read_line_by_line() {
        let text = concat!(
            r#"{"type":"session","version":3,"id":"x","timestamp":"2026-01-01T00:00:00.000Z"}"#,
            "\r\n",
            r#"{"type":"message","timestamp":"2026-01-01T00:00:01.000Z","message":{"role":"user","content":"a","timestamp":5}}"#,
            "\r\n",
            "not json\n\n",
            r#"{"type":"message","message":{"role":"assistant","content":[],"timestamp":6}}"#,
            "\n",
            r#"{"type":"message","message":{"role":"toolResult","content":[]}}"#,
            "\n",
            r#"{"role":"user","content":"bare"}"#,
            "\n",
            r#"{"type":"message","message":{"role":"user","con"#,
        );
        let shown: Vec<Value> = parse_transcript(text.as_bytes())
            .iter()
            .map(|e| serde_json::to_value(e.shown()).unwrap())
            .collect();
        assert_eq!(
            shown,
            [
                json!({"role": "user", "content": "a", "timestamp": "2026-01-01T00:00:01.000Z"}),
                json!({"role": "assistant", "content": [], "timestamp": 6}),
                json!({"role": "user", "content": "bare"}),
            ]
        );
    }
}
