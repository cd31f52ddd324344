//! The sidecar in front of anything that listens: without an agent of its own, an edge, or a Fly proxy.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use shared::id::{Backend, Epoch, Generation, UserId};
use shared::key::{MachineKey, SigningKeys};
use shared::secret::Secret;
use shared::ticket::{self, Claims, TICKET_TTL_SECONDS};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::legacy;
use crate::process::{Process, Spec, free_port};

/// How long it may take until it listens, and to end.
const LISTENS: Duration = Duration::from_secs(20);
const STOPS: Duration = Duration::from_secs(8);

/// What to start.
#[derive(Debug, Clone)]
pub struct LoneSpec {
    pub program: PathBuf,
    /// A folder of its own.
    pub dir: PathBuf,
    pub signing_secret: Secret,
    pub user: UserId,
    /// What it takes for its agent.
    pub agent: SocketAddr,
}

/// A running sidecar.
#[derive(Debug)]
pub struct LoneSidecar {
    process: Process,
    addr: SocketAddr,
    key: MachineKey,
    user: UserId,
}

const GENERATION: Generation = Generation(1);

impl LoneSpec {
    /// What the sidecar tells its agent, and the agent must expect.
    #[must_use]
    pub fn gateway_token(&self) -> Secret {
        self.key().gateway_token()
    }

    fn key(&self) -> MachineKey {
        SigningKeys::new(self.signing_secret.clone(), None).machine_key(&self.user, GENERATION)
    }
}

impl LoneSidecar {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn start(spec: &LoneSpec) -> Result<Self> {
        let key = spec.key();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        std::fs::create_dir_all(&spec.dir)
            .with_context(|| format!("cannot create {}", spec.dir.display()))?;
        let env: [(&str, OsString); 8] = [
            ("AUTOMNA_USER_ID", spec.user.as_str().into()),
            ("AUTOMNA_MACHINE_KEY", key.expose().into()),
            ("AUTOMNA_GENERATION", GENERATION.0.to_string().into()),
            ("AUTOMNA_DATA_DIR", spec.dir.clone().into()),
            ("AUTOMNA_LISTEN", addr.to_string().into()),
            ("AUTOMNA_ADMIN_LISTEN", "127.0.0.1:0".into()),
            ("AUTOMNA_AGENT_ADDR", spec.agent.to_string().into()),
            ("RUST_LOG", "info".into()),
        ];
        let mut process = Process::spawn(Spec {
            name: "sidecar".into(),
            program: spec.program.clone(),
            args: Vec::new(),
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            dir: spec.dir.clone(),
            log: spec.dir.join("sidecar.log"),
        })
        .await?;
        let deadline = Instant::now() + LISTENS;
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = process.exited()? {
                bail!("the sidecar ended ({status}):\n{}", process.log_tail());
            }
            ensure!(Instant::now() < deadline, "the sidecar does not listen:\n{}", process.log_tail());
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { process, addr, key, user: spec.user.clone() })
    }

    /// Its public listener.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// A fresh ticket.
    #[must_use]
    pub fn ticket(&self, epoch: Epoch) -> String {
        let claims = Claims {
            backend: Backend::Fly,
            user: self.user.clone(),
            generation: GENERATION,
            epoch,
            expires: legacy::now().floor_seconds().plus(TICKET_TTL_SECONDS),
        };
        ticket::issue(&self.key, &claims)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> Result<()> {
        self.process.stop(STOPS).await.map(|_| ())
    }
}
