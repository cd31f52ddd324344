//! What the legacy Worker does to single frames on their way, as functions from text to text.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Longest reason that fits into a close frame, in bytes.
const MAX_REASON_BYTES: usize = 123;

/// Towards the container: the gateway's token goes into each connect request. `None`: as it is.
///
/// One deviation from the Worker: a device identity is dropped. Its signature covers the token, so the agent
/// refuses it once the token is another; the Worker's own users never met this, since the dashboard's client
/// sends none. Without the deviation nobody could open the agent's page on this side without knowing its token.
pub(super) fn inject_token(text: &str, token: &str) -> Option<String> {
    // Most frames are not parsed at all.
    if !text.contains("connect") {
        return None;
    }
    let mut frame: Value = serde_json::from_str(text).ok()?;
    if frame.get("method")?.as_str()? != "connect" {
        return None;
    }
    let params = object(frame.get_mut("params"));
    let mut params = params.unwrap_or_default();
    let mut auth = object(params.get_mut("auth")).unwrap_or_default();
    auth.insert("token".into(), json!(token));
    params.insert("auth".into(), Value::Object(auth));
    params.remove("device");
    frame.as_object_mut()?.insert("params".into(), Value::Object(params));
    Some(frame.to_string())
}

/// Takes an object out of its place, if it is one.
fn object(value: Option<&mut Value>) -> Option<serde_json::Map<String, Value>> {
    value.and_then(Value::as_object_mut).map(std::mem::take)
}

/// Towards the client: errors of the gateway that a user cannot act upon are put into other words. `None`: as it
/// is.
pub(super) fn rewrite_error(text: &str, host: &str) -> Option<String> {
    if !text.contains("\"error\"") {
        return None;
    }
    let mut frame: Value = serde_json::from_str(text).ok()?;
    let message = frame.get_mut("error")?.get_mut("message")?;
    let rewritten = rewrite_message(message.as_str()?, host)?;
    *message = json!(rewritten);
    Some(frame.to_string())
}

fn rewrite_message(message: &str, host: &str) -> Option<String> {
    if message.contains("gateway token missing") || message.contains("gateway token mismatch") {
        Some(format!("Invalid or missing token. Visit https://{host}?token={{REPLACE_WITH_YOUR_TOKEN}}"))
    } else if message.contains("pairing required") {
        Some(format!("Pairing required. Visit https://{host}/_admin/"))
    } else {
        None
    }
}

/// A close towards the container. A code that may not be sent becomes a close without one.
pub(super) fn close_for_container(frame: Option<CloseFrame>) -> Option<CloseFrame> {
    frame.filter(|frame| frame.code.is_allowed())
}

/// A close towards the client: the same, with the reason in the words for clients, cut to what fits.
pub(super) fn close_for_client(frame: Option<CloseFrame>, host: &str) -> Option<CloseFrame> {
    let frame = frame.filter(|frame| frame.code.is_allowed())?;
    let reason = rewrite_message(&frame.reason, host).unwrap_or_else(|| frame.reason.to_string());
    Some(CloseFrame { code: frame.code, reason: fit_reason(reason).into() })
}

fn fit_reason(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES - 3).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    #[test]
    fn the_token_goes_into_connect_frames_only() {
        for (frame, expected) in [
            (
                r#"{"method":"connect","params":{"device":{"id":"d","signature":"s"}}}"#,
                Some(json!({"method": "connect", "params": {"auth": {"token": "T"}}})),
            ),
            (
                r#"{"method":"connect"}"#,
                Some(json!({"method": "connect", "params": {"auth": {"token": "T"}}})),
            ),
            (
                r#"{"id":"1","method":"connect","params":{"role":"operator","auth":{"token":"theirs","password":"p"}}}"#,
                Some(
                    json!({"id": "1", "method": "connect", "params": {"role": "operator", "auth": {"token": "T", "password": "p"}}}),
                ),
            ),
            (
                r#"{"method":"connect","params":"text"}"#,
                Some(json!({"method": "connect", "params": {"auth": {"token": "T"}}})),
            ),
            (r#"{"method":"chat.send","params":{"message":"connect"}}"#, None),
            (r#"{"method":1,"x":"connect"}"#, None),
            ("connect", None),
            ("[\"connect\"]", None),
        ] {
            let found = inject_token(frame, "T").map(|text| serde_json::from_str::<Value>(&text).unwrap());
            assert_eq!(found, expected, "{frame}");
        }
    }

    #[test]
    fn errors_are_put_into_other_words() {
        let token = "Invalid or missing token. Visit https://h?token={REPLACE_WITH_YOUR_TOKEN}";
        for (message, expected) in [
            ("unauthorized: gateway token missing (x)", Some(token)),
            ("unauthorized: gateway token mismatch", Some(token)),
            ("pairing required", Some("Pairing required. Visit https://h/_admin/")),
            ("something else", None),
        ] {
            let frame = json!({"type": "res", "ok": false, "error": {"code": "X", "message": message}});
            let found = rewrite_error(&frame.to_string(), "h");
            let found = found.map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let found = found.as_ref().and_then(|frame| frame["error"]["message"].as_str());
            assert_eq!(found, expected, "{message}");
        }
        assert_eq!(rewrite_error(r#"{"error":"pairing required"}"#, "h"), None);
        assert_eq!(rewrite_error(r#"{"event":"chat"}"#, "h"), None);
        assert_eq!(rewrite_error("\"error\"", "h"), None);
    }

    #[test]
    fn closes_are_passed_on_as_far_as_they_may_be() {
        let frame = |code: u16, reason: &str| {
            Some(CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() })
        };
        for (code, passes) in [
            (1000, true),
            (1008, true),
            (1012, true),
            (4001, true),
            (1005, false),
            (1006, false),
            (1015, false),
        ] {
            assert_eq!(close_for_container(frame(code, "r")).is_some(), passes, "{code}");
            assert_eq!(close_for_client(frame(code, "r"), "h").is_some(), passes, "{code}");
        }
        assert_eq!(close_for_client(None, "h"), None);
        let reason = |text: &str| close_for_client(frame(1008, text), "h").unwrap().reason.to_string();
        assert_eq!(reason("pairing required"), "Pairing required. Visit https://h/_admin/");
        assert_eq!(reason(&"a".repeat(123)), "a".repeat(123));
        assert_eq!(reason(&"a".repeat(124)), format!("{}...", "a".repeat(120)));
        // Counted in bytes, cut between characters.
        assert_eq!(reason(&format!("a{}", "ä".repeat(80))), format!("a{}...", "ä".repeat(59)));
    }
}
