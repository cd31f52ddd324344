//! `/api/files/tus`: resumable uploads, tus 1.0.0 with creation (also with upload), termination, expiration and
//! checksum.
//!
//! POST creates; its `Upload-Metadata` must have `path`, the file to be, and may have `ifMatch`, the entity tag
//! of the file to be replaced. HEAD tells how far it is, PATCH goes on, DELETE forgets it. With the last byte the
//! file takes its place at once, and that answer carries its entity tag.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::preconditions::refused;
use super::raw::next_frame;
use crate::auth::Authenticated;
use crate::clock;
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::files::path::{VIRTUAL_ROOT, WorkspacePath};
use crate::files::serve_tus::{CreateError, Record, Turn, UploadId};
use crate::files::serve_upload;
use crate::http_semantics::conditional::Preconditions;
use crate::http_semantics::digest::{Expected, Hasher};
use crate::http_semantics::etag::{EntityTag, TagList};
use crate::http_semantics::{http_date, tus};
use crate::random;
use crate::state::App;

/// Bytes that are collected before the pool writes them. A thousand slow uploads hold as much each.
const BATCH_BYTES: usize = 64 * 1024;

/// What all uploads, and one of them, can be asked to do.
pub(super) const ALLOW_ALL: &str = "OPTIONS,POST";
pub(super) const ALLOW_ONE: &str = "OPTIONS,HEAD,PATCH,DELETE";

pub(super) const TYPE: &str = "application/offset+octet-stream";
const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

pub(super) async fn dispatch(
    State(app): State<App>,
    _auth: Authenticated,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // For clients behind something that knows no PATCH.
    let method = match parts.headers.get(OVERRIDE) {
        Some(name) => Method::from_bytes(name.as_bytes())
            .map_err(|_| HttpError::Missing("a method in X-HTTP-Method-Override"))?,
        None => parts.method.clone(),
    };
    if method == Method::OPTIONS {
        return Ok(options());
    }
    if parts.headers.get(RESUMABLE).is_none_or(|version| version != tus::VERSION) {
        return Err(HttpError::TusVersion.into());
    }
    let last = parts.uri.path().rsplit("/files/tus").next().unwrap_or_default().trim_start_matches('/');
    let mut answer = if last.is_empty() {
        if method != Method::POST {
            return Err(HttpError::MethodNotAllowed(ALLOW_ALL).into());
        }
        create(&app, &parts, body).await?
    } else {
        let id = UploadId::parse(last).ok_or(HttpError::NoUpload)?;
        match method {
            Method::HEAD => head(&app, &id).await?,
            Method::PATCH => patch(&app, &id, &parts, body).await?,
            Method::DELETE => delete(&app, &id).await?,
            _ => return Err(HttpError::MethodNotAllowed(ALLOW_ONE).into()),
        }
    };
    answer.headers_mut().insert(RESUMABLE, HeaderValue::from_static(tus::VERSION));
    Ok(answer)
}

fn options() -> Response {
    let headers = [
        ("tus-resumable", tus::VERSION),
        ("tus-version", tus::VERSION),
        ("tus-extension", tus::EXTENSIONS),
        ("tus-checksum-algorithm", tus::CHECKSUM_ALGORITHMS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn create(app: &App, request: &Parts, body: Body) -> Result<Response, ApiError> {
    let headers = &request.headers;
    let length = number(headers, &LENGTH, "Upload-Length")?;
    let metadata = headers.get(METADATA).ok_or(HttpError::Missing("Upload-Metadata"))?;
    let bad = |bad| HttpError::Tus { header: "Upload-Metadata", bad };
    let pairs = tus::metadata(metadata.as_bytes()).map_err(bad)?;
    let value = |key: &str| {
        let value = pairs.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone());
        value.map(String::from_utf8).transpose().map_err(|_| HttpError::NotUtf8)
    };
    let path = path(&value("path")?.ok_or(HttpError::Missing("path in Upload-Metadata"))?)?;
    let record = Record {
        length,
        path: path.to_string(),
        metadata: metadata.to_str().unwrap_or_default().to_owned(),
        if_match: value("ifMatch")?,
        created: clock::now(),
        unverified_from: None,
    };
    // What will not be allowed at the end is refused before the bytes are sent.
    let preconditions = preconditions(&record)?;
    let at = path.clone();
    let expect = app.files.run(move |files| serve_upload::expect(files, &at, &[preconditions])).await?;
    expect.map_err(refused)?;

    let id = UploadId::parse(random::request_id().as_str()).ok_or(HttpError::NoUpload)?;
    let (uploads, new, stored) = (app.uploads.clone(), id.clone(), record.clone());
    let created = app.files.run(move |_| Ok(uploads.create(&new, &stored))).await?;
    created.map_err(|error| match error {
        CreateError::TooMany => HttpError::TooManyUploads.into(),
        CreateError::NoRoom => HttpError::NoRoom(length).into(),
        CreateError::File(error) => ApiError::from(error),
    })?;

    let has_bytes = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == TYPE);
    let mut answer = if has_bytes || length == 0 {
        let turn = app.uploads.turn(&id).await.ok_or(HttpError::Locked)?;
        receive(app, &id, &turn, record, 0, checksum(headers)?, body).await?
    } else {
        progress(&record, 0)
    };
    *answer.status_mut() = StatusCode::CREATED;
    let location = format!("{}/{}", request.uri.path().trim_end_matches('/'), id.as_str());
    answer.headers_mut().extend(HeaderValue::from_str(&location).map(|value| (header::LOCATION, value)));
    Ok(answer)
}

async fn head(app: &App, id: &UploadId) -> Result<Response, ApiError> {
    // Whoever asks how far it is wants to go on: what still reads from the old connection ends first.
    let _turn = app.uploads.turn(id).await.ok_or(HttpError::Locked)?;
    let (record, at) = look(app, id).await?;
    let mut answer = progress(&record, at.unwrap_or(record.length));
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(LENGTH, HeaderValue::from(record.length));
    headers.extend(HeaderValue::from_str(&record.metadata).map(|value| (METADATA, value)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

async fn patch(app: &App, id: &UploadId, request: &Parts, body: Body) -> Result<Response, ApiError> {
    if request.headers.get(header::CONTENT_TYPE).is_none_or(|value| value != TYPE) {
        return Err(HttpError::MediaType(TYPE).into());
    }
    let offset = number(&request.headers, &OFFSET, "Upload-Offset")?;
    let checksum = checksum(&request.headers)?;
    let turn = app.uploads.turn(id).await.ok_or(HttpError::Locked)?;
    let (record, at) = look(app, id).await?;
    // Complete already, and there is nothing left to send.
    let Some(at) = at else {
        let at = record.length;
        return if offset == at { Ok(progress(&record, at)) } else { Err(HttpError::Offset { at }.into()) };
    };
    if offset != at {
        return Err(HttpError::Offset { at }.into());
    }
    receive(app, id, &turn, record, at, checksum, body).await
}

async fn delete(app: &App, id: &UploadId) -> Result<Response, ApiError> {
    let _turn = app.uploads.turn(id).await.ok_or(HttpError::Locked)?;
    look(app, id).await?;
    let (uploads, id) = (app.uploads.clone(), id.clone());
    app.files
        .run(move |_| {
            uploads.remove(&id);
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Appends the body from `at` on, as far as it comes; then, if that was all, makes it the file.
async fn receive(
    app: &App,
    id: &UploadId,
    turn: &Turn,
    mut record: Record,
    at: u64,
    checksum: Option<Expected>,
    body: Body,
) -> Result<Response, ApiError> {
    let (uploads, name) = (app.uploads.clone(), id.clone());
    record.unverified_from = checksum.as_ref().map(|_| at);
    let noted = record.clone();
    let file = app
        .files
        .run(move |_| {
            // Cut first: once the note is gone, what was not verified would count.
            let file = uploads.part_from(&name, at)?;
            if uploads.look(&name)?.is_none_or(|(old, _)| old != noted) {
                uploads.save(&name, &noted)?;
            }
            Ok(file)
        })
        .await?;
    let file = Arc::new(file);
    let mut hasher = Hasher::for_check(checksum.as_ref());
    let (end, ended) = pump(app, &file, turn, at, record.length, &mut hasher, body).await?;

    let verified = checksum.as_ref().is_none_or(|expected| hasher.check(expected).is_ok());
    let keep = ended.is_ok() && verified || checksum.is_none();
    let (uploads, name) = (app.uploads.clone(), id.clone());
    let had_note = record.unverified_from.take().is_some();
    let noted = record.clone();
    app.files
        .run(move |_| {
            if !keep {
                file.set_len(at).map_err(|error| FileError::from_io("cut upload", error))?;
            }
            file.sync_all().map_err(|error| FileError::from_io("fsync upload", error))?;
            if had_note { uploads.save(&name, &noted) } else { Ok(()) }
        })
        .await?;
    ended?;
    if !verified {
        return Err(HttpError::Checksum.into());
    }
    let mut answer = progress(&record, end);
    if end == record.length {
        let etag = finish(app, id, &record).await?;
        answer.headers_mut().extend(etag.header().map(|value| (header::ETAG, value)));
    }
    Ok(answer)
}

/// Writes what comes. Returns how far it is now, and whether the body came to its end: what came before a cut
/// counts.
async fn pump(
    app: &App,
    file: &Arc<File>,
    turn: &Turn,
    mut at: u64,
    length: u64,
    hasher: &mut Hasher,
    body: Body,
) -> Result<(u64, Result<(), ApiError>), ApiError> {
    let mut frames = body.into_data_stream();
    let mut batch: Vec<u8> = Vec::new();
    let ended = loop {
        let next = tokio::select! {
            biased;
            () = turn.interrupted() => break Err(HttpError::Locked.into()),
            next = next_frame(&mut frames) => next,
        };
        let bytes = match next {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let size = at.saturating_add(batch.len() as u64).saturating_add(bytes.len() as u64);
        if size > length {
            break Err(HttpError::TooLong.into());
        }
        hasher.update(&bytes);
        batch.extend_from_slice(&bytes);
        if batch.len() >= BATCH_BYTES {
            at = write(app, file, at, std::mem::take(&mut batch)).await?;
        }
    };
    if !batch.is_empty() {
        at = write(app, file, at, batch).await?;
    }
    Ok((at, ended))
}

async fn write(app: &App, file: &Arc<File>, at: u64, batch: Vec<u8>) -> Result<u64, FileError> {
    let file = file.clone();
    app.files
        .run(move |_| {
            file.write_all_at(&batch, at).map_err(|error| FileError::from_io("write upload", error))?;
            Ok(at.saturating_add(batch.len() as u64))
        })
        .await
}

async fn finish(app: &App, id: &UploadId, record: &Record) -> Result<EntityTag, ApiError> {
    let path = path(&record.path)?;
    let preconditions = preconditions(record)?;
    let (uploads, id) = (app.uploads.clone(), id.clone());
    let written = app
        .files
        .run(move |files| {
            let expect = match serve_upload::expect(files, &path, &[preconditions])? {
                Ok(expect) => expect,
                Err(verdict) => return Ok(Err(verdict)),
            };
            uploads.finish(files, &id, &path, &expect).map(Ok)
        })
        .await?;
    Ok(written.map_err(refused)?.etag)
}

async fn look(app: &App, id: &UploadId) -> Result<(Record, Option<u64>), ApiError> {
    let (uploads, id) = (app.uploads.clone(), id.clone());
    Ok(app.files.run(move |_| uploads.look(&id)).await?.ok_or(HttpError::NoUpload)?)
}

/// 204 with what every answer about an upload says.
fn progress(record: &Record, at: u64) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    let headers = answer.headers_mut();
    headers.insert(OFFSET, HeaderValue::from(at));
    if at < record.length {
        let expires = http_date::header(UNIX_EPOCH + Duration::from_millis(record.expires().0));
        headers.extend(expires.map(|value| (EXPIRES, value)));
    }
    answer
}

/// As clients write it, or relative to the workspace.
fn path(text: &str) -> Result<WorkspacePath, ApiError> {
    let absolute = if text.starts_with('/') { text.to_owned() } else { format!("{VIRTUAL_ROOT}/{text}") };
    let path = WorkspacePath::parse(&absolute).map_err(FileError::from)?;
    if path.is_root() { Err(FileError::NotAFile.into()) } else { Ok(path) }
}

fn preconditions(record: &Record) -> Result<Preconditions, ApiError> {
    let tags = record.if_match.as_ref().map(|text| TagList::parse([text.as_bytes()])).transpose();
    let tags = tags.map_err(|_| HttpError::Missing("an entity tag in ifMatch of Upload-Metadata"))?;
    Ok(Preconditions { if_match: tags, ..Preconditions::default() })
}

fn number(headers: &HeaderMap, name: &HeaderName, header: &'static str) -> Result<u64, ApiError> {
    let value = headers.get(name).ok_or(HttpError::Missing(header))?;
    Ok(tus::number(value.as_bytes()).map_err(|bad| HttpError::Tus { header, bad })?)
}

fn checksum(headers: &HeaderMap) -> Result<Option<Expected>, ApiError> {
    let header = "Upload-Checksum";
    let value = headers.get(CHECKSUM).map(|value| tus::checksum(value.as_bytes())).transpose();
    Ok(value.map_err(|bad| HttpError::Tus { header, bad })?)
}
