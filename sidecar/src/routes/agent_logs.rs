//! `GET /api/agent/logs?tail=N&follow=true`: what the agent has printed, without the secrets that we know.
//!
//! Text, a line for each: milliseconds since 1970, `O` or `E` for standard output or error, the text. With
//! `follow`, the answer stays open and each further line is sent as it comes; it ends with the machine, or when
//! the client goes away. A client that does not read misses lines, and is told how many.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;

use super::describe::{Op, Tag, choice, integer};
use super::history::param;
use crate::agent::output::{Follower, Line};
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::state::App;
use crate::stop::Stop;

const DEFAULT_TAIL: usize = 200;

/// More lines than are kept.
const MAX_TAIL: usize = 10_000;

/// Clients that follow at a time: each is a connection that stays open.
pub const MAX_FOLLOWERS: usize = 8;

pub(super) async fn get(
    State(app): State<App>,
    _: Authenticated,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let supervisor = app.supervisor.as_ref().ok_or(ApiError::AgentElsewhere)?;
    let count = match param(&query, "tail") {
        Some(text) => text.parse::<usize>().map_err(|_| ApiError::BadTail)?.min(MAX_TAIL),
        None => DEFAULT_TAIL,
    };
    let body = if param(&query, "follow").as_deref() == Some("true") {
        let place = app.followers.clone().try_acquire_owned().map_err(|_| ApiError::TooManyFollowers)?;
        let (lines, follower) = supervisor.output.follow(count);
        Body::from_stream(follow(text(&lines), follower, place, app.stop.clone()))
    } else {
        Body::from(text(&supervisor.output.tail(count)))
    };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, body).into_response())
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Machine, "agentLogs", "What the agent has printed")
        .about(
            "Text, a line for each: milliseconds since 1970, `O` or `E` for standard output or error, the text. \
             Secrets that the machine knows are replaced. With `follow`, the answer stays open, and further lines \
             are sent as they come; a client that does not read misses lines, and is told how many. At most 8 \
             clients follow.",
        )
        .query("tail", integer(), "Lines: 200 if it is missing, at most 10,000.")
        .query("follow", choice(["true", "false"]), "`true` goes on with what comes.")
        .bytes(StatusCode::OK, "The lines.", &["text/plain"])
        .fails([ApiError::BadTail, ApiError::AgentElsewhere, ApiError::TooManyFollowers])
}

fn follow(
    first: String,
    follower: Follower,
    place: OwnedSemaphorePermit,
    stop: Stop,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    let first = stream::iter([Ok(Bytes::from(first))]);
    let rest = stream::unfold((follower, place, stop), async |(mut follower, place, mut stop)| {
        let line = tokio::select! {
            biased;
            () = stop.requested() => None,
            line = follower.next() => line,
        };
        line.map(|line| (Ok(Bytes::from(line)), (follower, place, stop)))
    });
    first.chain(rest)
}

fn text(lines: &[Arc<Line>]) -> String {
    lines.iter().map(|line| line.render()).collect()
}
