//! `POST /api/files/write {path, content, encoding, createDirs, ifMatch}`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::read::MAX_TEXT_BYTES;
use super::{answer, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::meta::Timestamp;
use crate::files::path::WorkspacePath;
use crate::files::{serve_upload, write};
use crate::http_semantics::conditional::Preconditions;
use crate::http_semantics::etag::{EntityTag, TagList};
use crate::routes::body;
use crate::routes::describe::{Op, Tag, on_bodies, on_paths, on_writes};
use crate::routes::preconditions::{OfHeaders, refused};
use crate::state::App;

/// The largest content in base64, with its line breaks escaped, or as text of which every other character is: more
/// is in no text that people write. It is in memory twice while it is stored.
const MAX_BODY_BYTES: usize = 2 * MAX_TEXT_BYTES + 64 * 1024;

/// As browsers and shells write it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file and its new content.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Write {
    #[schema(value_type = WorkspacePath, required)]
    path: Option<String>,
    /// At most 10,485,760 bytes, before any encoding.
    #[schema(required, nullable = false)]
    content: Option<String>,
    /// `base64`, with padding or without, white space ignored; anything else is text.
    #[schema(default = "utf-8")]
    encoding: Option<String>,
    /// Whether folders that are missing are made.
    #[schema(default = true)]
    create_dirs: Option<bool>,
    /// The file's entity tag as it was read, or `*` for any: 412 if it is another now, or none.
    if_match: Option<String>,
}

/// The file as it is now, on the disk.
#[derive(Serialize, ToSchema)]
pub(super) struct Written {
    success: bool,
    path: WorkspacePath,
    /// In bytes.
    size: u64,
    modified: Timestamp,
    /// Always `container`.
    source: &'static str,
    /// The strong entity tag of the new content.
    etag: String,
}

pub(super) async fn post(
    State(app): State<App>,
    _: Authenticated,
    OfHeaders(of_headers): OfHeaders,
    body: Body,
) -> Result<Response, ApiError> {
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
        let preconditions = both(of_headers, request.if_match.as_deref())?;
        let expect = serve_upload::expect(files, &path, &preconditions).map_err(Action::Write.failed())?;
        let expect = expect.map_err(refused)?;
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

/// What the headers ask for, and what the field does: an editor that knows no headers has only the latter.
fn both(mut of_headers: Preconditions, if_match: Option<&str>) -> Result<[Preconditions; 2], ApiError> {
    let tags = match if_match {
        None => return Ok([of_headers, Preconditions::default()]),
        Some("*") => TagList::Any,
        Some(text) => {
            TagList::Tags(vec![EntityTag::parse_lenient(text).ok_or(ApiError::Input(Input::IfMatch))?])
        }
    };
    // The field is one as well.
    of_headers.required = false;
    Ok([of_headers, Preconditions { if_match: Some(tags), ..Preconditions::default() }])
}

pub(super) fn describe() -> Op {
    let request = json!({
        "path": "/root/clawd/a.md", "content": "# Notes\n",
        "ifMatch": "\"b3-ea8f163db38682925e4491c5e58d4bb3\""
    });
    let answer = json!({
        "success": true, "path": "/root/clawd/a.md", "size": 8, "modified": "2026-01-01T00:00:00.250Z",
        "source": "container", "etag": "\"b3-2d0bf8f9d5d3c5a3c6d1ed6b5a1a5e1f\""
    });
    let places = [FileError::NotFound, FileError::NotAFile, FileError::NotADirectory, FileError::Protected];
    Op::new(Tag::Files, "writeFile", "Write a file from JSON")
        .about(
            "Durable and at once: readers see the old file or the new one. An editor that sends the `etag` of what \
             it has read never overwrites what the agent wrote meanwhile.",
        )
        .write_preconditions("the file")
        .json_body::<Write>("At most 21,037,056 bytes as it is sent.", request)
        .json::<Written>(StatusCode::OK, "It is on the disk.", answer)
        .fails([ApiError::BadJson, ApiError::Input(Input::PathAndContent)])
        .fails([ApiError::Input(Input::Base64), ApiError::Input(Input::IfMatch), too_large(20_000_000)])
        .fails(on_bodies())
        .fails_to(Action::Write, places.into_iter().chain(on_paths()).chain(on_writes()))
}
