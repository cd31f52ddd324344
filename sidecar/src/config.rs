//! Settings, read once from the environment and frozen. Each variable is documented where it is read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use shared::id::{Generation, UserId};
use shared::key::MachineKey;

use crate::boot::BootSettings;
use crate::boot::credentials::Credentials;
use crate::boot::settings::{Program, VolumeSettings};

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
    /// How the agent is prepared and started; `None` if somebody else does it.
    pub boot: Option<BootSettings>,
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
const AGENT_ENTRY: Variable =
    Variable { name: "AUTOMNA_AGENT_ENTRY", hint: "it is the absolute path of the agent's dist/entry.js" };
const AGENT_NODE: Variable =
    Variable { name: "AUTOMNA_AGENT_NODE", hint: "it is the absolute path of node, or its name" };
const AGENT_HEAP: Variable = Variable {
    name: "AUTOMNA_AGENT_HEAP_MB",
    hint: "it is the most that the agent keeps on its heap, in MiB, at least 128",
};
const COMPILE_CACHE: Variable = Variable {
    name: "AUTOMNA_AGENT_COMPILE_CACHE",
    hint: "it is the absolute path of the directory in which node keeps compiled code",
};
const REQUIRE_MOUNT: Variable = Variable { name: "AUTOMNA_REQUIRE_MOUNT", hint: "it is on or off" };
const ADOPT_VOLUME: Variable = Variable {
    name: "AUTOMNA_ADOPT_VOLUME",
    hint: "it is the user whose volume it is, as in AUTOMNA_USER_ID",
};
const IMAGE_DIR: Variable = Variable {
    name: "AUTOMNA_IMAGE_DIR",
    hint: "it is the absolute path of the image's files for the workspace",
};
const TMP_DIR: Variable = Variable {
    name: "AUTOMNA_AGENT_TMP_DIR",
    hint: "it is an absolute path for the agent's temporary files",
};
const LEGACY_HOME: Variable = Variable {
    name: "AUTOMNA_LEGACY_HOME",
    hint: "it is the absolute path of the directory in which links to the agent's folders are made",
};
const TIMEZONE: Variable = Variable { name: "TZ", hint: "it is a time zone, as in Europe/Berlin" };
const SEARCH_PATH: Variable = Variable { name: "PATH", hint: "it is a list of directories" };

/// Debian's, without the games.
const DEFAULT_SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Below it, the agent does not even start.
const MIN_HEAP_MB: u32 = 128;

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
        let boot = match get(&AGENT_ENTRY) {
            Some(entry) => {
                let places = Places {
                    data_dir: &data_dir,
                    state_dir: &agent_state_dir,
                    workspace_dir: &workspace_dir,
                };
                Some(boot(&lookup, &get, entry, &identity, agent, places)?)
            }
            None => None,
        };
        Ok(Self {
            identity,
            data_dir,
            agent_state_dir,
            workspace_dir,
            listen,
            admin_listen,
            agent,
            client_scopes,
            boot,
            log_filter,
        })
    }
}

#[derive(Clone, Copy)]
struct Places<'a> {
    data_dir: &'a Path,
    state_dir: &'a Path,
    workspace_dir: &'a Path,
}

fn boot(
    lookup: &impl Fn(&str) -> Option<String>,
    get: &impl Fn(&Variable) -> Option<String>,
    entry: String,
    identity: &Identity,
    agent: SocketAddr,
    places: Places<'_>,
) -> Result<BootSettings, ConfigError> {
    let absolute = |variable: &Variable, text: String| {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(variable.invalid()) }
    };
    let dir = |variable: &Variable, default: &str| {
        absolute(variable, get(variable).unwrap_or_else(|| default.to_owned()))
    };

    // The agent's program. With it, the sidecar prepares the volume and starts the agent; without it, somebody
    // else does.
    let entry = absolute(&AGENT_ENTRY, entry)?;
    // What runs it: node 22.12 or later.
    let node = PathBuf::from(get(&AGENT_NODE).unwrap_or_else(|| "node".to_owned()));
    // The heap's limit, so that a leak ends the agent and not the machine. By default node chooses.
    let heap_mb = get(&AGENT_HEAP).map(|text| match text.parse() {
        Ok(heap_mb) if heap_mb >= MIN_HEAP_MB => Ok(heap_mb),
        _ => Err(AGENT_HEAP.invalid()),
    });

    // Where node keeps what it has compiled, so that the agent starts with less. By default it compiles anew.
    let compile_cache = get(&COMPILE_CACHE).map(|text| absolute(&COMPILE_CACHE, text)).transpose()?;

    // Whether the data directory must be a mount point. On, unless somebody says otherwise: what is written
    // beside a volume is lost at the next start.
    let must_be_mounted = match get(&REQUIRE_MOUNT).as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(_) => return Err(REQUIRE_MOUNT.invalid()),
    };
    // Whose a volume is that holds data and does not say whose. For the one start that makes it this user's.
    let adopt =
        get(&ADOPT_VOLUME).map(|text| text.parse().map_err(|_| ADOPT_VOLUME.invalid())).transpose()?;

    // What the image has for workspaces.
    let image_dir = dir(&IMAGE_DIR, "/opt/automna")?;
    // The agent's TMPDIR. What the image has warmed there is found only under the same path.
    let tmp_dir = dir(&TMP_DIR, "/tmp")?;
    // Where the old side had its folders: /root in the image. By default no links are made.
    let legacy_home = get(&LEGACY_HOME).map(|text| absolute(&LEGACY_HOME, text)).transpose()?;

    // The user's time zone, by which the agent's clock goes.
    let timezone = get(&TIMEZONE).unwrap_or_else(|| "UTC".to_owned());
    let is_zone = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-:,.".contains(&byte);
    if !timezone.bytes().all(is_zone) {
        return Err(TIMEZONE.invalid());
    }
    // Where the agent's tools find programs; the user's own come before it.
    let search_path = get(&SEARCH_PATH).unwrap_or_else(|| DEFAULT_SEARCH_PATH.to_owned());

    Ok(BootSettings {
        user: identity.user.clone(),
        generation: identity.generation,
        gateway_token: identity.key.gateway_token(),
        agent,
        data_dir: places.data_dir.to_owned(),
        state_dir: places.state_dir.to_owned(),
        workspace_dir: places.workspace_dir.to_owned(),
        program: Program { node, entry, heap_mb: heap_mb.transpose()?, compile_cache },
        volume: VolumeSettings { must_be_mounted, adopt },
        image_dir,
        tmp_dir,
        legacy_home,
        timezone,
        search_path,
        // Keys of models, tokens of channels: see there for their names.
        credentials: Credentials::from_lookup(lookup),
    })
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
        assert!(config.boot.is_none());
    }

    #[test]
    fn with_a_program_the_agent_is_ours_to_start() {
        let boot = read(&[("AUTOMNA_AGENT_ENTRY", "/opt/e.js")]).unwrap().boot.unwrap();
        assert_eq!(boot.program.node, PathBuf::from("node"));
        assert_eq!((boot.program.heap_mb, boot.program.compile_cache), (None, None));
        assert!(boot.volume.must_be_mounted && boot.volume.adopt.is_none() && boot.legacy_home.is_none());
        assert_eq!((boot.image_dir, boot.tmp_dir), (PathBuf::from("/opt/automna"), PathBuf::from("/tmp")));
        assert_eq!((boot.timezone.as_str(), boot.search_path.as_str()), ("UTC", DEFAULT_SEARCH_PATH));
        let boot = read(&[
            ("AUTOMNA_AGENT_ENTRY", "/opt/e.js"),
            ("AUTOMNA_AGENT_HEAP_MB", "1536"),
            ("AUTOMNA_AGENT_COMPILE_CACHE", "/tmp/cc"),
            ("AUTOMNA_REQUIRE_MOUNT", "off"),
            ("AUTOMNA_ADOPT_VOLUME", "user_a"),
            ("AUTOMNA_LEGACY_HOME", "/root"),
            ("TZ", "Etc/GMT+2"),
            ("OPENAI_API_KEY", " k\n"),
        ]);
        let boot = boot.unwrap().boot.unwrap();
        assert_eq!(boot.program.heap_mb, Some(1536));
        assert_eq!(boot.program.compile_cache, Some(PathBuf::from("/tmp/cc")));
        assert!(!boot.volume.must_be_mounted);
        assert_eq!(boot.volume.adopt, Some(boot.user));
        assert_eq!(boot.legacy_home, Some(PathBuf::from("/root")));
        assert_eq!(boot.credentials.secrets["OPENAI_API_KEY"].expose(), "k");
    }

    #[test]
    fn refusals_about_the_agent() {
        let rows = [
            ("AUTOMNA_AGENT_ENTRY", "dist/sekrit.js"),
            ("AUTOMNA_AGENT_HEAP_MB", "64"),
            ("AUTOMNA_AGENT_HEAP_MB", "sekrit"),
            ("AUTOMNA_AGENT_COMPILE_CACHE", "sekrit"),
            ("AUTOMNA_REQUIRE_MOUNT", "sekrit"),
            ("AUTOMNA_ADOPT_VOLUME", "sekrit"),
            ("AUTOMNA_IMAGE_DIR", "sekrit"),
            ("AUTOMNA_AGENT_TMP_DIR", "sekrit"),
            ("AUTOMNA_LEGACY_HOME", "sekrit"),
            ("TZ", "sekrit $(x)"),
        ];
        for (name, value) in rows {
            let error = read(&[(name, value), ("AUTOMNA_AGENT_ENTRY", "/opt/e.js")]).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with(name) && text.ends_with('.') && !text.contains("sekrit"), "{text}");
        }
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
