//! The preconditions of a request, as an argument of handlers.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::error::{ApiError, HttpError};
use crate::http_semantics::conditional::{Preconditions, Verdict};

/// What the headers ask for. Ones that cannot be read are a 400, before anything else is looked at.
pub(super) struct OfHeaders(pub(super) Preconditions);

impl<S: Sync> FromRequestParts<S> for OfHeaders {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(Preconditions::parse(&parts.headers).map_err(HttpError::from)?))
    }
}

/// For `map_err`: a verdict against a request.
pub(super) fn refused(verdict: Verdict) -> ApiError {
    match verdict {
        Verdict::PreconditionRequired => HttpError::PreconditionRequired.into(),
        Verdict::PreconditionFailed(field) | Verdict::NotModified(field) => {
            HttpError::PreconditionFailed(field.as_str()).into()
        }
        // Nobody asks then.
        Verdict::Proceed => HttpError::PreconditionFailed("").into(),
    }
}
