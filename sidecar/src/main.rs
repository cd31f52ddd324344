//! The sidecar's process, from start to exit:
//!
//! 1. Settings are read from the environment. One that is missing or wrong: one sentence, exit code 78.
//! 2. Logging starts, as JSON on standard output.
//! 3. The volume and the agent's files are prepared ([`sidecar::boot`]). If they cannot be used: one sentence, and 65
//!    (what is on the volume), 78 (what the machine was told or not given) or 71.
//! 4. The highest epoch ever served is read from the volume. If it cannot be: one sentence, exit code 65, since
//!    to serve without it could be to serve an older one.
//!    Then the workspace is opened, and the folder of uploads, from which is removed what has expired.
//! 5. Both listeners are bound, with a bound on how long a client may take nothing, then named in the log line `listening`. If one cannot be: exit code 71.
//!    In the background, what an earlier process left in the workspace under temporary names is removed, and once an
//!    hour what has been in the trash, or unfinished, for too long.
//! 6. A connection to the agent is opened as soon as it listens, and kept, for `/ready`; both listeners serve.
//! 7. The agent is started, and started again whenever it ends ([`sidecar::agent::supervision`]).
//! 8. SIGTERM or SIGINT: the drain ([`sidecar::drain`]), within [`drain::BUDGET`]:
//!    1. New writes and new sockets are refused with 503 and `Retry-After`; open WebSockets are closed with 1012,
//!       at the end of the frame that is under way. Reads are still answered.
//!    2. Writes under way finish.
//!    3. Runs of the agent finish, within 8 s: what it has acknowledged is then written down.
//!    4. The agent is told to end, and killed if it has not after 6 s; with it, all that it had started.
//!    5. The volume is made durable.
//!    6. The data plane does its last copy.
//!    7. No further connection is accepted; what is connected finishes.
//! 9. Exit code 0 if all that was acknowledged is safe, 74 if not.
//!
//! Without `AUTOMNA_AGENT_ENTRY` the agent runs elsewhere: steps 3 and 7 do not happen, and nobody ends it.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::secret::Secret;
use shared::time::UnixMillis;
use sidecar::admin::Admin;
use sidecar::agent::command::AgentCommand;
use sidecar::agent::output::Output;
use sidecar::agent::redact::Redactor;
use sidecar::agent::status::Phase;
use sidecar::agent::{launch, runs, supervisor};
use sidecar::boot::{self, Fault, Prepared};
use sidecar::config::Config;
use sidecar::drain::{self, NoDataPlane, Outcome};
use sidecar::epoch::{Arbiter, LoadError, STATE_DIR};
use sidecar::files::serve_tus::Uploads;
use sidecar::files::{Files, litter, trash};
use sidecar::metrics::Metrics;
use sidecar::metrics::labels::Step;
use sidecar::readiness::Watch;
use sidecar::server::Slots;
use sidecar::state::{App, Parts};
use sidecar::stop::{Stop, Stopper};
use sidecar::writes::Writes;
use sidecar::{VERSION, admin, clock, logging, readiness, routes, server, stall, stop};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// For fsync, later for files. They wait for the disk, not for the processor, so more than cores is right.
const MAX_BLOCKING_THREADS: usize = 8;

/// Below the sidecar's own folder.
const AGENT_LOG: &str = "agent.log";

/// Below the agent's state.
const AGENT_CONFIG: &str = "clawdbot.json";

/// They live for days, so an hour more does not matter.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);

/// sysexits.h: the command line, the data, the system, input and output, the configuration.
const EXIT_USAGE: u8 = 64;
const EXIT_DATA: u8 = 65;
const EXIT_SYSTEM: u8 = 71;
const EXIT_IO: u8 = 74;
const EXIT_CONFIG: u8 = 78;

const HELP: &str = "\
The service on a user's machine, in front of the agent.

Usage: sidecar [--help | --version]

Settings come from the environment:
  AUTOMNA_USER_ID        the machine's only user (required)
  AUTOMNA_MACHINE_KEY    the key derived from MOLTBOT_SIGNING_SECRET for this machine (required)
  AUTOMNA_GENERATION     the generation of this machine (required)
  AUTOMNA_DATA_DIR       where the volume is mounted (/data)
  AUTOMNA_AGENT_STATE_DIR  where the agent keeps its sessions ({data}/clawdbot)
  AUTOMNA_WORKSPACE_DIR  where the agent works ({data}/workspace)
  AUTOMNA_LISTEN         the public listener (0.0.0.0:8080)
  AUTOMNA_ADMIN_LISTEN   the private listener (127.0.0.1:8081)
  AUTOMNA_AGENT_ADDR     where the agent listens (127.0.0.1:18789)
  AUTOMNA_AGENT_ENTRY    the agent's dist/entry.js; without it somebody else starts the agent
  AUTOMNA_AGENT_NODE     what runs it (node)
  AUTOMNA_AGENT_HEAP_MB  the most that it keeps on its heap (node's own choice)
  AUTOMNA_AGENT_TMP_DIR  for its temporary files (/tmp)
  AUTOMNA_IMAGE_DIR      the image's files for workspaces (/opt/automna)
  AUTOMNA_LEGACY_HOME    where links to the agent's folders are made (none)
  AUTOMNA_REQUIRE_MOUNT  whether the data directory must be a mount point: on or off (on)
  AUTOMNA_ADOPT_VOLUME   whose a volume is that holds data and does not say so (nobody's)
  TZ, PATH               passed on to the agent (UTC, Debian's)
  ANTHROPIC_API_KEY, ... keys and addresses of models and channels, passed on: see boot/credentials.rs
  AUTOMNA_CLIENT_SCOPES  what clients may do at most (operator.read,operator.write)
  RUST_LOG               what to log (info)
";

const USAGE: &str = "The sidecar takes no arguments but --help and --version.";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (first, second) = (arguments.next(), arguments.next());
    match (first.as_ref().and_then(|argument| argument.to_str()), &second) {
        // Ourselves, on the way to being the agent.
        (Some(launch::ARGUMENT), Some(_)) => {
            let error = launch::become_agent(second.into_iter().chain(arguments));
            fail(EXIT_SYSTEM, &format!("The agent cannot be started: {error}."))
        }
        (None, _) if first.is_some() => fail(EXIT_USAGE, USAGE),
        (None, _) => start(),
        (Some("--help" | "-h"), None) => print(HELP),
        (Some("--version" | "-V"), None) => print(&format!("sidecar {VERSION}\n")),
        (Some(_), _) => fail(EXIT_USAGE, USAGE),
    }
}

fn start() -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
    };
    let _written_at_the_end = logging::start(config.log_filter.as_deref());
    let begun = Instant::now();
    let prepared = match config.boot.as_ref().map(|boot| boot::prepare(boot, clock::now())).transpose() {
        Ok(prepared) => prepared,
        Err(error) => return fail(exit_code(error.fault()), &error.to_string()),
    };
    let metrics = Metrics::default();
    metrics.booted(Step::Boot, begun.elapsed());
    // One thread for all connections: they mostly wait, and their buffers are then shared.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(config, prepared, metrics));
            // A thread that waits for a dead disk must not keep the process from ending.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(StartError::System { what: "runtime", error }),
    };
    match result {
        Ok(outcome) if outcome.is_safe() => ExitCode::SUCCESS,
        Ok(_) => fail(EXIT_IO, "The machine stops, and something may be unsaved: see the log."),
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
}

async fn run(config: Config, prepared: Option<Prepared>, metrics: Metrics) -> Result<Outcome, StartError> {
    let arbiter = Arbiter::load(&config.data_dir)?;
    let files = Files::open(&config.workspace_dir)
        .map_err(|error| StartError::System { what: "workspace", error })?;
    let uploads = Uploads::open(&config.data_dir, clock::now())
        .map_err(|error| StartError::System { what: "folder of uploads", error })?;
    let uploads = Arc::new(uploads);
    let (mut terminate, mut interrupt) =
        (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);

    let (public, public_address) = bind("public listener", config.listen).await?;
    let (private, private_address) = bind("private listener", config.admin_listen).await?;
    tracing::info!(public = %public_address, admin = %private_address, "listening");

    let (stopper, stop) = stop::channel();
    let agent = readiness::Agent { address: config.agent, token: config.identity.key.gateway_token() };
    let readiness = readiness::keep(agent, stop.clone());
    let (volume, agent_state) = (config.data_dir.clone(), config.agent_state_dir.clone());
    let (command, report) = prepared.map(|prepared| (prepared.command, prepared.report)).unzip();
    let supervisor =
        command.map(|command| supervise(&config, command, readiness.clone(), metrics.clone())).transpose()?;
    let slots = Slots::default();
    let admin = Admin {
        readiness: readiness.clone(),
        stop: stop.clone(),
        metrics: metrics.clone(),
        supervisor: supervisor.clone(),
        slots: slots.clone(),
        volume: volume.clone(),
    };
    let parts = Parts {
        arbiter,
        files: files.clone(),
        uploads: uploads.clone(),
        readiness,
        stop: stop.clone(),
        supervisor: supervisor.clone(),
        boot: report,
        metrics,
    };
    let app = App::new(config, parts);
    let writes = app.writes.clone();
    sweep(files.clone())?;
    tokio::spawn(purge(uploads, files, stop.clone()));
    tokio::spawn(server::serve(private, admin::app(admin), Slots::default(), stop.clone()));
    tokio::spawn(server::serve(public, routes::app(app), slots.clone(), stop));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    let steps = MachineStops { stopper, writes, supervisor, agent_state, volume, slots };
    let outcome = drain::run(&steps, &NoDataPlane).await;
    tracing::info!(safe = outcome.is_safe(), ?outcome, "stopped");
    Ok(outcome)
}

/// Starts the agent. What it prints is kept without the secrets that it and we are given.
fn supervise(
    config: &Config,
    command: AgentCommand,
    readiness: Watch,
    metrics: Metrics,
) -> Result<supervisor::Handle, StartError> {
    let key = &config.identity.key;
    let own = [key.gateway_token()].into_iter().chain(Secret::new(key.expose().as_str()));
    let redactor = Redactor::new(supervisor::secrets_of(&command).chain(own));
    let output = Output::new(redactor, Some(config.data_dir.join(STATE_DIR).join(AGENT_LOG)));
    let config_file = config.agent_state_dir.join(AGENT_CONFIG);
    let boot = config.boot.clone();
    let heal = supervisor::Heal(Arc::new(move || {
        if let Some(boot) = &boot {
            boot::heal_again(boot, clock::now());
        }
    }));
    let settings = supervisor::Settings { command, address: config.agent, config_file, heal };
    supervisor::start(settings, output, readiness, metrics)
        .map_err(|error| StartError::System { what: "supervision of the agent", error })
}

/// What the drain does to this process.
struct MachineStops {
    stopper: Stopper,
    writes: Writes,
    supervisor: Option<supervisor::Handle>,
    agent_state: PathBuf,
    volume: PathBuf,
    slots: Slots,
}

impl drain::Steps for MachineStops {
    fn refuse_writes_and_tell_clients(&self) {
        self.stopper.drain();
    }

    async fn writes_done(&self) {
        self.writes.done().await;
    }

    async fn runs_done(&self) -> io::Result<()> {
        let Some(supervisor) = &self.supervisor else { return Ok(()) };
        runs::done(&self.agent_state, || supervisor.status().state == Phase::Running).await
    }

    async fn end_agent(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.drain().await;
        }
    }

    /// Of the whole volume: the agent itself makes nothing durable that it writes.
    async fn make_durable(&self) -> io::Result<()> {
        let volume = self.volume.clone();
        let sync = move || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(volume)?)?) };
        tokio::task::spawn_blocking(sync).await.map_err(io::Error::other)?
    }

    async fn let_clients_go(&self) {
        self.stopper.stop();
        self.slots.all_free().await;
    }
}

/// Removes what a crash left in the workspace, and what is due in the trash. On a thread of its own: it can take half a minute, the pool is for
/// requests, and the process does not wait for it at its end.
fn sweep(files: Files) -> Result<(), StartError> {
    let work = move || {
        match litter::sweep(&files) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed temporary files of an earlier process"),
            Err(error) => {
                tracing::warn!(%error, "the workspace could not be searched for temporary files");
            }
        }
        // A machine that sleeps when nobody needs it may never reach its first full hour.
        purge_trash(&files);
    };
    let thread = std::thread::Builder::new().name("sweep".to_owned()).spawn(work);
    thread.map(drop).map_err(|error| StartError::System { what: "sweep", error })
}

/// Removes uploads that were never finished, and what has been in the trash for as long as it is kept.
async fn purge(uploads: Arc<Uploads>, files: Files, mut stop: Stop) {
    loop {
        tokio::select! {
            () = stop.requested() => return,
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
        }
        let (uploads, files) = (uploads.clone(), files.clone());
        // A round that fails is made up for by the next one.
        let _next = tokio::task::spawn_blocking(move || {
            uploads.purge(clock::now(), false);
            purge_trash(&files);
        })
        .await;
    }
}

/// Removes what has been in the trash for as long as it is kept.
fn purge_trash(files: &Files) {
    let before = UnixMillis(clock::now().0.saturating_sub(trash::KEEP_MS));
    if let Err(error) = trash::purge(files, Some(before)) {
        tracing::warn!(%error, "the trash could not be purged");
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(|error| StartError::System { what: "signal handler", error })
}

async fn bind(
    what: &'static str,
    address: std::net::SocketAddr,
) -> Result<(TcpListener, std::net::SocketAddr), StartError> {
    let failed = |error| StartError::System { what, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    stall::limit(&listener, stall::MAX_STALL).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Why the process cannot serve at all.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Epoch(#[from] LoadError),
    #[error("The {what} cannot be set up: {error}.")]
    System { what: &'static str, error: io::Error },
}

impl StartError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Epoch(_) => EXIT_DATA,
            Self::System { .. } => EXIT_SYSTEM,
        }
    }
}

const fn exit_code(fault: Fault) -> u8 {
    match fault {
        Fault::Data => EXIT_DATA,
        Fault::Configuration => EXIT_CONFIG,
        Fault::System => EXIT_SYSTEM,
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One sentence for whoever reads the console.
fn fail(code: u8, sentence: &str) -> ExitCode {
    // If even standard error is closed, the exit code still speaks.
    let _unheard = writeln!(io::stderr(), "{sentence}");
    ExitCode::from(code)
}
