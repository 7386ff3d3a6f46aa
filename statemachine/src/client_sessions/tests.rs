use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn id(session: u64, sequence: u64, lowest_unfinished: u64) -> CommandId {
    CommandId { session, sequence, lowest_unfinished }
}

/// As an apply thread does: the outcome of the command at `index` is `outcome`, if it is applied there.
fn run(
    table: &mut ClientSessions,
    index: u64,
    id: CommandId,
    outcome: Bytes,
) -> Result<(u64, Bytes), SessionError> {
    match table.admit(index, &id)? {
        Admission::Apply => {
            table.keep(index, &id, outcome.clone());
            Ok((index, outcome))
        }
        Admission::Applied { index, outcome } => Ok((index, outcome)),
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn written(table: &ClientSessions) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.write_snapshot(&mut bytes).unwrap();
    bytes
}

fn restored(bytes: &[u8]) -> Result<ClientSessions, RestoreError> {
    let mut bytes = bytes;
    let (table, mut rest) = ClientSessions::read_snapshot(&mut bytes)?;
    let mut none = Vec::new();
    rest.read_to_end(&mut none)?;
    assert_eq!(none, Vec::<u8>::new());
    Ok(table)
}

#[test]
fn a_retry_is_given_the_first_outcome_and_is_not_applied() {
    let mut table = ClientSessions::default();
    table.open(5);
    assert_eq!(run(&mut table, 6, id(5, 1, 1), text("first")), Ok((6, text("first"))));
    assert_eq!(run(&mut table, 7, id(5, 1, 1), text("second")), Ok((6, text("first"))));
    // Of another session it is another command.
    table.open(8);
    assert_eq!(run(&mut table, 9, id(8, 1, 1), text("third")), Ok((9, text("third"))));
}

#[test]
fn commands_that_overtake_one_another_are_each_applied_once() {
    let mut table = ClientSessions::default();
    table.open(1);
    for (index, sequence) in [(2, 3), (3, 1), (4, 2)] {
        assert_eq!(
            run(&mut table, index, id(1, sequence, 1), text("once")),
            Ok((index, text("once")))
        );
    }
    for (index, sequence, first) in [(5, 1, 3), (6, 2, 4), (7, 3, 2)] {
        let again = run(&mut table, index, id(1, sequence, 1), text("twice"));
        assert_eq!(again, Ok((first, text("once"))), "sequence {sequence}");
    }
}

#[test]
fn below_the_mark_nothing_is_ever_applied_and_the_mark_never_falls() {
    let mut table = ClientSessions::default();
    table.open(1);
    assert_eq!(run(&mut table, 2, id(1, 5, 5), text("five")), Ok((2, text("five"))));
    // Given up by its client, and late: it was never applied, and will not be.
    for mark in [1, 4, 5] {
        assert_eq!(run(&mut table, 3, id(1, 4, mark), text("late")), Err(SessionError::Finished));
    }
    assert_eq!(run(&mut table, 4, id(1, 5, 1), text("again")), Ok((2, text("five"))));
    assert_eq!(run(&mut table, 5, id(1, 6, 6), text("six")), Ok((5, text("six"))));
    assert_eq!(run(&mut table, 6, id(1, 5, 5), text("again")), Err(SessionError::Finished));
    // One that says of itself that it is finished.
    assert_eq!(run(&mut table, 7, id(1, 7, 8), text("odd")), Err(SessionError::Finished));
}

#[test]
fn what_is_beyond_the_window_is_rejected_until_the_mark_has_grown() {
    let mut table = ClientSessions::default();
    table.open(1);
    let last = 10 + WINDOW - 1;
    assert_eq!(run(&mut table, 2, id(1, last, 10), text("in")), Ok((2, text("in"))));
    let beyond = run(&mut table, 3, id(1, last + 1, 10), text("out"));
    assert_eq!(beyond, Err(SessionError::BeyondWindow));
    assert_eq!(run(&mut table, 4, id(1, last + 1, 11), text("in")), Ok((4, text("in"))));
    let far = run(&mut table, 5, id(1, u64::MAX, 11), text("out"));
    assert_eq!(far, Err(SessionError::BeyondWindow));
    let end = run(&mut table, 6, id(1, u64::MAX, u64::MAX), text("end"));
    assert_eq!(end, Ok((6, text("end"))), "the last number there is");
    assert_eq!(restored(&written(&table)).unwrap(), table);
}

#[test]
fn who_was_never_there_or_is_gone_is_expired() {
    let mut table = ClientSessions::default();
    table.open(1);
    assert_eq!(table.admit(2, &id(2, 1, 1)), Err(SessionError::Expired));
    table.close(1);
    table.close(1);
    assert_eq!(table.admit(3, &id(1, 1, 1)), Err(SessionError::Expired));
    assert_eq!(table, ClientSessions::default());
}

#[test]
fn one_session_too_many_expires_the_one_that_was_not_used_for_longest() {
    let mut table = ClientSessions::default();
    let max = SESSIONS_MAX as u64;
    for index in 1..=max {
        table.open(index);
    }
    // The first is in use again, with a command that is not even applied.
    assert_eq!(table.admit(max + 1, &id(1, WINDOW, 0)), Err(SessionError::BeyondWindow));
    table.open(max + 2);
    assert_eq!(table.sessions.len(), SESSIONS_MAX);
    assert_eq!(table.admit(max + 3, &id(2, 1, 1)), Err(SessionError::Expired));
    for session in [1, 3, max + 2] {
        assert_eq!(table.admit(max + 3 + session, &id(session, 1, 1)), Ok(Admission::Apply));
    }
}

#[test]
fn a_session_with_too_many_outcomes_has_to_finish_the_first_ones() {
    let mut table = ClientSessions::default();
    table.open(1);
    let long = Bytes::from(vec![7; OUTCOME_BYTES_MAX]);
    for sequence in 1..=4 {
        assert_eq!(
            run(&mut table, 1 + sequence, id(1, sequence, 1), long.clone()).unwrap().0,
            1 + sequence
        );
    }
    assert_eq!(run(&mut table, 6, id(1, 5, 1), text("more")), Err(SessionError::Full));
    assert_eq!(run(&mut table, 7, id(1, 4, 1), text("more")), Ok((5, long)), "it has that one");
    assert_eq!(run(&mut table, 8, id(1, 5, 2), text("more")), Ok((8, text("more"))));
}

#[test]
fn an_outcome_that_is_too_long_is_not_kept_and_its_command_not_repeated() {
    let mut table = ClientSessions::default();
    table.open(1);
    let longer = Bytes::from(vec![7; OUTCOME_BYTES_MAX + 1]);
    assert_eq!(run(&mut table, 2, id(1, 1, 1), longer.clone()), Ok((2, longer)));
    assert_eq!(run(&mut table, 3, id(1, 1, 1), text("again")), Err(SessionError::OutcomeNotKept));
    assert_eq!(restored(&written(&table)).unwrap(), table);
}

#[test]
fn too_many_bytes_expire_others_and_never_whoever_brings_them() {
    let mut table = ClientSessions::default();
    let long = Bytes::from(vec![7; OUTCOME_BYTES_MAX]);
    let mut index = 0;
    // Each holds as much as one session may: more than all may hold together.
    let sessions = 2 * (SESSIONS_BYTES_MAX / SESSION_BYTES_MAX);
    for _ in 0..sessions {
        index += 1;
        let session = index;
        table.open(session);
        for sequence in 1..=4 {
            index += 1;
            assert_eq!(
                run(&mut table, index, id(session, sequence, 1), long.clone()).unwrap().0,
                index
            );
        }
        assert!(table.bytes <= SESSIONS_BYTES_MAX, "{} bytes", table.bytes);
        assert!(table.sessions.contains_key(&session));
    }
    assert!(
        table.sessions.len() < sessions && table.sessions.len() > sessions / 3,
        "{} are left",
        table.sessions.len()
    );
    assert_eq!(restored(&written(&table)).unwrap(), table);
}

#[test]
fn an_image_stays_as_it_was() {
    let mut table = ClientSessions::default();
    table.open(1);
    run(&mut table, 2, id(1, 1, 1), text("one")).unwrap();
    let (image, bytes) = (table.clone(), written(&table));
    run(&mut table, 3, id(1, 2, 2), text("two")).unwrap();
    table.close(1);
    assert_eq!(written(&image), bytes);
    assert_ne!(written(&table), bytes);
}

/// The bytes on disk, as docs/format.md tells them.
#[test]
fn the_bytes_of_a_table_never_change() {
    let mut table = ClientSessions::default();
    assert_eq!(written(&table), b"QSES\x01\0\0\0\0\0");
    table.open(3);
    run(&mut table, 4, id(3, 1, 1), text("ok")).unwrap();
    let longer = Bytes::from(vec![7; OUTCOME_BYTES_MAX + 1]);
    run(&mut table, 5, id(3, 2, 1), longer).unwrap();
    let session = b"\x0a\x16\x08\x03\x10\x01\x18\x05\x22\x08\x08\x01\x10\x04\x1a\x02ok\x22\x04\x08\x02\x10\x05";
    let expected = [&b"QSES\x01\0\x18\0\0\0"[..], session].concat();
    assert_eq!(written(&table), expected);
    assert_eq!(restored(&expected).unwrap(), table);
}

#[test]
fn a_snapshot_from_before_there_were_sessions_has_none() {
    for old in [&b""[..], b"QSE", b"\x02\x08\x01\x02\x10\0 and more than ten bytes"] {
        let mut bytes = old;
        let (table, mut rest) = ClientSessions::read_snapshot(&mut bytes).unwrap();
        let mut state = Vec::new();
        rest.read_to_end(&mut state).unwrap();
        assert_eq!((table, state.as_slice()), (ClientSessions::default(), old));
    }
}

#[test]
fn what_follows_the_table_is_left_to_the_state_machine() {
    let mut table = ClientSessions::default();
    table.open(3);
    let bytes = [written(&table), b"state".to_vec()].concat();
    let mut stream = bytes.as_slice();
    let (again, mut rest) = ClientSessions::read_snapshot(&mut stream).unwrap();
    let mut state = Vec::new();
    rest.read_to_end(&mut state).unwrap();
    assert_eq!((again, state.as_slice()), (table, &b"state"[..]));
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let table = |sessions: &[SessionWire]| {
        let body = TableWire { sessions: sessions.to_vec() }.encode_to_vec();
        let len = (body.len() as u32).to_le_bytes();
        restored(&[&b"QSES\x01\0"[..], &len, &body].concat())
    };
    let session = |id, mark, used, applied: &[(u64, u64)]| SessionWire {
        id,
        mark,
        used,
        applied: applied
            .iter()
            .map(|&(sequence, index)| AppliedWire { sequence, index, outcome: Some(text("ok")) })
            .collect(),
    };
    assert_eq!(
        table(&[session(3, 2, 9, &[(2, 4), (3, 9)]), session(4, 0, 8, &[])])
            .unwrap()
            .sessions
            .len(),
        2
    );
    for (bad, what) in [
        (vec![session(0, 0, 1, &[])], "an id that no entry has"),
        (vec![session(4, 0, 4, &[]), session(3, 0, 5, &[])], "not by id"),
        (vec![session(4, 0, 4, &[]), session(4, 0, 5, &[])], "an id twice"),
        (vec![session(4, 0, 3, &[])], "used before it was opened"),
        (vec![session(3, 0, 5, &[]), session(4, 0, 5, &[])], "used by one entry"),
        (vec![session(3, 2, 9, &[(1, 4)])], "below the mark"),
        (vec![session(3, 2, 9, &[(2 + WINDOW, 4)])], "beyond the window"),
        (vec![session(3, 2, 9, &[(3, 4), (2, 5)])], "not by sequence"),
        (vec![session(3, 2, 9, &[(2, 4), (2, 5)])], "a sequence twice"),
        (vec![session(3, 2, 9, &[(2, 10)])], "applied after its last entry"),
        (vec![session(3, 2, 9, &[(2, 2)])], "applied before it was opened"),
    ] {
        assert!(matches!(table(&bad), Err(RestoreError::Malformed { .. })), "{what}");
    }
    let many: Vec<_> = (1..=SESSIONS_MAX as u64 + 1).map(|id| session(id, 0, id, &[])).collect();
    assert!(matches!(table(&many), Err(RestoreError::Malformed { .. })));
    let later = restored(b"QSES\x02\0\0\0\0\0");
    assert!(matches!(later, Err(RestoreError::Unknown { .. })));
    let unknown_field = restored(b"QSES\x01\0\x02\0\0\0\x10\x01");
    assert!(matches!(unknown_field, Err(RestoreError::Unknown { .. })));
    let huge = restored(b"QSES\x01\0\0\0\0\xff");
    assert!(matches!(huge, Err(RestoreError::RecordTooLong { .. })));
    for cut in [&b"QSES"[..], b"QSES\x01\0\0\0\0", b"QSES\x01\0\x02\0\0\0\x0a"] {
        assert!(matches!(restored(cut), Err(RestoreError::Truncated { .. })), "{cut:?}");
    }
}

/// An entry of the log, as a random history has it.
#[derive(Debug, Clone)]
enum Act {
    Open,
    /// A command of one of the sessions that were ever opened, around its mark; the client's mark goes up
    /// by so much.
    Command {
        session: prop::sample::Index,
        ahead: u64,
        finishes: u64,
        bytes: usize,
    },
    Close(prop::sample::Index),
    /// A replica goes on from a snapshot.
    Restore,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Open),
        30 => (any::<prop::sample::Index>(), 0..8u64, 0..3u64, 0..64usize)
            .prop_map(|(session, ahead, finishes, bytes)| Act::Command { session, ahead, finishes, bytes }),
        2 => (any::<prop::sample::Index>(), WINDOW - 2..WINDOW + 3, 0..2u64, 0..64usize)
            .prop_map(|(session, ahead, finishes, bytes)| Act::Command { session, ahead, finishes, bytes }),
        1 => any::<prop::sample::Index>().prop_map(Act::Close),
        1 => Just(Act::Restore),
    ]
}

/// What a session must do, remembered without any bound.
#[derive(Default)]
struct Model {
    open: BTreeSet<u64>,
    marks: BTreeMap<u64, u64>,
    outcomes: BTreeMap<(u64, u64), (u64, Bytes)>,
}

impl Model {
    fn expected(
        &mut self,
        index: u64,
        id: CommandId,
        outcome: &Bytes,
    ) -> Result<(u64, Bytes), SessionError> {
        if !self.open.contains(&id.session) {
            return Err(SessionError::Expired);
        }
        let mark = self.marks.entry(id.session).or_default();
        *mark = (*mark).max(id.lowest_unfinished);
        match self.outcomes.get(&(id.session, id.sequence)) {
            _ if id.sequence < *mark => Err(SessionError::Finished),
            Some(before) => Ok(before.clone()),
            None if id.sequence >= *mark + WINDOW => Err(SessionError::BeyondWindow),
            None => {
                let done = (index, outcome.clone());
                self.outcomes.insert((id.session, id.sequence), done.clone());
                Ok(done)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Any order of commands, retries, marks and closings, with snapshots in between: the table says what a
    /// model says that forgets nothing, no command is applied twice, and whoever goes on from a snapshot
    /// holds the same bytes.
    #[test]
    fn a_table_says_what_one_without_bounds_says(acts in prop::collection::vec(act(), 1..300)) {
        let mut table = ClientSessions::default();
        let mut follower = ClientSessions::default();
        let mut model = Model::default();
        let mut ever = vec![1];
        let mut applied = BTreeSet::new();
        table.open(1);
        follower.open(1);
        model.open.insert(1);
        for (index, act) in (2..).zip(acts) {
            match act {
                Act::Open => {
                    table.open(index);
                    follower.open(index);
                    model.open.insert(index);
                    ever.push(index);
                }
                Act::Close(session) => {
                    let session = *session.get(&ever);
                    table.close(session);
                    follower.close(session);
                    model.open.remove(&session);
                }
                Act::Command { session, ahead, finishes, bytes } => {
                    let session = *session.get(&ever);
                    let mark = model.marks.get(&session).copied().unwrap_or(0);
                    let id = id(session, (mark + ahead).saturating_sub(2), (mark + finishes).saturating_sub(1));
                    let outcome = Bytes::from(vec![index as u8; bytes]);
                    let told = run(&mut table, index, id, outcome.clone());
                    prop_assert_eq!(&told, &model.expected(index, id, &outcome), "{:?} at {}", id, index);
                    prop_assert_eq!(&told, &run(&mut follower, index, id, outcome));
                    if matches!(told, Ok((at, _)) if at == index) {
                        prop_assert!(applied.insert((session, id.sequence)), "{:?} was applied twice", id);
                    }
                }
                Act::Restore => follower = restored(&written(&table)).unwrap(),
            }
            prop_assert_eq!(table.sessions.len(), model.open.len());
            let bytes: usize = table.sessions.values().map(|session| session.bytes).sum();
            prop_assert_eq!(table.bytes, bytes);
        }
        prop_assert_eq!(&table, &follower);
        prop_assert_eq!(written(&table), written(&follower));
        prop_assert!(written(&table).len() <= HEAD_BYTES + table.bytes, "a snapshot takes more than is counted");
    }

    #[test]
    fn no_bytes_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let len = (body.len() as u32).to_le_bytes();
        let _ = restored(&[&b"QSES\x01\0"[..], &len, &body].concat());
    }
}
