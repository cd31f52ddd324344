//! The Worker's settings: read once per isolate, from bindings of type variable or secret.
//!
//! A missing signing secret is not an error here: the edge then answers 503 to everything that needs it, and
//! goes on answering what does not.

use shared::id::{AppName, Backend};
use shared::key::{PermitKey, SigningKeys};
use shared::secret::Secret;

use crate::jwt::{KeySet, TokenPolicy};

/// What the edge was deployed with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Verifies proofs and derives keys. `None` if `MOLTBOT_SIGNING_SECRET` is not set.
    pub keys: Option<Keys>,
    /// What `/_ops` asks for. `None` if `ADMIN_BEARER` is not set; `/_ops` is closed then.
    pub admin_bearer: Option<Secret>,
    /// Who may make the dashboard's calls.
    pub dashboard: DashboardAuth,
    /// Origins whose pages may call the edge: they get CORS headers, and may use the session cookie.
    pub allowed_origins: Vec<String>,
    /// Where the legacy Worker is reached when there is no service binding `LEGACY`. `None` if unset.
    pub legacy_origin: Option<String>,
    /// Where an app's machines are reached.
    pub machine_origin: MachineOrigin,
    /// Where users go when no policy is known at all.
    pub default_backend: Backend,
    /// Whether a change of policy may move users at once, without their data.
    pub direct_flips: bool,
    /// Whether the deliberate panics of the tests can be asked for.
    pub test_hooks: bool,
}

/// The signing keys, with the one derived key that every request to the legacy side needs.
#[derive(Debug, Clone)]
pub struct Keys {
    pub signing: SigningKeys,
    pub permit: PermitKey,
}

/// By what the dashboard's calls are judged.
#[derive(Debug, Clone)]
pub struct DashboardAuth {
    /// Tokens of its users' sessions; else the setting that is missing.
    pub clerk: Result<Clerk, &'static str>,
    /// The token of its own server. `None` if `DASHBOARD_BEARER` is not set.
    pub service: Option<Secret>,
}

/// Whose session tokens are accepted, and their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clerk {
    pub keys: KeySet,
    pub policy: TokenPolicy,
}

/// The address of an app's machines: a template with `{app}`, or one address for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineOrigin(String);

impl MachineOrigin {
    /// The origin, without a trailing slash, at which `app` is reached.
    #[must_use]
    pub fn of(&self, app: &AppName) -> String {
        self.0.replace("{app}", app.as_str())
    }
}

/// The legacy contract's origins.
const DEFAULT_ORIGINS: &str = "https://automna.ai,https://www.automna.ai,http://localhost:3000";

/// Fly's public name for an app.
const DEFAULT_MACHINE_ORIGIN: &str = "https://{app}.fly.dev";

impl Config {
    /// Reads the settings through `lookup`. Values are trimmed; an empty one counts as unset.
    ///
    /// | name | meaning | default |
    /// |---|---|---|
    /// | `MOLTBOT_SIGNING_SECRET` | signs URLs; keys are derived from it | none: 503 |
    /// | `MOLTBOT_SIGNING_SECRET_PREVIOUS` | also verifies, during a rotation | none |
    /// | `ADMIN_BEARER` | token for `/_ops` | none: `/_ops` closed |
    /// | `CLERK_JWKS` | the public keys of session tokens: Clerk's JWK Set, as it publishes it | none: sessions get 503 |
    /// | `CLERK_ISSUER` | the tokens' `iss`, to the letter | the same |
    /// | `CLERK_AUTHORIZED_PARTIES` | comma-separated origins of which one has to be the token's `azp` | not looked at |
    /// | `DASHBOARD_BEARER` | token of the dashboard's server, which may ask for any user | none |
    /// | `ALLOWED_ORIGINS` | comma-separated origins | the contract's three |
    /// | `LEGACY_ORIGIN` | `https://host` of the legacy Worker | none: service binding `LEGACY` |
    /// | `MACHINE_ORIGIN` | `https://{app}.fly.dev`, or one origin for all apps | the former |
    /// | `DEFAULT_BACKEND` | `legacy` or `fly`, when no policy is known | `legacy` |
    /// | `DIRECT_FLIPS` | `allow`: a policy moves users at once, without data. For tests and demonstrations | refuse |
    /// | `TEST_HOOKS` | `on`: panics can be asked for | off |
    #[must_use]
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let secret = |name: &str| lookup(name).as_deref().and_then(Secret::new);
        let origin = |name: &str| text(name).map(|v| v.trim_end_matches('/').to_owned());
        let keys = secret("MOLTBOT_SIGNING_SECRET").map(|current| {
            let signing = SigningKeys::new(current, secret("MOLTBOT_SIGNING_SECRET_PREVIOUS"));
            Keys { permit: signing.permit_key(), signing }
        });
        let origins = text("ALLOWED_ORIGINS").unwrap_or_else(|| DEFAULT_ORIGINS.to_owned());
        let clerk = || {
            let keys = text("CLERK_JWKS").ok_or("CLERK_JWKS")?;
            let keys = KeySet::parse(&keys).map_err(|_| "A readable CLERK_JWKS")?;
            let issuer = text("CLERK_ISSUER").ok_or("CLERK_ISSUER")?;
            let parties = text("CLERK_AUTHORIZED_PARTIES").map(|parties| list(&parties)).unwrap_or_default();
            Ok(Clerk { keys, policy: TokenPolicy { issuer, authorized_parties: parties } })
        };
        Self {
            keys,
            admin_bearer: secret("ADMIN_BEARER"),
            dashboard: DashboardAuth { clerk: clerk(), service: secret("DASHBOARD_BEARER") },
            allowed_origins: list(&origins),
            legacy_origin: origin("LEGACY_ORIGIN"),
            machine_origin: MachineOrigin(
                origin("MACHINE_ORIGIN").unwrap_or_else(|| DEFAULT_MACHINE_ORIGIN.to_owned()),
            ),
            // Anything but the word itself means legacy: a typing error must not move anybody.
            default_backend: text("DEFAULT_BACKEND").and_then(|v| v.parse().ok()).unwrap_or(Backend::Legacy),
            direct_flips: text("DIRECT_FLIPS").as_deref() == Some("allow"),
            test_hooks: text("TEST_HOOKS").as_deref() == Some("on"),
        }
    }

    /// Whether pages of `origin` may use this edge.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.allowed_origins.iter().any(|allowed| allowed == origin)
    }
}

fn list(origins: &str) -> Vec<String> {
    origins.split(',').map(|o| o.trim().trim_end_matches('/').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &[(&str, &str)]) -> Config {
        Config::read(|name| rows.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn nothing_set_is_closed_and_legacy() {
        let config = read(&[]);
        assert!(config.keys.is_none() && config.admin_bearer.is_none() && config.legacy_origin.is_none());
        assert_eq!(config.default_backend, Backend::Legacy);
        assert!(!config.direct_flips && !config.test_hooks);
        assert!(config.allows_origin("https://automna.ai") && !config.allows_origin("https://evil.example"));
        assert_eq!(config.machine_origin.of(&"app-1".parse().unwrap()), "https://app-1.fly.dev");
    }

    #[test]
    fn values_are_trimmed_and_empty_ones_do_not_count() {
        let config = read(&[
            ("MOLTBOT_SIGNING_SECRET", " \n"),
            ("ADMIN_BEARER", " b \n"),
            ("LEGACY_ORIGIN", "https://legacy.example/ "),
            ("MACHINE_ORIGIN", "http://127.0.0.1:9/"),
            ("ALLOWED_ORIGINS", "https://a.example/, https://b.example"),
        ]);
        assert!(config.keys.is_none());
        assert!(config.admin_bearer.unwrap().matches("b"));
        assert_eq!(config.legacy_origin.as_deref(), Some("https://legacy.example"));
        assert_eq!(config.machine_origin.of(&"x".parse().unwrap()), "http://127.0.0.1:9");
        assert_eq!(config.allowed_origins, ["https://a.example", "https://b.example"]);
    }

    #[test]
    fn sessions_need_keys_and_an_issuer() {
        let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"k","n":"{}","e":"AQAB"}}]}}"#, "w".repeat(342));
        let jwks = jwks.as_str();
        let issuer = ("CLERK_ISSUER", "https://clerk.example");
        let clerk = |rows: &[(&str, &str)]| read(rows).dashboard.clerk;
        assert_eq!(clerk(&[issuer]).unwrap_err(), "CLERK_JWKS");
        assert_eq!(clerk(&[("CLERK_JWKS", "-----BEGIN"), issuer]).unwrap_err(), "A readable CLERK_JWKS");
        assert_eq!(clerk(&[("CLERK_JWKS", jwks)]).unwrap_err(), "CLERK_ISSUER");
        let parties = ("CLERK_AUTHORIZED_PARTIES", "https://a.example/, https://b.example");
        let all = clerk(&[("CLERK_JWKS", jwks), issuer, parties]).unwrap();
        assert_eq!(all.policy.authorized_parties, ["https://a.example", "https://b.example"]);
        assert!(clerk(&[("CLERK_JWKS", jwks), issuer]).unwrap().policy.authorized_parties.is_empty());
        assert!(read(&[("DASHBOARD_BEARER", " ")]).dashboard.service.is_none());
    }

    #[test]
    fn only_the_exact_words_switch_something_on() {
        for (value, backend) in [("fly", Backend::Fly), ("Fly", Backend::Legacy), ("flyy", Backend::Legacy)] {
            assert_eq!(read(&[("DEFAULT_BACKEND", value)]).default_backend, backend, "{value}");
        }
        assert!(read(&[("DIRECT_FLIPS", "allow"), ("TEST_HOOKS", "on")]).direct_flips);
        assert!(!read(&[("DIRECT_FLIPS", "true"), ("TEST_HOOKS", "1")]).direct_flips);
    }
}
