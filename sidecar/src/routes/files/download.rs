//! `GET /api/files/download?path=`: a file to be saved. Ranges and preconditions are those of `files/raw`.

use axum::extract::{Request, State};
use axum::response::Response;

use super::{param, path};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, HttpError, Input};
use crate::http_semantics::conditional::Preconditions;
use crate::routes::raw::{self, Query};
use crate::state::App;

pub(super) async fn get(
    State(app): State<App>,
    _: Authenticated,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _none) = request.into_parts();
    let path = path(param(&parts.uri, "path")?, Input::Path)?;
    let preconditions = Preconditions::parse(&parts.headers).map_err(HttpError::from)?;
    let query = Query { download: true, permanent: false };
    match raw::get(&app, &path, &parts, &preconditions, &query).await {
        Err(ApiError::File(error)) => Err(Action::Download.failed()(error)),
        answer => answer,
    }
}
