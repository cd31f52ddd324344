//! Every way in which the sidecar refuses or fails a request, and the one place that turns it into an answer.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use shared::id::RequestId;
use shared::ticket::TicketError;
use shared::wire::{ErrorBody, REFUSAL_HEADER, Refusal};

use crate::agent_rpc::{MAX_FRAME_BYTES, RpcError};
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
    #[error("the agent does not answer: {0}")]
    Agent(#[source] Arc<AgentError>),
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

/// How an error looks from outside.
struct Look {
    status: StatusCode,
    /// Stable, for programs.
    code: &'static str,
    /// The legacy contract's text where it has one.
    error: &'static str,
    details: Option<String>,
    header: Option<(HeaderName, &'static str)>,
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
        let Look { status, code, error, details, header } = self.look();
        let body = ErrorBody {
            error: error.to_owned(),
            details,
            code: code.to_owned(),
            request_id: request_id.as_str().to_owned(),
        };
        let mut response = (status, Json(body)).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn look(&self) -> Look {
        let look = |status, code, error| Look { status, code, error, details: None, header: None };
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
                header: Some((HeaderName::from_static(REFUSAL_HEADER), Refusal::StaleEpoch.as_str())),
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
                header: Some((header::ALLOW, "GET,HEAD")),
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
                header: Some((header::RETRY_AFTER, "2")),
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
                    header: Some((header::RETRY_AFTER, "1")),
                    ..look(StatusCode::SERVICE_UNAVAILABLE, "agent_unavailable", "Agent unavailable")
                },
            },
            Self::Agent(_) => Look {
                header: Some((header::RETRY_AFTER, "1")),
                ..look(StatusCode::SERVICE_UNAVAILABLE, "agent_unavailable", "Agent unavailable")
            },
        }
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
