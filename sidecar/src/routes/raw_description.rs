//! What the description says of [`super::raw`].

use http::StatusCode;
use utoipa::openapi::path::HttpMethod;

use super::describe::{Op, Tag, choice, integer, on_bodies, on_paths, on_reads, on_writes, text};
use super::files::{Removed, removed_example};
use super::raw::ALLOW;
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::http_semantics::conditional::{Field, Malformed};
use crate::http_semantics::digest::BadDigest;

const IN_PATH: &str = "Relative to the workspace, percent-encoded once; the `/` between names stays as it is. At most \
    4,096 bytes with `/root/clawd/` before it, each name at most 255.";

const DIGEST: &str = "By RFC 9530, as in `sha-256=:…:`; also `sha-512`.";

/// All that a GET of a file can be asked and answer, apart from its path.
pub(super) fn describe_read(op: Op) -> Op {
    describe_read_head(op)
        .header("Range", text(), "Ranges of bytes, several if need be. What is no such range is ignored.")
        .header(
            "If-Range",
            text(),
            "A strong entity tag: the range counts only if it is true. A date never is.",
        )
        .bytes(StatusCode::PARTIAL_CONTENT, "The range; several as `multipart/byteranges`.", &["*/*"])
        .with_header("Content-Range", text(), "Of one range.")
        .bytes(StatusCode::OK, "The file. The media type goes by the name's extension.", &["*/*"])
        .with_header("Content-Digest", text(), DIGEST)
        .with_header("Repr-Digest", text(), "Of the whole file, whatever part of it is sent.")
        .empty(StatusCode::NOT_MODIFIED, "The client has it already.")
        .with_headers_of_a_file()
        .fails([HttpError::RangeNotSatisfiable { size: 300_000 }.into()])
}

impl Op {
    fn with_headers_of_a_file(self) -> Self {
        let strong = "Strong up to 16,777,216 bytes, and of larger files if the request depends on it.";
        self.with_header("ETag", text(), strong)
            .with_header("Last-Modified", text(), "In whole seconds.")
            .with_header("Accept-Ranges", choice(["bytes"]), "Ranges are served.")
            .with_header("Content-Disposition", text(), "If it is to be saved.")
    }
}

fn describe_read_head(op: Op) -> Op {
    op.header("If-None-Match", text(), "One of these entity tags, or `*`: 304.")
        .header("If-Modified-Since", text(), "A date of HTTP: not modified since, 304.")
        .header("If-Match", text(), "None of these strong entity tags: 412.")
        .header("If-Unmodified-Since", text(), "A date of HTTP: modified since, 412.")
        .header(
            "Want-Content-Digest",
            text(),
            "Asks for a digest, as in `sha-256=5`. Not above 268,435,456 bytes.",
        )
        .header("Want-Repr-Digest", text(), "The same for the whole file.")
        .fails([HttpError::PreconditionFailed("If-Match").into()])
        .fails([HttpError::from(Malformed(Field::IfMatch)).into()])
}

pub(super) fn describe() -> [(HttpMethod, Op); 4] {
    let op = |id, summary| {
        let own = [FileError::NotFound, FileError::NotAFile, FileError::NotADirectory];
        let target = [HttpError::NotUtf8.into(), HttpError::MethodNotAllowed(ALLOW).into()];
        Op::new(Tag::Raw, id, summary)
            .in_path("path", IN_PATH)
            .fails(own.into_iter().chain(on_paths()).map(ApiError::from))
            .fails(target)
    };
    let save = "With `1`, the answer says that it is to be saved, and under which name.";
    let required = "The same as the header `X-Require-Precondition`.";
    let get = op("getFile", "Get a file, or parts of it").query("download", choice(["1", "true"]), save);
    let get = describe_read(get).fails(on_reads().map(ApiError::from));
    let head = op("headFile", "Get what is said of a file").query("download", choice(["1", "true"]), save);
    let head = describe_read_head(head)
        .empty(StatusCode::OK, "As of GET, without the file. Ranges mean nothing here.")
        .with_header("Content-Length", integer(), "Its size in bytes.")
        .with_header("Content-Digest", text(), DIGEST)
        .with_header("Repr-Digest", text(), "The same.")
        .empty(StatusCode::NOT_MODIFIED, "The client has it already.")
        .with_headers_of_a_file()
        .fails(on_reads().map(ApiError::from));
    let put = op("putFile", "Write a file")
        .about(
            "Of any size that the volume holds. Durable and at once; missing folders are made; a body that breaks \
             off changes nothing. What is silent for 60 seconds is given up.",
        )
        .query("requirePrecondition", choice(["1", "true"]), required)
        .write_preconditions("the file")
        .header("Content-Digest", text(), &format!("Checked before the file takes its place. {DIGEST}"))
        .header("Repr-Digest", text(), "The same.")
        .bytes_body("application/octet-stream", "The file. Not a range of it, and in no coding.")
        .empty(StatusCode::CREATED, "A new file is on the disk.")
        .with_header("Location", text(), "Its path, as it was asked for.")
        .empty(StatusCode::NO_CONTENT, "The file was replaced.")
        .with_header("ETag", text(), "Strong.")
        .with_header("Last-Modified", text(), "In whole seconds.")
        .fails([HttpError::ContentRange.into(), HttpError::ContentEncoding.into()])
        .fails([HttpError::BadDigest(BadDigest::Malformed).into()])
        .fails([HttpError::DigestMismatch("sha-256").into(), FileError::Protected.into()])
        .fails(on_bodies())
        .fails(on_writes().map(ApiError::from));
    let delete = op("deleteFile", "Delete a file")
        .about("To the trash, where it stays for seven days. For folders: `DELETE /api/files`.")
        .query("permanent", choice(["1", "true"]), "Not to the trash, but for good.")
        .query("requirePrecondition", choice(["1", "true"]), required)
        .write_preconditions("the file")
        .json::<Removed>(StatusCode::OK, "It is not there any more.", removed_example())
        .fails([FileError::Protected.into()])
        .fails(on_writes().map(ApiError::from));
    [(HttpMethod::Get, get), (HttpMethod::Head, head), (HttpMethod::Put, put), (HttpMethod::Delete, delete)]
}
