//! Volumes that are full, closed or broken: real ones, mounted for the test. The answers are 507, 403 and 500, the
//! old files are whole, and nothing is left over.
//!
//! Mounting takes root. Where it is not allowed, the tests say so and end.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Answer, Sidecar, eventually};

/// More than what an upload must leave free.
const VOLUME_MIB: u64 = 96;

/// More than any slack of a full volume.
const BODY_BYTES: usize = 300_000;

/// Where every system has a user without rights.
const NOBODY: u32 = 65_534;

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const OFFSET_STREAM: (&str, &str) = ("content-type", "application/offset+octet-stream");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Runs out of bytes.
    Tmpfs,
    /// Runs out of names.
    TmpfsOfFewNames,
    /// Runs out of blocks.
    Ext4,
}

/// A file system of its own, gone with this value.
struct Volume {
    dir: TempDir,
}

impl Volume {
    /// `None`, and the reason in the test's output: it cannot be had here.
    fn mount(kind: Kind) -> Option<Self> {
        let volume = Self { dir: tempfile::tempdir().unwrap() };
        let at = volume.path();
        fs::create_dir(&at).unwrap();
        let size = format!("size={VOLUME_MIB}m,mode=755");
        let few = format!("{size},nr_inodes=100");
        let image = volume.image();
        let mounted = match kind {
            Kind::Tmpfs => run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &at),
            Kind::TmpfsOfFewNames => run("mount", &["-t", "tmpfs", "-o", &few, "tmpfs"], &at),
            Kind::Ext4 => {
                File::create(&image).unwrap().set_len(VOLUME_MIB << 20).unwrap();
                // No blocks that only root gets.
                run("mkfs.ext4", &["-q", "-F", "-m", "0"], &image)
                    .and_then(|()| run("mount", &["-o", "loop", image.to_str().unwrap()], &at))
            }
        };
        match mounted {
            Ok(()) => Some(volume),
            Err(reason) => {
                eprintln!("SKIPPED: no {kind:?} volume can be mounted here: {reason}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A folder on it, as the sidecar's data.
    fn data(&self) -> TempDir {
        tempfile::tempdir_in(self.path()).unwrap()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: the process that has files open there may still be ending.
        let _not_mounted = run("umount", &["-l"], &self.path());
    }
}

fn run(program: &str, args: &[&str], last: &Path) -> Result<(), String> {
    let output = Command::new(program).args(args).arg(last).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Takes what is free: bytes, and then names.
fn fill(dir: &Path, kind: Kind) {
    let mut filler = File::create(dir.join("filler")).unwrap();
    // What was reserved and not needed is free again after a sync.
    for _ in 0..3 {
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![b'f'; size]).is_ok() {}
        }
        let _full = filler.sync_all();
    }
    if kind == Kind::TmpfsOfFewNames {
        fs::create_dir(dir.join("names")).unwrap();
        for n in 0.. {
            if File::create(dir.join(format!("names/{n}"))).is_err() {
                break;
            }
        }
    }
}

async fn put(sidecar: &Sidecar, path: &str, content: &[u8]) -> Answer {
    sidecar.call("PUT", &format!("/api/files/raw/{path}"), &[], Bytes::copy_from_slice(content)).await
}

async fn post(sidecar: &Sidecar, route: &str, body: serde_json::Value) -> Answer {
    sidecar.post(&format!("/api/files/{route}"), &[], &body.to_string()).await
}

async fn upload(sidecar: &Sidecar, path: &str, content: &[u8]) -> Answer {
    let form = [
        format!("--X\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/root/clawd/{path}\r\n")
            .as_bytes(),
        b"--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n",
        content,
        b"\r\n--X--\r\n",
    ]
    .concat();
    let headers = [("content-type", "multipart/form-data; boundary=X")];
    sidecar.call("POST", "/api/files/upload", &headers, form).await
}

async fn tus_create(sidecar: &Sidecar, path: &str) -> Answer {
    let (length, metadata) = (BODY_BYTES.to_string(), format!("path {}", STANDARD.encode(path)));
    let headers = [TUS, ("upload-length", &length), ("upload-metadata", &metadata)];
    sidecar.call("POST", "/api/files/tus", &headers, "").await
}

async fn tus_append(sidecar: &Sidecar, location: &str, content: &[u8]) -> Answer {
    let head = sidecar.call("HEAD", location, &[TUS], "").await;
    let at = head.header("upload-offset").unwrap().to_owned();
    let rest = Bytes::copy_from_slice(&content[at.parse().unwrap()..]);
    sidecar.call("PATCH", location, &[TUS, OFFSET_STREAM, ("upload-offset", &at)], rest).await
}

async fn delete(sidecar: &Sidecar, path: &str, permanent: bool) -> Answer {
    let target = format!("/api/files?path=/root/clawd/{path}&permanent={permanent}");
    sidecar.call("DELETE", &target, &[], "").await
}

fn temps(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".automna-tmp-")).count()
}

async fn full(kind: Kind) {
    let Some(volume) = Volume::mount(kind) else { return };
    let (sidecar, _gateway) = Sidecar::start_on(volume.data(), None).await;
    let root = sidecar.workspace();
    let old = vec![b'o'; BODY_BYTES];
    let new = vec![b'n'; BODY_BYTES];
    for name in ["put", "write", "upload", "tus", "source", "victim"] {
        assert_eq!(put(&sidecar, name, &old).await.status(), 201);
    }
    let location = tus_create(&sidecar, "tus").await.header("location").unwrap().to_owned();
    fill(&root, kind);

    let text = str::from_utf8(&new).unwrap();
    let answers = [
        ("raw PUT, new", put(&sidecar, "fresh", &new).await),
        ("raw PUT", put(&sidecar, "put", &new).await),
        ("write", post(&sidecar, "write", json!({"path": "/root/clawd/write", "content": text})).await),
        ("upload", upload(&sidecar, "upload", &new).await),
        ("tus create", tus_create(&sidecar, "other").await),
        ("tus", tus_append(&sidecar, &location, &new).await),
        (
            "copy",
            post(&sidecar, "copy", json!({"from": "/root/clawd/source", "to": "/root/clawd/copy"})).await,
        ),
        ("delete", delete(&sidecar, "victim", false).await),
    ];
    for (what, answer) in answers {
        eprintln!("{kind:?}: {what}");
        answer.assert_error(507, "no_space");
    }
    // A folder of a tmpfs takes no bytes.
    if kind != Kind::Tmpfs {
        post(&sidecar, "mkdir", json!({"path": "/root/clawd/dir"})).await.assert_error(507, "no_space");
        let ends = json!({"from": "/root/clawd/source", "to": "/root/clawd/dir/source"});
        post(&sidecar, "move", ends).await.assert_error(507, "no_space");
    }

    for name in ["put", "write", "upload", "tus", "source", "victim"] {
        assert!(fs::read(root.join(name)).unwrap() == old, "{kind:?}: {name} is not the old file");
        assert!(sidecar.get(&format!("/api/files/raw/{name}")).await.body == old, "{kind:?}: {name}");
    }
    for name in ["fresh", "other", "copy", "dir"] {
        assert!(!root.join(name).exists(), "{kind:?}: {name}");
    }
    eventually("no litter", async || temps(&root) == 0).await;

    // Room can be made from outside, and then everything goes on.
    for filler in ["filler", "names"].into_iter().filter(|name| root.join(name).exists()) {
        assert_eq!(delete(&sidecar, filler, true).await.status(), 200);
    }
    eventually("there is room again", async || put(&sidecar, "put", &new).await.status() == 204).await;
    assert_eq!(tus_append(&sidecar, &location, &new).await.status(), 204);
    assert!(fs::read(root.join("tus")).unwrap() == new);
    assert_eq!(delete(&sidecar, "victim", false).await.status(), 200);
    let trash = sidecar.get("/api/files/trash").await.json();
    assert_eq!(trash["items"][0]["originalPath"], "/root/clawd/victim");
}

#[tokio::test]
async fn a_tmpfs_without_room_is_507_and_the_old_files_are_whole() {
    full(Kind::Tmpfs).await;
}

#[tokio::test]
async fn a_tmpfs_without_names_is_507_and_the_old_files_are_whole() {
    full(Kind::TmpfsOfFewNames).await;
}

#[tokio::test]
async fn an_ext4_without_room_is_507_and_the_old_files_are_whole() {
    full(Kind::Ext4).await;
}

#[tokio::test]
async fn what_is_not_permitted_is_403_and_the_old_files_are_whole() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can start the sidecar as another user");
        return;
    }
    // Not below a folder that only root can enter.
    let data = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    chown(data.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (sidecar, _gateway) = Sidecar::start_on(data, Some(NOBODY)).await;
    let root = sidecar.workspace();
    // What another program has made for itself.
    for (dir, mode) in [("locked", 0o755), ("hidden", 0o700)] {
        fs::create_dir(root.join(dir)).unwrap();
        fs::write(root.join(dir).join("f"), "old").unwrap();
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("closed"), "old").unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(put(&sidecar, "mine", b"mine").await.status(), 201);
    let location = tus_create(&sidecar, "locked/f").await.header("location").map(str::to_owned);
    let path = |name: &str| format!("/root/clawd/{name}");
    let ends = |from: &str, to: &str| json!({"from": path(from), "to": path(to)});
    let new = vec![b'n'; BODY_BYTES];

    let mut answers = vec![
        ("raw GET", sidecar.get("/api/files/raw/closed").await),
        ("read", sidecar.get("/api/files/read?path=/root/clawd/closed").await),
        ("download", sidecar.get("/api/files/download?path=/root/clawd/closed").await),
        ("copy of it", post(&sidecar, "copy", ends("closed", "copy")).await),
        ("list", sidecar.get("/api/files/list?path=/root/clawd/hidden").await),
        ("raw GET below", sidecar.get("/api/files/raw/hidden/f").await),
        ("archive", sidecar.get("/api/files/archive?path=/root/clawd/hidden").await),
        ("raw PUT", put(&sidecar, "locked/f", &new).await),
        ("raw PUT, new", put(&sidecar, "locked/new", &new).await),
        ("write", post(&sidecar, "write", json!({"path": path("locked/f"), "content": "new"})).await),
        ("upload", upload(&sidecar, "locked/f", &new).await),
        ("copy to it", post(&sidecar, "copy", ends("mine", "locked/new")).await),
        ("mkdir", post(&sidecar, "mkdir", json!({"path": path("locked/new")})).await),
        ("move from it", post(&sidecar, "move", ends("locked/f", "moved")).await),
        ("move to it", post(&sidecar, "move", ends("mine", "locked/new")).await),
        ("delete", delete(&sidecar, "locked/f", false).await),
        ("delete for good", delete(&sidecar, "locked/f", true).await),
    ];
    if let Some(location) = &location {
        answers.push(("tus", tus_append(&sidecar, location, &new).await));
    }
    for (what, answer) in answers {
        println!("{what}");
        answer.assert_error(403, "permission_denied");
    }
    for name in ["locked/f", "hidden/f", "closed"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), b"old", "{name}");
    }
    assert_eq!(fs::read(root.join("mine")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(root.join("locked")).unwrap().count(), 1);
    for name in ["copy", "moved"] {
        assert!(!root.join(name).exists(), "{name}");
    }
    eventually("no litter", async || temps(&root) == 0).await;
}

/// The volume's device ends before the file does: what a broken disk is, as far as the kernel is concerned.
#[tokio::test]
async fn what_the_disk_cannot_read_is_500_and_nothing_is_made_of_it() {
    let Some(volume) = Volume::mount(Kind::Ext4) else { return };
    let (sidecar, _gateway) = Sidecar::start_on(volume.data(), None).await;
    let root = sidecar.workspace();
    assert_eq!(put(&sidecar, "whole", b"whole").await.status(), 201);
    // Files all over the volume, each short enough for the route that reads it whole.
    for n in 0..14 {
        assert_eq!(put(&sidecar, &format!("f{n}"), &vec![b'x'; 5 << 20]).await.status(), 201);
    }
    for n in 0..14 {
        let file = File::open(root.join(format!("f{n}"))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    // The journal is in the middle, and what lies before it stays.
    File::options().write(true).open(volume.image()).unwrap().set_len(20 << 20).unwrap();
    let broken = |n: &usize| fs::read(root.join(format!("f{n}"))).is_err();
    let Some(n) = (0..14).find(broken) else { panic!("no file is broken") };
    println!("f{n} is broken");

    let (name, path) = (format!("f{n}"), format!("/root/clawd/f{n}"));
    let read = sidecar.get(&format!("/api/files/read?path={path}")).await;
    read.assert_error(500, "io");
    assert_eq!(read.json()["error"], "Failed to read file");
    let ends = json!({"from": path, "to": "/root/clawd/copy"});
    let copy = post(&sidecar, "copy", ends).await;
    copy.assert_error(500, "io");
    assert_eq!(copy.json()["error"], "Copy failed");
    assert!(!root.join("copy").exists());
    // The tag of what cannot be read is not known, so nothing replaces it on the strength of one.
    let headers = [("if-match", "\"x\"")];
    let put = sidecar.call("PUT", &format!("/api/files/raw/{name}"), &headers, "new").await;
    put.assert_error(500, "io");
    assert_eq!(fs::metadata(root.join(&name)).unwrap().len(), 5 << 20);
    let want = [("want-repr-digest", "sha-256=1")];
    sidecar.call("GET", &format!("/api/files/raw/{name}"), &want, "").await.assert_error(500, "io");
    // Everybody else is served.
    assert_eq!(sidecar.get("/api/files/raw/whole").await.body, "whole");
    eventually("no litter", async || temps(&root) == 0).await;
}
