//! Containment over HTTP: while every verb runs through the real routes, components of the paths are swapped for
//! files, folders and links that lead out, by an absolute path and by a relative one.
//!
//! The routes are driven in this process, since the mechanism that a kernel without `openat2` needs can only be
//! chosen there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use shared::time::UnixMillis;
use sidecar::config::Config;
use sidecar::epoch::Arbiter;
use sidecar::files::Files;
use sidecar::files::root::{Mechanism, Root};
use sidecar::files::serve_tus::Uploads;
use sidecar::routes::direct::Routes;
use sidecar::server::Answers;
use sidecar::state::{App, Parts};
use sidecar::{readiness, routes, stop};

use crate::dice::Dice;
use crate::harness::{GENERATION, Ticket, USER, eventually, key_of};

/// What the files outside hold. In no answer, and in no file of the workspace.
const SECRET: &str = "the secret that is outside";

/// A name that exists outside only. In no listing and in no archive.
const ONLY_OUTSIDE: &str = "only-outside";

const SWAPPERS: usize = 2;
const CLIENTS: usize = 4;

/// What requests name. `x` and `a/x` are what is swapped.
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

/// Each is asked for as often as the others.
const VERBS: [&str; 23] = [
    "list",
    "read",
    "read base64",
    "write",
    "upload",
    "download",
    "delete",
    "delete for good",
    "mkdir",
    "move",
    "copy",
    "raw GET",
    "raw HEAD",
    "raw GET ranges",
    "raw PUT",
    "raw DELETE",
    "zip",
    "tar",
    "tar.gz",
    "tus",
    "trash",
    "restore",
    "empty trash",
];

/// The sidecar's routes over `dir/data`, by a mechanism of the test's choice.
fn routes_over(data: &Path, mechanism: Mechanism) -> (Routes, stop::Stopper) {
    let key = key_of(USER, GENERATION).expose();
    let generation = GENERATION.to_string();
    let config = Config::from_lookup(|name| match name {
        "AUTOMNA_USER_ID" => Some(USER.to_owned()),
        "AUTOMNA_MACHINE_KEY" => Some(key.as_str().to_owned()),
        "AUTOMNA_GENERATION" => Some(generation.clone()),
        "AUTOMNA_DATA_DIR" => Some(data.to_str().unwrap().to_owned()),
        // Nobody listens there.
        "AUTOMNA_AGENT_ADDR" => Some("127.0.0.1:1".to_owned()),
        _ => None,
    })
    .unwrap();
    let arbiter = Arbiter::load(data).unwrap();
    let files = Files::over(Root::open_with(&config.workspace_dir, mechanism).unwrap());
    let uploads = Arc::new(Uploads::open(data, UnixMillis(0)).unwrap());
    let (stopper, stop) = stop::channel();
    let token = config.identity.key.gateway_token();
    let watch = readiness::keep(readiness::Agent { address: config.agent, token }, stop.clone());
    let parts = Parts::unsupervised(arbiter, files, uploads, watch, stop);
    (routes::app(App::new(config, parts)), stopper)
}

struct Answer {
    status: u16,
    location: Option<String>,
    body: Bytes,
}

/// One client's requests.
struct Client {
    routes: Routes,
    dice: Dice,
    /// How often each verb has succeeded.
    done: BTreeMap<&'static str, usize>,
}

impl Client {
    async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let target = format!("/api/files{target}");
        let mut request = Request::builder().method(method).uri(&target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header("x-automna-ticket", Ticket::of_epoch(1).issue());
        let response = self.routes.clone().answer(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let location = head.headers.get("location").map(|value| value.to_str().unwrap().to_owned());
        // An archive of a tree that changes may break off: that is no answer then.
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let answer = Answer { status: head.status.as_u16(), location, body };
        assert!(!holds(&answer.body, SECRET), "{method} {target} tells the secret");
        assert!(!holds(&answer.body, ONLY_OUTSIDE), "{method} {target} lists what is outside");
        // An archive's place is free a moment after its last byte, so the next may find all of them taken.
        let is_busy = answer.status == 503 && target.starts_with("/api/files/archive");
        assert!(answer.status < 500 || is_busy, "{method} {target}: {} {:?}", answer.status, answer.body);
        answer
    }

    async fn json(&self, target: &str, body: Value) -> Answer {
        self.send("POST", target, &[], body.to_string()).await
    }

    /// Runs one verb on paths of chance.
    async fn act(&mut self) {
        let verb = *self.dice.pick(&VERBS);
        let (one, two) = (*self.dice.pick(&PATHS), *self.dice.pick(&PATHS));
        let at = format!("/root/clawd/{one}");
        let to = format!("/root/clawd/{two}");
        let raw = format!("/raw/{one}");
        let none = Body::empty;
        let answer = match verb {
            "list" => self.send("GET", &format!("/list?path={at}"), &[], none()).await,
            "read" => self.send("GET", &format!("/read?path={at}"), &[], none()).await,
            "read base64" => self.send("GET", &format!("/read?path={at}&encoding=base64"), &[], none()).await,
            "write" => self.json("/write", json!({"path": at, "content": "written"})).await,
            "upload" => self.upload(&at).await,
            "download" => self.send("GET", &format!("/download?path={at}"), &[], none()).await,
            "delete" => self.send("DELETE", &format!("?path={at}"), &[], none()).await,
            "delete for good" => {
                self.send("DELETE", &format!("?path={at}&permanent=true"), &[], none()).await
            }
            "mkdir" => self.json("/mkdir", json!({"path": at})).await,
            "move" => self.json("/move", json!({"from": at, "to": to})).await,
            "copy" => self.json("/copy", json!({"from": at, "to": to})).await,
            "raw GET" => self.send("GET", &raw, &[("want-repr-digest", "sha-256=1")], none()).await,
            "raw HEAD" => self.send("HEAD", &raw, &[("if-match", "*")], none()).await,
            "raw GET ranges" => self.send("GET", &raw, &[("range", "bytes=0-2,3-99")], none()).await,
            "raw PUT" => self.send("PUT", &raw, &[], "written").await,
            "raw DELETE" => self.send("DELETE", &raw, &[], none()).await,
            "zip" | "tar" | "tar.gz" => self.archive(verb, &at).await,
            "tus" => self.tus(&at).await,
            "trash" => self.send("GET", "/trash", &[], none()).await,
            "restore" => self.restore(&to).await,
            "empty trash" => self.send("DELETE", "/trash", &[], none()).await,
            other => panic!("{other} is not known"),
        };
        let count = self.done.entry(verb).or_default();
        *count += usize::from(matches!(answer.status, 200..300));
    }

    async fn upload(&self, path: &str) -> Answer {
        let form = format!(
            "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nwritten\r\n\
             --X\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{path}\r\n--X--\r\n"
        );
        self.send("POST", "/upload", &[("content-type", "multipart/form-data; boundary=X")], form).await
    }

    async fn archive(&self, format: &str, path: &str) -> Answer {
        let answer = self.send("GET", &format!("/archive?path={path}&format={format}"), &[], "").await;
        if answer.status == 200 && format == "tar.gz" {
            let mut plain = Vec::new();
            // Of one that broke off, what there is.
            let _end = flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain);
            assert!(!holds(&plain, SECRET) && !holds(&plain, ONLY_OUTSIDE), "{path} in a tar.gz");
        }
        if answer.status == 200
            && format == "zip"
            && let Ok(mut zip) = zip::ZipArchive::new(Cursor::new(&answer.body[..]))
        {
            for n in 0..zip.len() {
                let mut plain = Vec::new();
                zip.by_index(n).unwrap().read_to_end(&mut plain).unwrap();
                assert!(!holds(&plain, SECRET), "{path} in a zip");
            }
        }
        answer
    }

    async fn tus(&self, path: &str) -> Answer {
        let metadata = format!("path {}", STANDARD.encode(path));
        let version = ("tus-resumable", "1.0.0");
        let headers = [version, ("upload-length", "7"), ("upload-metadata", &metadata)];
        let made = self.send("POST", "/tus", &headers, "").await;
        let Some(location) = made.location else { return made };
        let at = location.strip_prefix("/api/files").unwrap();
        let headers = [version, ("upload-offset", "0"), ("content-type", "application/offset+octet-stream")];
        let sent = self.send("PATCH", at, &headers, "written").await;
        // Else the folder of uploads would be full of those that were refused.
        self.send("DELETE", at, &[version], "").await;
        sent
    }

    async fn restore(&mut self, to: &str) -> Answer {
        let trash = self.send("GET", "/trash", &[], "").await;
        let items: Value = serde_json::from_slice(&trash.body).unwrap_or_default();
        let items = items["items"].as_array().cloned().unwrap_or_default();
        if items.is_empty() {
            return trash;
        }
        let item = self.dice.pick(&items)["trashPath"].clone();
        let to = if self.dice.roll(2) == 0 { json!(to) } else { Value::Null };
        self.json("/trash/restore", json!({"trashPath": item, "to": to})).await
    }
}

fn holds(text: &[u8], wanted: &str) -> bool {
    let encoded = STANDARD.encode(wanted);
    [wanted.as_bytes(), encoded.trim_end_matches('=').as_bytes()]
        .iter()
        .any(|wanted| memchr::memmem::find(text, wanted).is_some())
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

/// Whether a temporary name is left. It may go while this looks.
fn has_litter(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with(".automna-tmp-")
            || entry.file_type().is_ok_and(|kind| kind.is_dir()) && has_litter(&entry.path())
    })
}

/// Until it is gone: a verb that has one of its folders open may still put something there.
fn discard(at: &Path) {
    while let Ok(meta) = fs::symlink_metadata(at) {
        let _again = if meta.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) };
    }
}

/// Swaps `x` or `a/x` for something else at once, as a hostile program beside the agent might.
fn swap(dir: &Path, stage: &Path, dice: &mut Dice) {
    let (place, up) = *dice.pick(&[("x", "../.."), ("a/x", "../../..")]);
    match dice.roll(7) {
        0 => fs::write(stage, "inside").unwrap(),
        1 | 2 => {
            fs::create_dir_all(stage.join("sub")).unwrap();
            fs::write(stage.join("secret"), "inside").unwrap();
            fs::write(stage.join("sub/secret"), "inside").unwrap();
        }
        3 => symlink(dir.join("outside"), stage).unwrap(),
        4 => symlink(dir.join("outside/secret"), stage).unwrap(),
        5 => symlink(format!("{up}/outside"), stage).unwrap(),
        _ => symlink(format!("{up}/outside/secret"), stage).unwrap(),
    }
    let workspace = dir.join("data/workspace");
    let place = workspace.join(place);
    if renameat_with(CWD, stage, CWD, &place, RenameFlags::EXCHANGE).is_err() {
        // A request has removed it, or the folder that it was in.
        let _gone = fs::create_dir(workspace.join("a"));
        let _taken = renameat_with(CWD, stage, CWD, &place, RenameFlags::NOREPLACE);
    }
    discard(stage);
}

async fn race(mechanism: Mechanism, requests: usize) {
    // In memory if possible: what is durable is no matter here, and a disk would only make it slow.
    let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = in_memory.unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["secret", "sub/secret", ONLY_OUTSIDE] {
        fs::write(outside.join(name), SECRET).unwrap();
    }
    let data = dir.path().join("data");
    let (routes, _stopper) = routes_over(&data, mechanism);
    fs::create_dir_all(data.join("workspace/a")).unwrap();
    let before = snapshot(&outside);

    let done = Arc::new(AtomicBool::new(false));
    let swappers: Vec<_> = (0..SWAPPERS)
        .map(|n| {
            let (dir, done) = (dir.path().to_owned(), done.clone());
            std::thread::spawn(move || {
                let mut dice = Dice::new(n as u64);
                let stage = dir.join(format!("stage-{n}"));
                while !done.load(Ordering::Relaxed) {
                    swap(&dir, &stage, &mut dice);
                }
            })
        })
        .collect();
    let clients = (0..CLIENTS).map(|n| {
        let mut client =
            Client { routes: routes.clone(), dice: Dice::new(100 + n as u64), done: BTreeMap::new() };
        tokio::spawn(async move {
            for _ in 0..requests / CLIENTS {
                client.act().await;
            }
            client.done
        })
    });
    let ends = futures_util::future::join_all(clients).await;
    // Also if a client has failed: the swappers would go on for ever.
    done.store(true, Ordering::Relaxed);
    for swapper in swappers {
        swapper.join().unwrap();
    }
    let mut succeeded: BTreeMap<&str, usize> = BTreeMap::new();
    for (verb, count) in ends.into_iter().flat_map(Result::unwrap) {
        *succeeded.entry(verb).or_default() += count;
    }
    eprintln!("{mechanism:?}: {succeeded:?}");

    assert_eq!(snapshot(&outside), before, "{mechanism:?}");
    // Nor was it copied in, where a later read would find it.
    let workspace = data.join("workspace");
    eventually("no litter", async || !has_litter(&workspace)).await;
    for (at, _, _, _, _, content) in snapshot(&workspace) {
        assert!(!holds(&content, SECRET), "{}", at.display());
        assert!(!at.ends_with(ONLY_OUTSIDE), "{}", at.display());
    }
    let mut siblings: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    siblings.sort();
    assert_eq!(siblings, ["data", "outside"]);
    // A verb that never gets through would prove nothing.
    for verb in VERBS {
        let count = succeeded.get(verb).copied().unwrap_or(0);
        assert!(count > requests / VERBS.len() / 100, "{mechanism:?}: {verb} succeeded {count} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_leads_out_by_the_kernel() {
    race(Mechanism::Kernel, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_leads_out_by_walking() {
    race(Mechanism::Walk, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_requests_do_not_lead_out() {
    for mechanism in [Mechanism::Kernel, Mechanism::Walk] {
        race(mechanism, 100_000).await;
    }
}
