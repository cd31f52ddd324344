//! The file API of the legacy Worker, on the workspace of a user's container, under the virtual root `/root/clawd`.
//!
//! What it answers is the contract's: fields and their order, statuses, texts and limits. The faults that lost
//! data or let somebody out of the workspace are left out, since both back ends are compared by the same cases:
//!
//! * There is no object store: nothing is stale, nothing is written twice, and `source` is always `container`
//!   (the Worker says `r2` for most answers).
//! * There is no shell: names and contents of any kind and length arrive as they are.
//! * Paths are compared by components, so `/root/clawdX` is outside and `a..b` is a name.
//! * A listing is not cut after 500 entries, and base64 is not wrapped at 76 columns.
//!
//! Kept, since clients see them: a directory reads as an empty file, `mkdir` over a file succeeds, a move onto a
//! directory goes inside it, a protected file can be moved away, nothing ever empties the trash, and symbolic
//! links are followed wherever they lead.

mod iso;
mod list;
mod path;
mod upload;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::clock::now;
use super::routes::param;
use crate::forward::{self, Answer};
use path::Virtual;

/// Largest text that is read or written, in bytes.
const MAX_TEXT_BYTES: u64 = 10_485_760;

/// Largest body of any request, which is the platform's limit in front of the Worker.
const MAX_BODY_BYTES: usize = 100_000_000;

/// What the answer to a deletion says about how long the trash keeps things.
const TRASH_KEEPS_MS: u64 = 7 * 24 * 3600 * 1000;

/// Why there is no success.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// A status and its text.
    Plain(StatusCode, &'static str),
    /// 413, with the figures.
    TooLarge(TooLarge),
    /// The body was too large to be looked at.
    Body,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TooLarge {
    error: &'static str,
    size: u64,
    max_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

#[derive(Serialize)]
struct Plain {
    error: &'static str,
}

impl Refused {
    const fn bad(error: &'static str) -> Self {
        Self::Plain(StatusCode::BAD_REQUEST, error)
    }

    const fn missing(error: &'static str) -> Self {
        Self::Plain(StatusCode::NOT_FOUND, error)
    }

    const fn failed(error: &'static str) -> Self {
        Self::Plain(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    fn answer(&self) -> Answer {
        match self {
            Self::Plain(status, error) => forward::json(*status, &Plain { error }),
            Self::TooLarge(body) => forward::json(StatusCode::PAYLOAD_TOO_LARGE, body),
            Self::Body => forward::text(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large"),
        }
    }
}

/// The part of the path behind the API's prefix, under either of its two names; `None` for other routes.
pub(super) fn rest(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/ws").unwrap_or(path).strip_prefix("/api/files")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Answers a request of the user whose workspace is `root`. `rest` is what [`rest`] has found.
pub(super) async fn route(request: Request<Incoming>, root: &Path, rest: &str, query: &str) -> Answer {
    let method = request.method().clone();
    let answer = match (&method, rest) {
        (&Method::GET, "/list") => list::list(root, query).await,
        (&Method::GET, "/read") => read(root, query).await,
        (&Method::GET, "/download") => download(root, query).await,
        (&Method::POST, "/write") => write(root, request).await,
        (&Method::POST, "/upload") => upload::upload(root, request).await,
        (&Method::POST, "/mkdir") => mkdir(root, request).await,
        (&Method::POST, "/move") => relocate(root, request).await,
        // The dashboard puts a slash there.
        (&Method::DELETE, "" | "/") => delete(root, query).await,
        _ => return forward::text(StatusCode::NOT_FOUND, "404 Not Found"),
    };
    answer.unwrap_or_else(|refused| refused.answer())
}

fn ok(body: &impl Serialize) -> Answer {
    forward::json(StatusCode::OK, body)
}

/// The `path` parameter of a route that needs one.
fn required(query: &str) -> Result<Virtual, Refused> {
    let path = param(query, "path").ok_or(Refused::bad("Path required"))?;
    Virtual::parse(&path)
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Refused> {
    forward::read_body(request.into_body(), MAX_BODY_BYTES).await.map_err(|_| Refused::Body)
}

async fn json_body(request: Request<Incoming>) -> Result<Value, Refused> {
    serde_json::from_slice(&body(request).await?).map_err(|_| Refused::bad("Invalid JSON body"))
}

/// A member that is text and not empty: anything else counts as missing.
fn text<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name)?.as_str().filter(|text| !text.is_empty())
}

#[derive(Serialize)]
struct Read<'a> {
    path: &'a str,
    content: String,
    size: u64,
    modified: String,
    encoding: &'a str,
    source: &'static str,
}

async fn read(root: &Path, query: &str) -> Result<Answer, Refused> {
    let path = required(query)?;
    let encoding = param(query, "encoding").unwrap_or("utf-8".into());
    let failed = || Refused::failed("Failed to read file");
    let real = path.under(root);
    let meta = tokio::fs::metadata(&real).await.map_err(|_| Refused::missing("File not found"))?;
    if meta.len() > MAX_TEXT_BYTES {
        return Err(Refused::TooLarge(TooLarge {
            error: "File too large",
            size: meta.len(),
            max_size: MAX_TEXT_BYTES,
            hint: Some("Use download endpoint for large files"),
        }));
    }
    let bytes =
        if meta.is_dir() { Vec::new() } else { tokio::fs::read(&real).await.map_err(|_| failed())? };
    let content = match &*encoding {
        "base64" => STANDARD.encode(&bytes),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let modified = iso::of_file(&meta);
    Ok(ok(&Read {
        path: path.as_str(),
        content,
        size: meta.len(),
        modified: iso::text(iso::whole_seconds(modified)),
        encoding: &encoding,
        source: "container",
    }))
}

#[derive(Serialize)]
struct Written<'a> {
    success: bool,
    path: &'a str,
    size: u64,
    modified: String,
    source: &'static str,
}

async fn write(root: &Path, request: Request<Incoming>) -> Result<Answer, Refused> {
    let body = json_body(request).await?;
    let content = body.get("content").and_then(Value::as_str);
    let (Some(path), Some(content)) = (text(&body, "path"), content) else {
        return Err(Refused::bad("Path and content required"));
    };
    let path = Virtual::parse(path)?;
    let base64 = text(&body, "encoding") == Some("base64");
    let size = if base64 { content.len().saturating_mul(3).div_ceil(4) } else { content.len() };
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if size > MAX_TEXT_BYTES {
        let error = "Content too large";
        return Err(Refused::TooLarge(TooLarge { error, size, max_size: MAX_TEXT_BYTES, hint: None }));
    }
    let failed = |_| Refused::failed("Failed to write file");
    let decoded = if base64 {
        STANDARD.decode(content).map_err(|_| Refused::failed("Failed to write file"))?
    } else {
        content.as_bytes().to_vec()
    };
    let real = path.under(root);
    if body.get("createDirs") != Some(&Value::Bool(false)) {
        make_parent(&real).await.map_err(failed)?;
    }
    tokio::fs::write(&real, decoded).await.map_err(failed)?;
    let modified = iso::text(now().0);
    Ok(ok(&Written { success: true, path: path.as_str(), size, modified, source: "container" }))
}

async fn make_parent(real: &Path) -> std::io::Result<()> {
    match real.parent() {
        Some(parent) => tokio::fs::create_dir_all(parent).await,
        None => Ok(()),
    }
}

async fn download(root: &Path, query: &str) -> Result<Answer, Refused> {
    let path = required(query)?;
    let real = path.under(root);
    let missing = || Refused::missing("File not found");
    let failed = || Refused::failed("Download failed");
    let meta = tokio::fs::metadata(&real).await.map_err(|_| missing())?;
    if !meta.is_file() {
        return Err(missing());
    }
    let bytes = tokio::fs::read(&real).await.map_err(|_| failed())?;
    // As there: the name stands between quotes as it is, so one that no header can hold fails.
    let disposition = format!("attachment; filename=\"{}\"", path.name());
    let disposition = HeaderValue::from_bytes(disposition.as_bytes()).map_err(|_| failed())?;
    let length = HeaderValue::from(bytes.len());
    let mut answer = Response::new(forward::whole(bytes.into()));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(path.name())));
    headers.insert(CONTENT_DISPOSITION, disposition);
    headers.insert(CONTENT_LENGTH, length);
    Ok(answer)
}

/// The content type of a download, by the name's extension.
fn content_type(name: &str) -> &'static str {
    match list::extension(name).to_ascii_lowercase().as_str() {
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "md" => "text/markdown",
        "txt" => "text/plain",
        "html" => "text/html",
        "css" => "text/css",
        "js" => "text/javascript",
        "ts" => "text/typescript",
        "py" => "text/x-python",
        "csv" => "text/csv",
        "xml" => "application/xml",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[derive(Serialize)]
struct Deleted<'a> {
    success: bool,
    path: &'a str,
    permanent: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trashed<'a> {
    success: bool,
    path: &'a str,
    trash_path: String,
    trashed_at: String,
    expires_at: String,
}

async fn delete(root: &Path, query: &str) -> Result<Answer, Refused> {
    let path = required(query)?;
    if path.is_protected() {
        return Err(Refused::Plain(StatusCode::FORBIDDEN, "Cannot delete protected path"));
    }
    let real = path.under(root);
    let meta = tokio::fs::symlink_metadata(&real).await.map_err(|_| Refused::missing("Path not found"))?;
    let failed = |_| Refused::failed("Delete failed");
    if param(query, "permanent").as_deref() == Some("true") {
        if meta.is_dir() {
            tokio::fs::remove_dir_all(&real).await.map_err(failed)?;
        } else {
            tokio::fs::remove_file(&real).await.map_err(failed)?;
        }
        return Ok(ok(&Deleted { success: true, path: path.as_str(), permanent: true }));
    }
    let at = now();
    let trash = Virtual::in_trash(path.name(), at.0);
    let target = trash.under(root);
    make_parent(&target).await.map_err(failed)?;
    tokio::fs::rename(&real, &target).await.map_err(failed)?;
    Ok(ok(&Trashed {
        success: true,
        path: path.as_str(),
        trash_path: trash.as_str().to_owned(),
        trashed_at: iso::text(at.0),
        expires_at: iso::text(at.plus_ms(TRASH_KEEPS_MS).0),
    }))
}

#[derive(Serialize)]
struct Made<'a> {
    success: bool,
    path: &'a str,
}

async fn mkdir(root: &Path, request: Request<Incoming>) -> Result<Answer, Refused> {
    let body = json_body(request).await?;
    let path = Virtual::parse(text(&body, "path").ok_or(Refused::bad("Path required"))?)?;
    let real = path.under(root);
    // What is there already is fine, whatever it is.
    if tokio::fs::metadata(&real).await.is_err() {
        let failed = |_| Refused::failed("Failed to create directory");
        tokio::fs::create_dir_all(&real).await.map_err(failed)?;
    }
    Ok(ok(&Made { success: true, path: path.as_str() }))
}

#[derive(Serialize)]
struct Moved<'a> {
    success: bool,
    from: &'a str,
    to: &'a str,
}

async fn relocate(root: &Path, request: Request<Incoming>) -> Result<Answer, Refused> {
    let body = json_body(request).await?;
    let (Some(from), Some(to)) = (text(&body, "from"), text(&body, "to")) else {
        return Err(Refused::bad("From and to paths required"));
    };
    let (from, to) = (Virtual::parse(from)?, Virtual::parse(to)?);
    let (source, mut target) = (from.under(root), to.under(root));
    if tokio::fs::symlink_metadata(&source).await.is_err() {
        return Err(Refused::missing("Source path not found"));
    }
    let failed = |_| Refused::failed("Move failed");
    make_parent(&target).await.map_err(failed)?;
    if tokio::fs::metadata(&target).await.is_ok_and(|meta| meta.is_dir()) {
        target.push(from.name());
    }
    tokio::fs::rename(&source, &target).await.map_err(failed)?;
    Ok(ok(&Moved { success: true, from: from.as_str(), to: to.as_str() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_under_both_names() {
        for (path, expected) in [
            ("/api/files", Some("")),
            ("/api/files/", Some("/")),
            ("/api/files/list", Some("/list")),
            ("/ws/api/files/list", Some("/list")),
            ("/api/filesystem", None),
            ("/files/api/files", None),
        ] {
            assert_eq!(rest(path), expected, "{path}");
        }
    }

    #[test]
    fn content_types_go_by_the_last_extension_in_any_case() {
        for (name, expected) in [
            ("a.tar.ZIP", "application/zip"),
            ("a.JPEG", "image/jpeg"),
            (".md", "text/markdown"),
            ("Makefile", "application/octet-stream"),
            ("a.", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), expected, "{name}");
        }
    }
}
