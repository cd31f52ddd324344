//! Which values of the agent's configuration are ours.
//!
//! *Managed* is what the sidecar depends on: how it reaches the agent, who may, and where files lie. *Defaults* are
//! what makes the agent start small and keep its conversations; a user gets each of them back by setting it:
//!
//! | value | the agent's own default | why not |
//! |---|---|---|
//! | `browser.enabled: false` | `true` | there is no browser in the image; two more ports |
//! | `canvasHost.enabled: false` | `true` | it serves devices on a local network, of which there are none |
//! | `discovery.wideArea.enabled: false` | `false` | as it is, written down |
//! | `update.checkOnStart: false` | `true` | the image decides which version runs |
//! | `session.reset` idle, ten years | daily at 04:00 | conversations are not thrown away at night |
//! | `agents.defaults.model.primary` | `anthropic/claude-opus-4-5` | by the keys that were given |
//! | `channels.*` | off | on, for the tokens that were given |
//!
//! The memory plugin stays on. What made it dear, a minute and 1.2 GB at the first start, was that the agent was
//! transpiled for it; the environment that [`crate::boot::prepare`] makes sees to that.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::merge::{Rule, Want, get};
use crate::boot::alert::Alert;
use crate::boot::credentials::{BaseUrl, Credentials, Policy, Provider};

/// Ten years. The agent has no "never".
const IDLE_MINUTES: u32 = 5_256_000;

/// What of the machine the agent has to know.
#[derive(Debug, Clone, Copy)]
pub(in crate::boot) struct Surroundings<'a> {
    /// Where its gateway listens.
    pub(in crate::boot) agent: SocketAddr,
    pub(in crate::boot) workspace: &'a Path,
    pub(in crate::boot) log: &'a Path,
    pub(in crate::boot) credentials: &'a Credentials,
}

/// The rules for this machine, in the order in which a new file has them. `existing` decides only whether an open
/// channel would contradict it: the agent refuses to start then.
pub(super) fn rules(around: Surroundings<'_>, existing: &Map<String, Value>) -> (Vec<Rule>, Vec<Alert>) {
    let mut rules = gateway(around.agent);
    rules.extend([
        managed("agents.defaults.workspace", around.workspace.to_string_lossy()),
        managed("logging.file", around.log.to_string_lossy()),
        default("browser.enabled", false),
        default("canvasHost.enabled", false),
        default("discovery.wideArea.enabled", false),
        default("update.checkOnStart", false),
    ]);
    // An older way to say the same, which the newer one would overrule.
    if get(existing, &["session", "idleMinutes"]).is_none() {
        rules.push(default("session.reset", json!({"mode": "idle", "idleMinutes": IDLE_MINUTES})));
    }
    models(around.credentials, &mut rules);
    let alerts = channels(around.credentials, existing, &mut rules);
    (rules, alerts)
}

fn gateway(agent: SocketAddr) -> Vec<Rule> {
    vec![
        managed("gateway.mode", "local"),
        managed("gateway.port", agent.port()),
        // The sidecar is the only door.
        managed("gateway.bind", "loopback"),
        managed("gateway.tailscale.mode", "off"),
        absent("gateway.tls"),
        managed("gateway.auth.mode", "token"),
        // The token is in the environment, and one in the file would win.
        absent("gateway.auth.token"),
        absent("gateway.auth.password"),
        absent("gateway.auth.allowTailscale"),
        // Compared as text, without prefixes: these are all that the sidecar's connections can come from.
        managed("gateway.trustedProxies", json!(["127.0.0.1", "::1"])),
        managed("gateway.controlUi.enabled", true),
        // The sidecar takes the device's signature out, since it covers another token.
        managed("gateway.controlUi.allowInsecureAuth", true),
        absent("gateway.controlUi.basePath"),
    ]
}

fn models(credentials: &Credentials, rules: &mut Vec<Rule>) {
    let models = &credentials.models;
    if let Some(url) = &models.anthropic_url {
        rules.extend(provider("anthropic", url, "anthropic-messages", anthropic_models()));
    }
    if let Some(url) = &models.openai_url {
        rules.extend(provider("openai", url, "openai-responses", openai_models()));
    }
    let first = match models.first {
        Provider::Anthropic => "anthropic/claude-opus-4-5",
        Provider::OpenAi => "openai/gpt-5.2",
    };
    rules.push(default("agents.defaults.model.primary", first));
}

/// A provider behind another address. Its key is in the environment.
fn provider(name: &str, url: &BaseUrl, api: &str, models: Value) -> [Rule; 3] {
    let at = |key: &str| format!("models.providers.{name}.{key}");
    [
        managed(&at("baseUrl"), url.as_str()),
        managed(&at("api"), api),
        // The agent refuses a provider without any.
        default(&at("models"), models),
    ]
}

/// Written out in full: the agent fills in what is missing, and then it would look like the user's own list.
fn model(id: &str, name: &str, window: u32, reply: u32) -> Value {
    json!({
        "id": id, "name": name, "reasoning": true, "input": ["text", "image"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": window, "maxTokens": reply,
    })
}

/// With and without date: the old start script wrote dates, and the agent's own default has none.
fn anthropic_models() -> Value {
    json!([
        model("claude-opus-4-5", "Claude Opus 4.5", 200_000, 64_000),
        model("claude-sonnet-4-5", "Claude Sonnet 4.5", 200_000, 64_000),
        model("claude-haiku-4-5", "Claude Haiku 4.5", 200_000, 64_000),
        model("claude-opus-4-5-20251101", "Claude Opus 4.5", 200_000, 64_000),
        model("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", 200_000, 64_000),
        model("claude-haiku-4-5-20251001", "Claude Haiku 4.5", 200_000, 64_000),
    ])
}

fn openai_models() -> Value {
    json!([
        model("gpt-5.2", "GPT-5.2", 400_000, 128_000),
        model("gpt-5", "GPT-5", 400_000, 128_000),
        model("gpt-5-mini", "GPT-5 mini", 400_000, 128_000),
    ])
}

/// One channel, as this version of the agent wants it written.
struct Channel {
    name: &'static str,
    policy: Option<Policy>,
    policy_path: &'static [&'static str],
    senders_path: &'static [&'static str],
    /// The token's variable, and where the file can hold one.
    token: (&'static str, &'static str, &'static [&'static str]),
}

fn channels(credentials: &Credentials, existing: &Map<String, Value>, rules: &mut Vec<Rule>) -> Vec<Alert> {
    let channels = [
        Channel {
            name: "telegram",
            policy: credentials.telegram,
            policy_path: &["channels", "telegram", "dmPolicy"],
            senders_path: &["channels", "telegram", "allowFrom"],
            token: (
                "TELEGRAM_BOT_TOKEN",
                "channels.telegram.botToken",
                &["channels", "telegram", "botToken"],
            ),
        },
        Channel {
            name: "discord",
            policy: credentials.discord,
            policy_path: &["channels", "discord", "dm", "policy"],
            senders_path: &["channels", "discord", "dm", "allowFrom"],
            token: ("DISCORD_BOT_TOKEN", "channels.discord.token", &["channels", "discord", "token"]),
        },
        Channel {
            name: "slack",
            policy: credentials.slack,
            policy_path: &["channels", "slack", "dm", "policy"],
            senders_path: &["channels", "slack", "dm", "allowFrom"],
            token: ("SLACK_BOT_TOKEN", "channels.slack.botToken", &["channels", "slack", "botToken"]),
        },
    ];
    let mut alerts = Vec::new();
    for channel in channels {
        let Some(policy) = channel.policy else { continue };
        rules.push(at(&["channels", channel.name, "enabled"], Want::Default(json!(true))));
        let is_open = policy == Policy::Open;
        if is_open && !may_be_open(get(existing, channel.senders_path)) {
            alerts.push(Alert::OpenPolicyNotUsed { channel: channel.name });
            rules.push(at(channel.policy_path, Want::Default(json!(Policy::Pairing.as_str()))));
        } else {
            rules.push(at(channel.policy_path, Want::Default(json!(policy.as_str()))));
            if is_open {
                rules.push(at(channel.senders_path, Want::Default(json!(["*"]))));
            }
        }
        let (variable, path, keys) = channel.token;
        let in_file = get(existing, keys).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let given = credentials.secrets.get(variable);
        if !in_file.is_empty() && given.is_some_and(|given| !given.matches(in_file)) {
            alerts.push(Alert::TokenInConfig { variable, path });
        }
    }
    alerts
}

/// The agent wants `*` among the senders of an open channel.
fn may_be_open(senders: Option<&Value>) -> bool {
    let Some(senders) = senders else { return true };
    senders.as_array().is_some_and(|senders| senders.iter().any(|sender| sender == "*"))
}

fn managed(path: &str, value: impl Into<Value>) -> Rule {
    at(&keys(path), Want::Managed(value.into()))
}

fn default(path: &str, value: impl Into<Value>) -> Rule {
    at(&keys(path), Want::Default(value.into()))
}

fn absent(path: &str) -> Rule {
    at(&keys(path), Want::Absent)
}

fn keys(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn at(path: &[&str], want: Want) -> Rule {
    Rule { path: path.iter().map(|key| (*key).to_owned()).collect(), want }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::agent_config::merge::merge;

    fn credentials(rows: &[(&str, &str)]) -> Credentials {
        Credentials::from_lookup(|name| rows.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const EVERYTHING: &[(&str, &str)] = &[
        ("ANTHROPIC_BASE_URL", "https://a.example"),
        ("OPENAI_BASE_URL", "https://o.example"),
        ("TELEGRAM_BOT_TOKEN", "1:new"),
        ("TELEGRAM_DM_POLICY", "open"),
        ("DISCORD_BOT_TOKEN", "d"),
        ("DISCORD_DM_POLICY", "open"),
        ("SLACK_BOT_TOKEN", "xoxb"),
        ("SLACK_APP_TOKEN", "xapp"),
        ("SLACK_DM_POLICY", "open"),
    ];

    fn rules_for(given: &[(&str, &str)], existing: &Value) -> (Vec<Rule>, Vec<Alert>) {
        let around = Surroundings {
            agent: ([127, 0, 0, 1], 18789).into(),
            workspace: Path::new("/data/workspace"),
            log: Path::new("/tmp/agent.jsonl"),
            credentials: &credentials(given),
        };
        rules(around, existing.as_object().unwrap())
    }

    fn merged(given: &[(&str, &str)], existing: &Value) -> (Value, Vec<Alert>) {
        let (rules, alerts) = rules_for(given, existing);
        (merge(existing.as_object().unwrap(), &[], &rules).config.into(), alerts)
    }

    /// The merge relies on it.
    #[test]
    fn no_path_is_another_or_above_another() {
        let (rules, _) = rules_for(EVERYTHING, &json!({}));
        for (n, a) in rules.iter().enumerate() {
            for b in rules.iter().skip(n + 1) {
                assert!(!a.path.starts_with(&b.path) && !b.path.starts_with(&a.path), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn no_secret_is_written() {
        let (config, _) = merged(EVERYTHING, &json!({}));
        let text = config.to_string();
        for secret in ["1:new", "xoxb", "xapp"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(config["gateway"]["auth"], json!({"mode": "token"}));
    }

    #[test]
    fn trap_04_proxies_are_trusted_by_their_very_address() {
        let (config, _) = merged(&[], &json!({"gateway": {"trustedProxies": ["0.0.0.0/0", "10.1.0.0"]}}));
        assert_eq!(config["gateway"]["trustedProxies"], json!(["127.0.0.1", "::1"]));
    }

    #[test]
    fn trap_06_conversations_are_not_thrown_away_at_night() {
        let rows = [
            (json!({}), json!({"reset": {"mode": "idle", "idleMinutes": 5_256_000}})),
            (json!({"session": {"reset": {"mode": "daily"}}}), json!({"reset": {"mode": "daily"}})),
            (json!({"session": {"idleMinutes": 60}}), json!({"idleMinutes": 60})),
        ];
        for (existing, expect) in rows {
            assert_eq!(merged(&[], &existing).0["session"], expect, "{existing}");
        }
    }

    #[test]
    fn what_the_old_start_script_wrote_is_overruled_where_it_must_be() {
        let legacy = json!({
            "gateway": {"port": 18789, "mode": "local", "trustedProxies": ["10.1.0.0"], "auth": {"token": "shared"},
                "controlUi": {"allowInsecureAuth": true}},
            "agents": {"defaults": {"workspace": "/root/clawd", "model": {"primary": "anthropic/claude-sonnet-4-5"}}},
            "channels": {"telegram": {"botToken": "1:old", "enabled": false, "dmPolicy": "allowlist", "allowFrom": [7]}},
        });
        let (config, alerts) = merged(EVERYTHING, &legacy);
        assert_eq!(config["gateway"]["auth"], json!({"mode": "token"}));
        assert_eq!(config["agents"]["defaults"]["workspace"], "/data/workspace");
        assert_eq!(config["agents"]["defaults"]["model"]["primary"], "anthropic/claude-sonnet-4-5");
        let telegram =
            json!({"botToken": "1:old", "enabled": false, "dmPolicy": "allowlist", "allowFrom": [7]});
        assert_eq!(config["channels"]["telegram"], telegram);
        assert_eq!(
            config["channels"]["discord"],
            json!({"enabled": true, "dm": {"policy": "open", "allowFrom": ["*"]}})
        );
        let codes: Vec<_> = alerts.iter().map(Alert::code).collect();
        assert_eq!(codes, ["open_policy_not_used", "token_in_config"]);
    }

    #[test]
    fn a_token_in_the_file_that_is_the_same_is_no_news() {
        let existing = json!({"channels": {"telegram": {"botToken": " 1:new "}}});
        assert_eq!(merged(EVERYTHING, &existing).1, []);
    }
}
