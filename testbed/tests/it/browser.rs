//! A person in a browser: opens the signed URL, sees the agent's own page connected, writes and is answered.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use testbed::forward::{Server, text};

use crate::support::{system, system_with, tools};

#[tokio::test]
async fn a_conversation_in_the_agents_own_page_on_each_back_end() {
    let tools = tools();
    let dir = tempfile::tempdir().unwrap();
    let system = system(dir.path(), "user_browser").await;
    for (backend, message) in [("legacy", "hello from the old side"), ("fly", "hello from the new side")] {
        system.change_policy(json!({"default": backend})).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = (system.legacy.stats().open_sockets, system.fly.stats().upgrades);
        let screenshot = tools.dir().join(format!("screenshots/{backend}.png"));
        std::fs::create_dir_all(screenshot.parent().unwrap()).unwrap();
        let mut command = Command::new(tools.node());
        command
            .arg(tools.repository().join("testbed/browser/chat.mjs"))
            .arg(tools.edge_modules())
            .arg(tools.chromium())
            .arg(system.signed_url(&system.user))
            .arg(message)
            .arg(format!("You said: {message}"))
            .arg(&screenshot)
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{backend}: {said}");
        println!("{backend}: {said}");
        let upgrades = system.fly.stats().upgrades - before.1;
        match backend {
            "fly" => assert!(upgrades >= 1, "the conversation ran over the machine"),
            _ => assert_eq!(upgrades, 0, "the conversation ran over legacy"),
        }
    }
    assert!(system.legacy.stats().by_path.keys().any(|path| path == "/"), "{:?}", system.legacy.stats());
    let signature = system.signed_url(&system.user).rsplit_once("sig=").unwrap().1.to_owned();
    let secrets = [system.secrets.signing.expose().to_owned(), system.secrets.admin.expose().to_owned()];
    system.stop().await.unwrap();
    for log in ["edge/workerd.log", "machine/sidecar.log"] {
        let text = std::fs::read_to_string(dir.path().join(log)).unwrap();
        assert!(
            log.contains("edge") || text.contains("GET agent 200"),
            "the log is there and says something: {text}"
        );
        for hidden in
            secrets.iter().map(String::as_str).chain([&signature, "sig=", "hello from the", "v1~fly"])
        {
            assert!(!text.contains(hidden), "{log} shows {hidden}");
        }
    }
}

#[tokio::test]
async fn the_file_api_as_a_dashboard_of_another_origin_uses_it() {
    let tools = tools();
    let page = Server::start(0, |_, _| async {
        let mut page = text(hyper::StatusCode::OK, "<!doctype html><title>a dashboard</title>");
        page.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/html"));
        page
    })
    .await
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let vars = [("ALLOWED_ORIGINS".to_owned(), page.url())].into();
    let system = system_with(dir.path(), "user_files", vars).await;
    system.change_policy(json!({"default": "fly"})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let signed = system.signed_url(&system.user);
    let mut command = Command::new(tools.node());
    command
        .arg(tools.repository().join("testbed/browser/files.mjs"))
        .arg(tools.edge_modules())
        .arg(tools.chromium())
        .arg(page.url())
        .arg(system.edge.url())
        .arg(signed.split_once('?').unwrap().1)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let steps: Vec<String> = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(steps.len(), 15, "{steps:?}");
    let on_disk = system.machine.workspace().join("dashboard/b.md");
    assert_eq!(std::fs::read_to_string(on_disk).unwrap(), "second");
    assert_eq!(system.legacy.stats().requests, 0);
    system.stop().await.unwrap();
}
