//! `GET /api/files/list?path=&limit=&cursor=`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::Uri;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{answer, param};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::list::{self, Cursor, Entry, Listing, MAX_ENTRIES, MAX_LIMIT};
use crate::files::path::WorkspacePath;
use crate::routes::describe::{Op, PATH, Tag, choice, integer, on_paths, on_reads, text};
use crate::state::App;

/// A page of a folder.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Folder)]
pub(super) struct Listed {
    path: WorkspacePath,
    /// Folders first, then in the order of `localeCompare`.
    files: Vec<Entry>,
    /// The folder that holds it; null for the workspace itself.
    #[schema(required)]
    parent: Option<WorkspacePath>,
    /// Always `container`.
    source: &'static str,
    /// There is more: what to send as `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

pub(super) async fn get(State(app): State<App>, _: Authenticated, uri: Uri) -> Result<Response, ApiError> {
    let path = match param(&uri, "path")? {
        None => WorkspacePath::root(),
        Some(text) => WorkspacePath::parse(&text).map_err(FileError::from)?,
    };
    let limit = match param(&uri, "limit")?.map(|text| text.parse::<usize>()) {
        None => MAX_ENTRIES,
        Some(Ok(limit)) if limit > 0 => limit.min(MAX_LIMIT),
        Some(_) => return Err(ApiError::Input(Input::Limit)),
    };
    let cursor = param(&uri, "cursor")?.map(|text| Cursor::parse(&text)).transpose()?;
    answer(&app, Action::List, move |files| {
        let listing = match list::list(files, &path, limit, cursor.as_ref()) {
            // The contract: nothing is in it then.
            Err(FileError::NotFound | FileError::NotADirectory | FileError::NotAFile) => {
                Listing { entries: Vec::new(), next: None }
            }
            listing => listing.map_err(Action::List.failed())?,
        };
        Ok(Listed {
            parent: path.parent(),
            path,
            files: listing.entries,
            source: "container",
            next_cursor: listing.next.map(|cursor| cursor.to_text()),
        })
    })
    .await
}

pub(super) fn describe() -> Op {
    let example = json!({
        "path": "/root/clawd",
        "files": [
            {
                "name": "notes", "path": "/root/clawd/notes", "type": "directory", "size": 4096,
                "modified": "2026-01-01T00:00:00.250Z"
            },
            {
                "name": "a.md", "path": "/root/clawd/a.md", "type": "file", "size": 12,
                "modified": "2026-01-01T00:00:00.250Z", "extension": "md"
            }
        ],
        "parent": null, "source": "container", "nextCursor": "ZmEubWQ"
    });
    Op::new(Tag::Files, "listFolder", "List a folder")
        .about(
            "All entries, hidden ones too, in the order in which browsers sort names; by pages if `limit` is given. \
             A cursor holds across changes of the folder. A folder that is missing is empty.",
        )
        .query("path", text(), &format!("{PATH} The workspace itself if it is missing."))
        .query("limit", integer(), "Entries of a page: 1 to 1,000. Without it, up to 200,000.")
        .query("cursor", text(), "The `nextCursor` of an earlier answer.")
        .query("fresh", choice(["true"]), "Without effect: nothing is kept.")
        .json::<Listed>(StatusCode::OK, "A page of the folder.", example)
        .fails([ApiError::Input(Input::Limit), FileError::BadCursor.into()])
        .fails_to(Action::List, on_paths().into_iter().chain(on_reads()))
}
