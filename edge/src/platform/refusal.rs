//! How an object says no to the Worker, which turns it into the error body: that needs the request's id.

use serde::{Deserialize, Serialize};
use worker::{Response, ResponseBuilder, Result};

use crate::error::EdgeError;

/// Status of every refusal; which one it is stands in the body.
const STATUS: u16 = 400;

#[derive(Serialize, Deserialize)]
pub(super) enum Refusal {
    BadRequest(String),
    Conflict { expected: u64, actual: u64 },
    Moving,
    NotFound,
}

impl Refusal {
    pub(super) fn answer(&self) -> Result<Response> {
        let body = serde_json::to_vec(self)?;
        Ok(ResponseBuilder::new().with_status(STATUS).fixed(body))
    }

    /// Reads an object's answer that is not 200. One that is no refusal is a fault.
    pub(super) fn read(text: &str) -> EdgeError {
        match serde_json::from_str(text) {
            Ok(Self::BadRequest(text)) => EdgeError::BadRequest(text),
            Ok(Self::Conflict { expected, actual }) => EdgeError::Conflict { expected, actual },
            Ok(Self::Moving) => EdgeError::Moving,
            Ok(Self::NotFound) => EdgeError::NotFound,
            Err(_) => EdgeError::Internal,
        }
    }
}
