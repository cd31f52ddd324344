//! `cargo xtask up`, `sign` and `flip`, driven as any program would.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testbed::system::Description;

use crate::support::{eventually, tools};

/// The xtask program, as cargo has built it for this test.
fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).current_dir(tools().repository()).stdin(Stdio::null());
    command
}

struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        // Nothing to do about an error: it has ended already.
        let _ = self.0.kill();
    }
}

/// All processes that were started under `root`, by what the kernel says of their working directory.
fn processes_in(root: &Path) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let cwd = std::fs::read_link(dir.join("cwd")).ok()?;
            cwd.starts_with(root).then(|| std::fs::read_to_string(dir.join("comm")).unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn up_serves_both_back_ends_and_ends_all_it_started() {
    let mut up = Up(xtask(&["up", "--json", "--user", "user_up"]).stdout(Stdio::piped()).spawn().unwrap());
    let pid = up.0.id();
    let mut lines = BufReader::new(up.0.stdout.take().unwrap());
    let (description, mut lines) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        (
            serde_json::from_str::<Description>(&line).unwrap_or_else(|_| panic!("no description: {line}")),
            lines,
        )
    })
    .await
    .unwrap();
    let http = reqwest::Client::new();
    let page = http.get(&description.signed_url).header("accept", "text/html").send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("<html"), "the agent's own page");

    let stats = async |base: &str| -> u64 {
        let stats: serde_json::Value =
            http.get(format!("{base}/__standin/stats")).send().await.unwrap().json().await.unwrap();
        stats["requests"].as_u64().unwrap()
    };
    let output = xtask(&["sign", "--user", "user_up", "--ttl", "60"]).output().unwrap();
    let query = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && query.starts_with("userId=user_up&exp="), "{query}");
    let keepalive = format!("{}/api/keepalive?{}", description.edge, query.trim());
    let alive: serde_json::Value = http.get(&keepalive).send().await.unwrap().json().await.unwrap();
    assert_eq!((alive["status"].as_str(), alive["userId"].as_str()), (Some("alive"), Some("user_up")));
    assert_eq!(stats(&description.legacy).await, 0, "the user is on the machine");

    let flipped = xtask(&["flip", "legacy", "--json"]).output().unwrap();
    assert!(flipped.status.success(), "{}", String::from_utf8_lossy(&flipped.stderr));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let alive: serde_json::Value = http.get(&keepalive).send().await.unwrap().json().await.unwrap();
    assert_eq!(alive["status"], "alive");
    assert_eq!(stats(&description.legacy).await, 1, "and now on legacy");

    let run_dir = tools().dir().canonicalize().unwrap().join("run").join(pid.to_string());
    assert!(
        processes_in(&run_dir).len() >= 4,
        "workerd, sidecar and two agents run in {}",
        run_dir.display()
    );
    let told = Instant::now();
    assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        let _ = std::io::Read::read_to_string(&mut lines, &mut rest);
        (up.0.wait().unwrap(), rest)
    });
    let (status, rest) =
        tokio::time::timeout(Duration::from_secs(30), status).await.expect("it ends").unwrap();
    assert!(status.success() && rest.is_empty(), "{status} {rest}");
    eventually("nothing of it is left", async || processes_in(&run_dir).is_empty()).await;
    println!("ended {} ms after Ctrl-C", told.elapsed().as_millis());
    let nothing = xtask(&["sign", "--user", "user_up"]).output().unwrap();
    assert!(!nothing.status.success());
    let said = String::from_utf8(nothing.stderr).unwrap();
    assert_eq!(
        said,
        "error: no system is running here: start one with `cargo xtask up`: No such file or directory (os error 2)\n"
    );
}
