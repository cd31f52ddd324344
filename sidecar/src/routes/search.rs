//! `GET /api/files/search?q=…`: names and contents. See [`SearchQuery`] for the parameters and
//! [`crate::files::search::Found`] for the answer.

use std::io;
use std::time::Instant;

use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::describe::{Op, PATH, Tag, choice, integer, on_paths, on_reads, text};
use crate::auth::Authenticated;
use crate::error::{ApiError, HttpError};
use crate::files::error::FileError;
use crate::files::path::WorkspacePath;
use crate::files::search::ask::{Ask, AskError, Case, DEFAULT_LIMIT, Scope, Wanted};
use crate::files::search::{self, Budget, TIME_LIMIT};
use crate::state::App;

/// The parameters. One that is empty is missing.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SearchQuery {
    /// What to search for. Required.
    q: Option<String>,
    /// `names`, `contents` or `both`, the default.
    r#in: Option<String>,
    /// The folder to start in; the whole workspace without it.
    path: Option<String>,
    /// `true`: `q` is a regular expression in Rust's syntax. It cannot match across lines.
    regex: Option<String>,
    /// `smart`, the default: as `insensitive` unless `q` has a capital letter; or `sensitive`.
    case: Option<String>,
    /// Only what matches: a name as in `*.md`, or with a `/` a path below the start as in `src/**/*.rs`.
    glob: Option<String>,
    /// `true`: leave out what `.gitignore` files name, and `.git`.
    gitignore: Option<String>,
    /// `false`: leave out names that begin with a dot.
    hidden: Option<String>,
    /// Hits, which are names and lines, at most.
    limit: Option<String>,
}

impl SearchQuery {
    fn parse(self) -> Result<Ask, ApiError> {
        let path = match given(&self.path) {
            None => WorkspacePath::root(),
            Some(text) => WorkspacePath::parse(text).map_err(FileError::from)?,
        };
        let limit = match given(&self.limit).map(str::parse::<usize>) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit)) if limit > 0 => limit,
            Some(_) => return Err(AskError::Parameter("limit").into()),
        };
        let wanted = Wanted {
            scope: match given(&self.r#in) {
                None | Some("both") => Scope::Both,
                Some("names") => Scope::Names,
                Some("contents") => Scope::Contents,
                Some(_) => return Err(AskError::Parameter("in").into()),
            },
            case: match given(&self.case) {
                None | Some("smart") => Case::Smart,
                Some("sensitive") => Case::Sensitive,
                Some("insensitive") => Case::Insensitive,
                Some(_) => return Err(AskError::Parameter("case").into()),
            },
            is_regex: flag("regex", &self.regex, false)?,
            gitignore: flag("gitignore", &self.gitignore, false)?,
            hidden: flag("hidden", &self.hidden, true)?,
            text: self.q.unwrap_or_default(),
            glob: self.glob.filter(|glob| !glob.is_empty()),
            path,
            limit,
        };
        Ok(Ask::new(wanted)?)
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn flag(name: &'static str, text: &Option<String>, default: bool) -> Result<bool, AskError> {
    match given(text) {
        None => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(AskError::Parameter(name)),
    }
}

pub(super) async fn get(
    State(app): State<App>,
    _: Authenticated,
    query: Result<axum::extract::Query<SearchQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let axum::extract::Query(query) = query.map_err(|_| ApiError::BadPath)?;
    let ask = query.parse()?;
    let place = app.searches.clone().try_acquire_owned().map_err(|_| HttpError::BusySearching)?;
    let deadline = Instant::now().checked_add(TIME_LIMIT).unwrap_or_else(Instant::now);
    // Dropped with this future, which is when the client goes away.
    let (budget, _asker) = Budget::until(deadline);
    let found = app.files.run(move |files| {
        let _place = place;
        let found = search::run(files, &ask, &budget)?;
        // Here, since it can be a megabyte.
        serde_json::to_vec(&found).map_err(|error| FileError::from_io("encode", io::Error::other(error)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
    ];
    Ok((headers, found.await?).into_response())
}

pub(super) fn describe() -> Op {
    let bad_regex = AskError::Regex { explained: String::new() };
    let bad_glob = AskError::Glob { explained: String::new() };
    Op::new(Tag::Files, "searchFiles", "Search in names and in contents")
        .about(
            "Ends after five seconds, and after many other limits: an answer that is not whole says why in \
             `truncated`. Positions are UTF-16 code units, so that `text.slice(a, b)` is what matched. Files that \
             are no text are searched by name only; links are not followed. Two searches at a time.",
        )
        .required_query("q", text(), "What to search for: 1 to 1,000 bytes.")
        .query("in", choice(["names", "contents", "both"]), "`both` if it is missing.")
        .query("path", text(), &format!("{PATH} Where to start; the workspace itself if it is missing."))
        .query("regex", choice(["true", "false"]), "Whether `q` is a regular expression in Rust's syntax.")
        .query(
            "case",
            choice(["smart", "sensitive", "insensitive"]),
            "`smart` if it is missing: sensitive if `q` has a capital letter.",
        )
        .query("glob", text(), "Only what matches: a name as in `*.md`, a path as in `src/**/*.rs`.")
        .query("gitignore", choice(["true", "false"]), "`true` leaves out what `.gitignore` files name.")
        .query("hidden", choice(["true", "false"]), "`false` leaves out names that begin with a dot.")
        .query("limit", integer(), "Hits, which are names and lines: 200 if it is missing, at most 2,000.")
        .json::<search::Found>(
            StatusCode::OK,
            "What was found.",
            json!({
                "results": [{
                    "path": "/root/clawd/notes.md",
                    "type": "file",
                    "lines": [{"line": 3, "column": 7, "text": "Buy a needle.", "ranges": [[6, 12]]}],
                }],
                "truncated": [],
                "searched": {"entries": 12, "files": 9, "binaryFiles": 1},
            }),
        )
        .fails([ApiError::BadPath, AskError::Empty.into(), bad_regex.into(), bad_glob.into()])
        .fails([HttpError::BusySearching.into()])
        .fails([FileError::NotFound, FileError::NotADirectory].map(ApiError::from))
        .fails(on_paths().into_iter().chain(on_reads()).map(ApiError::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let parse = |query: &str| {
            let pairs = form_urlencoded::parse(query.as_bytes());
            let mut asked = SearchQuery::default();
            for (name, value) in pairs {
                let slot = match name.as_ref() {
                    "q" => &mut asked.q,
                    "in" => &mut asked.r#in,
                    "path" => &mut asked.path,
                    "regex" => &mut asked.regex,
                    "case" => &mut asked.case,
                    "glob" => &mut asked.glob,
                    "gitignore" => &mut asked.gitignore,
                    "hidden" => &mut asked.hidden,
                    "limit" => &mut asked.limit,
                    other => panic!("{other}"),
                };
                *slot = Some(value.into_owned());
            }
            asked.parse().map_err(|error| error.code())
        };
        let rows = [
            ("q=x", Ok(())),
            ("q=x&in=&path=&regex=&case=&glob=&gitignore=&hidden=&limit=", Ok(())),
            (
                "q=x&in=names&path=/root/clawd/a&regex=true&case=sensitive&glob=*.md&gitignore=true&hidden=false&limit=9",
                Ok(()),
            ),
            ("q=x&limit=99999999", Ok(())),
            ("", Err("bad_search")),
            ("q=", Err("bad_search")),
            ("q=(&regex=true", Err("bad_regex")),
            ("q=x&glob={a", Err("bad_glob")),
            ("q=x&in=name", Err("bad_search")),
            ("q=x&case=Smart", Err("bad_search")),
            ("q=x&regex=yes", Err("bad_search")),
            ("q=x&hidden=1", Err("bad_search")),
            ("q=x&limit=0", Err("bad_search")),
            ("q=x&limit=-1", Err("bad_search")),
            ("q=x&path=/etc", Err("bad_path")),
        ];
        for (query, expect) in rows {
            assert_eq!(parse(query).map(|_| ()), expect, "{query}");
        }
    }
}
