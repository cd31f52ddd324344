//! The system that is running now, as `up` has left it for `sign` and `flip`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use shared::secret::Secret;
use testbed::tools::Tools;

/// What the other commands need to know. Readable by its owner alone: it holds the system's secrets.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Current {
    pub(crate) edge: String,
    pub(crate) admin_bearer: String,
    signing_secret: String,
    /// Whose file this is: a second `up` takes it over, and the first must not remove it then.
    pid: u32,
}

impl Current {
    pub(crate) fn new(edge: &str, admin_bearer: &Secret, signing_secret: &Secret) -> Self {
        Self {
            edge: edge.to_owned(),
            admin_bearer: admin_bearer.expose().to_owned(),
            signing_secret: signing_secret.expose().to_owned(),
            pid: std::process::id(),
        }
    }

    pub(crate) fn signing_secret(&self) -> Result<Secret> {
        Secret::new(&self.signing_secret).context("the running system has no signing secret")
    }

    pub(crate) fn load(tools: &Tools) -> Result<Self> {
        let text = fs::read_to_string(path(tools))
            .context("no system is running here: start one with `cargo xtask up`")?;
        serde_json::from_str(&text).context("the file of the running system cannot be read")
    }

    pub(crate) fn save(&self, tools: &Tools) -> Result<()> {
        let path = path(tools);
        let fresh = path.with_extension(format!("{}.tmp", self.pid));
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .with_context(|| format!("cannot write {}", fresh.display()))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes the file, if it is still ours.
    pub(crate) fn remove(&self, tools: &Tools) {
        if Self::load(tools).is_ok_and(|current| current.pid == self.pid) {
            // Somebody who finds it gone is told that nothing runs, which is true.
            let _ = fs::remove_file(path(tools));
        }
    }
}

fn path(tools: &Tools) -> PathBuf {
    tools.dir().join("current.json")
}
