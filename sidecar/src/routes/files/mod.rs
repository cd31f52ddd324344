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

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use http::{HeaderValue, Uri, header};
use percent_encoding::percent_decode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::files::Files;
use crate::files::error::FileError;
use crate::files::path::{MAX_PATH_BYTES, WorkspacePath};
use crate::state::App;

/// Two paths, with every character escaped, and room for names and white space.
const MAX_JSON_BYTES: usize = 2 * 6 * MAX_PATH_BYTES + 4096;

/// Adds the routes below `prefix`.
pub(super) fn mount(router: Router<App>, prefix: &str) -> Router<App> {
    let at = |route: &str| format!("{prefix}/files{route}");
    router
        .route(&at("/list"), get(list::get))
        .route(&at("/read"), get(read::get))
        .route(&at("/write"), post(write::post))
        .route(&at("/upload"), post(upload::post))
        .route(&at("/download"), get(download::get))
        // Pages write it with the slash.
        .route(&at(""), delete(remove::delete))
        .route(&at("/"), delete(remove::delete))
        .route(&at("/mkdir"), post(mkdir::post))
        .route(&at("/move"), post(rename::post))
        .route(&at("/copy"), post(copy::post))
        .route(&at("/trash"), get(trash::get).delete(trash::delete))
        .route(&at("/trash/restore"), post(trash::restore))
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
