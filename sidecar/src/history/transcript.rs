//! The lines of a transcript, as clawdbot and its predecessors wrote them. Parsing never fails: a line that is
//! no message is no message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Which lines count as messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Roles {
    /// What people and the agent said to each other, which is all that the legacy side showed.
    #[default]
    Talk,
    /// Also the results of tools and whatever else has a role.
    All,
}

/// A message that lies in the buffer of whoever read the line. Its values are kept as they were written: what
/// is not understood here is still passed on whole.
#[derive(Debug)]
pub struct Message<'a> {
    role: Cow<'a, str>,
    timestamp: Option<&'a RawValue>,
    line_id: Option<&'a RawValue>,
    inner: Inner<'a>,
    raw: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inner<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_call_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    is_error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error_message: Option<&'a RawValue>,
}

/// Reads one line, without its newline; a `\r` before it is white space. `None`: no message of these roles.
#[must_use]
pub fn parse(line: &[u8], roles: Roles) -> Option<Message<'_>> {
    let line = line.trim_ascii();
    // The usual lines that are none begin otherwise, and an empty one is not worth a parser.
    if line.first() != Some(&b'{') {
        return None;
    }
    let whole: &RawValue = serde_json::from_slice(line).ok()?;
    let outer: Line<'_> = serde_json::from_str(whole.get()).ok()?;
    // The oldest transcripts have bare messages.
    let raw = outer.message.unwrap_or(whole);
    let inner: Inner<'_> = serde_json::from_str(raw.get()).ok()?;
    let wanted = roles == Roles::All || matches!(inner.role.as_ref(), "user" | "assistant");
    // The line's own time goes first: that is what the legacy side showed.
    let timestamp = outer.timestamp.or(inner.timestamp);
    wanted.then(|| Message { role: inner.role.clone(), timestamp, line_id: outer.id, inner, raw })
}

impl Message<'_> {
    /// When it was written, in milliseconds since 1970, if that can be read.
    #[must_use]
    pub fn at_ms(&self) -> Option<u64> {
        self.timestamp.and_then(|raw| time_ms(raw.get()))
    }

    /// Takes it out of the buffer.
    #[must_use]
    pub fn to_entry(&self, roles: Roles) -> Entry {
        let keep = |raw: Option<&RawValue>| raw.map(ToOwned::to_owned);
        let full = roles == Roles::All;
        let more = |raw: Option<&RawValue>| if full { keep(raw) } else { None };
        Entry {
            role: self.role.clone().into_owned(),
            content: keep(self.inner.content),
            timestamp: keep(self.timestamp),
            id: more(self.line_id),
            tool_call_id: more(self.inner.tool_call_id),
            tool_name: more(self.inner.tool_name),
            is_error: more(self.inner.is_error),
            stop_reason: more(self.inner.stop_reason),
            error_message: more(self.inner.error_message),
            raw: self.raw.to_owned(),
        }
    }

    /// What a person would read: the text parts, one below the other.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(self.inner.content)
    }

    /// The role, as written.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }
}

/// A message as clients get it. `role`, `content` and `timestamp` are the contract's, `timestamp` a text or a
/// number, as it was written. The rest is there only when everything was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message, description = "A message, with its values as they were written.")]
pub struct Entry {
    pub role: String,
    /// A text, or a list of parts.
    #[schema(value_type = serde_json::Value)]
    pub content: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub timestamp: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub id: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub tool_call_id: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub tool_name: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub is_error: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub stop_reason: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub error_message: Option<Box<RawValue>>,
    /// The whole message, for the route that shows it so.
    #[serde(skip)]
    pub raw: Box<RawValue>,
}

/// The text of a content, be it one text or parts.
#[must_use]
pub fn text_of(content: Option<&RawValue>) -> String {
    let Some(content) = content else { return String::new() };
    match serde_json::from_str(content.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// When a line of any kind was written, the header of a transcript included.
#[must_use]
pub fn line_time_ms(line: &[u8]) -> Option<u64> {
    let line: Line<'_> = serde_json::from_slice(line.trim_ascii()).ok()?;
    time_ms(line.timestamp?.get())
}

/// A JSON number of milliseconds, or a JSON string in ISO 8601 and UTC.
fn time_ms(json: &str) -> Option<u64> {
    match json.strip_prefix('"') {
        Some(rest) => iso_ms(rest.strip_suffix('"')?),
        None => json.parse().ok(),
    }
}

/// `2026-01-01T00:00:01.250Z`; the fraction may be missing.
fn iso_ms(text: &str) -> Option<u64> {
    const MS_PER_DAY: u64 = 86_400_000;
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (time.next()??, time.next()??, time.next()??);
    let plausible = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hours < 24
        && minutes < 60
        && seconds <= 60;
    if !plausible || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 by the usual trick: years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * MS_PER_DAY + ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(line: &str, roles: Roles) -> Option<Value> {
        parse(line.as_bytes(), roles).map(|m| serde_json::to_value(m.to_entry(roles)).unwrap())
    }

    #[test]
    fn lines() {
        let rows = [
            (
                r#"{"type":"message","id":"x","timestamp":"2026-01-01T00:00:01.000Z","message":{"role":"user","content":"a","timestamp":5}}"#,
                Some(json!({"role": "user", "content": "a", "timestamp": "2026-01-01T00:00:01.000Z"})),
            ),
            (
                "{\"type\":\"message\",\"message\":{\"role\":\"assistant\",\"content\":[],\"timestamp\":6}}\r",
                Some(json!({"role": "assistant", "content": [], "timestamp": 6})),
            ),
            (
                r#"{"timestamp":null,"message":{"role":"user","content":1,"timestamp":7}}"#,
                Some(json!({"role": "user", "content": 1, "timestamp": 7})),
            ),
            (r#"{"role":"user","content":"bare"}"#, Some(json!({"role": "user", "content": "bare"}))),
            (r#"{"message":{"role":"user"}}"#, Some(json!({"role": "user", "content": null}))),
            (r#"{"message":{"role":"us\u0065r"}}"#, Some(json!({"role": "user", "content": null}))),
            (r#"{"message":{"role":"toolResult","content":[]}}"#, None),
            (r#"{"message":{"role":7}}"#, None),
            (r#"{"type":"session","version":3,"id":"x"}"#, None),
            (r#"{"message":{"role":"user","con"#, None),
            ("not json", None),
            ("", None),
            ("[]", None),
            ("null", None),
        ];
        for (line, expect) in rows {
            assert_eq!(shown(line, Roles::Talk), expect, "{line}");
        }
    }

    #[test]
    fn everything_includes_tools() {
        let line = r#"{"id":"i","message":{"role":"toolResult","toolCallId":"t","toolName":"exec","isError":false,"content":[{"type":"text","text":"out"}],"timestamp":8}}"#;
        let expect = json!({"role": "toolResult", "content": [{"type": "text", "text": "out"}], "timestamp": 8,
            "id": "i", "toolCallId": "t", "toolName": "exec", "isError": false});
        assert_eq!(shown(line, Roles::All), Some(expect));
    }

    #[test]
    fn values_pass_through_as_they_were_written() {
        let content = r#"[{"type":"text","text":"\ud800 \u00e4 1"},{"n":12345678901234567890123,"e":1.50}]"#;
        let line = format!(r#"{{"message":{{"role":"user","content":{content}}}}}"#);
        let message = parse(line.as_bytes(), Roles::Talk).unwrap();
        let entry = message.to_entry(Roles::Talk);
        assert_eq!(entry.content.unwrap().get(), content);
    }

    #[test]
    fn texts() {
        let rows = [
            (r#""plain""#, "plain"),
            (
                r#"[{"type":"text","text":"a"},{"type":"image","data":"x"},{"type":"text","text":"b"}]"#,
                "a\nb",
            ),
            ("7", ""),
            ("[7]", ""),
        ];
        for (content, text) in rows {
            let line = format!(r#"{{"role":"user","content":{content}}}"#);
            assert_eq!(parse(line.as_bytes(), Roles::Talk).unwrap().text(), text, "{content}");
        }
    }

    #[test]
    fn times() {
        let rows = [
            ("1795454155893", Some(1_795_454_155_893)),
            (r#""1970-01-01T00:00:00.000Z""#, Some(0)),
            (r#""2000-02-29T12:34:56.789Z""#, Some(951_827_696_789)),
            (r#""2026-11-24T06:13:37Z""#, Some(1_795_500_817_000)),
            (r#""2026-11-24T06:13:37.5Z""#, Some(1_795_500_817_500)),
            (r#""2026-13-24T06:13:37Z""#, None),
            (r#""2026-11-24""#, None),
            (r#""99999999999999999999-01-01T00:00:00Z""#, None),
            ("-1", None),
            ("true", None),
            ("\"", None),
        ];
        for (json, expect) in rows {
            assert_eq!(time_ms(json), expect, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes: Vec<u8>) {
            for roles in [Roles::Talk, Roles::All] {
                if let Some(message) = parse(&bytes, roles) {
                    let _text = (message.text(), message.at_ms());
                }
            }
            let _time = line_time_ms(&bytes);
        }

        #[test]
        fn any_text_round_trips(role in "user|assistant", text: String, time: u64) {
            let line = json!({"message": {"role": role, "content": text, "timestamp": time}}).to_string();
            let message = parse(line.as_bytes(), Roles::Talk).unwrap();
            prop_assert_eq!(message.text(), text);
            prop_assert_eq!(message.at_ms(), Some(time));
        }

        #[test]
        fn any_damage_is_survived(at in 0_usize..80, byte: u8) {
            let mut line = br#"{"timestamp":"2026-01-01T00:00:01.000Z","message":{"role":"user","content":"a"}}"#.to_vec();
            line[at] = byte;
            if let Some(message) = parse(&line, Roles::All) {
                let _entry = serde_json::to_string(&message.to_entry(Roles::All)).unwrap();
            }
        }
    }
}
