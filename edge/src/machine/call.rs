//! An action in Fly's words.

use serde::{Deserialize, Serialize};
use shared::key::SigningKeys;
use shared::time::UnixMillis;

use super::config::{self, Dropped, OnVolume};
use super::desired::{Desired, Layout, Setup};
use super::learn::LEASE_S;
use super::names::names;
use super::plan::Action;
use super::record::{Content, Record};
use crate::fly::Call;
use crate::fly::call::Target;
use crate::fly::wire::{NewMachine, NewVolume};

/// For how many days Fly keeps snapshots of a volume.
const SNAPSHOT_DAYS: u32 = 5;

/// Why no call is made of an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the update is refused: {0}")]
    Drops(Dropped),
    #[error("the action is about something that is not in the record")]
    NotKnown,
    #[error("no name can be made of the user's id")]
    NoName,
}

/// What performs an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Performed {
    /// Fly, by this call.
    ByFly(Box<Call>),
    /// Nobody outside: it is done when it is stored.
    ByRecord,
    /// The data plane.
    ByDataPlane(DataOrder),
}

/// What the data plane is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataOrder {
    /// Bring the user's data to the present machine.
    Restore,
    /// Delete the user's data outside Fly.
    Purge,
}

/// The call of an action that [`plan`](super::plan()) has chosen on this record.
///
/// # Errors
/// When the diff guard refuses, or the action does not fit the record.
pub fn call(
    setup: &Setup,
    desired: &Desired,
    record: &Record,
    keys: &SigningKeys,
    action: &Action,
    now: UnixMillis,
) -> Result<Performed, Refusal> {
    let names = names(&setup.layout, &desired.user, record.generation).ok_or(Refusal::NoName)?;
    let app = names.app.clone();
    let volume = || record.volume.present().ok_or(Refusal::NotKnown);
    let machine = || record.machine.present().ok_or(Refusal::NotKnown);
    let target = || {
        let machine = machine()?;
        let nonce = record.lease_on(&machine.id, now).map(|lease| lease.nonce.clone());
        Ok(Target { app: names.app.clone(), machine: machine.id.clone(), nonce })
    };
    let call = match action {
        Action::ReadApp => Call::ReadApp { app },
        // The network is named after the app, and is this user's alone.
        Action::CreateApp => Call::CreateApp { network: app.to_string(), app, org: setup.org.clone() },
        Action::ListAddresses => Call::ListAddresses { app },
        Action::AssignAddress(kind) => Call::AssignAddress { app, kind: *kind },
        Action::ListVolumes => Call::ListVolumes { app },
        Action::CreateVolume { region } => Call::CreateVolume {
            app,
            new: NewVolume {
                name: names.volume.clone(),
                region: region.clone(),
                size_gb: desired.spec.volume_gb,
                encrypted: true,
                require_unique_zone: matches!(setup.layout, Layout::PerUser { .. })
                    && record.copy_of.is_none(),
                snapshot_retention: SNAPSHOT_DAYS,
                compute: desired.spec.guest.clone(),
                source_volume_id: record.copy_of.clone(),
            },
        },
        Action::ReadVolume => Call::ReadVolume { app, volume: volume()?.id.clone() },
        Action::ExtendVolume { size_gb } => {
            Call::ExtendVolume { app, volume: volume()?.id.clone(), size_gb: *size_gb }
        }
        Action::DeleteVolume => Call::DeleteVolume { app, volume: volume()?.id.clone() },
        Action::DiscardVolume(id) | Action::DeleteRetiredVolume(id) => {
            Call::DeleteVolume { app, volume: id.clone() }
        }
        Action::ReadRetiredVolume(id) => Call::ReadVolume { app, volume: id.clone() },
        Action::ListMachines => Call::ListMachines { app, owner: names.tag.clone() },
        Action::CreateMachine => {
            let held = volume()?;
            let on_volume = match record.content {
                Content::Awaited => OnVolume::Restore,
                Content::Held if record.heard => OnVolume::Kept,
                Content::Empty | Content::Held => OnVolume::Fresh,
            };
            let key = keys.machine_key(&desired.user, record.generation);
            let config = config::make(
                &desired.spec,
                &desired.user,
                record.generation,
                &names,
                &held.id,
                on_volume,
                &key,
            );
            let new = NewMachine { name: names.machine.clone(), region: held.region.clone(), config };
            Call::CreateMachine { app, new: Box::new(new) }
        }
        Action::ReadMachine => Call::ReadMachine { app, machine: machine()?.id.clone() },
        Action::ReadRetiredMachine(id) => Call::ReadMachine { app, machine: id.clone() },
        Action::DeleteRetiredMachine(id) => {
            Call::DeleteMachine { at: Target { app, machine: id.clone(), nonce: None } }
        }
        Action::Start => Call::Start { at: target()? },
        Action::Stop => Call::Stop { at: target()? },
        Action::Restart => Call::Restart { at: target()? },
        Action::DeleteMachine | Action::Recreate => Call::DeleteMachine { at: target()? },
        Action::Lease => Call::Lease { app, machine: machine()?.id.clone(), ttl_s: LEASE_S },
        Action::ReleaseLease => Call::ReleaseLease { at: target()? },
        Action::Update => {
            let held = machine()?;
            let before = held.config.as_ref().ok_or(Refusal::NotKnown)?;
            let after = config::edit(before, &desired.spec);
            config::guard(before, &after).map_err(Refusal::Drops)?;
            Call::Update { at: target()?, config: Box::new(after), current_version: held.instance.clone() }
        }
        Action::DeleteApp => Call::DeleteApp { app },
        Action::NextGeneration { .. } => return Ok(Performed::ByRecord),
        Action::RestoreData => return Ok(Performed::ByDataPlane(DataOrder::Restore)),
        Action::PurgeData => return Ok(Performed::ByDataPlane(DataOrder::Purge)),
    };
    Ok(Performed::ByFly(Box::new(call)))
}
