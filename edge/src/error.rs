//! Every answer of the edge that is an error, and its one way to JSON.

use serde::Serialize;
use shared::id::RequestId;
use shared::signed_url::AuthError;
use shared::wire::ErrorBody;

use crate::dashboard::Waiting;
use crate::jwt::TokenError;

/// What went wrong, from the client's point of view. Status, code and text follow from the variant; the texts
/// are the legacy contract's where it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeError {
    /// A proof was shown and does not hold.
    Auth(AuthError),
    /// No proof was shown to a route that answers with a text of its own.
    NoProof(NoProofText),
    /// A dashboard call with a token that does not hold.
    Token(TokenError),
    /// A dashboard call without one.
    NoToken,
    /// A dashboard call whose token is of another user than the one that it names.
    ForeignUser,
    /// A cookie-borne write or upgrade from a page that may not use the cookie.
    ForeignOrigin,
    /// The signing secret or the admin bearer is not configured.
    NotConfigured { missing: &'static str },
    /// No or the wrong bearer for `/_ops`.
    NotOperator,
    /// The session key of a history request has characters that it may not have.
    InvalidSessionKey,
    /// No such route, or one that is closed to users.
    NotFound,
    /// The route exists, for other methods.
    MethodNotAllowed { allow: &'static str },
    /// A request body that is not what the route takes. The text says what is wrong with it.
    BadRequest(String),
    /// A body over the limit of an operator's route.
    TooLarge { limit_bytes: usize },
    /// A compare-and-set met another version.
    Conflict { expected: u64, actual: u64 },
    /// The user is between two back ends.
    Moving,
    /// A dashboard call for a user whose agent is not there yet.
    NotReady(Waiting),
    /// The user's object did not answer, so nobody may write.
    PlacementUnavailable,
    /// The placement changed while the request was on its way, and it cannot be sent a second time.
    PlacementChanged,
    /// A legacy answer came back after its lease had ended and the user had moved: it may have been applied.
    OutcomeUnknown,
    /// The back end cannot be reached.
    BackendUnavailable { backend: &'static str },
    /// A panic, or an answer from the runtime that should not exist.
    Internal,
}

/// What routes say when they are asked without a proof (contract A.2, second table).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoProofText {
    /// `GET /api/history`
    WithNames,
    /// `GET /api/keepalive`, `POST /api/chat/send`
    Short,
    /// `GET /ws/api/history`, `POST /api/reset-workspace`
    NotAuthenticated,
}

impl NoProofText {
    const fn text(self) -> &'static str {
        match self {
            Self::WithNames => "Missing auth params (userId, exp, sig)",
            Self::Short => "Missing auth params",
            Self::NotAuthenticated => "Not authenticated",
        }
    }
}

impl EdgeError {
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Auth(_) | Self::NoProof(_) | Self::NotOperator | Self::Token(_) | Self::NoToken => 401,
            Self::ForeignOrigin | Self::ForeignUser => 403,
            Self::InvalidSessionKey | Self::BadRequest(_) => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::Conflict { .. } => 409,
            Self::TooLarge { .. } => 413,
            Self::NotConfigured { .. }
            | Self::Moving
            | Self::NotReady(_)
            | Self::PlacementUnavailable
            | Self::PlacementChanged
            | Self::OutcomeUnknown
            | Self::BackendUnavailable { .. } => 503,
            Self::Internal => 500,
        }
    }

    /// Stable, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Auth(error) => error.code(),
            Self::NoProof(_) => "missing_params",
            Self::Token(error) => error.code(),
            Self::NoToken => "missing_token",
            Self::ForeignUser => "foreign_user",
            Self::ForeignOrigin => "foreign_origin",
            Self::NotConfigured { .. } => "not_configured",
            Self::NotOperator => "not_operator",
            Self::InvalidSessionKey => "invalid_session_key",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BadRequest(_) => "bad_request",
            Self::TooLarge { .. } => "too_large",
            Self::Conflict { .. } => "version_conflict",
            Self::Moving => "moving",
            Self::NotReady(waiting) => waiting.as_str(),
            Self::PlacementUnavailable => "placement_unavailable",
            Self::PlacementChanged => "placement_changed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::BackendUnavailable { .. } => "backend_unavailable",
            Self::Internal => "internal",
        }
    }

    /// Seconds after which a retry makes sense; `None` if it does not.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::Moving => Some(2),
            Self::NotReady(waiting) => Some(waiting.retry_after_seconds()),
            Self::PlacementUnavailable | Self::PlacementChanged | Self::OutcomeUnknown => Some(1),
            Self::BackendUnavailable { .. } => Some(2),
            Self::Auth(_)
            | Self::NoProof(_)
            | Self::Token(_)
            | Self::NoToken
            | Self::ForeignUser
            | Self::ForeignOrigin
            | Self::NotConfigured { .. }
            | Self::NotOperator
            | Self::InvalidSessionKey
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BadRequest(_)
            | Self::TooLarge { .. }
            | Self::Conflict { .. }
            | Self::Internal => None,
        }
    }

    fn texts(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Auth(error) => ("Unauthorized", Some(error.to_string())),
            Self::NoProof(text) => (text.text(), None),
            Self::NotOperator => {
                ("Unauthorized", Some("Send the admin token as Authorization: Bearer".to_owned()))
            }
            Self::Token(error) => ("Unauthorized", Some(error.to_string())),
            Self::NoToken => {
                ("Unauthorized", Some("Send the session's token as Authorization: Bearer".to_owned()))
            }
            Self::ForeignUser => {
                ("Forbidden", Some("A session's token speaks for its own user only".to_owned()))
            }
            Self::NotReady(waiting) => ("Temporarily unavailable", Some(waiting.text().to_owned())),
            Self::ForeignOrigin => {
                ("Forbidden", Some("A session cookie is accepted from our own pages only".to_owned()))
            }
            Self::InvalidSessionKey => ("Invalid session key", None),
            Self::NotConfigured { missing } => ("Configuration error", Some(format!("{missing} is not set"))),
            Self::NotFound => ("Not found", None),
            Self::MethodNotAllowed { allow } => {
                ("Method not allowed", Some(format!("This route takes {allow}")))
            }
            Self::BadRequest(text) => ("Bad request", Some(text.clone())),
            Self::TooLarge { limit_bytes } => {
                ("Content too large", Some(format!("The limit is {limit_bytes} bytes")))
            }
            Self::Conflict { expected, actual } => (
                "Version conflict",
                Some(format!("The policy is at version {actual}, not {expected}; read it again")),
            ),
            Self::Moving => {
                ("Temporarily unavailable", Some("The agent is being moved; nothing was changed".to_owned()))
            }
            Self::PlacementUnavailable => {
                ("Temporarily unavailable", Some("Nothing was changed; please try again".to_owned()))
            }
            Self::PlacementChanged => (
                "Temporarily unavailable",
                Some("The agent has just been moved; nothing was changed, please try again".to_owned()),
            ),
            Self::OutcomeUnknown => (
                "Temporarily unavailable",
                Some(
                    "The agent was moved meanwhile; whether the request was carried out is not known"
                        .to_owned(),
                ),
            ),
            Self::BackendUnavailable { backend } => {
                ("Temporarily unavailable", Some(format!("The agent's {backend} does not answer")))
            }
            Self::Internal => ("Internal error", None),
        }
    }

    /// The answer's body.
    #[must_use]
    pub fn body(&self, request_id: &RequestId) -> String {
        let (error, details) = self.texts();
        let body = ErrorBody {
            error: error.to_owned(),
            details,
            code: self.code().to_owned(),
            request_id: request_id.as_str().to_owned(),
        };
        let body = Body {
            error: body,
            status: if let Self::NotReady(waiting) = self { Some(waiting.as_str()) } else { None },
            needs_provisioning: *self == Self::NotReady(Waiting::NotProvisioned),
        };
        // A few strings always serialise; the fallback keeps this function total.
        serde_json::to_string(&body)
            .unwrap_or_else(|_| r#"{"error":"Internal error","code":"internal"}"#.into())
    }
}

/// The error's body, with what the dashboard's front end looks for besides.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(flatten)]
    error: ErrorBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_provisioning: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let id: RequestId = "req-12345".parse().unwrap();
        let rows = [
            (
                EdgeError::Auth(AuthError::Expired),
                401,
                r#"{"error":"Unauthorized","details":"URL expired","code":"url_expired","requestId":"req-12345"}"#,
            ),
            (
                EdgeError::NoProof(NoProofText::Short),
                401,
                r#"{"error":"Missing auth params","code":"missing_params","requestId":"req-12345"}"#,
            ),
            (
                EdgeError::NotConfigured { missing: "MOLTBOT_SIGNING_SECRET" },
                503,
                r#"{"error":"Configuration error","details":"MOLTBOT_SIGNING_SECRET is not set","code":"not_configured","requestId":"req-12345"}"#,
            ),
            (
                EdgeError::InvalidSessionKey,
                400,
                r#"{"error":"Invalid session key","code":"invalid_session_key","requestId":"req-12345"}"#,
            ),
        ];
        let rows = rows.into_iter().chain([
            (
                EdgeError::Token(TokenError::Expired),
                401,
                r#"{"error":"Unauthorized","details":"The token has expired","code":"token_expired","requestId":"req-12345"}"#,
            ),
            (
                EdgeError::NotReady(Waiting::NotProvisioned),
                503,
                r#"{"error":"Temporarily unavailable","details":"There is no machine for this user yet","code":"not_provisioned","requestId":"req-12345","status":"not_provisioned","needsProvisioning":true}"#,
            ),
            (
                EdgeError::NotReady(Waiting::Starting),
                503,
                r#"{"error":"Temporarily unavailable","details":"The machine is starting","code":"starting","requestId":"req-12345","status":"starting"}"#,
            ),
        ]);
        for (error, status, body) in rows {
            assert_eq!((error.status(), error.body(&id).as_str()), (status, body));
        }
    }
}
