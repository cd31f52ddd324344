//! Bodies that are taken whole, up to a bound.

use axum::body::Body;
use serde::de::DeserializeOwned;

use super::raw::next_frame;
use crate::error::ApiError;

/// What is read of a larger body and thrown away, so that the client comes to read why, instead of finding the
/// connection closed while it writes. After that it is closed.
pub(super) const MAX_DRAINED_BYTES: usize = 16 * 1024 * 1024;

/// The body, if it has at most `max` bytes; else how many have come.
pub(super) async fn collect(body: Body, max: usize) -> Result<Result<Vec<u8>, u64>, ApiError> {
    let (mut kept, mut length) = (Vec::new(), 0_usize);
    let mut frames = body.into_data_stream();
    while let Some(bytes) = next_frame(&mut frames).await? {
        length = length.saturating_add(bytes.len());
        if length <= max {
            kept.extend_from_slice(&bytes);
        } else if length > max.saturating_add(MAX_DRAINED_BYTES) {
            break;
        } else {
            kept = Vec::new();
        }
    }
    Ok(if length > max { Err(length as u64) } else { Ok(kept) })
}

/// Reads a JSON object. serde would also fill the fields from a list, in their order.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::BadJson);
    }
    serde_json::from_slice(json).map_err(|_| ApiError::BadJson)
}
