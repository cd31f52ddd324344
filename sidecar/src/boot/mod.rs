//! What happens before the agent starts.
//!
//! [`prepare`] takes these steps, in this order. Each is logged with its name and duration, and each can be repeated:
//! a crash between any two is followed by the whole of it.
//!
//! 1. `volume`: it is there, mounted, writable, and this user's ([`volume`]). Nothing is written before that is sure.
//! 2. `folders`: the agent's folders, their permissions, and the links to them ([`homes`]).
//! 3. `running`: no agent of an earlier sidecar runs any more ([`running`]).
//! 4. `heal`: what a crash or a move left in the agent's state is put right ([`heal`]).
//! 5. `configuration`: three-way merge of the agent's configuration ([`agent_config`]).
//! 6. `workspace`: an empty one gets the image's files ([`workspace`]). The agent makes its own, `AGENTS.md` and its
//!    like, before its first turn, and does that better than we could: with its first-run questions.
//! 7. `command`: how to start the agent, with an environment made from nothing.
//!
//! A refusal is a [`BootError`]; whatever can wait is an [`Alert`], and the agent starts.
//!
//! All of it blocks.

mod agent_config;
pub mod alert;
pub mod credentials;
mod durable;
mod heal;
mod homes;
mod running;
pub mod settings;
mod volume;
pub mod workspace;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use shared::time::UnixMillis;

pub use agent_config::{ConfigFileError, ConfigReport};
pub use alert::Alert;
pub use heal::Healed;
pub use settings::BootSettings;
pub use volume::{Ownership, Volume, VolumeError};

use crate::agent::command::AgentCommand;
use crate::epoch::STATE_DIR;
use agent_config::rules::Surroundings;
use durable::Quarantine;
use homes::Places;
use volume::Owner;
use workspace::Filled;

/// The agent appends to its log for ever; at a start, a longer one is put behind the next.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// Everything that whoever runs the agent needs.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub command: AgentCommand,
    /// The agent's own log: JSON, a line each.
    pub log: PathBuf,
    pub report: Report,
}

/// What was found and done, for `/api/status`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub volume: Volume,
    pub healed: Healed,
    pub configuration: ConfigReport,
    pub workspace: Filled,
    pub alerts: Vec<Alert>,
}

/// Why the agent must not be started. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("The agent's folders cannot be made: {0}.")]
    Folders(#[source] io::Error),
    #[error("An agent that an earlier sidecar started is still running, as process {pid}.")]
    StillRunning { pid: i32 },
    #[error("The agent's lock cannot be read or removed: {0}.")]
    Lock(#[source] io::Error),
    #[error(transparent)]
    Configuration(#[from] ConfigFileError),
}

/// Where the fault lies, and so which exit code fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What is on the volume.
    Data,
    /// What the machine was told, or was not given.
    Configuration,
    /// The machine.
    System,
}

impl BootError {
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Volume(VolumeError::OtherUser | VolumeError::NoIdentity | VolumeError::Garbage) => {
                Fault::Data
            }
            Self::Volume(VolumeError::Missing(_) | VolumeError::NotMounted) => Fault::Configuration,
            Self::Volume(VolumeError::NotWritable(_) | VolumeError::Identity(_))
            | Self::Folders(_)
            | Self::StillRunning { .. }
            | Self::Lock(_)
            | Self::Configuration(_) => Fault::System,
        }
    }
}

/// Gets everything ready for the agent. See the top of this module. Blocks.
///
/// # Errors
/// The agent must not be started: see [`BootError`].
pub fn prepare(settings: &BootSettings, now: UnixMillis) -> Result<Prepared, BootError> {
    let own = settings.data_dir.join(STATE_DIR);
    let home = settings.data_dir.join("home");
    let config_file = settings.state_dir.join(agent_config::FILE);
    let log = settings.tmp_dir.join("agent.jsonl");
    let mut alerts = settings.credentials.alerts.clone();

    let volume = step("volume", || {
        let owner = Owner {
            user: &settings.user,
            generation: settings.generation,
            adopt: settings.volume.adopt.as_ref(),
        };
        volume::check(&settings.data_dir, settings.volume.must_be_mounted, owner, now)
    })?;
    if volume.is_nearly_full() {
        let Volume { free_bytes, size_bytes, .. } = volume;
        alerts.push(Alert::VolumeNearlyFull { free_bytes, size_bytes });
    }
    if volume.is_nearly_out_of_inodes() {
        alerts.push(Alert::InodesNearlyGone { free: volume.free_inodes });
    }

    alerts.extend(step("folders", || {
        homes::set_up(Places {
            home: &home,
            tmp: &settings.tmp_dir,
            state: &settings.state_dir,
            workspace: &settings.workspace_dir,
            legacy_home: settings.legacy_home.as_deref(),
        })
        .and_then(|alerts| turn_log(&log).map(|()| alerts))
        .map_err(BootError::Folders)
    })?);

    step("running", || match running::settle(&settings.tmp_dir, &config_file) {
        Ok(running::Found::Running { pid }) => Err(BootError::StillRunning { pid }),
        Ok(running::Found::NoLock | running::Found::Stale) => Ok(()),
        Err(error) => Err(BootError::Lock(error)),
    })?;

    let quarantine = Quarantine::new(own.join("quarantine"), now);
    let (healed, not_healed) =
        step("heal", || Ok::<_, BootError>(heal::heal(&settings.state_dir, &quarantine)))?;
    if healed != Healed::default() {
        tracing::info!(healed = ?healed, "the agent's state was healed");
    }
    alerts.extend(not_healed);

    let (configuration, about_configuration) = step("configuration", || {
        let around = Surroundings {
            agent: settings.agent,
            workspace: &settings.workspace_dir,
            log: &log,
            credentials: &settings.credentials,
        };
        agent_config::update(&config_file, &own.join("agent-config.json"), around, now)
    })?;
    alerts.extend(about_configuration);

    let filled =
        step("workspace", || workspace::fill_if_empty(&settings.workspace_dir, &settings.image_dir, &own));
    let workspace = filled.unwrap_or_else(|error| {
        alerts.push(Alert::WorkspaceNotFilled { error: error.to_string() });
        Filled::default()
    });

    let command = step("command", || Ok::<_, BootError>(command(settings, &home, &config_file)))?;
    for alert in &alerts {
        tracing::warn!(code = alert.code(), "{alert}");
    }
    let report = Report { volume, healed, configuration, workspace, alerts };
    Ok(Prepared { command, log, report })
}

/// Heals the agent's state once more, as before a start after a process that was killed. Logs what it did and what
/// it could not do. Blocks.
pub fn heal_again(settings: &BootSettings, now: UnixMillis) {
    let quarantine = Quarantine::new(settings.data_dir.join(STATE_DIR).join("quarantine"), now);
    let (healed, not_healed) = heal::heal(&settings.state_dir, &quarantine);
    if healed != Healed::default() {
        tracing::info!(?healed, "the agent's state was healed");
    }
    for alert in &not_healed {
        tracing::warn!(code = alert.code(), "{alert}");
    }
}

fn step<T, E: std::fmt::Display>(name: &'static str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let before = Instant::now();
    let result = work();
    let duration_ms = u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &result {
        Ok(_) => tracing::info!(step = name, duration_ms, "boot: {name}"),
        // Whoever called says why.
        Err(_) => tracing::error!(step = name, duration_ms, "boot: {name} failed"),
    }
    result
}

/// Keeps the log and its predecessor, so that it cannot fill the disk over many starts.
fn turn_log(log: &Path) -> io::Result<()> {
    match fs::symlink_metadata(log) {
        Ok(meta) if meta.len() > MAX_LOG_BYTES => fs::rename(log, log.with_extension("jsonl.1")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The environment holds what the agent needs and nothing of ours: no machine key, no setting of the sidecar.
fn command(settings: &BootSettings, home: &Path, config_file: &Path) -> AgentCommand {
    let program = &settings.program;
    let mut args = Vec::new();
    if let Some(heap_mb) = program.heap_mb {
        // As an argument: in the environment it would bind every node that the agent's tools start.
        args.push(format!("--max-old-space-size={heap_mb}").into());
    }
    let port = settings.agent.port().to_string();
    args.push(program.entry.clone().into_os_string());
    args.extend(["gateway", "--port", &port, "--bind", "loopback"].map(Into::into));
    let mut command = AgentCommand {
        program: program.node.clone(),
        args,
        env: BTreeMap::new(),
        cwd: settings.workspace_dir.clone(),
    };
    for (name, value) in homes::variables(home, &settings.tmp_dir) {
        command.set(name, value);
    }
    command.set("PATH", homes::search_path(home, &program.node, &settings.search_path));
    command.set("TZ", &settings.timezone);
    command.set("LANG", "C.UTF-8");
    command.set("NO_COLOR", "1");
    // One process and no second one that outlives it; no search for devices. The agent's successor has names of
    // its own for these two, and takes the others as they are.
    for name in ["NO_RESPAWN", "DISABLE_BONJOUR"] {
        for prefix in ["CLAWDBOT", "OPENCLAW"] {
            command.set(&format!("{prefix}_{name}"), "1");
        }
    }
    // Plugins, and so every channel, are loaded by jiti. By default it transpiles all of the agent's own modules
    // for that, into TMPDIR: 20 s of processor time and more, and a second copy of them in memory. With this it
    // takes what node can load from node.
    command.set("JITI_TRY_NATIVE", "1");
    if let Some(compile_cache) = &program.compile_cache {
        command.set("NODE_COMPILE_CACHE", compile_cache);
    }
    command.set("CLAWDBOT_STATE_DIR", &settings.state_dir);
    command.set("CLAWDBOT_CONFIG_PATH", config_file);
    command.set_secret("CLAWDBOT_GATEWAY_TOKEN", settings.gateway_token.clone());
    for (name, secret) in &settings.credentials.secrets {
        command.set_secret(name, secret.clone());
    }
    command
}

#[cfg(test)]
mod tests;
