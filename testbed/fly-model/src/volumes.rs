//! Volumes: slices of one host's disk.

use serde_json::{Map, Value, json};

use crate::api::{Reply, error, error_with, ok, with};
use crate::world::{Disk, Fly, Volume, VolumeState};

impl Fly {
    pub(crate) fn create_volume(&mut self, app: &str, body: &Value, now: u64) -> Reply {
        self.check_fields(
            "volume",
            body,
            &[
                "name",
                "region",
                "size_gb",
                "encrypted",
                "fstype",
                "snapshot_retention",
                "auto_backup_enabled",
                "require_unique_zone",
                "unique_zone_app_wide",
                "snapshot_id",
                "source_volume_id",
                "compute",
                "compute_image",
            ],
        );
        let text = |key: &str| body.get(key).and_then(Value::as_str);
        let name = text("name").unwrap_or_default().to_owned();
        let fits = (1..=30).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !fits {
            return error(400, "volume name may only contain lowercase letters, numbers and underscores");
        }
        let region = text("region").unwrap_or_default().to_owned();
        if !self.profile.regions.iter().any(|known| known.code == region) {
            return error(400, "region not found");
        }
        let mut size_gb = body.get("size_gb").and_then(Value::as_u64).unwrap_or(3);
        if !(1..=500).contains(&size_gb) {
            return error(400, "size_gb must be between 1 and 500");
        }
        let mut data = String::new();
        if let Some(source) = text("source_volume_id") {
            let Some(source) = self.volumes.get(source).filter(|volume| volume.app == app) else {
                return error(404, "source volume not found");
            };
            if !self.is_alive(source.host) {
                return error(412, "failed_precondition: the source volume's host is unreachable");
            }
            data.clone_from(&source.data);
            size_gb = size_gb.max(source.size_gb);
        } else if let Some(wanted) = text("snapshot_id") {
            let in_app = self.volumes.iter().filter(|(_, volume)| volume.app == app);
            let found = in_app.flat_map(|(id, volume)| {
                volume.snapshots.iter().map(move |snapshot| (id, volume.size_gb, snapshot))
            });
            let found = found
                .filter(|(id, _, (at, _))| snapshot_id(id, *at) == wanted)
                .map(|(_, size_gb, (_, data))| (size_gb, data.clone()))
                .next();
            let Some((least_gb, snapshot)) = found else { return error(404, "snapshot not found") };
            if size_gb < least_gb {
                // Rule 17.
                return error(
                    400,
                    &format!(
                        "volume size ({size_gb} GiB) is smaller than the snapshot size ({least_gb} GiB)"
                    ),
                );
            }
            data = snapshot;
        }
        let compute = body.get("compute").and_then(|compute| compute.get("memory_mb"));
        let memory_mb = compute.and_then(Value::as_u64).unwrap_or(256);
        let misplaced = self.rng.u32(0..1000) < self.profile.misplaced;
        let unique_zone = body.get("require_unique_zone").and_then(Value::as_bool).unwrap_or(true);
        let used_zones: Vec<String> = self
            .volumes
            .values()
            .filter(|volume| {
                unique_zone
                    && volume.app == app
                    && volume.name == name
                    && volume.state != VolumeState::PendingDestroy
            })
            .filter_map(|volume| self.hosts.get(volume.host).map(|host| host.zone.clone()))
            .collect();
        let in_region: Vec<usize> = (0..self.hosts.len())
            .filter(|host| {
                self.hosts
                    .get(*host)
                    .is_some_and(|host| host.alive && !host.maintenance && host.region == region)
            })
            .collect();
        let roomy = in_region.iter().copied().filter(|host| misplaced || self.free_mb(*host) >= memory_mb);
        let Some(host) = roomy
            .filter(|host| self.hosts.get(*host).is_some_and(|host| !used_zones.contains(&host.zone)))
            .max_by_key(|host| self.free_mb(*host))
        else {
            // Rules 7 and 8.
            return match self.rng.u8(0..3) {
                0 if used_zones.is_empty() => error(400, "no capacity"),
                1 if used_zones.is_empty() => error(409, "aborted: no capacity"),
                _ => {
                    error_with(422, "could not find a candidate host for the volume", "insufficient_capacity")
                }
            };
        };
        let copying = text("source_volume_id").is_some();
        let (state, takes) = if copying {
            (VolumeState::Hydrating, self.profile.volume_copy)
        } else {
            (VolumeState::Creating, self.profile.volume_create)
        };
        let takes = self.pick(takes);
        let lag = self.pick(self.profile.list_lag);
        let id = format!("vol_{:016x}", self.next_serial());
        let volume = Volume {
            app: app.to_owned(),
            name,
            host,
            size_gb,
            state,
            ready_at: now.saturating_add(takes),
            attached: None,
            claimed_until: 0,
            visible_at: now.saturating_add(lag),
            deleted_at: None,
            data,
            snapshots: Vec::new(),
        };
        self.volumes.insert(id.clone(), volume);
        self.in_app.entry(app.to_owned()).or_default().insert(id.clone());
        self.tell_disk(match (text("source_volume_id"), text("snapshot_id")) {
            (Some(from), _) => Disk::Copied { from: from.to_owned(), to: id.clone(), machine: None },
            (None, Some(snapshot)) => Disk::Restored { volume: id.clone(), snapshot: snapshot.to_owned() },
            (None, None) => Disk::Made { volume: id.clone() },
        });
        ok(&self.describe_volume(&id, now))
    }

    pub(crate) fn list_volumes(&self, app: &str, now: u64) -> Reply {
        let ids = self.in_app.get(app).into_iter().flatten();
        let list: Vec<Value> = ids.filter_map(|id| self.listed_volume(id, now)).collect();
        ok(&Value::Array(list))
    }

    /// A volume as lists show it: not at once, and for a while after it was deleted.
    pub(crate) fn listed_volume(&self, id: &str, now: u64) -> Option<Value> {
        let volume = self.volumes.get(id)?;
        let shown = now >= volume.visible_at
            && volume.deleted_at.is_none_or(|at| now < at.saturating_add(self.profile.volume_tombstone));
        shown.then(|| self.describe_volume(id, now))
    }

    pub(crate) fn read_volume(&self, app: &str, id: &str, now: u64) -> Reply {
        let found = self.volumes.get(id).filter(|volume| volume.app == app);
        let there = found.filter(|volume| {
            volume.deleted_at.is_none_or(|at| now < at.saturating_add(self.profile.volume_tombstone))
        });
        match there {
            Some(_) => ok(&self.describe_volume(id, now)),
            None => error(404, "volume not found"),
        }
    }

    /// Rule 18.
    pub(crate) fn extend_volume(&mut self, app: &str, id: &str, body: &Value, now: u64) -> Reply {
        self.check_fields("extend", body, &["size_gb"]);
        let size_gb = body.get("size_gb").and_then(Value::as_u64).unwrap_or(0);
        let needs_restart = self.rng.bool();
        let host = match self.volume_of(app, id) {
            Some(volume) => volume.host,
            None => return error(404, "volume not found"),
        };
        if let Some(reply) = self.host_refuses(host) {
            return reply;
        }
        if let Some(volume) = self.volumes.get_mut(id) {
            if size_gb <= volume.size_gb || size_gb > 500 {
                return error(400, "volumes can only grow, up to 500 GB");
            }
            volume.size_gb = size_gb;
        }
        ok(&json!({"volume": self.describe_volume(id, now), "needs_restart": needs_restart}))
    }

    pub(crate) fn delete_volume(&mut self, app: &str, id: &str, now: u64) -> Reply {
        let Some(volume) = self.volume_of(app, id) else { return error(404, "volume not found") };
        if let Some(reply) = self.host_refuses(volume.host) {
            return reply;
        }
        let holder = self.volumes.get(id).and_then(|volume| volume.attached.clone());
        if let Some(machine) = holder {
            return error(412, &format!("volume is currently bound to machine: {machine}"));
        }
        if self.volumes.get(id).is_some_and(|volume| now < volume.claimed_until) {
            return error(412, "volume is currently bound to machine: \u{0}\u{0}");
        }
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.state = VolumeState::PendingDestroy;
            volume.deleted_at = Some(now);
        }
        ok(&self.describe_volume(id, now))
    }

    /// Rule 17.
    pub(crate) fn snapshot_volume(&mut self, app: &str, id: &str, now: u64) -> Reply {
        if self.volume_of(app, id).is_none() {
            return error(404, "volume not found");
        }
        let Some(volume) = self.volumes.get_mut(id) else { return error(404, "volume not found") };
        if volume.snapshots.last().is_some_and(|(at, _)| now < at.saturating_add(1000)) {
            return error(412, &format!("snapshot is already scheduled at {now}"));
        }
        volume.snapshots.push((now, volume.data.clone()));
        self.tell_disk(Disk::Snapshot { volume: id.to_owned(), snapshot: snapshot_id(id, now) });
        with(200, &json!({}))
    }

    /// Rule 17: those of a deleted volume as well.
    pub(crate) fn list_snapshots(&self, app: &str, id: &str) -> Reply {
        let Some(volume) = self.volumes.get(id).filter(|volume| volume.app == app) else {
            return error(404, "volume not found");
        };
        let list: Vec<Value> = volume
            .snapshots
            .iter()
            .map(|(at, _)| json!({"id": snapshot_id(id, *at), "status": "created", "volume_size": volume.size_gb}))
            .collect();
        ok(&Value::Array(list))
    }

    /// A volume that lives, in this app.
    fn volume_of(&self, app: &str, id: &str) -> Option<&Volume> {
        self.volumes.get(id).filter(|volume| volume.app == app && volume.deleted_at.is_none())
    }

    /// Rule 19: what a host answers that is gone, or takes no orders.
    pub(crate) fn host_refuses(&mut self, host: usize) -> Option<Reply> {
        let host = self.hosts.get(host)?;
        if !host.alive {
            return Some(if self.rng.bool() {
                error(503, "unavailable: host is unreachable")
            } else {
                error(408, "deadline_exceeded: context deadline exceeded")
            });
        }
        host.maintenance.then(|| {
            error(503, "unavailable: deploys to this host are temporarily disabled, please try again later")
        })
    }

    pub(crate) fn is_alive(&self, host: usize) -> bool {
        self.hosts.get(host).is_some_and(|host| host.alive)
    }

    pub(crate) fn describe_volume(&self, id: &str, now: u64) -> Value {
        let Some(volume) = self.volumes.get(id) else { return Value::Object(Map::new()) };
        let host = self.hosts.get(volume.host);
        let state = if volume.state != VolumeState::PendingDestroy && now >= volume.ready_at {
            VolumeState::Created
        } else {
            volume.state
        };
        let mut described = json!({
            "id": id,
            "name": volume.name,
            "state": state.as_str(),
            "size_gb": volume.size_gb,
            "region": host.map(|host| host.region.as_str()),
            "zone": host.map(|host| host.zone.as_str()),
            "encrypted": true,
            "host_status": if self.is_alive(volume.host) { "ok" } else { "unreachable" },
        });
        if let (Some(machine), Some(described)) = (&volume.attached, described.as_object_mut()) {
            described.insert("attached_machine_id".to_owned(), machine.clone().into());
        }
        described
    }
}

/// Of one volume no two snapshots are taken in the same second.
fn snapshot_id(volume: &str, at: u64) -> String {
    format!("vs_{at}{}", volume.trim_start_matches("vol_"))
}
