//! Which calls do not reach the agent. Pure.
//!
//! A call is refused if it destroys what the user has said: a transcript that is still in use, cut in place. Calls
//! that only put one away are the user's right, and the history still finds it:
//!
//! | call | what the agent does | |
//! |---|---|---|
//! | `sessions.reset` | a new transcript; the old one stays | passes |
//! | `sessions.delete` | renames the transcript to `.deleted.<time>` | passes |
//! | `sessions.patch`, `chat.inject`, `chat.abort` | appends, or changes settings | passes |
//! | `sessions.compact` | keeps the last lines of the file, 400 unless told, and drops its head; the next turn then writes the file anew | refused |
//!
//! The rule stands beside the scopes: a machine may grant `operator.admin`, and this call is no less final then.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A call that is refused, and what its caller is told.
struct Rule {
    method: &'static str,
    message: &'static str,
}

const REFUSED: [Rule; 1] = [Rule {
    method: "sessions.compact",
    message: "sessions.compact is not available here: it cuts the transcript. Send /compact to shorten the context",
}];

/// Longest id that is repeated to its caller. The agent has no bound; clients send UUIDs.
const MAX_ID_BYTES: usize = 256;

/// The answer to a call that must not reach the agent: a `res` frame under its id. `None`: it may.
///
/// What the agent cannot read either is none of our business. Of a key that occurs twice the last value counts, as
/// for the agent, and escapes hide nothing.
#[must_use]
pub fn refuse(message: &[u8]) -> Option<Vec<u8>> {
    if may_name_a_rule(message) { refuse_parsed(message) } else { None }
}

/// Whether the name of a rule can occur in `message`. In JSON a letter stands for itself or is written `\u....`, so
/// the messages that must be parsed are few.
fn may_name_a_rule(message: &[u8]) -> bool {
    let contains = |what: &str| memchr::memmem::find(message, what.as_bytes()).is_some();
    REFUSED.iter().any(|rule| contains(rule.method)) || contains("\\u")
}

fn refuse_parsed(message: &[u8]) -> Option<Vec<u8>> {
    let mut json = serde_json::Deserializer::from_slice(message);
    let call = json.deserialize_map(CallVisitor).ok()?;
    json.end().ok()?;
    let rule = REFUSED.iter().find(|rule| call.method.as_deref() == Some(rule.method.as_bytes()))?;
    let id = call.id.filter(|id| id.get().len() <= MAX_ID_BYTES).map_or("null", RawValue::get);
    // None of the texts needs an escape; a test sees to it.
    let answer = format!(
        r#"{{"type":"res","id":{id},"ok":false,"error":{{"code":"INVALID_REQUEST","message":"{}"}}}}"#,
        rule.message
    );
    Some(answer.into_bytes())
}

/// What counts of a call. The name as bytes: the agent accepts halves of surrogate pairs, which a `str` cannot hold.
#[derive(Default)]
struct Call<'a> {
    method: Option<Cow<'a, [u8]>>,
    id: Option<&'a RawValue>,
}

struct CallVisitor;

impl<'de> Visitor<'de> for CallVisitor {
    type Value = Call<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut call = Call::default();
        while let Some(Bytes(key)) = map.next_key()? {
            match key.as_ref() {
                b"method" => call.method = map.next_value::<Name<'_>>()?.0,
                b"id" => call.id = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(call)
    }
}

/// A string of JSON, without asking whether it is UTF-8.
struct Bytes<'a>(Cow<'a, [u8]>);

impl<'de> serde::Deserialize<'de> for Bytes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = Bytes<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Bytes(Cow::Borrowed(bytes)))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Bytes(Cow::Owned(bytes.to_vec())))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Bytes(Cow::Borrowed(text.as_bytes())))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Bytes(Cow::Owned(text.as_bytes().to_vec())))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// The value of `method`, if it is a string.
struct Name<'a>(Option<Cow<'a, [u8]>>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&'de RawValue>::deserialize(deserializer)?;
        let name = serde_json::from_str::<Bytes<'de>>(value.get()).ok();
        Ok(Self(name.map(|Bytes(name)| name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn refused(message: &str) -> Option<Value> {
        refuse(message.as_bytes()).map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    #[test]
    fn calls_that_do_not_reach_the_agent() {
        let rows = [
            r#"{"type":"req","id":"7","method":"sessions.compact","params":{"key":"main","maxLines":1}}"#,
            r#"{"type":"req","id":"7","method":"sessions.compact"}"#,
            r#" { "method" : "sessions.compact" , "id" : "7" } "#,
            r#"{"id":"7","method":"\u0073essions.compact"}"#,
            r#"{"id":"7","\u006dethod":"sessions\u002Ecompact"}"#,
            r#"{"id":"7","method":"health","method":"sessions.compact"}"#,
            r#"{"id":"7","method":"sessions.compact","params":{"x":"\ud800"},"\udfff":1}"#,
            r#"{"id":"7","n":1e999,"method":"sessions.compact"}"#,
        ];
        for message in rows {
            let answer = refused(message).unwrap_or_else(|| panic!("{message}"));
            assert_eq!(
                (&answer["type"], &answer["id"], &answer["ok"]),
                (&json!("res"), &json!("7"), &json!(false))
            );
            assert_eq!(answer["error"]["code"], "INVALID_REQUEST");
            assert!(answer["error"]["message"].as_str().unwrap().contains("sessions.compact"));
        }
        // In a binary frame the agent replaces what is not UTF-8.
        assert!(refuse(b"{\"id\":\"7\",\"x\":\"\xff\",\"method\":\"sessions.compact\"}").is_some());
        assert_eq!(refused(r#"{"method":"sessions.compact"}"#).unwrap()["id"], Value::Null);
        let long = format!(r#"{{"method":"sessions.compact","id":"{}"}}"#, "7".repeat(300));
        assert_eq!(refused(&long).unwrap()["id"], Value::Null);
        let nested =
            format!(r#"{{"x":{}{},"method":"sessions.compact"}}"#, "[".repeat(5000), "]".repeat(5000));
        assert!(refused(&nested).is_some());
    }

    #[test]
    fn calls_that_pass() {
        let rows = [
            r#"{"type":"req","id":"7","method":"sessions.reset","params":{"key":"main"}}"#,
            r#"{"type":"req","id":"7","method":"sessions.delete","params":{"key":"main"}}"#,
            r#"{"id":"7","method":"chat.send","params":{"message":"what does sessions.compact do?"}}"#,
            r#"{"id":"7","method":"chat.send","params":{"method":"sessions.compact"}}"#,
            r#"{"id":"7","method":"sessions.compact","method":"health"}"#,
            r#"{"id":"7","method":"sessions.compact "}"#,
            r#"{"id":"7","method":["sessions.compact"]}"#,
            r#"["sessions.compact"]"#,
            // The agent cannot read these.
            r#"{"method":"sessions.compact""#,
            r#"{"method":"sessions.compact"} x"#,
            "sessions.compact",
            "",
        ];
        for message in rows {
            assert_eq!(refused(message), None, "{message}");
        }
    }

    proptest! {
        #[test]
        fn looking_first_changes_nothing(
            escaped in prop::collection::vec(any::<bool>(), 16),
            other in "[ -~]{0,20}",
        ) {
            let name: String = "sessions.compact".chars().zip(escaped).map(|(letter, escaped)| {
                if escaped { format!("\\u{:04X}", letter as u32) } else { letter.to_string() }
            }).collect();
            let message = format!(r#"{{"id":"1","p":{},"method":"{name}"}}"#, Value::from(other));
            prop_assert!(refuse(message.as_bytes()).is_some(), "{}", message);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(refuse(&bytes), None);
            let _any = refuse_parsed(&bytes);
        }

        #[test]
        fn what_javascript_reads_is_read(value in "[\\[\\]{}\",:0-9a-z\\\\]{0,40}") {
            // serde_json's own reader of anything is the stricter one.
            let message = format!(r#"{{"x":{value},"method":"sessions.compact"}}"#);
            if serde_json::from_str::<serde_json::Map<String, Value>>(&message).is_ok_and(|map| map["method"] == "sessions.compact") {
                prop_assert!(refuse(message.as_bytes()).is_some());
            }
        }
    }
}
