//! `GET | DELETE /api/files/trash`: what is in it; everything in it, for good.
//! `POST /api/files/trash/restore {trashPath, to}`: back to where it was, or to `to`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::path::WorkspacePath;
use crate::files::trash::{self, Item};
use crate::state::App;

#[derive(Serialize)]
struct Trash {
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Emptied {
    success: bool,
    removed: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restore {
    trash_path: Option<String>,
    to: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    success: bool,
    path: WorkspacePath,
    trash_path: WorkspacePath,
}

pub(super) async fn get(State(app): State<App>, _: Authenticated) -> Result<Response, ApiError> {
    answer(&app, Action::Trash, |files| {
        Ok(Trash { items: trash::list(files).map_err(Action::Trash.failed())? })
    })
    .await
}

pub(super) async fn delete(State(app): State<App>, _: Authenticated) -> Result<Response, ApiError> {
    answer(&app, Action::Delete, |files| {
        let removed = trash::purge(files, None).map_err(Action::Delete.failed())?;
        Ok(Emptied { success: true, removed })
    })
    .await
}

pub(super) async fn restore(
    State(app): State<App>,
    _: Authenticated,
    body: Body,
) -> Result<Response, ApiError> {
    let Restore { trash_path, to } = small_json(body).await?;
    let trash_path = path(trash_path, Input::TrashPath)?;
    let to = to.map(|to| path(Some(to), Input::Path)).transpose()?;
    answer(&app, Action::Restore, move |files| {
        let restored = trash::restore(files, &trash_path, to.as_ref());
        let path = restored.map_err(Action::Restore.failed())?;
        Ok(Restored { success: true, path, trash_path })
    })
    .await
}
