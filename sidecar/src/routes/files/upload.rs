//! `POST /api/files/upload`: a form with `file` and `path`, in either order. The file goes to the disk as it comes.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use bytes::Bytes;
use futures_util::Stream;
use http::{StatusCode, header};
use multer::{Field, Multipart};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::path;
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::etag::Expect;
use crate::files::path::{MAX_PATH_BYTES, WorkspacePath};
use crate::files::write::Draft;
use crate::routes::body::MAX_DRAINED_BYTES;
use crate::routes::describe::{Op, Tag, on_bodies, on_paths, on_writes};
use crate::routes::raw::next_frame;
use crate::state::App;

/// The contract's limit.
const MAX_UPLOAD_BYTES: u64 = 50 * 1024 * 1024;

/// What is read of a form, whatever is in it: the largest file, the form around it, and what is thrown away so that
/// the client comes to read why.
const MAX_FORM_BYTES: u64 = MAX_UPLOAD_BYTES + 64 * 1024 + MAX_DRAINED_BYTES as u64;

/// The form's fields, in any order; of each, the first counts.
#[derive(ToSchema)]
#[schema(as = UploadForm)]
pub(super) struct Fields {
    /// At most 52,428,800 bytes.
    #[schema(value_type = String, format = Binary)]
    #[expect(dead_code, reason = "only described: the form is read as a stream")]
    file: (),
    /// Where the file is to be.
    #[expect(dead_code, reason = "only described: the form is read as a stream")]
    path: WorkspacePath,
}

/// The file as it is now, on the disk.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Uploaded {
    success: bool,
    path: WorkspacePath,
    /// In bytes.
    size: u64,
    /// As the form says; `application/octet-stream` if it says nothing.
    mime_type: String,
}

/// A file that has come whole.
struct Incoming {
    draft: Draft,
    mime_type: String,
}

pub(super) async fn post(
    State(app): State<App>,
    _: Authenticated,
    request: Request,
) -> Result<Response, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(|text| multer::parse_boundary(text).ok());
    let boundary = boundary.ok_or(ApiError::Input(Input::Form))?;
    let mut form = Multipart::new(bounded(request.into_body()), boundary);
    let (mut incoming, mut target) = (None, None);
    while let Some(field) = form.next_field().await.map_err(form_error)? {
        match field.name() {
            Some("file") if incoming.is_none() => incoming = Some(receive(&app, field).await?),
            Some("path") if target.is_none() => target = Some(text(field).await?),
            _ => {}
        }
    }
    let Incoming { draft, mime_type } = incoming.ok_or(ApiError::Input(Input::FileAndPath))?;
    let path = path(target, Input::FileAndPath)?;
    let size = draft.len();
    draft.commit(&path, true, Expect::Anything).await.map_err(Action::Upload.failed())?;
    Ok(Json(Uploaded { success: true, path, size, mime_type }).into_response())
}

/// The body's bytes, up to the most that is read of any form.
fn bounded(body: Body) -> impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static {
    futures_util::stream::unfold((body.into_data_stream(), 0_u64), |(mut frames, seen)| async move {
        let next = next_frame(&mut frames).await.transpose()?;
        let seen = seen.saturating_add(next.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let next = if seen > MAX_FORM_BYTES { Err(too_large(seen)) } else { next };
        Some((next, (frames, seen)))
    })
}

/// Takes the file. What is too long is read to its end, without being kept.
async fn receive(app: &App, mut field: Field<'_>) -> Result<Incoming, ApiError> {
    let mime_type = field.content_type().map(ToString::to_string);
    let mime_type = mime_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    let draft = Draft::anywhere(&app.files, MAX_UPLOAD_BYTES).await.map_err(Action::Upload.failed())?;
    let (mut draft, mut size) = (Some(draft), 0_u64);
    while let Some(bytes) = field.chunk().await.map_err(form_error)? {
        size = size.saturating_add(bytes.len() as u64);
        if size > MAX_UPLOAD_BYTES {
            draft = None;
        }
        if let Some(draft) = &mut draft {
            draft.push(bytes).await.map_err(Action::Upload.failed())?;
        }
    }
    let draft = draft.ok_or_else(|| too_large(size))?;
    Ok(Incoming { draft, mime_type })
}

async fn text(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(form_error)? {
        // One byte more than a path can have is enough to find it too long.
        let room = (MAX_PATH_BYTES + 1).saturating_sub(bytes.len()).min(chunk.len());
        bytes.extend_from_slice(chunk.get(..room).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| ApiError::Input(Input::Form))
}

fn too_large(size: u64) -> ApiError {
    Action::Upload.failed()(FileError::TooLarge { size, max: MAX_UPLOAD_BYTES })
}

/// What the form's reader met: an error of ours from below, or a form that is none.
fn form_error(error: multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(source) = error
        && let Ok(ours) = source.downcast::<ApiError>()
    {
        return *ours;
    }
    ApiError::Input(Input::Form)
}

pub(super) fn describe() -> Op {
    let answer = json!({
        "success": true, "path": "/root/clawd/photo.png", "size": 1024, "mimeType": "image/png"
    });
    let places = [FileError::NotAFile, FileError::NotADirectory, FileError::Protected, FileError::NotFound];
    Op::new(Tag::Files, "uploadFile", "Upload a file as a form")
        .about(
            "At most 52,428,800 bytes. Larger files: `PUT /api/files/raw/{path}`, or `/api/files/tus` if they are \
             to be resumable. A file that is there is replaced.",
        )
        .form_body::<Fields>("The file and its whole path.")
        .json::<Uploaded>(StatusCode::OK, "It is on the disk.", answer)
        .fails([ApiError::Input(Input::Form), ApiError::Input(Input::FileAndPath), too_large(60_000_000)])
        .fails(on_bodies())
        .fails_to(Action::Upload, places.into_iter().chain(on_paths()).chain(on_writes()))
}
