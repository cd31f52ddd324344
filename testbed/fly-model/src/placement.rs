//! Rule 22: where there is room, as far as one can know.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::{Reply, error, ok};
use crate::world::{Fly, memory_of};

impl Fly {
    /// How many machines of a size each region would take. A full region is absent. The answer's names are
    /// capitalised, unlike in the published document.
    pub(crate) fn placements(&self, body: &Value) -> Reply {
        if body.get("org_slug").and_then(Value::as_str) != Some(self.profile.org.as_str()) {
            return error(403, "forbidden");
        }
        let guest = body.get("compute").cloned().unwrap_or_else(|| json!({}));
        let memory_mb = memory_of(&Map::from_iter([("guest".to_owned(), guest)]));
        let wanted = body.get("region").and_then(Value::as_str).unwrap_or("any");
        let most = body.get("count").and_then(Value::as_u64).filter(|count| *count > 0).unwrap_or(u64::MAX);
        let mut rooms: BTreeMap<&str, u64> = BTreeMap::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let asked = wanted.split(',').any(|region| region == host.region || region == "any");
            if asked && host.alive && !host.maintenance {
                let room = self.free_mb(n).checked_div(memory_mb).unwrap_or(0);
                let sum = rooms.entry(host.region.as_str()).or_default();
                *sum = sum.saturating_add(room);
            }
        }
        let regions: Vec<Value> = rooms
            .into_iter()
            .filter(|(_, room)| *room > 0)
            .map(|(region, room)| {
                let count = room.min(most);
                json!({"Region": region, "Count": count, "Concurrency": count})
            })
            .collect();
        ok(&json!({"Regions": regions}))
    }

    pub(crate) fn regions(&self) -> Reply {
        let regions: Vec<Value> = self
            .profile
            .regions
            .iter()
            .map(|region| json!({"code": region.code, "name": region.code}))
            .collect();
        ok(&json!({"regions": regions}))
    }
}
