//! `DELETE /api/files?path=&permanent=`: to the trash, or for good.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Uri};
use serde::Serialize;

use super::{answer, param, path};
use crate::auth::Authenticated;
use crate::clock;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::files::path::WorkspacePath;
use crate::files::serve_remove::{self, What, Where};
use crate::files::trash::Trashed;
use crate::http_semantics::conditional::Preconditions;
use crate::routes::raw::refused;
use crate::state::App;

/// What a deletion answers, here and in [`crate::routes::raw`].
#[derive(Serialize)]
pub(in crate::routes) struct Removed {
    success: bool,
    path: WorkspacePath,
    #[serde(flatten)]
    went: Went,
}

/// Where it is now.
#[derive(Serialize)]
#[serde(untagged)]
enum Went {
    Trash(Trashed),
    Nowhere { permanent: bool },
}

impl Removed {
    pub(in crate::routes) fn new(path: WorkspacePath, trashed: Option<Trashed>) -> Self {
        let went = trashed.map_or(Went::Nowhere { permanent: true }, Went::Trash);
        Self { success: true, path, went }
    }
}

pub(super) async fn delete(
    State(app): State<App>,
    _: Authenticated,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = path(param(&uri, "path")?, Input::Path)?;
    let preconditions = Preconditions::parse(&headers).map_err(HttpError::from)?;
    let permanent = param(&uri, "permanent")?.is_some_and(|value| value == "true");
    let goes = if permanent { Where::Nowhere } else { Where::Trash(clock::now()) };
    answer(&app, Action::Delete, move |files| {
        let removed = serve_remove::entry(files, &path, What::Anything, &preconditions, goes);
        let trashed = removed.map_err(Action::Delete.failed())?.map_err(refused)?;
        Ok(Removed::new(path, trashed))
    })
    .await
}
