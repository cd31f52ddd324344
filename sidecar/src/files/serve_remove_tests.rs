use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::files::etag::ContentHash;
use crate::files::test_support::{path, workspace};
use crate::http_semantics::conditional::Field;
use crate::http_semantics::etag::{EntityTag, TagList};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn if_match(tag: EntityTag) -> Preconditions {
    Preconditions { if_match: Some(TagList::Tags(vec![tag])), ..Preconditions::default() }
}

fn tag(content: &[u8]) -> EntityTag {
    ContentHash::of(content).tag()
}

/// As agents write: a new file takes the name.
fn agent_writes(dir: &Path, name: &str, content: &str) {
    let new = dir.join(format!("{name}.new"));
    fs::write(&new, content).unwrap();
    fs::rename(new, dir.join(name)).unwrap();
}

/// The content of what is in the trash, but for its index.
fn trashed(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join(".trash")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().path());
    let names = names.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with(".automna"));
    names.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn what_is_written_between_check_and_move_stays() {
    type Write = fn(&Path);
    let writes: [(&str, Write, &str); 3] = [
        ("a new file", |dir| agent_writes(dir, "x", "agent"), "agent"),
        ("in place", |dir| fs::write(dir.join("x"), "in place").unwrap(), "in place"),
        ("of the same size", |dir| agent_writes(dir, "x", "OLD"), "OLD"),
    ];
    for (what, write, expect) in writes {
        for permanently in [false, true] {
            let (dir, files) = workspace();
            fs::write(dir.path().join("x"), "old").unwrap();
            let checked = |meta: &Meta| {
                let judged = judge(&files, &path("x"), meta, &if_match(tag(b"old")))?;
                write(dir.path());
                Ok(judged)
            };
            let failed = if permanently {
                remove::permanently_if(&files, &path("x"), checked).err()
            } else {
                trash::discard_if(&files, &path("x"), NOW, checked).err()
            };
            assert!(matches!(failed, Some(FileError::Precondition { .. })), "{what}: {failed:?}");
            assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), expect, "{what}");
            assert!(trashed(dir.path()).is_empty(), "{what}");
            let left = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(left, if permanently { 1 } else { 2 }, "{what}");
        }
    }
}

#[test]
fn without_preconditions_whatever_has_the_name_goes() {
    let (dir, files) = workspace();
    fs::write(dir.path().join("x"), "old").unwrap();
    let write = |meta: &Meta| {
        let judged = judge(&files, &path("x"), meta, &Preconditions::default())?;
        agent_writes(dir.path(), "x", "agent");
        Ok(judged)
    };
    assert!(trash::discard_if(&files, &path("x"), NOW, write).unwrap().is_ok());
    assert_eq!(trashed(dir.path()), ["agent"]);
}

/// An agent writes one version after another, as a new file or in place. A client deletes the versions it has seen.
#[test]
fn a_race_with_an_agent_deletes_no_other_version() {
    // As often as it takes for both to have happened a good many times.
    const DELETIONS: usize = 8;
    const REFUSALS: usize = 100;
    let (dir, files) = workspace();
    let over = AtomicBool::new(false);
    let (mut gone, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Each version has a length of its own: the clock of files is slower than this loop.
                agent_writes(dir.path(), "x", &"v".repeat(usize::try_from(n % 5000).unwrap() + 1));
            }
        });
        while gone < DELETIONS || refused < REFUSALS {
            let Ok(seen) = read::whole(&files, &path("x"), u64::MAX) else { continue };
            let before = trashed(dir.path()).len();
            let goes = Where::Trash(NOW);
            match entry(&files, &path("x"), What::File, &if_match(seen.etag), goes) {
                Ok(Ok(Some(there))) => {
                    let name = there.trash_path.rsplit('/').next().unwrap();
                    let took = fs::read(dir.path().join(".trash").join(name)).unwrap();
                    assert_eq!(took, seen.bytes);
                    gone += 1;
                    trash::purge(&files, None).unwrap();
                }
                Ok(Err(Verdict::PreconditionFailed(Field::IfMatch))) | Err(FileError::NotFound) => {}
                // Back, or in the trash because a still newer one has the name.
                Err(FileError::Precondition { .. }) => {
                    refused += 1;
                    assert!(trashed(dir.path()).len() <= before + 1);
                }
                other => panic!("{other:?}"),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{gone} deleted, {refused} found another version after the move");
}

#[test]
fn folders_have_no_tag_but_are_there() {
    let any = |list| Preconditions { if_match: Some(list), ..Preconditions::default() };
    let none = Preconditions { if_none_match: Some(TagList::Any), ..Preconditions::default() };
    let required = Preconditions { required: true, ..Preconditions::default() };
    let rows = [
        (any(TagList::Any), Ok(())),
        (Preconditions::default(), Ok(())),
        (any(TagList::Tags(vec![tag(b"")])), Err(Verdict::PreconditionFailed(Field::IfMatch))),
        (none, Err(Verdict::PreconditionFailed(Field::IfNoneMatch))),
        (required, Err(Verdict::PreconditionRequired)),
    ];
    for (preconditions, expect) in rows {
        let (dir, files) = workspace();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        let goes = Where::Trash(NOW);
        let as_file = entry(&files, &path("d"), What::File, &preconditions, goes);
        assert!(matches!(as_file, Err(FileError::NotAFile)));
        let got = entry(&files, &path("d"), What::Anything, &preconditions, goes).unwrap();
        assert_eq!(got.map(|_| ()), expect, "{preconditions:?}");
        assert_eq!(dir.path().join("d/e").exists(), expect.is_err());
    }
}
