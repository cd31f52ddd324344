//! `POST /api/files/write {path, content, encoding, createDirs, ifMatch}`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use super::read::MAX_TEXT_BYTES;
use super::{answer, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::etag::{ETag, Expect};
use crate::files::meta::Timestamp;
use crate::files::path::WorkspacePath;
use crate::files::write;
use crate::routes::body;
use crate::state::App;

/// The largest content in base64, with its line breaks escaped, or as text of which every other character is: more
/// is in no text that people write. It is in memory twice while it is stored.
const MAX_BODY_BYTES: usize = 2 * MAX_TEXT_BYTES + 64 * 1024;

/// As browsers and shells write it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Write {
    path: Option<String>,
    content: Option<String>,
    encoding: Option<String>,
    create_dirs: Option<bool>,
    if_match: Option<String>,
}

#[derive(Serialize)]
struct Written {
    success: bool,
    path: WorkspacePath,
    size: u64,
    modified: Timestamp,
    source: &'static str,
    etag: String,
}

pub(super) async fn post(State(app): State<App>, _: Authenticated, body: Body) -> Result<Response, ApiError> {
    let body = body::collect(body, MAX_BODY_BYTES).await?.map_err(too_large)?;
    answer(&app, Action::Write, move |files| {
        let request: Write = body::object(&body)?;
        drop(body);
        let content = request.content.ok_or(ApiError::Input(Input::PathAndContent))?;
        let path = path(request.path, Input::PathAndContent)?;
        let content = if request.encoding.as_deref() == Some("base64") {
            decode(content)?
        } else {
            content.into_bytes()
        };
        if content.len() > MAX_TEXT_BYTES {
            return Err(too_large(content.len() as u64));
        }
        let expect = expect(request.if_match.as_deref())?;
        let make_parents = request.create_dirs.unwrap_or(true);
        let written = write::bytes(files, &path, &content, make_parents, &expect);
        let written = written.map_err(Action::Write.failed())?;
        Ok(Written {
            success: true,
            path,
            size: written.meta.size(),
            modified: written.meta.modified(),
            source: "container",
            etag: written.etag.to_string(),
        })
    })
    .await
}

fn too_large(size: u64) -> ApiError {
    Action::Write.failed()(FileError::TooLarge { size, max: MAX_TEXT_BYTES as u64 })
}

fn decode(content: String) -> Result<Vec<u8>, ApiError> {
    let mut plain = content;
    plain.retain(|c| !c.is_ascii_whitespace());
    BASE64.decode(plain).map_err(|_| ApiError::Input(Input::Base64))
}

fn expect(if_match: Option<&str>) -> Result<Expect, ApiError> {
    match if_match {
        None => Ok(Expect::Anything),
        Some("*") => Ok(Expect::Present),
        Some(text) => {
            let tag = ETag::parse(text).ok_or(ApiError::Input(Input::IfMatch))?;
            Ok(Expect::OneOf(vec![tag]))
        }
    }
}
