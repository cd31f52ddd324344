//! Uploads: one file and its whole target path, as a form.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use multer::Multipart;
use serde::Serialize;

use super::path::Virtual;
use super::{Refused, TooLarge, body, make_parent, ok};
use crate::forward::Answer;

/// Largest upload, in bytes.
const MAX_UPLOAD_BYTES: u64 = 52_428_800;

/// What a file is that does not say what it is.
const DEFAULT_TYPE: &str = "application/octet-stream";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Uploaded<'a> {
    success: bool,
    path: &'a str,
    size: u64,
    mime_type: &'a str,
}

/// What the form holds of what is looked for; the first of each counts.
#[derive(Default)]
struct Form {
    file: Option<(Bytes, String)>,
    path: Option<String>,
}

async fn read_form(content_type: &str, body: Bytes) -> Result<Form, multer::Error> {
    let boundary = multer::parse_boundary(content_type)?;
    // In one piece: the Worker holds it in memory, too.
    let body = stream::once(async { Ok::<_, Infallible>(body) });
    let mut parts = Multipart::new(body, boundary);
    let mut form = Form::default();
    while let Some(part) = parts.next_field().await? {
        match part.name() {
            // Without a file name it is text, which is no file.
            Some("file") if form.file.is_none() && part.file_name().is_some() => {
                let kind = part.content_type().map_or_else(|| DEFAULT_TYPE.to_owned(), ToString::to_string);
                form.file = Some((part.bytes().await?, kind));
            }
            Some("path") if form.path.is_none() => form.path = Some(part.text().await?),
            _ => {}
        }
    }
    Ok(form)
}

pub(super) async fn upload(root: &Path, request: Request<Incoming>) -> Result<Answer, Refused> {
    let invalid = || Refused::bad("Invalid form data");
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let body = body(request).await?;
    let form = read_form(&content_type, body).await.map_err(|_| invalid())?;
    let (Some((bytes, mime_type)), Some(path)) = (form.file, form.path.filter(|path| !path.is_empty()))
    else {
        return Err(Refused::bad("File and path required"));
    };
    let path = Virtual::parse(&path)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > MAX_UPLOAD_BYTES {
        let error = "File too large";
        return Err(Refused::TooLarge(TooLarge { error, size, max_size: MAX_UPLOAD_BYTES, hint: None }));
    }
    let failed = |_| Refused::failed("Upload failed");
    let real = path.under(root);
    make_parent(&real).await.map_err(failed)?;
    tokio::fs::write(&real, &bytes).await.map_err(failed)?;
    Ok(ok(&Uploaded { success: true, path: path.as_str(), size, mime_type: &mime_type }))
}
