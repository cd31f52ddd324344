//! The media type of a file, by its extension: the legacy contract's table, without a charset.
//!
//! Written out, because every row is pinned (`testbed/contract/cases.json`), also that what is in none of them is
//! bytes. The crates that know more types give other answers for some of these. The stand-in for the old Worker has
//! the table too, on purpose: it would prove nothing if it asked us.

/// The type of the file called `name`.
#[must_use]
pub fn of(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
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
