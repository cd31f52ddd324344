//! Rule 15: a machine's metadata, which changes without a new version of the machine.

use serde_json::{Map, Value, json};

use crate::api::{Reply, error, ok};
use crate::world::Fly;

impl Fly {
    pub(crate) fn on_metadata(
        &mut self,
        action: &str,
        app: &str,
        id: &str,
        key: &str,
        body: &Value,
    ) -> Reply {
        let found =
            self.machines.get(id).filter(|machine| machine.app == app && machine.destroyed_at.is_none());
        let Some((host, instance)) = found.map(|machine| (machine.host, machine.instance.clone())) else {
            return error(404, "machine not found");
        };
        if let Some(reply) = self.host_refuses(host) {
            return reply;
        }
        let version = body.get("machine_version").and_then(Value::as_str);
        if version.is_some_and(|version| version != instance) {
            return error(412, "failed_precondition: machine_version does not match the machine's");
        }
        let Some(machine) = self.machines.get_mut(id) else { return error(404, "machine not found") };
        let slot = machine.config.entry("metadata").or_insert_with(|| json!({}));
        if !slot.is_object() {
            *slot = json!({});
        }
        let Some(metadata) = slot.as_object_mut() else { return error(400, "metadata is no object") };
        let empty = Map::new();
        let sent = body.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
        match action {
            "read_metadata" => return ok(&Value::Object(metadata.clone())),
            "read_metadata_key" => {
                return match metadata.get(key) {
                    Some(value) => ok(&json!({"value": value})),
                    None => error(404, "metadata key not found"),
                };
            }
            "put_metadata" => {
                metadata.clear();
                sent.iter().for_each(|(key, value)| set(metadata, key, value));
            }
            "patch_metadata" => sent.iter().for_each(|(key, value)| set(metadata, key, value)),
            "set_metadata_key" => set(metadata, key, body.get("value").unwrap_or(&Value::Null)),
            _ => set(metadata, key, &Value::Null),
        }
        Reply { status: 204, body: Vec::new() }
    }
}

/// `null` and the empty text delete.
fn set(metadata: &mut Map<String, Value>, key: &str, value: &Value) {
    match value.as_str() {
        None | Some("") => {
            metadata.remove(key);
        }
        Some(text) => {
            metadata.insert(key.to_owned(), text.into());
        }
    }
}
