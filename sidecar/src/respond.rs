//! What every answer of the sidecar has, whoever made it.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use shared::id::RequestId;
use shared::wire::{REQUEST_ID_HEADER, SIDECAR_HEADER};

use crate::error::ApiError;
use crate::{VERSION, random};

/// Writes the body of an error, if the answer is one, then the headers that mark it as ours. The error comes
/// back for the log.
#[must_use]
pub fn finish(mut response: Response, request_id: &RequestId) -> (Response, Option<ApiError>) {
    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        response = error.answer(request_id);
    }
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(SIDECAR_HEADER), HeaderValue::from_static(VERSION));
    // A request id holds nothing that a header could not.
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), value);
    }
    (response, error)
}

/// The layer of the private port, which has no gate.
pub async fn layer(request: Request, next: Next) -> Response {
    finish(next.run(request).await, &random::request_id()).0
}
