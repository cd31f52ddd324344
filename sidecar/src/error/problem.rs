//! The answer to a request that was refused or failed: a problem of RFC 9457.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use shared::id::RequestId;
use utoipa::ToSchema;

use super::ApiError;
use super::look::Look;

/// The body of every error: a problem of RFC 9457, and what clients have always read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "error": "Precondition failed", "details": "If-Match does not hold", "code": "precondition_failed",
    "requestId": "6f0d1f0e-8a0e-4b57-9a59-6c1c3c1b0d4e", "type": "about:blank",
    "title": "Precondition Failed", "status": 412, "detail": "If-Match does not hold",
    "instance": "urn:x-request-id:6f0d1f0e-8a0e-4b57-9a59-6c1c3c1b0d4e"
}))]
pub struct Problem {
    /// For people, in the words of the legacy contract where it has them.
    error: &'static str,
    /// What exactly is wrong, if more can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<String>,
    /// Stable, for programs.
    code: &'static str,
    /// Names the request in logs.
    request_id: String,
    #[serde(flatten)]
    size: Size,
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// `details`, or else `error`.
    detail: String,
    /// `urn:x-request-id:` and the request's id.
    instance: String,
}

/// What is said of something that is too large.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProblemSize)]
pub(super) struct Size {
    /// Bytes that it has, or that came before it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) size: Option<u64>,
    /// Bytes that it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) max_size: Option<u64>,
    /// What to do instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) hint: Option<&'static str>,
}

impl Look {
    fn problem(self, request_id: &str) -> Problem {
        let Self { status, code, error, details, header: _, size } = self;
        Problem {
            error,
            code,
            request_id: request_id.to_owned(),
            size,
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or(error),
            status: status.as_u16(),
            detail: details.clone().unwrap_or_else(|| error.to_owned()),
            details,
            instance: format!("urn:x-request-id:{request_id}"),
        }
    }
}

impl ApiError {
    /// The stable code in the body.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.look().code
    }

    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.look().status
    }

    /// The text in the body, for people.
    #[must_use]
    pub fn text(&self) -> &'static str {
        self.look().error
    }

    /// The header that only this error has.
    #[must_use]
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.look().header
    }

    /// The whole answer.
    #[must_use]
    pub fn answer(&self, request_id: &RequestId) -> Response {
        let mut look = self.look();
        let (status, header) = (look.status, look.header.take());
        let mut response = (status, Json(look.problem(request_id.as_str()))).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
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
