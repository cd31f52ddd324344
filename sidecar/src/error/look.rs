//! How each error looks from outside: status, stable code, and the legacy contract's text where it has one.

use std::io;

use http::{HeaderName, HeaderValue, StatusCode, header};
use shared::wire::{REFUSAL_HEADER, Refusal};

use super::problem::Size;
use super::{Action, ApiError, HttpError, Input};
use crate::agent_rpc::{MAX_FRAME_BYTES, RpcError};
use crate::files::error::FileError;
use crate::files::path::PathError;
use crate::files::search::ask::AskError;
use crate::http_semantics::range;

/// How an error looks from outside.
pub(super) struct Look {
    pub(super) status: StatusCode,
    /// Stable, for programs.
    pub(super) code: &'static str,
    /// The legacy contract's text where it has one.
    pub(super) error: &'static str,
    pub(super) details: Option<String>,
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    pub(super) size: Size,
}

impl ApiError {
    pub(super) fn look(&self) -> Look {
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
            Self::Search(ask) => search_look(ask),
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

impl Action {
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

    pub(super) const fn text(self) -> &'static str {
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

const fn plain(status: StatusCode, code: &'static str, error: &'static str) -> Look {
    Look {
        status,
        code,
        error,
        details: None,
        header: None,
        size: Size { size: None, max_size: None, hint: None },
    }
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
            let hint = (action == Action::Read).then_some("Use download endpoint for large files");
            let size = Size { size: Some(*size), max_size: Some(*max), hint };
            let error = if action == Action::Write { "Content too large" } else { look.error };
            Look { error, size, ..look }
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

fn search_look(ask: &AskError) -> Look {
    let (code, error, details) = match ask {
        AskError::Empty => ("bad_search", "Query required", ask.to_string()),
        AskError::TooLong | AskError::Parameter(_) => ("bad_search", "Invalid search", ask.to_string()),
        AskError::Regex { explained } => ("bad_regex", "Invalid regular expression", explained.clone()),
        AskError::Glob { explained } => ("bad_glob", "Invalid glob", explained.clone()),
    };
    Look { details: Some(details), ..plain(StatusCode::BAD_REQUEST, code, error) }
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
        HttpError::Conditional(_) | HttpError::OnlyAny => bad("bad_precondition"),
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
        HttpError::Busy | HttpError::BusySearching | HttpError::BusyListening => Look {
            header: Some((header::RETRY_AFTER, HeaderValue::from_static("5"))),
            ..look(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy")
        },
    }
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
