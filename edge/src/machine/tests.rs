//! Tables of single decisions. What follows from many of them is the simulator's (`edge/tests/control_plane.rs`).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use shared::id::{Generation, UserId};
use shared::key::SigningKeys;
use shared::secret::Secret;
use shared::time::UnixMillis;

use super::call::{Performed, Refusal, call};
use super::desired::{Desired, Layout, Relocation, Restore, Setup, Spec, Want};
use super::learn::{LocalFault, Outcome};
use super::names::names;
use super::plan::{
    Action, GATEWAY_PATIENCE_MS, KEEP_MOVED_MS, MAX_RESTARTS, MAX_STARTS, Plan, RECONCILE_MS, SILENCE_MS,
    STUCK_MS, Settled, UNREACHABLE_MS, Waiting, Why, plan,
};
use super::record::{
    Cause, Content, HeldApp, HeldLease, HeldMachine, HeldVolume, Knowledge, LOOK_AGAIN_MS, Made, Record,
    Report, Retired, RetiredWhy, SETTLE_MS, Stage, stage,
};
use crate::fly::budget::CALL_LIMIT_MS;
use crate::fly::wire::{AddressKind, Guest, HostStatus, Machine, MachineState, Volume};
use crate::fly::{Answer, ApiError, Call, Fault};

const NOW: UnixMillis = UnixMillis(10_000_000);

fn setup() -> Setup {
    Setup { org: "automna".into(), layout: Layout::PerUser { prefix: "u".into() } }
}

fn desired() -> Desired {
    Desired {
        user: "user_a".parse().unwrap(),
        version: 1,
        want: Want::Run,
        spec: Spec {
            image: "i@sha256:01".into(),
            guest: Guest {
                cpu_kind: "shared".into(),
                cpus: 1,
                memory_mb: 2048,
                rest: serde_json::Map::new(),
            },
            volume_gb: 1,
            volume_limit_gb: 4,
            regions: vec!["sjc".into(), "iad".into()],
            env: BTreeMap::new(),
        },
        relocation: None,
        restore: Restore::Available,
        released: None,
    }
}

fn keys() -> SigningKeys {
    SigningKeys::new(Secret::new("s").unwrap(), None)
}

fn volume() -> HeldVolume {
    HeldVolume {
        id: "vol_a".parse().unwrap(),
        region: "sjc".into(),
        size_gb: 1,
        host: HostStatus::Ok,
        read_at: NOW,
        stale: false,
        missing_since: None,
        deleting: false,
        extended_at: None,
        restart_due: false,
    }
}

fn machine(state: MachineState) -> HeldMachine {
    let user: UserId = "user_a".parse().unwrap();
    let names = names(&setup().layout, &user, Generation(1)).unwrap();
    let key = keys().machine_key(&user, Generation(1));
    let config = super::config::make(
        &desired().spec,
        &user,
        Generation(1),
        &names,
        &volume().id,
        super::config::OnVolume::Fresh,
        &key,
    );
    HeldMachine {
        id: "4d".parse().unwrap(),
        instance: "01".into(),
        state,
        host: HostStatus::Ok,
        config: Some(config),
        since: NOW,
        read_at: NOW,
        stale: false,
        missing_since: None,
    }
}

fn report(ready: bool) -> Report {
    Report {
        at: NOW,
        machine: "4d".parse().unwrap(),
        generation: Generation(1),
        ready,
        bytes_used: 1,
        bytes_total: 1 << 30,
    }
}

/// A user with everything, whose machine is in this state.
fn with(state: MachineState) -> Record {
    Record {
        app: Knowledge::Present(HeldApp::default()),
        addresses: Knowledge::Present(AddressKind::ALL.into()),
        volume: Knowledge::Present(volume()),
        machine: Knowledge::Present(machine(state)),
        content: Content::Held,
        ..Record::new()
    }
}

fn ready() -> Record {
    Record { report: Some(report(true)), heard: true, ..with(MachineState::Started) }
}

fn changed(mut record: Record, change: impl FnOnce(&mut Record)) -> Record {
    change(&mut record);
    record
}

fn the_machine(record: &mut Record) -> &mut HeldMachine {
    record.machine.present_mut().unwrap()
}

fn the_volume(record: &mut Record) -> &mut HeldVolume {
    record.volume.present_mut().unwrap()
}

fn error(fault: Fault) -> Outcome {
    Outcome::Fly(Err(ApiError {
        fault,
        status: Some(400),
        text: String::new(),
        request_id: None,
        retry_after_ms: None,
    }))
}

fn learn(record: &Record, action: &Action, outcome: &Outcome) -> Record {
    record.learn(&setup(), &desired(), action, outcome, NOW, 0)
}

fn decide(record: &Record) -> Plan {
    plan(&setup(), &desired(), record, NOW)
}

fn fly_volume(value: serde_json::Value) -> Volume {
    serde_json::from_value(value).unwrap()
}

fn fly_machine(value: serde_json::Value) -> Machine {
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_ladder_of_a_user_who_should_run() {
    use MachineState as S;
    let known = Knowledge::Present(HeldApp::default());
    let rows: Vec<(&str, Record, Action, Why)> = vec![
        ("nothing", Record::new(), Action::ReadApp, Why::Unknown),
        ("no app", Record { app: Knowledge::Absent, ..Record::new() }, Action::CreateApp, Why::Missing),
        ("an app", Record { app: known.clone(), ..Record::new() }, Action::ListAddresses, Why::Unknown),
        (
            "an address",
            Record {
                app: known,
                addresses: Knowledge::Present(BTreeSet::from([AddressKind::SharedV4])),
                ..Record::new()
            },
            Action::AssignAddress(AddressKind::V6),
            Why::Missing,
        ),
        (
            "addresses",
            changed(with(S::Started), |r| r.volume = Knowledge::Unknown),
            Action::ListVolumes,
            Why::Unknown,
        ),
        (
            "no volume, and never one",
            changed(with(S::Started), |r| {
                r.volume = Knowledge::Absent;
                r.content = Content::Empty;
            }),
            Action::CreateVolume { region: "sjc".into() },
            Why::Missing,
        ),
        (
            "no volume, and there was one",
            changed(with(S::Started), |r| r.volume = Knowledge::Absent),
            Action::NextGeneration { why: RetiredWhy::Lost, region: None },
            Why::VolumeLost,
        ),
        (
            "a volume",
            changed(with(S::Started), |r| r.machine = Knowledge::Unknown),
            Action::ListMachines,
            Why::Unknown,
        ),
        (
            "no machine",
            changed(with(S::Started), |r| r.machine = Knowledge::Absent),
            Action::CreateMachine,
            Why::Missing,
        ),
        ("stopped", with(S::Stopped), Action::Start, Why::Stopped),
        ("failed", with(S::Failed), Action::Start, Why::Stopped),
        (
            "starting for too long",
            changed(with(S::Starting), |r| the_machine(r).since = UnixMillis(NOW.0 - STUCK_MS - 1)),
            Action::Recreate,
            Why::Stuck,
        ),
        (
            "ready, and not looked at for a while",
            changed(ready(), |r| the_machine(r).read_at = UnixMillis(NOW.0 - RECONCILE_MS - 60_000)),
            Action::ReadMachine,
            Why::Routine,
        ),
        (
            "another image is wished for",
            changed(ready(), |r| the_machine(r).config.as_mut().unwrap().image = "old".into()),
            Action::Lease,
            Why::Drifted,
        ),
        (
            "80 percent full",
            changed(ready(), |r| r.report.as_mut().unwrap().bytes_used = (1 << 30) / 100 * 81),
            Action::ExtendVolume { size_gb: 2 },
            Why::Full,
        ),
        (
            "grown, and the machine does not see it",
            changed(ready(), |r| the_volume(r).restart_due = true),
            Action::Restart,
            Why::Full,
        ),
        (
            "data is awaited",
            changed(ready(), |r| {
                r.content = Content::Awaited;
                r.report = Some(report(false));
            }),
            Action::RestoreData,
            Why::DataAwaited,
        ),
    ];
    for (what, record, action, why) in rows {
        assert_eq!(decide(&record), Plan::Do(action, why), "{what}");
    }
    assert!(matches!(decide(&ready()), Plan::Done { settled: Settled::Ready, .. }));
}

#[test]
fn in_a_shared_app_there_is_no_app_to_make() {
    let shared = Setup { layout: Layout::Shared { app: "all".parse().unwrap() }, ..setup() };
    assert_eq!(plan(&shared, &desired(), &Record::new(), NOW), Plan::Do(Action::ListVolumes, Why::Unknown));
    let gone = Desired { want: Want::Delete { purge_at: NOW }, ..desired() };
    let nothing = Record { volume: Knowledge::Absent, machine: Knowledge::Absent, ..Record::new() };
    assert_eq!(plan(&shared, &gone, &nothing, NOW), Plan::Do(Action::PurgeData, Why::Deleted));
}

#[test]
fn a_user_without_a_name_gets_nothing() {
    let dotted = Desired { user: "user_a.b".parse().unwrap(), ..desired() };
    let planned = plan(&setup(), &dotted, &Record::new(), NOW);
    assert_eq!(planned, Plan::NeedsAttention { cause: Cause::NoName, until: None });
}

#[test]
fn a_call_under_way_is_waited_for_and_then_doubted() {
    let action = Action::CreateVolume { region: "sjc".into() };
    let record = changed(with(MachineState::Started), |r| r.volume = Knowledge::Absent);
    let begun = changed(record, |r| r.content = Content::Empty).begin(&desired(), &action, NOW);
    let until = NOW.plus_ms(CALL_LIMIT_MS + 1);
    assert_eq!(decide(&begun), Plan::Wait { until, why: Waiting::Answer });
    assert_eq!(plan(&setup(), &desired(), &begun, until), Plan::Do(Action::ListVolumes, Why::InDoubt));
    // After a restart it is not waited for, but looked for once it can be seen.
    let restarted = begun.after_restart();
    let settled = NOW.plus_ms(SETTLE_MS);
    assert_eq!(decide(&restarted), Plan::Wait { until: settled, why: Waiting::Settling });
    assert_eq!(plan(&setup(), &desired(), &restarted, settled), Plan::Do(Action::ListVolumes, Why::InDoubt));
}

#[test]
fn two_looks_have_to_agree_before_it_is_made_again() {
    let doubted = changed(with(MachineState::Started), |r| {
        r.machine = Knowledge::Absent;
        r.lose(&Action::CreateMachine, UnixMillis(NOW.0 - SETTLE_MS));
    });
    let looked = Outcome::Fly(Ok(Answer::Machines(Vec::new())));
    let once = learn(&doubted, &Action::ListMachines, &looked);
    assert_eq!(once.doubt.map(|doubt| (doubt.about, doubt.absent_reads)), Some((Made::Machine, 1)));
    assert_eq!(decide(&once), Plan::Wait { until: NOW.plus_ms(LOOK_AGAIN_MS), why: Waiting::Settling });
    let twice = learn(&once, &Action::ListMachines, &looked);
    assert_eq!(decide(&twice), Plan::Do(Action::CreateMachine, Why::Missing));
}

#[test]
fn what_exists_is_taken_over() {
    let without = changed(with(MachineState::Started), |r| r.machine = Knowledge::Absent);
    let conflict = error(Fault::MachineExists(Some("99".parse().unwrap())));
    let adopted = learn(&without, &Action::CreateMachine, &conflict);
    assert_eq!(adopted.machine.present().unwrap().id.as_str(), "99");
    assert_eq!(decide(&adopted), Plan::Do(Action::ReadMachine, Why::Changing));
    // Without the id in Fly's text it is looked for by its name.
    let nameless = learn(&without, &Action::CreateMachine, &error(Fault::MachineExists(None)));
    assert_eq!(nameless.machine, Knowledge::Unknown);
}

#[test]
fn of_several_volumes_the_attached_one_and_never_a_discarded_one() {
    let name = names(&setup().layout, &desired().user, Generation(1)).unwrap().volume;
    let list = Outcome::Fly(Ok(Answer::Volumes(
        [
            json!({"id": "vol_other", "name": "else", "state": "created"}),
            json!({"id": "vol_gone", "name": name, "state": "pending_destroy"}),
            json!({"id": "vol_full", "name": name, "state": "created"}),
            json!({"id": "vol_1", "name": name, "state": "created"}),
            json!({"id": "vol_2", "name": name, "state": "created", "attached_machine_id": "4d"}),
        ]
        .map(fly_volume)
        .to_vec(),
    )));
    let record = Record { discarded: vec!["vol_full".parse().unwrap()], ..Record::new() };
    let found = learn(&record, &Action::ListVolumes, &list);
    assert_eq!(found.volume.present().unwrap().id.as_str(), "vol_2");
    assert_eq!(found.content, Content::Held, "what was found may hold data");
}

#[test]
fn no_room_on_the_host_of_an_empty_volume_and_of_one_with_data() {
    let empty = changed(with(MachineState::Started), |r| {
        r.machine = Knowledge::Absent;
        r.content = Content::Empty;
    });
    let discarding = learn(&empty, &Action::CreateMachine, &error(Fault::HostFull));
    assert_eq!(decide(&discarding), Plan::Do(Action::DiscardVolume(volume().id), Why::NoRoom));
    let discarded = learn(&discarding, &Action::DiscardVolume(volume().id), &Outcome::Fly(Ok(Answer::Done)));
    assert_eq!(decide(&discarded), Plan::Do(Action::CreateVolume { region: "iad".into() }, Why::Missing));
    assert_eq!(discarded.discarded, [volume().id]);

    let held = Record { content: Content::Held, ..empty };
    let waiting = learn(&held, &Action::CreateMachine, &error(Fault::HostFull));
    assert_eq!(waiting.volume, held.volume, "it stays");
    assert!(matches!(decide(&waiting), Plan::Wait { why: Waiting::Backoff, .. }));
}

#[test]
fn full_regions_are_passed_over_and_come_back() {
    let empty = changed(with(MachineState::Started), |r| {
        r.volume = Knowledge::Absent;
        r.machine = Knowledge::Absent;
        r.content = Content::Empty;
    });
    let create = |region: &str| Action::CreateVolume { region: region.into() };
    let one = learn(&empty, &create("sjc"), &error(Fault::RegionFull));
    assert_eq!(decide(&one), Plan::Do(create("iad"), Why::Missing));
    let both = learn(&one, &create("iad"), &error(Fault::Quota));
    let Plan::NeedsAttention { cause: Cause::Capacity, until: Some(until) } = decide(&both) else {
        panic!("{:?}", decide(&both))
    };
    assert_eq!(plan(&setup(), &desired(), &both, until), Plan::Do(create("sjc"), Why::Missing));
}

#[test]
fn a_lost_host_is_followed_by_nothing_empty() {
    let gone = changed(ready(), |r| {
        the_machine(r).host = HostStatus::Unreachable;
        the_machine(r).read_at = NOW;
        r.unreachable_since = Some(UnixMillis(NOW.0 - 1000));
    });
    assert!(matches!(decide(&gone), Plan::Wait { why: Waiting::Host, .. }), "it may come back");
    assert_eq!(stage(&desired(), &gone, NOW), Stage::Recovering);
    let lost = changed(gone, |r| r.unreachable_since = Some(UnixMillis(NOW.0 - UNREACHABLE_MS)));
    let next = Action::NextGeneration { why: RetiredWhy::Lost, region: None };
    assert_eq!(decide(&lost), Plan::Do(next.clone(), Why::HostLost));
    let without = Desired { restore: Restore::Unavailable, ..desired() };
    let planned = plan(&setup(), &without, &lost, NOW);
    assert!(matches!(planned, Plan::NeedsAttention { cause: Cause::DataLost, .. }), "{planned:?}");
    assert_eq!(stage(&without, &lost, NOW), Stage::Recovering, "and says so");

    let recovering = learn(&lost, &next, &Outcome::Local(Ok(())));
    assert_eq!((recovering.generation, recovering.content), (Generation(2), Content::Awaited));
    assert_eq!(recovering.retired.len(), 1);
    // The volume that was lost stays, whatever happens, until its bytes are owed to nobody.
    let back = changed(ready(), |r| {
        r.retired = recovering.retired.iter().cloned().map(|old| Retired { machine: None, ..old }).collect();
    });
    assert!(matches!(decide(&back), Plan::Done { settled: Settled::Ready, .. }));
    let released = Desired { released: Some(Generation(1)), ..desired() };
    assert_eq!(
        plan(&setup(), &released, &back, NOW),
        Plan::Do(Action::DeleteRetiredVolume(volume().id), Why::Retired)
    );
}

#[test]
fn a_move_stops_copies_and_keeps_the_old_volume_for_a_while() {
    let order = Desired { relocation: Some(Relocation { number: 1, region: "iad".into() }), ..desired() };
    assert_eq!(plan(&setup(), &order, &ready(), NOW), Plan::Do(Action::Stop, Why::Relocated));
    let stopped = with(MachineState::Stopped);
    let next = Action::NextGeneration { why: RetiredWhy::Moved, region: Some("iad".into()) };
    assert_eq!(plan(&setup(), &order, &stopped, NOW), Plan::Do(next.clone(), Why::Relocated));
    let moved = stopped.learn(&setup(), &order, &next, &Outcome::Local(Ok(())), NOW, 0);
    assert_eq!((moved.relocated, moved.copy_of.clone()), (1, Some(volume().id)));
    let moved = changed(moved, |r| r.volume = Knowledge::Absent);
    let create = Action::CreateVolume { region: "iad".into() };
    assert_eq!(plan(&setup(), &order, &moved, NOW), Plan::Do(create.clone(), Why::Missing));
    let Ok(Performed::ByFly(called)) = call(&setup(), &order, &moved, &keys(), &create, NOW) else {
        panic!()
    };
    let Call::CreateVolume { new, .. } = *called else { panic!() };
    assert_eq!(new.source_volume_id, Some(volume().id));

    let old = |machine: bool| Retired {
        generation: Generation(1),
        at: NOW,
        why: RetiredWhy::Moved,
        machine: machine.then(|| "4d".parse().unwrap()),
        volume: Some(volume().id),
        deleting: false,
        not_before: NOW,
    };
    let there = |machine| changed(ready(), |r| r.retired = vec![old(machine)]);
    assert_eq!(
        decide(&there(true)),
        Plan::Do(Action::DeleteRetiredMachine("4d".parse().unwrap()), Why::Retired)
    );
    assert!(matches!(decide(&there(false)), Plan::Done { .. }));
    let later = NOW.plus_ms(KEEP_MOVED_MS);
    let late = changed(there(false), |r| {
        r.report.as_mut().unwrap().at = later;
        the_machine(r).read_at = later;
    });
    assert_eq!(
        plan(&setup(), &desired(), &late, later),
        Plan::Do(Action::DeleteRetiredVolume(volume().id), Why::Retired)
    );
}

#[test]
fn silence_leads_to_a_look_then_to_a_restart_then_to_somebody() {
    let silent_at = NOW.plus_ms(SILENCE_MS + 1);
    let decide_at = |record: &Record, at| plan(&setup(), &desired(), record, at);
    let silent = ready();
    assert_eq!(decide_at(&silent, silent_at), Plan::Do(Action::ReadMachine, Why::Silent));
    let looked = changed(silent, |r| the_machine(r).read_at = silent_at);
    assert_eq!(decide_at(&looked, silent_at), Plan::Do(Action::Restart, Why::Silent));
    let again = changed(looked, |r| {
        r.report = None;
        r.efforts.version = 1;
        r.efforts.restarts = MAX_RESTARTS;
        r.efforts.last_at = silent_at;
        the_machine(r).read_at = silent_at.plus_ms(GATEWAY_PATIENCE_MS);
    });
    let later = silent_at.plus_ms(GATEWAY_PATIENCE_MS);
    assert!(matches!(
        decide_at(&again, later),
        Plan::NeedsAttention { cause: Cause::Silent, until: Some(_) }
    ));
    // It speaks: the cause has gone away.
    let spoken = again.hear(Report { at: later, ..report(true) }).unwrap();
    assert!(matches!(decide_at(&spoken, later), Plan::Done { settled: Settled::Ready, .. }));
    assert_eq!(spoken.efforts.restarts, 0);
}

#[test]
fn a_report_for_another_machine_or_generation_is_not_heard() {
    assert_eq!(ready().hear(Report { machine: "5e".parse().unwrap(), ..report(true) }), None);
    assert_eq!(ready().hear(Report { generation: Generation(2), ..report(true) }), None);
    assert_eq!(Record::new().hear(report(true)), None);
}

#[test]
fn a_machine_that_ends_again_and_again() {
    let ended = changed(with(MachineState::Stopped), |r| {
        r.efforts.version = 1;
        r.efforts.starts = MAX_STARTS;
        r.efforts.last_at = NOW;
    });
    let Plan::NeedsAttention { cause: Cause::CrashLoop, until: Some(until) } = decide(&ended) else {
        panic!()
    };
    assert_eq!(
        plan(&setup(), &desired(), &ended, until),
        Plan::Do(Action::Start, Why::Stopped),
        "once in a while"
    );
    let word = Desired { version: 2, ..desired() };
    assert_eq!(plan(&setup(), &word, &ended, NOW), Plan::Do(Action::Start, Why::Stopped), "or at a word");
}

#[test]
fn an_update_happens_under_a_lease_on_what_was_read_under_it() {
    let drifted = changed(ready(), |r| the_machine(r).config.as_mut().unwrap().image = "old".into());
    let lease = |r: &mut Record| {
        r.lease = Some(HeldLease {
            machine: "4d".parse().unwrap(),
            nonce: "n".into(),
            from: NOW,
            until: NOW.plus_ms(50_000),
        });
    };
    let leased = changed(drifted, lease);
    assert_eq!(decide(&leased), Plan::Do(Action::ReadMachine, Why::Drifted));
    let read = changed(leased, |r| the_machine(r).read_at = NOW.plus_ms(1));
    assert_eq!(decide(&read), Plan::Do(Action::Update, Why::Drifted));
    let performed = call(&setup(), &desired(), &read, &keys(), &Action::Update, NOW).unwrap();
    let Performed::ByFly(called) = performed else { panic!() };
    let Call::Update { at, config, current_version } = *called else { panic!() };
    assert_eq!((at.nonce.as_deref(), current_version.as_str()), (Some("n"), "01"));
    assert_eq!(config.image, desired().spec.image);
    assert_eq!(config.env, the_machine(&mut read.clone()).config.as_ref().unwrap().env, "all of it is kept");

    // Three times taken back: it runs on what it had, and somebody has to look.
    let reverted = changed(read, |r| {
        r.lease = None;
        r.efforts.version = 1;
        r.efforts.updates = 3;
    });
    assert!(matches!(decide(&reverted), Plan::NeedsAttention { cause: Cause::UpdateReverted, .. }));
    let done = changed(ready(), lease);
    assert_eq!(decide(&done), Plan::Do(Action::ReleaseLease, Why::Updated));
}

#[test]
fn after_the_last_try_somebody_has_to_look_and_a_word_or_time_begins_anew() {
    let mut record = with(MachineState::Stopped);
    let mut tries = 0;
    while record.attention.is_none() {
        assert!(tries < 50);
        record.not_before = NOW;
        record =
            learn(&record.begin(&desired(), &Action::Start, NOW), &Action::Start, &error(Fault::NotSent));
        tries += 1;
    }
    assert_eq!(tries, super::backoff::MAX_ATTEMPTS);
    let attention = record.attention.clone().unwrap();
    assert_eq!(attention.cause, Cause::ApiUnavailable);
    let until = attention.retry_at;
    assert_eq!(decide(&record), Plan::NeedsAttention { cause: Cause::ApiUnavailable, until });
    assert_eq!(plan(&setup(), &desired(), &record, until.unwrap()), Plan::Do(Action::Start, Why::Stopped));
    let word = Desired { version: 2, ..desired() };
    assert_eq!(plan(&setup(), &word, &record, NOW), Plan::Do(Action::Start, Why::Stopped));
    let probing = record.begin(&word, &Action::Start, NOW);
    let well = learn(&probing, &Action::Start, &Outcome::Fly(Ok(Answer::Done)));
    assert_eq!(well.attention, None);
    // It fails again: the same trouble as before, and not a new alert.
    let later = NOW.plus_ms(1_000_000);
    let mut again = probing;
    for _ in 0..tries {
        again = again.learn(&setup(), &word, &Action::Start, &error(Fault::NotSent), later, 0);
    }
    assert_eq!(again.attention.map(|again| again.since), Some(NOW));
}

#[test]
fn what_only_a_word_can_change() {
    for (fault, action, cause) in [
        (Fault::Rejected, Action::CreateMachine, Cause::Rejected),
        (Fault::Forbidden, Action::ReadApp, Cause::NameForeign),
        (Fault::Forbidden, Action::Start, Cause::Forbidden),
    ] {
        let record = learn(&with(MachineState::Stopped), &action, &error(fault));
        assert_eq!(decide(&record), Plan::NeedsAttention { cause, until: None });
    }
}

#[test]
fn flys_patience_is_no_failure_of_the_users() {
    let mut record = with(MachineState::Stopped);
    for _ in 0..100 {
        record = learn(&record, &Action::Start, &error(Fault::RateLimited));
    }
    assert_eq!(record.attention, None);
}

#[test]
fn suspended_and_nothing_begun_for_it() {
    let suspend = Desired { want: Want::Suspend, ..desired() };
    let decide = |record: &Record| plan(&setup(), &suspend, record, NOW);
    assert!(matches!(decide(&Record::new()), Plan::Done { settled: Settled::Suspended, .. }));
    assert_eq!(decide(&ready()), Plan::Do(Action::Stop, Why::Suspended));
    assert!(matches!(decide(&with(MachineState::Stopped)), Plan::Done { settled: Settled::Suspended, .. }));
    assert!(matches!(decide(&with(MachineState::Stopping)), Plan::Wait { .. }));
}

#[test]
fn deleted_step_by_step_each_with_proof() {
    let purge_at = NOW.plus_ms(1000);
    let gone = Desired { want: Want::Delete { purge_at }, ..desired() };
    let decide = |record: &Record, at| plan(&setup(), &gone, record, at);
    let learn = |record: &Record, action: &Action, outcome: Outcome| {
        changed(record.learn(&setup(), &gone, action, &outcome, NOW, 0), |r| r.not_before = NOW)
    };
    let done = || Outcome::Fly(Ok(Answer::Done));
    let mut record = ready();
    let destroyed = fly_machine(json!({"id": "4d", "state": "destroyed"}));
    let going = fly_volume(json!({"id": "vol_a", "state": "pending_destroy"}));
    for (action, outcome) in [
        (Action::DeleteMachine, done()),
        (Action::ReadMachine, Outcome::Fly(Ok(Answer::Machine(Box::new(destroyed))))),
        (Action::DeleteVolume, done()),
        (Action::ReadVolume, Outcome::Fly(Ok(Answer::Volume(going)))),
        (Action::DeleteApp, done()),
        (Action::ReadApp, error(Fault::NotFound)),
    ] {
        if let Plan::Wait { until, .. } = decide(&record, NOW) {
            assert!(matches!(decide(&record, until), Plan::Do(next, _) if next == action), "{action:?}");
        } else {
            assert!(matches!(decide(&record, NOW), Plan::Do(next, _) if next == action), "{action:?}");
        }
        record = learn(&record, &action, outcome);
    }
    assert_eq!(decide(&record, NOW), Plan::Wait { until: purge_at, why: Waiting::Retention });
    assert_eq!(decide(&record, purge_at), Plan::Do(Action::PurgeData, Why::Deleted));
    let failed = learn(&record, &Action::PurgeData, Outcome::Local(Err(LocalFault)));
    assert!(!failed.purged);
    let purged = learn(&record, &Action::PurgeData, Outcome::Local(Ok(())));
    assert_eq!(decide(&purged, NOW), Plan::Done { settled: Settled::Deleted, until: None });
}

#[test]
fn a_machine_of_somebody_else_is_not_touched() {
    let foreign = fly_machine(
        json!({"id": "4d", "state": "started", "config": {"metadata": {"automna_user": "other"}}}),
    );
    let record = learn(&ready(), &Action::ReadMachine, &Outcome::Fly(Ok(Answer::Machine(Box::new(foreign)))));
    assert_eq!(decide(&record), Plan::NeedsAttention { cause: Cause::NameForeign, until: None });
}

#[test]
fn fly_has_moved_the_machine_to_another_volume_id() {
    let moved = fly_machine(json!({"id": "4d", "state": "stopped", "config": {
        "mounts": [{"volume": "vol_b", "path": "/data"}]}}));
    let record = learn(&ready(), &Action::ReadMachine, &Outcome::Fly(Ok(Answer::Machine(Box::new(moved)))));
    assert_eq!(record.volume.present().map(|volume| volume.id.as_str()), Some("vol_b"));
}

#[test]
fn a_thing_must_be_missed_twice() {
    let once = learn(&ready(), &Action::ReadMachine, &error(Fault::NotFound));
    assert!(once.machine.present().is_some());
    assert_eq!(decide(&once), Plan::Wait { until: NOW.plus_ms(LOOK_AGAIN_MS), why: Waiting::SecondLook });
    let twice = learn(&once, &Action::ReadMachine, &error(Fault::NotFound));
    assert_eq!(twice.machine, Knowledge::Absent);
}

#[test]
fn what_an_action_needs_must_be_known() {
    let refused = call(&setup(), &desired(), &Record::new(), &keys(), &Action::Start, NOW);
    assert_eq!(refused, Err(Refusal::NotKnown));
    let record = learn(&Record::new(), &Action::Start, &Outcome::Refused(Refusal::NotKnown));
    assert!(matches!(decide(&record), Plan::NeedsAttention { cause: Cause::NotFound, .. }));
}

#[test]
fn a_new_machine_knows_what_it_will_find() {
    for (content, heard, expected) in [
        (Content::Empty, false, "fresh"),
        (Content::Held, false, "fresh"),
        (Content::Held, true, "kept"),
        (Content::Awaited, false, "restore"),
    ] {
        let record = Record { content, heard, machine: Knowledge::Absent, ..with(MachineState::Started) };
        let performed = call(&setup(), &desired(), &record, &keys(), &Action::CreateMachine, NOW).unwrap();
        let Performed::ByFly(called) = performed else { panic!() };
        let Call::CreateMachine { new, .. } = *called else { panic!() };
        assert_eq!(new.config.env["AUTOMNA_VOLUME"], expected);
        assert_eq!(
            new.config.env["AUTOMNA_MACHINE_KEY"],
            keys().machine_key(&desired().user, Generation(1)).expose()
        );
        assert!(!format!("{new:?}").contains(&new.config.env["AUTOMNA_MACHINE_KEY"]));
    }
}

#[test]
fn the_stages_of_a_sign_up() {
    use MachineState as S;
    let empty = |r: &mut Record| r.content = Content::Empty;
    let rows = [
        (Record::new(), Stage::NotStarted),
        (Record { app: Knowledge::Absent, ..Record::new() }, Stage::CreatingApp),
        (Record { app: Knowledge::Present(HeldApp::default()), ..Record::new() }, Stage::AllocatingIps),
        (changed(changed(with(S::Created), empty), |r| r.volume = Knowledge::Absent), Stage::CreatingVolume),
        (changed(with(S::Created), |r| r.machine = Knowledge::Absent), Stage::CreatingMachine),
        (with(S::Starting), Stage::Starting),
        (with(S::Started), Stage::WaitingForGateway),
        (ready(), Stage::Ready),
        (changed(ready(), |r| r.content = Content::Awaited), Stage::Recovering),
    ];
    for (record, expected) in rows {
        assert_eq!(stage(&desired(), &record, NOW), expected);
    }
}

proptest! {
    /// Stored and read back is the same record, and the same plan.
    #[test]
    fn a_record_survives_storage(used in 0_u64..2 << 30, attempts: u32, at in 0_u64..1 << 40) {
        let record = changed(ready(), |r| {
            r.report.as_mut().unwrap().bytes_used = used;
            r.attempts = attempts;
            r.last_error = Some(ApiError { fault: Fault::HostFull, status: Some(412), text: "t".into(), request_id: None, retry_after_ms: None });
            r.lose(&Action::CreateVolume { region: "sjc".into() }, UnixMillis(at));
            r.sent = Some(super::record::Sent { action: Action::DeleteRetiredVolume(volume().id), at: UnixMillis(at) });
        });
        let text = serde_json::to_string(&record).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(decide(&read), decide(&record));
        prop_assert_eq!(read, record);
    }

    /// Whatever an action's outcome, data that was held is never called absent without a word of Fly's, and no plan
    /// makes an empty volume for it.
    #[test]
    fn no_fault_forgets_data(fault in 0_usize..20, action in 0_usize..14, rounds in 1_usize..4) {
        let faults = [
            Fault::NameTaken, Fault::MachineExists(None), Fault::NotFound, Fault::VolumeNotFound, Fault::RegionFull,
            Fault::HostFull, Fault::Quota, Fault::Blocked, Fault::Unauthorized, Fault::Forbidden, Fault::LeaseHeld,
            Fault::LeaseLost, Fault::Changed, Fault::VolumeInUse, Fault::NotYet, Fault::RateLimited,
            Fault::HostUnavailable, Fault::Rejected, Fault::NotSent, Fault::Unknown,
        ];
        let actions = [
            Action::ReadApp, Action::CreateApp, Action::ListAddresses, Action::ListVolumes, Action::ReadVolume,
            Action::ExtendVolume { size_gb: 2 }, Action::ListMachines, Action::CreateMachine, Action::ReadMachine,
            Action::Start, Action::Stop, Action::Restart, Action::Lease, Action::Update,
        ];
        let mut record = ready();
        for _ in 0..rounds {
            record = learn(&record, &actions[action], &error(faults[fault].clone()));
        }
        prop_assert_eq!(record.content, Content::Held);
        record.attention = None;
        record.not_before = NOW;
        let planned = decide(&record);
        let empty_volume = matches!(planned, Plan::Do(Action::CreateVolume { .. }, _));
        prop_assert!(!empty_volume, "{planned:?}");
    }
}
