//! What nobody asked for: hosts that die, machines that end, Fly's own moves.

use crate::world::{Disk, Fly, State, VolumeState};

impl Fly {
    /// Rule 19: a host goes out of reach. What ran on it does not run any more.
    pub fn kill_host(&mut self, host: usize, now: u64) {
        self.advance(now);
        if let Some(host) = self.hosts.get_mut(host) {
            host.alive = false;
        }
        for (id, machine) in &self.machines {
            if machine.host == host && machine.state == State::Started {
                self.events.push(crate::world::Event::Ended { machine: id.clone() });
            }
        }
    }

    /// It comes back, with everything on it: machines that ran run again.
    pub fn revive_host(&mut self, host: usize, now: u64) {
        self.advance(now);
        let Some(found) = self.hosts.get_mut(host) else { return };
        if found.alive {
            return;
        }
        found.alive = true;
        let ids: Vec<String> = self
            .machines
            .iter()
            .filter(|(_, machine)| machine.host == host)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let soon = now.saturating_add(500);
            match self.machines.get(&id).map(|machine| machine.state) {
                Some(State::Started) => self.run_process(&id, now),
                Some(State::Created | State::Starting | State::Replacing) => {
                    self.schedule(&id, &[(soon, State::Started)]);
                }
                Some(State::Stopping) => self.schedule(&id, &[(soon, State::Stopped)]),
                Some(State::Destroying) => self.schedule(&id, &[(soon, State::Destroyed)]),
                Some(State::Stopped | State::Failed | State::Destroyed) | None => {}
            }
        }
    }

    /// A host that is out of reach never comes back: its volumes are gone, and its machines with them.
    pub fn lose_host(&mut self, host: usize, now: u64) {
        self.advance(now);
        let lost = |at: usize| at == host;
        let mut gone = Vec::new();
        for (id, volume) in self.volumes.iter_mut().filter(|(_, volume)| lost(volume.host)) {
            volume.state = VolumeState::PendingDestroy;
            volume.deleted_at.get_or_insert(now);
            gone.push(id.clone());
        }
        for volume in gone {
            self.tell_disk(Disk::Lost { volume });
        }
        let ids: Vec<String> = self
            .machines
            .iter()
            .filter(|(_, machine)| lost(machine.host) && machine.state != State::Destroyed)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.schedule(&id, &[]);
            self.enter(&id, State::Destroyed, now);
        }
    }

    /// A machine's process ends, and Fly does not start it again.
    pub fn end_machine(&mut self, id: &str, now: u64) {
        self.advance(now);
        if self.machines.get(id).is_some_and(|machine| machine.state == State::Started) {
            self.schedule(id, &[]);
            self.enter(id, State::Stopped, now);
        }
    }

    /// A machine starts, and never comes to its end.
    pub fn stick(&mut self, id: &str, now: u64) {
        self.advance(now);
        if self.machines.get(id).is_some_and(|machine| machine.state == State::Started) {
            self.schedule(id, &[]);
            self.enter(id, State::Starting, now);
        }
    }

    /// Rule 20: Fly moves a machine to another host of its region: same id, another volume id, and it ends stopped.
    pub fn migrate(&mut self, id: &str, now: u64) {
        self.advance(now);
        let Some(machine) = self.machines.get(id).filter(|machine| machine.state == State::Started) else {
            return;
        };
        let (from, mount, memory_mb) =
            (machine.host, machine.mount().map(str::to_owned), machine.memory_mb());
        let Some(mount) = mount else { return };
        let region = self.hosts.get(from).map(|host| host.region.clone());
        let to = (0..self.hosts.len()).find(|host| {
            *host != from
                && self.free_mb(*host) >= memory_mb
                && self
                    .hosts
                    .get(*host)
                    .is_some_and(|host| host.alive && Some(&host.region) == region.as_ref())
        });
        let Some(to) = to else { return };
        self.end_machine(id, now);
        let new_id = format!("vol_{:016x}", self.next_serial());
        let Some(old) = self.volumes.get_mut(&mount) else { return };
        let mut moved = old.clone();
        moved.host = to;
        old.attached = None;
        old.state = VolumeState::PendingDestroy;
        old.deleted_at = Some(now);
        let app = moved.app.clone();
        self.volumes.insert(new_id.clone(), moved);
        self.in_app.entry(app).or_default().insert(new_id.clone());
        self.tell_disk(Disk::Copied { from: mount, to: new_id.clone(), machine: Some(id.to_owned()) });
        let private_ip = self.new_address();
        if let Some(machine) = self.machines.get_mut(id) {
            machine.host = to;
            machine.private_ip = private_ip;
            let slot =
                machine.config.get_mut("mounts").and_then(|mounts| mounts.get_mut(0)?.get_mut("volume"));
            if let Some(slot) = slot {
                *slot = serde_json::Value::String(new_id);
            }
        }
    }

    /// Others take all the memory that a region has left.
    pub fn fill_region(&mut self, region: &str) {
        for (host, reserved) in self.hosts.iter_mut().zip(&self.reserved) {
            if host.region == region {
                host.others_mb = host.memory_mb.saturating_sub(*reserved);
            }
        }
    }

    /// They give it back.
    pub fn empty_region(&mut self, region: &str) {
        self.hosts.iter_mut().filter(|host| host.region == region).for_each(|host| host.others_mb = 0);
    }

    /// Whoever plays the machine writes on its volume.
    pub fn write(&mut self, volume: &str, data: &str) {
        if let Some(volume) = self.volumes.get_mut(volume) {
            data.clone_into(&mut volume.data);
        }
    }
}
