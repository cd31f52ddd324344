//! What Fly answers instead of what was asked, and what it means.
//!
//! Codes alone do not tell: capacity is refused with 400, 403, 409, 412 and 422. So the `status` word of the
//! body counts first, then the code with a piece of the text, then the code. Bodies may be JSON with `error` or
//! `message`, HTML or empty; none of them is an error of ours.

use serde::{Deserialize, Serialize};
use shared::id::MachineId;

use super::call::{HttpReply, Kind, Lost};

/// Longest piece of an error's text that is kept, in bytes.
pub const MAX_TEXT_BYTES: usize = 300;

/// Largest `Retry-After` that is believed, in seconds.
const MAX_RETRY_AFTER_S: u64 = 60;

/// The meaning of an answer that is not success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An app of this name exists, ours or not.
    NameTaken,
    /// A machine of this name lives in the app: the one that an earlier call made.
    MachineExists(Option<MachineId>),
    /// The app, machine or volume does not exist, or not yet.
    NotFound,
    /// The volume to be mounted does not exist.
    VolumeNotFound,
    /// No host in the region has room.
    RegionFull,
    /// The host that holds the volume has no room.
    HostFull,
    /// The organisation may not use more in this region.
    Quota,
    /// Billing or abuse control of Fly has said no.
    Blocked,
    /// The token is not accepted.
    Unauthorized,
    /// Not ours to touch.
    Forbidden,
    /// Another holder's lease is on the machine.
    LeaseHeld,
    /// The lease named is gone.
    LeaseLost,
    /// The machine has changed since it was read.
    Changed,
    /// The volume belongs to a machine, perhaps one that has just been destroyed.
    VolumeInUse,
    /// The machine is between two states.
    NotYet,
    /// Too many calls.
    RateLimited,
    /// The host takes no orders now.
    HostUnavailable,
    /// We asked for something that Fly will never do.
    Rejected,
    /// The call was not made.
    NotSent,
    /// The call may have been carried out, or may still be.
    Unknown,
}

/// An answer that is not success, with what is needed to speak to Fly about it. The text is Fly's, shortened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{fault:?} (status {status:?}, request {request_id:?}): {text}")]
pub struct ApiError {
    pub fault: Fault,
    pub status: Option<u16>,
    pub text: String,
    pub request_id: Option<String>,
    /// What `Retry-After` asked for, in ms.
    pub retry_after_ms: Option<u64>,
}

/// Which calls a row is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Any,
    Only(Kind),
}

/// A row: code (0 for any), piece of the text in lower case, call, meaning.
type Row = (u16, &'static str, On, fn() -> Fault);

/// First match wins. `status` words are matched as `status:<word>`.
const TABLE: &[Row] = &[
    (0, "status:name_taken", On::Any, || Fault::NameTaken),
    (0, "status:insufficient_capacity", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (0, "status:insufficient_capacity", On::Any, || Fault::RegionFull),
    (0, "status:volume_placement_capacity", On::Any, || Fault::HostFull),
    (400, "volume not found", On::Any, || Fault::VolumeNotFound),
    (400, "no capacity", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (400, "no capacity", On::Any, || Fault::RegionFull),
    (401, "", On::Any, || Fault::Unauthorized),
    (403, "over the allowed quota", On::Any, || Fault::Quota),
    (403, "", On::Any, || Fault::Forbidden),
    (404, "lease not found", On::Any, || Fault::LeaseLost),
    (404, "", On::Any, || Fault::NotFound),
    (408, "failed to reach desired state", On::Any, || Fault::NotYet),
    (409, "unique machine name violation", On::Any, || Fault::MachineExists(None)),
    (409, "lease currently held", On::Any, || Fault::LeaseHeld),
    (409, "concurrent update", On::Any, || Fault::Changed),
    (409, "current_version", On::Any, || Fault::Changed),
    (409, "could not reserve resource", On::Any, || Fault::HostFull),
    (409, "no capacity", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (409, "no capacity", On::Any, || Fault::RegionFull),
    (409, "insufficient resources", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (409, "insufficient resources", On::Any, || Fault::RegionFull),
    (409, "governor policy", On::Any, || Fault::Blocked),
    (409, "already", On::Only(Kind::CreateApp), || Fault::NameTaken),
    (412, "existing volume", On::Any, || Fault::HostFull),
    (412, "insufficient resources", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (412, "insufficient resources", On::Any, || Fault::RegionFull),
    (412, "volume already claimed", On::Any, || Fault::VolumeInUse),
    (412, "currently bound to machine", On::Any, || Fault::VolumeInUse),
    (422, "already been taken", On::Any, || Fault::NameTaken),
    (422, "uniqueness constraint", On::Only(Kind::CreateApp), || Fault::NameTaken),
    (422, "candidate host", On::Only(Kind::CreateMachine), || Fault::HostFull),
    (422, "candidate host", On::Any, || Fault::RegionFull),
    (422, "limit", On::Any, || Fault::Quota),
    (429, "", On::Any, || Fault::RateLimited),
    (503, "deploys to this host are temporarily disabled", On::Any, || Fault::HostUnavailable),
    (503, "host is unreachable", On::Any, || Fault::HostUnavailable),
    // What remains of a code.
    (409, "", On::Any, || Fault::NotYet),
    (412, "", On::Any, || Fault::NotYet),
    (400, "", On::Any, || Fault::Rejected),
    (422, "", On::Any, || Fault::Rejected),
];

#[derive(Deserialize, Default)]
struct Body {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    status: Option<String>,
}

/// Reads an answer that is not success.
#[must_use]
pub fn classify(kind: Kind, reply: &HttpReply) -> ApiError {
    let body: Body = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = body.error.filter(|text| !text.is_empty()).or(body.message);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(&reply.body).into_owned());
    let searched = format!("{}\nstatus:{}", text, body.status.unwrap_or_default()).to_lowercase();
    let row = TABLE.iter().find(|(code, piece, on, _)| {
        (*code == 0 || *code == reply.status)
            && searched.contains(piece)
            && match on {
                On::Any => true,
                On::Only(of) => *of == kind,
            }
    });
    // 408, 5xx and codes nobody has met: whether it happened cannot be told.
    let mut fault = row.map_or(Fault::Unknown, |(_, _, _, fault)| fault());
    if let Fault::MachineExists(id) = &mut fault {
        *id = existing_machine(&text);
    }
    ApiError {
        fault,
        status: Some(reply.status),
        text: shorten(&text),
        request_id: reply.request_id.clone(),
        retry_after_ms: reply.retry_after.as_deref().and_then(retry_after_ms),
    }
}

/// No answer at all.
#[must_use]
pub fn lost(lost: Lost) -> ApiError {
    let (fault, text) = match lost {
        Lost::NotSent => (Fault::NotSent, "the call could not be sent"),
        Lost::NoAnswer => (Fault::Unknown, "no answer arrived"),
    };
    ApiError { fault, status: None, text: text.to_owned(), request_id: None, retry_after_ms: None }
}

/// Success, with a body that cannot be read: it happened, and we do not know what.
#[must_use]
pub fn unreadable(reply: &HttpReply, why: &str) -> ApiError {
    ApiError {
        fault: Fault::Unknown,
        status: Some(reply.status),
        text: shorten(&format!("cannot read the answer: {why}")),
        request_id: reply.request_id.clone(),
        retry_after_ms: None,
    }
}

/// `machine ID e2865013d93d68 already exists`: who it is. The text is no contract, so it may not be there.
fn existing_machine(text: &str) -> Option<MachineId> {
    let (_, rest) = text.split_once("machine ID ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Only numbers of seconds: Fly documents none, so a date would be a stranger's.
fn retry_after_ms(text: &str) -> Option<u64> {
    let seconds: u64 = text.trim().parse().ok()?;
    (1..=MAX_RETRY_AFTER_S).contains(&seconds).then(|| seconds.saturating_mul(1000))
}

/// One line of at most [`MAX_TEXT_BYTES`] without control characters.
fn shorten(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len().saturating_add(c.len_utf8()) > MAX_TEXT_BYTES {
            break;
        }
        short.push(c);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(status: u16, body: &str) -> HttpReply {
        HttpReply {
            status,
            request_id: Some("01J-yyz".into()),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn every_known_error() {
        use Kind::{
            CreateApp, CreateMachine, CreateVolume, DeleteMachine, DeleteVolume, Lease, ReadApp, ReadMachine,
            ReleaseLease, Start, Update,
        };
        let id = || Some("e2865013d93d68".parse().unwrap());
        let rows: &[(Kind, u16, &str, Fault)] = &[
            (CreateMachine, 400, r#"{"error":"volume not found"}"#, Fault::VolumeNotFound),
            (CreateVolume, 400, r#"{"error":"no capacity"}"#, Fault::RegionFull),
            (
                CreateMachine,
                400,
                r#"{"error":"invalid config.guest.memory_mb, must be a multiple of 256"}"#,
                Fault::Rejected,
            ),
            (ReadMachine, 401, r#"{"error":"Authenticate: token validation error"}"#, Fault::Unauthorized),
            (
                CreateMachine,
                403,
                r#"{"error":"organization \"x\" is using 9 MB of memory in sjc which is over the allowed quota. please consider other regions"}"#,
                Fault::Quota,
            ),
            (ReadApp, 403, r#"{"error":"forbidden"}"#, Fault::Forbidden),
            (ReadApp, 404, r#"{"error":"app not found"}"#, Fault::NotFound),
            (ReadMachine, 404, "", Fault::NotFound),
            (ReleaseLease, 404, r#"{"error":"lease not found"}"#, Fault::LeaseLost),
            (
                ReadMachine,
                408,
                r#"{"error":"deadline_exceeded: machine failed to reach desired state, started, currently created"}"#,
                Fault::NotYet,
            ),
            (CreateMachine, 408, r#"{"error":"deadline_exceeded"}"#, Fault::Unknown),
            (
                CreateMachine,
                409,
                r#"{"error":"already_exists: unique machine name violation, machine ID e2865013d93d68 already exists with name \"agent\""}"#,
                Fault::MachineExists(id()),
            ),
            (CreateMachine, 409, r#"{"error":"unique machine name violation"}"#, Fault::MachineExists(None)),
            (
                CreateMachine,
                409,
                r#"{"error":"unique machine name violation, machine ID ../x"}"#,
                Fault::MachineExists(None),
            ),
            (
                Start,
                409,
                r#"{"error":"aborted: machine ID 4d lease currently held by 5b@tokens.fly.io, expires at 2026"}"#,
                Fault::LeaseHeld,
            ),
            (Lease, 409, r#"{"status":"error","message":"lease currently held by x"}"#, Fault::LeaseHeld),
            (Update, 409, r#"{"error":"machine update failed due to concurrent update"}"#, Fault::Changed),
            (Update, 409, r#"{"error":"aborted: current_version does not match"}"#, Fault::Changed),
            (
                Start,
                409,
                r#"{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request"}"#,
                Fault::HostFull,
            ),
            (
                Start,
                409,
                r#"{"error":"could not reserve resource for machine: insufficient CPUs available"}"#,
                Fault::HostFull,
            ),
            (CreateVolume, 409, r#"{"error":"aborted: no capacity"}"#, Fault::RegionFull),
            (CreateMachine, 409, r#"{"error":"insufficient resources available"}"#, Fault::HostFull),
            (Start, 409, r#"{"error":"governor policy blocked start"}"#, Fault::Blocked),
            (CreateApp, 409, r#"{"error":"already_exists"}"#, Fault::NameTaken),
            (
                CreateMachine,
                412,
                r#"{"error":"insufficient resources to create new machine with existing volume id 'vol_x'","status":"volume_placement_capacity"}"#,
                Fault::HostFull,
            ),
            (
                CreateMachine,
                412,
                r#"{"error":"failed_precondition: volume already claimed by machine \u0000\u0000"}"#,
                Fault::VolumeInUse,
            ),
            (
                Start,
                412,
                r#"{"error":"unable to start machine from current state: 'stopping'"}"#,
                Fault::NotYet,
            ),
            (Start, 412, r#"{"error":"machine still active, refusing to start"}"#, Fault::NotYet),
            (Start, 412, r#"{"error":"machine getting replaced, refusing to start"}"#, Fault::NotYet),
            (
                DeleteMachine,
                412,
                r#"{"error":"failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created"}"#,
                Fault::NotYet,
            ),
            (
                DeleteVolume,
                412,
                r#"{"error":"volume is currently bound to machine: 4d"}"#,
                Fault::VolumeInUse,
            ),
            (
                CreateApp,
                422,
                r#"{"error":"Validation failed: Name has already been taken","status":"name_taken"}"#,
                Fault::NameTaken,
            ),
            (CreateApp, 422, r#"{"error":"uniqueness constraint violated"}"#, Fault::NameTaken),
            (
                CreateVolume,
                422,
                r#"{"error":"could not find a candidate host","status":"insufficient_capacity"}"#,
                Fault::RegionFull,
            ),
            (CreateMachine, 422, r#"{"error":"could not find a candidate host"}"#, Fault::HostFull),
            (CreateMachine, 422, r#"{"error":"organization has reached its machine limit"}"#, Fault::Quota),
            (CreateVolume, 422, r#"{"error":"size_gb is odd"}"#, Fault::Rejected),
            (Start, 429, r#"{"error":"rate limit exceeded"}"#, Fault::RateLimited),
            (Start, 429, "", Fault::RateLimited),
            (
                Update,
                503,
                r#"{"error":"unavailable: deploys to this host are temporarily disabled, please try again later"}"#,
                Fault::HostUnavailable,
            ),
            (Start, 503, r#"{"error":"unavailable: host is unreachable"}"#, Fault::HostUnavailable),
            (CreateVolume, 500, r#"{"error":"internal"}"#, Fault::Unknown),
            (CreateApp, 502, "<html><body><h1>502 Bad Gateway</h1></body></html>", Fault::Unknown),
            (CreateApp, 503, "", Fault::Unknown),
            (CreateApp, 418, "\u{0}", Fault::Unknown),
        ];
        for (kind, status, body, expected) in rows {
            let error = classify(*kind, &reply(*status, body));
            assert_eq!(&error.fault, expected, "{kind:?} {status} {body}");
            assert_eq!(error.request_id.as_deref(), Some("01J-yyz"), "Fly is asked about it by this");
        }
    }

    #[test]
    fn retry_after() {
        for (text, expected) in [
            ("1", Some(1000)),
            (" 60 ", Some(60_000)),
            ("0", None),
            ("61", None),
            ("-1", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            assert_eq!(retry_after_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn a_long_page_becomes_one_short_line() {
        let page = format!("<html>\r\n{}", "é".repeat(4000));
        let error = classify(Kind::Start, &reply(502, &page));
        assert!(error.text.starts_with("<html>  é") && error.text.len() <= MAX_TEXT_BYTES, "{}", error.text);
    }

    proptest! {
        #[test]
        fn no_body_is_too_odd(status in 300_u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let reply = HttpReply { status, request_id: None, retry_after: None, body };
            let error = classify(Kind::CreateVolume, &reply);
            prop_assert!(error.text.len() <= MAX_TEXT_BYTES);
            prop_assert!(status < 500 || matches!(error.fault, Fault::Unknown | Fault::HostUnavailable | Fault::NameTaken | Fault::RegionFull | Fault::HostFull));
        }
    }
}
