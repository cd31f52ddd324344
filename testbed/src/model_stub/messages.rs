//! The messages API as far as an agent needs it: what the user said, and a reply in one piece or in many.

use serde::Serialize;
use serde_json::{Value, json};

/// A reply to a short text comes in pieces of about a word, a large one in no more than this many: the agent
/// sends the whole text so far with each piece, so that its work grows with their square.
const MAX_PIECES: usize = 24;

/// What the user said last, without what the agent's channels wrap around it.
#[must_use]
pub(super) fn last_user_text(request: &Value) -> String {
    let messages = request.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let last =
        messages.iter().rev().find(|message| message.get("role").and_then(Value::as_str) == Some("user"));
    match last.and_then(|message| message.get("content")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// Takes off what clawdbot puts around a user's text: `System:` notes before it, a channel's envelope
/// (`[WebChat … 2026-01-02 03:04 UTC] hi`) and the line with the message's id.
#[must_use]
pub(super) fn unwrap_user_text(text: &str) -> String {
    let mut rest = text;
    while let Some((note, after)) = rest.split_once("\n\n") {
        if !note.starts_with("System: [") {
            break;
        }
        rest = after;
    }
    if let Some((header, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_envelope = !header.starts_with('[') && (header.starts_with("WebChat ") || has_minute(header));
        if is_envelope {
            rest = after.trim_start();
        }
    }
    let lines: Vec<&str> = rest
        .lines()
        .filter(|line| !line.trim_start().to_ascii_lowercase().starts_with("[message_id:"))
        .collect();
    lines.join("\n").trim().to_owned()
}

/// Whether a date and a minute stand in it, as in `2026-01-02 03:04`.
fn has_minute(header: &str) -> bool {
    let shape = |window: &[u8]| {
        window.iter().zip(b"dddd-dd-dd_dd:dd").all(|(byte, kind)| match kind {
            b'd' => byte.is_ascii_digit(),
            b'_' => matches!(byte, b' ' | b'T'),
            other => byte == other,
        })
    };
    header.as_bytes().windows(16).any(shape)
}

/// The reply: what was said, filled up to `at_least` bytes with lines that can be told apart.
#[must_use]
pub(super) fn reply_text(said: &str, at_least: u64) -> String {
    let mut reply = format!("You said: {said}");
    let size = usize::try_from(at_least).unwrap_or(usize::MAX);
    let mut line = 0_u64;
    while reply.len() < size {
        let mut filler = format!("\nline {line}: the quick brown fox jumps over the lazy dog");
        filler.truncate(size - reply.len());
        reply.push_str(&filler);
        line += 1;
    }
    reply
}

/// The reply in pieces: about a word each, at most [`MAX_PIECES`].
#[must_use]
pub(super) fn pieces(reply: &str) -> Vec<String> {
    let least = reply.len().div_ceil(MAX_PIECES);
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for word in reply.split_inclusive(' ') {
        piece.push_str(word);
        if piece.len() >= least {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The whole reply as one JSON body.
#[must_use]
pub(super) fn whole(id: &str, model: &str, reply: &str) -> Value {
    let mut message = opening(id, model);
    if let Some(fields) = message.as_object_mut() {
        fields.insert("content".into(), json!([{"type": "text", "text": reply}]));
        fields.insert("stop_reason".into(), json!("end_turn"));
        fields.insert("usage".into(), json!({"input_tokens": 1, "output_tokens": tokens(reply)}));
    }
    message
}

/// The events before the first piece.
#[must_use]
pub(super) fn stream_start(id: &str, model: &str) -> String {
    let start = event("message_start", json!({"message": opening(id, model)}));
    let block =
        event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}}));
    format!("{start}{block}")
}

/// The event of one piece.
#[must_use]
pub(super) fn stream_piece(piece: &str) -> String {
    event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": piece}}))
}

/// The events after the last piece.
#[must_use]
pub(super) fn stream_end(reply: &str) -> String {
    let block = event("content_block_stop", json!({"index": 0}));
    let delta = event(
        "message_delta",
        json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": tokens(reply)}}),
    );
    let stop = event("message_stop", json!({}));
    format!("{block}{delta}{stop}")
}

/// An error's body.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody {
    r#type: &'static str,
    error: ErrorDetail,
}

#[derive(Debug, Serialize)]
struct ErrorDetail {
    r#type: &'static str,
    message: String,
}

/// The error that goes with an HTTP status.
#[must_use]
pub(super) fn error_body(status: u16, message: &str) -> ErrorBody {
    let kind = match status {
        400 | 413 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    ErrorBody { r#type: "error", error: ErrorDetail { r#type: kind, message: message.to_owned() } }
}

fn opening(id: &str, model: &str) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 0},
    })
}

fn event(name: &str, mut data: Value) -> String {
    if let Some(fields) = data.as_object_mut() {
        fields.insert("type".into(), json!(name));
    }
    format!("event: {name}\ndata: {data}\n\n")
}

/// A plausible count, nothing more.
fn tokens(reply: &str) -> usize {
    reply.len().div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_text_is_found() {
        let rows = [
            (json!({"messages": [{"role": "user", "content": "a"}]}), "a"),
            (
                json!({"messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "image"}, {"type": "text", "text": "d"}]},
                ]}),
                "c\nd",
            ),
            (json!({"messages": [{"role": "assistant", "content": "b"}]}), ""),
            (json!({"messages": "?"}), ""),
            (json!([]), ""),
        ];
        for (request, expected) in rows {
            assert_eq!(last_user_text(&request), expected, "{request}");
        }
    }

    #[test]
    fn wrappings_come_off() {
        for (text, expected) in [
            ("hello world\n[message_id: idem-1]", "hello world"),
            ("[WebChat user 2026-01-02T03:04Z] hi\n  [message_id: x]", "hi"),
            ("[Mon 2026-01-02 03:04 UTC] hi", "hi"),
            ("System: [2026-11-23 17:21:41 UTC] Node: up\n\nhi", "hi"),
            ("[[stub cut]] hi", "[[stub cut]] hi"),
            ("[not an envelope] hi", "[not an envelope] hi"),
            ("two\n\nparagraphs", "two\n\nparagraphs"),
            ("[unclosed", "[unclosed"),
            ("", ""),
        ] {
            assert_eq!(unwrap_user_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn replies_have_the_size_asked_for_and_fall_into_few_pieces() {
        assert_eq!(reply_text("hi", 0), "You said: hi");
        assert_eq!(reply_text("hi", 3), "You said: hi");
        for size in [100, 1000, 900 << 10] {
            let reply = reply_text("hi", size);
            assert_eq!(reply.len() as u64, size);
            let parts = pieces(&reply);
            assert!((2..=MAX_PIECES + 1).contains(&parts.len()), "{}", parts.len());
            assert_eq!(parts.concat(), reply);
        }
        assert_eq!(pieces("You said: hello world"), ["You ", "said: ", "hello ", "world"]);
    }

    #[test]
    fn events_have_the_shape_of_server_sent_events() {
        let event = stream_piece("a\nb");
        let data =
            event.strip_prefix("event: content_block_delta\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'), "one line: {data}");
        // Compared as a value: the order of keys depends on what else is built with us.
        let expected = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a\nb"}});
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected);
    }
}
