//! What a machine's process is given: its environment, its folders, its files, and how it is stopped. Values only.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fly_model::{Machine, duration_ms};
use rustix::process::Signal;
use serde_json::Value;

use crate::config::Image;

/// How long a stop may take by default, and at most.
const STOP_DEFAULT: Duration = Duration::from_secs(5);
const STOP_MOST: Duration = Duration::from_secs(300);

/// A process to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which start of the machine this is.
    pub run: u64,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Its working directory, which is emptied at each start.
    pub root: PathBuf,
    /// Its volume, and the path below the root under which it is linked.
    pub mount: Option<(PathBuf, PathBuf)>,
    /// Paths below the root, with contents and mode.
    pub files: Vec<(PathBuf, Vec<u8>, u32)>,
}

/// Where and what a machine is, beyond what it says itself.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub id: &'a str,
    pub region: &'a str,
    /// The emulator's folder.
    pub dir: &'a Path,
}

/// The folder of a volume.
#[must_use]
pub fn volume_dir(dir: &Path, volume: &str) -> PathBuf {
    dir.join("volumes").join(volume)
}

/// The folder in which a machine's process runs.
#[must_use]
pub fn root_dir(dir: &Path, machine: &str) -> PathBuf {
    dir.join("machines").join(machine).join("root")
}

/// The file with what a machine's processes have written.
#[must_use]
pub fn log_file(dir: &Path, machine: &str) -> PathBuf {
    dir.join("machines").join(machine).join("log")
}

/// What a machine's next process is given. Later names win: the configuration, secrets, Fly's own, the image's.
#[must_use]
pub fn launch(site: Site<'_>, machine: &Machine, image: &Image) -> Launch {
    let root = root_dir(site.dir, site.id);
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in machine.config.get("env").and_then(Value::as_object).into_iter().flatten() {
        env.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    env.extend(machine.secrets.clone());
    let own = [
        ("FLY_APP_NAME", machine.app.clone()),
        ("FLY_MACHINE_ID", site.id.to_owned()),
        ("FLY_ALLOC_ID", site.id.to_owned()),
        ("FLY_REGION", site.region.to_owned()),
        ("PRIMARY_REGION", site.region.to_owned()),
        ("FLY_MACHINE_VERSION", machine.instance.clone()),
        ("FLY_IMAGE_REF", machine.image().to_owned()),
        ("FLY_PRIVATE_IP", machine.private_ip.clone()),
        ("FLY_VM_MEMORY_MB", machine.memory_mb().to_string()),
        ("FLYFAKE_ROOT", root.display().to_string()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let mut mount = None;
    if let (Some(volume), Some(path)) = (machine.mount(), mount_path(machine)) {
        let volume = volume_dir(site.dir, volume);
        env.insert(format!("FLYFAKE_MOUNT{}", variable(path)), volume.display().to_string());
        mount = below(path).map(|at| (volume, at));
    }
    let machines = env.clone();
    env.extend(image.env.iter().map(|(name, value)| (name.clone(), expand(value, &machines))));
    let command = image.command.iter().map(|part| expand(part, &machines)).collect();
    Launch { run: machine.run, command, env, root, mount, files: files(machine) }
}

fn mount_path(machine: &Machine) -> Option<&str> {
    machine.config.get("mounts")?.get(0)?.get("path")?.as_str()
}

/// `/data` as a piece of a variable's name: `_DATA`.
fn variable(path: &str) -> String {
    path.trim_end_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect()
}

/// Puts variables in for `${NAME}`; an unknown one is empty.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            expanded.push_str("${");
            rest = after;
            continue;
        };
        expanded.push_str(env.get(name).map_or("", String::as_str));
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

/// A guest's path, relative to its root; `None` if it leads out of it.
#[must_use]
pub fn below(path: &str) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => below.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!below.as_os_str().is_empty()).then_some(below)
}

/// `files` of the configuration. What cannot be read or leads out of the root is left out.
fn files(machine: &Machine) -> Vec<(PathBuf, Vec<u8>, u32)> {
    let list = machine.config.get("files").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|file| {
            let text = |key: &str| file.get(key).and_then(Value::as_str);
            let encoded = match (text("raw_value"), text("secret_name")) {
                (Some(value), _) => value,
                (None, Some(name)) => machine.secrets.get(name)?,
                (None, None) => return None,
            };
            let mode = file.get("mode").and_then(Value::as_u64).and_then(|mode| u32::try_from(mode).ok());
            Some((below(text("guest_path")?)?, STANDARD.decode(encoded).ok()?, mode.unwrap_or(0o644)))
        })
        .collect()
}

/// How a machine is to be stopped: as the one who asked said, else as configured, else SIGINT and 5 s.
#[must_use]
pub fn stop_of(machine: &Machine) -> (Signal, Duration) {
    let configured = machine.config.get("stop_config");
    let (signal, timeout) = &machine.stop_as;
    let signal = signal.as_deref().or_else(|| configured?.get("signal")?.as_str());
    let timeout = timeout.or_else(|| configured?.get("timeout").and_then(duration_ms));
    let timeout = timeout.map_or(STOP_DEFAULT, Duration::from_millis).min(STOP_MOST);
    (signal.and_then(signal_named).unwrap_or(Signal::INT), timeout)
}

/// A signal by its name, as the API takes it.
#[must_use]
pub fn signal_named(name: &str) -> Option<Signal> {
    Some(match name {
        "SIGHUP" => Signal::HUP,
        "SIGINT" => Signal::INT,
        "SIGQUIT" => Signal::QUIT,
        "SIGKILL" => Signal::KILL,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        "SIGTERM" => Signal::TERM,
        "SIGABRT" => Signal::ABORT,
        "SIGALRM" => Signal::ALARM,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn variables_are_put_in() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("", ""),
            ("x", "x"),
            ("${A}:80", "1:80"),
            ("${A}${A}", "11"),
            ("${B}.", "."),
            ("$A {A}", "$A {A}"),
            ("${A", "${A"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn names_of_mounts() {
        for (path, expected) in [("/data", "_DATA"), ("/var/lib-x/", "_VAR_LIB_X"), ("/", "")] {
            assert_eq!(variable(path), expected);
        }
    }

    #[test]
    fn signals_have_the_names_of_the_api() {
        for (name, number) in [("SIGTERM", 15), ("SIGINT", 2), ("SIGKILL", 9), ("SIGUSR1", 10)] {
            assert_eq!(signal_named(name).map(Signal::as_raw), Some(number));
        }
        assert!(signal_named("TERM").is_none());
    }

    proptest! {
        #[test]
        fn no_path_leads_out_of_the_root(path in "[a./]{0,20}") {
            if let Some(below) = below(&path) {
                prop_assert!(below.is_relative());
                prop_assert!(below.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
