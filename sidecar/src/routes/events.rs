//! `GET /api/files/events`: what changes in the workspace, as server-sent events.
//!
//! * `created`, `modified`, `deleted`, `moved`: [`crate::watch::feed::Described`]. One of a folder that is deleted or
//!   moved stands for everything in it.
//! * `ready`: everything up to now was told. Its `cursor` is also in the `id:` of each event; given back as
//!   `Last-Event-ID`, or as `cursor=`, the stream goes on after it.
//! * `rescan`: changes may have been missed, for the `cause` that it names; what follows is whole again. The client
//!   lists anew what it shows.
//!
//! A cursor that is none is refused with 400; one of another volume, or too old, is answered with a rescan.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::describe::{Op, Tag, text};
use crate::auth::Authenticated;
use crate::error::{ApiError, HttpError};
use crate::state::App;
use crate::stop::Stop;
use crate::watch::Cause;
use crate::watch::feed::{Described, Follow, Missed, Next};
use crate::watch::journal::Cursor;

/// A line without meaning, against proxies that end what is silent: the shortest of their limits is 30 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// For how long a browser waits before it connects again.
const RETRY_MS: u32 = 2000;

/// Where the client was.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EventsQuery {
    /// The `id` of the last event that was seen. `Last-Event-ID`, which a browser sends, is newer and goes first.
    cursor: Option<String>,
}

/// `data:` of `ready`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReadyEvent)]
pub(super) struct Ready {
    cursor: String,
}

pub(super) async fn get(
    State(app): State<App>,
    _: Authenticated,
    headers: HeaderMap,
    query: Result<axum::extract::Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let axum::extract::Query(query) = query.map_err(|_| ApiError::BadPath)?;
    let cursor = cursor(&headers, query)?;
    let place = app.feed.places().try_acquire_owned().map_err(|_| HttpError::BusyListening)?;
    let follow = app.feed.follow(cursor).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
        // A proxy that gathers bytes would hold events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events(follow, app.stop.clone(), place))).into_response())
}

fn cursor(headers: &HeaderMap, query: EventsQuery) -> Result<Option<Cursor>, ApiError> {
    let sent = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().map_err(|_| ApiError::BadCursor)?.to_owned()),
        None => None,
    };
    let text = sent.filter(|text| !text.is_empty()).or(query.cursor).filter(|text| !text.is_empty());
    text.map(|text| Cursor::parse(&text).ok_or(ApiError::BadCursor)).transpose()
}

pub(super) fn describe() -> Op {
    Op::new(Tag::Files, "followFiles", "Follow what changes in the workspace")
        .about(
            "Server-sent events. `created`, `modified`, `deleted` and `moved` carry a `ChangeEvent`; one of a folder \
             that is deleted or moved stands for everything in it. `ready` carries a `ReadyEvent`: everything up to \
             now was told. `rescan` carries a `RescanEvent`: changes may have been missed, so list anew what is \
             shown; what follows is whole again. The `id` of an event is a cursor, which also holds after the \
             sidecar has started anew. A comment comes every 15 seconds. At most 64 clients.",
        )
        .query("cursor", text(), "Go on after this event. Without it, only what comes is told.")
        .header("Last-Event-ID", text(), "The same, as browsers send it. It goes before `cursor`.")
        .bytes(StatusCode::OK, "The events, without an end.", &["text/event-stream"])
        .mentions::<Described>()
        .mentions::<Missed>()
        .mentions::<Ready>()
        .fails([ApiError::BadPath, ApiError::BadCursor, HttpError::BusyListening.into()])
}

/// What is written next.
enum Step {
    Begin,
    /// What the client has missed, up to now.
    CatchUp,
    Live,
}

fn events(
    follow: Follow,
    stop: Stop,
    place: impl Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold(
        (follow, stop, place, Step::Begin),
        async |(mut follow, mut stop, place, step)| {
            let (text, step) = match step {
                Step::Begin => {
                    let mut text = format!("retry: {RETRY_MS}\n\n");
                    if let Some(cause) = follow.missed.filter(|cause| *cause != Cause::WatchLimit) {
                        text.push_str(&rescan(&follow, cause));
                    }
                    (text, Step::CatchUp)
                }
                Step::CatchUp => match written(&mut follow) {
                    Some(text) => (text, Step::CatchUp),
                    None => {
                        let cursor = follow.cursor().to_string();
                        let mut text = event(&cursor, "ready", &Ready { cursor: cursor.clone() });
                        // What is not watched stays silent, so it is said once everything else was.
                        if follow.missed == Some(Cause::WatchLimit) {
                            text.push_str(&rescan(&follow, Cause::WatchLimit));
                        }
                        (text, Step::Live)
                    }
                },
                Step::Live => loop {
                    if let Some(text) = written(&mut follow) {
                        break (text, Step::Live);
                    }
                    tokio::select! {
                        () = stop.requested() => return None,
                        () = follow.more() => {}
                        () = tokio::time::sleep(HEARTBEAT) => break (":\n\n".to_owned(), Step::Live),
                    }
                },
            };
            Some((Ok(Bytes::from(text)), (follow, stop, place, step)))
        },
    )
}

/// What there is by now.
fn written(follow: &mut Follow) -> Option<String> {
    match follow.take() {
        Next::UpToDate => None,
        Next::Lost(cause) => Some(rescan(follow, cause)),
        Next::Entries(entries) => {
            let one = |entry: &crate::watch::journal::Entry| {
                format!("id: {}\nevent: {}\ndata: {}\n\n", entry.cursor, entry.event.name(), entry.data)
            };
            Some(entries.iter().map(one).collect())
        }
    }
}

fn rescan(follow: &Follow, cause: Cause) -> String {
    event(&follow.cursor().to_string(), "rescan", &Missed { cause })
}

fn event(id: &str, name: &str, data: &impl Serialize) -> String {
    // These are two small structs of texts.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}
