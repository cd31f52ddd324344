//! `POST /api/files/mkdir {path}`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::mkdir::mkdir;
use crate::files::path::WorkspacePath;
use crate::routes::describe::{Op, Tag, on_bodies, on_paths, on_writes};
use crate::state::App;

/// The folder to make.
#[derive(Deserialize, ToSchema)]
pub(super) struct Mkdir {
    #[schema(value_type = WorkspacePath, required)]
    path: Option<String>,
}

/// The folder that is there now.
#[derive(Serialize, ToSchema)]
pub(super) struct Made {
    success: bool,
    path: WorkspacePath,
}

pub(super) async fn post(State(app): State<App>, _: Authenticated, body: Body) -> Result<Response, ApiError> {
    let request: Mkdir = small_json(body).await?;
    let path = path(request.path, Input::Path)?;
    answer(&app, Action::Mkdir, move |files| {
        mkdir(files, &path).map_err(Action::Mkdir.failed())?;
        Ok(Made { success: true, path })
    })
    .await
}

pub(super) fn describe() -> Op {
    let folder = json!({ "path": "/root/clawd/notes" });
    Op::new(Tag::Files, "makeFolder", "Make a folder")
        .about("With its parents. A folder that is there already is a success.")
        .json_body::<Mkdir>("At most 53,248 bytes as it is sent.", folder)
        .json::<Made>(StatusCode::OK, "It is there.", json!({ "success": true, "path": "/root/clawd/notes" }))
        .fails([ApiError::BadJson, ApiError::Input(Input::Path)])
        .fails(on_bodies())
        .fails_to(Action::Mkdir, [FileError::Exists, FileError::NotADirectory, FileError::Protected])
        .fails_to(Action::Mkdir, on_paths().into_iter().chain(on_writes()))
}
