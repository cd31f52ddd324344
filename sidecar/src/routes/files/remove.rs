//! `DELETE /api/files?path=&permanent=`: to the trash, or for good.

use axum::extract::State;
use axum::response::Response;
use http::Uri;
use serde::Serialize;

use super::{answer, param, path};
use crate::auth::Authenticated;
use crate::clock;
use crate::error::{Action, ApiError, Input};
use crate::files::path::WorkspacePath;
use crate::files::remove;
use crate::files::trash::{self, Trashed};
use crate::state::App;

#[derive(Serialize)]
struct Removed {
    success: bool,
    path: WorkspacePath,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    trashed: Option<Trashed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permanent: Option<bool>,
}

pub(super) async fn delete(State(app): State<App>, _: Authenticated, uri: Uri) -> Result<Response, ApiError> {
    let path = path(param(&uri, "path")?, Input::Path)?;
    let permanent = param(&uri, "permanent")?.is_some_and(|value| value == "true");
    answer(&app, Action::Delete, move |files| {
        let trashed = if permanent {
            remove::permanently(files, &path).map(|()| None)
        } else {
            trash::discard(files, &path, clock::now()).map(Some)
        };
        let trashed = trashed.map_err(Action::Delete.failed())?;
        Ok(Removed { success: true, path, trashed, permanent: permanent.then_some(true) })
    })
    .await
}
