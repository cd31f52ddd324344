//! Tests of moving, copying, removing and making folders, with both mechanisms.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::error::FileError;
use super::path::WorkspacePath;
use super::root::{Mechanism, Root};
use super::{Files, copy::copy, mkdir::mkdir, remove, rename::rename};
use crate::files::test_support::path;

/// Runs `check` over a furnished workspace; afterwards what is outside is as it was, and no temporary name is left.
fn with_workspace(check: fn(&Path, &Files)) {
    for mechanism in [Mechanism::Kernel, Mechanism::Walk] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("f"), "f").unwrap();
        fs::write(root.join("g"), "g").unwrap();
        fs::write(root.join("d/e/x"), "x").unwrap();
        fs::write(root.join("SOUL.md"), "soul").unwrap();
        fs::create_dir_all(dir.path().join("outside/sub")).unwrap();
        fs::write(dir.path().join("outside/sub/secret"), "secret").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink(dir.path().join("outside"), root.join("d/absolute")).unwrap();
        let files = Files::over(Root::open_with(&root, mechanism).unwrap());
        check(&root, &files);
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(dir.path().join("outside/sub/secret")).unwrap(), "secret");
        for entry in fs::read_dir(&root).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().starts_with(".automna-"), "{name:?}");
        }
    }
}

fn text(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn renaming() {
    with_workspace(|root, files| {
        let go = |from: &str, to: &str| rename(files, &path(from), &path(to));
        assert_eq!(go("f", "g").unwrap(), path("g"));
        assert_eq!(text(root, "g"), "f");
        assert!(!root.join("f").exists());
        assert_eq!(go("g", "d").unwrap(), path("d/g"));
        assert_eq!(go("d/g", "n/e/w").unwrap(), path("n/e/w"));
        assert_eq!(text(root, "n/e/w"), "f");
        assert_eq!(go("n/e/w", "n/e/w").unwrap(), path("n/e/w"));
        fs::hard_link(root.join("n/e/w"), root.join("twin")).unwrap();
        go("twin", "n/e/w").unwrap();
        assert!(!root.join("twin").exists());
        assert_eq!(text(root, "n/e/w"), "f");
        assert_eq!(go("out", "moved").unwrap(), path("moved"));
        assert!(fs::symlink_metadata(root.join("moved")).unwrap().is_symlink());
        // A file may take the name of a protected one, as a write may.
        go("n/e/w", "SOUL.md").unwrap();
        assert_eq!(text(root, "SOUL.md"), "f");
    });
}

#[test]
fn renaming_that_is_refused() {
    with_workspace(|root, files| {
        let go = |from: &str, to: &str| rename(files, &path(from), &path(to));
        assert!(matches!(go("missing", "x"), Err(FileError::NotFound)));
        assert!(matches!(go("SOUL.md", "x"), Err(FileError::Protected)));
        assert!(matches!(rename(files, &WorkspacePath::root(), &path("x")), Err(FileError::Protected)));
        for (from, to) in [("d", "SOUL.md"), ("out", "SOUL.md"), ("d", "AGENTS.md"), ("f", ".trash")] {
            let refused = go(from, to);
            assert!(
                matches!(refused, Err(FileError::Protected | FileError::Exists)),
                "{from} {to}: {refused:?}"
            );
        }
        for (from, to) in [
            ("f", "out/f"),
            ("f", "d/absolute/f"),
            ("f", "out/n/e/w"),
            ("f", "d/absolute/sub/secret"),
            ("out/sub/secret", "stolen"),
            ("d/absolute/sub", "stolen"),
        ] {
            assert!(matches!(go(from, to), Err(FileError::Outside)), "{from} {to}");
        }
        assert!(matches!(go("d", "d/e/d"), Err(FileError::IntoItself)));
        assert!(matches!(go("d", "d/n/e/w"), Err(FileError::IntoItself)));
        assert!(!root.join("d/n").exists(), "a refused rename has made folders");
        assert!(matches!(go("f", "g/x"), Err(FileError::NotADirectory)));
        assert_eq!((text(root, "f"), text(root, "SOUL.md")), ("f".into(), "soul".into()));
    });
}

#[test]
fn copying() {
    with_workspace(|root, files| {
        let go = |from: &str, to: &str| copy(files, &path(from), &path(to));
        fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o750)).unwrap();
        rustix::fs::mkfifoat(files.root.fd(), "d/fifo", rustix::fs::Mode::from(0o600)).unwrap();
        fs::write(root.join("d/.automna-tmp-0-1"), "").unwrap();
        go("f", "n/f").unwrap();
        assert_eq!(text(root, "n/f"), "f");
        assert_eq!(fs::metadata(root.join("n/f")).unwrap().mode() & 0o7777, 0o750);
        go("d", "c").unwrap();
        assert_eq!(text(root, "c/e/x"), "x");
        assert_eq!(
            fs::read_link(root.join("c/absolute")).unwrap(),
            fs::read_link(root.join("d/absolute")).unwrap()
        );
        assert_eq!(fs::read_dir(root.join("c")).unwrap().count(), 2);
        go("out", "link").unwrap();
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("../outside"));

        for (from, to) in [("f", "g"), ("d", "c"), ("f", "f"), ("f", "link")] {
            assert!(matches!(go(from, to), Err(FileError::Exists)), "{from} {to}");
        }
        assert_eq!(text(root, "g"), "g");
        for (from, to) in [("f", "out/f"), ("out/sub/secret", "s"), ("out/sub", "s"), ("d", "d/absolute/n/w")]
        {
            let refused = go(from, to);
            assert!(matches!(refused, Err(FileError::Outside | FileError::IntoItself)), "{from} {to}");
        }
        assert!(matches!(go("d", "d/n/w"), Err(FileError::IntoItself)));
        assert!(matches!(go("d/fifo", "s"), Err(FileError::NotAFile)));
        assert!(matches!(go("missing", "s"), Err(FileError::NotFound)));
        assert!(matches!(go("d", "AGENTS.md"), Err(FileError::Protected)));
        assert!(matches!(go("f", ".trash"), Err(FileError::Protected)));
        assert!(!root.join("s").exists() && !root.join("d/n").exists() && !root.join(".trash").exists());
    });
}

#[test]
fn a_tree_too_deep_is_not_copied() {
    with_workspace(|root, files| {
        fs::create_dir_all(root.join("deep").join("x/".repeat(remove::MAX_TREE_DEPTH / 2))).unwrap();
        assert!(matches!(copy(files, &path("deep"), &path("c")), Err(FileError::TreeTooLarge)));
        assert!(!root.join("c").exists());
    });
}

#[test]
fn removing() {
    with_workspace(|root, files| {
        let go = |name: &str| remove::permanently(files, &path(name));
        symlink("../../../outside/sub", root.join("d/e/climbs")).unwrap();
        go("d").unwrap();
        go("out").unwrap();
        go("f").unwrap();
        for name in ["d", "out", "f"] {
            assert!(fs::symlink_metadata(root.join(name)).is_err(), "{name}");
        }
        assert!(matches!(go("f"), Err(FileError::NotFound)));
        assert!(matches!(go("SOUL.md"), Err(FileError::Protected)));
        assert!(matches!(remove::permanently(files, &WorkspacePath::root()), Err(FileError::Protected)));
        symlink("../outside", root.join("out")).unwrap();
        for name in ["out/sub", "out/sub/secret"] {
            assert!(matches!(go(name), Err(FileError::Outside)), "{name}");
        }
        assert_eq!(text(root, "SOUL.md"), "soul");
    });
}

#[test]
fn a_tree_of_any_depth_is_removed_whole() {
    with_workspace(|root, files| {
        let deep = format!("deep/{}", "x/".repeat(2 * remove::MAX_TREE_DEPTH + 50));
        fs::create_dir_all(root.join(&deep)).unwrap();
        fs::write(root.join(&deep).join("f"), "f").unwrap();
        remove::permanently(files, &path("deep")).unwrap();
        assert!(!root.join("deep").exists());
    });
}

#[test]
fn making_folders() {
    with_workspace(|root, files| {
        let go = |name: &str| mkdir(files, &path(name));
        go("n/e/w").unwrap();
        go("n/e/w").unwrap();
        assert!(root.join("n/e/w").is_dir());
        assert_eq!(fs::metadata(root.join("n")).unwrap().mode() & 0o7777, 0o755);
        mkdir(files, &WorkspacePath::root()).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        for name in ["f", "f/x", "SOUL.md", "dangling"] {
            let refused = go(name);
            assert!(matches!(refused, Err(FileError::Exists)), "{name}: {refused:?}");
        }
        assert!(matches!(go("AGENTS.md"), Err(FileError::Protected)));
        for name in ["out/x", "d/absolute/n/e/w"] {
            assert!(matches!(go(name), Err(FileError::Outside)), "{name}");
        }
    });
}
