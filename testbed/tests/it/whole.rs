//! The whole system with a user on the machine: edge, sidecar and agent, and what the tests ask of them.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shared::id::Generation;
use shared::key::SigningKeys;
use shared::secret::Secret;
use sidecar::agent_rpc::{self, Scope};
use testbed::system::System;

use crate::chat::{Chat, MAIN};
use crate::support::{eventually_within, system};

/// For the agent to be there again, or to fail three times: some 3 s of CPU each, on a machine that others use too.
pub(crate) const AGAIN: Duration = Duration::from_secs(120);

/// A running system whose user is on the machine.
pub(crate) struct Bed {
    pub(crate) system: System,
    pub(crate) http: reqwest::Client,
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    /// A whole system, whose user is on the machine.
    pub(crate) async fn start(user: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let system = system(dir.path(), user).await;
        system.change_policy(json!({"default": "fly"})).await.unwrap();
        let bed = Self { system, http: reqwest::Client::new(), dir };
        eventually_within(AGAIN, "requests go to the machine", async || {
            bed.status().await["agent"].is_object()
        })
        .await;
        bed
    }

    pub(crate) fn url(&self, path: &str, more: &str) -> String {
        let signed = self.system.signed_url(&self.system.user);
        format!("{}{path}?{}{more}", self.system.edge.url(), signed.split_once('?').unwrap().1)
    }

    pub(crate) async fn get(&self, path: &str, more: &str) -> (u16, String) {
        let answer = self.http.get(self.url(path, more)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn status(&self) -> Value {
        let (status, text) = self.get("/api/status", "").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn restart_agent(&self) -> u16 {
        self.http.post(self.url("/api/agent/restart", "")).body("").send().await.unwrap().status().as_u16()
    }

    /// Returns the status once it is as `expected` says.
    pub(crate) async fn when(&self, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        eventually_within(AGAIN, what, async || expected(&self.status().await)).await;
        self.status().await
    }

    pub(crate) async fn pid(&self) -> String {
        let status =
            self.when("it runs", |s| s["status"] == "running" && s["agent"]["state"] == "running").await;
        status["processId"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn chat(&self) -> Chat {
        Chat::connect(&self.url("/ws", "").replace("http://", "ws://"), None).await
    }

    /// What people and the agent have said, in order.
    pub(crate) async fn history(&self) -> Vec<String> {
        let (status, text) = self.get("/ws/api/history", &format!("&sessionKey={MAIN}&limit=200")).await;
        assert_eq!(status, 200, "{text}");
        let history: Value = serde_json::from_str(&text).unwrap();
        let messages = history["messages"].as_array().unwrap_or_else(|| panic!("{text}"));
        // Below a line of a person's the agent notes its id.
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        messages.iter().map(|message| first_line(text_of(&message["content"]))).collect()
    }

    pub(crate) fn agent_config(&self) -> std::path::PathBuf {
        self.system.machine.state_dir().join("clawdbot.json")
    }

    /// Changes the agent's configuration as an editor would that writes beside it and renames.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.agent_config();
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        let beside = path.with_extension("new");
        fs::write(&beside, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub(crate) fn gateway_token(&self) -> Secret {
        let keys = SigningKeys::new(self.system.secrets.signing.clone(), None);
        keys.machine_key(&self.system.user, Generation(1)).gateway_token()
    }

    /// Calls the agent past the sidecar, with more rights than a client has: what the agent's own tools may do.
    pub(crate) async fn call_agent(&self, method: &str, params: Value) -> Value {
        let agent = self.system.machine.agent_addr();
        agent_rpc::call(agent, &self.gateway_token(), Scope::Admin, method, &params).await.unwrap()
    }

    /// All transcripts, one after the other. Each line must be whole.
    pub(crate) fn transcripts(&self) -> String {
        let dir = self.system.machine.state_dir().join("agents/main/sessions");
        let files = fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let mut files: Vec<std::path::PathBuf> = files.unwrap_or_default();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
        text
    }
}

pub(crate) fn text_of(content: &Value) -> String {
    content.as_str().or_else(|| content[0]["text"].as_str()).unwrap_or_default().to_owned()
}

pub(crate) fn kill(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
}

pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
