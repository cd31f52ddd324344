//! What goes wrong, and what operators ask for meanwhile.

use edge::machine::Want;
use edge::machine::desired::Relocation;
use shared::time::UnixMillis;

use crate::world::{Happening, World};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Chaos {
    /// A host goes out of reach; it comes back, or never.
    HostDown {
        host: usize,
        for_ms: u64,
        lost: bool,
    },
    HostBack {
        host: usize,
    },
    HostLost {
        host: usize,
    },
    /// A host takes no orders.
    Maintenance {
        host: usize,
        on: bool,
    },
    RegionFull {
        region: usize,
        for_ms: u64,
    },
    RegionHasRoom {
        region: usize,
    },
    /// A machine ends by itself.
    MachineEnds {
        user: usize,
    },
    /// Fly moves it.
    Migration {
        user: usize,
    },
    /// Its sidecar falls silent, until it is restarted.
    Hangs {
        user: usize,
    },
    /// Its agent does not answer, until it is restarted.
    Dulls {
        user: usize,
    },
    /// It starts, and stays at that.
    Sticks {
        user: usize,
    },
    /// It ends as soon as it has started, until all is over.
    Loops {
        user: usize,
    },
    /// Its volume fills up.
    Fills {
        user: usize,
    },
    /// Fly does not know our token for a while.
    TokenFails {
        for_ms: u64,
    },
    TokenWorks,
    /// Operators and users.
    Suspend {
        user: usize,
    },
    Resume {
        user: usize,
    },
    Resize {
        user: usize,
    },
    NewImage {
        user: usize,
    },
    Move {
        user: usize,
    },
    Delete {
        user: usize,
    },
    /// An alarm rings twice.
    Rings {
        user: usize,
    },
    /// From here on nothing fails, and somebody has said: try again.
    Over,
}

impl Chaos {
    pub(crate) fn random(rng: &mut fastrand::Rng, users: usize) -> Self {
        let user = rng.usize(0..users.max(1));
        let host = rng.usize(0..4);
        let minutes = rng.u64(1..30) * 60_000;
        match rng.u8(0..19) {
            0 | 1 => Self::HostDown { host, for_ms: minutes, lost: rng.bool() },
            2 => Self::Maintenance { host, on: true },
            3 => Self::RegionFull { region: rng.usize(0..2), for_ms: minutes },
            4 => Self::MachineEnds { user },
            5 => Self::Migration { user },
            6 => Self::Hangs { user },
            7 => Self::Fills { user },
            8 => Self::TokenFails { for_ms: minutes },
            9 => Self::Suspend { user },
            10 => Self::Resize { user },
            11 => Self::NewImage { user },
            12 => Self::Move { user },
            13 => Self::Delete { user },
            14 => Self::Resume { user },
            15 => Self::Dulls { user },
            16 => Self::Sticks { user },
            17 => Self::Loops { user },
            _ => Self::Rings { user },
        }
    }
}

impl World {
    pub(crate) fn wreak(&mut self, chaos: Chaos) {
        self.say(|_| format!("*** {chaos:?}"));
        let now = self.now;
        match chaos {
            Chaos::HostDown { host, for_ms, lost } => {
                self.fly.kill_host(host, now);
                let next = if lost { Chaos::HostLost { host } } else { Chaos::HostBack { host } };
                self.at(for_ms, Happening::Chaos(next));
            }
            Chaos::HostBack { host } => self.fly.revive_host(host, now),
            Chaos::HostLost { host } => {
                // One that is back by now is well.
                if self.fly.hosts.get(host).is_some_and(|host| !host.alive) {
                    self.fly.lose_host(host, now);
                }
            }
            Chaos::Maintenance { host, on } => {
                if let Some(host) = self.fly.hosts.get_mut(host) {
                    host.maintenance = on;
                }
            }
            Chaos::RegionFull { region, for_ms } => {
                self.fly.fill_region(if region == 0 { "sjc" } else { "iad" });
                self.at(for_ms, Happening::Chaos(Chaos::RegionHasRoom { region }));
            }
            Chaos::RegionHasRoom { region } => self.fly.empty_region(if region == 0 { "sjc" } else { "iad" }),
            Chaos::MachineEnds { user } => {
                if let Some(machine) = self.machine_of(user) {
                    self.fly.end_machine(&machine, now);
                }
            }
            Chaos::Migration { user } => {
                if let Some(machine) = self.machine_of(user) {
                    self.fly.migrate(&machine, now);
                }
            }
            Chaos::Hangs { user } => self.hung.extend(self.machine_of(user)),
            Chaos::Dulls { user } => {
                let machine = self.machine_of(user);
                self.judge.dull.extend(machine);
            }
            Chaos::Sticks { user } => {
                if let Some(machine) = self.machine_of(user) {
                    self.fly.stick(&machine, now);
                }
            }
            Chaos::Loops { user } => {
                self.judge.looping.insert(user);
                if let Some(machine) = self.machine_of(user) {
                    self.fly.end_machine(&machine, now);
                }
            }
            Chaos::Fills { user } => {
                let machine = self.machine_of(user);
                self.judge.filling.extend(machine);
            }
            Chaos::TokenFails { for_ms } => {
                self.judge.token_fails = true;
                self.at(for_ms, Happening::Chaos(Chaos::TokenWorks));
            }
            Chaos::TokenWorks => self.judge.token_fails = false,
            Chaos::Suspend { user } => self.wish(user, |desired| {
                if desired.want == Want::Run {
                    desired.want = Want::Suspend;
                }
            }),
            Chaos::Resume { user } => self.wish(user, |desired| {
                if desired.want == Want::Suspend {
                    desired.want = Want::Run;
                }
            }),
            Chaos::Resize { user } => self.wish(user, |desired| desired.spec.guest.memory_mb = 4096),
            Chaos::NewImage { user } => self.wish(user, |desired| {
                desired.spec.image = "registry.fly.io/agent@sha256:02".to_owned();
            }),
            Chaos::Move { user } => self.wish(user, |desired| {
                let number = desired.relocation.as_ref().map_or(1, |order| order.number.saturating_add(1));
                desired.relocation = Some(Relocation { number, region: "iad".to_owned() });
            }),
            Chaos::Delete { user } => self.wish(user, |desired| {
                desired.want = Want::Delete { purge_at: UnixMillis(now.saturating_add(3_600_000)) };
            }),
            Chaos::Rings { user } => self.at(0, Happening::Wake(user)),
            Chaos::Over => self.calm_down(),
        }
    }

    fn calm_down(&mut self) {
        let now = self.now;
        self.calm = true;
        self.judge.token_fails = false;
        self.judge.looping.clear();
        for host in 0..self.fly.hosts.len() {
            let Some(found) = self.fly.hosts.get_mut(host) else { continue };
            found.maintenance = false;
            self.fly.revive_host(host, now);
        }
        for region in ["sjc", "iad"] {
            self.fly.empty_region(region);
        }
        for n in 0..self.users.len() {
            self.wish(n, |_| {});
        }
    }

    /// A wish, with its new version; who executes hears of it.
    fn wish(&mut self, n: usize, change: impl FnOnce(&mut edge::machine::Desired)) {
        if let Some(user) = self.users.get_mut(n) {
            user.desired.version = user.desired.version.saturating_add(1);
            if !matches!(user.desired.want, Want::Delete { .. }) {
                change(&mut user.desired);
            }
        }
        self.at(0, Happening::Wake(n));
    }

    fn machine_of(&self, n: usize) -> Option<String> {
        Some(self.users.get(n)?.stored.machine.present()?.id.to_string())
    }
}
