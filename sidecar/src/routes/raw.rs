//! `GET | HEAD | PUT | DELETE /api/files/raw/{path}`: a file as a resource, with all that RFC 9110 has for it.
//!
//! * The path is relative to the workspace and percent-decoded once. Folders are no resources here: 409.
//! * Query `download=1`: the answer carries `Content-Disposition`. `permanent=true`: DELETE bypasses the trash.
//!   `requirePrecondition=1` is the same as the header `X-Require-Precondition`: a write without one is 428.
//! * PUT answers 201 for a new file and 204 for a replaced one, both with the entity tag, once it is on the disk.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::API_PREFIXES;
use super::files::Removed;
use super::preconditions::refused;
use crate::auth::Authenticated;
use crate::clock;
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::files::etag::Expect;
use crate::files::path::{VIRTUAL_ROOT, WorkspacePath};
use crate::files::serve::{self, FileBody, Opened, Part};
use crate::files::serve_remove::{self, What, Where};
use crate::files::serve_upload;
use crate::files::write::{Draft, Written};
use crate::http_semantics::conditional::{self, Access, Preconditions, Verdict};
use crate::http_semantics::digest::{self, Algorithm, Expected, Hasher};
use crate::http_semantics::multipart::Frame;
use crate::http_semantics::range::{self, ByteRange, Selection};
use crate::http_semantics::{disposition, http_date, media_type, raw_path};
use crate::random;
use crate::state::App;

/// The route below each of [`API_PREFIXES`].
pub(super) const ROUTE: &str = "/files/raw/{*path}";

/// Where the router is not asked, and how that route is called there: see [`super::direct`].
pub(super) const DIRECT: &str = "/api/files/raw/";
pub(super) const DIRECT_ROUTE: &str = "/api/files/raw/{*path}";

/// What a file can be asked to do.
pub(super) const ALLOW: &str = "GET,HEAD,PUT,DELETE";

/// An upload of which nothing comes for so long is given up: its connection and its temporary file are bounded
/// things. Slow is fine, silent is not.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Headers of most answers, so that their table does not grow step by step.
const HEADERS: usize = 16;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// What the query says; whatever else is in it belongs to the edge.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) download: bool,
    pub(super) permanent: bool,
}

pub(super) async fn dispatch(
    State(app): State<App>,
    _auth: Authenticated,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // Before the path is looked at.
    let mut preconditions = Preconditions::parse(&parts.headers).map_err(HttpError::from)?;
    let path = path(parts.uri.path())?;
    let (query, required) = query(parts.uri.query().unwrap_or_default());
    preconditions.required |= required;
    match parts.method {
        Method::GET | Method::HEAD => get(&app, &path, &parts, &preconditions, &query).await,
        Method::PUT => put(&app, &path, &parts, &preconditions, body).await,
        Method::DELETE => delete(&app, &path, &preconditions, &query).await,
        _ => Err(HttpError::MethodNotAllowed(ALLOW).into()),
    }
}

/// As [`dispatch`], for a request that comes from the gate without the router.
pub(super) async fn answer(app: App, mut request: Request) -> Response {
    let answer = match request.extensions_mut().remove::<Authenticated>() {
        Some(auth) => dispatch(State(app), auth, request).await,
        None => Err(ApiError::NoTicket),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

/// The path behind the route's own part. Not axum's, which is decoded already: the difference between `/` and
/// `%2F` is then lost.
fn path(target: &str) -> Result<WorkspacePath, ApiError> {
    let rest =
        API_PREFIXES.iter().find_map(|prefix| target.strip_prefix(prefix)?.strip_prefix("/files/raw/"));
    let bytes = raw_path::decode(rest.ok_or(ApiError::UnknownRoute)?).map_err(HttpError::from)?;
    let text = String::from_utf8(bytes).map_err(|_| HttpError::NotUtf8)?;
    Ok(WorkspacePath::parse(&format!("{VIRTUAL_ROOT}/{text}")).map_err(FileError::from)?)
}

fn query(text: &str) -> (Query, bool) {
    let is = |name: &str| {
        text.split('&').any(|pair| {
            pair.split_once('=').is_some_and(|(key, value)| key == name && matches!(value, "1" | "true"))
        })
    };
    (Query { download: is("download"), permanent: is("permanent") }, is("requirePrecondition"))
}

// === GET and HEAD ===

/// Answers with the file, or as much of it as the request asks for.
pub(super) async fn get(
    app: &App,
    path: &WorkspacePath,
    request: &Parts,
    preconditions: &Preconditions,
    query: &Query,
) -> Result<Response, ApiError> {
    let is_head = request.method == Method::HEAD;
    let headers = &request.headers;
    // Whoever sends one of these goes on from an earlier answer, and needs a tag that proves equal bytes.
    let strong = [header::RANGE, header::IF_RANGE, header::IF_MATCH, header::IF_NONE_MATCH]
        .iter()
        .any(|name| headers.contains_key(name));
    let wanted = match (strong, is_head) {
        (true, _) => serve::Wanted::StrongTag,
        (false, true) => serve::Wanted::Tag,
        (false, false) => serve::Wanted::Content,
    };
    let opened = serve::open(&app.files, path, wanted).await?;
    let size = opened.meta.size();
    let validators = serve_upload::validators(&opened.etag, &opened.meta);

    let mut answer = Response::new(Body::empty());
    answer.headers_mut().reserve(HEADERS);
    let name = path.name().unwrap_or_default();
    describe(answer.headers_mut(), &validators, name, query);
    match preconditions.evaluate(Access::Read, Some(&validators)) {
        Verdict::Proceed => {}
        Verdict::NotModified(_) => {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer.headers_mut().remove(header::CONTENT_TYPE);
            return Ok(answer);
        }
        verdict @ (Verdict::PreconditionFailed(_) | Verdict::PreconditionRequired) => {
            return Err(refused(verdict));
        }
    }

    // A range means nothing to HEAD (RFC 9110 section 14.2).
    let wanted = one(headers, &header::RANGE).filter(|_| {
        !is_head && conditional::if_range_holds(one(headers, &header::IF_RANGE), &validators.etag)
    });
    let selection = range::select(wanted, size);
    if let Some(algorithm) = digest::wanted(lines(headers, &WANT_REPR_DIGEST)) {
        let digest = serve::digest(&app.files, &opened, algorithm, 0, size).await?;
        put_digest(answer.headers_mut(), &REPR_DIGEST, algorithm, digest);
    }
    let content = match selection {
        Selection::Whole(_) => {
            let whole = Part::Range { start: 0, length: size };
            one_part(app, opened, &mut answer, headers, whole, size).await?
        }
        Selection::One(range) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let content_range = HeaderValue::from_str(&range.content_range(size));
            answer.headers_mut().extend(content_range.map(|value| (header::CONTENT_RANGE, value)));
            let part = Part::Range { start: range.first(), length: range.len() };
            one_part(app, opened, &mut answer, headers, part, range.len()).await?
        }
        Selection::Many(ranges) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            many_parts(opened, answer.headers_mut(), name, &ranges, size)
        }
        Selection::Unsatisfiable => return Err(HttpError::RangeNotSatisfiable { size }.into()),
    };
    if !is_head {
        *answer.body_mut() = content.into_body(request.extensions.get());
    }
    Ok(answer)
}

/// The headers of a file, whatever part of it follows.
fn describe(headers: &mut HeaderMap, validators: &conditional::Validators, name: &str, query: &Query) {
    headers.extend(validators.etag.header().map(|value| (header::ETAG, value)));
    let modified = validators.last_modified.and_then(http_date::header);
    headers.extend(modified.map(|value| (header::LAST_MODIFIED, value)));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::of(name)));
    // One user's, and asked for again each time: the tag makes that cheap.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // The agent writes what strangers told it to. A page among it must not run as ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if query.download {
        headers.insert(header::CONTENT_DISPOSITION, disposition::attachment(name.as_bytes()));
    }
}

async fn one_part(
    app: &App,
    opened: Opened,
    answer: &mut Response,
    request: &HeaderMap,
    part: Part,
    length: u64,
) -> Result<FileBody, ApiError> {
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let (Some(algorithm), Part::Range { start, .. }) =
        (digest::wanted(lines(request, &WANT_CONTENT_DIGEST)), &part)
    {
        let digest = serve::digest(&app.files, &opened, algorithm, *start, length).await?;
        put_digest(answer.headers_mut(), &CONTENT_DIGEST, algorithm, digest);
    }
    Ok(FileBody::new(opened, [part]))
}

fn many_parts(
    opened: Opened,
    headers: &mut HeaderMap,
    name: &str,
    ranges: &[ByteRange],
    size: u64,
) -> FileBody {
    let frame = Frame::new(random::request_id().as_str(), media_type::of(name), ranges, size);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(frame.len()));
    if let Some(content_type) = frame.content_type() {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    let (heads, tail) = frame.into_texts();
    let pairs = heads.into_iter().zip(ranges).flat_map(|(head, range)| {
        [Part::Text(head.into()), Part::Range { start: range.first(), length: range.len() }]
    });
    FileBody::new(opened, pairs.chain([Part::Text(tail.into())]))
}

fn put_digest(headers: &mut HeaderMap, name: &HeaderName, algorithm: Algorithm, digest: Option<Vec<u8>>) {
    let value = digest.and_then(|digest| digest::header(algorithm, &digest));
    headers.extend(value.map(|value| (name.clone(), value)));
}

// === PUT ===

async fn put(
    app: &App,
    path: &WorkspacePath,
    request: &Parts,
    preconditions: &Preconditions,
    body: Body,
) -> Result<Response, ApiError> {
    let headers = &request.headers;
    // Stored whole, it would be a file made of a part (RFC 9110 section 14.5).
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(HttpError::ContentRange.into());
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(HttpError::ContentEncoding.into());
    }
    let expected = [&CONTENT_DIGEST, &REPR_DIGEST].map(|name| Expected::parse(lines(headers, name)));
    let [content, representation] = expected;
    let expected = [content.map_err(HttpError::from)?, representation.map_err(HttpError::from)?];

    // First before the body, which may be long and in vain; a client that waits for 100 need not send it at all.
    let (at, conditions) = (path.clone(), preconditions.clone());
    let begun = app.files.run(move |files| {
        if let Err(verdict) = serve_upload::expect(files, &at, &[conditions])? {
            return Ok(Err(verdict));
        }
        match files.root.open_file(&at) {
            Ok(_) | Err(FileError::NotFound) => {}
            Err(error) => return Err(error),
        }
        // Folders that are missing are made at the commit: an upload that breaks off leaves none.
        Draft::anywhere_now(files, u64::MAX).map(Ok)
    });
    let mut draft = begun.await?.map_err(refused)?;
    let mut hashers = expected.each_ref().map(|expected| Hasher::for_check(expected.as_ref()));
    let mut frames = body.into_data_stream();
    while let Some(bytes) = next_frame(&mut frames).await? {
        hashers.iter_mut().for_each(|hasher| hasher.update(&bytes));
        draft.push(bytes).await?;
    }
    for (hasher, expected) in hashers.iter().zip(&expected) {
        if let Some(expected) = expected {
            hasher.check(expected).map_err(|algorithm| HttpError::DigestMismatch(algorithm.key()))?;
        }
    }
    // And again, binding the commit to what is found now.
    let expect = expectation(app, path, preconditions).await?;
    let written = draft.commit(path, true, expect).await?;
    Ok(stored(&written, request.uri.path()))
}

async fn expectation(
    app: &App,
    path: &WorkspacePath,
    preconditions: &Preconditions,
) -> Result<Expect, ApiError> {
    // Nothing to judge, so nothing to look at.
    if *preconditions == Preconditions::default() {
        return Ok(Expect::Anything);
    }
    let (path, preconditions) = (path.clone(), preconditions.clone());
    let expect = app.files.run(move |files| serve_upload::expect(files, &path, &[preconditions])).await?;
    expect.map_err(refused)
}

/// The next bytes of an upload; `None` at its end.
pub(super) async fn next_frame(
    frames: &mut axum::body::BodyDataStream,
) -> Result<Option<bytes::Bytes>, ApiError> {
    match tokio::time::timeout(SILENCE, frames.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(_))) => Err(FileError::BodyAborted.into()),
        Err(_elapsed) => Err(HttpError::Silent.into()),
    }
}

fn stored(written: &Written, target: &str) -> Response {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let mut answer = status.into_response();
    let headers = answer.headers_mut();
    headers.extend(written.etag.header().map(|value| (header::ETAG, value)));
    let modified = serve_upload::validators(&written.etag, &written.meta).last_modified;
    headers.extend(modified.and_then(http_date::header).map(|value| (header::LAST_MODIFIED, value)));
    if written.created {
        headers.extend(HeaderValue::from_str(target).map(|value| (header::LOCATION, value)));
    }
    answer
}

// === DELETE ===

async fn delete(
    app: &App,
    path: &WorkspacePath,
    preconditions: &Preconditions,
    query: &Query,
) -> Result<Response, ApiError> {
    let goes = if query.permanent { Where::Nowhere } else { Where::Trash(clock::now()) };
    let (at, preconditions) = (path.clone(), preconditions.clone());
    let removed =
        app.files.run(move |files| serve_remove::entry(files, &at, What::File, &preconditions, goes)).await?;
    let trashed = removed.map_err(refused)?;
    Ok(Json(Removed::new(path.clone(), trashed)).into_response())
}

// === headers ===

/// The value of a header that is there exactly once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}
