//! The edit of a client's `connect`: our token goes in, and what the client may do is bounded. Pure.

use serde_json::{Map, Value, json};
use shared::secret::Secret;

/// Clients that the agent knows; it refuses others.
const CLIENT_IDS: [&str; 12] = [
    "webchat-ui",
    "clawdbot-control-ui",
    "webchat",
    "cli",
    "gateway-client",
    "clawdbot-macos",
    "clawdbot-ios",
    "clawdbot-android",
    "node-host",
    "test",
    "fingerprint",
    "clawdbot-probe",
];

/// What an unknown client is called instead. The agent and its successor both accept it.
const FALLBACK_CLIENT_ID: &str = "webchat";

/// The only role for which scopes mean anything. The other one, `node`, is for devices that work for the agent:
/// a browser that took it would be bound by no scope.
const ROLE: &str = "operator";

/// What clients get and may do.
#[derive(Debug)]
pub struct ConnectPolicy {
    token: Secret,
    scopes: Vec<String>,
}

impl ConnectPolicy {
    /// `scopes` must not be empty: the agent takes an empty list for the right to do everything.
    #[must_use]
    pub const fn new(token: Secret, scopes: Vec<String>) -> Self {
        Self { token, scopes }
    }
}

/// The edited form of a client's first message, or `None` if that is no `connect` that could be edited. Such a
/// message can go on as it is: without our token the agent refuses it.
///
/// Keys that are not edited keep their values and their order. A key that occurs twice counts with its last
/// value, as it does for the agent.
#[must_use]
pub fn edit(message: &[u8], policy: &ConnectPolicy) -> Option<Vec<u8>> {
    let mut frame: Map<String, Value> = serde_json::from_slice(message).ok()?;
    let says = |key: &str, value: &str| frame.get(key).is_some_and(|v| v == value);
    if !(says("type", "req") && says("method", "connect")) {
        return None;
    }
    let params = frame.get_mut("params")?.as_object_mut()?;

    params.insert("auth".to_owned(), json!({ "token": policy.token.expose() }));
    let scopes = clamp(params.get("scopes"), &policy.scopes);
    params.insert("scopes".to_owned(), scopes);
    if params.get("role").is_some_and(|role| role != ROLE) {
        params.insert("role".to_owned(), Value::from(ROLE));
    }
    // Its signature covers the token that we have just replaced.
    params.shift_remove("device");
    if let Some(client) = params.get_mut("client").and_then(Value::as_object_mut) {
        let known = client.get("id").and_then(Value::as_str).is_some_and(|id| CLIENT_IDS.contains(&id));
        if !known {
            client.insert("id".to_owned(), Value::from(FALLBACK_CLIENT_ID));
        }
    }
    serde_json::to_vec(&frame).ok()
}

/// What was asked for and is allowed, in the order asked for; all that is allowed if that leaves nothing.
fn clamp(asked: Option<&Value>, allowed: &[String]) -> Value {
    let asked = asked.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut granted: Vec<&str> = Vec::new();
    for scope in asked.iter().filter_map(Value::as_str) {
        if allowed.iter().any(|a| a == scope) && !granted.contains(&scope) {
            granted.push(scope);
        }
    }
    if granted.is_empty() { Value::from(allowed) } else { Value::from(granted) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> ConnectPolicy {
        let scopes = ["operator.read", "operator.write"].map(str::to_owned).to_vec();
        ConnectPolicy::new(Secret::new("T").unwrap(), scopes)
    }

    fn edited(message: &str) -> Option<String> {
        edit(message.as_bytes(), &policy()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_page_s_connect() {
        let message = r#"{"type":"req","id":"r1","method":"connect","params":{"minProtocol":3,"maxProtocol":3,
            "client":{"id":"automna-chat","version":"1.0.0","platform":"web","mode":"webchat"},
            "device":{"id":"d","signature":"s"},"role":"operator","scopes":["operator.admin","operator.read"],
            "caps":[],"permissions":{},"locale":"en-US","auth":{"token":"old","password":"p"},"zz":1}}"#;
        let expect = concat!(
            r#"{"type":"req","id":"r1","method":"connect","params":{"minProtocol":3,"maxProtocol":3,"#,
            r#""client":{"id":"webchat","version":"1.0.0","platform":"web","mode":"webchat"},"#,
            r#""role":"operator","scopes":["operator.read"],"#,
            r#""caps":[],"permissions":{},"locale":"en-US","auth":{"token":"T"},"zz":1}}"#
        );
        assert_eq!(edited(message).as_deref(), Some(expect));
    }

    #[test]
    fn scopes_and_roles() {
        let all = r#"["operator.read","operator.write"]"#;
        let rows = [
            (r"{}", all),
            (r#"{"scopes":null}"#, all),
            (r#"{"scopes":[]}"#, all),
            (r#"{"scopes":"operator.admin"}"#, all),
            (r#"{"scopes":{"0":"operator.admin"}}"#, all),
            (r#"{"scopes":["operator.admin"]}"#, all),
            (r#"{"scopes":["operator.admin","operator.approvals","operator.pairing"]}"#, all),
            (r#"{"scopes":[1,null,["operator.admin"]]}"#, all),
            (r#"{"scopes":["operator.write"]}"#, r#"["operator.write"]"#),
            (r#"{"scopes":["operator.write","operator.write","x"]}"#, r#"["operator.write"]"#),
            (r#"{"scopes":["operator.read"],"scopes":["operator.admin"]}"#, all),
            (r#"{"scopes":["operator.admin"],"scopes":["operator.read"]}"#, r#"["operator.read"]"#),
            (r#"{"\u0073copes":["operator.admin"]}"#, all),
        ];
        for (params, expect) in rows {
            let text = edited(&format!(r#"{{"type":"req","method":"connect","params":{params}}}"#)).unwrap();
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(frame["params"]["scopes"].to_string(), expect, "{params}");
            assert_eq!(text.matches("scopes").count(), 1, "{text}");
        }
        for role in [r#""node""#, "7", "null", r#""operator""#] {
            let params = format!(r#"{{"type":"req","method":"connect","params":{{"role":{role}}}}}"#);
            let frame: Value = serde_json::from_str(&edited(&params).unwrap()).unwrap();
            assert_eq!(frame["params"]["role"], "operator", "{role}");
        }
    }

    #[test]
    fn client_ids() {
        for (client, expect) in [
            (r#"{"id":"cli"}"#, json!({ "id": "cli" })),
            (
                r#"{"id":"clawdbot-control-ui","mode":"webchat"}"#,
                json!({ "id": "clawdbot-control-ui", "mode": "webchat" }),
            ),
            (r#"{"id":"evil"}"#, json!({ "id": "webchat" })),
            (r#"{"id":7}"#, json!({ "id": "webchat" })),
            (r#"{"mode":"ui"}"#, json!({ "mode": "ui", "id": "webchat" })),
            ("7", json!(7)),
        ] {
            let message = format!(r#"{{"type":"req","method":"connect","params":{{"client":{client}}}}}"#);
            let frame: Value = serde_json::from_str(&edited(&message).unwrap()).unwrap();
            assert_eq!(frame["params"]["client"], expect);
        }
    }

    #[test]
    fn what_is_no_connect() {
        let rows = [
            "",
            "hello",
            "7",
            "null",
            "[]",
            r#"["connect"]"#,
            "{}",
            r#"{"type":"req"}"#,
            r#"{"type":"req","method":"chat.send","params":{}}"#,
            r#"{"type":"event","method":"connect","params":{}}"#,
            r#"{"type":"req","method":"Connect","params":{}}"#,
            r#"{"type":"req","method":"connect","method":"health","params":{}}"#,
            r#"{"type":"req","method":["connect"],"params":{}}"#,
            r#"{"type":"req","method":"connect"}"#,
            r#"{"type":"req","method":"connect","params":[]}"#,
            r#"{"type":"req","method":"connect","params":{}} x"#,
            "{\"type\":\"req\",\"method\":\"connect\",\"params\":{\"a\":\"\u{1}\"}}",
        ];
        for message in rows {
            assert_eq!(edited(message), None, "{message}");
        }
        assert_eq!(edit(b"\xff{}", &policy()), None);
        // Escapes hide nothing.
        assert!(edited(r#"{"\u0074ype":"req","method":"\u0063onnect","params":{}}"#).is_some());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|rows| Value::Object(Map::from_iter(rows))),
            ]
        })
    }

    proptest! {
        #[test]
        fn other_keys_stay_and_rights_are_bounded(
            keys in prop::collection::vec(("[a-z]{1,6}|scopes|device|auth|role", value()), 0..8),
        ) {
            let params: Map<String, Value> = keys.into_iter().collect();
            let frame = json!({ "type": "req", "id": 1, "method": "connect", "params": params });
            let bytes = edit(frame.to_string().as_bytes(), &policy()).unwrap();
            let after: Value = serde_json::from_slice(&bytes).unwrap();
            let after = after["params"].as_object().unwrap();

            prop_assert_eq!(&after["auth"], &json!({ "token": "T" }));
            prop_assert!(!after.contains_key("device"));
            let scopes = after["scopes"].as_array().unwrap();
            prop_assert!(!scopes.is_empty());
            prop_assert!(scopes.iter().all(|s| s == "operator.read" || s == "operator.write"));

            let edited = ["auth", "device", "scopes", "role", "client"];
            let rest = |map: &Map<String, Value>| -> Vec<(String, Value)> {
                let kept = map.iter().filter(|(key, _)| !edited.contains(&key.as_str()));
                kept.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            prop_assert_eq!(rest(&params), rest(after));
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = edit(&bytes, &policy());
        }
    }
}
