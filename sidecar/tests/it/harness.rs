//! A sidecar process with its volume, and what a client does with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use shared::id::{Backend, Epoch, Generation, UserId};
use shared::key::{MachineKey, SigningKeys};
use shared::secret::Secret;
use shared::ticket::{self, Claims};
use shared::time::UnixSeconds;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::described;
use crate::gateway::Gateway;

pub(crate) const USER: &str = "user_abc123";
pub(crate) const GENERATION: u32 = 3;
pub(crate) const SIGNING_SECRET: &str = "signing-secret-of-the-tests";

/// Longest wait for anything. Generous, since the machine may be busy; nothing waits for it in vain.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) fn key_of(user: &str, generation: u32) -> MachineKey {
    let keys = SigningKeys::new(Secret::new(SIGNING_SECRET).unwrap(), None);
    keys.machine_key(&user.parse().unwrap(), Generation(generation))
}

pub(crate) fn token() -> String {
    key_of(USER, GENERATION).gateway_token().expose().to_owned()
}

/// A ticket with everything right but what the test changes.
pub(crate) struct Ticket {
    pub(crate) user: UserId,
    pub(crate) backend: Backend,
    pub(crate) generation: u32,
    pub(crate) epoch: u64,
    pub(crate) expires_in: i64,
    pub(crate) key: MachineKey,
}

impl Ticket {
    pub(crate) fn of_epoch(epoch: u64) -> Self {
        let user = USER.parse().unwrap();
        let key = key_of(USER, GENERATION);
        Self { user, backend: Backend::Fly, generation: GENERATION, epoch, expires_in: 60, key }
    }

    pub(crate) fn issue(self) -> String {
        #[expect(clippy::disallowed_methods, reason = "tickets for a real process need the real time")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims {
            backend: self.backend,
            user: self.user,
            generation: Generation(self.generation),
            epoch: Epoch(self.epoch),
            expires: UnixSeconds(now.checked_add_signed(self.expires_in).unwrap()),
        };
        ticket::issue(&self.key, &claims)
    }
}

pub(crate) struct Sidecar {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
    data: TempDir,
    agent: SocketAddr,
}

/// The command, with a whole configuration.
pub(crate) fn command(data: &std::path::Path, agent: SocketAddr) -> Command {
    command_of(env!("CARGO_BIN_EXE_sidecar").as_ref(), data, agent)
}

fn command_of(program: &std::path::Path, data: &std::path::Path, agent: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("AUTOMNA_USER_ID", USER)
        .env("AUTOMNA_MACHINE_KEY", key_of(USER, GENERATION).expose())
        .env("AUTOMNA_GENERATION", GENERATION.to_string())
        .env("AUTOMNA_DATA_DIR", data)
        .env("AUTOMNA_LISTEN", "127.0.0.1:0")
        .env("AUTOMNA_ADMIN_LISTEN", "127.0.0.1:0")
        .env("AUTOMNA_AGENT_ADDR", agent.to_string())
        .env("RUST_LOG", "debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Sidecar {
    /// A sidecar in front of a fake agent.
    pub(crate) async fn start() -> (Self, Gateway) {
        let gateway = Gateway::start(token()).await;
        let sidecar = Self::before(gateway.address).await;
        (sidecar, gateway)
    }

    /// A sidecar in front of whatever is at `agent`.
    pub(crate) async fn before(agent: SocketAddr) -> Self {
        Self::on(tempfile::tempdir().unwrap(), agent).await
    }

    /// As [`Self::start`], without a line for each request: the pipe that nobody reads would be full after some
    /// hundred, and the process would wait for it.
    pub(crate) async fn start_quiet() -> (Self, Gateway) {
        let gateway = Gateway::start(token()).await;
        let data = tempfile::tempdir().unwrap();
        let sidecar = Self::with_log(data, gateway.address, "info,sidecar::gate=off").await;
        (sidecar, gateway)
    }

    /// As [`Self::start_quiet`], on a volume of the test's choice, and as `user` if one is given. The program is
    /// copied to the volume then, since another user may not be let into the folder that it was built in.
    pub(crate) async fn start_on(data: TempDir, user: Option<u32>) -> (Self, Gateway) {
        let gateway = Gateway::start(token()).await;
        let mut command = command(data.path(), gateway.address);
        if let Some(user) = user {
            let program = data.path().join("sidecar");
            std::fs::copy(env!("CARGO_BIN_EXE_sidecar"), &program).unwrap();
            command = command_of(&program, data.path(), gateway.address);
            command.uid(user).gid(user);
        }
        command.env("RUST_LOG", "info,sidecar::gate=off");
        let sidecar = Self::spawn(command, data, gateway.address).await;
        (sidecar, gateway)
    }

    async fn on(data: TempDir, agent: SocketAddr) -> Self {
        Self::with_log(data, agent, "debug").await
    }

    /// A sidecar that runs the shell script as its agent, and takes `agent` for where that listens.
    pub(crate) async fn supervising(script: &str, agent: SocketAddr) -> Self {
        Self::supervising_with_log(script, agent, "debug").await
    }

    /// The same, without a line for each request.
    pub(crate) async fn supervising_quiet(script: &str, agent: SocketAddr) -> Self {
        Self::supervising_with_log(script, agent, "info,sidecar::gate=off").await
    }

    async fn supervising_with_log(script: &str, agent: SocketAddr, filter: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("agent.sh"), script).unwrap();
        for dir in ["data", "tmp", "image"] {
            std::fs::create_dir(path(dir)).unwrap();
        }
        let mut command = command(&path("data"), agent);
        command
            .env("AUTOMNA_AGENT_NODE", "/bin/sh")
            .env("AUTOMNA_AGENT_ENTRY", path("agent.sh"))
            .env("AUTOMNA_AGENT_TMP_DIR", path("tmp"))
            .env("AUTOMNA_IMAGE_DIR", path("image"))
            .env("AUTOMNA_REQUIRE_MOUNT", "off")
            .env("RUST_LOG", filter);
        Self::spawn(command, place, agent).await
    }

    async fn with_log(data: TempDir, agent: SocketAddr, filter: &str) -> Self {
        let mut command = command(data.path(), agent);
        command.env("RUST_LOG", filter);
        Self::spawn(command, data, agent).await
    }

    async fn spawn(mut command: Command, data: TempDir, agent: SocketAddr) -> Self {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = loop {
            let line = tokio::time::timeout(LIMIT, log.next_line()).await.unwrap().unwrap();
            let event: Value = serde_json::from_str(&line.expect("the sidecar has ended")).unwrap();
            if event["message"] == "listening" {
                break event;
            }
        };
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        Self { public: address("public"), admin: address("admin"), child, log, data, agent }
    }

    /// Ends it, as the platform does, and returns its exit code and the rest of its log.
    pub(crate) async fn stop(&mut self) -> (Option<i32>, String) {
        self.terminate();
        self.finish().await
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    }

    pub(crate) async fn finish(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        while let Some(line) = tokio::time::timeout(LIMIT, self.log.next_line()).await.unwrap().unwrap() {
            log.push_str(&line);
            log.push('\n');
        }
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        (status.code(), log)
    }

    /// Ends it and starts it again on the same volume.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await;
        Self::on(self.data, self.agent).await
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again, after [`Self::kill`], on the same volume. Quiet, as [`Self::start_quiet`].
    pub(crate) async fn again(self) -> Self {
        Self::with_log(self.data, self.agent, "info,sidecar::gate=off").await
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The volume of one that supervises a script.
    pub(crate) fn volume(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// An answer that stays open, from its head on.
    pub(crate) async fn stream(&self, target: &str) -> Reading {
        let ticket = Ticket::of_epoch(1).issue();
        let mut stream = TcpStream::connect(self.public).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\nx-automna-ticket: {ticket}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reading = Reading { stream, chunk: String::new() };
        reading.until("\r\n\r\n").await;
        let (head, rest) = reading.chunk.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        reading.chunk = rest.to_owned();
        reading
    }

    pub(crate) fn epoch_file(&self) -> PathBuf {
        self.data.path().join(".automna/epoch")
    }

    /// The agent's sessions directory, which its first session would make.
    pub(crate) fn sessions_dir(&self) -> PathBuf {
        self.data.path().join("clawdbot/agents/main/sessions")
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.data.path().join("workspace")
    }

    /// A request with exactly these headers. Its answer, and that of every other request here, is compared with the
    /// description of the API.
    pub(crate) async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = send(self.public, method, target, headers).await;
        described::check(method, target, headers, &answer);
        answer
    }

    /// A GET with a good ticket.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[("x-automna-ticket", &Ticket::of_epoch(1).issue())]).await
    }

    /// A POST with a good ticket.
    pub(crate) async fn post(&self, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.call("POST", target, headers, body.to_owned()).await
    }

    /// A request with a good ticket, further headers and a body.
    pub(crate) async fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let ticket = Ticket::of_epoch(1).issue();
        let headers: Vec<_> =
            headers.iter().copied().chain([("x-automna-ticket", ticket.as_str())]).collect();
        let answer = send_body(self.public, method, target, &headers, body.into()).await;
        described::check(method, target, &headers, &answer);
        answer
    }

    /// Memory of the process that is in RAM now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) async fn admin(&self, target: &str) -> Answer {
        send(self.admin, "GET", target, &[]).await
    }

    /// A WebSocket that has done nothing yet.
    pub(crate) async fn socket(&self, target: &str) -> Socket {
        self.try_socket(target, &[]).await.unwrap().0
    }

    pub(crate) async fn try_socket(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Socket, tungstenite::handshake::client::Response), tungstenite::Error> {
        let mut request = format!("ws://{}{target}", self.public).into_client_request().unwrap();
        request.headers_mut().insert("x-automna-ticket", Ticket::of_epoch(1).issue().parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        client_async(request, TcpStream::connect(self.public).await.unwrap()).await
    }
}

/// An answer that is read as it comes, with the marks of its chunks.
pub(crate) struct Reading {
    stream: TcpStream,
    chunk: String,
}

impl Reading {
    /// Reads until `text` has come; returns all so far, without chunk marks.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        while !self.chunk.contains(text) {
            assert!(self.more().await, "the answer has ended before {text:?}: {}", self.chunk);
        }
        let lines = self.chunk.split_inclusive('\n');
        lines.filter(|line| !line.ends_with("\r\n")).collect()
    }

    pub(crate) async fn until_end(&mut self) {
        while self.more().await {}
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(LIMIT, self.stream.read(&mut buffer)).await.unwrap().unwrap_or(0);
        self.chunk.push_str(&String::from_utf8_lossy(&buffer[..read]));
        read > 0
    }
}

pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        let kind = self.header("content-type").unwrap();
        assert!(matches!(kind, "application/json" | "application/problem+json"), "{:?}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that this is an error of the sidecar's own making.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str) {
        let body = self.json();
        assert_eq!((self.status(), body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["requestId"].as_str(), self.header("x-request-id"));
        assert_eq!((&body["type"], &body["status"]), (&"about:blank".into(), &status.into()));
        assert_eq!(self.header("x-automna-sidecar"), Some(env!("CARGO_PKG_VERSION")));
    }
}

async fn send(to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    send_body(to, method, target, headers, Bytes::new()).await
}

async fn send_body(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", "edge.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).unwrap();
    let response = tokio::time::timeout(LIMIT, sender.send_request(request)).await.unwrap().unwrap();
    let (head, body) = response.into_parts();
    Answer { head: Response::from_parts(head, ()), body: body.collect().await.unwrap().to_bytes() }
}

/// Polls until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Names in the workspace, our temporary ones included.
pub(crate) fn names(sidecar: &Sidecar) -> Vec<String> {
    let entries = std::fs::read_dir(sidecar.workspace()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until nothing else is in the workspace: temporary names go away in the background.
pub(crate) async fn only(sidecar: &Sidecar, expected: &[impl AsRef<str>]) {
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    eventually(&format!("only {expected:?}"), async || names(sidecar) == expected).await;
}

/// The next message that is no ping or pong.
pub(crate) async fn next(socket: &mut Socket) -> Message {
    use futures_util::StreamExt;
    loop {
        let message = tokio::time::timeout(LIMIT, socket.next()).await.expect("nothing came");
        match message.expect("the socket has ended").unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

pub(crate) async fn read_all(mut from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).await.unwrap();
    text
}
