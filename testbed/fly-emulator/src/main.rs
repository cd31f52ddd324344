//! Runs an emulator from a configuration file until it is told to stop.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use fly_emulator::{Config, Emulator};

/// Fly's Machines API and its proxy on this machine: machines are processes, volumes are directories.
///
/// Prints one line of JSON with its addresses once it listens. Ends, and every machine with it, on SIGINT or
/// SIGTERM.
#[derive(Debug, Parser)]
struct Arguments {
    /// The settings, as JSON; README.md describes them.
    config: PathBuf,
    /// Where the Machines API listens on 127.0.0.1, in place of the setting.
    #[arg(long)]
    api_port: Option<u16>,
    /// Where the proxy listens.
    #[arg(long)]
    proxy_port: Option<u16>,
    /// Of all chance.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let file = arguments.config.display();
    let text = std::fs::read(&arguments.config).with_context(|| format!("cannot read {file}"))?;
    let mut config: Config =
        serde_json::from_slice(&text).with_context(|| format!("{file} is no configuration"))?;
    config.api_port = arguments.api_port.unwrap_or(config.api_port);
    config.proxy_port = arguments.proxy_port.unwrap_or(config.proxy_port);
    config.seed = arguments.seed.unwrap_or(config.seed);
    let emulator = Emulator::start(config).await?;
    let addresses = serde_json::json!({
        "api": emulator.api_url(),
        "admin": emulator.admin_url(),
        "proxy": emulator.proxy_url(),
    });
    writeln!(std::io::stdout(), "{addresses}").context("cannot say where it listens")?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for SIGINT")?,
        _ = terminated.recv() => {}
    }
    emulator.stop().await;
    Ok(())
}
