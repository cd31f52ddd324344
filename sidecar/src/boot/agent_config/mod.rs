//! The agent's configuration file: read, repaired, merged, and written only if that changed something.
//!
//! ```text
//! clawdbot.json ─▶ read (JSON5) ─▶ [legacy] repair ─▶ [merge] with the [rules] ─▶ changed? ─▶ .bak, then replaced
//! ```
//!
//! A file that cannot be read is kept under another name, the newest backup that can be read takes its place, and
//! there is an alert. The last five versions are kept as `clawdbot.json.bak`, `.bak.1` to `.bak.4`: the agent's own
//! names, so that there is one row of them.
//!
//! A repaired provider may lack what a rule gave it before; so [`legacy`] looks again after the merge.

mod legacy;
pub(super) mod merge;
pub(super) mod rules;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use shared::time::UnixMillis;

use super::alert::{Alert, Instead};
use super::durable::{self, PRIVATE_FILE};
use merge::Written;
use rules::Surroundings;

/// Its name in the agent's state.
pub(super) const FILE: &str = "clawdbot.json";

/// `.bak`, and `.bak.1` to this.
const LAST_BACKUP: u32 = 4;

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
#[error("The agent's configuration cannot be {what}: {source}.")]
pub struct ConfigFileError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// What was done with the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReport {
    /// It was written; if not, it was already as it should be.
    pub written: bool,
    /// It was there before, and could be read.
    pub existed: bool,
}

/// Brings the file at `path` up to date. What we write is remembered in `memory`, which lies outside the agent's
/// reach.
pub(super) fn update(
    path: &Path,
    memory: &Path,
    around: Surroundings<'_>,
    now: UnixMillis,
) -> Result<(ConfigReport, Vec<Alert>), ConfigFileError> {
    let mut alerts = Vec::new();
    let found = read(path, now, &mut alerts).map_err(failed("read"))?;
    let existed = found.existed;
    // Without a file nothing of what we wrote is there to be changed or removed by anybody.
    let last = if existed { remembered(memory) } else { Vec::new() };

    let mut config = found.config.clone();
    let mut repairs = legacy::repair(&mut config);
    let (rules, about_rules) = rules::rules(around, &config);
    let mut merged = merge::merge(&config, &last, &rules);
    repairs.extend(legacy::repair(&mut merged.config));
    alerts.extend(repairs.into_iter().map(|what| Alert::ConfigRepaired { what }));
    alerts.extend(about_rules);

    let written = !found.is_on_disk || merged.config != found.config;
    if written {
        if found.is_on_disk {
            keep_previous(path).map_err(failed("kept"))?;
        }
        let mut text = serde_json::to_vec_pretty(&merged.config).map_err(|e| failed("written")(e.into()))?;
        text.push(b'\n');
        durable::replace(path, &text, PRIVATE_FILE).map_err(failed("written"))?;
    } else {
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_FILE)).map_err(failed("protected"))?;
    }
    // After the file: what is there and as we want it counts as ours, remembered or not.
    if merged.written != last || !memory.exists() {
        let text = serde_json::to_vec_pretty(&merged.written).map_err(|e| failed("remembered")(e.into()))?;
        durable::replace(memory, &text, PRIVATE_FILE).map_err(failed("remembered"))?;
    }
    Ok((ConfigReport { written, existed }, alerts))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ConfigFileError {
    move |source| ConfigFileError { what, source }
}

struct Found {
    config: Map<String, Value>,
    /// There was a configuration, be it only in a backup.
    existed: bool,
    /// It is what the file holds now.
    is_on_disk: bool,
}

fn read(path: &Path, now: UnixMillis, alerts: &mut Vec<Alert>) -> io::Result<Found> {
    let readable = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => parse(&fs::read(path)?),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found { config: Map::new(), existed: false, is_on_disk: false });
        }
        Err(error) => return Err(error),
    };
    if let Some(config) = readable {
        return Ok(Found { config, existed: true, is_on_disk: true });
    }
    let aside = beside(path, &format!("unreadable-{}", now.0));
    fs::rename(path, &aside)?;
    let older = backups(path).find_map(|backup| parse(&fs::read(backup).ok()?));
    let instead = if older.is_some() { Instead::OlderCopy } else { Instead::Nothing };
    let kept_as = aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
    alerts.push(Alert::ConfigSetAside { kept_as, instead });
    let existed = older.is_some();
    Ok(Found { config: older.unwrap_or_default(), existed, is_on_disk: false })
}

/// As the agent reads it: JSON5, comments included.
fn parse(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(config)) => Some(config),
        Ok(_) => None,
        Err(_) => json5::from_str(std::str::from_utf8(bytes).ok()?).ok(),
    }
}

/// From the newest to the oldest.
fn backups(path: &Path) -> impl Iterator<Item = PathBuf> {
    let first = beside(path, "bak");
    let older: Vec<PathBuf> = (1..=LAST_BACKUP).map(|n| beside(path, &format!("bak.{n}"))).collect();
    std::iter::once(first).chain(older)
}

/// Moves every backup one place on, and copies the file to the first.
fn keep_previous(path: &Path) -> io::Result<()> {
    let row: Vec<PathBuf> = backups(path).collect();
    for (newer, older) in row.iter().zip(row.iter().skip(1)).rev() {
        match fs::rename(newer, older) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match row.first() {
        Some(first) => durable::replace(first, &fs::read(path)?, PRIVATE_FILE),
        None => Ok(()),
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Nothing, if it cannot be read: then every value that differs from ours is taken for the user's.
fn remembered(memory: &Path) -> Vec<Written> {
    match fs::read(memory) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "what was written into the agent's configuration is no longer known");
            Vec::new()
        }),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::boot::credentials::Credentials;

    struct Bed {
        dir: tempfile::TempDir,
        credentials: Credentials,
    }

    impl Bed {
        fn new(file: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            if let Some(text) = file {
                fs::write(dir.path().join(FILE), text).unwrap();
            }
            Self { dir, credentials: Credentials::default() }
        }

        fn update(&self, now: u64) -> (ConfigReport, Vec<Alert>) {
            let around = Surroundings {
                agent: ([127, 0, 0, 1], 18789).into(),
                workspace: Path::new("/data/workspace"),
                log: Path::new("/tmp/agent.jsonl"),
                credentials: &self.credentials,
            };
            update(&self.dir.path().join(FILE), &self.dir.path().join("memory"), around, UnixMillis(now))
                .unwrap()
        }

        fn json(&self, name: &str) -> Value {
            serde_json::from_slice(&fs::read(self.dir.path().join(name)).unwrap()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    const WRITTEN: ConfigReport = ConfigReport { written: true, existed: true };
    const LEFT: ConfigReport = ConfigReport { written: false, existed: true };

    #[test]
    fn a_new_file_is_private_and_stays_as_it_is() {
        let bed = Bed::new(None);
        assert_eq!(bed.update(1), (ConfigReport { written: true, existed: false }, vec![]));
        let path = bed.dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = fs::read(&path).unwrap();
        assert_eq!(bed.update(2), (LEFT, vec![]));
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(bed.names(), [FILE, "memory"]);
    }

    #[test]
    fn l_04_what_the_user_has_set_survives_every_boot() {
        let theirs = json!({"channels": {"whatsapp": {"dmPolicy": "open"}}, "cron": {"enabled": false},
            "models": {"providers": {"mine": {"baseUrl": "https://x", "models": []}}}});
        let bed = Bed::new(Some(&theirs.to_string()));
        for now in 1..4 {
            bed.update(now);
            let config = bed.json(FILE);
            for key in ["channels", "cron", "models"] {
                assert_eq!(config[key], theirs[key], "{key}");
            }
        }
        assert_eq!(bed.json("clawdbot.json.bak"), theirs);
    }

    #[test]
    fn comments_are_read_and_stay_in_the_backup() {
        let text = "{\n  // mine\n  cron: { enabled: false, },\n}\n";
        let bed = Bed::new(Some(text));
        assert_eq!(bed.update(1), (WRITTEN, vec![]));
        assert_eq!(bed.json(FILE)["cron"], json!({"enabled": false}));
        assert_eq!(fs::read_to_string(bed.dir.path().join("clawdbot.json.bak")).unwrap(), text);
    }

    #[test]
    fn a_file_that_needs_nothing_keeps_its_comments() {
        let bed = Bed::new(None);
        bed.update(1);
        let path = bed.dir.path().join(FILE);
        let text = format!("// mine\n{}", fs::read_to_string(&path).unwrap());
        fs::write(&path, &text).unwrap();
        assert_eq!(bed.update(2), (LEFT, vec![]));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_and_never_replaced_silently() {
        for broken in ["", "{\"cron\":", "[]", "null", "{a:1}}", "\0\0"] {
            let bed = Bed::new(Some(broken));
            let (report, alerts) = bed.update(7);
            assert_eq!(report, ConfigReport { written: true, existed: false }, "{broken}");
            let kept_as = "clawdbot.json.unreadable-7".to_owned();
            assert_eq!(
                alerts,
                [Alert::ConfigSetAside { kept_as: kept_as.clone(), instead: Instead::Nothing }]
            );
            assert_eq!(fs::read_to_string(bed.dir.path().join(kept_as)).unwrap(), broken);
            assert_eq!(bed.update(8), (LEFT, vec![]));
        }
    }

    #[test]
    fn a_backup_that_can_be_read_takes_its_place() {
        let bed = Bed::new(Some("{\"cron\":"));
        fs::write(bed.dir.path().join("clawdbot.json.bak"), "{").unwrap();
        fs::write(bed.dir.path().join("clawdbot.json.bak.2"), "{\"cron\": {\"enabled\": false}}").unwrap();
        let (_, alerts) = bed.update(7);
        assert!(matches!(&alerts[..], [Alert::ConfigSetAside { instead: Instead::OlderCopy, .. }]));
        assert_eq!(bed.json(FILE)["cron"], json!({"enabled": false}));
    }

    #[test]
    fn five_versions_are_kept() {
        let bed = Bed::new(Some(r#"{"messages": {"ackReaction": "0"}}"#));
        for n in 1..=8 {
            bed.update(n);
            // Somebody takes a managed value away, so that the next start writes again.
            let mut config = bed.json(FILE);
            config["messages"]["ackReaction"] = json!(n.to_string());
            config["gateway"] = json!({});
            fs::write(bed.dir.path().join(FILE), config.to_string()).unwrap();
        }
        let row = [
            "clawdbot.json.bak",
            "clawdbot.json.bak.1",
            "clawdbot.json.bak.2",
            "clawdbot.json.bak.3",
            "clawdbot.json.bak.4",
        ];
        let kept: Vec<Value> =
            row.iter().map(|name| bed.json(name)["messages"]["ackReaction"].clone()).collect();
        assert_eq!(kept, ["7", "6", "5", "4", "3"]);
        assert_eq!(bed.names().len(), 7);
    }

    /// Between any two writes: the file is there, and we do not remember having written it.
    #[test]
    fn a_crash_before_it_is_remembered_does_not_make_it_the_users() {
        let mut bed = Bed::new(None);
        bed.update(1);
        fs::remove_file(bed.dir.path().join("memory")).unwrap();
        bed.update(2);
        bed.credentials = Credentials::from_lookup(|name| (name == "OPENAI_API_KEY").then(|| "k".to_owned()));
        bed.update(3);
        assert_eq!(bed.json(FILE)["agents"]["defaults"]["model"]["primary"], "openai/gpt-5.2");
    }

    #[test]
    fn an_address_that_is_no_longer_given_leaves_nothing_broken_behind() {
        let given = |name: &str| (name == "ANTHROPIC_BASE_URL").then(|| "https://a.example".to_owned());
        let mut bed = Bed::new(None);
        bed.credentials = Credentials::from_lookup(given);
        bed.update(1);
        assert_eq!(bed.json(FILE)["models"]["providers"]["anthropic"]["baseUrl"], "https://a.example");
        // The user has a model of their own there.
        let mut config = bed.json(FILE);
        config["models"]["providers"]["anthropic"]["models"] = json!([{"id": "m", "name": "M"}]);
        fs::write(bed.dir.path().join(FILE), config.to_string()).unwrap();
        bed.credentials = Credentials::default();
        let (_, alerts) = bed.update(2);
        assert!(matches!(&alerts[..], [Alert::ConfigRepaired { .. }]), "{alerts:?}");
        assert_eq!(bed.json(FILE).get("models"), None);
        assert_eq!(bed.update(3), (LEFT, vec![]));
    }

    #[test]
    fn a_broken_memory_takes_nothing_from_the_user() {
        let bed = Bed::new(Some(r#"{"browser": {"enabled": true}}"#));
        bed.update(1);
        fs::write(bed.dir.path().join("memory"), "{").unwrap();
        bed.update(2);
        assert_eq!(bed.json(FILE)["browser"]["enabled"], true);
    }
}
