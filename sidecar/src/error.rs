//! Every way in which the sidecar refuses or fails a request, and the one place that turns it into an answer.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use shared::id::RequestId;
use shared::ticket::TicketError;
use shared::wire::{ErrorBody, REFUSAL_HEADER, Refusal};

use crate::agent::supervision::{NoRestart, RESTART_INTERVAL};
use crate::agent_rpc::{MAX_FRAME_BYTES, RpcError};
use crate::files::error::FileError;
use crate::files::path::PathError;
use crate::http_semantics::conditional::Malformed;
use crate::http_semantics::digest::BadDigest;
use crate::http_semantics::range;
use crate::http_semantics::raw_path::BadTarget;
use crate::http_semantics::tus::BadHeader;
use crate::proxy::agent::AgentError;
use crate::proxy::handshake::BadUpgrade;

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

    /// Where something is missing.
    const fn missing(self) -> &'static str {
        match self {
            Self::List | Self::Read | Self::Download => "File not found",
            Self::Write | Self::Upload => "Parent directory not found",
            Self::Delete | Self::Mkdir => "Path not found",
            Self::Move | Self::Copy => "Source path not found",
            Self::Trash | Self::Restore => "Trash item not found",
        }
    }

    /// Where the fault is ours.
    const fn broken(self) -> &'static str {
        match self {
            Self::List => "Failed to list directory",
            Self::Read => "Failed to read file",
            Self::Write => "Failed to write file",
            Self::Upload => "Upload failed",
            Self::Download => "Download failed",
            Self::Delete => "Delete failed",
            Self::Mkdir => "Failed to create directory",
            Self::Move => "Move failed",
            Self::Copy => "Copy failed",
            Self::Trash => "Failed to read trash",
            Self::Restore => "Restore failed",
        }
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

impl Input {
    const fn code(self) -> &'static str {
        match self {
            Self::Path | Self::PathAndContent | Self::FromAndTo | Self::FileAndPath | Self::TrashPath => {
                "missing_field"
            }
            Self::Form => "bad_form",
            Self::Base64 => "bad_base64",
            Self::Limit => "bad_limit",
            Self::IfMatch => "bad_precondition",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Path => "Path required",
            Self::PathAndContent => "Path and content required",
            Self::FromAndTo => "From and to paths required",
            Self::FileAndPath => "File and path required",
            Self::TrashPath => "Trash path required",
            Self::Form => "Invalid form data",
            Self::Base64 => "Invalid base64 content",
            Self::Limit => "Invalid limit",
            Self::IfMatch => "Invalid ifMatch",
        }
    }
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

/// The body: what clients have always read, and the same in the words of RFC 9457.
#[derive(Serialize)]
struct Problem {
    #[serde(flatten)]
    legacy: ErrorBody,
    #[serde(flatten)]
    extra: Map<String, Value>,
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    instance: String,
}

/// How an error looks from outside.
struct Look {
    status: StatusCode,
    /// Stable, for programs.
    code: &'static str,
    /// The legacy contract's text where it has one.
    error: &'static str,
    details: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
    /// Fields of this error only, as the legacy contract has them.
    extra: Vec<(&'static str, Value)>,
}

impl ApiError {
    /// The stable code in the body.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.look().code
    }

    /// The whole answer.
    #[must_use]
    pub fn answer(&self, request_id: &RequestId) -> Response {
        let Look { status, code, error, details, header, extra } = self.look();
        let body = ErrorBody {
            error: error.to_owned(),
            details,
            code: code.to_owned(),
            request_id: request_id.as_str().to_owned(),
        };
        let body = Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or(error),
            status: status.as_u16(),
            detail: body.details.clone().unwrap_or_else(|| body.error.clone()),
            instance: format!("urn:x-request-id:{}", body.request_id),
            legacy: body,
            extra: extra.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let mut response = (status, Json(body)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }

    fn look(&self) -> Look {
        let look = plain;
        match self {
            Self::NoTicket => Look {
                details: Some(self.to_string()),
                ..look(StatusCode::UNAUTHORIZED, "ticket_missing", "Unauthorized")
            },
            Self::Ticket(ticket) => Look {
                details: Some(ticket.to_string()),
                ..look(StatusCode::UNAUTHORIZED, ticket.code(), "Unauthorized")
            },
            // The edge refreshes its lease and routes again; a client never sees this.
            Self::StaleEpoch => Look {
                header: Some((
                    HeaderName::from_static(REFUSAL_HEADER),
                    HeaderValue::from_static(Refusal::StaleEpoch.as_str()),
                )),
                ..look(StatusCode::CONFLICT, "stale_epoch", "Stale epoch")
            },
            Self::EpochNotStored(_) => {
                look(StatusCode::SERVICE_UNAVAILABLE, "epoch_not_stored", "Storage unavailable")
            }
            Self::UnknownRoute => look(StatusCode::NOT_FOUND, "unknown_route", "Not found"),
            Self::BadPath => look(StatusCode::BAD_REQUEST, "bad_path", "Bad request"),
            // The router adds which methods there are.
            Self::WrongMethod => {
                look(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            // The agent's page is read-only; our own routes say what they take.
            Self::MethodNotAllowed => Look {
                header: Some((header::ALLOW, HeaderValue::from_static("GET,HEAD"))),
                ..look(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            },
            Self::BadUpgrade(bad) => Look {
                details: Some(bad.to_string()),
                ..look(StatusCode::BAD_REQUEST, "bad_upgrade", "Bad request")
            },
            Self::BadSessionKey => look(StatusCode::BAD_REQUEST, "bad_session_key", "Invalid session key"),
            Self::BadSearch => look(StatusCode::BAD_REQUEST, "bad_search", "Query required"),
            Self::BadCursor => look(StatusCode::BAD_REQUEST, "bad_cursor", "Invalid cursor"),
            // Empty and unavailable are different answers.
            Self::HistoryUnavailable(_) => Look {
                header: Some((header::RETRY_AFTER, HeaderValue::from_static("2"))),
                ..look(StatusCode::SERVICE_UNAVAILABLE, "history_unavailable", "History unavailable")
            },
            Self::OtherUser => look(StatusCode::FORBIDDEN, "other_user", "Forbidden"),
            Self::ResetFailed(_) => look(StatusCode::INTERNAL_SERVER_ERROR, "reset_failed", "Reset failed"),
            Self::BadJson => look(StatusCode::BAD_REQUEST, "bad_json", "Invalid JSON body"),
            Self::NoMessage => look(StatusCode::BAD_REQUEST, "no_message", "Message is required"),
            Self::MessageTooLarge => Look {
                details: Some(format!("The agent takes at most {MAX_FRAME_BYTES} bytes at a time")),
                ..look(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", "Message too large")
            },
            Self::BadIdempotencyKey => {
                look(StatusCode::BAD_REQUEST, "bad_idempotency_key", "Invalid idempotency key")
            }
            Self::AgentCall(error) => match error.as_ref() {
                RpcError::Refused { code, message } => Look {
                    details: Some(format!("{code}: {message}")),
                    ..look(StatusCode::BAD_GATEWAY, "agent_refused", "The agent refused")
                },
                // It may have been heard: only a client that brought a key can safely send it again.
                RpcError::BrokenOff | RpcError::Timeout => Look {
                    details: Some(error.to_string()),
                    ..look(StatusCode::GATEWAY_TIMEOUT, "agent_timeout", "The agent did not answer")
                },
                RpcError::Unreachable(_) | RpcError::NotConnected(_) | RpcError::TooLarge(_) => Look {
                    header: Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
                    ..look(StatusCode::SERVICE_UNAVAILABLE, "agent_unavailable", "Agent unavailable")
                },
            },
            Self::File(file) => file_look(file),
            Self::FileRoute { action, error } => route_look(*action, error),
            Self::Input(input) => look(StatusCode::BAD_REQUEST, input.code(), input.text()),
            Self::Http(http) => http_look(http),
            Self::Agent(_) => Look {
                header: Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
                ..look(StatusCode::SERVICE_UNAVAILABLE, "agent_unavailable", "Agent unavailable")
            },
            // As long as a machine needs to be there again.
            Self::Draining => Look {
                header: Some((header::RETRY_AFTER, HeaderValue::from_static("10"))),
                ..look(StatusCode::SERVICE_UNAVAILABLE, "draining", "The machine is restarting")
            },
            Self::AgentElsewhere => look(StatusCode::CONFLICT, "agent_elsewhere", "Not supervised here"),
            Self::AgentStopping => look(StatusCode::CONFLICT, "agent_stopping", "The agent is stopping"),
            Self::RestartTooSoon { retry_after_seconds } => Look {
                header: Some((header::RETRY_AFTER, HeaderValue::from(*retry_after_seconds))),
                ..look(StatusCode::TOO_MANY_REQUESTS, "restart_too_soon", "Too many restarts")
            },
            Self::BadTail => look(StatusCode::BAD_REQUEST, "bad_tail", "Invalid tail"),
            Self::TooManyFollowers => Look {
                header: Some((header::RETRY_AFTER, HeaderValue::from_static("10"))),
                ..look(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", "Too many followers")
            },
        }
    }
}

const fn plain(status: StatusCode, code: &'static str, error: &'static str) -> Look {
    Look { status, code, error, details: None, header: None, extra: Vec::new() }
}

fn route_look(action: Action, file: &FileError) -> Look {
    let look = file_look(file);
    match (action, file) {
        (_, FileError::NotFound) => Look { error: action.missing(), ..look },
        // These two say so of folders as well.
        (Action::Read | Action::Download, FileError::NotAFile | FileError::NotADirectory) => {
            Look { status: StatusCode::NOT_FOUND, error: action.missing(), ..look }
        }
        (_, FileError::TooLarge { size, max }) => {
            let mut extra = vec![("size", Value::from(*size)), ("maxSize", Value::from(*max))];
            if action == Action::Read {
                extra.push(("hint", "Use download endpoint for large files".into()));
            }
            let error = if action == Action::Write { "Content too large" } else { look.error };
            Look { error, extra, ..look }
        }
        (_, FileError::Io { .. }) if look.status == StatusCode::INTERNAL_SERVER_ERROR => {
            Look { error: action.broken(), ..look }
        }
        _ => look,
    }
}

fn file_look(file: &FileError) -> Look {
    let details = |look: Look| Look { details: Some(file.to_string()), ..look };
    match file {
        FileError::Path(PathError::Outside) => {
            plain(StatusCode::BAD_REQUEST, "bad_path", "Path must be within workspace")
        }
        FileError::Path(PathError::Traversal) => {
            plain(StatusCode::BAD_REQUEST, "bad_path", "Path traversal not allowed")
        }
        FileError::Path(_) => details(plain(StatusCode::BAD_REQUEST, "bad_path", "Bad request")),
        FileError::Outside => details(plain(StatusCode::FORBIDDEN, "outside_workspace", "Forbidden")),
        FileError::NotFound => plain(StatusCode::NOT_FOUND, "file_not_found", "File not found"),
        FileError::NotAFile => details(plain(StatusCode::CONFLICT, "not_a_file", "Not a file")),
        FileError::NotADirectory => {
            details(plain(StatusCode::CONFLICT, "not_a_directory", "Not a directory"))
        }
        FileError::Exists => details(plain(StatusCode::CONFLICT, "exists", "Already exists")),
        FileError::Protected => {
            plain(StatusCode::FORBIDDEN, "protected_path", "Cannot delete protected path")
        }
        FileError::TooLarge { .. } => {
            details(plain(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "File too large"))
        }
        FileError::Precondition { .. } => {
            details(plain(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Precondition failed"))
        }
        FileError::IntoItself => details(plain(StatusCode::BAD_REQUEST, "into_itself", "Bad request")),
        FileError::TreeTooLarge => {
            details(plain(StatusCode::PAYLOAD_TOO_LARGE, "tree_too_large", "Folder too large"))
        }
        FileError::BodyAborted => details(plain(StatusCode::BAD_REQUEST, "body_aborted", "Bad request")),
        FileError::BadCursor => details(plain(StatusCode::BAD_REQUEST, "bad_cursor", "Bad request")),
        FileError::Io { source, .. } => {
            let kind = source.kind();
            if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                plain(StatusCode::INSUFFICIENT_STORAGE, "no_space", "No space left")
            } else if matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) {
                plain(StatusCode::FORBIDDEN, "permission_denied", "Permission denied")
            } else {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "io", "Internal error")
            }
        }
    }
}

fn http_look(http: &HttpError) -> Look {
    let look = |status, code, error| Look { details: Some(http.to_string()), ..plain(status, code, error) };
    let bad = |code| look(StatusCode::BAD_REQUEST, code, "Bad request");
    match http {
        HttpError::MethodNotAllowed(allow) => Look {
            header: Some((header::ALLOW, HeaderValue::from_static(allow))),
            ..look(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
        },
        HttpError::Target(_) | HttpError::NotUtf8 => bad("bad_path"),
        HttpError::Conditional(_) => bad("bad_precondition"),
        HttpError::PreconditionFailed(_) => {
            look(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Precondition failed")
        }
        HttpError::PreconditionRequired => {
            look(StatusCode::PRECONDITION_REQUIRED, "precondition_required", "Precondition required")
        }
        HttpError::RangeNotSatisfiable { size } => Look {
            header: range::unsatisfied(*size).map(|value| (header::CONTENT_RANGE, value)),
            ..look(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "Range not satisfiable")
        },
        HttpError::ContentRange => bad("content_range"),
        HttpError::ContentEncoding => {
            look(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", "Unsupported content coding")
        }
        HttpError::BadDigest(_) => bad("bad_digest"),
        HttpError::DigestMismatch(_) => bad("digest_mismatch"),
        HttpError::Silent => look(StatusCode::REQUEST_TIMEOUT, "upload_silent", "Request timeout"),
        HttpError::Tus { .. } | HttpError::Missing(_) => bad("bad_header"),
        HttpError::TusVersion => Look {
            header: Some((
                HeaderName::from_static("tus-version"),
                HeaderValue::from_static(crate::http_semantics::tus::VERSION),
            )),
            ..look(StatusCode::PRECONDITION_FAILED, "tus_version", "Unsupported version")
        },
        HttpError::MediaType(_) => {
            look(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "Unsupported media type")
        }
        HttpError::NoUpload => look(StatusCode::NOT_FOUND, "upload_not_found", "Upload not found"),
        HttpError::Offset { at } => Look {
            header: Some((HeaderName::from_static("upload-offset"), HeaderValue::from(*at))),
            ..look(StatusCode::CONFLICT, "upload_offset", "Wrong offset")
        },
        HttpError::Locked => look(StatusCode::LOCKED, "upload_locked", "Upload in use"),
        HttpError::TooManyUploads => {
            look(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", "Too many uploads")
        }
        HttpError::NoRoom(_) => look(StatusCode::INSUFFICIENT_STORAGE, "no_space", "No space left"),
        // tus has a status of its own for it.
        HttpError::Checksum => look(
            StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST),
            "checksum_mismatch",
            "Checksum mismatch",
        ),
        HttpError::TooLong => look(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "File too large"),
        HttpError::Format => bad("bad_format"),
        HttpError::Busy => Look {
            header: Some((header::RETRY_AFTER, HeaderValue::from_static("5"))),
            ..look(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy")
        },
    }
}

impl IntoResponse for ApiError {
    /// Only carries the error outwards: the layer that knows the request's id writes the answer and the log.
    fn into_response(self) -> Response {
        let mut response = self.look().status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(action: Action, error: FileError) -> (u16, &'static str, Vec<&'static str>) {
        let Look { status, error, extra, .. } = action.failed()(error).look();
        (status.as_u16(), error, extra.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn faults_have_the_words_of_their_route() {
        let io = |kind: io::ErrorKind| FileError::Io { what: "test", source: Arc::new(kind.into()) };
        let rows = [
            (Action::List, "Failed to list directory"),
            (Action::Read, "Failed to read file"),
            (Action::Write, "Failed to write file"),
            (Action::Upload, "Upload failed"),
            (Action::Download, "Download failed"),
            (Action::Delete, "Delete failed"),
            (Action::Mkdir, "Failed to create directory"),
            (Action::Move, "Move failed"),
        ];
        for (action, text) in rows {
            assert_eq!(looks(action, io(io::ErrorKind::Other)), (500, text, vec![]));
            assert_eq!(looks(action, io(io::ErrorKind::StorageFull)), (507, "No space left", vec![]));
            assert_eq!(looks(action, io(io::ErrorKind::PermissionDenied)).0, 403);
            assert_eq!(looks(action, FileError::Exists).0, 409);
            assert_eq!(looks(action, FileError::Precondition { current: None }).0, 412);
        }
    }

    #[test]
    fn what_is_too_large_says_how_large() {
        let large = || FileError::TooLarge { size: 2, max: 1 };
        let write = (413, "Content too large", vec!["size", "maxSize"]);
        assert_eq!(looks(Action::Write, large()), write);
        assert_eq!(looks(Action::Upload, large()), (413, "File too large", vec!["size", "maxSize"]));
        assert_eq!(looks(Action::Read, large()), (413, "File too large", vec!["size", "maxSize", "hint"]));
    }
}
