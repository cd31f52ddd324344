//! The process: how it starts, what it logs, how it ends.

use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{SIGNING_SECRET, Sidecar, Ticket, USER, command, key_of, read_all, token};

const NO_AGENT: &str = "127.0.0.1:1";

async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (stdout, stderr) = tokio::join!(read_all(stdout), read_all(stderr));
    (child.wait().await.unwrap().code(), stdout, stderr)
}

#[tokio::test]
async fn settings_that_are_missing_or_wrong_are_one_sentence_and_78() {
    let data = tempfile::tempdir().unwrap();
    let rows = [
        ("AUTOMNA_USER_ID", None),
        ("AUTOMNA_MACHINE_KEY", None),
        ("AUTOMNA_MACHINE_KEY", Some("a-secret-of-the-wrong-length")),
        ("AUTOMNA_GENERATION", None),
        ("AUTOMNA_LISTEN", Some("a-secret-address")),
    ];
    for (name, value) in rows {
        let mut command = command(data.path(), NO_AGENT.parse().unwrap());
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let (code, stdout, stderr) = run(command).await;
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(name) && stderr.ends_with(".\n"), "{stderr}");
        assert_eq!(stderr.contains("MOLTBOT_SIGNING_SECRET"), name == "AUTOMNA_MACHINE_KEY", "{stderr}");
        assert!(!stderr.contains("a-secret"), "{stderr}");
    }
}

#[tokio::test]
async fn an_epoch_file_that_is_none_is_one_sentence_and_65() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join(".automna")).unwrap();
    for garbage in ["", "seven\n", "7", "-1\n"] {
        std::fs::write(data.path().join(".automna/epoch"), garbage).unwrap();
        let (code, _, stderr) = run(command(data.path(), NO_AGENT.parse().unwrap())).await;
        assert_eq!((code, stderr.lines().count()), (Some(65), 1), "{garbage:?}: {stderr}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_sentence_and_71() {
    let data = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = command(data.path(), NO_AGENT.parse().unwrap());
    command.env("AUTOMNA_LISTEN", taken.local_addr().unwrap().to_string());
    let (code, _, stderr) = run(command).await;
    assert_eq!((code, stderr.lines().count()), (Some(71), 1), "{stderr}");
}

#[tokio::test]
async fn the_command_line() {
    let rows = [
        (&["--help"][..], 0, "AUTOMNA_MACHINE_KEY", ""),
        (&["--version"], 0, env!("CARGO_PKG_VERSION"), ""),
        (&["--helo"], 64, "", "no arguments"),
        (&["--help", "x"], 64, "", "no arguments"),
    ];
    for (arguments, expect, stdout_holds, stderr_holds) in rows {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecar"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (code, stdout, stderr) = run(command).await;
        assert_eq!(code, Some(expect), "{arguments:?}");
        assert!(stdout.contains(stdout_holds) && stderr.contains(stderr_holds), "{stdout}{stderr}");
    }
}

#[tokio::test]
async fn sigterm_is_exit_0_even_while_a_connection_idles() {
    let (mut sidecar, _gateway) = Sidecar::start().await;
    let _idle = tokio::net::TcpStream::connect(sidecar.public).await.unwrap();
    let (code, log) = sidecar.stop().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().last().unwrap().contains("stopped"), "{log}");
}

#[tokio::test]
async fn no_secret_query_or_user_id_is_logged_at_any_level() {
    let (mut sidecar, _gateway) = Sidecar::start().await;
    let ticket = Ticket::of_epoch(1).issue();
    for target in ["/?token=query-secret", "/api/keepalive?sig=query-secret", "/path-secret?x=query-secret"] {
        sidecar.get(target).await;
        sidecar.send("GET", target, &[("x-automna-ticket", "ticket-secret")]).await;
    }
    let mut socket = sidecar.socket("/ws?sig=query-secret").await;
    crate::harness::next(&mut socket).await;
    futures_util::SinkExt::send(&mut socket, "chat-secret".into()).await.unwrap();
    crate::harness::next(&mut socket).await;
    drop(socket);
    let (_, log) = sidecar.stop().await;

    assert!(
        log.contains("http.status") && log.contains("user.hash") && log.contains("websocket ended"),
        "{log}"
    );
    let key = key_of(USER, crate::harness::GENERATION).expose();
    let secrets = ["query-secret", "path-secret", "ticket-secret", "chat-secret", SIGNING_SECRET, USER];
    for secret in secrets.into_iter().chain([ticket.as_str(), token().as_str(), key.as_str()]) {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let (sidecar, _gateway) = Sidecar::start().await;
    // A line for each, some hundred bytes: several times what the pipe holds.
    for n in 0..1000 {
        let answer = sidecar.get("/api/keepalive").await;
        assert_eq!(answer.status(), 200, "request {n}");
    }
}
