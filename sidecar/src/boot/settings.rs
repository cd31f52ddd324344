//! What the boot is told. [`crate::config`] reads it from the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use shared::id::{Generation, UserId};
use shared::secret::Secret;

use super::credentials::Credentials;

/// Everything that [`super::prepare`] needs to know.
#[derive(Debug, Clone)]
pub struct BootSettings {
    pub user: UserId,
    pub generation: Generation,
    /// What clients of the agent's gateway must present: the sidecar, and the agent's own tools.
    pub gateway_token: Secret,
    /// Where the agent is to listen.
    pub agent: SocketAddr,
    pub data_dir: PathBuf,
    pub state_dir: PathBuf,
    pub workspace_dir: PathBuf,
    pub program: Program,
    pub volume: VolumeSettings,
    /// Holds `workspace`, the files that new users get, and `version`, a whole number.
    pub image_dir: PathBuf,
    /// For temporary files. Not on the volume: they may be lost.
    pub tmp_dir: PathBuf,
    /// The old side's home directory; links to the new places are made in it.
    pub legacy_home: Option<PathBuf>,
    /// As in `Europe/Berlin`.
    pub timezone: String,
    /// Where the agent's tools find programs.
    pub search_path: String,
    pub credentials: Credentials,
}

/// What runs the agent.
#[derive(Debug, Clone)]
pub struct Program {
    /// Node 22.12 or later.
    pub node: PathBuf,
    /// The agent's `dist/entry.js`.
    pub entry: PathBuf,
    /// The most that node keeps on its heap, in MiB; `None` for its own choice.
    pub heap_mb: Option<u32>,
    /// Where node keeps what it has compiled; `None` for nowhere.
    pub compile_cache: Option<PathBuf>,
}

/// What is asked of the volume.
#[derive(Debug, Clone)]
pub struct VolumeSettings {
    /// The data directory must be a mount point.
    pub must_be_mounted: bool,
    /// Whose a volume is that holds data and does not say it.
    pub adopt: Option<UserId>,
}
