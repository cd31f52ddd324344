//! `GET /api/files/read?path=&encoding=`: a file's text, or its bytes in base64.

use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{answer, param, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::meta::Timestamp;
use crate::files::path::WorkspacePath;
use crate::files::read;
use crate::routes::describe::{Op, PATH, Tag, choice, on_paths, on_reads, text};
use crate::state::App;

/// The contract's limit for what is read and written as JSON.
pub(super) const MAX_TEXT_BYTES: usize = 10 * 1024 * 1024;

/// A file and its content.
#[derive(Serialize, ToSchema)]
#[schema(as = FileContent)]
pub(super) struct Read {
    path: WorkspacePath,
    /// Text, in which what is not UTF-8 is replaced; or Base64 on one line.
    content: String,
    /// In bytes, before any encoding.
    size: u64,
    modified: Timestamp,
    /// As asked for.
    encoding: String,
    /// Always `container`.
    source: &'static str,
    /// A strong entity tag, for `ifMatch` and `If-Match`.
    etag: String,
}

pub(super) async fn get(State(app): State<App>, _: Authenticated, uri: Uri) -> Result<Response, ApiError> {
    let path = path(param(&uri, "path")?, Input::Path)?;
    let encoding = param(&uri, "encoding")?.unwrap_or_else(|| "utf-8".to_owned());
    answer(&app, Action::Read, move |files| {
        let found = read::whole(files, &path, MAX_TEXT_BYTES as u64).map_err(Action::Read.failed())?;
        let size = found.bytes.len() as u64;
        let content = if encoding == "base64" {
            STANDARD.encode(&found.bytes)
        } else {
            // Text is taken over as it is; only what is not UTF-8 is copied.
            String::from_utf8(found.bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        let (modified, etag) = (found.meta.modified(), found.etag.to_string());
        Ok(Read { path, content, size, modified, encoding, source: "container", etag })
    })
    .await
}

pub(super) fn describe() -> Op {
    let example = json!({
        "path": "/root/clawd/a.md", "content": "# Notes\n", "size": 8,
        "modified": "2026-01-01T00:00:00.250Z", "encoding": "utf-8", "source": "container",
        "etag": "\"b3-ea8f163db38682925e4491c5e58d4bb3\""
    });
    let too_large = FileError::TooLarge { size: 20_000_000, max: MAX_TEXT_BYTES as u64 };
    Op::new(Tag::Files, "readFile", "Read a file into JSON")
        .about("For files of at most 10,485,760 bytes. Larger ones, and parts of files: `/api/files/raw/{path}`.")
        .required_query("path", text(), PATH)
        .query("encoding", choice(["utf-8", "base64"]), "What `content` is to be. `utf-8` if it is missing.")
        .query("fresh", choice(["true"]), "Without effect: nothing is kept.")
        .json::<Read>(StatusCode::OK, "The file.", example)
        .fails([ApiError::Input(Input::Path)])
        .fails_to(Action::Read, [FileError::NotFound, FileError::NotAFile, too_large])
        .fails_to(Action::Read, on_paths().into_iter().chain(on_reads()))
}
