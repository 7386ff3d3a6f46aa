use super::*;
use crate::testing::{entries, entry, hard_state, one, two};

fn record(truncated: u64, snapshot: u64, last: LogId) -> GroupRecord {
    GroupRecord {
        hard_state: hard_state(9, 1, snapshot),
        truncated: LogId::new(truncated, 1),
        last,
        snapshot: LogId::new(snapshot, 1),
    }
}

fn write(number: u64, entries: Vec<Entry>, record: GroupRecord) -> GroupWrite {
    GroupWrite { group: one(), number, entries, record, install: false, genesis: None }
}

/// A disk that holds (5, 20] of group 1.
fn disk() -> BTreeMap<GroupId, OnDisk> {
    let last = LogId::new(20, 1);
    let on_disk = OnDisk { truncated: 5, last, number: Some(7), ..OnDisk::default() };
    BTreeMap::from([(one(), on_disk)])
}

fn plan(writes: Vec<GroupWrite>) -> Result<Merged, WriteError> {
    Ok(whole_plan(writes)?.groups.pop().unwrap().1)
}

fn whole_plan(writes: Vec<GroupWrite>) -> Result<Plan, WriteError> {
    let mut plan = Plan::default();
    plan.merge(writes, &disk())?;
    Ok(plan)
}

fn at(index: u64, term: u64) -> LogId {
    LogId::new(index, term)
}

/// To see it fail: take the check out of `Merged::append`.
#[test]
fn trap_E04_entries_that_do_not_follow_are_refused() {
    let cases = [
        (entries(22..=23, 1), 22),
        (entries(5..=30, 1), 5),
        (vec![entry(21, 1), entry(23, 1)], 23),
        (vec![entry(21, 1), entry(21, 1)], 21),
    ];
    for (entries, expected) in cases {
        let last = entries.last().map(|e| at(e.index, e.term)).unwrap();
        let error = plan(vec![write(8, entries, record(5, 6, last))]).unwrap_err();
        let WriteError::NotContiguous { found, truncated: 5, last: 20, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(found, expected);
    }
    // Across the writes of one round, too.
    let error = plan(vec![
        write(8, vec![entry(9, 2)], record(5, 6, at(9, 2))),
        write(9, vec![entry(11, 2)], record(5, 6, at(11, 2))),
    ]);
    assert!(matches!(error, Err(WriteError::NotContiguous { found: 11, last: 9, .. })));
}

/// To see it fail: take the check of the record out of `Merged::add`.
#[test]
fn trap_E04_a_record_that_does_not_fit_is_refused() {
    let cases = [
        (vec![], record(5, 6, at(21, 1))),
        (vec![entry(21, 2)], record(5, 6, at(21, 1))),
        (vec![], record(4, 6, at(20, 1))),
        (vec![], record(20, 20, at(20, 1))),
        (vec![], record(7, 6, at(20, 1))),
    ];
    for (number, (entries, record)) in cases.into_iter().enumerate() {
        let result = plan(vec![write(8, entries, record)]);
        assert!(matches!(result, Err(WriteError::Record { .. })), "case {number}: {result:?}");
    }
    let result = plan(vec![write(7, vec![], record(5, 6, at(20, 1)))]);
    assert!(matches!(result, Err(WriteError::Order { number: 7, last: 7, .. })));
}

#[test]
fn writes_of_a_group_are_merged() {
    let merged = plan(vec![
        write(8, entries(21..=30, 1), record(5, 6, at(30, 1))),
        write(9, entries(25..=26, 2), record(5, 6, at(26, 2))),
        write(11, vec![entry(27, 3)], record(10, 12, at(27, 3))),
    ])
    .unwrap();
    let mut expected = entries(21..=24, 1);
    expected.extend(entries(25..=26, 2));
    expected.push(entry(27, 3));
    assert_eq!(merged.entries, expected);
    assert_eq!((merged.record.truncated.index, merged.compact_below), (10, Some(11)));
    let OnDisk { truncated, last, number, ballot, .. } = merged.after;
    assert_eq!((truncated, last, number, ballot), (10, at(27, 3), Some(11), (9, 1)));
    // A suffix that begins before the round's own entries replaces all of them.
    let merged = plan(vec![
        write(8, entries(21..=30, 1), record(5, 6, at(30, 1))),
        write(9, entries(15..=16, 2), record(5, 6, at(16, 2))),
    ])
    .unwrap();
    assert_eq!(merged.entries, entries(15..=16, 2));
    assert_eq!(merged.compact_below, None);
}

#[test]
fn an_install_drops_what_was_before_it() {
    let mut install = write(9, vec![], record(50, 50, at(50, 1)));
    install.install = true;
    let merged = plan(vec![
        write(8, entries(21..=30, 1), record(5, 6, at(30, 1))),
        install.clone(),
        write(10, entries(51..=53, 2), record(50, 50, at(53, 2))),
    ])
    .unwrap();
    assert!(merged.clean);
    assert_eq!((merged.entries, merged.compact_below), (entries(51..=53, 2), None));
    // Compacted in the same round.
    let merged = plan(vec![
        install,
        write(10, entries(51..=53, 2), record(50, 50, at(53, 2))),
        write(
            11,
            vec![],
            GroupRecord { truncated: at(52, 2), snapshot: at(53, 2), ..record(52, 53, at(53, 2)) },
        ),
    ])
    .unwrap();
    assert_eq!(merged.compact_below, Some(53));
}

#[test]
fn a_group_that_is_not_on_disk_begins_where_its_record_says() {
    let mut first = write(1, vec![], record(1, 1, at(1, 1)));
    first.group = two();
    let mut second = write(2, entries(2..=3, 1), record(1, 1, at(3, 1)));
    second.group = two();
    let plan = whole_plan(vec![first, second]).unwrap();
    assert_eq!(plan.groups[0].1.entries, entries(2..=3, 1));
    assert_eq!(plan.groups[0].1.compact_below, None);
}

#[test]
fn what_waits_for_room_is_merged_with_what_comes_later() {
    let first = write(8, entries(21..=30, 1), record(5, 6, at(30, 1)));
    let second = write(9, entries(25..=26, 2), record(5, 6, at(26, 2)));
    let mut plan = Plan::default();
    plan.merge(vec![first.clone()], &disk()).unwrap();
    plan.merge(vec![second.clone()], &disk()).unwrap();
    let at_once = whole_plan(vec![first, second]).unwrap();
    assert_eq!(plan.groups[0].1.entries, at_once.groups[0].1.entries);
    assert_eq!(plan.groups[0].1.after, at_once.groups[0].1.after);
}

#[test]
fn a_change_of_term_or_vote_is_seen() {
    let mut on_disk = disk();
    on_disk.get_mut(&one()).unwrap().ballot = (9, 1);
    let changes = |term, vote| {
        let mut record = record(5, 6, at(20, 1));
        (record.hard_state.term, record.hard_state.vote) = (term, vote);
        let mut plan = Plan::default();
        plan.merge(vec![write(8, vec![], record)], &on_disk).unwrap();
        plan.changes_ballot(&on_disk)
    };
    assert!(!changes(9, 1));
    assert!(changes(9, 2));
    assert!(changes(10, 0));
}
