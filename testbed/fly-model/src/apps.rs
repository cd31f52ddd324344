//! Apps and what an organisation has in all of them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::{Reply, error, error_with, ok, parameter, with};
use crate::secrets::Secrets;
use crate::world::{App, Fly};

impl Fly {
    /// Rule 1: whether an app is there, and ours.
    pub(crate) fn may_use(&self, app: &str, now: u64) -> Result<(), Reply> {
        if self.profile.foreign_apps.iter().any(|foreign| foreign == app) {
            return Err(error(403, "forbidden: the app belongs to another organization"));
        }
        match self.apps.get(app) {
            Some(found) if now >= found.visible_at => Ok(()),
            Some(_) | None => Err(error(404, "Could not find App")),
        }
    }

    /// Rule 2.
    pub(crate) fn create_app(&mut self, body: &Value, now: u64) -> Reply {
        self.check_fields("app", body, &["app_name", "name", "org_slug", "network", "enable_subdomains"]);
        let Some(name) = body.get("name").or_else(|| body.get("app_name")).and_then(Value::as_str) else {
            return error(400, "app name is required");
        };
        let valid = (1..63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return error(400, "app name may only contain lowercase letters, numbers and dashes");
        }
        if body.get("org_slug").and_then(Value::as_str) != Some(self.profile.org.as_str()) {
            return error(404, "organization not found");
        }
        if self.apps.contains_key(name) || self.profile.foreign_apps.iter().any(|foreign| foreign == name) {
            return error_with(422, "Validation failed: Name has already been taken", "name_taken");
        }
        let lag = self.pick(self.profile.app_lag);
        let app = App {
            network: body.get("network").and_then(Value::as_str).unwrap_or("default").to_owned(),
            visible_at: now.saturating_add(lag),
            gone_at: None,
            addresses: BTreeSet::new(),
            secrets: Secrets::default(),
        };
        self.apps.insert(name.to_owned(), app);
        with(201, &json!({"id": name, "created_at": now}))
    }

    pub(crate) fn list_apps(&self, query: &str, now: u64) -> Reply {
        if parameter(query, "org_slug") != Some(self.profile.org.as_str()) {
            return error(400, "org_slug is required");
        }
        let apps: Vec<Value> = self
            .apps
            .iter()
            .filter(|(_, app)| now >= app.visible_at)
            .map(|(name, app)| {
                let ids = || self.in_app.get(name).into_iter().flatten();
                let lives = |id: &&String| self.machines.get(*id).is_some_and(|it| it.destroyed_at.is_none());
                let kept = |id: &&String| self.volumes.get(*id).is_some_and(|it| it.deleted_at.is_none());
                json!({
                    "id": name,
                    "name": name,
                    "machine_count": ids().filter(lives).count(),
                    "volume_count": ids().filter(kept).count(),
                    "network": app.network,
                })
            })
            .collect();
        ok(&json!({"total_apps": apps.len(), "apps": apps}))
    }

    pub(crate) fn read_app(&self, app: &str) -> Reply {
        ok(
            &json!({"id": app, "name": app, "status": "deployed", "organization": {"name": self.profile.org, "slug": self.profile.org}}),
        )
    }

    /// Rule 3.
    pub(crate) fn delete_app(&mut self, app: &str, now: u64) -> Reply {
        let takes = self.pick(self.profile.app_delete);
        let Some(found) = self.apps.get_mut(app) else { return error(404, "Could not find App") };
        if found.gone_at.is_none() {
            let gone_at = now.saturating_add(takes);
            found.gone_at = Some(gone_at);
            self.due.insert((gone_at, format!("app {app}")));
        }
        with(202, &json!({}))
    }

    pub(crate) fn assign_address(&mut self, app: &str, body: &Value) -> Reply {
        self.check_fields("address", body, &["type", "network", "org_slug", "region", "service_name"]);
        let Some(kind) = body.get("type").and_then(Value::as_str) else {
            return error(422, "type is required");
        };
        if !["shared_v4", "v4", "v6", "private_v6"].contains(&kind) {
            return error(422, "unknown type of address");
        }
        if let Some(app) = self.apps.get_mut(app) {
            app.addresses.insert(kind.to_owned());
        }
        ok(&address(kind))
    }

    pub(crate) fn list_addresses(&self, app: &str) -> Reply {
        let list: Vec<Value> =
            self.apps.get(app).into_iter().flat_map(|app| &app.addresses).map(|kind| address(kind)).collect();
        ok(&json!({"ips": list}))
    }

    /// Rule 23: everything that the organisation has, page by page.
    pub(crate) fn org(&mut self, now: u64, segments: &[&str], query: &str) -> Reply {
        if segments.get(1) != Some(&self.profile.org.as_str()) {
            return error(403, "forbidden");
        }
        let what = segments.get(2).copied().unwrap_or_default();
        let limit =
            parameter(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(1000_usize).clamp(1, 1000);
        let after = parameter(query, "cursor").unwrap_or_default();
        let down: BTreeSet<String> =
            self.hosts.iter().filter(|host| !host.alive).map(|host| host.region.clone()).collect();
        let mut items = Vec::new();
        let mut cursor = None;
        let ids: Vec<String> = if what == "machines" {
            self.machines.keys().cloned().collect()
        } else {
            self.volumes.keys().cloned().collect()
        };
        for id in ids.into_iter().filter(|id| id.as_str() > after) {
            if items.len() == limit {
                break;
            }
            let value =
                if what == "machines" { self.listed_machine(&id, now) } else { self.listed_volume(&id, now) };
            cursor = Some(id);
            items.extend(value);
        }
        let more = items.len() == limit;
        let mut page = json!({(what): items, "error_regions": down});
        if let (true, Some(cursor), Some(page)) = (more, cursor, page.as_object_mut()) {
            page.insert("next_cursor".to_owned(), cursor.into());
        }
        ok(&page)
    }

    /// Rule 4: fields that Fly does not know are ignored, which is worth knowing.
    pub(crate) fn check_fields(&mut self, what: &str, body: &Value, known: &[&str]) {
        let fields = body.as_object().into_iter().flatten();
        for (field, _) in fields.filter(|(field, _)| !known.contains(&field.as_str())) {
            self.ignored.push(format!("{what}.{field}"));
        }
    }
}

fn address(kind: &str) -> Value {
    let ip = if kind.ends_with("v6") { "2a09:8280:1::1" } else { "66.241.124.1" };
    json!({"ip": ip, "shared": kind == "shared_v4", "region": "global"})
}
