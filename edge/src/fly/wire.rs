//! The bodies of the Machines API: the fields that we use, after the published OpenAPI document.
//!
//! Answers are read tolerantly: unknown fields are skipped, unknown words of an enumeration become `Other`. A
//! machine's configuration is different. An update replaces all of it, so whatever Fly told us and we do not
//! know is kept in `rest` and sent back as it came. Requests are made from these types only, since Fly ignores a
//! misspelt field without a word.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::id::{AppName, MachineId, VolumeId};

/// Fields that we do not know, kept.
pub type Rest = Map<String, Value>;

/// What a machine is made of. `Debug` shows the names of environment variables and not their values.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineConfig {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_destroy: Option<bool>,
    #[serde(flatten)]
    pub rest: Rest,
}

impl fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineConfig")
            .field("image", &self.image)
            .field("guest", &self.guest)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("metadata", &self.metadata)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

/// CPUs and memory. `shared` CPUs take 256 to 2048 MB each, in steps of 256.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    pub cpu_kind: String,
    pub cpus: u32,
    pub memory_mb: u32,
    #[serde(flatten)]
    pub rest: Rest,
}

/// A volume in a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub volume: VolumeId,
    pub path: String,
    #[serde(flatten)]
    pub rest: Rest,
}

/// A port that Fly's proxy leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub protocol: String,
    pub internal_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostop: Option<Autostop>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Whether Fly's proxy stops an idle machine. Older machines answer with a boolean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Autostop {
    Word(String),
    Flag(bool),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concurrency {
    #[serde(rename = "type")]
    pub kind: String,
    pub soft_limit: u32,
    pub hard_limit: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    pub policy: String,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// A Go duration on the way out; what comes back may be a number of nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Value>,
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    Creating,
    Created,
    Starting,
    Started,
    Stopping,
    Stopped,
    Suspending,
    Suspended,
    Restarting,
    Updating,
    Replacing,
    Replaced,
    Migrated,
    Failed,
    LaunchFailed,
    Destroying,
    Destroyed,
    #[serde(other)]
    Other,
}

/// Whether Fly can reach the hardware under a machine or a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    #[default]
    Ok,
    Unreachable,
    #[serde(other)]
    Unknown,
}

/// A machine, as Fly reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Machine {
    pub id: MachineId,
    #[serde(default)]
    pub name: String,
    pub state: MachineState,
    #[serde(default)]
    pub region: String,
    /// Names the version; each update makes a new one.
    #[serde(default)]
    pub instance_id: String,
    /// Absent while the host is out of reach (`incomplete_config` takes its place).
    #[serde(default)]
    pub config: Option<MachineConfig>,
    #[serde(default)]
    pub host_status: HostStatus,
}

/// A volume, as Fly reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub region: String,
    #[serde(default)]
    pub size_gb: u32,
    #[serde(default)]
    pub attached_machine_id: Option<String>,
    #[serde(default)]
    pub host_status: HostStatus,
}

impl Volume {
    /// Whether it is deleted or on its way there. Fly lists such volumes for a while.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.state.contains("destroy")
    }

    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached_machine_id.as_ref().is_some_and(|id| !id.is_empty())
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct App {
    pub name: AppName,
    #[serde(default)]
    pub organization: Option<Organization>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Organization {
    #[serde(default)]
    pub slug: String,
}

/// The right to change a machine, while it lasts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Lease {
    pub nonce: String,
    /// Unix time in seconds.
    #[serde(default)]
    pub expires_at: u64,
}

/// The two forms in which a lease is answered: flat, as published, and in an envelope, as served.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum LeaseBody {
    Envelope { data: Lease },
    Flat(Lease),
}

impl From<LeaseBody> for Lease {
    fn from(body: LeaseBody) -> Self {
        match body {
            LeaseBody::Envelope { data } | LeaseBody::Flat(data) => data,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Extended {
    pub volume: Volume,
    #[serde(default)]
    pub needs_restart: bool,
}

/// A public address of an app.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Address {
    #[serde(default)]
    pub ip: String,
    #[serde(default)]
    pub shared: bool,
}

impl Address {
    /// Which of the kinds that we ask for this one is.
    #[must_use]
    pub fn kind(&self) -> Option<AddressKind> {
        match (self.shared, self.ip.contains(':')) {
            (true, false) => Some(AddressKind::SharedV4),
            (_, true) => Some(AddressKind::V6),
            (false, false) => None,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Addresses {
    #[serde(default, alias = "data")]
    pub ips: Vec<Address>,
}

/// The addresses that make `<app>.fly.dev` resolve. Both are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressKind {
    SharedV4,
    V6,
}

impl AddressKind {
    pub const ALL: [Self; 2] = [Self::SharedV4, Self::V6];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedV4 => "shared_v4",
            Self::V6 => "v6",
        }
    }
}

/// A page of everything that an organisation has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Page<T> {
    #[serde(alias = "machines", alias = "volumes", default = "Vec::new")]
    pub items: Vec<T>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Regions that did not answer. While there is one, absence proves nothing.
    #[serde(default)]
    pub error_regions: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NewApp<'a> {
    // The documentation says `app_name`, the OpenAPI document `name`; Fly takes either.
    pub app_name: &'a AppName,
    pub name: &'a AppName,
    pub org_slug: &'a str,
    pub network: &'a str,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewVolume {
    pub name: String,
    pub region: String,
    pub size_gb: u32,
    pub encrypted: bool,
    /// Off in a shared app: there are fewer zones than users.
    pub require_unique_zone: bool,
    pub snapshot_retention: u32,
    /// The guest that will boot on it, so that a host with room is chosen.
    pub compute: Guest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_volume_id: Option<VolumeId>,
}

/// A machine to be made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewMachine {
    pub name: String,
    pub region: String,
    pub config: MachineConfig,
}

#[derive(Debug, Serialize)]
pub(super) struct MachineUpdate<'a> {
    pub config: &'a MachineConfig,
    pub current_version: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A machine that others have configured: everything in it that we do not know survives an update.
    #[test]
    fn a_configuration_survives_being_read_and_sent_back() {
        let config = json!({
            "image": "registry.fly.io/x@sha256:00",
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048, "kernel_args": ["quiet"]},
            "init": {"swap_size_mb": 512},
            "env": {"A": "1"},
            "files": [{"guest_path": "/etc/x", "raw_value": "eA=="}],
            "metadata": {"fly_flyctl_version": "0.3"},
            "mounts": [{"volume": "vol_a", "path": "/data", "extend_threshold_percent": 80, "name": "data"}],
            "services": [{"protocol": "tcp", "internal_port": 8080, "autostop": false, "min_machines_running": 0,
                "ports": [{"port": 443, "handlers": ["tls"], "http_options": {"h2_backend": false}}],
                "concurrency": {"type": "connections", "soft_limit": 200, "hard_limit": 400},
                "checks": [{"type": "http", "path": "/healthz"}]}],
            "checks": {"gateway": {"type": "http", "port": 8080}},
            "restart": {"policy": "always", "max_retries": 10},
            "stop_config": {"signal": "SIGTERM", "timeout": 120_000_000_000_u64},
            "auto_destroy": false,
            "dns": {"skip_registration": true}
        });
        let read: MachineConfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), config);
    }

    #[test]
    fn secrets_in_the_environment_are_not_printed() {
        let config = MachineConfig {
            env: BTreeMap::from([("AUTOMNA_MACHINE_KEY".into(), "hunter2".into())]),
            ..MachineConfig::default()
        };
        let shown = format!("{config:?}");
        assert!(shown.contains("AUTOMNA_MACHINE_KEY") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn unknown_words_do_not_fail() {
        let machine: Machine = serde_json::from_value(json!({
            "id": "e2865013d93d68", "state": "hibernating", "host_status": "odd", "cordoned": true
        }))
        .unwrap();
        assert_eq!((machine.state, machine.host_status), (MachineState::Other, HostStatus::Unknown));
        for (word, state) in [
            ("launch_failed", MachineState::LaunchFailed),
            ("started", MachineState::Started),
            ("destroyed", MachineState::Destroyed),
        ] {
            assert_eq!(serde_json::from_value::<MachineState>(json!(word)).unwrap(), state);
        }
    }

    #[test]
    fn leases_come_in_two_forms() {
        for body in [
            json!({"nonce": "n", "expires_at": 7}),
            json!({"status": "success", "data": {"nonce": "n", "expires_at": 7}}),
        ] {
            let lease: Lease = serde_json::from_value::<LeaseBody>(body).unwrap().into();
            assert_eq!(lease, Lease { nonce: "n".into(), expires_at: 7 });
        }
    }

    proptest! {
        #[test]
        fn unknown_fields_are_kept(key in "[a-z_]{1,12}", value in "[a-z0-9]{0,12}") {
            let known = ["image", "guest", "env", "metadata", "mounts", "services", "restart", "stop_config", "auto_destroy"];
            prop_assume!(!known.contains(&key.as_str()));
            let sent = json!({"image": "i", key: {"deep": [value]}});
            let read: MachineConfig = serde_json::from_value(sent.clone()).unwrap();
            prop_assert_eq!(serde_json::to_value(&read).unwrap(), sent);
        }
    }
}
