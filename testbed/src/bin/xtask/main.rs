//! The project's commands: `cargo xtask COMMAND`. Each is a thin caller of the library.

mod bench;
mod checks;
mod current;
mod fuzz;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::TypedValueParser as _;
use clap::{Parser, Subcommand, ValueEnum};
use shared::id::UserId;
use testbed::tools::{Need, Tools};
use testbed::{edge_build, system};

use current::Current;

/// Builds, runs, tests and measures the hosting edge on this machine.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and run the whole system on loopback until Ctrl-C.
    Up {
        /// Print one line of JSON once everything is ready, and nothing else on standard output.
        #[arg(long)]
        json: bool,
        /// The user who gets a machine.
        #[arg(long, default_value = "user_demo")]
        user: UserId,
        /// Put an unused legacy container to sleep after so many seconds; never if absent.
        #[arg(long, value_name = "SECONDS")]
        legacy_sleeps_after: Option<u64>,
        /// What waking a legacy container takes beyond the agent's own start, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        legacy_cold_start: u64,
    },
    /// Format, lint and test everything.
    Test {
        /// Also what takes long: soaks and many rounds.
        #[arg(long)]
        long: bool,
        /// Only tests whose name contains this, without the checks before them.
        filter: Option<String>,
    },
    /// Feed the sidecar's parsers what a fuzzer makes up. Needs a C++ compiler, and no nightly Rust.
    Fuzz {
        /// How long each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only these targets: files of sidecar/fuzz/fuzz_targets, without the ending. All if there are none.
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Print a signed query for a user of the running system.
    Sign {
        #[arg(long)]
        user: UserId,
        /// Seconds for which it holds.
        #[arg(long, default_value_t = system::URL_TTL_SECONDS)]
        ttl: u64,
    },
    /// Send users to a back end, from the next request on.
    Flip {
        to: Side,
        /// Written into the audit.
        #[arg(long, default_value = "cargo xtask flip")]
        reason: String,
        /// Print the new policy as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure.
    Bench {
        name: bench::Name,
        /// Rounds for each figure, in which the parties take turns; each benchmark has its own default.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=99).map(usize::from))]
        rounds: Option<usize>,
        /// Sign-ups of `provision`.
        #[arg(long, default_value_t = testbed::bench::provision::USERS)]
        users: usize,
        /// One JSON object in place of the table.
        #[arg(long)]
        json: bool,
    },
    /// Build the edge's WASM, as wrangler does before it deploys.
    Build,
    /// Build the machine's image into a folder: the steps of Dockerfile.fly, without a container engine.
    ///
    /// Needs root, for chroot and mounts. Stages that did not change are not made again.
    Image {
        /// Print the folder, the settings and the sizes of the parts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Install all tools, and do nothing else.
    Install,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    Legacy,
    Fly,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let tools = Tools::of_this_repository();
    match cli.command {
        Command::Up { json, user, legacy_sleeps_after, legacy_cold_start } => {
            tools.install(Need::System)?;
            edge_build::build(&tools)?;
            let options = up::Options {
                json,
                user,
                legacy_sleeps_after: legacy_sleeps_after.map(Duration::from_secs),
                legacy_cold_start: Duration::from_secs(legacy_cold_start),
            };
            up::run(&tools, options)?;
        }
        Command::Test { long, filter } => return checks::run(&tools, long, filter.as_deref()),
        Command::Fuzz { seconds, targets } => return fuzz::run(&tools, &targets, seconds),
        Command::Sign { user, ttl } => {
            let current = Current::load(&tools)?;
            print_line(&system::sign(&current.signing_secret()?, &user, ttl));
        }
        Command::Flip { to, reason, json } => flip(&tools, to, &reason, json)?,
        Command::Bench { name, rounds, users, json } => bench::run(&tools, name, rounds, users, json)?,
        Command::Build => {
            tools.install(Need::System)?;
            edge_build::build(&tools)?;
        }
        Command::Image { json } => {
            testbed::image::must_be_root()?;
            tools.install(Need::Image)?;
            let image = testbed::image::build(&tools)?;
            let sizes = image.sizes()?;
            if json {
                let image =
                    serde_json::json!({"root": image.root, "settings": image.settings, "sizes": sizes});
                print_line(&image.to_string());
            } else {
                for size in sizes {
                    print_line(&format!("{:>6} MB  {}", size.bytes / 1_000_000, size.part));
                }
                print_line(&image.root.display().to_string());
            }
        }
        Command::Install => {
            tools.install(Need::Bench)?;
            tools.install(Need::FileServers)?;
            tools.install(Need::Proxies)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn flip(tools: &Tools, to: Side, reason: &str, json: bool) -> Result<()> {
    let current = Current::load(tools)?;
    let name = match to {
        Side::Legacy => "legacy",
        Side::Fly => "fly",
    };
    let change = serde_json::json!({"default": name, "author": "xtask", "reason": reason});
    let http = reqwest::Client::new();
    let change = system::change_policy(&http, &current.edge, &current.admin_bearer, &change);
    let policy = runtime()?.block_on(change)?;
    if json {
        print_line(&policy.to_string());
    } else {
        let version =
            policy.get("version").and_then(serde_json::Value::as_u64).context("the policy has no version")?;
        print_line(&format!("New requests go to {name} (policy version {version})."));
    }
    Ok(())
}

/// The runtime of a command that waits for things.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// A command's result, on standard output.
#[expect(clippy::print_stdout, reason = "results are what standard output is for")]
fn print_line(text: &str) {
    println!("{text}");
}
