//! `GET /api/files/download?path=`: a file to be saved. Ranges and preconditions are those of `files/raw`.

use axum::extract::{Request, State};
use axum::response::Response;

use super::{param, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::routes::describe::{Op, PATH, Tag, on_paths, on_reads, text};
use crate::routes::preconditions::OfHeaders;
use crate::routes::raw::{self, Query};
use crate::routes::raw_description;
use crate::state::App;

pub(super) async fn get(
    State(app): State<App>,
    _: Authenticated,
    OfHeaders(preconditions): OfHeaders,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _none) = request.into_parts();
    let path = path(param(&parts.uri, "path")?, Input::Path)?;
    let query = Query { download: true, permanent: false };
    match raw::get(&app, &path, &parts, &preconditions, &query).await {
        Err(ApiError::File(error)) => Err(Action::Download.failed()(error)),
        answer => answer,
    }
}

pub(super) fn describe() -> Op {
    let op = Op::new(Tag::Files, "downloadFile", "Download a file, to be saved")
        .about("As `GET /api/files/raw/{path}?download=1`, in the words of the file browser.")
        .required_query("path", text(), PATH);
    raw_description::describe_read(op)
        .fails([ApiError::Input(Input::Path)])
        .fails_to(Action::Download, [FileError::NotFound, FileError::NotAFile])
        .fails_to(Action::Download, on_paths().into_iter().chain(on_reads()))
}
