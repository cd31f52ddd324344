//! Calls and their answers.

use std::fmt::{self, Write as _};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::id::{AppName, MachineId, VolumeId};

use super::budget::Bucket;
use super::fault::{self, ApiError};
use super::wire::{
    Address, AddressKind, Addresses, App, Extended, Lease, LeaseBody, Machine, MachineConfig, MachineUpdate,
    NewApp, NewMachine, NewVolume, Page, Volume,
};

/// The metadata key under which a machine says whose it is.
pub const OWNER_KEY: &str = "automna_user";

/// The header that carries a lease's nonce.
pub const NONCE_HEADER: &str = "fly-machine-lease-nonce";

/// A call to the Machines API.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    CreateApp {
        app: AppName,
        org: String,
        network: String,
    },
    ReadApp {
        app: AppName,
    },
    /// With everything in it.
    DeleteApp {
        app: AppName,
    },
    AssignAddress {
        app: AppName,
        kind: AddressKind,
    },
    ListAddresses {
        app: AppName,
    },
    CreateVolume {
        app: AppName,
        new: NewVolume,
    },
    ListVolumes {
        app: AppName,
    },
    ReadVolume {
        app: AppName,
        volume: VolumeId,
    },
    ExtendVolume {
        app: AppName,
        volume: VolumeId,
        size_gb: u32,
    },
    DeleteVolume {
        app: AppName,
        volume: VolumeId,
    },
    CreateMachine {
        app: AppName,
        new: Box<NewMachine>,
    },
    /// Those of which the metadata says so. Fly documents the filter outside its OpenAPI document: whoever reads
    /// the answer still looks at the names.
    ListMachines {
        app: AppName,
        owner: String,
    },
    ReadMachine {
        app: AppName,
        machine: MachineId,
    },
    /// Replaces the whole configuration, if the machine still has this version.
    Update {
        at: Target,
        config: Box<MachineConfig>,
        current_version: String,
    },
    Start {
        at: Target,
    },
    Stop {
        at: Target,
    },
    Restart {
        at: Target,
    },
    /// Also if it runs.
    DeleteMachine {
        at: Target,
    },
    Lease {
        app: AppName,
        machine: MachineId,
        ttl_s: u32,
    },
    ReleaseLease {
        at: Target,
    },
    ListOrgMachines {
        org: String,
        cursor: Option<String>,
    },
    ListOrgVolumes {
        org: String,
        cursor: Option<String>,
    },
}

/// A machine that is to be changed, with the nonce of our lease on it if we hold one.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub app: AppName,
    pub machine: MachineId,
    pub nonce: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.machine)
    }
}

/// Which call it is, for tables and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    CreateApp,
    ReadApp,
    DeleteApp,
    AssignAddress,
    ListAddresses,
    CreateVolume,
    ListVolumes,
    ReadVolume,
    ExtendVolume,
    DeleteVolume,
    CreateMachine,
    ListMachines,
    ReadMachine,
    Update,
    Start,
    Stop,
    Restart,
    DeleteMachine,
    Lease,
    ReleaseLease,
    ListOrgMachines,
    ListOrgVolumes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// A call, ready to be sent: `path` follows the base (`https://api.machines.dev/v1`), a body is JSON. Its `Debug`
/// shows neither body nor nonce.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCall {
    pub method: Method,
    pub path: String,
    /// The value of [`NONCE_HEADER`].
    pub nonce: Option<String>,
    pub body: Option<String>,
}

impl fmt::Debug for HttpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    pub status: u16,
    /// `fly-request-id`.
    pub request_id: Option<String>,
    /// `retry-after`.
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The call surely did not reach Fly: its name did not resolve, or the connection was refused.
    NotSent,
    /// It may have reached Fly.
    NoAnswer,
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    App(App),
    Addresses(Vec<Address>),
    Volume(Volume),
    Volumes(Vec<Volume>),
    Extended { volume: Volume, needs_restart: bool },
    Machine(Box<Machine>),
    Machines(Vec<Machine>),
    Lease(Lease),
    OrgMachines(Page<Machine>),
    OrgVolumes(Page<Volume>),
}

/// Extends what an app has: its path below the base.
fn of_app(app: &AppName, rest: &str) -> String {
    format!("/apps/{app}{rest}")
}

fn of_volume(app: &AppName, volume: &VolumeId, rest: &str) -> String {
    format!("/apps/{app}/volumes/{volume}{rest}")
}

fn of_machine(app: &AppName, machine: &MachineId, rest: &str) -> String {
    format!("/apps/{app}/machines/{machine}{rest}")
}

fn of_org(org: &str, what: &str, cursor: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", "1000");
    if let Some(cursor) = cursor {
        query.append_pair("cursor", cursor);
    }
    format!(
        "/orgs/{}/{what}?{}",
        form_urlencoded::byte_serialize(org.as_bytes()).collect::<String>(),
        query.finish()
    )
}

/// Our types serialise to JSON objects with text keys; there is nothing in them that can fail.
fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

impl Call {
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::CreateApp { .. } => Kind::CreateApp,
            Self::ReadApp { .. } => Kind::ReadApp,
            Self::DeleteApp { .. } => Kind::DeleteApp,
            Self::AssignAddress { .. } => Kind::AssignAddress,
            Self::ListAddresses { .. } => Kind::ListAddresses,
            Self::CreateVolume { .. } => Kind::CreateVolume,
            Self::ListVolumes { .. } => Kind::ListVolumes,
            Self::ReadVolume { .. } => Kind::ReadVolume,
            Self::ExtendVolume { .. } => Kind::ExtendVolume,
            Self::DeleteVolume { .. } => Kind::DeleteVolume,
            Self::CreateMachine { .. } => Kind::CreateMachine,
            Self::ListMachines { .. } => Kind::ListMachines,
            Self::ReadMachine { .. } => Kind::ReadMachine,
            Self::Update { .. } => Kind::Update,
            Self::Start { .. } => Kind::Start,
            Self::Stop { .. } => Kind::Stop,
            Self::Restart { .. } => Kind::Restart,
            Self::DeleteMachine { .. } => Kind::DeleteMachine,
            Self::Lease { .. } => Kind::Lease,
            Self::ReleaseLease { .. } => Kind::ReleaseLease,
            Self::ListOrgMachines { .. } => Kind::ListOrgMachines,
            Self::ListOrgVolumes { .. } => Kind::ListOrgVolumes,
        }
    }

    /// The bucket that it is paid from: Fly counts per action and the thing acted on; what makes or lists is
    /// counted on the app, apps on the organisation.
    #[must_use]
    pub fn bucket(&self, org: &str) -> Bucket {
        let on = match self {
            Self::CreateApp { .. }
            | Self::DeleteApp { .. }
            | Self::ListOrgMachines { .. }
            | Self::ListOrgVolumes { .. } => org.to_owned(),
            Self::ReadApp { app }
            | Self::AssignAddress { app, .. }
            | Self::ListAddresses { app }
            | Self::CreateVolume { app, .. }
            | Self::ListVolumes { app }
            | Self::CreateMachine { app, .. }
            | Self::ListMachines { app, .. } => app.to_string(),
            Self::ReadVolume { volume, .. }
            | Self::ExtendVolume { volume, .. }
            | Self::DeleteVolume { volume, .. } => volume.to_string(),
            Self::ReadMachine { machine, .. } | Self::Lease { machine, .. } => machine.to_string(),
            Self::Update { at, .. }
            | Self::Start { at }
            | Self::Stop { at }
            | Self::Restart { at }
            | Self::DeleteMachine { at }
            | Self::ReleaseLease { at } => at.machine.to_string(),
        };
        Bucket { kind: self.kind(), on }
    }

    /// The call as HTTP.
    #[must_use]
    pub fn encode(&self) -> HttpCall {
        let get = |path: String| (Method::Get, path, None);
        let post = |path: String, body: Option<String>| (Method::Post, path, body);
        let empty = || Some("{}".to_owned());
        let (method, path, body) = match self {
            Self::CreateApp { app, org, network } => {
                post("/apps".to_owned(), json(&NewApp { app_name: app, name: app, org_slug: org, network }))
            }
            Self::ReadApp { app } => get(of_app(app, "")),
            Self::DeleteApp { app } => (Method::Delete, of_app(app, "?force=true"), None),
            Self::AssignAddress { app, kind } => {
                post(of_app(app, "/ip_assignments"), json(&serde_json::json!({"type": kind.as_str()})))
            }
            Self::ListAddresses { app } => get(of_app(app, "/ip_assignments")),
            Self::CreateVolume { app, new } => post(of_app(app, "/volumes"), json(new)),
            Self::ListVolumes { app } => get(of_app(app, "/volumes")),
            Self::ReadVolume { app, volume } => get(of_volume(app, volume, "")),
            Self::ExtendVolume { app, volume, size_gb } => (
                Method::Put,
                of_volume(app, volume, "/extend"),
                json(&serde_json::json!({"size_gb": size_gb})),
            ),
            Self::DeleteVolume { app, volume } => (Method::Delete, of_volume(app, volume, ""), None),
            Self::CreateMachine { app, new } => post(of_app(app, "/machines"), json(new)),
            Self::ListMachines { app, owner } => {
                get(of_app(app, &format!("/machines?metadata.{OWNER_KEY}={owner}")))
            }
            Self::ReadMachine { app, machine } => get(of_machine(app, machine, "")),
            Self::Update { at, config, current_version } => {
                let body = json(&MachineUpdate { config, current_version });
                post(of_machine(&at.app, &at.machine, ""), body)
            }
            Self::Start { at } => post(of_machine(&at.app, &at.machine, "/start"), empty()),
            Self::Stop { at } => post(of_machine(&at.app, &at.machine, "/stop"), empty()),
            Self::Restart { at } => post(of_machine(&at.app, &at.machine, "/restart"), empty()),
            Self::DeleteMachine { at } => {
                (Method::Delete, of_machine(&at.app, &at.machine, "?force=true"), None)
            }
            Self::Lease { app, machine, ttl_s } => {
                // Published as a field of the body, served from the query as well.
                let mut path = of_machine(app, machine, "/lease");
                // Writing to a String does not fail.
                let _ = write!(path, "?ttl={ttl_s}");
                post(path, json(&serde_json::json!({"ttl": ttl_s, "description": "automna"})))
            }
            Self::ReleaseLease { at } => (Method::Delete, of_machine(&at.app, &at.machine, "/lease"), None),
            Self::ListOrgMachines { org, cursor } => get(of_org(org, "machines", cursor.as_deref())),
            Self::ListOrgVolumes { org, cursor } => get(of_org(org, "volumes", cursor.as_deref())),
        };
        let nonce = if let Self::Update { at, .. }
        | Self::Start { at }
        | Self::Stop { at }
        | Self::Restart { at }
        | Self::DeleteMachine { at }
        | Self::ReleaseLease { at } = self
        {
            at.nonce.clone()
        } else {
            None
        };
        HttpCall { method, path, nonce, body }
    }

    /// Reads what came back.
    ///
    /// # Errors
    /// For everything but success, with its meaning; for a success that cannot be read, [`fault::unreadable`].
    pub fn decode(&self, reply: &Result<HttpReply, Lost>) -> Result<Answer, ApiError> {
        let reply = reply.as_ref().map_err(|lost| fault::lost(*lost))?;
        if !(200..300).contains(&reply.status) {
            return Err(fault::classify(self.kind(), reply));
        }
        match self {
            Self::CreateApp { .. }
            | Self::DeleteApp { .. }
            | Self::AssignAddress { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::DeleteMachine { .. }
            | Self::DeleteVolume { .. }
            | Self::ReleaseLease { .. } => Ok(Answer::Done),
            Self::ReadApp { .. } => read(reply).map(Answer::App),
            Self::ListAddresses { .. } => read::<Addresses>(reply).map(|list| Answer::Addresses(list.ips)),
            Self::CreateVolume { .. } | Self::ReadVolume { .. } => read(reply).map(Answer::Volume),
            Self::ListVolumes { .. } => read(reply).map(Answer::Volumes),
            Self::ExtendVolume { .. } => {
                let Extended { volume, needs_restart } = read(reply)?;
                Ok(Answer::Extended { volume, needs_restart })
            }
            Self::CreateMachine { .. } | Self::ReadMachine { .. } | Self::Update { .. } => {
                read(reply).map(|machine| Answer::Machine(Box::new(machine)))
            }
            Self::ListMachines { .. } => read(reply).map(Answer::Machines),
            Self::Lease { .. } => read::<LeaseBody>(reply).map(|body| Answer::Lease(body.into())),
            Self::ListOrgMachines { .. } => read(reply).map(Answer::OrgMachines),
            Self::ListOrgVolumes { .. } => read(reply).map(Answer::OrgVolumes),
        }
    }
}

fn read<T: DeserializeOwned>(reply: &HttpReply) -> Result<T, ApiError> {
    serde_json::from_slice(&reply.body).map_err(|error| fault::unreadable(reply, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fly::Fault;

    fn app() -> AppName {
        "automna-x".parse().unwrap()
    }

    fn at() -> Target {
        Target { app: app(), machine: "4d".parse().unwrap(), nonce: Some("n0".into()) }
    }

    #[test]
    fn calls_as_http() {
        let machine: MachineId = "4d".parse().unwrap();
        let volume: VolumeId = "vol_a".parse().unwrap();
        let rows = [
            (
                Call::CreateApp { app: app(), org: "o".into(), network: "n".into() },
                "POST /apps",
                Some(r#"{"app_name":"automna-x","name":"automna-x","org_slug":"o","network":"n"}"#),
            ),
            (Call::ReadApp { app: app() }, "GET /apps/automna-x", None),
            (Call::DeleteApp { app: app() }, "DELETE /apps/automna-x?force=true", None),
            (
                Call::AssignAddress { app: app(), kind: AddressKind::SharedV4 },
                "POST /apps/automna-x/ip_assignments",
                Some(r#"{"type":"shared_v4"}"#),
            ),
            (
                Call::ExtendVolume { app: app(), volume: volume.clone(), size_gb: 2 },
                "PUT /apps/automna-x/volumes/vol_a/extend",
                Some(r#"{"size_gb":2}"#),
            ),
            (Call::DeleteVolume { app: app(), volume }, "DELETE /apps/automna-x/volumes/vol_a", None),
            // An array or no body makes Fly fail to read it.
            (Call::Stop { at: at() }, "POST /apps/automna-x/machines/4d/stop", Some("{}")),
            (Call::DeleteMachine { at: at() }, "DELETE /apps/automna-x/machines/4d?force=true", None),
            (
                Call::Lease { app: app(), machine, ttl_s: 60 },
                "POST /apps/automna-x/machines/4d/lease?ttl=60",
                Some(r#"{"description":"automna","ttl":60}"#),
            ),
            (
                Call::Update { at: at(), config: Box::default(), current_version: "01".into() },
                "POST /apps/automna-x/machines/4d",
                Some(r#"{"config":{},"current_version":"01"}"#),
            ),
            (
                Call::ListOrgMachines { org: "o/../x".into(), cursor: Some("a&b".into()) },
                "GET /orgs/o%2F..%2Fx/machines?limit=1000&cursor=a%26b",
                None,
            ),
        ];
        for (call, line, body) in rows {
            let http = call.encode();
            assert_eq!(format!("{http:?}"), line);
            // As values: the order of keys is nobody's business.
            let read = |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap();
            assert_eq!(http.body.as_deref().map(read), body.map(read), "{line}");
        }
        assert_eq!(Call::Start { at: at() }.encode().nonce.as_deref(), Some("n0"), "a lease is shown");
        assert!(!format!("{:?}", Call::Start { at: at() }).contains("n0"), "but not printed");
    }

    #[test]
    fn a_success_that_cannot_be_read_may_have_happened() {
        let reply = HttpReply { status: 200, request_id: None, retry_after: None, body: b"<html>".to_vec() };
        let error = Call::ListVolumes { app: app() }.decode(&Ok(reply)).unwrap_err();
        assert_eq!(error.fault, Fault::Unknown);
        let error = Call::ReadApp { app: app() }.decode(&Err(Lost::NotSent)).unwrap_err();
        assert_eq!(error.fault, Fault::NotSent);
    }

    #[test]
    fn buckets() {
        for (call, on) in [
            (Call::CreateApp { app: app(), org: "org".into(), network: String::new() }, "org"),
            (Call::ListMachines { app: app(), owner: "0f".into() }, "automna-x"),
            (Call::ReadMachine { app: app(), machine: "4d".parse().unwrap() }, "4d"),
        ] {
            assert_eq!(call.bucket("org"), Bucket { kind: call.kind(), on: on.into() });
        }
    }
}
