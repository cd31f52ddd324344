//! `/api/files/…` in the legacy contract's shapes: its fields and their order, its statuses, its texts.
//!
//! Each route reads its request, then does all of its work in one job on the blocking pool, in which the answer is
//! written as well: a listing or a file can be megabytes of JSON.

mod copy;
mod download;
mod list;
mod mkdir;
mod read;
mod remove;
mod rename;
mod trash;
mod upload;
mod write;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Uri, header};
use percent_encoding::percent_decode;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) use remove::{Removed, removed_example};

use super::body;
use super::table::Route;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::files::Files;
use crate::files::error::FileError;
use crate::files::path::{MAX_PATH_BYTES, WorkspacePath};
use crate::state::App;

/// Two paths, with every character escaped, and room for names and white space.
const MAX_JSON_BYTES: usize = 2 * 6 * MAX_PATH_BYTES + 4096;

/// The routes below `/files`.
pub(super) fn table() -> [Route; 11] {
    [
        Route::at("/files/list").get(list::get, list::describe()),
        Route::at("/files/read").get(read::get, read::describe()),
        Route::at("/files/write").post(write::post, write::describe()),
        Route::at("/files/upload").post(upload::post, upload::describe()),
        Route::at("/files/download").get(download::get, download::describe()),
        // Pages write it with the slash.
        Route::at("/files").also_at("/files/").delete(remove::delete, remove::describe()),
        Route::at("/files/mkdir").post(mkdir::post, mkdir::describe()),
        Route::at("/files/move").post(rename::post, rename::describe()),
        Route::at("/files/copy").post(copy::post, copy::describe()),
        Route::at("/files/trash")
            .get(trash::get, trash::describe_get())
            .delete(trash::delete, trash::describe_delete()),
        Route::at("/files/trash/restore").post(trash::restore, trash::describe_restore()),
    ]
}

/// A parameter of the query, decoded. One that is empty is missing.
pub(super) fn param(uri: &Uri, name: &str) -> Result<Option<String>, ApiError> {
    for pair in uri.query().unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name && !value.is_empty() {
            let spaced = value.replace('+', " ");
            // Not lossily: the result could name another file.
            let text = percent_decode(spaced.as_bytes()).decode_utf8().map_err(|_| HttpError::NotUtf8)?;
            return Ok(Some(text.into_owned()));
        }
    }
    Ok(None)
}

/// A path that is required.
fn path(text: Option<String>, missing: Input) -> Result<WorkspacePath, ApiError> {
    let text = text.filter(|text| !text.is_empty()).ok_or(ApiError::Input(missing))?;
    Ok(WorkspacePath::parse(&text).map_err(FileError::from)?)
}

/// The body of a route that takes paths and little else.
async fn small_json<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = body::collect(body, MAX_JSON_BYTES).await?.map_err(|_size| ApiError::BadJson)?;
    body::object(&bytes)
}

/// Does the work, and answers with its result as JSON.
async fn answer<T: Serialize>(
    app: &App,
    action: Action,
    work: impl FnOnce(&Files) -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let job = app.files.run(move |files| {
        Ok(work(files).and_then(|result| {
            let encoded = serde_json::to_vec(&result);
            encoded.map_err(|error| action.failed()(FileError::from_io("encode", error.into())))
        }))
    });
    let json = job.await.map_err(action.failed())??;
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([content_type], json).into_response())
}
