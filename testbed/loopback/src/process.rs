//! Child processes that end with us, however we end.
//!
//! Each child leads a process group of its own. Two things watch over it, since a group is left alone when its
//! parent is killed outright:
//! * `setpriv --pdeathsig KILL` (util-linux) has the kernel kill the leader. That signal fires when the *thread*
//!   that forked ends, so all children are forked by one thread that never ends.
//! * a guard, a sleeping `sh` outside the group, reads from a pipe that only we hold. When we are gone, it reads
//!   the end of file and kills the whole group: also what the leader has started, as wrangler starts workerd.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command as TokioCommand};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How much of a log goes into an error message, in bytes.
const TAIL_BYTES: u64 = 4096;

/// Ports that [`free_port`] hands out: below the range from which the kernel takes ports for outgoing
/// connections, so that none of them is taken between the asking and the listening.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Between two ports handed out. clawdbot may use the ones after its own.
const PORT_STEP: u16 = 5;

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments. Everybody on the machine can read them: no secrets.
    pub args: Vec<OsString>,
    /// The whole environment: nothing is inherited.
    pub env: BTreeMap<String, OsString>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Where standard output and error go, appended.
    pub log: PathBuf,
}

/// A running child. Dropping it kills its group at once.
#[derive(Debug)]
pub struct Process {
    name: String,
    group: Pid,
    child: Child,
    guard: std::process::Child,
    log: PathBuf,
    /// Where this run's output begins in the log.
    log_start: u64,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts the child. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub async fn spawn(spec: Spec) -> Result<Self> {
        let name = spec.name.clone();
        let handle = Handle::current();
        let (reply, started) = oneshot::channel();
        let job = Job { spec, handle, reply };
        spawner()?.send(job).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
        started
            .await
            .with_context(|| format!("the thread that starts processes gave no answer for {name}"))?
            .with_context(|| format!("cannot start {name}"))
    }

    /// Its process id, which is also its group's.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// The file with its output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What this run has written so far, its last 4 KiB, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.read_log(TAIL_BYTES)
    }

    /// Whether this run's output, its last 4 KiB, holds `text`.
    #[must_use]
    pub fn has_logged(&self, text: &str) -> bool {
        self.read_log(TAIL_BYTES).contains(text)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none()
            && let Some(status) =
                self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))?
        {
            self.record(status);
        }
        Ok(self.exit)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exit {
            return Ok(status);
        }
        let status = self.child.wait().await.with_context(|| format!("cannot wait for {}", self.name))?;
        self.record(status);
        Ok(status)
    }

    /// Sends a signal to the group. That nobody is left in it is no error.
    pub fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// SIGTERM to the group, up to `grace` to end, then SIGKILL to what is left of the group.
    ///
    /// # Errors
    /// When it does not even end after SIGKILL.
    pub async fn stop(mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        // An error here means that the group has just ended; the wait finds out.
        let _ = kill_process_group(self.group, Signal::TERM);
        match timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// SIGKILL to the group: an outage without a goodbye.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(mut self) -> Result<ExitStatus> {
        self.kill_group();
        match timeout(Duration::from_secs(5), self.wait()).await {
            Ok(status) => status,
            Err(_) => bail!("{} (pid {}) goes on after SIGKILL", self.name, self.pid()),
        }
    }

    /// Resident memory of the leader, in bytes; `None` once it is gone.
    #[must_use]
    pub fn rss_bytes(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    /// The most that it has ever been.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The leader has been reaped. What it left in its group ends now: later, the number may be another's.
    fn record(&mut self, status: ExitStatus) {
        self.kill_group();
        self.exit = Some(status);
        self.dismiss_guard();
    }

    fn kill_group(&self) {
        // The one error possible is that nobody is left in it.
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// The guard goes before its pipe is closed, or it would kill a group that may be another's by then.
    fn dismiss_guard(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }

    fn read_log(&self, bytes: u64) -> String {
        read_tail(&self.log, self.log_start, bytes).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill_group();
            self.dismiss_guard();
        }
    }
}

/// A port on which nothing listens, in IPv4 and IPv6, and which this process has not handed out before.
///
/// # Errors
/// When the whole range is taken.
pub fn free_port() -> Result<u16> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let slots = PORTS.len() as u16 / PORT_STEP;
    // Processes that run at the same time, as test binaries do, start at different places.
    let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() % u32::from(slots)) as u16));
    for _ in 0..slots {
        let slot = next.fetch_add(1, Ordering::Relaxed) % slots;
        let port = PORTS.start + slot * PORT_STEP;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
                Ok(_) => true,
                // A machine without IPv6 is no obstacle.
                Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
            };
        if free {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

struct Job {
    spec: Spec,
    handle: Handle,
    reply: oneshot::Sender<Result<Process>>,
}

/// The one thread that forks; it lives as long as the process.
fn spawner() -> Result<&'static mpsc::Sender<Job>> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for Job { spec, handle, reply } in jobs {
                let _runtime = handle.enter();
                // If nobody waits any more, the process is dropped with the answer, and ends.
                let _ = reply.send(start(spec));
            }
        })
        .context("cannot start the thread that starts processes")?;
    // Of two first callers, one finds the other's thread; its own ends with its sender, having forked nothing.
    Ok(SPAWNER.get_or_init(|| sender))
}

fn start(spec: Spec) -> Result<Process> {
    let Spec { name, program, args, env, dir, log } = spec;
    let mut output = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    let log_start = output.seek(SeekFrom::End(0)).context("cannot find the end of the log")?;
    let errors = output.try_clone().context("cannot share the log")?;

    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args(args).current_dir(&dir).process_group(0);
    // `setpriv` itself is looked up in the child's PATH, which an empty environment does not have.
    command.env_clear().env("PATH", DEFAULT_PATH).envs(env);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = TokioCommand::from(command)
        .spawn()
        .with_context(|| format!("cannot run {} (through setpriv)", program.display()))?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .context("the child ended before it had an id")?;
    let guard = match start_guard(group) {
        Ok(guard) => guard,
        Err(error) => {
            let _ = kill_process_group(group, Signal::KILL);
            return Err(error);
        }
    };
    Ok(Process { name, group, child, guard, log, log_start, exit: None })
}

/// The PATH of a child whose environment does not set one.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

fn start_guard(group: Pid) -> Result<std::process::Child> {
    // It ignores the signals that a terminal sends to everybody: it must outlive us by a moment.
    let script = r#"trap "" HUP INT TERM; read -r _; kill -s KILL -- "-$1""#;
    Command::new("sh")
        .args(["-c", script, "guard"])
        .arg(group.as_raw_nonzero().to_string())
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the guard of a process group")
}

/// The last `bytes` of a file, not reaching before `start`.
fn read_tail(path: &Path, start: u64, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes).max(start)))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::test_kill_process;
    use tokio::time::{Instant, sleep};

    fn shell(script: &str, dir: &Path) -> Spec {
        Spec {
            name: "test".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::new(),
            dir: dir.to_owned(),
            log: dir.join("log"),
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "not within 10 s: {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn alive(pid: i32) -> bool {
        // A zombie counts as ended: its parent has not looked yet.
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let zombie = state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !zombie
    }

    fn pids_in(text: &str) -> Vec<i32> {
        text.lines().filter_map(|line| line.strip_prefix("pid ")?.parse().ok()).collect()
    }

    #[tokio::test]
    async fn stop_is_polite_first_and_certain_at_last() {
        let dir = tempfile::tempdir().unwrap();
        let polite = shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done", dir.path());
        let polite = Process::spawn(polite).await.unwrap();
        until("up", || polite.has_logged("up")).await;
        assert_eq!(polite.stop(Duration::from_secs(5)).await.unwrap().code(), Some(7));

        let deaf = shell("trap '' TERM; echo deaf; while :; do sleep 0.05; done", dir.path());
        let deaf = Process::spawn(deaf).await.unwrap();
        until("deaf", || deaf.has_logged("deaf")).await;
        assert!(!deaf.has_logged("up"), "the tail begins with this run");
        let before = Instant::now();
        assert_eq!(deaf.stop(Duration::from_millis(200)).await.unwrap().code(), None);
        assert!(before.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test]
    async fn dropping_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 300 & echo pid $!; echo pid $$; wait";
        let process = Process::spawn(shell(script, dir.path())).await.unwrap();
        until("both", || pids_in(&process.log_tail()).len() == 2).await;
        let pids = pids_in(&process.log_tail());
        assert!(pids.iter().all(|pid| alive(*pid)));
        drop(process);
        until("all gone", || pids.iter().all(|pid| !alive(*pid))).await;
    }

    #[tokio::test]
    async fn an_early_end_is_seen_and_explained() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::spawn(shell("echo reason >&2; exit 3", dir.path())).await.unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        assert_eq!(process.log_tail(), "reason\n");
        assert_eq!(process.exited().unwrap().and_then(|status| status.code()), Some(3));
    }

    /// This test starts itself a second time, as the parent that is killed.
    #[tokio::test]
    async fn nothing_survives_a_parent_that_is_killed() {
        const ROLE: &str = "TESTBED_DOOMED_PARENT";
        const NAME: &str = "process::tests::nothing_survives_a_parent_that_is_killed";
        #[expect(clippy::disallowed_methods, reason = "tells the two runs of this test apart")]
        let role = std::env::var(ROLE);
        if let Ok(dir) = role {
            let script = "sleep 300 & echo pid $!; echo pid $$; wait";
            let _process = Process::spawn(shell(script, Path::new(&dir))).await.unwrap();
            sleep(Duration::from_secs(60)).await;
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(ROLE, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = dir.path().join("log");
        let pids = || pids_in(&fs::read_to_string(&log).unwrap_or_default());
        until("children", || pids().len() == 2).await;
        assert!(pids().iter().all(|pid| alive(*pid)));
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("children gone", || pids().iter().all(|pid| !alive(*pid))).await;
    }

    #[test]
    fn free_ports_differ_and_keep_their_distance() {
        let ports: Vec<u16> = (0..5).map(|_| free_port().unwrap()).collect();
        for pair in ports.windows(2) {
            assert!(pair[0].abs_diff(pair[1]) >= PORT_STEP, "{ports:?}");
            assert!(PORTS.contains(&pair[0]));
        }
    }
}
