use proptest::prelude::*;

use super::*;

const EXIT_0: Exit = Exit { code: Some(0), signal: None };
const EXIT_1: Exit = Exit { code: Some(1), signal: None };
const SIGKILL: Exit = Exit { code: None, signal: Some(9) };

fn exited(exit: Exit) -> Event {
    Event::Exited { exit, oom: Oom::No, refuses_config: false, jitter: 0 }
}

/// Plays `(seconds since the start, event, what is to be done)`; returns where that leads.
#[track_caller]
fn play(rows: &[(u64, Event, Option<Effect>)]) -> (Supervision, Instant) {
    let start = Instant::now();
    let mut at = Supervision::default();
    for (n, (seconds, event, expect)) in rows.iter().enumerate() {
        let (next, effect) = at.step(*event, start + Duration::from_secs(*seconds));
        assert_eq!(effect, *expect, "row {n}: {event:?} at {:?}", at.state());
        at = next;
    }
    (at, start)
}

#[test]
fn any_exit_is_followed_by_a_start_also_exit_0() {
    for exit in [EXIT_0, EXIT_1, Exit { code: Some(7), signal: None }, SIGKILL] {
        let (at, _) = play(&[
            (0, Event::Begin, Some(Effect::Spawn)),
            (4, Event::Ready, None),
            (10, exited(exit), None),
            (10, Event::Timer, None),
            (11, Event::Timer, Some(Effect::Spawn)),
        ]);
        assert_eq!(at.starts(), 2, "{exit:?}");
    }
}

#[test]
fn pauses_grow_to_30_s_and_a_minute_of_life_resets_them() {
    let mut now = Instant::now();
    let (mut at, _) = Supervision::default().step(Event::Begin, now);
    let mut pauses = Vec::new();
    for round in 0..8 {
        now += Duration::from_secs(if round == 7 { 60 } else { 1 });
        at = at.step(exited(SIGKILL), now).0;
        let until = at.deadline().unwrap();
        pauses.push((until - now).as_secs());
        now = until;
        let (next, effect) = at.step(Event::Timer, now);
        assert_eq!(effect, Some(Effect::Spawn));
        at = next;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 24, 24, 1]);
    assert_eq!(pause(u32::MAX, u8::MAX), Duration::from_millis(29_976));
}

#[test]
fn three_quick_configuration_failures_halt_until_something_changes() {
    let (halted, start) = play(&[
        (0, Event::Begin, Some(Effect::Spawn)),
        (2, exited(EXIT_1), None),
        (3, Event::Timer, Some(Effect::Spawn)),
        (5, exited(EXIT_1), None),
        (7, Event::Timer, Some(Effect::Spawn)),
        (9, exited(EXIT_1), None),
        (1000, Event::Timer, None),
    ]);
    assert_eq!((halted.state(), halted.deadline()), (State::Halted, None));
    let later = start + Duration::from_secs(2000);
    for event in [Event::ConfigChanged, Event::Restart] {
        let (again, effect) = halted.step(event, later);
        assert_eq!(effect, Some(Effect::Spawn), "{event:?}");
        let (waiting, _) = again.step(exited(EXIT_1), later + Duration::from_secs(1));
        assert!(matches!(waiting.state(), State::Waiting { .. }), "it counts from one again");
    }
    assert_eq!(halted.step(Event::Drain, later).0.state(), State::Ended);
}

#[test]
fn what_is_no_configuration_failure() {
    let rows = [
        ("it was ready", 3, true, EXIT_1),
        ("it took its time", 6, false, EXIT_1),
        ("another code", 2, false, Exit { code: Some(2), signal: None }),
        ("exit 0", 2, false, EXIT_0),
        ("a signal", 2, false, SIGKILL),
    ];
    for (what, up, ready, exit) in rows {
        let mut now = Instant::now();
        let (mut at, _) = Supervision::default().step(Event::Begin, now);
        for _ in 0..5 {
            if ready {
                at = at.step(Event::Ready, now).0;
            }
            at = at.step(exited(exit), now + Duration::from_secs(up)).0;
            assert!(matches!(at.state(), State::Waiting { .. }), "{what}");
            now = at.deadline().unwrap();
            at = at.step(Event::Timer, now).0;
        }
    }
}

#[test]
fn on_a_slow_processor_its_words_say_that_it_is_the_configuration() {
    let refuses = Event::Exited { exit: EXIT_1, oom: Oom::No, refuses_config: true, jitter: 0 };
    let (at, _) = play(&[
        (0, Event::Begin, Some(Effect::Spawn)),
        (40, refuses, None),
        (41, Event::Timer, Some(Effect::Spawn)),
        (90, refuses, None),
        (92, Event::Timer, Some(Effect::Spawn)),
        (140, refuses, None),
    ]);
    assert_eq!((at.state(), at.last_cause()), (State::Halted, Some(Cause::FailedAtStart)));
}

#[test]
fn a_restart_is_sigterm_then_sigkill_then_a_start_at_once() {
    let (at, start) = play(&[
        (0, Event::Begin, Some(Effect::Spawn)),
        (4, Event::Ready, None),
        (20, Event::Restart, Some(Effect::Terminate)),
        (25, Event::Timer, None),
        (26, Event::Timer, Some(Effect::Kill)),
        (27, exited(SIGKILL), Some(Effect::Spawn)),
    ]);
    assert_eq!((at.last_cause(), at.starts()), (Some(Cause::Restart), 2));
    let refused = at.may_restart(start + Duration::from_secs(28));
    assert_eq!(refused, Err(NoRestart::TooSoon { retry_after: Duration::from_secs(2) }));
    assert_eq!(at.may_restart(start + Duration::from_secs(30)), Ok(()));
}

#[test]
fn who_may_ask_for_a_restart_and_when() {
    let now = Instant::now();
    let idle = Supervision::default();
    assert_eq!(idle.may_restart(now), Err(NoRestart::Stopping));
    let starting = idle.step(Event::Begin, now).0;
    assert_eq!(starting.may_restart(now), Ok(()));
    let draining = starting.step(Event::Drain, now).0;
    assert_eq!(draining.may_restart(now), Err(NoRestart::Stopping));
    assert_eq!(draining.step(exited(EXIT_0), now).0.may_restart(now), Err(NoRestart::Stopping));
}

#[test]
fn a_silent_agent_is_killed_and_one_that_never_gets_ready_too() {
    let rows = [
        (&[(4, Event::Ready, None), (90, Event::Silent, Some(Effect::Kill))][..], Cause::Silent),
        (&[(179, Event::Timer, None), (180, Event::Timer, Some(Effect::Kill))][..], Cause::Silent),
    ];
    for (middle, cause) in rows {
        let mut all = vec![(0, Event::Begin, Some(Effect::Spawn))];
        all.extend_from_slice(middle);
        all.push((200, exited(SIGKILL), None));
        let (at, _) = play(&all);
        assert_eq!(at.last_cause(), Some(cause));
        assert!(matches!(at.state(), State::Waiting { .. }));
    }
    // While it starts, nobody expects its event loop to turn.
    play(&[(0, Event::Begin, Some(Effect::Spawn)), (100, Event::Silent, None)]);
}

#[test]
fn a_drain_ends_it_from_everywhere() {
    let (at, _) = play(&[
        (0, Event::Begin, Some(Effect::Spawn)),
        (5, Event::Drain, Some(Effect::Terminate)),
        (11, Event::Timer, Some(Effect::Kill)),
        (11, exited(SIGKILL), None),
    ]);
    assert_eq!((at.state(), at.last_cause()), (State::Ended, Some(Cause::Drain)));
    let (at, _) = play(&[
        (0, Event::Begin, Some(Effect::Spawn)),
        (5, Event::Restart, Some(Effect::Terminate)),
        (6, Event::Drain, None),
        (7, exited(EXIT_0), None),
    ]);
    assert_eq!(at.state(), State::Ended, "the restart that was under way is off");
}

#[test]
fn causes() {
    let rows = [
        (EXIT_0, Oom::Yes, Cause::Clean),
        (Exit { code: Some(2), signal: None }, Oom::No, Cause::Failed),
        (SIGKILL, Oom::Yes, Cause::OutOfMemory),
        (SIGKILL, Oom::Unknown, Cause::OutOfMemory),
        (SIGKILL, Oom::No, Cause::Signal),
        (Exit { code: None, signal: Some(6) }, Oom::Yes, Cause::OutOfMemory),
        (Exit { code: Some(134), signal: None }, Oom::Yes, Cause::OutOfMemory),
        (Exit { code: None, signal: Some(11) }, Oom::Unknown, Cause::Signal),
    ];
    for (exit, oom, cause) in rows {
        assert_eq!(cause_of(exit, oom), cause, "{exit:?} {oom:?}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Pass(u64),
    Ready,
    Silent,
    Exit(i32, u8),
    NotSpawned,
    Restart,
    ConfigChanged,
    Drain,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (0_u64..200).prop_map(Move::Pass),
        2 => Just(Move::Ready),
        1 => Just(Move::Silent),
        4 => (0..3, any::<u8>()).prop_map(|(code, jitter)| Move::Exit(code, jitter)),
        1 => Just(Move::NotSpawned),
        1 => Just(Move::Restart),
        1 => Just(Move::ConfigChanged),
        1 => Just(Move::Drain),
    ]
}

proptest! {
    #[test]
    fn at_most_one_process_and_always_a_way_on(moves in prop::collection::vec(moves(), 0..60)) {
        let mut now = Instant::now();
        let (mut at, effect) = Supervision::default().step(Event::Begin, now);
        prop_assert_eq!(effect, Some(Effect::Spawn));
        let (mut alive, mut draining) = (true, false);
        for step in moves {
            let event = match step {
                Move::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    Event::Timer
                }
                Move::Exit(code, jitter) if alive => {
                    alive = false;
                    let exit = Exit { code: Some(code), signal: None };
                    Event::Exited { exit, oom: Oom::Unknown, refuses_config: code == 1, jitter }
                }
                Move::NotSpawned if alive => {
                    alive = false;
                    Event::NotSpawned { jitter: 0 }
                }
                Move::Exit(..) | Move::NotSpawned => continue,
                Move::Ready if alive => Event::Ready,
                Move::Silent if alive => Event::Silent,
                Move::Ready | Move::Silent => continue,
                Move::Restart if at.may_restart(now).is_ok() => Event::Restart,
                Move::Restart => continue,
                Move::ConfigChanged => Event::ConfigChanged,
                Move::Drain => {
                    draining = true;
                    Event::Drain
                }
            };
            let (next, effect) = at.step(event, now);
            match effect {
                Some(Effect::Spawn) => {
                    prop_assert!(!alive, "a second process");
                    prop_assert!(!draining, "a start while the machine stops");
                    alive = true;
                }
                Some(Effect::Terminate | Effect::Kill) => prop_assert!(alive, "nobody to end"),
                None => {}
            }
            at = next;
            if let State::Waiting { until } = at.state() {
                let pause = until.saturating_duration_since(now);
                prop_assert!(pause <= BACKOFF_MAX);
            }
            // Whatever happened: there is a process to wait for, a time to wait for, or an end that was meant.
            let settled = matches!(at.state(), State::Halted | State::Ended);
            prop_assert!(alive || settled || at.deadline().is_some(), "stuck at {:?}", at.state());
            prop_assert!(!draining || alive || at.state() == State::Ended);
            prop_assert!(at.state() != State::Ended || (draining && !alive));
        }
    }
}
