//! Tests of [`super`]: old or new and nothing between, whoever else is at work.

use super::*;
use crate::files::root::{Mechanism, Root};
use crate::files::test_support::path;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// `workspace`, and `outside` with a secret beside it.
fn furnished(mechanism: Mechanism) -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("workspace/a")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    let files = Files::over(Root::open_with(&dir.path().join("workspace"), mechanism).unwrap());
    (dir, files)
}

fn temps(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".automna-")).count()
}

async fn no_temps(dir: &Path) {
    for _ in 0..500 {
        if temps(dir) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a temporary file is left in {}", dir.display());
}

fn put(files: &Files, name: &str, text: &str, expect: &Expect) -> Result<Written, FileError> {
    bytes(files, &path(name), text.as_bytes(), true, expect)
}

#[test]
fn a_replacement_has_a_new_inode_and_the_old_mode_and_attributes() {
    let (dir, files) = furnished(Mechanism::Kernel);
    let at = dir.path().join("workspace/a/f");
    let made = put(&files, "a/f", "one", &Expect::Anything).unwrap();
    assert!(made.created);
    assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o644);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o4751)).unwrap();
    let old = File::open(&at).unwrap();
    let has_xattr = fsetxattr_works(&old);
    fs::hard_link(&at, dir.path().join("workspace/other")).unwrap();

    let written = put(&files, "a/f", "two", &Expect::Anything).unwrap();
    assert!(!written.created);
    assert_eq!(written.etag, ContentHash::of(b"two").tag());
    assert_eq!(fs::read_to_string(&at).unwrap(), "two");
    assert_eq!(fs::read_to_string(dir.path().join("workspace/other")).unwrap(), "one");
    assert_eq!(io::read_to_string(&old).unwrap(), "one");
    let (new, before) = (fs::metadata(&at).unwrap(), old.metadata().unwrap());
    assert_ne!(new.ino(), before.ino());
    assert_eq!(written.meta.version.ino, new.ino());
    assert_eq!((new.mode() & 0o7777, new.uid()), (0o4751, before.uid()));
    if has_xattr {
        let mut value = [0_u8; 8];
        let length = rustix::fs::fgetxattr(File::open(&at).unwrap(), "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
    }
    assert_eq!(temps(&dir.path().join("workspace/a")), 0);
}

fn fsetxattr_works(file: &File) -> bool {
    rustix::fs::fsetxattr(file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).is_ok()
}

#[test]
fn links_inside_are_followed_and_kept_and_those_leading_out_refused() {
    for mechanism in [Mechanism::Kernel, Mechanism::Walk] {
        let (dir, files) = furnished(mechanism);
        let root = dir.path().join("workspace");
        fs::write(root.join("a/f"), "old").unwrap();
        symlink("a/f", root.join("in")).unwrap();
        symlink("a/new", root.join("dangling")).unwrap();
        symlink("../outside/secret", root.join("out")).unwrap();
        symlink("../outside/made", root.join("out-new")).unwrap();
        symlink(dir.path().join("outside/secret"), root.join("absolute")).unwrap();
        symlink("../outside", root.join("out-dir")).unwrap();
        put(&files, "in", "new", &Expect::Anything).unwrap();
        put(&files, "dangling", "made", &Expect::Anything).unwrap();
        assert_eq!(fs::read_link(root.join("in")).unwrap(), Path::new("a/f"));
        assert_eq!(fs::read_to_string(root.join("a/f")).unwrap(), "new");
        assert_eq!(fs::read_to_string(root.join("a/new")).unwrap(), "made");
        for name in ["out", "out-new", "absolute", "out-dir/secret", "out-dir/n/e/w"] {
            let refused = put(&files, name, "x", &Expect::Anything);
            assert!(matches!(refused, Err(FileError::Outside)), "{mechanism:?} {name}: {refused:?}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("outside/secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
        assert_eq!(temps(&root), 0);
    }
}

#[test]
fn places_that_cannot_hold_a_file() {
    let (dir, files) = furnished(Mechanism::Kernel);
    let root = dir.path().join("workspace");
    symlink("a", root.join("to-dir")).unwrap();
    rustix::fs::mkfifoat(files.root.fd(), "fifo", Mode::from(0o600)).unwrap();
    for name in ["a", "to-dir", "fifo"] {
        let refused = put(&files, name, "x", &Expect::Anything);
        assert!(matches!(refused, Err(FileError::NotAFile)), "{name}: {refused:?}");
    }
    assert!(matches!(put(&files, ".trash", "x", &Expect::Anything), Err(FileError::Protected)));
    let at_root = bytes(&files, &WorkspacePath::root(), b"x", true, &Expect::Anything);
    assert!(matches!(at_root, Err(FileError::Protected)));
    let missing = bytes(&files, &path("n/e/w"), b"x", false, &Expect::Anything);
    assert!(matches!(missing, Err(FileError::NotFound)));
    assert!(!root.join("n").exists());
    bytes(&files, &path("n/e/w"), b"x", true, &Expect::Anything).unwrap();
    assert_eq!(fs::read(root.join("n/e/w")).unwrap(), b"x");
    assert_eq!(temps(&root), 0);
}

#[tokio::test]
async fn what_ends_early_leaves_the_old_file_and_no_trace() {
    let (dir, files) = furnished(Mechanism::Kernel);
    let folder = dir.path().join("workspace/a");
    fs::write(folder.join("f"), "old").unwrap();
    let big = vec![b'x'; 3 * BATCH_BYTES];

    let mut draft = Draft::at(&files, &path("a/f"), false, u64::MAX).await.unwrap();
    draft.push(big.clone().into()).await.unwrap();
    assert_eq!(temps(&folder), 1);
    drop(draft);
    no_temps(&folder).await;

    let failing = futures_util::stream::iter(vec![Ok(Bytes::from(big.clone())), Err(())]);
    let result = stream(&files, &path("a/f"), failing, u64::MAX, Expect::Anything).await;
    assert!(matches!(result, Err(FileError::BodyAborted)), "{result:?}");
    no_temps(&folder).await;

    let long = || futures_util::stream::iter(vec![Ok::<_, ()>(Bytes::from(big.clone()))]);
    let max = big.len() as u64;
    let result = stream(&files, &path("a/f"), long(), max - 1, Expect::Anything).await;
    assert!(matches!(result, Err(FileError::TooLarge { size, max: m }) if size == max && m == max - 1));
    no_temps(&folder).await;
    assert_eq!(fs::read_to_string(folder.join("f")).unwrap(), "old");

    stream(&files, &path("a/f"), long(), max, Expect::Anything).await.unwrap();
    assert_eq!(fs::read(folder.join("f")).unwrap(), big);
    no_temps(&folder).await;
}

#[test]
fn preconditions() {
    let (dir, files) = furnished(Mechanism::Kernel);
    let at = dir.path().join("workspace/f");
    let tag = |text: &str| ContentHash::of(text.as_bytes()).tag();
    let refused = |expect: Expect| {
        let result = put(&files, "f", "never", &expect);
        assert!(matches!(result, Err(FileError::Precondition { .. })), "{expect:?}: {result:?}");
    };
    refused(Expect::Present);
    refused(Expect::OneOf(vec![tag("one")]));
    assert!(!at.exists());
    put(&files, "f", "one", &Expect::Absent).unwrap();
    refused(Expect::Absent);
    refused(Expect::OneOf(vec![tag("two")]));
    refused(Expect::NoneOf(vec![tag("one")]));
    assert_eq!(fs::read_to_string(&at).unwrap(), "one");
    put(&files, "f", "two", &Expect::OneOf(vec![tag("x"), tag("one")])).unwrap();
    put(&files, "f", "three", &Expect::NoneOf(vec![tag("one")])).unwrap();
    put(&files, "f", "four", &Expect::Present).unwrap();
    assert_eq!(fs::read_to_string(&at).unwrap(), "four");
    assert_eq!(temps(&dir.path().join("workspace")), 0);
}

/// Of eight at once with the same expectation one wins, and its content is what is there.
fn exactly_one_wins(expect: &Expect, before: Option<&str>) {
    for _ in 0..20 {
        let (dir, files) = furnished(Mechanism::Kernel);
        if let Some(before) = before {
            fs::write(dir.path().join("workspace/f"), before).unwrap();
        }
        let start = std::sync::Barrier::new(8);
        let winners: Vec<usize> = std::thread::scope(|scope| {
            let (start, files) = (&start, &files);
            let writers: Vec<_> = (0..8)
                .map(|n| {
                    scope.spawn(move || {
                        start.wait();
                        match put(files, "f", &format!("writer {n}"), expect) {
                            Ok(_) => Some(n),
                            Err(FileError::Precondition { .. }) => None,
                            Err(error) => panic!("{error:?}"),
                        }
                    })
                })
                .collect();
            writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1, "{winners:?}");
        let text = fs::read_to_string(dir.path().join("workspace/f")).unwrap();
        assert_eq!(text, format!("writer {}", winners[0]));
        assert_eq!(temps(&dir.path().join("workspace")), 0);
    }
}

#[test]
fn of_concurrent_writers_one_wins() {
    exactly_one_wins(&Expect::OneOf(vec![ContentHash::of(b"old").tag()]), Some("old"));
    exactly_one_wins(&Expect::Absent, None);
}

/// A change within one tick of the kernel's clock leaves no trace in the times.
fn until_the_clock_of_files_has_ticked(since: &Path) {
    let probe = since.with_extension("probe");
    let modified = |at: &Path| fs::metadata(at).unwrap().modified().unwrap();
    let ticked = (0..1_000_000).any(|_| {
        fs::write(&probe, "probe").unwrap();
        modified(&probe) > modified(since)
    });
    assert!(ticked, "the clock stands still");
    fs::remove_file(&probe).unwrap();
}

#[test]
fn what_the_agent_does_between_judging_and_commit_is_not_lost() {
    type Act = fn(&Path);
    let expect = Expect::OneOf(vec![ContentHash::of(b"old").tag()]);
    let agent: [(&str, Act); 4] = [
        ("in place", |at| fs::write(at, "agent").unwrap()),
        ("in place, same length", |at| fs::write(at, "new").unwrap()),
        ("replaced", |at| {
            fs::write(at.with_extension("x"), "agent").unwrap();
            fs::rename(at.with_extension("x"), at).unwrap();
        }),
        ("a folder now", |at| {
            fs::remove_file(at).unwrap();
            fs::create_dir(at).unwrap();
        }),
    ];
    for (what, act) in agent {
        let (dir, files) = furnished(Mechanism::Kernel);
        let at = dir.path().join("workspace/f");
        fs::write(&at, "old").unwrap();
        until_the_clock_of_files_has_ticked(&at);
        let target = target(&files, &path("f"), false).unwrap();
        let temp = Temp::new(&target.parent).unwrap();
        temp.create_file().unwrap().write_all(b"ours").unwrap();
        let old = target.metadata().unwrap();
        let commit = judge(&files, &target, old.as_ref(), &expect).unwrap();
        act(&at);
        let after = fs::read(&at).ok();
        let result = replace(&temp, &target, commit);
        assert!(matches!(result, Err(FileError::Precondition { .. })), "{what}: {result:?}");
        drop(temp);
        assert_eq!(fs::read(&at).ok(), after, "{what}");
        assert_eq!(at.is_dir(), after.is_none(), "{what}");
        assert_eq!(temps(&dir.path().join("workspace")), 0, "{what}");
    }
}

#[test]
fn what_the_agent_makes_or_removes_between_judging_and_commit_stays_so() {
    let (dir, files) = furnished(Mechanism::Kernel);
    let at = dir.path().join("workspace/f");
    let target = target(&files, &path("f"), false).unwrap();
    let temp = Temp::new(&target.parent).unwrap();
    temp.create_file().unwrap();
    let commit = judge(&files, &target, None, &Expect::Absent).unwrap();
    fs::write(&at, "old").unwrap();
    assert!(matches!(replace(&temp, &target, commit), Err(FileError::Precondition { .. })));
    assert_eq!(fs::read_to_string(&at).unwrap(), "old");
    let old = target.metadata().unwrap();
    let expect = Expect::OneOf(vec![ContentHash::of(b"old").tag()]);
    let commit = judge(&files, &target, old.as_ref(), &expect).unwrap();
    fs::remove_file(&at).unwrap();
    assert!(matches!(replace(&temp, &target, commit), Err(FileError::Precondition { .. })));
    assert!(!at.exists());
}
