//! What the operator gives the agent: keys of models, addresses of gateways, tokens and policies of channels.
//!
//! Each is trimmed and looked at before it is used (L-38). One that cannot be right is left out, with an alert that
//! names the variable: a user without a channel is better off than a user without an agent. No secret is written
//! into the configuration; the agent takes all of them from its environment.

use std::collections::BTreeMap;

use shared::secret::Secret;

use super::alert::Alert;

/// Longest secret that is believed. Keys have some hundred bytes, tokens of some identity providers some thousand.
const MAX_SECRET_BYTES: usize = 8192;

/// Goes to the agent under its own name. Not `GH_TOKEN`: the agent takes it for a subscription to a model.
const PASSED: [&str; 28] = [
    "ANTHROPIC_OAUTH_TOKEN",
    "CEREBRAS_API_KEY",
    "CHUTES_API_KEY",
    "DEEPGRAM_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "KIMICODE_API_KEY",
    "MINIMAX_API_KEY",
    "MISTRAL_API_KEY",
    "MOONSHOT_API_KEY",
    "OPENCODE_API_KEY",
    "OPENROUTER_API_KEY",
    "QWEN_OAUTH_TOKEN",
    "SYNTHETIC_API_KEY",
    "VENICE_API_KEY",
    "XAI_API_KEY",
    "ZAI_API_KEY",
    // Search, pages, voices.
    "BRAVE_API_KEY",
    "ELEVENLABS_API_KEY",
    "FIRECRAWL_API_KEY",
    "GOOGLE_PLACES_API_KEY",
    "PERPLEXITY_API_KEY",
    // Further channels, for which the configuration is the user's.
    "LINE_CHANNEL_ACCESS_TOKEN",
    "LINE_CHANNEL_SECRET",
    "MSTEAMS_APP_ID",
    "MSTEAMS_APP_PASSWORD",
    "MSTEAMS_TENANT_ID",
    "SLACK_USER_TOKEN",
];

/// What the operator gave, as far as it can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// By the name under which the agent looks for them.
    pub secrets: BTreeMap<&'static str, Secret>,
    pub models: Models,
    pub telegram: Option<Policy>,
    pub discord: Option<Policy>,
    pub slack: Option<Policy>,
    /// What was given and is not used.
    pub alerts: Vec<Alert>,
}

/// Where the models are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Models {
    pub anthropic_url: Option<BaseUrl>,
    pub openai_url: Option<BaseUrl>,
    pub first: Provider,
}

/// Whose model a new user's agent uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Provider {
    #[default]
    Anthropic,
    OpenAi,
}

/// Who may write to the agent over a channel, without having been let in before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Pairing,
    Allowlist,
    Open,
    Disabled,
}

/// An `http` or `https` address without a user, a query or a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

const NOT_A_KEY: &str = "it holds a space, a line break or a letter that no key holds";
const QUOTED: &str = "it is in quotation marks";
const TOO_LONG: &str = "it is too long for a key";
const NOT_AN_ADDRESS: &str = "it is no http or https address, or one with a user or a query";
const NOT_A_POLICY: &str = "it is none of pairing, allowlist, open and disabled; pairing holds";

impl Credentials {
    /// Reads each variable through `lookup`. An empty one is a missing one.
    #[must_use]
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader { lookup, alerts: Vec::new() };

        let gateway = reader.url("AI_GATEWAY_BASE_URL");
        let gateway_key = reader.secret("AI_GATEWAY_API_KEY");
        // One gateway for everything; its path says in whose language it speaks.
        let gateway_is_openai = gateway.as_ref().is_some_and(|url| url.0.ends_with("/openai"));
        let (openai_gateway, anthropic_gateway) =
            if gateway_is_openai { (gateway, None) } else { (None, gateway) };
        let (openai_key, anthropic_key) =
            if gateway_is_openai { (gateway_key, None) } else { (None, gateway_key) };
        // Each is read, also when the gateway's wins, so that a bad one is named.
        let (anthropic_own, openai_own) =
            (reader.secret("ANTHROPIC_API_KEY"), reader.secret("OPENAI_API_KEY"));
        let (anthropic_url, openai_url) = (reader.url("ANTHROPIC_BASE_URL"), reader.url("OPENAI_BASE_URL"));

        let mut secrets = BTreeMap::new();
        let anthropic = anthropic_key.or(anthropic_own);
        let openai = openai_key.or(openai_own);
        let first = if gateway_is_openai || (anthropic.is_none() && openai.is_some()) {
            Provider::OpenAi
        } else {
            Provider::Anthropic
        };
        secrets.extend(anthropic.map(|key| ("ANTHROPIC_API_KEY", key)));
        secrets.extend(openai.map(|key| ("OPENAI_API_KEY", key)));
        for name in PASSED {
            secrets.extend(reader.secret(name).map(|secret| (name, secret)));
        }

        let telegram = reader.channel(&mut secrets, &["TELEGRAM_BOT_TOKEN"], "TELEGRAM_DM_POLICY");
        let discord = reader.channel(&mut secrets, &["DISCORD_BOT_TOKEN"], "DISCORD_DM_POLICY");
        let slack = reader.channel(&mut secrets, &["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"], "SLACK_DM_POLICY");
        Self {
            secrets,
            models: Models {
                anthropic_url: anthropic_gateway.or(anthropic_url),
                openai_url: openai_gateway.or(openai_url),
                first,
            },
            telegram,
            discord,
            slack,
            alerts: reader.alerts,
        }
    }
}

struct Reader<L> {
    lookup: L,
    alerts: Vec<Alert>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    fn text(&self, variable: &str) -> Option<String> {
        (self.lookup)(variable).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn not_used<T>(&mut self, variable: &'static str, why: &'static str) -> Option<T> {
        self.alerts.push(Alert::VariableNotUsed { variable, why });
        None
    }

    fn secret(&mut self, variable: &'static str) -> Option<Secret> {
        let text = self.text(variable)?;
        match fault(&text) {
            Some(why) => self.not_used(variable, why),
            None => Secret::new(&text),
        }
    }

    fn url(&mut self, variable: &'static str) -> Option<BaseUrl> {
        let text = self.text(variable)?;
        match BaseUrl::parse(&text) {
            Some(url) => Some(url),
            None => self.not_used(variable, NOT_AN_ADDRESS),
        }
    }

    /// A channel needs all of its tokens.
    fn channel(
        &mut self,
        secrets: &mut BTreeMap<&'static str, Secret>,
        tokens: &[&'static str],
        policy: &'static str,
    ) -> Option<Policy> {
        let found: Vec<_> =
            tokens.iter().filter_map(|name| self.secret(name).map(|secret| (*name, secret))).collect();
        if found.len() < tokens.len() {
            for (variable, _) in found {
                self.not_used::<()>(variable, "the channel's other token is missing");
            }
            return None;
        }
        secrets.extend(found);
        let Some(text) = self.text(policy) else { return Some(Policy::default()) };
        Policy::parse(&text).or_else(|| {
            self.not_used::<()>(policy, NOT_A_POLICY);
            Some(Policy::default())
        })
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_SECRET_BYTES {
        Some(TOO_LONG)
    } else if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        Some(QUOTED)
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some(NOT_A_KEY)
    } else {
        None
    }
}

impl Policy {
    fn parse(text: &str) -> Option<Self> {
        [Self::Pairing, Self::Allowlist, Self::Open, Self::Disabled]
            .into_iter()
            .find(|policy| policy.as_str() == text)
    }

    /// The agent's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pairing => "pairing",
            Self::Allowlist => "allowlist",
            Self::Open => "open",
            Self::Disabled => "disabled",
        }
    }
}

impl BaseUrl {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let url: http::Uri = text.parse().ok()?;
        let authority = url.authority()?;
        let plain = matches!(url.scheme_str(), Some("http" | "https"))
            && !authority.host().is_empty()
            && !authority.as_str().contains('@')
            && url.query().is_none()
            // The agent would put a variable in its place.
            && !text.contains('$')
            && !text.contains('#');
        plain.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &[(&str, &str)]) -> Credentials {
        Credentials::from_lookup(|name| rows.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn secret(credentials: &Credentials, name: &str) -> Option<String> {
        credentials.secrets.get(name).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn nothing_is_fine() {
        assert_eq!(read(&[]), Credentials::default());
        assert_eq!(
            read(&[("ANTHROPIC_API_KEY", " \n"), ("TELEGRAM_DM_POLICY", "open")]),
            Credentials::default()
        );
    }

    /// (variables, Anthropic's key and address, OpenAI's key and address, whose model)
    type Row = (&'static [(&'static str, &'static str)], [Option<&'static str>; 4], Provider);

    #[test]
    fn models() {
        const CF: &str = "https://gateway.example/v1/a/g/anthropic";
        const CF_OPENAI: &str = "https://gateway.example/v1/a/g/openai";
        let rows: &[Row] = &[
            (&[("ANTHROPIC_API_KEY", " k1\n")], [Some("k1"), None, None, None], Provider::Anthropic),
            (&[("OPENAI_API_KEY", "k2")], [None, None, Some("k2"), None], Provider::OpenAi),
            (
                &[("ANTHROPIC_API_KEY", "k1"), ("OPENAI_API_KEY", "k2")],
                [Some("k1"), None, Some("k2"), None],
                Provider::Anthropic,
            ),
            (
                &[("AI_GATEWAY_API_KEY", "g"), ("AI_GATEWAY_BASE_URL", CF), ("ANTHROPIC_API_KEY", "k1")],
                [Some("g"), Some(CF), None, None],
                Provider::Anthropic,
            ),
            (
                &[
                    ("AI_GATEWAY_API_KEY", "g"),
                    ("AI_GATEWAY_BASE_URL", "https://gateway.example/v1/a/g/openai//"),
                    ("ANTHROPIC_API_KEY", "k1"),
                    ("ANTHROPIC_BASE_URL", "http://127.0.0.1:9"),
                ],
                [Some("k1"), Some("http://127.0.0.1:9"), Some("g"), Some(CF_OPENAI)],
                Provider::OpenAi,
            ),
            (
                &[
                    ("AI_GATEWAY_BASE_URL", CF),
                    ("ANTHROPIC_BASE_URL", "https://other"),
                    ("OPENAI_BASE_URL", "https://o/v1/"),
                ],
                [None, Some(CF), None, Some("https://o/v1")],
                Provider::Anthropic,
            ),
        ];
        for (variables, expect, first) in rows {
            let read = read(variables);
            let url = |url: &Option<BaseUrl>| url.as_ref().map(|url| url.as_str().to_owned());
            let found = [
                secret(&read, "ANTHROPIC_API_KEY"),
                url(&read.models.anthropic_url),
                secret(&read, "OPENAI_API_KEY"),
                url(&read.models.openai_url),
            ];
            assert_eq!(found.each_ref().map(Option::as_deref), *expect, "{variables:?}");
            assert_eq!(read.models.first, *first, "{variables:?}");
            assert_eq!(read.alerts, []);
            assert_eq!(secret(&read, "AI_GATEWAY_API_KEY"), None);
        }
    }

    #[test]
    fn channels() {
        let read = read(&[
            ("TELEGRAM_BOT_TOKEN", "1:a\r\n"),
            ("TELEGRAM_DM_POLICY", " open "),
            ("DISCORD_BOT_TOKEN", "d"),
            ("DISCORD_DM_POLICY", "everybody"),
            ("SLACK_BOT_TOKEN", "xoxb-1"),
            ("GEMINI_API_KEY", "g"),
        ]);
        assert_eq!(
            (read.telegram, read.discord, read.slack),
            (Some(Policy::Open), Some(Policy::Pairing), None)
        );
        let names: Vec<_> = read.secrets.keys().copied().collect();
        assert_eq!(names, ["DISCORD_BOT_TOKEN", "GEMINI_API_KEY", "TELEGRAM_BOT_TOKEN"]);
        let variables: Vec<String> = read.alerts.iter().map(ToString::to_string).collect();
        assert_eq!(variables.len(), 2);
        assert!(variables[0].starts_with("DISCORD_DM_POLICY") && variables[1].starts_with("SLACK_BOT_TOKEN"));
    }

    #[test]
    fn l_38_what_cannot_be_right_is_named_and_not_shown() {
        let long = "s".repeat(9000);
        let rows = [
            ("ANTHROPIC_API_KEY", "sekrit sekrit"),
            ("ANTHROPIC_API_KEY", "sek\nrit"),
            ("ANTHROPIC_API_KEY", "sekrit\u{a0}x"),
            ("OPENAI_API_KEY", "\"sekrit\""),
            ("TELEGRAM_BOT_TOKEN", "'sekrit"),
            ("GROQ_API_KEY", long.as_str()),
            ("ANTHROPIC_BASE_URL", "sekrit"),
            ("ANTHROPIC_BASE_URL", "ftp://sekrit/"),
            ("AI_GATEWAY_BASE_URL", "https://sekrit:sekrit@host/"),
            ("OPENAI_BASE_URL", "https://host/?key=sekrit"),
            ("OPENAI_BASE_URL", "https://host/${SEKRIT}"),
        ];
        for (name, value) in rows {
            let read = read(&[(name, value)]);
            assert!(read.secrets.is_empty(), "{name}");
            let [alert] = &read.alerts[..] else { panic!("{name}: {:?}", read.alerts) };
            let shown = format!("{read:?} {alert}");
            assert!(shown.contains(name) && !shown.to_lowercase().contains("sekrit"), "{shown}");
        }
    }
}
