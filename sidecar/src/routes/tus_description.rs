//! What the description says of [`super::tus`].

use http::StatusCode;
use utoipa::openapi::path::HttpMethod;

use super::describe::{Op, Tag, choice, integer, on_bodies, on_paths, on_writes, text};
use super::tus::{ALLOW_ALL, ALLOW_ONE, TYPE};
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::http_semantics::tus;

const EXPIRES: &str =
    "While it is not complete: a date of HTTP, seven days after it was created, when it is removed.";

/// `/files/tus`
pub(super) fn describe_all() -> [(HttpMethod, Op); 2] {
    let metadata = "Pairs of a key and a value in Base64, with commas between, at most 32. `path`: where the file is to \
        be, absolute or relative to the workspace (required). `ifMatch`: entity tags, of which one must be true of the \
        file that is replaced, else 412, both now and at the end.";
    let create = op("createUpload", "Begin a resumable upload")
        .about("At most 256 that are unfinished at a time. The body may already have the first bytes.")
        .required_header("Upload-Length", integer(), "Bytes of the whole file.")
        .required_header("Upload-Metadata", text(), metadata)
        .header("Content-Type", choice([TYPE]), "If the body has bytes.")
        .header("Upload-Checksum", text(), CHECKSUM)
        .empty(StatusCode::CREATED, "It has begun; it is complete if nothing or everything was to come.")
        .with_header("Location", text(), "Where to go on.")
        .with_header("Upload-Offset", integer(), "Bytes that are there.")
        .with_header("Upload-Expires", text(), EXPIRES)
        .with_header("ETag", text(), "If it is complete: the file's strong entity tag.")
        .with_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.")
        .fails([HttpError::TooManyUploads.into(), HttpError::NoRoom(1 << 40).into()])
        .fails([HttpError::MethodNotAllowed(ALLOW_ALL).into(), HttpError::NotUtf8.into()])
        .fails(on_files())
        .fails(on_pieces());
    [(HttpMethod::Post, create), (HttpMethod::Options, options("uploadOptions"))]
}

/// `/files/tus/{id}`
pub(super) fn describe_one() -> [(HttpMethod, Op); 4] {
    let op = |id, summary| {
        let not_there = [HttpError::NoUpload, HttpError::Locked, HttpError::MethodNotAllowed(ALLOW_ONE)];
        op(id, summary).in_path("id", "From `Location`.").fails(not_there.map(ApiError::from))
    };
    let head = op("headUpload", "Ask how far an upload is")
        .empty(StatusCode::OK, "How far it is.")
        .with_header("Upload-Offset", integer(), "Bytes that are there.")
        .with_header("Upload-Length", integer(), "Bytes of the whole file.")
        .with_header("Upload-Metadata", text(), "As it was created.")
        .with_header("Upload-Expires", text(), EXPIRES)
        .with_header("Cache-Control", choice(["no-store"]), "It changes.")
        .with_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.");
    let patch = op("continueUpload", "Go on with an upload")
        .about("What came before a connection broke counts. With the last byte the file takes its place.")
        .required_header(
            "Upload-Offset",
            integer(),
            "Bytes that are there; else 409, with how many there are.",
        )
        .header("Upload-Checksum", text(), CHECKSUM)
        .bytes_body(TYPE, "The next bytes, at most what is missing.")
        .empty(StatusCode::NO_CONTENT, "They are on the disk.")
        .with_header("Upload-Offset", integer(), "Bytes that are there.")
        .with_header("Upload-Expires", text(), EXPIRES)
        .with_header("ETag", text(), "If it is complete: the file's strong entity tag.")
        .with_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.")
        .fails([HttpError::MediaType(TYPE).into(), HttpError::Offset { at: 1024 }.into()])
        .fails(on_files())
        .fails(on_pieces());
    let delete = op("abandonUpload", "Give an upload up")
        .empty(StatusCode::NO_CONTENT, "Nothing of it is left.")
        .with_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.");
    [
        (HttpMethod::Head, head),
        (HttpMethod::Patch, patch),
        (HttpMethod::Delete, delete),
        (HttpMethod::Options, options("oneUploadOptions").in_path("id", "Any.")),
    ]
}

const CHECKSUM: &str = "`sha1`, `sha256` or `sha512`, a space, and the digest of this body in Base64. If it is another: \
    460, and none of the body counts.";

fn op(id: &'static str, summary: &str) -> Op {
    let bad = HttpError::Missing("Upload-Length");
    Op::new(Tag::Uploads, id, summary)
        .required_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.")
        .header("X-HTTP-Method-Override", text(), "In place of the method, for clients that have no PATCH.")
        .fails([HttpError::TusVersion, bad].map(ApiError::from))
        .fails(on_writes().map(ApiError::from))
}

fn options(id: &'static str) -> Op {
    Op::new(Tag::Uploads, id, "Ask what of tus is spoken")
        .empty(StatusCode::NO_CONTENT, "This is.")
        .with_header("Tus-Version", choice([tus::VERSION]), "The protocol's version.")
        .with_header("Tus-Extension", text(), tus::EXTENSIONS)
        .with_header("Tus-Checksum-Algorithm", text(), tus::CHECKSUM_ALGORITHMS)
        .with_header("Tus-Resumable", choice([tus::VERSION]), "The protocol's version.")
}

/// With the file to be.
fn on_files() -> impl Iterator<Item = ApiError> {
    let own = [FileError::NotAFile, FileError::NotADirectory, FileError::Protected, FileError::NotFound];
    let refused = [HttpError::PreconditionFailed("If-Match").into()];
    own.into_iter().chain(on_paths()).map(ApiError::from).chain(refused)
}

/// With the bytes of a body.
fn on_pieces() -> impl Iterator<Item = ApiError> {
    [HttpError::TooLong, HttpError::Checksum, HttpError::Locked]
        .map(ApiError::from)
        .into_iter()
        .chain(on_bodies())
}
