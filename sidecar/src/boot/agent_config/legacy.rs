//! What older versions wrote into the configuration and the agent of today refuses to start with. One value that it
//! does not know, and it does not start at all.
//!
//! This module can go when no volume is imported from the old side any more.

use serde_json::{Map, Value};

use super::merge::{get, remove};

const TELEGRAM_DM: &str = "channels.telegram.dm has become dmPolicy and allowFrom";
const ANTHROPIC: &str = "models.providers.anthropic was removed, for it had no address or no models";
const OPENAI: &str = "models.providers.openai was removed, for it had no address or no models";

/// Puts them right, and says what was done.
pub(super) fn repair(config: &mut Map<String, Value>) -> Vec<&'static str> {
    let mut done = Vec::new();
    if telegram(config) {
        done.push(TELEGRAM_DM);
    }
    // Only these two, which the old start script wrote. Another provider that is wrong is its author's to mend.
    for (name, what) in [("anthropic", ANTHROPIC), ("openai", OPENAI)] {
        let path = ["models", "providers", name];
        if get(config, &path).is_some_and(|provider| !is_usable(provider)) {
            remove(config, &path);
            done.push(what);
        }
    }
    done
}

fn telegram(config: &mut Map<String, Value>) -> bool {
    let telegram = config.get_mut("channels").and_then(|channels| channels.get_mut("telegram"));
    let Some(telegram) = telegram.and_then(Value::as_object_mut) else { return false };
    let Some(dm) = telegram.shift_remove("dm") else { return false };
    for (from, to) in [("policy", "dmPolicy"), ("allowFrom", "allowFrom")] {
        if let Some(value) = dm.get(from) {
            telegram.entry(to).or_insert_with(|| value.clone());
        }
    }
    true
}

fn is_usable(provider: &Value) -> bool {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).is_some_and(|t| !t.is_empty());
    let models = provider.get("models").and_then(Value::as_array);
    text(provider, "baseUrl")
        && models.is_some_and(|models| models.iter().all(|model| text(model, "id") && text(model, "name")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn repaired(before: &Value) -> (Value, Vec<&'static str>) {
        let mut config = before.as_object().unwrap().clone();
        let done = repair(&mut config);
        let mut again = config.clone();
        assert_eq!(repair(&mut again), Vec::<&str>::new());
        assert_eq!(again, config);
        (config.into(), done)
    }

    #[test]
    fn what_the_agent_refuses() {
        let good = json!({"baseUrl": "https://a", "models": [{"id": "m", "name": "M"}]});
        let rows = [
            (
                json!({"channels": {"telegram": {"enabled": true, "dm": {"policy": "open", "allowFrom": ["*"]}}}}),
                json!({"channels": {"telegram": {"enabled": true, "dmPolicy": "open", "allowFrom": ["*"]}}}),
                vec![TELEGRAM_DM],
            ),
            (
                json!({"channels": {"telegram": {"dm": {"policy": "open"}, "dmPolicy": "pairing"}}}),
                json!({"channels": {"telegram": {"dmPolicy": "pairing"}}}),
                vec![TELEGRAM_DM],
            ),
            (
                json!({"models": {"mode": "merge", "providers": {"anthropic": {"apiKey": "k"}, "mine": {}}}}),
                json!({"models": {"mode": "merge", "providers": {"mine": {}}}}),
                vec![ANTHROPIC],
            ),
            (
                json!({"models": {"providers": {"anthropic": good, "openai": {"baseUrl": "u", "models": [{"id": "m"}]}}}}),
                json!({"models": {"providers": {"anthropic": good}}}),
                vec![OPENAI],
            ),
            (
                json!({"channels": {"discord": {"dm": {}}}}),
                json!({"channels": {"discord": {"dm": {}}}}),
                vec![],
            ),
            (json!({"channels": []}), json!({"channels": []}), vec![]),
            (json!({}), json!({}), vec![]),
        ];
        for (before, after, done) in rows {
            assert_eq!(repaired(&before), (after, done), "{before}");
        }
    }
}
