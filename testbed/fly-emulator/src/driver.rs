//! What happens by itself: the model's changes at their time, and the processes and folders that follow from them.

use std::sync::Arc;

use fly_model::{Disk, Event, State};

use crate::emulator::Shared;
use crate::launch::{self, Site};
use crate::runner::{Order, Runner};
use crate::volumes;

/// Never ends by itself.
pub(crate) async fn drive(shared: Arc<Shared>) {
    loop {
        let now = shared.clock.now();
        let (events, disks, next) = {
            let mut fly = shared.fly();
            fly.advance(now);
            (std::mem::take(&mut fly.events), std::mem::take(&mut fly.disks), fly.next_change())
        };
        let something = !events.is_empty() || !disks.is_empty();
        for event in events {
            follow(&shared, &event);
        }
        for disk in disks {
            keep(&shared, disk).await;
        }
        kill_what_may_not_run(&shared);
        shared.changed.send_modify(|n| *n = n.wrapping_add(1));
        if something {
            // What was done may have led to more.
            continue;
        }
        let pause = next.and_then(|at| shared.clock.real(at.saturating_sub(shared.clock.now())));
        match pause {
            // A ms more than needed, so that the change is due when it is looked for.
            Some(pause) => {
                let pause = pause.saturating_add(std::time::Duration::from_millis(1));
                let _ = tokio::time::timeout(pause, shared.wake.notified()).await;
            }
            None => shared.wake.notified().await,
        }
    }
}

fn follow(shared: &Arc<Shared>, event: &Event) {
    let (Event::Started { machine: id } | Event::Ended { machine: id }) = event;
    let order = {
        let fly = shared.fly();
        let Some(machine) = fly.machines.get(id) else { return };
        match event {
            Event::Started { .. } => {
                let region = fly.hosts.get(machine.host).map_or("", |host| host.region.as_str());
                let site = Site { id, region, dir: &shared.config.dir };
                shared
                    .config
                    .image(machine.image())
                    .map(|image| Order::Start(launch::launch(site, machine, image)))
            }
            Event::Ended { .. } => {
                let (signal, timeout) = launch::stop_of(machine);
                Some(Order::Stop { signal, timeout })
            }
        }
    };
    let Some(order) = order else {
        shared.change(|fly, now| fly.launch_failed(id, now));
        return;
    };
    shared
        .runners()
        .entry(id.clone())
        .or_insert_with(|| Runner::spawn(Arc::clone(shared), id.clone()))
        .order(order);
}

/// Machines that are being destroyed, and those of hosts that are out of reach, get no time to end.
fn kill_what_may_not_run(shared: &Shared) {
    let fly = shared.fly();
    let mut runners = shared.runners();
    runners.retain(|id, runner| {
        let Some(machine) = fly.machines.get(id) else { return false };
        let reachable = fly.hosts.get(machine.host).is_some_and(|host| host.alive);
        if !reachable || matches!(machine.state, State::Destroying | State::Destroyed) {
            runner.kill(machine.run);
        }
        machine.state != State::Destroyed || machine.process
    });
}

async fn keep(shared: &Arc<Shared>, disk: Disk) {
    let dir = &shared.config.dir;
    let volume_dir = |volume: &str| launch::volume_dir(dir, volume);
    let done = match disk {
        Disk::Made { volume } => volumes::make(&volume_dir(&volume)).await,
        Disk::Copied { from, to, machine } => {
            let (from, to) = (volume_dir(&from), volume_dir(&to));
            let runner = machine.and_then(|id| shared.runners().get(&id).map(Runner::sender));
            match runner {
                Some(runner) => {
                    // An error means that the machine is gone, and nobody reads the copy.
                    let _ = runner.send(Order::Copy { from, to });
                    Ok(())
                }
                None => volumes::copy(&from, &to).await,
            }
        }
        Disk::Snapshot { volume, snapshot } => {
            volumes::copy(&volume_dir(&volume), &volumes::snapshot_dir(dir, &snapshot)).await
        }
        Disk::Restored { volume, snapshot } => {
            volumes::copy(&volumes::snapshot_dir(dir, &snapshot), &volume_dir(&volume)).await
        }
        Disk::Lost { volume } => volumes::remove(&volume_dir(&volume)).await,
    };
    if let Err(error) = done {
        complain(&format!("{error:#}"));
    }
}

/// A word to whoever runs the emulator. Never of a machine's environment.
pub(crate) fn complain(text: &str) {
    eprintln!("fly-emulator: {text}");
}
