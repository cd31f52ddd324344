//! With the real inotify.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use super::feed::{Feed, Follow, Next};
use super::journal::{Cursor, Entry};
use super::*;
use crate::files::etag::Expect;
use crate::files::path::WorkspacePath;
use crate::files::{mkdir, rename, trash, write};

/// Longest wait for anything; nothing waits for it in vain.
const LIMIT: Duration = Duration::from_secs(30);

/// A workspace that is watched.
struct Scene {
    _dir: tempfile::TempDir,
    root: PathBuf,
    files: Files,
    reports: Receiver<Report>,
    _watcher: Watcher,
}

impl Scene {
    /// `before` is there when watching begins.
    fn new(before: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        let files = Files::open(&root).unwrap();
        make(&root, before);
        let (sender, reports) = mpsc::channel();
        let watcher = Watcher::start(files.clone(), move |report| drop(sender.send(report))).unwrap();
        assert!(!watcher.is_limited());
        Self { _dir: dir, root, files, reports, _watcher: watcher }
    }

    /// Everything up to now, in short, as in `change::tests`. A file that is made last is the sign that all was told.
    fn told(&self) -> Vec<String> {
        static SIGNS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let sign = format!("sign-{}", SIGNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        fs::create_dir(self.root.join(&sign)).unwrap();
        let mut told = Vec::new();
        loop {
            match self.reports.recv_timeout(LIMIT).expect("nothing was told") {
                Report::Lost(cause) => told.push(format!("{cause:?}")),
                Report::Changes(changes) => {
                    assert!(!changes.is_empty());
                    told.extend(changes.iter().map(short));
                }
            }
            // What went out of sight may come after it, at the end of its batch.
            if let Some(at) = told.iter().position(|one| *one == format!("+{sign}/")) {
                told.remove(at);
                return told;
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Names that end with `/` are folders.
fn make(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "old").unwrap();
        }
    }
}

fn short(change: &Change) -> String {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let slash = |is_dir: &bool| if *is_dir { "/" } else { "" };
    match change {
        Change::Created { path, is_dir } => format!("+{}{}", text(path), slash(is_dir)),
        Change::Modified { path } => format!("~{}", text(path)),
        Change::Deleted { path, is_dir } => format!("-{}{}", text(path), slash(is_dir)),
        Change::Moved { from, to, is_dir } => format!("{}>{}{}", text(from), text(to), slash(is_dir)),
    }
}

fn sorted(mut told: Vec<String>) -> Vec<String> {
    told.sort();
    told
}

#[test]
fn files_come_change_move_and_go() {
    let scene = Scene::new(&["old", "a/", "a/f", "empty/"]);
    assert_eq!(scene.told(), [""; 0]);
    fs::write(scene.path("new"), "new").unwrap();
    assert_eq!(scene.told(), ["+new"]);
    fs::write(scene.path("old"), "new").unwrap();
    fs::write(scene.path("a/f"), "new").unwrap();
    assert_eq!(scene.told(), ["~old", "~a/f"]);
    fs::rename(scene.path("a/f"), scene.path("a/g")).unwrap();
    fs::rename(scene.path("a/g"), scene.path("h")).unwrap();
    assert_eq!(scene.told(), ["a/f>a/g", "a/g>h"]);
    // As editors save.
    fs::write(scene.path("old~"), "newer").unwrap();
    fs::rename(scene.path("old~"), scene.path("old")).unwrap();
    assert_eq!(scene.told(), ["~old"]);
    symlink("old", scene.path("link")).unwrap();
    fs::remove_file(scene.path("h")).unwrap();
    fs::remove_dir(scene.path("empty")).unwrap();
    assert_eq!(scene.told(), ["+link", "-h", "-empty/"]);
    // In and out.
    let outside = scene.root.parent().unwrap().join("outside");
    fs::rename(scene.path("new"), &outside).unwrap();
    assert_eq!(scene.told(), ["-new"]);
    fs::rename(&outside, scene.path("new")).unwrap();
    assert_eq!(scene.told(), ["+new"]);
    fs::rename(scene.path("new"), &outside).unwrap();
    fs::write(scene.path("new"), "").unwrap();
    assert_eq!(scene.told(), ["~new"]);
}

#[test]
fn a_file_that_stays_open_is_told_while_it_is_written() {
    let scene = Scene::new(&["log"]);
    let mut log = fs::OpenOptions::new().append(true).open(scene.path("log")).unwrap();
    for _ in 0..3 {
        log.write_all(b"line\n").unwrap();
        assert_eq!(scene.told(), ["~log"]);
    }
}

#[test]
fn trees_come_move_and_go() {
    let scene = Scene::new(&["a/b/c/f", "x/"]);
    // Moved, and still watched below its new name.
    fs::rename(scene.path("a/b"), scene.path("x/y")).unwrap();
    fs::write(scene.path("x/y/c/f"), "new").unwrap();
    fs::write(scene.path("x/y/c/g"), "new").unwrap();
    assert_eq!(scene.told(), ["a/b>x/y/", "~x/y/c/f", "+x/y/c/g"]);
    // Out of sight, and silent.
    let outside = scene.root.parent().unwrap().join("outside");
    fs::rename(scene.path("x/y"), &outside).unwrap();
    assert_eq!(scene.told(), ["-x/y/"]);
    fs::write(outside.join("c/f"), "newer").unwrap();
    assert_eq!(scene.told(), [""; 0]);
    // Back, with everything in it.
    fs::rename(&outside, scene.path("z")).unwrap();
    assert_eq!(sorted(scene.told()), ["+z/", "+z/c/", "+z/c/f", "+z/c/g"]);
    fs::write(scene.path("z/c/f"), "newest").unwrap();
    assert_eq!(scene.told(), ["~z/c/f"]);
    fs::remove_dir_all(scene.path("z")).unwrap();
    assert_eq!(sorted(scene.told()), ["-z/", "-z/c/", "-z/c/f", "-z/c/g"]);
}

#[test]
fn folders_that_are_made_quickly_hide_nothing() {
    let scene = Scene::new(&[]);
    for n in 0..100 {
        let deep = format!("{n}/a/b/c");
        fs::create_dir_all(scene.path(&deep)).unwrap();
        fs::write(scene.path(&format!("{deep}/file")), "").unwrap();
    }
    let told = scene.told();
    for n in 0..100 {
        for name in ["/", "/a/", "/a/b/", "/a/b/c/", "/a/b/c/file"] {
            let expect = format!("+{n}{name}");
            assert_eq!(told.iter().filter(|one| **one == expect).count(), 1, "{expect}");
        }
    }
    assert_eq!(told.len(), 500);
    // And each of them is watched.
    for n in 0..100 {
        fs::write(scene.path(&format!("{n}/a/b/c/file")), "x").unwrap();
    }
    assert_eq!(scene.told().len(), 100);
}

#[test]
fn folders_that_move_while_they_are_filled_are_watched_after_all() {
    let scene = Scene::new(&["top/"]);
    for n in 0..200 {
        fs::create_dir_all(scene.path("top/new/sub")).unwrap();
        fs::rename(scene.path("top"), scene.path(&format!("moved-{n}"))).unwrap();
        // What has the old name now is something else.
        fs::create_dir_all(scene.path("top/new")).unwrap();
    }
    let _what_came_of_it = scene.told();
    for n in 0..200 {
        fs::write(scene.path(&format!("moved-{n}/new/sub/file")), "").unwrap();
    }
    fs::write(scene.path("top/new/file"), "").unwrap();
    let told = scene.told();
    assert_eq!(told.len(), 201, "{told:?}");
    assert!(
        told.contains(&"+moved-150/new/sub/file".to_owned()) && told.contains(&"+top/new/file".to_owned())
    );
}

#[test]
fn what_our_own_verbs_do_is_told_in_their_terms() {
    let scene = Scene::new(&["old", "d/f"]);
    let path = |text: &str| WorkspacePath::parse(&format!("/root/clawd/{text}")).unwrap();
    let put = |name: &str| write::bytes(&scene.files, &path(name), b"x", true, &Expect::Anything).unwrap();
    put("new");
    put("old");
    put("n/e/w");
    assert_eq!(scene.told(), ["+new", "~old", "+n/", "+n/e/", "+n/e/w"]);
    rename::rename(&scene.files, &path("new"), &path("d/new")).unwrap();
    mkdir::mkdir(&scene.files, &path("made")).unwrap();
    assert_eq!(scene.told(), ["new>d/new", "+made/"]);
    // The trash is not seen, nor is what is purged from it.
    let now = crate::clock::now();
    trash::discard(&scene.files, &path("d"), now).unwrap();
    assert_eq!(scene.told(), ["-d/"]);
    fs::write(scene.path(".automna-tmp-x"), "").unwrap();
    fs::create_dir(scene.path(".automna-tmp-y")).unwrap();
    fs::write(scene.path(".automna-tmp-y/z"), "").unwrap();
    fs::write(scene.path(".trash/z"), "").unwrap();
    assert_eq!(scene.told(), [""; 0]);
    fs::rename(scene.path(".automna-tmp-y"), scene.path("y")).unwrap();
    assert_eq!(scene.told(), ["+y/", "+y/z"]);
}

#[test]
fn links_are_not_followed_and_names_can_be_anything() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new(&["in/f"]);
    let outside = scene.root.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, scene.path("out")).unwrap();
    symlink("in", scene.path("again")).unwrap();
    fs::create_dir(scene.path("sub")).unwrap();
    symlink("../../outside", scene.path("sub/out")).unwrap();
    assert_eq!(scene.told(), ["+out", "+again", "+sub/", "+sub/out"]);
    fs::write(outside.join("secret"), "").unwrap();
    fs::write(scene.path("in/f"), "new").unwrap();
    assert_eq!(scene.told(), ["~in/f"]);
    let odd = scene.root.join(std::ffi::OsStr::from_bytes(b"a\n\xff"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("x"), "").unwrap();
    assert_eq!(scene.told(), ["+a\n\u{fffd}/", "+a\n\u{fffd}/x"]);
}

/// More happens than the kernel notes, because the sink does not come back: a real overflow.
#[test]
fn an_overflow_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("workspace");
    let files = Files::open(&root).unwrap();
    let (sender, reports) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let mut held = false;
    let watcher = Watcher::start(files, move |report| {
        let _gone = sender.send(report);
        if !std::mem::replace(&mut held, true) {
            let _opened = gate.recv_timeout(LIMIT);
        }
    });
    let _watcher = watcher.unwrap();
    fs::write(root.join("first"), "").unwrap();
    assert!(matches!(reports.recv_timeout(LIMIT), Ok(Report::Changes(_))));
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    for n in 0..=limit / 2 {
        fs::create_dir(root.join(format!("d{n}"))).unwrap();
        fs::remove_dir(root.join(format!("d{n}"))).unwrap();
    }
    fs::create_dir_all(root.join("unseen/deep")).unwrap();
    open.send(()).unwrap();
    loop {
        match reports.recv_timeout(LIMIT).unwrap() {
            Report::Lost(cause) => break assert_eq!(cause, Cause::Overflow),
            Report::Changes(_) => {}
        }
    }
    // What was made in the dark is watched.
    fs::write(root.join("unseen/deep/file"), "").unwrap();
    loop {
        match reports.recv_timeout(LIMIT).unwrap() {
            Report::Changes(changes) => break assert_eq!(short(&changes[0]), "+unseen/deep/file"),
            Report::Lost(_) => {}
        }
    }
}

#[test]
fn ten_thousand_files_at_once() {
    let scene = Scene::new(&["d/"]);
    for n in 0..10_000 {
        fs::write(scene.path(&format!("d/{n}")), "x").unwrap();
    }
    let mut told = scene.told();
    told.retain(|one| one.starts_with('+'));
    let unique: std::collections::BTreeSet<_> = told.iter().collect();
    assert_eq!((told.len(), unique.len()), (10_000, 10_000));
}

#[test]
fn a_workspace_that_goes_away_is_told() {
    let scene = Scene::new(&["f"]);
    fs::rename(&scene.root, scene.root.with_file_name("elsewhere")).unwrap();
    assert_eq!(scene.reports.recv_timeout(LIMIT), Ok(Report::Lost(Cause::Root)));
    assert_eq!(scene.reports.recv_timeout(GATHER), Err(RecvTimeoutError::Timeout));
}

/// A random program of changes; whoever follows what is told has the same tree in the end.
fn follow_a_program(seed: u64) {
    let scene = Scene::new(&["a/", "b/c/", "a/f", "b/c/g"]);
    let mut seen = tree(&scene.root);
    let (mut done, mut all_told) = (Vec::new(), Vec::new());
    let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 16) % sides
    };
    for step in 0..600 {
        let mut name = || {
            let depth = roll(4);
            let parts: Vec<_> = (0..=depth).map(|_| ["a", "b", "c", "f", "g"][roll(5) as usize]).collect();
            scene.path(&parts.join("/"))
        };
        let (one, two) = (name(), name());
        // Most of them fail, since something is missing or in the way.
        let what = roll(6);
        done.push((what, one.clone(), two.clone()));
        match what {
            0 => drop(fs::create_dir_all(one)),
            1 | 2 => drop(fs::write(one, "x")),
            3 => drop(fs::rename(one, two)),
            4 => drop(fs::remove_file(one)),
            _ => drop(fs::remove_dir_all(one)),
        }
        // In one go, or in some parts.
        if step % (40 * (1 + seed % 20)) == 0 {
            all_told.extend(scene.told());
        }
    }
    all_told.extend(scene.told());
    all_told.iter().for_each(|change| apply(&mut seen, change));
    let mut expect = tree(&scene.root);
    expect.retain(|name| !name.starts_with("sign-"));
    assert_eq!(seen, expect, "seed {seed}: {done:?} was told as {all_told:?}");
}

#[test]
fn who_follows_has_the_same_tree() {
    (1..=8).for_each(follow_a_program);
}

#[test]
#[ignore = "takes minutes"]
fn who_follows_has_the_same_tree_for_long() {
    (1..=300).for_each(follow_a_program);
}

fn tree(root: &Path) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

fn apply(seen: &mut std::collections::BTreeSet<String>, change: &str) {
    let change = change.trim_end_matches('/');
    let within = |name: &str, top: &str| name == top || name.starts_with(&format!("{top}/"));
    if let Some((from, to)) = change.split_once('>') {
        seen.retain(|name| !within(name, to));
        let moved: Vec<_> = seen.iter().filter(|name| within(name, from)).cloned().collect();
        seen.insert(to.to_owned());
        for name in moved {
            seen.remove(&name);
            seen.insert(format!("{to}{}", &name[from.len()..]));
        }
    } else if let Some(gone) = change.strip_prefix('-') {
        seen.retain(|name| !within(name, gone));
    } else {
        seen.insert(change[1..].to_owned());
    }
}

/// A feed, and where its journal is.
fn feed() -> (tempfile::TempDir, Feed) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::open(&dir.path().join("workspace")).unwrap();
    let feed = Feed::new(files, dir.path().join("changes"));
    (dir, feed)
}

/// Entries until one is about `path`.
fn until(follow: &mut Follow, path: &str) -> Vec<Entry> {
    let (deadline, mut got) = (Instant::now() + LIMIT, Vec::new());
    let wanted = format!("\"path\":\"/root/clawd/{path}\"");
    loop {
        match follow.take() {
            Next::Entries(entries) => got.extend(entries),
            Next::Lost(cause) => panic!("{cause:?}"),
            Next::UpToDate => {
                if got.iter().any(|entry: &Entry| entry.data.contains(&wanted)) {
                    return got;
                }
                assert!(Instant::now() < deadline, "{path} was never told");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn who_comes_back_gets_what_was_missed() {
    let (dir, feed) = feed();
    let root = dir.path().join("workspace");
    let mut follow = feed.begin(None).unwrap();
    assert!(follow.missed.is_none() && matches!(follow.take(), Next::UpToDate));
    fs::write(root.join("one"), "1").unwrap();
    let got = until(&mut follow, "one");
    assert_eq!((got.len(), got[0].event.name()), (1, "created"));
    let data: serde_json::Value = serde_json::from_str(&got[0].data).unwrap();
    assert_eq!(
        (&data["path"], &data["type"], &data["size"]),
        (&"/root/clawd/one".into(), &"file".into(), &1.into())
    );
    assert!(data["etag"].is_string() && data["modified"].is_string());
    let cursor = follow.cursor().to_string();
    drop(follow);
    fs::write(root.join("two"), "2").unwrap();
    let mut other = feed.begin(Cursor::parse(&cursor).as_ref()).unwrap();
    let got = until(&mut other, "two");
    assert_eq!((got.len(), other.missed), (1, None));

    // The next process: what was told before, then that nobody knows what happened since.
    drop((feed, other));
    fs::write(root.join("three"), "3").unwrap();
    let files = Files::open(&root).unwrap();
    let feed = Feed::new(files, dir.path().join("changes"));
    let mut follow = feed.begin(Cursor::parse(&cursor).as_ref()).unwrap();
    assert_eq!(follow.missed, None);
    fs::write(root.join("four"), "4").unwrap();
    let got = until(&mut follow, "four");
    let shown: Vec<_> = got.iter().map(|entry| (entry.event.name(), &*entry.data)).collect();
    assert_eq!((shown.len(), shown[1]), (3, ("rescan", "{\"cause\":\"restart\"}")), "{shown:?}");
    // Not of this volume.
    let unknown = Cursor::parse("00000000000000a1-1").unwrap();
    assert_eq!(feed.begin(Some(&unknown)).unwrap().missed, Some(Cause::Unknown));
}

#[test]
fn who_is_too_slow_is_told_so() {
    let (dir, feed) = feed();
    let root = dir.path().join("workspace");
    let (mut slow, mut quick) = (feed.begin(None).unwrap(), feed.begin(None).unwrap());
    for round in 0..3 {
        for n in 0..8_000 {
            fs::write(root.join(format!("f-{round}-{n}")), "").unwrap();
        }
        until(&mut quick, &format!("f-{round}-7999"));
    }
    assert!(matches!(slow.take(), Next::Lost(Cause::Slow)));
    assert_eq!(slow.cursor(), quick.cursor());
    fs::write(root.join("last"), "").unwrap();
    assert_eq!(until(&mut slow, "last").len(), 1);
}
