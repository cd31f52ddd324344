//! An emulator for a test, and a client that checks what it gets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fly_emulator::{Config, Emulator, Image};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::contract::Contract;

/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) emulator: Emulator,
    http: reqwest::Client,
    contract: Contract,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

/// What stands in for an image: says how it was started, counts its starts on its volume, and ends at SIGTERM.
pub(crate) const SCRIPT: &str = r#"
echo "run" >> data/runs
echo "$FLY_APP_NAME $FLY_MACHINE_ID $FLY_REGION $FLY_PRIVATE_IP $FLYFAKE_MOUNT_DATA $A $SECRET" > data/env
ls data > data/listing
test -e leftover && echo "not wiped" >> data/env
touch leftover
trap 'echo term >> data/ended; exit 0' TERM
trap 'echo int >> data/ended; exit 0' INT
while :; do sleep 0.05; done
"#;

impl Bench {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        // Test binaries that run at the same time need networks of their own.
        let n = std::process::id().wrapping_mul(17).wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
        let shell = |script: &str| Image {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: [].into(),
        };
        let mut config = Config {
            api_port: 0,
            proxy_port: 0,
            dir: dir.path().to_owned(),
            speed: 20.0,
            net: 20 + (n % 200) as u8,
            limits: false,
            images: [
                ("script".to_owned(), shell(SCRIPT)),
                ("crash".to_owned(), shell("echo run >> data/runs; exit 3")),
                (
                    "deaf".to_owned(),
                    shell("trap '' TERM INT; echo run >> data/runs; while :; do sleep 0.05; done"),
                ),
            ]
            .into(),
            ..Config::default()
        };
        change(&mut config);
        let emulator = Emulator::start(config).await.unwrap();
        let http = reqwest::Client::new();
        let bench = Self { emulator, http, contract: Contract::load(), dir };
        bench.app("a").await;
        bench
    }

    pub(crate) async fn plain() -> Self {
        Self::start(|_| {}).await
    }

    /// Makes an app and waits until it is found.
    pub(crate) async fn app(&self, name: &str) {
        let made = self.post("/apps", &json!({"name": name, "org_slug": "automna", "network": name})).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let path = format!("/apps/{name}");
        self.until(async || self.get(&path).await.status == 200).await;
    }

    /// The call; `None` if the connection ended without an answer.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        nonce: Option<&str>,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let url = format!("{}{path}", self.emulator.api_url());
        let mut request = self.http.request(method.parse::<Method>().unwrap(), url).bearer_auth("token");
        if let Some(nonce) = nonce {
            request = request.header("fly-machine-lease-nonce", nonce);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
        assert!(headers.contains_key("fly-request-id"), "rule 24");
        if status != StatusCode::BAD_GATEWAY {
            self.contract.check(method, path, status.as_u16(), &body);
        }
        Some(Answer { status: status.as_u16(), body, headers })
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, None, body).await.unwrap_or_else(|| panic!("no answer: {method} {path}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    pub(crate) async fn admin(&self, path: &str, body: &Value) -> u16 {
        let url = format!("{}{path}", self.emulator.admin_url());
        self.http.post(url).json(body).send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn volume(&self, app: &str, name: &str) -> String {
        let wanted = json!({"name": name, "region": "sjc", "size_gb": 1, "require_unique_zone": false});
        let made = self.post(&format!("/apps/{app}/volumes"), &wanted).await;
        assert_eq!(made.status, 200, "{}", made.body);
        text(&made.body["id"])
    }

    /// What a machine is made of.
    pub(crate) fn wanted(name: &str, image: &str, volume: &str) -> Value {
        json!({"name": name, "region": "sjc", "config": {
            "image": image,
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
            "env": {"A": "1"},
            "mounts": [{"volume": volume, "path": "/data"}],
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
        }})
    }

    /// A machine of `image` on a volume of its own, which has started.
    pub(crate) async fn machine(&self, name: &str, image: &str) -> (String, String) {
        let volume = self.volume("a", name).await;
        let made = self.post("/apps/a/machines", &Self::wanted(name, image, &volume)).await;
        assert_eq!(made.status, 200, "{}", made.body);
        let id = text(&made.body["id"]);
        self.wait(&id, "started").await;
        (id, volume)
    }

    pub(crate) async fn wait(&self, machine: &str, state: &str) {
        let path = format!("/apps/a/machines/{machine}/wait?state={state}&timeout=60");
        self.until(async || self.get(&path).await.status == 200).await;
    }

    pub(crate) async fn state(&self, machine: &str) -> String {
        text(&self.get(&format!("/apps/a/machines/{machine}")).await.body["state"])
    }

    pub(crate) fn volume_dir(&self, volume: &str) -> PathBuf {
        self.emulator.volume_dir(volume)
    }

    /// Waits until a file has that many lines; its text.
    pub(crate) async fn lines(&self, file: &Path, lines: usize) -> String {
        self.until(async || read(file).lines().count() >= lines).await;
        read(file)
    }

    #[track_caller]
    pub(crate) fn until(&self, condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            while !condition().await {
                assert!(Instant::now() < deadline, "waited in vain at {at}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

pub(crate) fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
