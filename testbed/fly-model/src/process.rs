//! The processes of machines, for whoever runs them: how each began, and what follows from its end.

use serde_json::{Value, json};

use crate::world::{Event, Exit, Fly, State};

/// In so many ms, `on-failure` starts a machine again so many times.
const RESTART_WINDOW: u64 = 300_000;
const MAX_RETRIES: u64 = 10;
/// Between an end and the start after it, in ms.
const RESTART_AFTER: u64 = 1_000;

impl Fly {
    /// A machine's process is to be started.
    pub(crate) fn run_process(&mut self, id: &str, now: u64) {
        let secrets = self.secrets_at_boot(id, now);
        let real = self.profile.real_processes;
        if let Some(machine) = self.machines.get_mut(id) {
            machine.run = machine.run.saturating_add(1);
            machine.process = real;
            machine.secrets = secrets;
        }
        self.events.push(Event::Started { machine: id.to_owned() });
    }

    /// How long a stop takes by itself: with processes, as long as they do.
    pub(crate) fn stop_takes(&mut self, id: &str) -> u64 {
        if self.machines.get(id).is_some_and(|machine| machine.process) {
            0
        } else {
            self.pick(self.profile.stop)
        }
    }

    /// The process of a machine's `run` has ended. What waited for that goes on; if nobody asked for the end, the
    /// machine's restart policy is applied. Reports of earlier runs change nothing.
    pub fn exited(&mut self, id: &str, run: u64, exit: Exit, now: u64) {
        self.advance(now);
        let Some(machine) = self.machines.get_mut(id).filter(|machine| machine.run == run && machine.process)
        else {
            return;
        };
        machine.process = false;
        let requested = machine.state != State::Started;
        let alive = self.hosts.get(machine.host).is_some_and(|host| host.alive);
        if !alive {
            return;
        }
        let again = !requested && starts_again(machine, exit, now);
        let mut said = json!({
            "guest_signal": exit.signal,
            "oom_killed": exit.oom_killed,
            "requested_stop": requested,
            "restarting": again,
            "signal": exit.signal,
            "exited_at": now,
        });
        if exit.code != 0
            && let Some(said) = said.as_object_mut()
        {
            // Zero is left out.
            said.insert("exit_code".to_owned(), exit.code.into());
            said.insert("guest_exit_code".to_owned(), exit.code.into());
        }
        let restarts = machine.restarts.len();
        let request = json!({"exit_event": said, "restart_count": restarts});
        machine.note_with(now, "exit", "stopped", "flyd", Some(request));
        if requested {
            let due = machine.next.front_mut().map(|next| {
                let before = next.0;
                next.0 = before.max(now);
                (before, next.0)
            });
            if let Some((before, at)) = due {
                self.due.remove(&(before, id.to_owned()));
                self.due.insert((at, id.to_owned()));
            }
        } else if again {
            machine.restarts.push_back(now);
            self.enter(id, State::Starting, now);
            self.schedule(id, &[(now.saturating_add(RESTART_AFTER), State::Started)]);
        } else if machine.config.get("auto_destroy").and_then(Value::as_bool) == Some(true) {
            self.enter(id, State::Destroying, now);
            self.schedule(id, &[(now, State::Destroyed)]);
        } else {
            self.enter(id, State::Stopped, now);
        }
        self.advance(now);
    }

    /// A machine cannot be started at all: its image is not to be had.
    pub fn launch_failed(&mut self, id: &str, now: u64) {
        self.advance(now);
        if let Some(machine) = self.machines.get_mut(id) {
            machine.process = false;
            self.schedule(id, &[]);
            self.enter(id, State::Failed, now);
        }
    }
}

/// `restart.policy`, and without one `on-failure`.
fn starts_again(machine: &mut crate::world::Machine, exit: Exit, now: u64) -> bool {
    let restart = machine.config.get("restart");
    let text = restart.and_then(|restart| restart.get("policy")).and_then(Value::as_str);
    let most = restart.and_then(|restart| restart.get("max_retries")).and_then(Value::as_u64);
    while machine.restarts.front().is_some_and(|at| at.saturating_add(RESTART_WINDOW) < now) {
        machine.restarts.pop_front();
    }
    match text.unwrap_or("on-failure") {
        "always" => true,
        "no" => false,
        _ => {
            let failed = exit.code != 0 || exit.signal != 0;
            failed && (machine.restarts.len() as u64) < most.unwrap_or(MAX_RETRIES)
        }
    }
}

/// A length of time as the API takes it, in ms: `30s`, `500ms`, `2m`, a number of seconds as text, or a number of
/// nanoseconds.
#[must_use]
pub fn duration_ms(value: &Value) -> Option<u64> {
    let Some(text) = value.as_str() else { return value.as_u64().map(|nanoseconds| nanoseconds / 1_000_000) };
    let (number, per_unit) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1_000)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60_000)
    } else {
        (text, 1_000)
    };
    number.parse::<u64>().ok()?.checked_mul(per_unit)
}
