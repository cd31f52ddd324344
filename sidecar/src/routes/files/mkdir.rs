//! `POST /api/files/mkdir {path}`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::mkdir::mkdir;
use crate::files::path::WorkspacePath;
use crate::state::App;

#[derive(Deserialize)]
struct Mkdir {
    path: Option<String>,
}

#[derive(Serialize)]
struct Made {
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
