use std::fs;
use std::path::Path;

use super::*;
use crate::files::etag::ContentHash;
use crate::files::meta::Meta;
use crate::files::test_support::{path, workspace};
use crate::http_semantics::etag::TagList;

fn with(names: &[&str]) -> (tempfile::TempDir, Files) {
    let (dir, files) = workspace();
    for name in names {
        fs::write(dir.path().join(name), name).unwrap();
    }
    (dir, files)
}

fn is(dir: &Path, name: &str, content: Option<&str>) {
    assert_eq!(fs::read_to_string(dir.join(name)).ok().as_deref(), content, "{name}");
}

fn if_match(content: &str) -> Preconditions {
    let tags = TagList::Tags(vec![ContentHash::of(content.as_bytes()).tag()]);
    Preconditions { if_match: Some(tags), ..Preconditions::default() }
}

#[test]
fn conditions() {
    let nothing_there = Preconditions { if_none_match: Some(TagList::Any), ..Preconditions::default() };
    let required = Preconditions { required: true, ..Preconditions::default() };
    let both = Preconditions { if_none_match: Some(TagList::Any), ..if_match("a") };
    let rows = [
        (Preconditions::default(), "b", None),
        (if_match("a"), "b", None),
        (if_match("a"), "new/c", None),
        (if_match("a"), "a", None),
        (if_match("x"), "b", Some(Verdict::PreconditionFailed(Field::IfMatch))),
        (nothing_there.clone(), "b", Some(Verdict::PreconditionFailed(Field::IfNoneMatch))),
        (nothing_there, "c", None),
        (both.clone(), "c", None),
        (both, "b", Some(Verdict::PreconditionFailed(Field::IfNoneMatch))),
        (required, "c", Some(Verdict::PreconditionRequired)),
    ];
    for (preconditions, to, expect) in rows {
        let (dir, files) = with(&["a", "b"]);
        let moved = rename(&files, &path("a"), &path(to), &preconditions).unwrap();
        assert_eq!(moved.as_ref().err(), expect.as_ref(), "{preconditions:?} {to}");
        if expect.is_none() {
            is(dir.path(), to, Some("a"));
            is(dir.path(), "a", (to == "a").then_some("a"));
        } else {
            is(dir.path(), "a", Some("a"));
            is(dir.path(), "b", Some("b"));
        }
    }
}

#[test]
fn what_is_written_between_check_and_move_stays() {
    for to in ["b", "c"] {
        let (dir, files) = with(&["a", "b"]);
        let checked = |meta: &Meta| {
            let judged = judge(&files, &path("a"), meta, &if_match("a"))?;
            fs::write(dir.path().join("new"), "agent").unwrap();
            fs::rename(dir.path().join("new"), dir.path().join("a")).unwrap();
            Ok(judged)
        };
        let failed = rename_if(&files, &path("a"), &path(to), Replace::Files, checked).err();
        assert!(matches!(failed, Some(FileError::Precondition { .. })), "{to}: {failed:?}");
        is(dir.path(), "a", Some("agent"));
        is(dir.path(), "b", Some("b"));
        is(dir.path(), "c", None);
    }
}
