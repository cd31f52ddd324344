//! `GET /api/files/read?path=&encoding=`: a file's text, or its bytes in base64.

use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde::Serialize;

use super::{answer, param, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::meta::Timestamp;
use crate::files::path::WorkspacePath;
use crate::files::read;
use crate::state::App;

/// The contract's limit for what is read and written as JSON.
pub(super) const MAX_TEXT_BYTES: usize = 10 * 1024 * 1024;

#[derive(Serialize)]
struct Read {
    path: WorkspacePath,
    content: String,
    size: u64,
    modified: Timestamp,
    encoding: String,
    source: &'static str,
    /// For `ifMatch`.
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
