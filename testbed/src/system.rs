//! The whole system on loopback: the edge in workerd, a Fly proxy with one machine (the real sidecar, which starts
//! the real agent), a legacy stand-in with agents of its own, and a stub of the model.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use shared::id::{AppName, Generation, MachineId, UserId};
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::signed_url;
use tokio::time::{Instant, sleep};

use crate::fly_proxy::FlyProxy;
use crate::legacy::{self, LegacySpec, LegacyStandin};
use crate::model_stub::ModelStub;
use crate::process::{self, Process, Spec};
use crate::tools::Tools;
use crate::workerd::{Edge, EdgeSpec};

/// How long a signed URL of the testbed holds: as long as the dashboard's.
pub const URL_TTL_SECONDS: u64 = 3600;

/// The app that the machine is in.
pub const APP: &str = "automna-testbed";

/// How long the sidecar may take until it listens, and until its agent is ready.
const SIDECAR_LISTENS: Duration = Duration::from_secs(10);
const SIDECAR_READY: Duration = Duration::from_secs(60);

/// How long the sidecar may take to end, and its agent with it, if nothing hangs.
const SIDECAR_STOPS: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct SystemSpec {
    /// A folder of its own.
    pub dir: PathBuf,
    /// The user who gets a machine.
    pub user: UserId,
    /// The sidecar's binary.
    pub sidecar: PathBuf,
    /// Variables of the edge beside those that the system needs.
    pub edge_vars: BTreeMap<String, String>,
    /// Variables of the machine, in the same way.
    pub machine_env: BTreeMap<String, OsString>,
    /// How long an unused legacy container stays up; `None` for ever.
    pub legacy_sleeps_after: Option<Duration>,
    /// What a boot of a legacy container takes beyond the agent's own start.
    pub legacy_cold_start: Duration,
}

/// The secrets of one running system.
#[derive(Debug, Clone)]
pub struct Secrets {
    pub signing: Secret,
    pub admin: Secret,
}

/// A running system. Dropping it kills what it started; [`System::stop`] is the polite way.
#[derive(Debug)]
pub struct System {
    pub edge: Edge,
    pub fly: FlyProxy,
    pub machine: Machine,
    pub legacy: LegacyStandin,
    pub model: ModelStub,
    pub secrets: Secrets,
    pub user: UserId,
    http: reqwest::Client,
}

/// One user's machine: what Fly would run from the image.
#[derive(Debug)]
pub struct Machine {
    pub id: MachineId,
    spec: Spec,
    /// `None` between a kill and the start after it.
    sidecar: Option<Process>,
    data: PathBuf,
    agent: SocketAddr,
    public_url: String,
    admin_url: String,
}

/// What a program needs to drive a running system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    pub edge: String,
    pub signed_url: String,
    pub user_id: UserId,
    pub admin_bearer: String,
    pub sidecar: String,
    pub legacy: String,
    pub fly_api: String,
}

impl System {
    /// Starts everything, and returns once a page load through the edge would be answered by either back end.
    ///
    /// # Errors
    /// The first part that does not start, with the end of its log.
    pub async fn start(tools: &Tools, spec: SystemSpec, step: impl Fn(&str)) -> Result<Self> {
        let secrets = Secrets { signing: random_secret()?, admin: random_secret()? };
        let keys = SigningKeys::new(secrets.signing.clone(), None);
        let model = ModelStub::start(0).await.context("the model stub does not start")?;

        step("starting the machine: clawdbot and the sidecar");
        let fly = FlyProxy::start(0, 0).await.context("the Fly proxy stand-in does not start")?;
        let machine = Machine::start(tools, &spec, &keys, &model).await?;
        let app: AppName = APP.parse()?;
        fly.add_machine(app.clone(), &machine.id, machine.public_addr()?);

        step("starting the legacy stand-in");
        let legacy = LegacyStandin::start(LegacySpec {
            node: tools.node(),
            entry: tools.agent_entry(),
            dir: subdir(&spec.dir, "legacy")?,
            model_url: model.url(),
            gateway_token: random_secret()?,
            keys: keys.clone(),
            sleep_after: spec.legacy_sleeps_after,
            cold_start: spec.legacy_cold_start,
            port: 0,
        })
        .await
        .context("the legacy stand-in does not start")?;

        step("starting the edge in workerd");
        let mut vars = BTreeMap::from([
            ("MOLTBOT_SIGNING_SECRET".to_owned(), secrets.signing.expose().to_owned()),
            ("ADMIN_BEARER".to_owned(), secrets.admin.expose().to_owned()),
            ("LEGACY_ORIGIN".to_owned(), legacy.url()),
            ("MACHINE_ORIGIN".to_owned(), fly.url()),
            // There is nothing to lose here, so users go where the policy says, without a move.
            ("DIRECT_FLIPS".to_owned(), "allow".to_owned()),
            ("TEST_HOOKS".to_owned(), "on".to_owned()),
        ]);
        vars.extend(spec.edge_vars.clone());
        let edge = Edge::start(
            tools,
            EdgeSpec {
                dir: subdir(&spec.dir, "edge")?,
                vars,
                legacy_service: None,
                faults: false,
                instead: None,
            },
        )
        .await?;

        let http = reqwest::Client::builder().build().context("cannot make an HTTP client")?;
        let system = Self { edge, fly, machine, legacy, model, secrets, user: spec.user, http };
        system.attach_machine(&app).await?;
        step("waiting until the agent is ready");
        system.machine.wait_until_ready(&system.http).await?;
        Ok(system)
    }

    /// A signed URL of the edge for `user`, good for [`URL_TTL_SECONDS`].
    #[must_use]
    pub fn signed_url(&self, user: &UserId) -> String {
        format!("{}/?{}", self.edge.url(), sign(&self.secrets.signing, user, URL_TTL_SECONDS))
    }

    /// What a program needs to drive this system.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description {
            edge: self.edge.url().to_owned(),
            signed_url: self.signed_url(&self.user),
            user_id: self.user.clone(),
            admin_bearer: self.secrets.admin.expose().to_owned(),
            sidecar: self.machine.public_url.clone(),
            legacy: self.legacy.url(),
            fly_api: self.fly.api_url(),
        }
    }

    /// Changes the rollout policy.
    ///
    /// # Errors
    /// The edge's own words.
    pub async fn change_policy(&self, change: serde_json::Value) -> Result<serde_json::Value> {
        change_policy(&self.http, self.edge.url(), self.secrets.admin.expose(), &change).await
    }

    async fn attach_machine(&self, app: &AppName) -> Result<()> {
        let path = format!("users/{}/machine", self.user);
        let machine = serde_json::json!({"app": app, "machineId": self.machine.id, "generation": GENERATION});
        let recorded = ops(&self.http, self.edge.url(), self.secrets.admin.expose(), &path, &machine).await;
        recorded.context("cannot record the machine").map(|_| ())
    }

    /// Ends everything, the edge first, so that nothing is asked of a part that is gone.
    ///
    /// # Errors
    /// The first part that does not end.
    pub async fn stop(self) -> Result<()> {
        let Self { edge, fly, machine, legacy, model, .. } = self;
        edge.stop().await?;
        fly.stop().await;
        machine.stop().await?;
        legacy.stop().await?;
        model.stop().await;
        Ok(())
    }
}

/// Generation of the testbed's one machine.
const GENERATION: Generation = Generation(1);

/// What the stub of the model is shown.
pub const MODEL_KEY: &str = "sk-stub-of-the-testbed";

impl Machine {
    async fn start(tools: &Tools, spec: &SystemSpec, keys: &SigningKeys, model: &ModelStub) -> Result<Self> {
        let key = keys.machine_key(&spec.user, GENERATION);
        let dir = subdir(&spec.dir, "machine")?;
        let data = subdir(&dir, "data")?;
        let loopback = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Fixed, so that a machine that starts again is where it was.
        let (public, admin) = (loopback(process::free_port()?), loopback(process::free_port()?));
        let agent = loopback(process::free_port()?);
        let env: [(&str, OsString); 15] = [
            ("AUTOMNA_USER_ID", spec.user.as_str().into()),
            ("AUTOMNA_MACHINE_KEY", key.expose().into()),
            ("AUTOMNA_GENERATION", GENERATION.0.to_string().into()),
            ("AUTOMNA_DATA_DIR", data.clone().into()),
            ("AUTOMNA_LISTEN", public.to_string().into()),
            ("AUTOMNA_ADMIN_LISTEN", admin.to_string().into()),
            ("AUTOMNA_AGENT_ADDR", agent.to_string().into()),
            ("AUTOMNA_AGENT_NODE", tools.node().into()),
            ("AUTOMNA_AGENT_ENTRY", tools.agent_entry().into()),
            ("AUTOMNA_AGENT_TMP_DIR", subdir(&dir, "tmp")?.into()),
            ("AUTOMNA_IMAGE_DIR", subdir(&dir, "image")?.into()),
            // A folder, where a machine has a volume.
            ("AUTOMNA_REQUIRE_MOUNT", "off".into()),
            ("ANTHROPIC_BASE_URL", model.url().into()),
            ("ANTHROPIC_API_KEY", MODEL_KEY.into()),
            ("PATH", process::DEFAULT_PATH.into()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value));
        let env = env.chain(spec.machine_env.clone()).collect();
        let log = dir.join("sidecar.log");
        let program = spec.sidecar.clone();
        let spec = Spec { name: "sidecar".into(), program, args: Vec::new(), env, dir, log };
        let mut machine = Self {
            id: "e2865013d93d68".parse()?,
            spec,
            sidecar: None,
            data,
            agent,
            public_url: format!("http://{public}"),
            admin_url: format!("http://{admin}"),
        };
        machine.start_again().await?;
        Ok(machine)
    }

    /// Starts the sidecar, after [`Self::kill`] or [`Self::shut_down`], and returns once it listens.
    ///
    /// # Errors
    /// It does not listen in time: with the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        let process = self.sidecar.insert(Process::spawn(self.spec.clone()).await?);
        wait_until_listening(process).await
    }

    /// SIGKILL to the sidecar: what a machine that loses its power does. The agent goes with it.
    ///
    /// # Errors
    /// It goes on.
    pub async fn kill(&mut self) -> Result<()> {
        match self.sidecar.take() {
            Some(sidecar) => sidecar.kill().await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// SIGTERM to the sidecar, as the platform stops a machine; its exit code.
    ///
    /// # Errors
    /// It does not end.
    pub async fn shut_down(&mut self) -> Result<Option<i32>> {
        match self.sidecar.take() {
            Some(sidecar) => sidecar.stop(SIDECAR_STOPS).await.map(|status| status.code()),
            None => Ok(None),
        }
    }

    /// The volume.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the agent keeps sessions and configuration.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.data.join("clawdbot")
    }

    /// Where the agent works.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.data.join("workspace")
    }

    /// Where the agent listens.
    #[must_use]
    pub fn agent_addr(&self) -> SocketAddr {
        self.agent
    }

    /// The file with the sidecar's log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// The sidecar's public listener, past the Fly proxy.
    #[must_use]
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The sidecar's private listener.
    #[must_use]
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    fn public_addr(&self) -> Result<SocketAddr> {
        self.public_url.trim_start_matches("http://").parse().context("the sidecar's address is none")
    }

    /// Returns once the agent answers.
    ///
    /// # Errors
    /// It does not in time: with the end of the sidecar's log.
    pub async fn wait_until_ready(&self, http: &reqwest::Client) -> Result<()> {
        let deadline = Instant::now() + SIDECAR_READY;
        loop {
            let answer = http.get(format!("{}/ready", self.admin_url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let log = || self.sidecar.as_ref().map(Process::log_tail).unwrap_or_default();
            ensure!(Instant::now() < deadline, "the sidecar is not ready:\n{}", log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(mut self) -> Result<()> {
        self.shut_down().await.map(|_| ())
    }
}

async fn wait_until_listening(process: &mut Process) -> Result<()> {
    let deadline = Instant::now() + SIDECAR_LISTENS;
    loop {
        let log = process.log_tail();
        if log.contains(r#""message":"listening""#) {
            return Ok(());
        }
        if let Some(status) = process.exited()? {
            bail!("the sidecar ended ({status}):\n{log}");
        }
        ensure!(Instant::now() < deadline, "the sidecar does not listen:\n{log}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A signed query for `user`.
#[must_use]
pub fn sign(secret: &Secret, user: &UserId, ttl_seconds: u64) -> String {
    let keys = SigningKeys::new(secret.clone(), None);
    signed_url::sign(&keys, user, legacy::now().floor_seconds().plus(ttl_seconds))
}

/// Changes the policy of the edge at `edge`.
///
/// # Errors
/// When it cannot be reached or refuses, with its words.
pub async fn change_policy(
    http: &reqwest::Client,
    edge: &str,
    bearer: &str,
    change: &serde_json::Value,
) -> Result<serde_json::Value> {
    ops(http, edge, bearer, "policy", change).await
}

/// Asks the operator's API of the edge at `edge`.
///
/// # Errors
/// When it cannot be reached or refuses, with its words.
pub async fn ops(
    http: &reqwest::Client,
    edge: &str,
    bearer: &str,
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value> {
    let url = format!("{edge}/_ops/api/{path}");
    let answer =
        http.post(url).bearer_auth(bearer).json(body).send().await.context("the edge does not answer")?;
    let status = answer.status();
    let text = answer.text().await.context("the edge's answer broke off")?;
    ensure!(status.is_success(), "the edge answered {status}: {text}");
    serde_json::from_str(&text).context("the edge's answer is no JSON")
}

/// 256 bits from the kernel, in hexadecimal.
fn random_secret() -> Result<Secret> {
    let mut bytes = [0_u8; 32];
    let mut source = fs::File::open("/dev/urandom").context("cannot open the kernel's random source")?;
    source.read_exact(&mut bytes).context("cannot read random bytes")?;
    Secret::new(&crate::tools::hex(&bytes)).context("no secret")
}

fn subdir(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
