use raft::util::NO_LIMIT;
use raft::{Error, Storage, StorageError};

use super::*;
use crate::testing::{entries, entry, entry_of, hard_state, one, voters};

fn meta(index: u64, term: u64) -> SnapshotMeta {
    let (group, id) = (one(), LogId::new(index, term));
    SnapshotMeta { group, id, conf_state: voters(), members: Default::default() }
}

/// A log founded at (1, 1) with these entries, all of them applied and on disk.
fn log_with(cache_bytes_max: u64, entries: &[Entry]) -> GroupLog {
    let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(cache_bytes_max));
    log.append(entries);
    let last = log.last();
    log.set_hard_state(hard_state(last.term, 2, last.index));
    log.persisted_to(last);
    log.applied_to(last.index);
    log
}

fn read(log: &GroupLog, low: u64, high: u64, max: u64) -> raft::Result<Vec<u64>> {
    let entries = log.entries(low, high, Some(max), GetEntriesContext::empty(true))?;
    Ok(entries.iter().map(|entry| entry.index).collect())
}

fn unavailable() -> Error {
    Error::Store(StorageError::LogTemporarilyUnavailable)
}

#[test]
fn a_founded_log_is_truncated_at_its_snapshot() {
    let log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(0));
    assert_eq!((log.first_index(), log.last_index()), (2, 1));
    assert_eq!((log.term(0), log.term(1), log.term(2)), (None, Some(1), None));
    assert_eq!(log.hard_state(), &hard_state(1, 0, 1));
    assert_eq!((log.truncated(), log.last(), log.snapshot_id()), {
        let id = LogId::new(1, 1);
        (id, id, id)
    });
    assert_eq!(log.conf_state(), &voters());
    assert_eq!(log.record().fault(), None);
}

#[test]
fn trap_R05_entries_terms_and_snapshot_are_served_before_they_are_durable() {
    let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(0));
    log.append(&[entry(2, 1), entry(3, 2)]);
    log.set_hard_state(hard_state(2, 1, 3));
    let wait_not = GetEntriesContext::empty(false);
    assert_eq!(log.entries(2, 4, None, wait_not).unwrap(), [entry(2, 1), entry(3, 2)]);
    assert_eq!(Storage::term(&log, 3), Ok(2));
    assert_eq!(Storage::last_index(&log), Ok(3));
    log.install_snapshot(LogId::new(9, 4), voters());
    assert_eq!((Storage::first_index(&log), Storage::last_index(&log)), (Ok(10), Ok(9)));
    assert_eq!(Storage::term(&log, 9), Ok(4));
    assert_eq!(log.initial_state().unwrap().hard_state, hard_state(4, 1, 9));
    assert_eq!(log.snapshot(9, 2).unwrap().get_metadata().index, 9);
}

#[test]
fn trap_R08_no_limit_is_never_capped_and_terms_last_for_ever() {
    let all: Vec<Entry> = (2..=60).map(|index| entry_of(index, 1 + index / 20, 1000)).collect();
    let mut log = log_with(u64::MAX, &all);
    for no_limit in [None, Some(NO_LIMIT)] {
        let found = log.entries(2, 61, no_limit, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(found, all);
    }
    for max in [0, 1, 999, 2100, 5000, 1 << 40] {
        let mut expected = all.clone();
        raft::util::limit_size(&mut expected, Some(max));
        let found = log.entries(2, 61, max, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(found, expected, "limit {max}");
    }
    assert!(log.set_snapshot(LogId::new(40, 3), voters()));
    for to in [10, 20, 40] {
        assert_eq!(log.compact_to(to), LogId::new(to, 1 + to / 20));
        assert_eq!(Storage::term(&log, to), Ok(1 + to / 20));
        assert_eq!(Storage::term(&log, to - 1), Err(StorageError::Compacted.into()));
        assert_eq!(read(&log, to, 61, 10), Err(StorageError::Compacted.into()));
    }
    assert_eq!(Storage::term(&log, 61), Err(StorageError::Unavailable.into()));
}

#[test]
fn trap_R08_a_miss_is_fetched_once_and_a_delivery_served_once() {
    let all = entries(2..=50, 1);
    let mut log = log_with(0, &all);
    assert_eq!(read(&log, 2, 51, 200), Err(unavailable()));
    let fetches = log.take_fetches();
    let [Fetch { low: 2, high: 51, bytes_max: 200, .. }] = fetches[..] else {
        panic!("{fetches:?}")
    };
    assert_eq!(log.take_fetches().len(), 0);
    log.deliver(2, all[..4].to_vec());
    assert_eq!(read(&log, 2, 51, 200).unwrap(), [2, 3, 4, 5]);
    assert_eq!(read(&log, 2, 51, 200), Err(unavailable()), "it is served once");
    log.take_fetches();
    // With no limit, a delivery that lacks some is none.
    log.deliver(2, all[..4].to_vec());
    assert_eq!(read(&log, 2, 51, NO_LIMIT), Err(unavailable()));
    log.take_fetches();
    log.deliver(2, all.clone());
    assert_eq!(read(&log, 2, 51, NO_LIMIT).unwrap().len(), 49);
    // Not asked for again: dropped.
    log.deliver(2, all.clone());
    log.take_fetches();
    assert_eq!(read(&log, 2, 51, 200), Err(unavailable()));
}

#[test]
fn a_delivery_goes_on_in_the_cache() {
    let mut log = log_with(0, &entries(2..=10, 1));
    log.append(&entries(11..=15, 1));
    assert_eq!(read(&log, 5, 16, NO_LIMIT), Err(unavailable()));
    let fetches = log.take_fetches();
    assert_eq!((fetches[0].low, fetches[0].high), (5, 11), "what is cached is not read");
    log.deliver(5, entries(5..=10, 1));
    assert_eq!(read(&log, 5, 16, NO_LIMIT).unwrap(), (5..=15).collect::<Vec<_>>());
}

#[test]
fn a_delivery_that_is_overtaken_is_ignored() {
    let old = entries(2..=10, 1);
    // Overwritten before it comes, and after.
    let mut log = log_with(0, &old);
    log.append(&[entry(8, 2)]);
    log.deliver(5, entries(5..=8, 1));
    assert_eq!(read(&log, 5, 9, 10), Err(unavailable()));
    let mut log = log_with(0, &old);
    log.deliver(5, entries(5..=8, 1));
    log.append(&[entry(8, 2)]);
    assert_eq!(read(&log, 5, 9, 10), Err(unavailable()));
    // Compacted before it comes, and after.
    for is_before in [true, false] {
        let mut log = log_with(0, &old);
        assert!(log.set_snapshot(LogId::new(10, 1), voters()));
        if is_before {
            log.compact_to(6);
        }
        log.deliver(5, entries(5..=8, 1));
        log.compact_to(6);
        assert_eq!(read(&log, 7, 9, 10), Err(unavailable()), "before: {is_before}");
    }
    // Not contiguous, or empty.
    let mut log = log_with(0, &old);
    log.deliver(5, vec![entry(6, 1)]);
    assert_eq!(read(&log, 5, 9, 10), Err(unavailable()));
    log.deliver(5, vec![]);
    assert_eq!(read(&log, 5, 9, 10), Err(unavailable()));
}

#[test]
fn what_is_not_both_applied_and_on_disk_is_pinned() {
    let budget = CacheBudget::new(0);
    let mut log = GroupLog::founded(one(), &meta(1, 1), &budget);
    log.append(&entries(2..=10, 1));
    let can_wait_not = |log: &GroupLog, low| {
        log.entries(low, 11, None, GetEntriesContext::empty(false)).unwrap().len()
    };
    log.applied_to(10);
    assert_eq!(can_wait_not(&log, 2), 9, "not on disk");
    log.persisted_to(LogId::new(6, 1));
    assert_eq!(can_wait_not(&log, 7), 4);
    assert_eq!(read(&log, 6, 11, NO_LIMIT), Err(unavailable()));
    log.persisted_to(LogId::new(10, 1));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_receipt_for_what_is_overwritten_unpins_nothing() {
    let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(0));
    log.append(&entries(2..=10, 1));
    log.append(&[entry(5, 2)]);
    log.applied_to(5);
    log.persisted_to(LogId::new(10, 1));
    log.persisted_to(LogId::new(5, 1));
    assert_eq!(read(&log, 2, 6, NO_LIMIT).unwrap().len(), 4);
}

#[test]
#[should_panic(expected = "are not in memory")]
fn a_miss_that_cannot_wait_must_never_be() {
    let log = log_with(0, &entries(2..=10, 1));
    let _ = log.entries(2, 11, None, GetEntriesContext::empty(false));
}

#[test]
fn trap_I06_a_conflicting_suffix_is_replaced() {
    for from in 2..=11 {
        let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(u64::MAX));
        log.append(&entries(2..=10, 1));
        log.append(&[entry(from, 7)]);
        assert_eq!(log.last(), LogId::new(from, 7));
        let mut expected = entries(2..=from - 1, 1);
        expected.push(entry(from, 7));
        let found = log.entries(2, from + 1, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(found, expected);
        assert_eq!(Storage::term(&log, from + 1), Err(StorageError::Unavailable.into()));
    }
}

#[test]
fn what_would_ruin_the_log_panics() {
    type Case = (&'static str, fn(&mut GroupLog));
    let cases: [Case; 10] = [
        ("does not follow the log", |log| log.append(&[entry(12, 1)])),
        ("does not follow the log", |log| log.append(&[entry(1, 1)])),
        ("not contiguous", |log| log.append(&[entry(11, 1), entry(13, 1)])),
        ("follows term", |log| log.append(&[entry(11, 0)])),
        ("does not follow", |log| log.set_hard_state(hard_state(1, 0, 11))),
        ("does not follow", |log| log.set_hard_state(hard_state(0, 0, 10))),
        ("beyond the last index", |log| log.applied_to(11)),
        ("is not of this log", |log| {
            log.set_snapshot(LogId::new(9, 5), voters());
        }),
        ("is beyond the snapshot", |log| {
            log.compact_to(5);
        }),
        ("is not beyond commit", |log| log.install_snapshot(LogId::new(10, 1), voters())),
    ];
    for (number, (expected, case)) in cases.into_iter().enumerate() {
        let mut log = log_with(u64::MAX, &entries(2..=10, 1));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut log)));
        let text = *panic.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains(expected), "case {number}: {text}");
    }
}

#[test]
fn trap_I09_a_snapshot_is_of_what_is_applied() {
    let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(0));
    log.append(&entries(2..=10, 1));
    log.set_hard_state(hard_state(1, 0, 10));
    log.applied_to(6);
    let mut at_commit = log.record();
    at_commit.snapshot = LogId::new(10, 1);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        log.set_snapshot(LogId::new(10, 1), voters())
    }));
    assert!(panic.is_err(), "committed is not applied");
    assert!(log.set_snapshot(LogId::new(6, 1), voters()));
    assert!(!log.set_snapshot(LogId::new(5, 1), voters()), "an older one changes nothing");
    assert_eq!(log.snapshot_id(), LogId::new(6, 1));
}

/// To see it fail: let `GroupLog::compact_to` take `index` as it is.
#[test]
fn trap_E05_compaction_keeps_the_last_entry() {
    let mut log = log_with(0, &entries(2..=10, 1));
    assert!(log.set_snapshot(LogId::new(10, 1), voters()));
    assert_eq!(log.compact_to(10), LogId::new(9, 1));
    assert_eq!((log.first_index(), log.last_index()), (10, 10));
    assert_eq!(log.compact_to(3), LogId::new(9, 1), "it never goes back");
}

#[test]
fn trap_R08_a_snapshot_is_served_to_members_it_knows() {
    let mut log = log_with(0, &entries(2..=10, 1));
    let served = log.snapshot(1, 3).unwrap();
    assert_eq!((served.get_metadata().index, served.get_metadata().term), (1, 1));
    assert_eq!(served.get_metadata().get_conf_state(), &voters());
    assert!(served.data.is_empty());
    let later = Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
    assert_eq!(log.snapshot_wanted(), None);
    assert_eq!(log.snapshot(1, 4), later, "a learner that the snapshot does not know");
    assert_eq!(log.snapshot_wanted(), Some(2));
    assert_eq!(log.snapshot(7, 3), later);
    assert_eq!(log.snapshot_wanted(), Some(7));
    assert!(log.set_snapshot(LogId::new(6, 1), voters()));
    assert_eq!(log.snapshot_wanted(), Some(7), "not yet");
    assert!(log.set_snapshot(LogId::new(8, 1), ConfState::from((vec![1], vec![4]))));
    assert_eq!(log.snapshot_wanted(), None);
    assert!(log.snapshot(7, 4).is_ok());
    let blank = GroupLog::blank(one(), &CacheBudget::new(0));
    assert_eq!(blank.snapshot(0, 1), later);
    assert_eq!((blank.first_index(), blank.last_index()), (1, 0));
}

#[test]
fn a_log_can_move_to_the_thread_that_drives_raft() {
    fn is_send<T: Send>() {}
    is_send::<GroupLog>();
    is_send::<Fetch>();
    is_send::<crate::LogWriter<crate::DefaultFileSystem>>();
    is_send::<crate::LogReader>();
}

/// To see it fail: trim after each entry.
#[test]
fn room_for_a_log_that_is_read_is_made_once() {
    let mut log = GroupLog::founded(one(), &meta(1, 1), &CacheBudget::new(0));
    log.reserve(1_000);
    let room = log.cache.capacity();
    assert!(room >= 1_000);
    for index in 2..=1_001 {
        log.load(entry(index, 1));
        assert_eq!(log.cache.capacity(), room, "after entry {index}");
    }
    assert_eq!(read(&log, 2, 1_002, NO_LIMIT).unwrap().len(), 1_000);
}
