//! The sidecar's process, from start to exit:
//!
//! 1. Settings are read from the environment. One that is missing or wrong: one sentence, exit code 78.
//! 2. Logging starts, as JSON on standard output.
//! 3. The highest epoch ever served is read from the volume. If it cannot be: one sentence, exit code 65, since
//!    to serve without it could be to serve an older one.
//!    Then the workspace is opened, and the folder of uploads, from which is removed what has expired.
//! 4. Both listeners are bound, with a bound on how long a client may take nothing, then named in the log line `listening`. If one cannot be: exit code 71.
//!    In the background, what an earlier process left in the workspace under temporary names is removed, and once an
//!    hour what has been in the trash, or unfinished, for too long.
//! 5. A connection to the agent is opened and kept, for `/ready`; both listeners serve.
//! 6. SIGTERM or SIGINT: no further connection is accepted. Then, at the same time, requests under way finish,
//!    and open WebSockets are closed with 1012, at the end of the frame that is under way.
//! 7. When nothing is connected any more, or after [`DRAIN_TIMEOUT`], the process ends with exit code 0.
//!
//! The agent is not started here: it must be running, or `/ready` says that it is not.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shared::time::UnixMillis;
use sidecar::config::Config;
use sidecar::epoch::{Arbiter, LoadError};
use sidecar::files::serve_tus::Uploads;
use sidecar::files::{Files, litter, trash};
use sidecar::server::Slots;
use sidecar::state::App;
use sidecar::stop::Stop;
use sidecar::{VERSION, admin, clock, logging, readiness, routes, server, stall, stop};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The machine is killed soon after the signal; what has not ended by then would be cut off anyway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// For fsync, later for files. They wait for the disk, not for the processor, so more than cores is right.
const MAX_BLOCKING_THREADS: usize = 8;

/// They live for days, so an hour more does not matter.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);

/// sysexits.h: the command line, the data, the system, the configuration.
const EXIT_USAGE: u8 = 64;
const EXIT_DATA: u8 = 65;
const EXIT_SYSTEM: u8 = 71;
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
  AUTOMNA_CLIENT_SCOPES  what clients may do at most (operator.read,operator.write)
  RUST_LOG               what to log (info)
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => start(),
        (Some("--help" | "-h"), None) => print(HELP),
        (Some("--version" | "-V"), None) => print(&format!("sidecar {VERSION}\n")),
        (Some(_), _) => fail(EXIT_USAGE, "The sidecar takes no arguments but --help and --version."),
    }
}

fn start() -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
    };
    let _written_at_the_end = logging::start(config.log_filter.as_deref());
    // One thread for all connections: they mostly wait, and their buffers are then shared.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(error) => Err(StartError::System { what: "runtime", error }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
}

async fn run(config: Config) -> Result<(), StartError> {
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
    let app = App::new(config, arbiter, files.clone(), uploads.clone(), readiness.clone(), stop.clone());
    let app = routes::app(app);
    let slots = Slots::default();
    sweep(files.clone())?;
    tokio::spawn(purge(uploads, files, stop.clone()));
    tokio::spawn(server::serve(private, admin::app(readiness), Slots::default(), stop.clone()));
    tokio::spawn(server::serve(public, app, slots.clone(), stop));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stopper.stop();
    if tokio::time::timeout(DRAIN_TIMEOUT, slots.all_free()).await.is_err() {
        tracing::warn!("stopped while clients were still connected");
    }
    tracing::info!("stopped");
    Ok(())
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
    System { what: &'static str, error: std::io::Error },
}

impl StartError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Epoch(_) => EXIT_DATA,
            Self::System { .. } => EXIT_SYSTEM,
        }
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One sentence for whoever reads the console.
fn fail(code: u8, sentence: &str) -> ExitCode {
    // If even standard error is closed, the exit code still speaks.
    let _unheard = writeln!(std::io::stderr(), "{sentence}");
    ExitCode::from(code)
}
