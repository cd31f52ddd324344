//! `POST /api/files/move {from, to}`. The answer's `to` is where it is now. `If-Match` is about what is moved,
//! `If-None-Match: *` about the place that it goes to.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::files::error::FileError;
use crate::files::path::WorkspacePath;
use crate::files::serve_rename;
use crate::http_semantics::etag::TagList;
use crate::routes::describe::{Op, Tag, on_bodies, on_paths, on_writes};
use crate::routes::preconditions::{OfHeaders, refused};
use crate::state::App;

/// From where to where, of a move or a copy.
#[derive(Deserialize, ToSchema)]
pub(super) struct Ends {
    #[schema(value_type = WorkspacePath, required)]
    from: Option<String>,
    #[schema(value_type = WorkspacePath, required)]
    to: Option<String>,
}

impl Ends {
    pub(super) async fn parse(body: Body) -> Result<(WorkspacePath, WorkspacePath), ApiError> {
        let Self { from, to } = small_json(body).await?;
        // That one is missing comes before what is wrong with the other.
        if to.as_deref().is_none_or(str::is_empty) {
            return Err(ApiError::Input(Input::FromAndTo));
        }
        Ok((path(from, Input::FromAndTo)?, path(to, Input::FromAndTo)?))
    }
}

/// Where it was, and where it, or its copy, is now.
#[derive(Serialize, ToSchema)]
#[schema(as = Moved)]
pub(super) struct Done {
    pub(super) success: bool,
    pub(super) from: WorkspacePath,
    pub(super) to: WorkspacePath,
}

pub(super) async fn post(
    State(app): State<App>,
    _: Authenticated,
    OfHeaders(preconditions): OfHeaders,
    body: Body,
) -> Result<Response, ApiError> {
    if matches!(preconditions.if_none_match, Some(TagList::Tags(_))) {
        return Err(HttpError::OnlyAny.into());
    }
    let (from, to) = Ends::parse(body).await?;
    answer(&app, Action::Move, move |files| {
        let moved = serve_rename::rename(files, &from, &to, &preconditions);
        let to = moved.map_err(Action::Move.failed())?.map_err(refused)?;
        Ok(Done { success: true, from, to })
    })
    .await
}

/// A request and its answer, of a move or a copy.
pub(super) fn examples() -> (serde_json::Value, serde_json::Value) {
    let (from, to) = ("/root/clawd/a.md", "/root/clawd/notes/a.md");
    (json!({ "from": from, "to": to }), json!({ "success": true, "from": from, "to": to }))
}

/// What can be wrong with the two ends.
pub(super) fn on_ends() -> impl Iterator<Item = FileError> {
    let own = [
        FileError::NotFound,
        FileError::Exists,
        FileError::NotADirectory,
        FileError::IntoItself,
        FileError::Protected,
    ];
    own.into_iter().chain(on_paths()).chain(on_writes())
}

pub(super) fn describe() -> Op {
    let (request, answer) = examples();
    Op::new(Tag::Files, "moveEntry", "Move or rename a file or a folder")
        .about(
            "With the parents of `to`. If `to` is a folder, it goes inside. A file that is there is replaced, a \
             folder only by a folder and only if it is empty. `If-None-Match` takes nothing but `*` here, and is \
             about the place that it goes to.",
        )
        .write_preconditions("what is moved")
        .json_body::<Ends>("At most 53,248 bytes as it is sent.", request)
        .json::<Done>(StatusCode::OK, "`to` is where it is now.", answer)
        .fails([ApiError::BadJson, ApiError::Input(Input::FromAndTo), HttpError::OnlyAny.into()])
        .fails(on_bodies())
        .fails_to(Action::Move, on_ends())
}
