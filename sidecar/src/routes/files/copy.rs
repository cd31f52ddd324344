//! `POST /api/files/copy {from, to}`. Nothing is overwritten.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::answer;
use super::rename::{Done, Ends, examples, on_ends};
use crate::auth::Authenticated;
use crate::error::{Action, ApiError, Input};
use crate::files::copy::copy;
use crate::files::error::FileError;
use crate::routes::describe::{Op, Tag, on_bodies};
use crate::state::App;

pub(super) async fn post(State(app): State<App>, _: Authenticated, body: Body) -> Result<Response, ApiError> {
    let (from, to) = Ends::parse(body).await?;
    answer(&app, Action::Copy, move |files| {
        copy(files, &from, &to).map_err(Action::Copy.failed())?;
        Ok(Done { success: true, from, to })
    })
    .await
}

pub(super) fn describe() -> Op {
    let (request, answer) = examples();
    Op::new(Tag::Files, "copyEntry", "Copy a file or a folder")
        .about("With the parents of `to`. Nothing is overwritten. Links are copied as links.")
        .json_body::<Ends>("At most 53,248 bytes as it is sent.", request)
        .json::<Done>(StatusCode::OK, "`to` is the copy.", answer)
        .fails([ApiError::BadJson, ApiError::Input(Input::FromAndTo)])
        .fails(on_bodies())
        .fails_to(Action::Copy, on_ends().chain([FileError::TreeTooLarge, FileError::NotAFile]))
}
