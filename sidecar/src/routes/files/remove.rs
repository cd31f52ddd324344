//! `DELETE /api/files?path=&permanent=`: to the trash, or for good.

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{answer, param, path};
use crate::auth::Authenticated;
use crate::clock;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::meta::Timestamp;
use crate::files::path::WorkspacePath;
use crate::files::serve_remove::{self, What, Where};
use crate::files::trash::Trashed;
use crate::routes::describe::{Op, PATH, Tag, choice, on_paths, on_writes, text};
use crate::routes::preconditions::{OfHeaders, refused};
use crate::state::App;

/// What a deletion answers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::routes) struct Removed {
    success: bool,
    path: WorkspacePath,
    /// Names it in the trash. If this is there, so are the two that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    trash_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    trashed_at: Option<Timestamp>,
    /// When it will be deleted for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_at: Option<Timestamp>,
    /// True, in place of the others: it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    permanent: Option<bool>,
}

impl Removed {
    pub(in crate::routes) fn new(path: WorkspacePath, trashed: Option<Trashed>) -> Self {
        let permanent = trashed.is_none().then_some(true);
        let (trash_path, trashed_at, expires_at) = match trashed {
            None => (None, None, None),
            Some(Trashed { trash_path, trashed_at, expires_at }) => {
                (Some(trash_path), Some(trashed_at), Some(expires_at))
            }
        };
        Self { success: true, path, trash_path, trashed_at, expires_at, permanent }
    }
}

pub(super) async fn delete(
    State(app): State<App>,
    _: Authenticated,
    uri: Uri,
    OfHeaders(preconditions): OfHeaders,
) -> Result<Response, ApiError> {
    let path = path(param(&uri, "path")?, Input::Path)?;
    let permanent = param(&uri, "permanent")?.is_some_and(|value| value == "true");
    let goes = if permanent { Where::Nowhere } else { Where::Trash(clock::now()) };
    answer(&app, Action::Delete, move |files| {
        let removed = serve_remove::entry(files, &path, What::Anything, &preconditions, goes);
        let trashed = removed.map_err(Action::Delete.failed())?.map_err(refused)?;
        Ok(Removed::new(path, trashed))
    })
    .await
}

/// As an example of what a deletion answers.
pub(in crate::routes) fn removed_example() -> serde_json::Value {
    json!({
        "success": true, "path": "/root/clawd/a.md", "trashPath": "/root/clawd/.trash/a.md.1767225600250",
        "trashedAt": "2026-01-01T00:00:00.250Z", "expiresAt": "2026-01-08T00:00:00.250Z"
    })
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Files, "deleteEntry", "Delete a file or a folder")
        .about(
            "To the trash, where it stays for seven days. `SOUL.md`, `AGENTS.md` and `.trash` cannot be deleted. \
             Of a folder `If-Match: *` is true, and no entity tag is.",
        )
        .required_query("path", text(), PATH)
        .query("permanent", choice(["true"]), "Not to the trash, but for good.")
        .write_preconditions("what is deleted")
        .json::<Removed>(StatusCode::OK, "It is not there any more.", removed_example())
        .fails([ApiError::Input(Input::Path)])
        .fails_to(Action::Delete, [FileError::NotFound, FileError::NotADirectory, FileError::Protected])
        .fails_to(Action::Delete, on_paths().into_iter().chain(on_writes()))
}
