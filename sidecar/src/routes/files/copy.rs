//! `POST /api/files/copy {from, to}`. Nothing is overwritten.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;

use super::answer;
use super::rename::{Done, Ends};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError};
use crate::files::copy::copy;
use crate::state::App;

pub(super) async fn post(State(app): State<App>, _: Authenticated, body: Body) -> Result<Response, ApiError> {
    let (from, to) = Ends::parse(body).await?;
    answer(&app, Action::Copy, move |files| {
        copy(files, &from, &to).map_err(Action::Copy.failed())?;
        Ok(Done { success: true, from, to })
    })
    .await
}
