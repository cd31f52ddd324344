//! A machine's configuration: as it is made, as it is changed, and what no change may take away.

use std::collections::BTreeMap;

use serde_json::json;
use shared::id::{Generation, UserId, VolumeId};
use shared::key::MachineKey;

use super::desired::Spec;
use super::names::{GENERATION_KEY, Names};
use crate::fly::call::OWNER_KEY;
use crate::fly::wire::{Autostop, Concurrency, MachineConfig, Mount, Port, Restart, Service, StopConfig};

/// The sidecar's port.
const PORT: u16 = 8080;

/// Where the volume is.
const DATA_DIR: &str = "/data";

/// Says to the sidecar what it will find on the volume: `fresh` may be begun anew, `kept` must hold the user's
/// data, `restore` waits for it. A sidecar that finds something else does not start the agent.
pub const VOLUME_VARIABLE: &str = "AUTOMNA_VOLUME";

/// What the volume of a new machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnVolume {
    Fresh,
    Kept,
    Restore,
}

impl OnVolume {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Kept => "kept",
            Self::Restore => "restore",
        }
    }
}

/// The configuration of a machine that is made.
#[must_use]
pub fn make(
    spec: &Spec,
    user: &UserId,
    generation: Generation,
    names: &Names,
    volume: &VolumeId,
    on_volume: OnVolume,
    key: &MachineKey,
) -> MachineConfig {
    let Generation(number) = generation;
    let mut env = spec.env.clone();
    env.extend([
        ("AUTOMNA_USER_ID".to_owned(), user.to_string()),
        ("AUTOMNA_MACHINE_KEY".to_owned(), key.expose()),
        ("AUTOMNA_GENERATION".to_owned(), number.to_string()),
        ("AUTOMNA_DATA_DIR".to_owned(), DATA_DIR.to_owned()),
        (VOLUME_VARIABLE.to_owned(), on_volume.as_str().to_owned()),
    ]);
    let handlers = vec!["tls".to_owned(), "http".to_owned()];
    MachineConfig {
        image: spec.image.clone(),
        guest: Some(spec.guest.clone()),
        env,
        metadata: BTreeMap::from([
            (OWNER_KEY.to_owned(), names.tag.clone()),
            (GENERATION_KEY.to_owned(), number.to_string()),
        ]),
        mounts: vec![Mount {
            volume: volume.clone(),
            path: DATA_DIR.to_owned(),
            rest: crate::fly::wire::Rest::new(),
        }],
        services: vec![Service {
            protocol: "tcp".to_owned(),
            internal_port: PORT,
            // Only we start it, and nobody stops it for being idle.
            autostart: Some(false),
            autostop: Some(Autostop::Word("off".to_owned())),
            ports: vec![Port { port: Some(443), handlers, rest: crate::fly::wire::Rest::new() }],
            // At the hard limit the only machine that a user has is out of reach.
            concurrency: Some(Concurrency {
                kind: "connections".to_owned(),
                soft_limit: 200,
                hard_limit: 1000,
            }),
            rest: crate::fly::wire::Rest::new(),
        }],
        restart: Some(Restart { policy: "always".to_owned(), rest: crate::fly::wire::Rest::new() }),
        // Longer than stopping the agent and the last copy take; Fly allows 300 s.
        stop_config: Some(StopConfig { signal: Some("SIGTERM".to_owned()), timeout: Some(json!("300s")) }),
        auto_destroy: Some(false),
        rest: crate::fly::wire::Rest::new(),
    }
}

/// Whether a machine is not what it should be. A variable that is not wished for any more is left where it is.
#[must_use]
pub fn drifted(config: &MachineConfig, spec: &Spec) -> bool {
    let guest = config.guest.as_ref().is_some_and(|guest| {
        (&guest.cpu_kind, guest.cpus, guest.memory_mb)
            == (&spec.guest.cpu_kind, spec.guest.cpus, spec.guest.memory_mb)
    });
    let env = spec.env.iter().all(|(name, value)| config.env.get(name) == Some(value));
    config.image != spec.image || !guest || !env
}

/// The configuration that replaces `before`: everything stays but what is wished for.
#[must_use]
pub fn edit(before: &MachineConfig, spec: &Spec) -> MachineConfig {
    let mut after = before.clone();
    after.image.clone_from(&spec.image);
    match &mut after.guest {
        Some(guest) => {
            guest.cpu_kind.clone_from(&spec.guest.cpu_kind);
            guest.cpus = spec.guest.cpus;
            guest.memory_mb = spec.guest.memory_mb;
        }
        None => after.guest = Some(spec.guest.clone()),
    }
    after.env.extend(spec.env.clone());
    after
}

/// What an update would take away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("the volume {0} would not be mounted any more, or elsewhere")]
    Mount(VolumeId),
    #[error("the service on port {0} would be gone, or less than it was")]
    Service(u16),
    #[error("the variable {0} would be gone")]
    Variable(String),
    #[error("the metadata {0} would be gone")]
    Metadata(String),
    #[error("the field {0} would be gone")]
    Field(String),
    #[error("the machine would delete itself when it ends")]
    AutoDestroy,
}

/// Compares an update with what it replaces. Machines have lost their volumes and their environment to updates
/// that were made of less than the whole (L-05).
///
/// # Errors
/// The first thing that would be lost.
pub fn guard(before: &MachineConfig, after: &MachineConfig) -> Result<(), Dropped> {
    for mount in &before.mounts {
        if !after.mounts.contains(mount) {
            return Err(Dropped::Mount(mount.volume.clone()));
        }
    }
    for service in &before.services {
        let kept = after.services.iter().any(|candidate| {
            candidate.internal_port == service.internal_port
                && candidate.protocol == service.protocol
                && candidate.autostop == service.autostop
                && candidate.autostart == service.autostart
                && service.ports.iter().all(|port| candidate.ports.contains(port))
                && service.rest.keys().all(|key| candidate.rest.contains_key(key))
        });
        if !kept {
            return Err(Dropped::Service(service.internal_port));
        }
    }
    if let Some(name) = before.env.keys().find(|name| !after.env.contains_key(*name)) {
        return Err(Dropped::Variable(name.clone()));
    }
    if let Some(key) = before.metadata.keys().find(|key| !after.metadata.contains_key(*key)) {
        return Err(Dropped::Metadata(key.clone()));
    }
    if let Some(key) = before.rest.keys().find(|key| !after.rest.contains_key(*key)) {
        return Err(Dropped::Field(key.clone()));
    }
    if after.auto_destroy == Some(true) {
        return Err(Dropped::AutoDestroy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fly::wire::Guest;
    use proptest::prelude::*;
    use shared::key::SigningKeys;
    use shared::secret::Secret;

    pub(crate) fn spec() -> Spec {
        Spec {
            image: "registry.fly.io/agent@sha256:01".into(),
            guest: Guest {
                cpu_kind: "shared".into(),
                cpus: 1,
                memory_mb: 2048,
                rest: serde_json::Map::new(),
            },
            volume_gb: 1,
            volume_limit_gb: 10,
            regions: vec!["sjc".into()],
            env: BTreeMap::from([("LOG".into(), "info".into())]),
        }
    }

    fn made() -> MachineConfig {
        let user: UserId = "user_a".parse().unwrap();
        let layout = super::super::desired::Layout::PerUser { prefix: "t".into() };
        let names = super::super::names::names(&layout, &user, Generation(2)).unwrap();
        let key = SigningKeys::new(Secret::new("s").unwrap(), None).machine_key(&user, Generation(2));
        make(&spec(), &user, Generation(2), &names, &"vol_a".parse().unwrap(), OnVolume::Fresh, &key)
    }

    #[test]
    fn a_new_machine_is_not_drifted() {
        assert!(!drifted(&made(), &spec()));
        assert_eq!(made().env.len(), 6);
    }

    #[test]
    fn drift() {
        for change in [
            (|spec: &mut Spec| spec.image = "x".into()) as fn(&mut Spec),
            |spec| spec.guest.memory_mb = 4096,
            |spec| spec.guest.cpus = 2,
            |spec| spec.guest.cpu_kind = "performance".into(),
            |spec| drop(spec.env.insert("LOG".into(), "debug".into())),
            |spec| drop(spec.env.insert("NEW".into(), String::new())),
        ] {
            let mut wished = spec();
            change(&mut wished);
            assert!(drifted(&made(), &wished));
            let after = edit(&made(), &wished);
            assert!(!drifted(&after, &wished));
            assert_eq!(guard(&made(), &after), Ok(()));
        }
        // A region or a size is no matter of the configuration.
        assert!(!drifted(&made(), &Spec { volume_gb: 9, regions: vec![], ..spec() }));
    }

    #[test]
    fn what_an_update_may_not_take() {
        let mut whole = made();
        whole.rest.insert("init".into(), json!({"swap_size_mb": 512}));
        for (change, dropped) in [
            (
                (|config| config.mounts.clear()) as fn(&mut MachineConfig),
                Dropped::Mount("vol_a".parse().unwrap()),
            ),
            (|config| config.mounts[0].path = "/elsewhere".into(), Dropped::Mount("vol_a".parse().unwrap())),
            (
                |config| config.mounts[0].volume = "vol_b".parse().unwrap(),
                Dropped::Mount("vol_a".parse().unwrap()),
            ),
            (|config| config.services.clear(), Dropped::Service(8080)),
            (|config| config.services[0].ports.clear(), Dropped::Service(8080)),
            (|config| config.services[0].autostop = None, Dropped::Service(8080)),
            (|config| drop(config.env.remove("LOG")), Dropped::Variable("LOG".into())),
            (|config| config.metadata.clear(), Dropped::Metadata(GENERATION_KEY.into())),
            (|config| config.rest.clear(), Dropped::Field("init".into())),
            (|config| config.auto_destroy = Some(true), Dropped::AutoDestroy),
        ] {
            let mut after = whole.clone();
            change(&mut after);
            assert_eq!(guard(&whole, &after), Err(dropped));
        }
        assert_eq!(guard(&whole, &whole.clone()), Ok(()));
    }

    proptest! {
        /// Whatever is wished for, an edit passes the guard, ends the drift, and changes nothing when repeated.
        #[test]
        fn edits_only_add(image in "[a-z]{1,8}", cpus in 1_u32..8, memory_mb in 256_u32..4096,
            env in prop::collection::btree_map("[A-Z]{1,4}", "[a-z]{0,4}", 0..4)) {
            let mut wished = spec();
            wished.image = image;
            wished.guest.cpus = cpus;
            wished.guest.memory_mb = memory_mb;
            wished.env = env;
            let after = edit(&made(), &wished);
            prop_assert_eq!(guard(&made(), &after), Ok(()));
            prop_assert!(!drifted(&after, &wished));
            prop_assert_eq!(edit(&after, &wished), after);
        }
    }
}
