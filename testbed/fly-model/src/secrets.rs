//! Rule 14: an app's secrets, which reach a machine at its boot only, and not always the newest of them.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use serde_json::{Value, json};

use crate::api::{Reply, error, ok, with};
use crate::world::Fly;

/// The secrets of an app, every version of them.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    versions: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    /// From then on every boot has it.
    settled_at: u64,
    values: BTreeMap<String, String>,
}

impl Secrets {
    /// 0 before there is any.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.versions.len() as u64
    }

    fn values(&self) -> BTreeMap<String, String> {
        self.versions.last().map(|version| version.values.clone()).unwrap_or_default()
    }

    /// What a boot at `now` gets that asks for version `least`.
    fn at(&self, now: u64, least: u64) -> BTreeMap<String, String> {
        let versions = self.versions.iter().zip(1_u64..);
        let seen = versions.filter(|(version, number)| version.settled_at <= now || *number <= least);
        seen.last().map(|(version, _)| version.values.clone()).unwrap_or_default()
    }
}

impl Fly {
    /// The version that a new machine wants at least, and whether it wants none at all.
    pub(crate) fn secrets_wanted(&self, app: &str, body: &Value) -> Result<(u64, bool), Reply> {
        let least = body.get("min_secrets_version").and_then(Value::as_u64).unwrap_or(0);
        let version = self.apps.get(app).map_or(0, |app| app.secrets.version());
        if least > version {
            return Err(error(
                412,
                &format!(
                    "failed_precondition: min_secrets_version {least} is not there yet, current is {version}"
                ),
            ));
        }
        Ok((least, body.get("skip_secrets").and_then(Value::as_bool) == Some(true)))
    }

    pub(crate) fn secrets_at_boot(&self, machine: &str, now: u64) -> BTreeMap<String, String> {
        let Some(machine) = self.machines.get(machine).filter(|machine| !machine.skip_secrets) else {
            return BTreeMap::new();
        };
        self.apps
            .get(&machine.app)
            .map(|app| app.secrets.at(now, machine.min_secrets_version))
            .unwrap_or_default()
    }

    pub(crate) fn list_secrets(&self, app: &str, _now: u64) -> Reply {
        let values = self.apps.get(app).map(|app| app.secrets.values()).unwrap_or_default();
        ok(&json!({"secrets": described(&values)}))
    }

    pub(crate) fn read_secret(&self, app: &str, name: &str) -> Reply {
        let values = self.apps.get(app).map(|app| app.secrets.values()).unwrap_or_default();
        match values.get(name) {
            Some(value) => ok(&json!({"name": name, "digest": digest(value)})),
            None => error(404, "secret not found"),
        }
    }

    /// A `null` deletes.
    pub(crate) fn set_secrets(&mut self, app: &str, body: &Value, now: u64) -> Reply {
        let Some(values) = body.get("values").and_then(Value::as_object) else {
            return error(400, "values is required");
        };
        let changes: Vec<(String, Option<String>)> =
            values.iter().map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned))).collect();
        let (version, values) = self.change_secrets(app, changes, now);
        ok(&json!({"version": version, "secrets": described(&values)}))
    }

    pub(crate) fn set_secret(&mut self, app: &str, name: &str, body: &Value, now: u64) -> Reply {
        let Some(value) = body.get("value").and_then(Value::as_str) else {
            return error(400, "value is required");
        };
        let (version, _) = self.change_secrets(app, vec![(name.to_owned(), Some(value.to_owned()))], now);
        with(201, &json!({"version": version, "name": name, "digest": digest(value)}))
    }

    pub(crate) fn delete_secret(&mut self, app: &str, name: &str, now: u64) -> Reply {
        let (version, _) = self.change_secrets(app, vec![(name.to_owned(), None)], now);
        ok(&json!({"version": version}))
    }

    fn change_secrets(
        &mut self,
        app: &str,
        changes: Vec<(String, Option<String>)>,
        now: u64,
    ) -> (u64, BTreeMap<String, String>) {
        let lag = self.pick(self.profile.secrets_lag);
        let Some(app) = self.apps.get_mut(app) else { return (0, BTreeMap::new()) };
        let mut values = app.secrets.values();
        for (name, value) in changes {
            match value {
                Some(value) => values.insert(name, value),
                None => values.remove(&name),
            };
        }
        let version = Version { settled_at: now.saturating_add(lag), values: values.clone() };
        app.secrets.versions.push(version);
        (app.secrets.version(), values)
    }
}

fn described(values: &BTreeMap<String, String>) -> Vec<Value> {
    values.iter().map(|(name, value)| json!({"name": name, "digest": digest(value)})).collect()
}

fn digest(value: &str) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
