use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{Faults, entries, entry, format, hard_state, one, open, open_small, two};
use crate::{EngineConfig, Formatted, IdentityError, LogId, OpenError};

fn receipt(durable: &Durable) -> (u64, u64, u64) {
    (durable.group().get(), durable.number(), durable.sequence())
}

/// To see it fail: pass `false` to `engine.write` in `LogWriter::commit`, or leave the write to
/// `Engine::sync`, which does nothing.
#[test]
fn trap_E01_every_write_that_returned_was_synced_once() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    for number in 0..20 {
        let before = (faults.syncs(), faults.written.load(Ordering::SeqCst));
        let durable = node.append(one(), vec![entry(2 + number, 1)]);
        assert_eq!(receipt(&durable), (1, 2 + number, 2 + number));
        assert_eq!(faults.syncs(), before.0 + 1);
        assert!(faults.written.load(Ordering::SeqCst) > before.1);
    }
    let before = faults.syncs();
    assert_eq!(node.engine.writer.write(vec![]).unwrap(), []);
    assert_eq!(faults.syncs(), before, "nothing to write, nothing to sync");
}

/// To see it fail: write one batch a group in `LogWriter::write_checked`.
#[test]
fn trap_E08_one_record_a_round_whatever_waits() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    node.found(two());
    let mut writes = Vec::new();
    for round in 2..=10 {
        for group in [one(), two()] {
            node.log(group).append(&[entry(round, 1)]);
            writes.push(node.part(group, vec![entry(round, 1)]));
        }
    }
    let before = (faults.syncs(), node.engine.writer.sequence());
    let receipts = node.commit(writes).unwrap();
    assert_eq!((faults.syncs(), node.engine.writer.sequence()), (before.0 + 1, before.1 + 1));
    let found: Vec<_> = receipts.iter().map(receipt).collect();
    let expected: Vec<_> = (3..=20).map(|number| (1 + (number + 1) % 2, number, 3)).collect();
    assert_eq!(found, expected);
    for group in [one(), two()] {
        assert_eq!(node.fetch(group, 2, 11).unwrap(), entries(2..=10, 1));
    }
}

/// To see it fail: return the error from `LatchedHandle::sync` (raft-engine panics), or take the
/// second look at the latch out of `Store::run` (the write is acknowledged).
#[test]
fn trap_E03_an_fsync_that_failed_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    faults.sync_fails.store(true, Ordering::SeqCst);
    node.log(one()).append(&[entry(2, 1)]);
    let write = node.part(one(), vec![entry(2, 1)]);
    let error = node.commit(vec![write]).unwrap_err();
    assert!(matches!(&error, WriteError::Disk { source } if source.to_string() == "injected"));
    // The disk "recovers": that changes nothing, and nothing is touched any more.
    faults.sync_fails.store(false, Ordering::SeqCst);
    let before = (faults.syncs(), faults.written.load(Ordering::SeqCst));
    let mut write = node.part(one(), vec![]);
    for _ in 0..3 {
        write.number += 1;
        let again = node.engine.writer.write(vec![write.clone()]).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
    }
    assert!(node.fetch(one(), 2, 3).unwrap_err().is_fatal());
    assert!(node.purge().unwrap_err().is_fatal());
    assert!(matches!(node.engine.writer.close(), Err(WriteError::Disk { .. })));
    assert_eq!((faults.syncs(), faults.written.load(Ordering::SeqCst)), before);
    // The engine is leaked, and the lock with it: nobody opens what it may still hold.
    assert!(matches!(Formatted::open(dir.path()), Err(IdentityError::InUse { .. })));
}

#[test]
fn trap_E03_an_fsync_that_fails_during_a_purge_stops_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &crate::testing::small_files(), &faults).unwrap();
    node.found(one());
    for index in 2..=400 {
        node.append(one(), vec![entry(index, 1)]);
    }
    node.compact(one(), 400, 390);
    faults.sync_fails.store(true, Ordering::SeqCst);
    assert!(node.purge().unwrap_err().is_fatal());
    faults.sync_fails.store(false, Ordering::SeqCst);
    let write = node.part(one(), vec![]);
    assert!(matches!(node.commit(vec![write]), Err(WriteError::Disk { .. })));
}

#[test]
fn trap_E06_a_purge_on_a_full_disk_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &crate::testing::small_files(), &faults).unwrap();
    node.found(one());
    node.found(two());
    node.append(two(), entries(2..=9, 1));
    for index in 2..=400 {
        node.append(one(), vec![entry(index, 1)]);
    }
    node.compact(one(), 400, 390);
    faults.disk_is_full.store(true, Ordering::SeqCst);
    let error = node.purge().unwrap_err();
    assert!(matches!(error, crate::ReadError::Full { .. }) && !error.is_fatal(), "{error}");
    faults.disk_is_full.store(false, Ordering::SeqCst);
    let before = node.engine.writer.disk_bytes();
    node.purge().unwrap();
    assert!(node.engine.writer.disk_bytes() < before);
    node.append(one(), vec![entry(401, 1)]);
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.fetch(two(), 2, 10).unwrap(), entries(2..=9, 1));
    assert_eq!(node.logs[&one()].last(), LogId::new(401, 1));
}

#[test]
fn trap_E03_an_fsync_that_fails_at_open_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open_small(dir.path());
    node.found(one());
    node.close();
    // A torn record, which opening cuts off, and syncs.
    let path = dir.path().join("log/0000000000000001.raftlog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    faults.sync_fails.store(true, Ordering::SeqCst);
    let error = open(dir.path(), &crate::testing::small_files(), &faults).err().unwrap();
    assert!(matches!(error, OpenError::Disk { .. }), "{error}");
}

#[test]
fn trap_E06_a_full_disk_is_named_and_what_was_written_stays() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    node.append(one(), entries(2..=5, 1));
    faults.disk_is_full.store(true, Ordering::SeqCst);
    node.log(one()).append(&[entry(6, 1)]);
    let write = node.part(one(), vec![entry(6, 1)]);
    let error = node.commit(vec![write]).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert_eq!(node.fetch(one(), 2, 6).unwrap(), entries(2..=5, 1), "reads go on");
    faults.disk_is_full.store(false, Ordering::SeqCst);
    drop(node);
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), LogId::new(5, 1));
}

/// To see it fail: take `Plan::new`'s check of contiguity out.
#[test]
fn trap_E04_a_hole_is_refused_before_the_disk_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=5, 1));
    let mut write = node.part(one(), vec![entry(7, 1)]);
    write.record.last = LogId::new(7, 1);
    let error = node.commit(vec![write]).unwrap_err();
    assert!(matches!(error, WriteError::NotContiguous { found: 7, truncated: 1, last: 5, .. }));
    let valid = node.part(one(), vec![entry(6, 1)]);
    assert_eq!(node.commit(vec![valid]).unwrap_err().to_string(), error.to_string());
    drop(node);
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), LogId::new(5, 1));
}

#[test]
fn trap_I03_hard_state_and_entries_are_in_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open_small(dir.path());
    node.found(one());
    node.log(one()).append(&entries(2..=4, 7));
    node.log(one()).set_hard_state(hard_state(7, 3, 3));
    let write = node.part(one(), entries(2..=4, 7));
    node.commit(vec![write]).unwrap();
    node.close();
    let path = dir.path().join("log/0000000000000001.raftlog");
    let whole = std::fs::read(&path).unwrap();
    let opened = || {
        let node = open_small(dir.path());
        let log = &node.logs[&one()];
        (log.hard_state().clone(), log.last())
    };
    assert_eq!(opened(), (hard_state(7, 3, 3), LogId::new(4, 7)));
    // Torn anywhere: the term and the vote go with the entries, and never alone.
    for cut in [1, 10, 100] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(opened(), (hard_state(1, 0, 1), LogId::new(1, 1)), "cut {cut}");
    }
}

#[test]
fn trap_I04_an_entry_that_looks_like_a_record_is_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open_small(dir.path());
    node.found(one());
    let mut ghost = entry(2, 1);
    let record = crate::GroupRecord { hard_state: hard_state(99, 9, 0), ..Default::default() };
    ghost.data = record.encode(one()).into();
    node.append(one(), vec![ghost.clone()]);
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].hard_state(), &hard_state(1, 1, 2));
    assert_eq!(node.fetch(one(), 2, 3).unwrap(), [ghost]);
}

#[test]
fn trap_I07_nothing_is_acknowledged_after_a_failed_append() {
    let dir = tempfile::tempdir().unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    faults.disk_is_full.store(true, Ordering::SeqCst);
    let write = node.part(one(), vec![]);
    assert!(node.commit(vec![write]).is_err());
    faults.disk_is_full.store(false, Ordering::SeqCst);
    let write = node.part(one(), vec![]);
    assert!(node.commit(vec![write]).is_err(), "the error is sticky");
}

#[test]
fn trap_E11_closing_ends_the_reader_and_frees_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    format(dir.path());
    let node = open_small(dir.path());
    let reader = node.engine.reader.clone();
    node.close();
    let context = raft::GetEntriesContext::empty(true);
    let fetch = crate::Fetch { group: one(), low: 2, high: 3, bytes_max: 1, context };
    let error = reader.fetch(fetch, |_| panic!("refused, and yet answered")).unwrap_err();
    assert!(matches!(error, crate::ReadError::Closed));
    assert!(reader.purge(|_| panic!("refused, and yet answered")).is_err());
    drop(open_small(dir.path()));
    drop(open_small(dir.path()));
}
