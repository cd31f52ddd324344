//! Containment under fire: components of the paths are swapped for links that lead out while every verb runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use shared::time::UnixMillis;

use super::etag::Expect;
use super::path::WorkspacePath;
use super::root::{Mechanism, Root};
use super::{Files, copy, list, mkdir, read, remove, rename, trash, write};

const SECRET: &str = "the secret that is outside";

/// A name that exists outside only.
const ONLY_OUTSIDE: &str = "only-outside";

const SWAPPERS: usize = 2;
const WORKERS: usize = 4;

/// What the verbs are called with. `x` and `a/x` are what is swapped.
const PATHS: [&str; 12] = [
    "x",
    "x/secret",
    "x/sub",
    "x/sub/secret",
    "x/new",
    "x/n/e/w",
    "a/x",
    "a/x/secret",
    "a/x/sub/secret",
    "a/x/n/new",
    "plain",
    "b/moved",
];

/// Numbers without a pattern: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides
    }

    fn path(&mut self) -> WorkspacePath {
        WorkspacePath::parse(&format!("/root/clawd/{}", PATHS[self.roll(PATHS.len())])).unwrap()
    }
}

/// Everything below `dir`: path, inode, mode, time of change, content.
fn snapshot(dir: &Path) -> Vec<(PathBuf, u64, u32, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        let content = if meta.is_file() { fs::read(&at).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            pending.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((at, meta.ino(), meta.mode(), meta.ctime(), meta.ctime_nsec(), content));
    }
    found.sort();
    found
}

/// Until it is gone: a verb that has one of its folders open may still put something there.
fn discard(at: &Path) {
    while let Ok(meta) = fs::symlink_metadata(at) {
        let _again = if meta.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) };
    }
}

/// Swaps `x` or `a/x` for something else at once, as an agent with a hostile program might.
fn swap(dir: &Path, stage: &Path, dice: &mut Dice) {
    let (place, up) = [("x", ".."), ("a/x", "../..")][dice.roll(2)];
    match dice.roll(6) {
        0 => fs::write(stage, "inside").unwrap(),
        1 | 2 => {
            fs::create_dir_all(stage.join("sub")).unwrap();
            fs::write(stage.join("secret"), "inside").unwrap();
            fs::write(stage.join("sub/secret"), "inside").unwrap();
        }
        3 => symlink(dir.join("outside"), stage).unwrap(),
        4 => symlink(format!("{up}/outside"), stage).unwrap(),
        _ => symlink(format!("{up}/outside/secret"), stage).unwrap(),
    }
    let place = dir.join("workspace").join(place);
    if renameat_with(CWD, stage, CWD, &place, RenameFlags::EXCHANGE).is_err() {
        // The verbs have removed it, or the folder that it was in.
        let _gone = fs::create_dir(dir.join("workspace/a"));
        let _taken = renameat_with(CWD, stage, CWD, &place, RenameFlags::NOREPLACE);
    }
    discard(stage);
}

/// Runs one verb; true if it succeeded.
fn act(files: &Files, dice: &mut Dice) -> bool {
    let (one, two) = (dice.path(), dice.path());
    match dice.roll(10) {
        0..=2 => read::whole(files, &one, 1 << 20).is_ok_and(|content| {
            assert_ne!(content.bytes, SECRET.as_bytes(), "{one}");
            true
        }),
        3 => write::bytes(files, &one, b"written", true, &Expect::Anything).is_ok(),
        4 => list::list(files, &one, 1000, None).is_ok_and(|listing| {
            assert!(listing.entries.iter().all(|entry| *entry.name != *ONLY_OUTSIDE), "{one}");
            true
        }),
        5 => rename::rename(files, &one, &two).is_ok(),
        6 => copy::copy(files, &one, &two).is_ok(),
        7 => mkdir::mkdir(files, &one).is_ok(),
        8 => trash::discard(files, &one, UnixMillis(1_800_000_000_000)).is_ok(),
        _ => remove::permanently(files, &one).is_ok(),
    }
}

fn race(mechanism: Mechanism, operations: usize, act: fn(&Files, &mut Dice) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("workspace/a")).unwrap();
    fs::create_dir_all(dir.path().join("outside/sub")).unwrap();
    for name in ["secret", "sub/secret", ONLY_OUTSIDE] {
        fs::write(dir.path().join("outside").join(name), SECRET).unwrap();
    }
    let before = snapshot(&dir.path().join("outside"));
    let files = Files::over(Root::open_with(&dir.path().join("workspace"), mechanism).unwrap());
    let (done, succeeded) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (dir, files, done, succeeded) = (dir.path(), &files, &done, &succeeded);
        for n in 0..SWAPPERS {
            scope.spawn(move || {
                let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ n as u64);
                let stage = dir.join(format!("stage-{n}"));
                while !done.load(Ordering::Relaxed) {
                    swap(dir, &stage, &mut dice);
                }
            });
        }
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| {
                scope.spawn(move || {
                    let mut dice = Dice(0xD1B5_4A32_D192_ED03 ^ (n as u64) << 8);
                    for _ in 0..operations / WORKERS {
                        succeeded.fetch_add(usize::from(act(files, &mut dice)), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        // Also if a worker has failed: the swappers would go on for ever.
        done.store(true, Ordering::Relaxed);
        for end in ends {
            end.unwrap();
        }
    });
    assert_eq!(snapshot(&dir.path().join("outside")), before, "{mechanism:?}");
    // Nor was it copied in, where a later read would find it.
    for (at, _, _, _, _, content) in snapshot(&dir.path().join("workspace")) {
        assert_ne!(content, SECRET.as_bytes(), "{}", at.display());
        assert!(!at.ends_with(ONLY_OUTSIDE), "{}", at.display());
        assert!(!at.to_string_lossy().contains("/.automna-tmp-"), "{}", at.display());
    }
    let succeeded = succeeded.into_inner();
    assert!(succeeded > operations / 20, "{mechanism:?}: only {succeeded} of {operations} did anything");
}

/// Only what looks first and opens then: copying and removing a tree. The time between is short, so it is done often.
fn copy_or_remove(files: &Files, dice: &mut Dice) -> bool {
    if dice.roll(3) == 0 {
        return remove::tree(files.root.fd(), "x".as_ref()).is_ok();
    }
    let path = |text: &str| WorkspacePath::parse(&format!("/root/clawd/{text}")).unwrap();
    let to = format!("copy-{}", dice.roll(1 << 30));
    if copy::copy(files, &path("x"), &path(&to)).is_err() {
        return false;
    }
    for name in [to.clone(), format!("{to}/secret"), format!("{to}/sub/secret")] {
        if let Ok(content) = read::whole(files, &path(&name), 1 << 20) {
            assert_ne!(content.bytes, SECRET.as_bytes(), "{name}");
        }
    }
    remove::permanently(files, &path(&to)).is_ok()
}

#[test]
fn trees_do_not_lead_out() {
    race(Mechanism::Kernel, 12_000, copy_or_remove);
}

/// As fast as the kernel can, since a copy looks and opens within microseconds.
#[test]
fn a_copy_does_not_follow_what_was_a_folder_or_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("workspace");
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), SECRET).unwrap();
    let files = Files::over(Root::open_with(&root, Mechanism::Kernel).unwrap());
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("f"), "inside").unwrap();
    symlink("../outside", root.join("d-link")).unwrap();
    symlink("../outside/secret", root.join("f-link")).unwrap();
    let done = AtomicBool::new(false);
    let path = |text: &str| WorkspacePath::parse(&format!("/root/clawd/{text}")).unwrap();
    let leaks = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (one, two) in [("d", "d-link"), ("f", "f-link")] {
                    renameat_with(files.root.fd(), one, files.root.fd(), two, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let mut leaks = 0;
        for n in 0..1_000 {
            let to = root.join("c");
            let _refused = copy::copy(&files, &path(["d", "f"][n % 2]), &path("c"));
            let is_link = fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_symlink());
            let leaked =
                to.join("secret").exists() || fs::read(&to).is_ok_and(|text| text == SECRET.as_bytes());
            leaks += usize::from(leaked && !is_link);
            discard(&to);
        }
        done.store(true, Ordering::Relaxed);
        leaks
    });
    assert_eq!(leaks, 0);
}

/// As [`a_copy_does_not_follow_what_was_a_folder_or_file`]: between looking at a folder and opening it to empty it,
/// removal meets a link in its place. The link leads to a folder with the same names, so that recursion by path
/// instead of by handle would find what to remove there as well.
#[test]
fn a_removal_does_not_empty_the_folder_behind_a_link_that_took_its_place() {
    /// Without NOFOLLOW the way out is found within some hundred.
    const ROUNDS: usize = 1_500;
    let dir = tempfile::tempdir().unwrap();
    let (root, outside, stage) =
        (dir.path().join("workspace"), dir.path().join("outside"), dir.path().join("stage"));
    let fill = |at: &Path| {
        fs::create_dir_all(at.join("sub")).unwrap();
        for name in ["file", "sub/file"] {
            fs::write(at.join(name), SECRET).unwrap();
        }
    };
    fill(&outside);
    let before = snapshot(&outside);
    let files = Files::over(Root::open_with(&root, Mechanism::Kernel).unwrap());
    symlink("../outside", root.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // It fails while one of the two is missing.
                let _swapped =
                    renameat_with(files.root.fd(), "d", files.root.fd(), "link", RenameFlags::EXCHANGE);
                // Else it would hold the folder's lock nearly all the time.
                std::thread::yield_now();
            }
        });
        let rounds = scope.spawn(|| {
            for _ in 0..ROUNDS {
                // While `d` is free nothing is swapped. Each round begins with the folder there, and full.
                if fs::symlink_metadata(root.join("d")).is_err() {
                    if fs::symlink_metadata(root.join("link")).is_ok_and(|meta| meta.is_dir()) {
                        fs::rename(root.join("link"), root.join("d")).unwrap();
                        fill(&root.join("d"));
                        symlink("../outside", root.join("link")).unwrap();
                    } else {
                        fill(&stage);
                        fs::rename(&stage, root.join("d")).unwrap();
                    }
                }
                let _refused = remove::tree(files.root.fd(), "d".as_ref());
                if !outside.join("file").exists() || !outside.join("sub/file").exists() {
                    break;
                }
            }
        });
        let end = rounds.join();
        // Also if it has failed: the swapper would go on for ever.
        done.store(true, Ordering::Relaxed);
        end.unwrap();
    });
    assert_eq!(snapshot(&outside), before);
}

#[test]
fn nothing_leads_out_by_the_kernel() {
    race(Mechanism::Kernel, 3_000, act);
}

#[test]
fn nothing_leads_out_by_walking() {
    race(Mechanism::Walk, 3_000, act);
}

#[test]
#[ignore = "takes minutes"]
fn nothing_leads_out_for_long() {
    for mechanism in [Mechanism::Kernel, Mechanism::Walk] {
        race(mechanism, 100_000, act);
    }
}
