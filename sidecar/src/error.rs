//! Every way in which the sidecar refuses or fails a request. [`look`] gives each its status, code and text;
//! [`problem`] writes the answer.

use std::io;
use std::sync::Arc;

use shared::ticket::TicketError;

use crate::agent::supervision::{NoRestart, RESTART_INTERVAL};
use crate::agent_rpc::RpcError;
use crate::files::error::FileError;
use crate::files::search::ask::AskError;
use crate::http_semantics::conditional::Malformed;
use crate::http_semantics::digest::BadDigest;
use crate::http_semantics::raw_path::BadTarget;
use crate::http_semantics::tus::BadHeader;
use crate::proxy::agent::AgentError;
use crate::proxy::handshake::BadUpgrade;

mod look;
pub mod problem;

pub use problem::Problem;

/// What went wrong. It does not know HTTP; [`ApiError::answer`] does.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("no ticket")]
    NoTicket,
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("the ticket's epoch is over")]
    StaleEpoch,
    #[error("the ticket's epoch could not be stored: {0}")]
    EpochNotStored(#[source] Arc<io::Error>),
    #[error("no such route")]
    UnknownRoute,
    #[error("the path is not in its plain form")]
    BadPath,
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    #[error("the route does not take this method")]
    WrongMethod,
    #[error("not a WebSocket upgrade: {0}")]
    BadUpgrade(#[from] BadUpgrade),
    #[error("the session key is not well formed")]
    BadSessionKey,
    #[error("nothing to search for")]
    BadSearch,
    #[error(transparent)]
    Search(#[from] AskError),
    #[error("the cursor is not one of ours")]
    BadCursor,
    #[error("the agent's sessions cannot be read: {0}")]
    HistoryUnavailable(#[source] Arc<io::Error>),
    #[error("another user's workspace")]
    OtherUser,
    #[error("the reset came to a halt: {0}")]
    ResetFailed(#[source] Arc<io::Error>),
    #[error("the body is not the JSON of this route")]
    BadJson,
    #[error("no message")]
    NoMessage,
    #[error("the message is larger than the agent takes")]
    MessageTooLarge,
    #[error("the idempotency key is not well formed")]
    BadIdempotencyKey,
    #[error(transparent)]
    AgentCall(Arc<RpcError>),
    #[error(transparent)]
    File(#[from] FileError),
    /// The same, on a route that has words of its own for it.
    #[error("{error}")]
    FileRoute { action: Action, error: FileError },
    #[error("{}", .0.text())]
    Input(Input),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the agent does not answer: {0}")]
    Agent(#[source] Arc<AgentError>),
    #[error("the machine is about to stop")]
    Draining,
    #[error("the agent is not ours to start or to read")]
    AgentElsewhere,
    #[error("the agent is stopping or restarting")]
    AgentStopping,
    #[error("a restart was asked for less than {} s ago", RESTART_INTERVAL.as_secs())]
    RestartTooSoon { retry_after_seconds: u64 },
    #[error("tail is no number of lines")]
    BadTail,
    #[error("too many clients follow the log")]
    TooManyFollowers,
}

/// What a route was doing with files: the legacy contract words its failures by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    List,
    Read,
    Write,
    Upload,
    Download,
    Delete,
    Mkdir,
    Move,
    Copy,
    Trash,
    Restore,
}

impl Action {
    /// For `map_err`.
    pub fn failed(self) -> impl Fn(FileError) -> ApiError {
        move |error| ApiError::FileRoute { action: self, error }
    }
}

/// What a file route lacks in a request, or cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Path,
    PathAndContent,
    FromAndTo,
    FileAndPath,
    TrashPath,
    Form,
    Base64,
    Limit,
    IfMatch,
}

/// What HTTP itself has against a request for a file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    #[error("the method is not one of {0}")]
    MethodNotAllowed(&'static str),
    #[error(transparent)]
    Target(#[from] BadTarget),
    #[error("the path is not UTF-8")]
    NotUtf8,
    #[error(transparent)]
    Conditional(#[from] Malformed),
    #[error("If-None-Match takes nothing but * here")]
    OnlyAny,
    #[error("{0} does not hold")]
    PreconditionFailed(&'static str),
    #[error("a precondition is required, as If-Match or If-None-Match")]
    PreconditionRequired,
    #[error("no range lies within the {size} bytes")]
    RangeNotSatisfiable { size: u64 },
    #[error("Content-Range has no meaning here")]
    ContentRange,
    #[error("content codings are not taken off")]
    ContentEncoding,
    #[error("the digest cannot be used: {0}")]
    BadDigest(#[from] BadDigest),
    #[error("the bytes do not have this {0} digest")]
    DigestMismatch(&'static str),
    #[error("nothing came for too long")]
    Silent,
    #[error("{header} cannot be used: {bad}")]
    Tus { header: &'static str, bad: BadHeader },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("this version of tus is not spoken")]
    TusVersion,
    #[error("the content's type is not {0}")]
    MediaType(&'static str),
    #[error("no such upload")]
    NoUpload,
    #[error("the upload is at {at}")]
    Offset { at: u64 },
    #[error("the upload is in use")]
    Locked,
    #[error("there are too many uploads")]
    TooManyUploads,
    #[error("the volume has no room for {0} bytes")]
    NoRoom(u64),
    #[error("the bytes do not have this checksum")]
    Checksum,
    #[error("more bytes came than the upload's length")]
    TooLong,
    #[error("the archive's format is none of zip, tar, tar.gz")]
    Format,
    #[error("too many archives are being made")]
    Busy,
    #[error("too many searches are under way")]
    BusySearching,
    #[error("too many clients listen for changes")]
    BusyListening,
}

impl From<NoRestart> for ApiError {
    fn from(refusal: NoRestart) -> Self {
        match refusal {
            NoRestart::Stopping => Self::AgentStopping,
            // Rounded up: who comes at that time is not refused again.
            NoRestart::TooSoon { retry_after } => {
                Self::RestartTooSoon { retry_after_seconds: retry_after.as_secs().saturating_add(1) }
            }
        }
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        Self::Agent(Arc::new(error))
    }
}

impl From<RpcError> for ApiError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::TooLarge(_) => Self::MessageTooLarge,
            error @ (RpcError::Unreachable(_)
            | RpcError::NotConnected(_)
            | RpcError::BrokenOff
            | RpcError::Timeout
            | RpcError::Refused { .. }) => Self::AgentCall(Arc::new(error)),
        }
    }
}
