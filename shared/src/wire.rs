//! What travels between edge, sidecar and legacy gate besides the proofs: header names, typed refusals and the
//! error body.

use serde::{Deserialize, Serialize};

/// Carries a ticket from the edge to a sidecar.
pub const TICKET_HEADER: &str = "x-automna-ticket";

/// Carries a permit from the edge to the legacy side. Today's legacy Worker ignores it; the gate requires it.
pub const PERMIT_HEADER: &str = "x-automna-permit";

/// Names the request in answers and logs of every part.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Marks an answer as the sidecar's own. Without it, a 5xx came from the platform's proxy.
pub const SIDECAR_HEADER: &str = "x-automna-sidecar";

/// Carries a [`Refusal`] from a back end to the edge, which routes again; it never reaches a client.
pub const REFUSAL_HEADER: &str = "x-automna-refusal";

/// Prefix of the headers above. What a client sends under it is dropped.
pub const HEADER_PREFIX: &str = "x-automna-";

/// Why a back end will not take a request that the edge has routed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ticket's epoch is older than one that the back end has seen: the edge routed by an old lease.
    StaleEpoch,
    /// The back end may not serve clients now.
    NotServing,
}

impl Refusal {
    /// The value of [`REFUSAL_HEADER`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StaleEpoch => "stale-epoch",
            Self::NotServing => "not-serving",
        }
    }

    /// Reads [`REFUSAL_HEADER`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "stale-epoch" => Some(Self::StaleEpoch),
            "not-serving" => Some(Self::NotServing),
            _ => None,
        }
    }
}

/// The body of every error that we answer with ourselves. `error` and `details` carry the legacy contract's
/// texts where it has them; `code` is stable and for programs; `requestId` is for whoever asks for help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    pub error: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<String>,
    pub code: String,
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_round_trip() {
        for refusal in [Refusal::StaleEpoch, Refusal::NotServing] {
            assert_eq!(Refusal::parse(refusal.as_str()), Some(refusal));
        }
        assert_eq!(Refusal::parse("anything"), None);
    }

    #[test]
    fn the_error_body_begins_with_the_contracts_fields() {
        let body = ErrorBody {
            error: "Unauthorized".into(),
            details: Some("URL expired".into()),
            code: "url_expired".into(),
            request_id: "r".into(),
        };
        let text = serde_json::to_string(&body).unwrap();
        assert_eq!(
            text,
            r#"{"error":"Unauthorized","details":"URL expired","code":"url_expired","requestId":"r"}"#
        );
    }
}
