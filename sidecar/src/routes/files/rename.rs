//! `POST /api/files/move {from, to}`. The answer's `to` is where it is now. `If-Match` is about what is moved,
//! `If-None-Match: *` about the place that it goes to.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::{answer, path, small_json};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::files::path::WorkspacePath;
use crate::files::serve_rename;
use crate::http_semantics::conditional::Preconditions;
use crate::http_semantics::etag::TagList;
use crate::routes::raw::refused;
use crate::state::App;

/// From where to where, of a move or a copy.
#[derive(Deserialize)]
pub(super) struct Ends {
    from: Option<String>,
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

#[derive(Serialize)]
pub(super) struct Done {
    pub(super) success: bool,
    pub(super) from: WorkspacePath,
    pub(super) to: WorkspacePath,
}

pub(super) async fn post(
    State(app): State<App>,
    _: Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let preconditions = Preconditions::parse(&headers).map_err(HttpError::from)?;
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
