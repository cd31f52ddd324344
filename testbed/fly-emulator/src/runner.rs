//! One task for each machine. It has the machine's process, and carries out orders one after the other: an order
//! that comes while the process is stopping waits for its end.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fly_model::Exit;
use loopback::process::{DEFAULT_PATH, Process, Spec};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::fs;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::driver::complain;
use crate::emulator::Shared;
use crate::launch::{Launch, log_file};
use crate::volumes;

/// What a machine is told.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Launch),
    Stop { signal: Signal, timeout: Duration },
    Signal(Signal),
    Copy { from: PathBuf, to: PathBuf },
}

/// A machine's task.
#[derive(Debug)]
pub(crate) struct Runner {
    orders: mpsc::UnboundedSender<Order>,
    /// Runs up to this one are to end at once.
    killed: watch::Sender<u64>,
    current: Current,
    task: JoinHandle<()>,
}

/// The process that runs, for those who put others beside it.
type Current = Arc<Mutex<Option<Beside>>>;

/// What it takes to run something in a machine.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    group: i32,
    env: BTreeMap<String, String>,
    root: PathBuf,
}

impl Runner {
    pub(crate) fn spawn(shared: Arc<Shared>, id: String) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let killed = watch::Sender::new(0);
        let current = Current::default();
        let machine = Machine {
            shared,
            id,
            orders: received,
            killed: killed.subscribe(),
            current: Arc::clone(&current),
        };
        Self { orders, killed, current, task: tokio::spawn(machine.live()) }
    }

    pub(crate) fn order(&self, order: Order) {
        // The task ends with the runner, not before.
        let _ = self.orders.send(order);
    }

    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<Order> {
        self.orders.clone()
    }

    pub(crate) fn kill(&self, run: u64) {
        self.killed.send_if_modified(|until| {
            let more = *until < run;
            *until = (*until).max(run);
            more
        });
    }

    pub(crate) fn beside(&self) -> Option<Beside> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the task, and the process with it.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Machine {
    shared: Arc<Shared>,
    id: String,
    orders: mpsc::UnboundedReceiver<Order>,
    killed: watch::Receiver<u64>,
    current: Current,
}

impl Machine {
    async fn live(mut self) {
        let mut process: Option<(u64, Process)> = None;
        loop {
            let (order, ended) = match &mut process {
                Some((run, running)) => {
                    let run = *run;
                    tokio::select! {
                        order = self.orders.recv() => (order, None),
                        status = running.wait() => (None, Some((run, status.ok()))),
                        _ = self.killed.wait_for(|until| *until >= run) => {
                            let timeout = Duration::from_secs(1);
                            (Some(Order::Stop { signal: Signal::KILL, timeout }), None)
                        }
                    }
                }
                None => (self.orders.recv().await, None),
            };
            if let Some((run, status)) = ended {
                process = None;
                self.report(run, status);
                continue;
            }
            match order {
                None => return,
                Some(Order::Start(launch)) => {
                    let run = launch.run;
                    if let Some((before, running)) = process.take() {
                        let status = running.kill().await.ok();
                        self.report(before, status);
                    }
                    match self.start(&launch).await {
                        Ok(running) => {
                            self.publish(Some(Beside {
                                group: running.pid(),
                                env: launch.env,
                                root: launch.root,
                            }));
                            process = Some((run, running));
                        }
                        Err(error) => {
                            complain(&format!("machine {}: {error:#}", self.id));
                            self.report_exit(run, Exit { code: 127, ..Exit::default() });
                        }
                    }
                }
                Some(Order::Stop { signal, timeout }) => {
                    if let Some((run, running)) = process.take() {
                        let status = self.stop(run, running, signal, timeout).await;
                        self.report(run, status);
                    }
                }
                Some(Order::Signal(signal)) => {
                    if let Some((_, running)) = &process {
                        running.signal(signal);
                    }
                }
                Some(Order::Copy { from, to }) => {
                    if let Err(error) = volumes::copy(&from, &to).await {
                        complain(&format!("machine {}: {error:#}", self.id));
                    }
                }
            }
        }
    }

    async fn start(&self, launch: &Launch) -> Result<Process> {
        volumes::remove(&launch.root).await?;
        fs::create_dir_all(&launch.root).await.context("cannot make the root folder")?;
        for (at, contents, mode) in &launch.files {
            let at = launch.root.join(at);
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent).await.context("cannot make a folder for a file")?;
            }
            fs::write(&at, contents).await.context("cannot write a file")?;
            let mode = std::fs::Permissions::from_mode(*mode);
            fs::set_permissions(&at, mode).await.context("cannot set a file's mode")?;
        }
        if let Some((volume, at)) = &launch.mount {
            let at = launch.root.join(at);
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent).await.context("cannot make a folder for the mount")?;
            }
            fs::symlink(volume, &at).await.context("cannot link the volume")?;
        }
        let (program, args) = launch.command.split_first().context("the image has no command")?;
        Process::spawn(Spec {
            name: format!("machine {}", self.id),
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env: launch.env.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
            dir: launch.root.clone(),
            log: log_file(&self.shared.config.dir, &self.id),
        })
        .await
    }

    /// The signal, then time, then SIGKILL; at once if the machine is killed meanwhile.
    async fn stop(
        &mut self,
        run: u64,
        mut running: Process,
        signal: Signal,
        patience: Duration,
    ) -> Option<ExitStatus> {
        running.signal(signal);
        let ended = tokio::select! {
            ended = timeout(patience, running.wait()) => ended.ok(),
            _ = self.killed.wait_for(|until| *until >= run) => None,
        };
        match ended {
            Some(status) => status.ok(),
            None => running.kill().await.ok(),
        }
    }

    fn publish(&self, beside: Option<Beside>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = beside;
    }

    fn report(&self, run: u64, status: Option<ExitStatus>) {
        let exit = Exit {
            code: status.and_then(|status| status.code()).unwrap_or(0),
            signal: status.and_then(|status| status.signal()).unwrap_or(0),
            oom_killed: false,
        };
        self.report_exit(run, exit);
    }

    fn report_exit(&self, run: u64, exit: Exit) {
        self.publish(None);
        self.shared.change(|fly, now| fly.exited(&self.id, run, exit, now));
    }
}

/// Rule 16: how long a command may run, and how much of what it says is kept, in bytes.
const EXEC_MOST: Duration = Duration::from_secs(60);
const EXEC_OUTPUT: usize = 1 << 20;

/// Runs a command beside a machine's process: in its environment, its folder and its process group. What it is
/// given on standard input is ignored, as Fly does.
///
/// # Errors
/// Status and text.
pub(crate) async fn exec(beside: &Beside, body: &Value) -> Result<Value, (u16, &'static str)> {
    let command: Vec<&str> = match body.get("command").and_then(Value::as_array) {
        Some(parts) => parts.iter().filter_map(Value::as_str).collect(),
        None => body.get("cmd").and_then(Value::as_str).into_iter().flat_map(str::split_whitespace).collect(),
    };
    let Some((program, args)) = command.split_first() else {
        return Err((400, "invalid_argument: command is required"));
    };
    let patience = body.get("timeout").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
    let patience = patience.map_or(EXEC_MOST, Duration::from_secs).min(EXEC_MOST);
    let child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .envs(&beside.env)
        .current_dir(&beside.root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(beside.group)
        .kill_on_drop(true)
        .spawn();
    let Ok(child) = child else {
        return Ok(json!({"exit_code": 127, "stdout": "", "stderr": format!("{program}: cannot be run\n")}));
    };
    let Ok(output) = timeout(patience, child.wait_with_output()).await else {
        return Err((408, "deadline_exceeded: context deadline exceeded"));
    };
    let Ok(output) = output else { return Err((500, "unknown: the command's output broke off")) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..EXEC_OUTPUT).unwrap_or(bytes)).into_owned();
    Ok(json!({
        "exit_code": output.status.code().unwrap_or(0),
        "exit_signal": output.status.signal().unwrap_or(0),
        "stdout": text(&output.stdout),
        "stderr": text(&output.stderr),
    }))
}
