//! `GET | DELETE /api/files/trash`: what is in it; everything in it, for good.
//! `POST /api/files/trash/restore {trashPath, to}`: back to where it was, or to `to`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::rename::on_ends;
use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::path::WorkspacePath;
use crate::files::trash::{self, Item};
use crate::routes::describe::{Op, Tag, on_bodies, on_reads, on_writes};
use crate::state::App;

/// What is in the trash.
#[derive(Serialize, ToSchema)]
pub(super) struct Trash {
    /// Newest first.
    items: Vec<Item>,
}

/// What an emptied trash answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Emptied {
    success: bool,
    /// How many items are gone.
    removed: usize,
}

/// What is to come back.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Restore {
    /// The item's `trashPath`.
    #[schema(value_type = WorkspacePath, required)]
    trash_path: Option<String>,
    /// Where to, in place of where it was.
    #[schema(value_type = Option<WorkspacePath>)]
    to: Option<String>,
}

/// Where it is now, and where it was in the trash.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Restored {
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

pub(super) fn describe_get() -> Op {
    let item = json!({
        "name": "a.md", "trashPath": "/root/clawd/.trash/a.md.1767225600250",
        "originalPath": "/root/clawd/notes/a.md", "type": "file", "size": 8,
        "trashedAt": "2026-01-01T00:00:00.250Z", "expiresAt": "2026-01-08T00:00:00.250Z"
    });
    Op::new(Tag::Trash, "listTrash", "List the trash")
        .json::<Trash>(StatusCode::OK, "What is in it.", json!({ "items": [item] }))
        .fails_to(Action::Trash, on_reads())
        .fails_to(Action::Trash, [FileError::Outside, FileError::NotADirectory])
}

pub(super) fn describe_delete() -> Op {
    Op::new(Tag::Trash, "emptyTrash", "Empty the trash")
        .about("Everything in it is gone for good.")
        .json::<Emptied>(StatusCode::OK, "It is empty.", json!({ "success": true, "removed": 3 }))
        .fails_to(Action::Delete, on_writes())
        .fails_to(Action::Delete, [FileError::Outside, FileError::NotADirectory])
}

pub(super) fn describe_restore() -> Op {
    let trash_path = "/root/clawd/.trash/a.md.1767225600250";
    let answer = json!({ "success": true, "path": "/root/clawd/notes/a.md", "trashPath": trash_path });
    Op::new(Tag::Trash, "restoreEntry", "Restore from the trash")
        .about("To where it was, or to `to`. Parents are made; nothing is overwritten.")
        .json_body::<Restore>("At most 53,248 bytes as it is sent.", json!({ "trashPath": trash_path }))
        .json::<Restored>(StatusCode::OK, "It is back.", answer)
        .fails([ApiError::BadJson, ApiError::Input(Input::TrashPath), ApiError::Input(Input::Path)])
        .fails(on_bodies())
        .fails_to(Action::Restore, on_ends())
}
