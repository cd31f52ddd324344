//! A machine that runs the image: its entry point in its tree, with a folder of this machine as the volume.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use shared::id::{Backend, Epoch, Generation, UserId};
use shared::key::{MachineKey, SigningKeys};
use shared::secret::Secret;
use shared::ticket::{self, Claims, TICKET_TTL_SECONDS};
use shared::wire::TICKET_HEADER;
use tokio::time::{Instant, sleep};

use super::chroot::{self, Bind};
use super::{Image, Settings};
use crate::legacy;
use crate::process::{Process, Spec, free_port};

/// Where the volume appears, as `fly.toml` has it.
pub const VOLUME: &str = "/data";

/// How long it may take until the agent answers: some 3 s of CPU, on a machine that others use too.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Where the programs are that make the chroot.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const GENERATION: Generation = Generation(1);

/// A machine, its folders and addresses. It can be started again where it was.
#[derive(Debug)]
pub struct ImageMachine {
    settings: Settings,
    command: Command,
    dir: PathBuf,
    user: UserId,
    key: MachineKey,
    public: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

impl ImageMachine {
    /// A machine of `user` whose folders lie in `dir`; `env` comes on top of what every machine is told.
    ///
    /// # Errors
    /// The folders cannot be made, or no port is free.
    pub fn new(image: &Image, dir: &Path, user: UserId, env: &[(String, String)]) -> Result<Self> {
        let signing = SigningKeys::new(Secret::new("of-a-machine-in-a-folder").context("no secret")?, None);
        let key = signing.machine_key(&user, GENERATION);
        let loopback = || Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        let (public, admin, agent) = (loopback()?, loopback()?, loopback()?);
        let mut all: Vec<(String, String)> = [
            ("AUTOMNA_USER_ID", user.to_string()),
            ("AUTOMNA_MACHINE_KEY", key.expose()),
            ("AUTOMNA_GENERATION", GENERATION.0.to_string()),
            ("AUTOMNA_LISTEN", public.to_string()),
            ("AUTOMNA_ADMIN_LISTEN", admin.to_string()),
            ("AUTOMNA_AGENT_ADDR", agent.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        all.extend_from_slice(env);
        let volume = dir.join("volume");
        fs::create_dir_all(&volume).with_context(|| format!("cannot create {}", volume.display()))?;
        let command = image.start(&dir.join("layer"), &[Bind::writable(volume, VOLUME)], &all);
        let settings = image.settings.clone();
        Ok(Self { settings, command, dir: dir.to_owned(), user, key, public, admin, process: None })
    }

    /// Starts it, and returns once the agent answers.
    ///
    /// # Errors
    /// It ended, or is not ready in time: with the end of its log.
    pub async fn start(&mut self, http: &reqwest::Client) -> Result<()> {
        let spec = spec_of("the machine", &self.command, &self.dir);
        let process = self.process.insert(Process::spawn(spec).await?);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = http.get(format!("http://{}/ready", self.admin)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = process.exited()? {
                bail!("the machine ended ({status}):\n{}", process.log_tail());
            }
            ensure!(Instant::now() < deadline, "the machine is not ready:\n{}", process.log_tail());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `/api/status` says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, http: &reqwest::Client) -> Result<Value> {
        let url = format!("http://{}/api/status", self.public);
        let answer = http.get(url).header(TICKET_HEADER, self.ticket()).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// The agent's process id, which is the same inside and outside.
    ///
    /// # Errors
    /// It does not run.
    pub async fn agent_pid(&self, http: &reqwest::Client) -> Result<i32> {
        let status = self.status(http).await?;
        let pid = status.get("processId").and_then(Value::as_str).context("the agent does not run")?;
        Ok(pid.parse()?)
    }

    /// SIGTERM to the entry point, as the platform does, and how it ended within `grace`.
    ///
    /// # Errors
    /// It does not end, or does not run.
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        ensure!(self.settings.stop_signal.as_deref() == Some("SIGTERM"), "the image wants another signal");
        self.process.take().context("the machine does not run")?.stop(grace).await
    }

    /// A fresh ticket.
    #[must_use]
    pub fn ticket(&self) -> String {
        let claims = Claims {
            backend: Backend::Fly,
            user: self.user.clone(),
            generation: GENERATION,
            epoch: Epoch(1),
            expires: legacy::now().floor_seconds().plus(TICKET_TTL_SECONDS),
        };
        ticket::issue(&self.key, &claims)
    }

    /// The sidecar's public listener.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.public
    }

    /// What only this machine's own agent has in its environment.
    #[must_use]
    pub fn gateway_token(&self) -> Secret {
        self.key.gateway_token()
    }

    /// The sidecar's process, while the machine runs.
    #[must_use]
    pub const fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The folder that is mounted as the volume.
    #[must_use]
    pub fn volume(&self) -> PathBuf {
        self.dir.join("volume")
    }

    /// What was written beside the volume, in the image's tree.
    #[must_use]
    pub fn written(&self) -> PathBuf {
        chroot::written(&self.dir.join("layer"))
    }
}

/// A command made by [`chroot::command`], as a child that ends with us. Its log lies in `dir`.
#[must_use]
pub fn spec_of(name: &str, command: &Command, dir: &Path) -> Spec {
    Spec {
        name: name.to_owned(),
        program: command.get_program().into(),
        args: command.get_args().map(ToOwned::to_owned).collect(),
        env: [("PATH".to_owned(), PATH.into())].into(),
        dir: dir.to_owned(),
        log: dir.join("log"),
    }
}
