//! Settings, read once from the environment and frozen. Each variable is documented where it is read.

use std::net::SocketAddr;
use std::path::PathBuf;

use shared::id::{Generation, UserId};
use shared::key::MachineKey;

/// Everything that the process is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub identity: Identity,
    pub data_dir: PathBuf,
    pub agent_state_dir: PathBuf,
    pub workspace_dir: PathBuf,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub agent: SocketAddr,
    pub client_scopes: Vec<String>,
    pub log_filter: Option<String>,
}

/// Whose machine this is. Tickets for anybody else are refused.
#[derive(Debug, Clone)]
pub struct Identity {
    pub user: UserId,
    pub generation: Generation,
    pub key: MachineKey,
}

/// Why the settings cannot be used: one sentence that names the variable and never its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{name} is not set: {hint}.")]
    Missing { name: &'static str, hint: &'static str },
    #[error("{name} cannot be used: {hint}.")]
    Invalid { name: &'static str, hint: &'static str },
}

const USER: Variable =
    Variable { name: "AUTOMNA_USER_ID", hint: "it names the machine's only user, as in user_2NcQn" };
const KEY: Variable = Variable {
    name: "AUTOMNA_MACHINE_KEY",
    hint: "it is the 43 characters that the edge derives from MOLTBOT_SIGNING_SECRET for this user and \
           generation, and the sidecar serves nobody without it",
};
const GENERATION: Variable = Variable {
    name: "AUTOMNA_GENERATION",
    hint: "it is the generation of this machine, a whole number from 0 to 4294967295",
};
const DATA_DIR: Variable =
    Variable { name: "AUTOMNA_DATA_DIR", hint: "it is the absolute path at which the volume is mounted" };
const AGENT_STATE_DIR: Variable = Variable {
    name: "AUTOMNA_AGENT_STATE_DIR",
    hint: "it is the absolute path of the directory in which the agent keeps its state",
};
const WORKSPACE_DIR: Variable = Variable {
    name: "AUTOMNA_WORKSPACE_DIR",
    hint: "it is the absolute path of the directory in which the agent works",
};
const LISTEN: Variable =
    Variable { name: "AUTOMNA_LISTEN", hint: "it is the public listener's address, as in 0.0.0.0:8080" };
const ADMIN_LISTEN: Variable = Variable {
    name: "AUTOMNA_ADMIN_LISTEN",
    hint: "it is the private listener's address, as in 127.0.0.1:8081",
};
const AGENT: Variable =
    Variable { name: "AUTOMNA_AGENT_ADDR", hint: "it is the agent's address, as in 127.0.0.1:18789" };
const SCOPES: Variable = Variable {
    name: "AUTOMNA_CLIENT_SCOPES",
    hint: "it is a list of scopes, separated by commas, as in operator.read,operator.write",
};

struct Variable {
    name: &'static str,
    hint: &'static str,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// As [`Self::from_lookup`].
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads each variable through `lookup`. White space around a value does not count, and an empty value is a
    /// missing one: both come from copying (L-38).
    ///
    /// # Errors
    /// The first variable that is missing without having a default, or that cannot be used.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |variable: &Variable| {
            lookup(variable.name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };

        // The machine's only user. Required: there is no default user.
        let user = get(&USER).ok_or(USER.missing())?.parse().map_err(|_| USER.invalid())?;
        // The key that edge and machine share. Required: without it nobody could be told from anybody.
        let key = MachineKey::parse(&get(&KEY).ok_or(KEY.missing())?).ok_or(KEY.invalid())?;
        // Which of the user's machines this is. Required: a default would accept another machine's tickets.
        let generation = get(&GENERATION).ok_or(GENERATION.missing())?;
        let generation = Generation(generation.parse().map_err(|_| GENERATION.invalid())?);

        // Where the volume is mounted; the sidecar's own state lies below, in `.automna`.
        let data_dir = PathBuf::from(get(&DATA_DIR).unwrap_or_else(|| "/data".to_owned()));
        if !data_dir.is_absolute() {
            return Err(DATA_DIR.invalid());
        }

        // Where the agent keeps its sessions: its CLAWDBOT_STATE_DIR.
        let agent_state_dir = get(&AGENT_STATE_DIR).map_or_else(|| data_dir.join("clawdbot"), PathBuf::from);
        if !agent_state_dir.is_absolute() {
            return Err(AGENT_STATE_DIR.invalid());
        }

        // Where the agent works, which clients see as /root/clawd.
        let workspace_dir = get(&WORKSPACE_DIR).map_or_else(|| data_dir.join("workspace"), PathBuf::from);
        if !workspace_dir.is_absolute() {
            return Err(WORKSPACE_DIR.invalid());
        }

        // Where the edge reaches us, through Fly's proxy.
        let listen = address(&LISTEN, get(&LISTEN), ([0, 0, 0, 0], 8080))?;
        // Where only the machine itself asks `/live` and `/ready`.
        let admin_listen = address(&ADMIN_LISTEN, get(&ADMIN_LISTEN), ([127, 0, 0, 1], 8081))?;
        // Where clawdbot listens.
        let agent = address(&AGENT, get(&AGENT), ([127, 0, 0, 1], 18789))?;

        // What a browser may do at most. The agent reads an empty list as "everything", so it cannot be empty.
        let client_scopes = get(&SCOPES).unwrap_or_else(|| "operator.read,operator.write".to_owned());
        let client_scopes = scopes(&client_scopes).ok_or(SCOPES.invalid())?;

        // What to log, in the syntax of `tracing`.
        let log_filter = lookup("RUST_LOG");

        let identity = Identity { user, generation, key };
        Ok(Self {
            identity,
            data_dir,
            agent_state_dir,
            workspace_dir,
            listen,
            admin_listen,
            agent,
            client_scopes,
            log_filter,
        })
    }
}

impl Variable {
    const fn missing(&self) -> ConfigError {
        ConfigError::Missing { name: self.name, hint: self.hint }
    }

    const fn invalid(&self) -> ConfigError {
        ConfigError::Invalid { name: self.name, hint: self.hint }
    }
}

fn address(
    variable: &Variable,
    text: Option<String>,
    default: impl Into<SocketAddr>,
) -> Result<SocketAddr, ConfigError> {
    text.map_or_else(|| Ok(default.into()), |text| text.parse().map_err(|_| variable.invalid()))
}

fn scopes(text: &str) -> Option<Vec<String>> {
    let well_formed =
        |scope: &str| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_lowercase() || b == b'.');
    let scopes: Vec<String> = text.split(',').map(|scope| scope.trim().to_owned()).collect();
    scopes.iter().all(|scope| well_formed(scope)).then_some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_KEY: &str = "LkKPfTeKKAJNFP1WRvV-wXLsqg-UIaKyCsBhf3gQ-no";

    /// The required variables, with `changes` laid over them; an empty value removes one.
    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let required =
            [("AUTOMNA_USER_ID", "user_a"), ("AUTOMNA_MACHINE_KEY", GOOD_KEY), ("AUTOMNA_GENERATION", "3")];
        Config::from_lookup(|name| {
            let find =
                |rows: &[(&str, &str)]| rows.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            find(changes).or_else(|| find(&required))
        })
    }

    #[test]
    fn the_rest_has_defaults() {
        let config = read(&[]).unwrap();
        assert_eq!(config.identity.user.as_str(), "user_a");
        assert_eq!(config.identity.generation, Generation(3));
        assert_eq!(config.data_dir, PathBuf::from("/data"));
        assert_eq!(config.agent_state_dir, PathBuf::from("/data/clawdbot"));
        assert_eq!(config.workspace_dir, PathBuf::from("/data/workspace"));
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8081");
        assert_eq!(config.agent.to_string(), "127.0.0.1:18789");
        assert_eq!(config.client_scopes, ["operator.read", "operator.write"]);
    }

    #[test]
    fn white_space_around_values_does_not_count() {
        let key = format!(" {GOOD_KEY}\n");
        let config = read(&[
            ("AUTOMNA_USER_ID", " user_b\n"),
            ("AUTOMNA_MACHINE_KEY", &key),
            ("AUTOMNA_GENERATION", "\t7 "),
            ("AUTOMNA_LISTEN", " [::1]:0 "),
            ("AUTOMNA_CLIENT_SCOPES", " operator.read , operator.admin "),
        ]);
        let config = config.unwrap();
        assert_eq!(config.identity.user.as_str(), "user_b");
        assert_eq!(config.identity.generation, Generation(7));
        assert_eq!(config.listen.to_string(), "[::1]:0");
        assert_eq!(config.client_scopes, ["operator.read", "operator.admin"]);
    }

    #[test]
    fn refusals_name_the_variable_and_not_its_value() {
        let rows = [
            ("AUTOMNA_USER_ID", "", true),
            ("AUTOMNA_USER_ID", "  ", true),
            ("AUTOMNA_USER_ID", "sekrit", false),
            ("AUTOMNA_MACHINE_KEY", "", true),
            ("AUTOMNA_MACHINE_KEY", "sekrit", false),
            ("AUTOMNA_GENERATION", "", true),
            ("AUTOMNA_GENERATION", "-1", false),
            ("AUTOMNA_GENERATION", "4294967296", false),
            ("AUTOMNA_GENERATION", "sekrit", false),
            ("AUTOMNA_DATA_DIR", "sekrit", false),
            ("AUTOMNA_AGENT_STATE_DIR", "sekrit", false),
            ("AUTOMNA_WORKSPACE_DIR", "sekrit", false),
            ("AUTOMNA_LISTEN", "sekrit:1", false),
            ("AUTOMNA_ADMIN_LISTEN", "8081", false),
            ("AUTOMNA_AGENT_ADDR", "sekrit:18789", false),
            ("AUTOMNA_CLIENT_SCOPES", ",", false),
            ("AUTOMNA_CLIENT_SCOPES", "operator.read,", false),
            ("AUTOMNA_CLIENT_SCOPES", "Sekrit", false),
        ];
        for (name, value, missing) in rows {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(matches!(error, ConfigError::Missing { .. }), missing, "{name}={value}");
            let text = error.to_string();
            assert!(text.starts_with(name) && text.ends_with('.') && !text.contains('\n'), "{text}");
            assert!(!text.to_lowercase().contains("sekrit"), "{text}");
        }
        let text = read(&[("AUTOMNA_MACHINE_KEY", "")]).unwrap_err().to_string();
        assert!(text.contains("MOLTBOT_SIGNING_SECRET"), "{text}");
    }
}
