//! What the sessions decide, step by step. Times are milliseconds since an arbitrary start; the session
//! is 3,000 and heartbeats come when a test says so.

use std::time::Duration;

use quorate_statemachine::{BrokerEpoch, BrokerId, BrokerSession as RegisteredBroker, Incarnation};
use uuid::Uuid;

use crate::sessions::{
    Alive, Beat, BeatFault, Duplicate, Flags, Heartbeat, Registered, Sessions, Transition,
};

const SESSION: Duration = Duration::from_millis(3_000);

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn incarnation(number: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(number))
}

fn active(epoch: u64) -> Registered {
    let (epoch, incarnation) = (BrokerEpoch(epoch), incarnation(u128::from(epoch)));
    Registered { epoch, incarnation, fenced: false, in_shutdown: false }
}

fn fenced(epoch: u64) -> Registered {
    Registered { fenced: true, ..active(epoch) }
}

fn leaving(epoch: u64) -> Registered {
    Registered { in_shutdown: true, ..active(epoch) }
}

fn brokers(rows: &[(u32, Registered)]) -> Vec<(BrokerId, Registered)> {
    rows.iter().map(|(id, registered)| (BrokerId(*id), *registered)).collect()
}

fn at_start(rows: &[(u32, Registered)]) -> Sessions {
    Sessions::new(SESSION, ms(0), 100, brokers(rows))
}

fn beat(broker: u32, epoch: u64, applied: u64) -> Heartbeat {
    let (broker, epoch) = (BrokerId(broker), BrokerEpoch(epoch));
    Heartbeat { broker, epoch, applied, want_fence: false, want_shutdown: false }
}

fn to(flags: Flags, broker: u32, epoch: u64) -> Transition {
    Transition { broker: BrokerId(broker), epoch: BrokerEpoch(epoch), to: flags }
}

/// Ticks as the driver does, and gathers what is to be proposed until `end`.
fn run(sessions: &mut Sessions, end: Duration) -> Vec<(u128, Transition)> {
    let mut proposed = Vec::new();
    while let Some(at) = sessions.wake_at().filter(|at| *at <= end) {
        proposed.extend(sessions.tick(at).into_iter().map(|it| (at.as_millis(), it)));
    }
    proposed
}

#[test]
fn trap_I20_a_new_leader_gives_every_unfenced_broker_a_whole_session() {
    // The node has been up for long; what counts is when it began to lead.
    let rows = brokers(&[(1, active(10)), (2, active(20)), (3, fenced(30))]);
    let mut sessions = Sessions::new(SESSION, ms(70_000), 100, rows);
    assert_eq!(run(&mut sessions, ms(72_999)), []);
    sessions.heartbeat(ms(72_999), beat(1, 10, 100)).unwrap();
    // The one that was not heard is fenced, by its epoch; the fenced one is nobody's business.
    assert_eq!(run(&mut sessions, ms(73_500)), [(73_000, to(Flags::Fenced, 2, 20))]);
}

#[test]
fn trap_I20_a_gap_between_the_leaders_own_ticks_restarts_the_timers() {
    let mut sessions = at_start(&[(1, active(10))]);
    assert_eq!(run(&mut sessions, ms(500)), []);
    // Stopped for a minute: the silence was the leader's own.
    assert_eq!(sessions.tick(ms(60_000)), []);
    assert_eq!(run(&mut sessions, ms(62_999)), []);
    assert_eq!(run(&mut sessions, ms(63_100)), [(63_000, to(Flags::Fenced, 1, 10))]);
}

#[test]
fn a_session_lives_on_heartbeats_and_ends_a_session_after_the_last() {
    let mut sessions = at_start(&[(1, active(10))]);
    for at in (500..=10_000).step_by(500) {
        assert_eq!(run(&mut sessions, ms(at)), []);
        let answer = sessions.heartbeat(ms(at), beat(1, 10, 100)).unwrap();
        let quiet = Beat {
            index: 100,
            fenced: false,
            in_shutdown: false,
            may_stop: false,
            transition: None,
        };
        assert_eq!(answer, quiet);
    }
    let fence = to(Flags::Fenced, 1, 10);
    assert_eq!(run(&mut sessions, ms(13_400)), [(13_000, fence)]);
    // While it is under way it is not proposed twice; when it failed, it is.
    sessions.settled(ms(13_450), fence, false);
    assert_eq!(run(&mut sessions, ms(14_100)), [(14_000, fence)]);
    sessions.sync(ms(14_100), 101, brokers(&[(1, fenced(10))]));
    sessions.settled(ms(14_100), fence, true);
    assert_eq!(sessions.wake_at(), None, "nobody is left to watch");
}

#[test]
fn a_broker_that_comes_back_before_it_was_fenced_is_not_fenced_again() {
    let mut sessions = at_start(&[(1, active(10))]);
    let fence = to(Flags::Fenced, 1, 10);
    assert_eq!(run(&mut sessions, ms(3_000)), [(3_000, fence)]);
    sessions.heartbeat(ms(3_010), beat(1, 10, 100)).unwrap();
    sessions.settled(ms(3_020), fence, false);
    assert_eq!(run(&mut sessions, ms(6_000)), []);
}

#[test]
fn a_fenced_broker_is_unfenced_when_it_has_caught_up_with_its_registration() {
    let mut sessions = at_start(&[(1, fenced(90))]);
    assert_eq!(sessions.heartbeat(ms(1), beat(1, 90, 89)).unwrap().transition, None);
    let wants_fence = Heartbeat { want_fence: true, ..beat(1, 90, 95) };
    assert_eq!(sessions.heartbeat(ms(2), wants_fence).unwrap().transition, None);
    let unfence = to(Flags::Unfenced, 1, 90);
    assert_eq!(sessions.heartbeat(ms(3), beat(1, 90, 90)).unwrap().transition, Some(unfence));
    assert_eq!(sessions.heartbeat(ms(4), beat(1, 90, 90)).unwrap().transition, None, "in flight");
    sessions.sync(ms(5), 101, brokers(&[(1, active(90))]));
    sessions.settled(ms(5), unfence, true);
    assert_eq!(
        sessions.heartbeat(ms(6), wants_fence).unwrap().transition,
        Some(to(Flags::Fenced, 1, 90))
    );
}

#[test]
fn heartbeats_of_another_registration_are_told_apart() {
    let mut sessions = at_start(&[(1, active(90))]);
    let stale = BeatFault::StaleEpoch { current: BrokerEpoch(90) };
    assert_eq!(sessions.heartbeat(ms(1), beat(1, 80, 100)), Err(stale));
    assert_eq!(sessions.heartbeat(ms(1), beat(2, 80, 100)), Err(BeatFault::NotRegistered));
    // Registered by a leader after this one: this one may not judge.
    assert_eq!(sessions.heartbeat(ms(1), beat(1, 101, 101)), Err(BeatFault::Behind));
    assert_eq!(sessions.heartbeat(ms(1), beat(2, 101, 101)), Err(BeatFault::Behind));
    // None of them kept the session alive.
    assert_eq!(run(&mut sessions, ms(3_000)), [(3_000, to(Flags::Fenced, 1, 90))]);
}

#[test]
fn a_shutdown_is_granted_when_every_active_broker_knows() {
    let mut sessions = at_start(&[(1, active(10)), (2, active(20)), (3, fenced(30))]);
    let wish = Heartbeat { want_shutdown: true, ..beat(1, 10, 100) };
    let begun = sessions.heartbeat(ms(10), wish).unwrap();
    let shut_down = to(Flags::InShutdown, 1, 10);
    assert_eq!((begun.may_stop, begun.transition), (false, Some(shut_down)));

    let rows = brokers(&[(1, leaving(10)), (2, active(20)), (3, fenced(30))]);
    sessions.sync(ms(20), 105, rows);
    sessions.settled(ms(20), shut_down, true);
    assert!(!sessions.heartbeat(ms(30), wish).unwrap().may_stop, "broker 2 is not heard yet");
    sessions.heartbeat(ms(40), beat(2, 20, 104)).unwrap();
    assert!(!sessions.heartbeat(ms(50), wish).unwrap().may_stop, "broker 2 is behind");
    sessions.heartbeat(ms(60), beat(2, 20, 105)).unwrap();
    let granted = sessions.heartbeat(ms(70), wish).unwrap();
    // It goes, so its flags show it; its id is free at once.
    let fence = to(Flags::Fenced, 1, 10);
    assert_eq!((granted.may_stop, granted.transition), (true, Some(fence)));
    assert_eq!(sessions.register(ms(71), BrokerId(1), incarnation(9)), Ok(BrokerEpoch(10)));

    let gone = Registered { fenced: true, ..leaving(10) };
    sessions.sync(ms(80), 106, brokers(&[(1, gone), (2, active(20))]));
    sessions.settled(ms(80), fence, true);
    // The answer was lost and it asks again.
    let again = sessions.heartbeat(ms(90), wish).unwrap();
    assert_eq!((again.may_stop, again.transition), (true, None));
    // Whoever changes its mind stays where it is.
    assert_eq!(sessions.heartbeat(ms(95), beat(1, 10, 106)).unwrap().transition, None);
}

#[test]
fn a_shutdown_is_not_granted_while_an_unfence_is_on_its_way() {
    let mut sessions = at_start(&[(1, fenced(90))]);
    let unfence = to(Flags::Unfenced, 1, 90);
    assert_eq!(sessions.heartbeat(ms(1), beat(1, 90, 90)).unwrap().transition, Some(unfence));
    let wish = Heartbeat { want_shutdown: true, ..beat(1, 90, 90) };
    let asked = sessions.heartbeat(ms(2), wish).unwrap();
    assert_eq!((asked.may_stop, asked.transition), (false, None), "it would be unfenced when gone");
    sessions.sync(ms(5), 101, brokers(&[(1, active(90))]));
    sessions.settled(ms(5), unfence, true);
    let begun = sessions.heartbeat(ms(6), wish).unwrap();
    let shut_down = to(Flags::InShutdown, 1, 90);
    assert_eq!((begun.may_stop, begun.transition), (false, Some(shut_down)));
}

#[test]
fn a_shutdown_that_began_under_another_leader_is_granted_too() {
    let mut sessions = at_start(&[(1, leaving(10)), (2, active(20))]);
    let wish = Heartbeat { want_shutdown: true, ..beat(1, 10, 100) };
    sessions.heartbeat(ms(10), beat(2, 20, 99)).unwrap();
    assert!(!sessions.heartbeat(ms(10), wish).unwrap().may_stop);
    sessions.heartbeat(ms(20), beat(2, 20, 100)).unwrap();
    assert!(sessions.heartbeat(ms(30), wish).unwrap().may_stop);
}

#[test]
fn a_live_session_keeps_other_incarnations_out() {
    let mut sessions = at_start(&[(1, active(10)), (2, fenced(20))]);
    let newcomer = incarnation(77);
    assert_eq!(
        sessions.register(ms(1_000), BrokerId(1), newcomer),
        Err(Duplicate { ends_in: ms(2_000) })
    );
    // The same incarnation amends; a fenced broker that was not heard has no session.
    assert_eq!(sessions.register(ms(1_000), BrokerId(1), incarnation(10)), Ok(BrokerEpoch(10)));
    // Tried again, it is on its way until both have ended.
    assert_eq!(sessions.register(ms(1_000), BrokerId(1), incarnation(10)), Ok(BrokerEpoch(10)));
    sessions.registered(BrokerId(1), incarnation(10));
    sessions.registered(BrokerId(1), incarnation(11));
    let alive = Err(Alive { ends_in: SESSION });
    assert_eq!(sessions.unregister(ms(9_000), BrokerId(1), None), alive);
    sessions.registered(BrokerId(1), incarnation(10));
    assert_eq!(sessions.register(ms(1_000), BrokerId(2), newcomer), Ok(BrokerEpoch(20)));
    // One at a time.
    let racing = Err(Duplicate { ends_in: SESSION });
    assert_eq!(sessions.register(ms(1_001), BrokerId(2), incarnation(78)), racing);
    sessions.registered(BrokerId(2), newcomer);
    // Registered, so its session has begun, before its first heartbeat.
    let registered = Registered { incarnation: newcomer, ..fenced(110) };
    sessions.sync(ms(1_010), 110, brokers(&[(1, active(10)), (2, registered)]));
    let refused = sessions.register(ms(2_010), BrokerId(2), incarnation(78));
    assert_eq!(refused, Err(Duplicate { ends_in: ms(2_000) }));
    assert_eq!(sessions.register(ms(4_010), BrokerId(2), incarnation(78)), Ok(BrokerEpoch(110)));
}

#[test]
fn a_fence_names_the_registration_that_was_silent() {
    let mut sessions = at_start(&[(1, active(10))]);
    let fence = to(Flags::Fenced, 1, 10);
    assert_eq!(run(&mut sessions, ms(3_000)), [(3_000, fence)]);
    // Registered anew before the fence got through: what becomes of it says nothing about this one.
    sessions.sync(ms(3_010), 120, brokers(&[(1, active(120))]));
    sessions.settled(ms(3_020), fence, false);
    assert_eq!(run(&mut sessions, ms(6_009)), []);
    assert_eq!(run(&mut sessions, ms(6_010)), [(6_010, to(Flags::Fenced, 1, 120))]);
}

/// To see it fail: look at the flag alone, or at the session alone.
#[test]
fn only_who_has_stopped_is_unregistered() {
    let rows = [(1, active(10)), (2, fenced(20)), (3, leaving(30)), (4, fenced(40))];
    let mut sessions = at_start(&rows);
    let alive = |ends_in| Err(Alive { ends_in: ms(ends_in) });
    let asked = |sessions: &mut Sessions, at| {
        [1, 2, 3, 4, 9].map(|broker| {
            let may = sessions.unregister(ms(at), BrokerId(broker), None);
            if may.is_ok() {
                sessions.unregistered(BrokerId(broker));
            }
            may
        })
    };
    let of = |epoch| Ok(BrokerEpoch(epoch));
    let nobody = [alive(2_000), alive(2_000), alive(2_000), alive(2_000), of(0)];
    assert_eq!(asked(&mut sessions, 1_000), nobody, "a new leader waits for a whole session");
    // Fenced, and alive; and one that comes back as another process.
    sessions.heartbeat(ms(1_000), Heartbeat { want_fence: true, ..beat(2, 20, 100) }).unwrap();
    sessions.register(ms(1_000), BrokerId(4), incarnation(44)).unwrap();
    let more = [alive(2_000), alive(3_000), alive(2_000), alive(3_000), of(0)];
    assert_eq!(asked(&mut sessions, 1_000), more);
    sessions.registered(BrokerId(4), incarnation(44));

    // Its session has ended, and it is not fenced yet; or it was let go in order.
    let fences = [(3_000, to(Flags::Fenced, 1, 10)), (3_000, to(Flags::Fenced, 3, 30))];
    assert_eq!(run(&mut sessions, ms(3_000)), fences);
    let owed = [alive(100), alive(1_000), of(30), of(40), of(0)];
    assert_eq!(asked(&mut sessions, 3_000), owed);
    sessions.sync(ms(3_001), 101, brokers(&[(1, fenced(10)), (2, fenced(20)), (4, fenced(41))]));
    // One is gone, and one has registered anew.
    assert_eq!(asked(&mut sessions, 4_000), [of(10), of(20), of(0), alive(2_001), of(0)]);
    assert_eq!(asked(&mut sessions, 6_001), [of(10), of(20), of(0), of(41), of(0)]);
}

/// To see it fail: ask of the process that is registered now whatever was meant.
#[test]
fn a_registration_that_is_over_is_refused_by_the_log_and_not_for_the_process_behind_the_next_one() {
    let mut sessions = at_start(&[(1, active(50))]);
    let (one, alive) = (BrokerId(1), Err(Alive { ends_in: SESSION }));
    let mut asked = |meant: u64| sessions.unregister(ms(0), one, Some(BrokerEpoch(meant)));
    for over in [0, 49, 51, 100] {
        assert_eq!(asked(over), Ok(BrokerEpoch(over)));
    }
    assert_eq!(asked(50), alive);
    assert_eq!(asked(101), alive, "it may be one that this leader has yet to hear of");
    assert_eq!(sessions.unregister(ms(0), one, None), alive);
    // Whoever is registering has an epoch to come.
    let two = BrokerId(2);
    sessions.register(ms(0), two, incarnation(2)).unwrap();
    assert_eq!(sessions.unregister(ms(0), two, Some(BrokerEpoch(20))), Ok(BrokerEpoch(20)));
    assert_eq!(sessions.unregister(ms(0), two, Some(BrokerEpoch(101))), alive);
    assert_eq!(sessions.unregister(ms(0), two, None), alive);
}

/// In the log the registration may come first, and one of the same incarnation keeps its epoch. To see it fail: let
/// `Sessions::register` not look at `unregistering`.
#[test]
fn nobody_registers_as_a_broker_that_is_being_unregistered() {
    let mut sessions = at_start(&[(1, fenced(10)), (2, fenced(20))]);
    let (one, two) = (BrokerId(1), BrokerId(2));
    // Twice, for the first answer was lost.
    assert_eq!(sessions.unregister(ms(3_000), one, None), Ok(BrokerEpoch(10)));
    assert_eq!(sessions.unregister(ms(3_001), one, None), Ok(BrokerEpoch(10)));
    let later = Err(Duplicate { ends_in: ms(100) });
    for who in [10, 11] {
        assert_eq!(sessions.register(ms(3_002), one, incarnation(who)), later);
    }
    assert_eq!(
        sessions.register(ms(3_002), two, incarnation(22)),
        Ok(BrokerEpoch(20)),
        "another broker"
    );
    sessions.unregistered(one);
    assert_eq!(sessions.register(ms(3_003), one, incarnation(11)), later, "one is under way");
    sessions.unregistered(one);
    assert_eq!(sessions.register(ms(3_004), one, incarnation(11)), Ok(BrokerEpoch(10)));
    // And the other way round.
    assert_eq!(sessions.unregister(ms(3_005), one, None), Err(Alive { ends_in: SESSION }));
}

fn gone(broker: u32, epoch: u64) -> RegisteredBroker {
    RegisteredBroker { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) }
}

#[test]
fn trap_R16_a_broker_whose_process_is_gone_is_fenced_at_once_and_once_in_a_registration() {
    let mut sessions = at_start(&[(1, active(10)), (2, active(20))]);
    assert_eq!(sessions.depart(ms(1), gone(1, 9)), None, "another registration");
    assert_eq!(sessions.depart(ms(1), gone(3, 10)), None, "nobody");
    let fence = to(Flags::Fenced, 1, 10);
    assert_eq!(sessions.depart(ms(1), gone(1, 10)), Some(fence));
    assert_eq!(
        sessions.register(ms(2), BrokerId(1), incarnation(99)),
        Ok(BrokerEpoch(10)),
        "its id is free"
    );
    // What could not be proposed is proposed again, without another word of it.
    sessions.settled(ms(3), fence, false);
    assert_eq!(run(&mut sessions, ms(600)), [(500, fence)]);
    sessions.sync(ms(601), 101, brokers(&[(1, fenced(10)), (2, active(20))]));
    sessions.settled(ms(601), fence, true);

    // It lives: its next heartbeat brings it back, and it is not doubted twice.
    let back = sessions.heartbeat(ms(700), beat(1, 10, 101)).unwrap();
    let unfence = to(Flags::Unfenced, 1, 10);
    assert_eq!(back.transition, Some(unfence));
    sessions.sync(ms(701), 102, brokers(&[(1, active(10)), (2, active(20))]));
    sessions.settled(ms(701), unfence, true);
    assert_eq!(sessions.depart(ms(702), gone(1, 10)), None);
    sessions.heartbeat(ms(2_900), beat(2, 20, 102)).unwrap();
    assert_eq!(run(&mut sessions, ms(3_600)), [], "a whole session from its heartbeat");
    // Its next process can go as well.
    sessions.sync(ms(3_601), 110, brokers(&[(1, active(110)), (2, active(20))]));
    assert_eq!(sessions.depart(ms(3_602), gone(1, 110)), Some(to(Flags::Fenced, 1, 110)));
}

#[test]
fn trap_R16_a_fence_waits_for_a_transition_that_is_on_its_way() {
    let mut sessions = at_start(&[(1, fenced(90))]);
    let unfence = to(Flags::Unfenced, 1, 90);
    assert_eq!(sessions.heartbeat(ms(1), beat(1, 90, 90)).unwrap().transition, Some(unfence));
    assert_eq!(sessions.depart(ms(2), gone(1, 90)), None);
    sessions.settled(ms(3), unfence, false);
    assert_eq!(run(&mut sessions, ms(600)), [], "it is fenced still");
    assert_eq!(sessions.register(ms(601), BrokerId(1), incarnation(9)), Ok(BrokerEpoch(90)));
    // One that came about all the same is taken back, without a whole session in between.
    let unfence = to(Flags::Unfenced, 1, 95);
    sessions.sync(ms(700), 101, brokers(&[(1, fenced(95))]));
    assert_eq!(sessions.heartbeat(ms(701), beat(1, 95, 101)).unwrap().transition, Some(unfence));
    assert_eq!(sessions.depart(ms(702), gone(1, 95)), None);
    sessions.sync(ms(703), 102, brokers(&[(1, active(95))]));
    sessions.settled(ms(703), unfence, true);
    assert_eq!(run(&mut sessions, ms(1_300)), [(1_203, to(Flags::Fenced, 1, 95))]);
}

#[test]
fn an_older_image_changes_nothing() {
    let mut sessions = at_start(&[(1, active(10))]);
    sessions.sync(ms(1), 99, brokers(&[]));
    assert!(sessions.heartbeat(ms(2), beat(1, 10, 100)).is_ok());
    sessions.sync(ms(3), 101, brokers(&[]));
    assert_eq!(sessions.heartbeat(ms(4), beat(1, 10, 101)), Err(BeatFault::NotRegistered));
}
