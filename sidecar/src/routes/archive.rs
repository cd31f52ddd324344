//! `GET /api/files/archive?path=…&format=zip|tar|tar.gz`: a folder as one download. Without a path, the whole
//! workspace; without a format, zip.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, Uri, header};

use super::describe::{Op, PATH, Tag, choice, on_paths, on_reads, text};
use super::files::param;
use crate::auth::Authenticated;
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::files::path::WorkspacePath;
use crate::files::serve_archive::{self, Format};
use crate::http_semantics::disposition;
use crate::state::App;

/// What the workspace itself is called in its archive.
const ROOT_NAME: &str = "workspace";

pub(super) async fn get(
    State(app): State<App>,
    _auth: Authenticated,
    method: Method,
    uri: Uri,
) -> Result<Response, ApiError> {
    let path = match param(&uri, "path")? {
        None => WorkspacePath::root(),
        Some(text) => WorkspacePath::parse(&text).map_err(FileError::from)?,
    };
    let (format, extension, media_type) = match param(&uri, "format")?.as_deref() {
        None | Some("zip") => (Format::Zip, "zip", "application/zip"),
        Some("tar") => (Format::Tar, "tar", "application/x-tar"),
        Some("tar.gz") => (Format::TarGz, "tar.gz", "application/gzip"),
        Some(_) => return Err(HttpError::Format.into()),
    };
    let folder = path.clone();
    app.files.run(move |files| files.root.open_dir(&folder)).await?;
    let top = path.name().unwrap_or(ROOT_NAME).to_owned();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_DISPOSITION, disposition::attachment(format!("{top}.{extension}").as_bytes())),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
    ];
    if method == Method::HEAD {
        return Ok(headers.into_response());
    }
    let permit = app.archives.clone().try_acquire_owned().map_err(|_| HttpError::Busy)?;
    let chunks = serve_archive::start(app.files.clone(), path, format, top, permit)?;
    let chunks =
        futures_util::stream::unfold(chunks, async |mut chunks| Some((chunks.recv().await?, chunks)));
    Ok((headers, Body::from_stream(chunks)).into_response())
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Files, "archiveFolder", "Download a folder as an archive")
        .about(
            "Made while it is sent, so its length is not known before. Links and special files are left out; what \
             was left out stands in `automna-skipped.txt`. At most 4 at a time.",
        )
        .query("path", text(), &format!("{PATH} The workspace itself if it is missing."))
        .query("format", choice(["zip", "tar", "tar.gz"]), "`zip` if it is missing.")
        .bytes(StatusCode::OK, "The archive.", &["application/zip", "application/x-tar", "application/gzip"])
        .with_header("Content-Disposition", text(), "With the name of the folder.")
        .fails([ApiError::BadPath, HttpError::Format.into(), HttpError::Busy.into()])
        .fails([FileError::NotFound, FileError::NotADirectory].map(ApiError::from))
        .fails(on_paths().into_iter().chain(on_reads()).map(ApiError::from))
}
