//! `GET /api/files/list?path=&limit=&cursor=`

use axum::extract::State;
use axum::response::Response;
use http::Uri;
use serde::Serialize;

use super::{answer, param};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::error::FileError;
use crate::files::list::{self, Cursor, Entry, Listing, MAX_ENTRIES, MAX_LIMIT};
use crate::files::path::WorkspacePath;
use crate::state::App;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    path: WorkspacePath,
    files: Vec<Entry>,
    parent: Option<WorkspacePath>,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
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
