//! Load by wrk, from Debian.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::tools::Tools;

/// What a run of load did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests that were answered.
    pub requests: u64,
}

/// Sends GET requests for `url`, with `headers` as in `name: value`, over `connections` for `seconds`, each as soon
/// as the one before is answered.
///
/// # Errors
/// When any answer was an error: a fast refusal must not pass for speed.
pub async fn load(
    tools: &Tools,
    url: &str,
    headers: &[String],
    connections: u32,
    seconds: u32,
) -> Result<Load> {
    let output = Command::new(tools.wrk())
        .args(headers.iter().flat_map(|header| ["-H", header]))
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), url])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}");
    parse(&text)
}

fn parse(text: &str) -> Result<Load> {
    for trouble in ["Non-2xx", "Socket errors"] {
        ensure!(!text.contains(trouble), "not all requests were answered well:\n{text}");
    }
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    Ok(Load { requests: requests.context("wrk says nothing of its requests")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_wrk() {
        let good =
            "Running 1s test @ http://x\n  12345 requests in 1.00s, 1.2MB read\nRequests/sec: 12345.0\n";
        assert_eq!(parse(good).unwrap(), Load { requests: 12345 });
        assert!(parse(&format!("{good}  Non-2xx or 3xx responses: 1\n")).is_err());
        assert!(parse("").is_err());
    }
}
