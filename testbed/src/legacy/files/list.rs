//! The listing of a directory.

use std::cmp::Ordering;
use std::path::Path;

use serde::Serialize;

use super::path::Virtual;
use super::{Refused, iso, ok};
use crate::forward::Answer;
use crate::legacy::routes::param;

/// How the collation orders what is neither digit nor letter; these stand before both.
const PUNCTUATION: &str = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";

#[derive(Serialize)]
struct Listing<'a> {
    path: &'a str,
    files: Vec<Item>,
    parent: Option<&'a str>,
    source: &'static str,
}

#[derive(Debug, Serialize)]
struct Item {
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: Kind,
    size: u64,
    modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension: Option<String>,
}

/// In the order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Directory,
    File,
}

/// What stands behind the last dot; the whole name if there is none.
pub(super) fn extension(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// What is no directory lists as an empty one.
pub(super) async fn list(root: &Path, query: &str) -> Result<Answer, Refused> {
    let path = match param(query, "path") {
        Some(path) => Virtual::parse(&path)?,
        None => Virtual::default(),
    };
    let mut files = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(path.under(root)).await {
        let failed = |_| Refused::failed("Failed to list directory");
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            // Gone since it was listed.
            let Ok(meta) = entry.metadata().await else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = if meta.is_dir() { Kind::Directory } else { Kind::File };
            let modified = iso::text(iso::of_file(&meta));
            let extension = (kind == Kind::File).then(|| extension(&name).to_owned());
            files.push(Item { path: path.child(&name), name, kind, size: meta.len(), modified, extension });
        }
    }
    files.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| collate(&a.name, &b.name)));
    Ok(ok(&Listing { path: path.as_str(), files, parent: path.parent(), source: "container" }))
}

/// `localeCompare` for names of ASCII characters: by letter without regard to case, lower case first where that
/// leaves a tie. Other characters follow by their number, which is not quite what ICU does.
fn collate(a: &str, b: &str) -> Ordering {
    let rank = |c: char| match PUNCTUATION.find(c) {
        Some(at) => (0, at, c),
        None if c.is_ascii_digit() => (1, 0, c),
        None => (2, 0, c.to_ascii_lowercase()),
    };
    let case = |text: &str| text.chars().map(|c| c.is_ascii_uppercase()).collect::<Vec<_>>();
    a.chars().map(rank).cmp(b.chars().map(rank)).then_with(|| case(a).cmp(&case(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_dashboards_order() {
        let mut names = ["b", "B", "a", "A", "10", "2", "_x", "-x", ".x", "Ab", "aa", "z"];
        names.sort_by(|a, b| collate(a, b));
        assert_eq!(names, ["_x", "-x", ".x", "10", "2", "a", "A", "aa", "Ab", "b", "B", "z"]);
    }

    #[test]
    fn extensions() {
        for (name, expected) in
            [("a.tar.gz", "gz"), ("Makefile", "Makefile"), (".env", "env"), ("a.", ""), ("x.MD", "MD")]
        {
            assert_eq!(extension(name), expected, "{name}");
        }
    }

    #[test]
    fn keys_of_an_item_come_in_the_contracts_order() {
        let item = |kind, extension: Option<&str>| Item {
            name: "n".into(),
            path: "/root/clawd/n".into(),
            kind,
            size: 1,
            modified: "t".into(),
            extension: extension.map(Into::into),
        };
        for (item, expected) in [
            (
                item(Kind::File, Some("n")),
                r#"{"name":"n","path":"/root/clawd/n","type":"file","size":1,"modified":"t","extension":"n"}"#,
            ),
            (
                item(Kind::Directory, None),
                r#"{"name":"n","path":"/root/clawd/n","type":"directory","size":1,"modified":"t"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&item).unwrap(), expected);
        }
    }
}
