use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};

use super::ask::{AskError, Case, DEFAULT_LIMIT, MAX_LIMIT, MAX_PATTERN_BYTES, Wanted};
use super::*;
use crate::files::path::WorkspacePath;

fn wanted(text: &str) -> Wanted {
    Wanted {
        text: text.to_owned(),
        is_regex: false,
        case: Case::Smart,
        scope: Scope::Both,
        path: WorkspacePath::root(),
        glob: None,
        gitignore: false,
        hidden: true,
        limit: DEFAULT_LIMIT,
    }
}

/// Enough for any machine; tests that are about time have their own.
fn search(dir: &Path, wanted: Wanted) -> Found {
    let (budget, _asker) = Budget::until(Instant::now() + Duration::from_secs(600));
    run(&Files::open(dir).unwrap(), &Ask::new(wanted).unwrap(), &budget).unwrap()
}

/// Each hit in short: its path, `*` if by name, and the numbers of its lines.
fn short(found: &Found) -> Vec<String> {
    let hit = |hit: &Hit| {
        let name = if hit.name.is_some() { "*" } else { "" };
        let lines: String = hit.lines.iter().map(|line| format!(":{}", line.line)).collect();
        format!("{}{name}{lines}", hit.path.strip_prefix("/root/clawd/").unwrap())
    };
    found.results.iter().map(hit).collect()
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn furnished() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("apple.md", "one\ntwo Apple\napple apple\n"),
            ("fruit/apple/core.txt", "seed\r\nAPPLE\r\n"),
            ("fruit/pear.md", "no such thing\n"),
            (".hidden/apple", "x\n"),
            (".trash/apple.1", "apple\n"),
            (".automna-tmp-1", "apple\n"),
            ("sub/.trash/apple", "apple\n"),
        ],
    );
    dir
}

#[test]
fn names_and_contents() {
    let dir = furnished();
    type Change = fn(Wanted) -> Wanted;
    let rows: &[(&str, Change, &[&str])] = &[
        (
            "apple",
            |w| w,
            &[
                ".hidden/apple*",
                "apple.md*:2:3",
                "fruit/apple*",
                "fruit/apple/core.txt:2",
                "sub/.trash/apple*:1",
            ],
        ),
        (
            "apple",
            |w| Wanted { scope: Scope::Contents, ..w },
            &["apple.md:2:3", "fruit/apple/core.txt:2", "sub/.trash/apple:1"],
        ),
        ("apple", |w| Wanted { scope: Scope::Names, hidden: false, ..w }, &["apple.md*", "fruit/apple*"]),
        ("Apple", |w| w, &["apple.md:2"]),
        (
            "Apple",
            |w| Wanted { case: Case::Insensitive, scope: Scope::Contents, hidden: false, ..w },
            &["apple.md:2:3", "fruit/apple/core.txt:2"],
        ),
        (
            "apple",
            |w| Wanted { case: Case::Sensitive, scope: Scope::Contents, hidden: false, ..w },
            &["apple.md:3"],
        ),
        ("a.ple", |w| w, &[]),
        (
            "^a.ple",
            |w| Wanted { is_regex: true, scope: Scope::Contents, hidden: false, ..w },
            &["apple.md:3", "fruit/apple/core.txt:2"],
        ),
        (
            "apple$",
            |w| Wanted { is_regex: true, scope: Scope::Contents, hidden: false, ..w },
            &["apple.md:2:3", "fruit/apple/core.txt:2"],
        ),
        // Below the start, with its folders.
        ("fruit/apple", |w| Wanted { scope: Scope::Names, ..w }, &["fruit/apple*", "fruit/apple/core.txt*"]),
        ("apple", |w| Wanted { glob: Some("*.md".to_owned()), ..w }, &["apple.md*:2:3"]),
        ("apple", |w| Wanted { glob: Some("fruit/**/*.txt".to_owned()), ..w }, &["fruit/apple/core.txt:2"]),
        ("apple", |w| Wanted { glob: Some("*/*.txt".to_owned()), ..w }, &[]),
        (
            "apple",
            |w| Wanted { path: WorkspacePath::root().join("fruit").unwrap(), ..w },
            &["fruit/apple*", "fruit/apple/core.txt:2"],
        ),
        // Who starts in the trash means it.
        (
            "apple",
            |w| Wanted { path: WorkspacePath::root().join(".trash").unwrap(), ..w },
            &[".trash/apple.1*:1"],
        ),
    ];
    for (n, (text, change, expect)) in rows.iter().enumerate() {
        let found = search(dir.path(), change(wanted(text)));
        assert_eq!(short(&found), *expect, "row {n}: {text}");
        assert!(found.truncated.is_empty(), "{text}: {:?}", found.truncated);
    }
}

#[test]
fn where_in_the_line() {
    let dir = furnished();
    let found = search(
        dir.path(),
        Wanted { scope: Scope::Contents, glob: Some("apple.md".to_owned()), ..wanted("apple") },
    );
    let Line { line, excerpt } = &found.results[0].lines[1];
    assert_eq!((*line, excerpt.column, excerpt.text.as_str()), (3, 1, "apple apple"));
    assert_eq!(excerpt.ranges, [[0, 5], [6, 11]]);
}

#[test]
fn what_cannot_be_asked() {
    let long = "x".repeat(MAX_PATTERN_BYTES + 1);
    let regex = |text: &str| Ask::new(Wanted { is_regex: true, ..wanted(text) });
    assert_eq!(Ask::new(wanted("")).unwrap_err(), AskError::Empty);
    assert_eq!(Ask::new(wanted(&long)).unwrap_err(), AskError::TooLong);
    for bad in ["(", "a{2,1}", "\\", "(?P<x", "\\w{1000}{1000}", "a\\nb", &"(".repeat(100)] {
        let error = regex(bad).unwrap_err();
        assert!(matches!(error, AskError::Regex { .. }), "{bad}: {error:?}");
        assert_eq!(error.to_string(), "the regular expression cannot be used");
    }
    let glob = Ask::new(Wanted { glob: Some("{a".to_owned()), ..wanted("x") });
    assert!(matches!(glob, Err(AskError::Glob { .. })));
    let (budget, _asker) = Budget::until(Instant::now() + Duration::from_secs(600));
    let dir = furnished();
    let path = WorkspacePath::root().join("missing").unwrap();
    let ask = Ask::new(Wanted { path, ..wanted("x") }).unwrap();
    assert!(matches!(run(&Files::open(dir.path()).unwrap(), &ask, &budget), Err(FileError::NotFound)));
}

#[test]
fn gitignore_files_nest() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            (".gitignore", "*.log\n/target\nbuild/\n!keep.log\n# comment\n{\n"),
            ("a/.gitignore", "!special.log\n/only-here\n"),
            ("a/special.log", "needle"),
            ("a/other.log", "needle"),
            ("a/keep.log", "needle"),
            ("a/only-here", "needle"),
            ("a/b/only-here", "needle"),
            ("a/b/target/x", "needle"),
            ("a/b/build/x", "needle"),
            ("build", "needle"),
            ("target/x", "needle"),
            (".git/config", "needle"),
        ],
    );
    let asked = |path: &str, gitignore| {
        let path = WorkspacePath::parse(&format!("/root/clawd/{path}")).unwrap();
        short(&search(dir.path(), Wanted { path, gitignore, ..wanted("needle") }))
    };
    let kept = ["a/b/only-here:1", "a/b/target/x:1", "a/keep.log:1", "a/special.log:1"];
    assert_eq!(asked("", true), [&kept[..], &["build:1"]].concat());
    // The rules above the start hold as well.
    assert_eq!(asked("a", true), kept);
    assert_eq!(asked("a/b", true), &kept[..2]);
    assert_eq!(asked("", false).len(), 10);
}

#[test]
fn what_is_no_text_is_counted_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let late = [&b"needle\n".repeat(20_000)[..], b"\0needle\n"].concat();
    fs::write(dir.path().join("early"), b"\0needle\n").unwrap();
    fs::write(dir.path().join("late"), late).unwrap();
    fs::write(dir.path().join("needle.png"), b"\x89PNG\0").unwrap();
    fs::write(dir.path().join("latin1"), b"caf\xe9 needle\n").unwrap();
    let utf16: Vec<u8> = "\u{feff}a needle\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(dir.path().join("utf16"), utf16).unwrap();
    let found = search(dir.path(), Wanted { limit: MAX_LIMIT, ..wanted("needle") });
    // The late NUL is behind the lines of a file that are shown.
    let lines =
        |path: &str| found.results.iter().find(|hit| hit.path.ends_with(path)).map(|hit| hit.lines.len());
    assert_eq!(
        (lines("early"), lines("latin1"), lines("utf16"), lines("needle.png")),
        (None, Some(1), Some(1), Some(0))
    );
    assert_eq!((lines("late"), found.results[0].more_lines), (Some(MAX_LINES_PER_FILE), true));
    assert_eq!((found.searched.files, found.searched.binary_files), (5, 2));
}

#[test]
fn limits_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..10 {
        fs::write(dir.path().join(format!("needle-{n}")), "needle\nneedle\n").unwrap();
    }
    let limited = |limit, scope| {
        let found = search(dir.path(), Wanted { limit, scope, ..wanted("needle") });
        let hits: usize =
            found.results.iter().map(|hit| hit.lines.len() + usize::from(hit.name.is_some())).sum();
        (hits, found.truncated.contains(&Cause::Results))
    };
    for limit in 1..30 {
        assert_eq!(limited(limit, Scope::Both), (limit, true), "{limit}");
    }
    assert_eq!(limited(30, Scope::Both), (30, false));
    assert_eq!(limited(10, Scope::Names), (10, false));
    assert_eq!(limited(9, Scope::Names), (9, true));
    assert_eq!(limited(20, Scope::Contents), (20, false));
}

#[test]
fn huge_files_and_lines() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(dir.path().join("long")).unwrap();
    io::Write::write_all(&mut &sparse, b"needle\n").unwrap();
    fs::write(dir.path().join("line"), vec![b'x'; 20 << 20]).unwrap();
    fs::write(dir.path().join("line-after"), [&b"needle\n"[..], &vec![b'x'; 20 << 20]].concat()).unwrap();
    let found = search(dir.path(), wanted("needle"));
    assert_eq!(short(&found), ["line-after:1", "long:1"]);
    assert_eq!(found.truncated, [Cause::Size].into());

    // A text of some 70 MB, with the needle behind what is read.
    let text = [&b"0123456789abcde\n".repeat((70 << 20) / 16)[..], b"needle\n"].concat();
    fs::write(dir.path().join("text"), text).unwrap();
    let found = search(dir.path(), Wanted { glob: Some("text".to_owned()), ..wanted("needle") });
    assert_eq!((short(&found), found.truncated), (vec![], [Cause::Size].into()));
}

#[test]
fn time_that_is_over_and_askers_that_are_gone() {
    let dir = furnished();
    let files = Files::open(dir.path()).unwrap();
    let ask = Ask::new(wanted("apple")).unwrap();
    let (over, _asker) = Budget::until(Instant::now());
    let (cancelled, asker) = Budget::until(Instant::now() + Duration::from_secs(600));
    drop(asker);
    for budget in [over, cancelled] {
        let found = run(&files, &ask, &budget).unwrap();
        assert_eq!((found.results.len(), found.truncated), (0, [Cause::Time].into()));
    }
    // Within a file, too: it is noticed at the next read.
    let (over, _asker) = Budget::until(Instant::now());
    let lines = content::search(&mut content::searcher(), &ask.matcher, &b"apple\n"[..], 9, &over);
    assert_eq!(lines.failure.map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
}

#[test]
fn only_regular_files_are_opened_and_links_are_only_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("workspace");
    write(dir.path(), &[("outside/needle", "needle"), ("workspace/in/file", "needle")]);
    mkfifoat(CWD, root.join("needle-fifo"), Mode::from(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("needle-socket")).unwrap();
    symlink("../outside", root.join("needle-out")).unwrap();
    symlink("../outside/needle", root.join("out")).unwrap();
    symlink("in", root.join("again")).unwrap();
    symlink(".", root.join("in/circle")).unwrap();
    let found = search(&root, wanted("needle"));
    assert_eq!(short(&found), ["in/file:1", "needle-fifo*", "needle-out*", "needle-socket*"]);
    let special: Vec<_> = found.results.iter().map(|hit| hit.special).collect();
    assert_eq!(special, [None, Some("special"), Some("symlink"), Some("special")]);
    // A start that is a link beneath the root is the folder that it names; one that leads out is none.
    let at = |name: &str| Wanted { path: WorkspacePath::root().join(name).unwrap(), ..wanted("needle") };
    assert_eq!(short(&search(&root, at("again"))), ["again/file:1"]);
    let (budget, _asker) = Budget::until(Instant::now() + Duration::from_secs(600));
    let out = run(&Files::open(&root).unwrap(), &Ask::new(at("needle-out")).unwrap(), &budget);
    assert!(matches!(out, Err(FileError::Outside)));
}

#[test]
fn deep_trees_end() {
    let dir = tempfile::tempdir().unwrap();
    let deep = vec!["d"; MAX_DEPTH + 5].join("/");
    write(dir.path(), &[(&format!("{deep}/needle"), ""), ("e/needle", "")]);
    let found = search(dir.path(), wanted("needle"));
    assert_eq!((short(&found), found.truncated), (vec!["e/needle*".to_owned()], [Cause::Depth].into()));
}

/// Folders and files are swapped for links to their like outside, as fast as the kernel can, while they are searched.
#[test]
fn nothing_outside_is_found_while_names_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("workspace");
    write(dir.path(), &[("outside/x", "needle outside"), ("outside/sub/needle-outside", "")]);
    write(&root, &[("d/sub/y", "needle inside"), ("a/f", "needle inside")]);
    symlink("../outside", root.join("d-link")).unwrap();
    symlink("../../outside/x", root.join("a/f-link")).unwrap();
    let files = Files::open(&root).unwrap();
    let done = AtomicBool::new(false);
    let (seen, leaks) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (one, two) in [("d", "d-link"), ("a/f", "a/f-link")] {
                    renameat_with(files.root.fd(), one, files.root.fd(), two, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let ask = Ask::new(wanted("needle")).unwrap();
        let (budget, _asker) = Budget::until(Instant::now() + Duration::from_secs(600));
        let (mut seen, mut leaks) = (0, Vec::new());
        for _ in 0..2_000 {
            for hit in run(&files, &ask, &budget).unwrap().results {
                let text = format!("{hit:?}");
                seen += 1;
                if text.contains("outside") {
                    leaks.push(text);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        (seen, leaks)
    });
    assert!(leaks.is_empty(), "{leaks:?}");
    assert!(seen > 500, "{seen}");
}
