#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shared::id::{Backend, Epoch, Generation};
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::ticket::{self, Claims};
use shared::time::{UnixMillis, UnixSeconds};
use sidecar::config::Config;
use sidecar::epoch::Arbiter;
use sidecar::files::Files;
use sidecar::files::serve_tus::Uploads;
use sidecar::routes::direct::Routes;
use sidecar::server::Answers as _;
use sidecar::state::{App, Parts};
use sidecar::{readiness, routes, stop};

const USER: &str = "user_fuzz";

/// Where workspaces are: syncing costs nothing there.
const MEMORY: &str = "/dev/shm";
const PREFIX: &str = "sidecar-fuzz-";

/// The sidecar's routes over a workspace in memory.
struct Service {
    runtime: tokio::runtime::Runtime,
    routes: Routes,
    ticket: String,
    workspace: PathBuf,
    /// Routes stop answering for the agent once it is dropped; uploads do not mind.
    _stopper: stop::Stopper,
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    remove_what_earlier_runs_left();
    let data = Path::new(MEMORY).join(format!("{PREFIX}{}", std::process::id()));
    let key = SigningKeys::new(Secret::new("signing-secret-of-the-fuzzer").unwrap(), None)
        .machine_key(&USER.parse().unwrap(), Generation(1));
    let config = Config::from_lookup(|name| match name {
        "AUTOMNA_USER_ID" => Some(USER.to_owned()),
        "AUTOMNA_MACHINE_KEY" => Some(key.expose().to_owned()),
        "AUTOMNA_GENERATION" => Some("1".to_owned()),
        "AUTOMNA_DATA_DIR" => Some(data.to_str().unwrap().to_owned()),
        "AUTOMNA_AGENT_ADDR" => Some("127.0.0.1:1".to_owned()),
        _ => None,
    })
    .unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let workspace = config.workspace_dir.clone();
    let files = Files::open(&workspace).unwrap();
    let uploads = Arc::new(Uploads::open(&data, UnixMillis(0)).unwrap());
    let (stopper, stop) = stop::channel();
    let agent = readiness::Agent { address: config.agent, token: config.identity.key.gateway_token() };
    let readiness = readiness::keep(agent, stop.clone());
    let parts = Parts::unsupervised(Arbiter::load(&data).unwrap(), files, uploads, readiness, stop);
    let app = App::new(config, parts);
    let routes = routes::app(app);
    drop(entered);
    let claims = Claims {
        backend: Backend::Fly,
        user: USER.parse().unwrap(),
        generation: Generation(1),
        epoch: Epoch(1),
        expires: UnixSeconds(now + 24 * 60 * 60),
    };
    Service { runtime, routes, ticket: ticket::issue(&key, &claims), workspace, _stopper: stopper }
});

/// libFuzzer ends the process without telling anybody.
fn remove_what_earlier_runs_left() {
    for entry in fs::read_dir(MEMORY).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(process).exists() {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

// The first byte says how the form is cut into pieces on its way; the rest is the form, or, if the byte is odd, the
// content of a file around which a form is put that must be understood.
fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let service = &*SERVICE;
    let piece = 1 + usize::from(*how >> 1);
    if *how % 2 == 0 {
        // However it comes, it is the same form.
        let whole = service.upload(rest, usize::MAX);
        let cut = service.upload(rest, piece);
        assert_eq!(whole, cut);
    } else {
        let form = [
            b"--X\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/root/clawd/d/f\r\n\
              --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"
                .as_slice(),
            rest,
            b"\r\n--X--\r\n",
        ]
        .concat();
        let (status, files) = service.upload(&form, piece);
        // Unless the content ends the part itself.
        if !rest.windows(5).any(|window| window == b"\r\n--X") && !rest.starts_with(b"--X") {
            assert_eq!((status, files), (200, vec![("d/f".into(), rest.to_vec())]));
        }
    }
});

impl Service {
    /// Uploads `form` in pieces. Returns the status and what is in the workspace now, which is empty again then.
    fn upload(&self, form: &[u8], piece: usize) -> (u16, Vec<(PathBuf, Vec<u8>)>) {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            form.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let request = Request::post("/api/files/upload")
            .header("content-type", "multipart/form-data; boundary=X")
            .header("x-automna-ticket", &self.ticket)
            .body(Body::from_stream(futures_util::stream::iter(pieces)))
            .unwrap();
        let (status, body) = self.runtime.block_on(async {
            let answer = self.routes.clone().answer(request).await;
            (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
        });
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut files = self.files();
        if status == 200 {
            // One file, where and as large as the answer says.
            let [(at, content)] = files.as_slice() else { panic!("{files:?}") };
            assert_eq!(body["path"], format!("/root/clawd/{}", at.display()));
            assert_eq!(body["size"], content.len());
        } else {
            assert!((400..500).contains(&status) && body["error"].is_string(), "{status} {body}");
            // Temporary files go away on the pool.
            while !files.is_empty() {
                assert!(files.iter().all(|(at, _)| at.to_string_lossy().starts_with(".automna-tmp-")));
                self.runtime.block_on(tokio::task::yield_now());
                files = self.files();
            }
        }
        for entry in fs::read_dir(&self.workspace).unwrap() {
            let at = entry.unwrap().path();
            let removed = if at.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) };
            removed.unwrap();
        }
        (status, files)
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut pending = vec![self.workspace.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let at = entry.unwrap().path();
                if at.is_dir() {
                    pending.push(at);
                } else {
                    // One that is going away may be gone by now.
                    let Ok(content) = fs::read(&at) else { continue };
                    found.push((at.strip_prefix(&self.workspace).unwrap().to_owned(), content));
                }
            }
        }
        found
    }
}
