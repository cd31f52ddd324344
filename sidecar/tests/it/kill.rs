//! The process is killed at points of chance while files are written, uploaded, moved, copied and trashed: each is
//! old or new, whole, and in one place; and no temporary file outlives the restart.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dice::Dice;
use crate::harness::{Sidecar, Ticket, eventually};

pub(crate) const BODY_BYTES: usize = 400_000;

/// Of a tree that is moved or copied.
const TREE_FILES: usize = 20;

const PREFIX: &str = "/root/clawd";

/// Replaces file `n` by [`BODY_BYTES`] times `byte`; true if the answer says that it has happened.
pub(crate) async fn put(to: SocketAddr, n: usize, byte: u8) -> bool {
    let answer = request(to, &format!("PUT /api/files/raw/k/{n}"), &[], &vec![byte; BODY_BYTES]).await;
    answer.is_some_and(|(status, ..)| matches!(status, 201 | 204))
}

/// Sends one request on a connection of its own. The answer, if all of it came before the end of the process.
async fn request(
    to: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(u16, String, Vec<u8>)> {
    let ticket = Ticket::of_epoch(1).issue();
    let mut head =
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-automna-ticket: {ticket}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(to).await.ok()?;
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let end = memchr::memmem::find(&answer, b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, head, answer[end + 4..].to_vec()))
}

async fn post(to: SocketAddr, route: &str, body: Value) -> Option<Value> {
    let headers = [("content-type", "application/json")];
    let (status, _, body) =
        request(to, &format!("POST /api/files/{route}"), &headers, body.to_string().as_bytes()).await?;
    let body = serde_json::from_slice(&body).ok()?;
    assert_eq!(status, 200, "{route}: {body}");
    Some(body)
}

/// How a file gets its new content.
#[derive(Clone, Copy, Debug)]
enum Way {
    Put,
    Write,
    Upload,
    Tus,
}

const WAYS: [Way; 5] = [Way::Put, Way::Put, Way::Write, Way::Upload, Way::Tus];

/// What one writer has begun last, and what was acknowledged last: the letter of which the file consists.
#[derive(Debug, Default)]
struct Letters {
    begun: u8,
    acknowledged: u8,
    /// A tus upload of which the end is not known.
    unfinished: Option<String>,
}

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");

/// Replaces `path` by [`BODY_BYTES`] times `letter`; `None` if no answer says that it has happened.
async fn replace(to: SocketAddr, way: Way, path: &str, letter: u8, letters: &Mutex<Letters>) -> Option<()> {
    let content = vec![letter; BODY_BYTES];
    let text = str::from_utf8(&content).unwrap();
    match way {
        Way::Put => {
            let (status, ..) = request(to, &format!("PUT /api/files/raw/{path}"), &[], &content).await?;
            assert!(matches!(status, 201 | 204), "{status}");
        }
        Way::Write => {
            post(to, "write", json!({"path": format!("{PREFIX}/{path}"), "content": text})).await?;
        }
        Way::Upload => {
            let form = format!(
                "--X\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{PREFIX}/{path}\r\n\
                 --X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n{text}\r\n--X--\r\n"
            );
            let headers = [("content-type", "multipart/form-data; boundary=X")];
            let (status, ..) = request(to, "POST /api/files/upload", &headers, form.as_bytes()).await?;
            assert_eq!(status, 200);
        }
        Way::Tus => {
            let (length, metadata) = (BODY_BYTES.to_string(), format!("path {}", STANDARD.encode(path)));
            let headers = [TUS, ("upload-length", &length), ("upload-metadata", &metadata)];
            let (status, head, _) = request(to, "POST /api/files/tus", &headers, b"").await?;
            assert_eq!(status, 201);
            let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
            letters.lock().unwrap().unfinished = Some(location.to_owned());
            append(to, location, 0, &content).await?;
            forget(to, location).await;
            letters.lock().unwrap().unfinished = None;
        }
    }
    Some(())
}

async fn append(to: SocketAddr, location: &str, offset: usize, content: &[u8]) -> Option<()> {
    let offset = offset.to_string();
    let headers = [TUS, ("upload-offset", &offset), ("content-type", "application/offset+octet-stream")];
    let (status, ..) = request(to, &format!("PATCH {location}"), &headers, content).await?;
    assert_eq!(status, 204);
    Some(())
}

async fn forget(to: SocketAddr, location: &str) {
    // It is complete: if this is cut off, its record stays for seven days.
    let _record = request(to, &format!("DELETE {location}"), &[TUS], b"").await;
}

async fn write_on(to: SocketAddr, way: Way, path: String, letters: Arc<Mutex<Letters>>) {
    loop {
        let letter = {
            let mut letters = letters.lock().unwrap();
            letters.begun = if letters.begun >= b'z' { b'a' } else { letters.begun + 1 };
            letters.begun
        };
        if replace(to, way, &path, letter, &letters).await.is_none() {
            return;
        }
        letters.lock().unwrap().acknowledged = letter;
    }
}

/// The letter of which the file consists.
fn letter_of(path: &Path) -> u8 {
    let content = fs::read(path).unwrap();
    let letter = content[0];
    assert_eq!(content.len(), BODY_BYTES, "{}", path.display());
    assert!(content.iter().all(|b| *b == letter), "{}: a mixture", path.display());
    letter
}

/// Moves what is at one of two places to the other, again and again.
async fn move_on(to: SocketAddr, root: PathBuf, one: &'static str, two: &'static str) {
    let (mut from, mut into) = if root.join(one).exists() { (one, two) } else { (two, one) };
    while post(to, "move", json!({"from": format!("{PREFIX}/{from}"), "to": format!("{PREFIX}/{into}")}))
        .await
        .is_some()
    {
        (from, into) = (into, from);
    }
}

/// Exactly one of the places has it, and whole.
fn check_moved(root: &Path, one: &str, two: &str) {
    let there: Vec<_> = [one, two].iter().map(|name| root.join(name)).filter(|at| at.exists()).collect();
    assert_eq!(there.len(), 1, "{there:?}");
    check_whole(&there[0]);
}

/// Makes a file, or a folder of files, that [`check_whole`] knows.
fn fill(at: &Path, is_tree: bool) {
    if is_tree {
        fs::create_dir_all(at.join("sub")).unwrap();
        for n in 0..TREE_FILES {
            fs::write(at.join(format!("sub/{n}")), vec![b'x'; 20_000]).unwrap();
        }
    } else {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, vec![b'x'; BODY_BYTES]).unwrap();
    }
}

fn check_whole(at: &Path) {
    if at.is_dir() {
        for n in 0..TREE_FILES {
            let content = fs::read(at.join(format!("sub/{n}"))).unwrap();
            assert!(content == vec![b'x'; 20_000], "{}: {n}", at.display());
        }
    } else {
        assert_eq!(letter_of(at), b'x');
    }
}

/// Copies to one fresh name after the other.
async fn copy_on(to: SocketAddr, source: &'static str) {
    for n in 0_u64.. {
        let ends =
            json!({"from": format!("{PREFIX}/{source}"), "to": format!("{PREFIX}/copies/{n}-{source}")});
        if post(to, "copy", ends).await.is_none() {
            return;
        }
    }
}

/// Sends a file to the trash and has it back, again and again.
async fn trash_on(to: SocketAddr) {
    loop {
        let Some((status, _, body)) =
            request(to, &format!("DELETE /api/files?path={PREFIX}/trashed/file"), &[], b"").await
        else {
            return;
        };
        let Ok(body) = serde_json::from_slice::<Value>(&body) else { return };
        assert_eq!(status, 200, "{body}");
        if post(to, "trash/restore", json!({"trashPath": body["trashPath"]})).await.is_none() {
            return;
        }
    }
}

/// In the trash or not, it is there once; from the trash it comes back.
async fn check_trashed(sidecar: &Sidecar) {
    let root = sidecar.workspace();
    let at = root.join("trashed/file");
    let items = sidecar.get("/api/files/trash").await.json();
    let items = items["items"].as_array().unwrap();
    assert_eq!(items.len() + usize::from(at.exists()), 1, "{items:?}");
    if let [item] = items.as_slice() {
        assert_eq!(item["originalPath"], format!("{PREFIX}/trashed/file"));
        post(sidecar.public, "trash/restore", json!({"trashPath": item["trashPath"]})).await.unwrap();
    }
    check_whole(&at);
}

/// All that has a temporary name, anywhere.
fn temps(dir: &Path) -> usize {
    let mut count = 0;
    // What is being removed meanwhile counts when it is looked at again.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".automna-tmp") {
            count += 1;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count += temps(&entry.path());
        }
    }
    count
}

/// Of the uploads: a record that was not finished, or bytes without one.
fn lost_uploads(dir: &Path) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_lost = |path: &&PathBuf| {
        let ending = path.extension().unwrap();
        ending == "new" || ending == "part" && !path.with_extension("json").exists()
    };
    paths.iter().filter(is_lost).cloned().collect()
}

async fn kills(times: u64) {
    let (mut sidecar, _gateway) = Sidecar::start_quiet().await;
    let root = sidecar.workspace();
    let uploads = root.parent().unwrap().join(".automna/tus");
    let writers: Vec<(Way, String, Arc<Mutex<Letters>>)> = (WAYS.iter().enumerate())
        .map(|(n, way)| {
            let letters = Letters { begun: b'a', acknowledged: b'a', unfinished: None };
            (*way, format!("k/{n}"), Arc::new(Mutex::new(letters)))
        })
        .collect();
    fs::create_dir_all(root.join("k")).unwrap();
    for (_, path, _) in &writers {
        fs::write(root.join(path), vec![b'a'; BODY_BYTES]).unwrap();
    }
    for dir in ["two", "tree-two", "copies"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let filled = [("one/file", false), ("tree-one/tree", true), ("source", false), ("source-tree", true)];
    for (name, is_tree) in filled.into_iter().chain([("trashed/file", false)]) {
        fill(&root.join(name), is_tree);
    }

    let (mut litter_seen, mut copies_seen, mut torn_seen, mut dice) = (0, 0, 0, Dice::new(7));
    for round in 0..times {
        let public = sidecar.public;
        let mut tasks = Vec::new();
        for (way, path, letters) in &writers {
            tasks.push(tokio::spawn(write_on(public, *way, path.clone(), letters.clone())));
        }
        tasks.push(tokio::spawn(move_on(public, root.clone(), "one/file", "two/file")));
        tasks.push(tokio::spawn(move_on(public, root.clone(), "tree-one/tree", "tree-two/tree")));
        tasks.push(tokio::spawn(copy_on(public, "source")));
        tasks.push(tokio::spawn(copy_on(public, "source-tree")));
        tasks.push(tokio::spawn(trash_on(public)));
        tokio::time::sleep(Duration::from_micros(5_000 + dice.roll(150_000) as u64)).await;
        sidecar.kill().await;
        for task in tasks {
            task.await.unwrap();
        }
        eprintln!("round {round}");

        litter_seen += temps(&root);
        for (way, path, letters) in &writers {
            let letter = letter_of(&root.join(path));
            let mut letters = letters.lock().unwrap();
            let old_or_new = [letters.acknowledged, letters.begun];
            assert!(old_or_new.contains(&letter), "{way:?}: {letter}, not one of {old_or_new:?}");
            // For the next round this is the old one.
            letters.acknowledged = letter;
        }
        check_moved(&root, "one/file", "two/file");
        check_moved(&root, "tree-one/tree", "tree-two/tree");
        for source in ["source", "source-tree"] {
            check_whole(&root.join(source));
        }

        sidecar = sidecar.again().await;
        eventually("no temporary files after a restart", async || temps(&root) == 0).await;
        assert_eq!(lost_uploads(&uploads), Vec::<PathBuf>::new());
        // Not earlier: a copy in the making has a temporary name, and that counts as litter only.
        for entry in fs::read_dir(root.join("copies")).unwrap() {
            let at = entry.unwrap().path();
            check_whole(&at);
            copies_seen += 1;
            if at.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }.unwrap();
        }
        check_trashed(&sidecar).await;
        for (_, path, letters) in &writers {
            let (location, letter) = {
                let mut letters = letters.lock().unwrap();
                (letters.unfinished.take(), letters.begun)
            };
            let Some(location) = location else { continue };
            // What was cut off goes on where it was.
            let Some((200, head, _)) =
                request(sidecar.public, &format!("HEAD {location}"), &[TUS], b"").await
            else {
                // It was complete, and its record is gone.
                assert_eq!(letter_of(&root.join(path)), letter);
                continue;
            };
            let offset = head.lines().find_map(|line| line.strip_prefix("upload-offset: ")).unwrap();
            let offset: usize = offset.parse().unwrap();
            torn_seen += usize::from(offset > 0 && offset < BODY_BYTES);
            append(sidecar.public, &location, offset, &vec![letter; BODY_BYTES - offset]).await.unwrap();
            assert_eq!(letter_of(&root.join(path)), letter);
            letters.lock().unwrap().acknowledged = letter;
            forget(sidecar.public, &location).await;
        }
        let mut names: Vec<_> =
            fs::read_dir(root.join("k")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0", "1", "2", "3", "4"]);
    }
    eprintln!("{litter_seen} temporary names, {copies_seen} copies, {torn_seen} torn uploads");
    assert!(litter_seen > 0, "no kill has met a write");
    assert!(copies_seen > 0, "nothing was ever copied");
}

#[tokio::test]
async fn a_killed_process_leaves_everything_old_or_new() {
    kills(8).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_process_killed_often_leaves_everything_old_or_new() {
    kills(200).await;
}
