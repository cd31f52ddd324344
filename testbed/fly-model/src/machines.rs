//! Machines: made, started, stopped, replaced, destroyed.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::api::{Reply, error, error_with, ok, parameter, with};
use crate::process::duration_ms;
use crate::world::{Fly, Machine, Note, State, VolumeState, memory_of};

const CREATE_FIELDS: &[&str] = &[
    "name",
    "region",
    "config",
    "skip_launch",
    "skip_service_registration",
    "skip_secrets",
    "min_secrets_version",
    "lease_ttl",
    "lsvd",
];

const UPDATE_FIELDS: &[&str] = &[
    "name",
    "region",
    "config",
    "current_version",
    "skip_launch",
    "skip_service_registration",
    "skip_secrets",
    "min_secrets_version",
    "lease_ttl",
    "lsvd",
];

const CONFIG_FIELDS: &[&str] = &[
    "auto_destroy",
    "cache_drive",
    "checks",
    "containers",
    "disable_machine_autostart",
    "dns",
    "env",
    "files",
    "guest",
    "image",
    "init",
    "metadata",
    "metrics",
    "mounts",
    "processes",
    "restart",
    "rootfs",
    "schedule",
    "services",
    "size",
    "standbys",
    "statics",
    "stop_config",
];

const SERVICE_FIELDS: &[&str] = &[
    "autostart",
    "autostop",
    "checks",
    "concurrency",
    "force_instance_description",
    "force_instance_key",
    "internal_port",
    "min_machines_running",
    "ports",
    "protocol",
];

impl Fly {
    pub(crate) fn create_machine(&mut self, app: &str, body: &Value, now: u64) -> Reply {
        self.check_fields("machine", body, CREATE_FIELDS);
        let config = match self.valid_config(body) {
            Ok(config) => config,
            Err(reply) => return reply,
        };
        let name = match body.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => format!("machine-{}", self.next_serial()),
        };
        // Rule 5: a name is taken as long as its machine lives.
        if let Some(id) = self.names.get(&(app.to_owned(), name.clone())) {
            return error(
                409,
                &format!(
                    "already_exists: unique machine name violation, machine ID {id} already exists with name \"{name}\""
                ),
            );
        }
        let (min_secrets_version, skip_secrets) = match self.secrets_wanted(app, body) {
            Ok(wanted) => wanted,
            Err(reply) => return reply,
        };
        let memory_mb = memory_of(&config);
        let host = match self.host_for(app, &config, body, memory_mb, now) {
            Ok(host) => host,
            Err(reply) => return reply,
        };
        let region = self.hosts.get(host).map(|host| host.region.clone()).unwrap_or_default();
        if self.used_mb(&region).saturating_add(memory_mb) > self.profile.quota_mb {
            return error(
                403,
                &format!(
                    "organization \"{}\" is using {} MB of memory in {region} which is over the allowed quota. please consider other regions",
                    self.profile.org,
                    self.used_mb(&region)
                ),
            );
        }
        let id = format!("{:014x}", self.next_serial());
        let lag = self.pick(self.profile.list_lag);
        let lease_ttl = body.get("lease_ttl").and_then(Value::as_u64).filter(|ttl| *ttl > 0);
        let lease: Option<(String, u64)> = lease_ttl
            .map(|ttl| (format!("nonce{}", self.serial), now.saturating_add(ttl.saturating_mul(1000))));
        let nonce = lease.as_ref().map(|(nonce, _)| nonce.clone());
        let mut machine = Machine {
            app: app.to_owned(),
            name: name.clone(),
            host,
            // `enter` below counts its memory.
            state: State::Stopped,
            next: VecDeque::new(),
            config,
            instance: self.new_instance(),
            lease,
            visible_at: now.saturating_add(lag),
            destroyed_at: None,
            active_until: 0,
            revert: None,
            cordoned: body.get("skip_service_registration").and_then(Value::as_bool) == Some(true),
            events: VecDeque::new(),
            private_ip: self.new_address(),
            run: 0,
            process: false,
            restarts: VecDeque::new(),
            stop_as: (None, None),
            min_secrets_version,
            skip_secrets,
            secrets: std::collections::BTreeMap::new(),
        };
        machine.note(now, "launch", "created", "user");
        if let Some(volume) = machine.mount().and_then(|mount| self.volumes.get_mut(mount)) {
            volume.attached = Some(id.clone());
        }
        let fresh_image = !self.hosts.get(host).is_some_and(|host| host.images.contains(machine.image()));
        self.machines.insert(id.clone(), machine);
        self.names.insert((app.to_owned(), name), id.clone());
        self.in_app.entry(app.to_owned()).or_default().insert(id.clone());
        self.enter(&id, State::Created, now);
        if body.get("skip_launch").and_then(Value::as_bool) != Some(true) {
            let pull = if fresh_image { self.pick(self.profile.pull) } else { 0 };
            let starting =
                now.saturating_add(self.pick(self.profile.create_to_starting)).saturating_add(pull);
            let started = starting.saturating_add(self.pick(self.profile.starting_to_started));
            self.schedule(&id, &[(starting, State::Starting), (started, State::Started)]);
        }
        let mut described = self.describe_machine(&id);
        if let (Some(nonce), Some(described)) = (nonce, described.as_object_mut()) {
            described.insert("nonce".to_owned(), nonce.into());
        }
        ok(&described)
    }

    /// Rule 4.
    fn valid_config(&mut self, body: &Value) -> Result<Map<String, Value>, Reply> {
        let Some(config) = body.get("config").and_then(Value::as_object) else {
            return Err(error(400, "config is required"));
        };
        self.check_fields("config", &Value::Object(config.clone()), CONFIG_FIELDS);
        for service in config.get("services").and_then(Value::as_array).into_iter().flatten() {
            self.check_fields("service", service, SERVICE_FIELDS);
        }
        if config.get("image").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(error(400, "invalid_argument: config.image is required"));
        }
        if config.get("mounts").and_then(Value::as_array).is_some_and(|mounts| mounts.len() > 1) {
            return Err(error(400, "invalid_argument: machines can have at most 1 mount"));
        }
        let memory_mb = memory_of(config);
        let guest = config.get("guest");
        let cpus = guest.and_then(|guest| guest.get("cpus")).and_then(Value::as_u64).unwrap_or(1);
        let shared =
            guest.and_then(|guest| guest.get("cpu_kind")).and_then(Value::as_str).unwrap_or("shared")
                == "shared";
        if !memory_mb.is_multiple_of(256) {
            return Err(error(400, "invalid config.guest.memory_mb, must be a multiple of 256"));
        }
        if shared && memory_mb > cpus.saturating_mul(2048) {
            return Err(error(400, "invalid config.guest.memory_mb, too much memory for the cpus"));
        }
        Ok(config.clone())
    }

    /// Rules 6 and 7: the host of a new machine.
    fn host_for(
        &mut self,
        app: &str,
        config: &Map<String, Value>,
        body: &Value,
        memory_mb: u64,
        now: u64,
    ) -> Result<usize, Reply> {
        let region = body.get("region").and_then(Value::as_str).unwrap_or_default();
        let mount = config.get("mounts").and_then(|mounts| mounts.get(0)?.get("volume")?.as_str());
        let Some(mount) = mount else {
            return (0..self.hosts.len())
                .find(|host| {
                    self.hosts.get(*host).is_some_and(|h| h.alive && h.region == region)
                        && self.free_mb(*host) >= memory_mb
                })
                .ok_or_else(|| error_with(422, "could not find a candidate host", "insufficient_capacity"));
        };
        let Some(volume) =
            self.volumes.get(mount).filter(|volume| volume.app == app && volume.deleted_at.is_none())
        else {
            return Err(error(400, "volume not found"));
        };
        let host = volume.host;
        if let Some(machine) = &volume.attached {
            return Err(error(
                412,
                &format!("failed_precondition: volume already claimed by machine {machine}"),
            ));
        }
        if now < volume.claimed_until {
            return Err(error(412, "failed_precondition: volume already claimed by machine \u{0}\u{0}"));
        }
        if self.hosts.get(host).is_some_and(|host| host.region != region) {
            return Err(error(400, "invalid_argument: the volume is in another region"));
        }
        if let Some(reply) = self.host_refuses(host) {
            return Err(reply);
        }
        if self.free_mb(host) < memory_mb {
            return Err(error_with(
                412,
                &format!("insufficient resources to create new machine with existing volume id '{mount}'"),
                "volume_placement_capacity",
            ));
        }
        Ok(host)
    }

    /// With `metadata.<key>=<value>`, only those that say so.
    pub(crate) fn list_machines(&self, app: &str, query: &str, now: u64) -> Reply {
        let filter = query.split('&').find_map(|pair| pair.strip_prefix("metadata.")?.split_once('='));
        let ids = self.in_app.get(app).into_iter().flatten();
        let list: Vec<Value> = ids
            .filter(|id| {
                filter.is_none_or(|(key, value)| {
                    let machine = self.machines.get(*id);
                    let said = machine.and_then(|machine| machine.config.get("metadata")?.get(key)?.as_str());
                    said == Some(value)
                })
            })
            .filter_map(|id| self.listed_machine(id, now))
            .collect();
        ok(&Value::Array(list))
    }

    pub(crate) fn listed_machine(&self, id: &str, now: u64) -> Option<Value> {
        let machine = self.machines.get(id)?;
        (now >= machine.visible_at && machine.destroyed_at.is_none()).then(|| self.describe_machine(id))
    }

    #[expect(clippy::too_many_arguments, reason = "one request's parts, each used by some action")]
    pub(crate) fn on_machine(
        &mut self,
        action: &str,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        query: &str,
        body: &Value,
        now: u64,
    ) -> Reply {
        let tombstone = self.profile.machine_tombstone;
        let Some(machine) = self.machines.get(id).filter(|machine| machine.app == app) else {
            return error(404, "machine not found");
        };
        let (state, host) = (machine.state, machine.host);
        if let Some(at) = machine.destroyed_at {
            // Rule 9.
            return if action == "read_machine" && now < at.saturating_add(tombstone) {
                ok(&self.describe_machine(id))
            } else {
                error(404, "machine not found")
            };
        }
        let held = machine.lease.clone().filter(|(held, until)| now < *until && Some(held.as_str()) != nonce);
        match action {
            "read_machine" => return ok(&self.describe_machine(id)),
            "events" => return ok(&self.describe_events(id, query)),
            "wait" => return wait(machine, query),
            "read_lease" => {
                return match &machine.lease {
                    Some((nonce, until)) if now < *until => ok(&lease_body(nonce, *until)),
                    Some(_) | None => with(404, &json!({"status": "error", "message": "lease not found"})),
                };
            }
            _ => {}
        }
        if action == "destroy" && !self.is_alive(host) {
            // Rule 19: accepted, and not carried out before the host is back.
            self.enter(id, State::Destroying, now);
            return ok(&json!({"ok": true}));
        }
        if let Some(reply) = self.host_refuses(host) {
            return reply;
        }
        // Rule 12: stopping and destroying wait for the lease's end, which here is an answer of that kind.
        if let Some((_, until)) = held
            && action != "release"
        {
            return error(
                409,
                &format!(
                    "aborted: machine ID {id} lease currently held by x@tokens.fly.io, expires at {until}"
                ),
            );
        }
        match action {
            "start" => self.start(id, state, now),
            "exec" | "signal" if state != State::Started => error(
                400,
                &format!("failed_precondition: machine not running, currently '{}'", state.as_str()),
            ),
            // What they do is up to whoever has the process.
            "exec" | "signal" => ok(&json!({})),
            "stop" => self.stop(id, state, body, now),
            "restart" => self.restart(id, state, now),
            "update" => self.update(id, state, body, now),
            "destroy" => self.destroy(id, state, query, now),
            "lease" => self.lease(id, nonce, query, body, now),
            "release" => self.release(id, nonce),
            "cordon" | "uncordon" => {
                if let Some(machine) = self.machines.get_mut(id) {
                    machine.cordoned = action == "cordon";
                }
                ok(&json!({"ok": true}))
            }
            _ => error(404, "not found"),
        }
    }

    /// Rules 7 and 9.
    fn start(&mut self, id: &str, state: State, now: u64) -> Reply {
        let takes = self.pick(self.profile.start);
        let Some(machine) = self.machines.get(id) else { return error(404, "machine not found") };
        match state {
            State::Started | State::Starting => return ok(&json!({"previous_state": state.as_str()})),
            State::Stopped | State::Failed if now < machine.active_until => {
                return error(412, "failed_precondition: machine still active, refusing to start");
            }
            State::Replacing => {
                return error(412, "failed_precondition: machine getting replaced, refusing to start");
            }
            State::Stopping | State::Destroying | State::Destroyed => {
                return error(
                    412,
                    &format!("unable to start machine from current state: '{}'", state.as_str()),
                );
            }
            State::Created | State::Stopped | State::Failed => {}
        }
        if !state.reserves() && self.free_mb(machine.host) < machine.memory_mb() {
            return error(
                409,
                "aborted: could not reserve resource for machine: insufficient memory available to fulfill request",
            );
        }
        self.enter(id, State::Starting, now);
        self.schedule(id, &[(now.saturating_add(takes), State::Started)]);
        ok(&json!({"previous_state": state.as_str(), "migrated": false}))
    }

    fn stop(&mut self, id: &str, state: State, body: &Value, now: u64) -> Reply {
        let signal = body.get("signal").and_then(Value::as_str).map(str::to_owned);
        let timeout = body.get("timeout").and_then(duration_ms);
        let takes = self.stop_takes(id);
        if let Some(machine) = self.machines.get_mut(id) {
            machine.stop_as = (signal, timeout);
        }
        match state {
            State::Started | State::Starting | State::Created | State::Replacing => {
                self.enter(id, State::Stopping, now);
                self.schedule(id, &[(now.saturating_add(takes), State::Stopped)]);
            }
            State::Stopping | State::Stopped | State::Failed | State::Destroying | State::Destroyed => {}
        }
        ok(&json!({"ok": true}))
    }

    fn restart(&mut self, id: &str, state: State, now: u64) -> Reply {
        if state != State::Started {
            return error(
                412,
                &format!("unable to restart machine from current state: '{}'", state.as_str()),
            );
        }
        let stopped = now.saturating_add(self.stop_takes(id));
        let started = stopped.saturating_add(self.pick(self.profile.start));
        self.enter(id, State::Stopping, now);
        self.schedule(id, &[(stopped, State::Starting), (started, State::Started)]);
        ok(&json!({"ok": true}))
    }

    /// Rule 10: everything is replaced; a volume is not; what does not fit is accepted and taken back.
    fn update(&mut self, id: &str, state: State, body: &Value, now: u64) -> Reply {
        self.check_fields("update", body, UPDATE_FIELDS);
        let config = match self.valid_config(body) {
            Ok(config) => config,
            Err(reply) => return reply,
        };
        let wanted = match self
            .secrets_wanted(self.machines.get(id).map_or("", |machine| machine.app.as_str()), body)
        {
            Ok(wanted) => wanted,
            Err(reply) => return reply,
        };
        let instance = self.new_instance();
        if self.rng.u32(0..1000) < self.profile.meddled {
            let theirs = self.new_instance();
            if let Some(machine) = self.machines.get_mut(id) {
                machine.instance = theirs;
            }
        }
        let Some(machine) = self.machines.get(id) else { return error(404, "machine not found") };
        let current = body.get("current_version").and_then(Value::as_str);
        if current.is_some_and(|version| version != machine.instance) {
            return error(
                409,
                "aborted: current_version does not match, machine update failed due to concurrent update",
            );
        }
        let mount = config.get("mounts").and_then(|mounts| mounts.get(0)?.get("volume")?.as_str());
        if mount.is_some() && mount != machine.mount() {
            return error(400, "invalid_argument: a machine's volume cannot be changed");
        }
        match state {
            State::Started | State::Stopped | State::Created | State::Failed => {}
            State::Starting | State::Stopping | State::Replacing | State::Destroying | State::Destroyed => {
                return error(412, &format!("failed_precondition: machine is {}", state.as_str()));
            }
        }
        let (old_mb, new_mb, host) = (machine.memory_mb(), memory_of(&config), machine.host);
        let free_mb = self.free_mb(host).saturating_add(if state.reserves() { old_mb } else { 0 });
        let fits = new_mb <= free_mb;
        let running = state == State::Started;
        // Its memory is counted by its configuration: it lets go of the old, and takes the new.
        self.enter(id, State::Stopped, now);
        if let Some(machine) = self.machines.get_mut(id) {
            let old = std::mem::replace(&mut machine.config, config);
            let old_instance = std::mem::replace(&mut machine.instance, instance);
            machine.note(now, "update", "replacing", "user");
            machine.active_until = 0;
            (machine.min_secrets_version, machine.skip_secrets) = wanted;
            if !fits {
                machine.revert = Some((old, old_instance));
            }
        }
        self.enter(id, State::Replacing, now);
        let steps = if !fits {
            vec![(now.saturating_add(130), State::Stopped)]
        } else if running {
            vec![(now.saturating_add(self.pick(self.profile.update_running)), State::Started)]
        } else {
            vec![(now.saturating_add(self.pick(self.profile.update_stopped)), State::Stopped)]
        };
        self.schedule(id, &steps);
        ok(&self.describe_machine(id))
    }

    /// Rule 9.
    fn destroy(&mut self, id: &str, state: State, query: &str, now: u64) -> Reply {
        let force = parameter(query, "force") == Some("true");
        match state {
            State::Started | State::Starting | State::Stopping | State::Replacing if !force => {
                return error(
                    412,
                    "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created",
                );
            }
            State::Destroying => return ok(&json!({"ok": true})),
            State::Created
            | State::Starting
            | State::Started
            | State::Stopping
            | State::Stopped
            | State::Failed
            | State::Replacing
            | State::Destroyed => {}
        }
        let takes = self.pick(self.profile.destroy);
        self.enter(id, State::Destroying, now);
        self.schedule(id, &[(now.saturating_add(takes), State::Destroyed)]);
        ok(&json!({"ok": true}))
    }

    /// Rule 12.
    fn lease(&mut self, id: &str, nonce: Option<&str>, query: &str, body: &Value, now: u64) -> Reply {
        let ttl = body.get("ttl").and_then(Value::as_u64);
        let ttl = ttl.or_else(|| parameter(query, "ttl")?.parse().ok()).unwrap_or(60);
        let until = now.saturating_add(ttl.saturating_mul(1000));
        let nonce = match nonce {
            Some(nonce) => nonce.to_owned(),
            None => format!("nonce{}", self.next_serial()),
        };
        if let Some(machine) = self.machines.get_mut(id) {
            machine.lease = Some((nonce.clone(), until));
        }
        with(201, &lease_body(&nonce, until))
    }

    fn release(&mut self, id: &str, nonce: Option<&str>) -> Reply {
        let Some(machine) = self.machines.get_mut(id) else { return error(404, "machine not found") };
        match &machine.lease {
            Some((held, _)) if Some(held.as_str()) == nonce => {
                machine.lease = None;
                ok(&json!({"ok": true}))
            }
            Some(_) | None => with(404, &json!({"status": "error", "message": "lease not found"})),
        }
    }

    pub(crate) fn describe_machine(&self, id: &str) -> Value {
        let Some(machine) = self.machines.get(id) else { return Value::Null };
        let alive = self.is_alive(machine.host);
        let config = if alive { "config" } else { "incomplete_config" };
        json!({
            "id": id,
            "name": machine.name,
            "state": machine.state.as_str(),
            "region": self.hosts.get(machine.host).map(|host| host.region.as_str()),
            "instance_id": machine.instance,
            "private_ip": machine.private_ip,
            "host_status": if alive { "ok" } else { "unreachable" },
            (config): machine.config,
        })
    }

    fn describe_events(&self, id: &str, query: &str) -> Value {
        let limit = parameter(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(20_usize).min(50);
        let events = self.machines.get(id).map(|machine| &machine.events);
        let list = events.into_iter().flatten().rev().take(limit);
        Value::Array(
            list.map(|note| {
                let Note { at, kind, status, source, request } = note;
                let mut said = json!({"id": format!("{at}"), "type": kind, "status": status, "source": source, "timestamp": at});
                if let (Some(request), Some(said)) = (request, said.as_object_mut()) {
                    said.insert("request".to_owned(), request.clone());
                }
                said
            })
            .collect(),
        )
    }

    /// Whether a machine's volume may be mounted: an emulator asks before it starts a process.
    #[must_use]
    pub fn is_mountable(&self, volume: &str, now: u64) -> bool {
        self.volumes.get(volume).is_some_and(|volume| {
            volume.deleted_at.is_none() && (volume.state == VolumeState::Hydrating || now >= volume.ready_at)
        })
    }
}

fn lease_body(nonce: &str, until: u64) -> Value {
    let lease = json!({"nonce": nonce, "expires_at": until / 1000, "owner": "x@tokens.fly.io"});
    json!({"status": "success", "data": lease})
}

/// Rule 11, without the waiting: whoever puts a clock around this asks again until the time is over.
fn wait(machine: &Machine, query: &str) -> Reply {
    let timeout =
        parameter(query, "timeout").map_or(Some(60_u64), |text| text.trim_end_matches('s').parse().ok());
    if !timeout.is_some_and(|timeout| (1..=60).contains(&timeout)) {
        return error(
            400,
            "invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]",
        );
    }
    let version = parameter(query, "version").or_else(|| parameter(query, "instance_id"));
    if version.is_some_and(|version| version != machine.instance) {
        return error(400, "machine version has been replaced");
    }
    let wanted = parameter(query, "state").unwrap_or("started");
    let is = machine.state.as_str();
    if wanted.split(',').any(|state| state == is) {
        ok(&json!({"ok": true, "state": is, "version": machine.instance}))
    } else {
        error(
            408,
            &format!("deadline_exceeded: machine failed to reach desired state, {wanted}, currently {is}"),
        )
    }
}
