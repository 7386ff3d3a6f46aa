use std::sync::atomic::Ordering;

use super::*;
use crate::record::Mark;
use crate::testing::{
    Faults, copy_dir, entries, entry, entry_of, format, hard_state, one, open, open_small,
    small_files, tempdir, two,
};
use crate::{EngineConfig, Formatted, IdentityError, LogId, OpenError};

fn receipt(durable: &Durable) -> (u64, u64, u64) {
    (durable.group().get(), durable.number(), durable.sequence())
}

/// To see it fail: pass `false` to `engine.write` in `LogWriter::commit`, or leave the write to
/// `Engine::sync`, which does nothing.
#[test]
fn trap_E01_every_write_that_returned_was_synced_once() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    // The first one brings a vote: see `trap_E07_a_vote_is_witnessed_…`.
    node.append(one(), vec![entry(2, 1)]);
    for number in 1..20 {
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

/// To see it fail: write one batch a group in `LogWriter::write_all`.
#[test]
fn trap_E08_one_record_a_round_whatever_waits() {
    let dir = tempdir();
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
    let dir = tempdir();
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

/// To see it fail: take both looks at the latch out of `Store::run`.
#[test]
fn trap_E03_an_fsync_that_fails_during_a_purge_stops_the_writer() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &small_files(), &faults).unwrap();
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

/// To see it fail: let `is_full` say no.
#[test]
fn trap_E06_a_purge_on_a_full_disk_can_be_repeated() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &small_files(), &faults).unwrap();
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

/// To see it fail: do not set the latch in `LatchedHandle::sync`. (The look at it in `Store::open`
/// alone is not missed: raft-engine's next operation is refused.)
#[test]
fn trap_E03_an_fsync_that_fails_at_open_is_an_error() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    let witness = std::fs::read(dir.path().join("witness")).unwrap();
    node.found(one());
    node.close();
    // A torn record that nobody witnessed, which opening cuts off, and syncs.
    let path = dir.path().join("log/0000000000000001.raftlog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(dir.path().join("witness"), witness).unwrap();
    let faults = std::sync::Arc::<Faults>::default();
    faults.sync_fails.store(true, Ordering::SeqCst);
    let error = open(dir.path(), &small_files(), &faults).err().unwrap();
    assert!(matches!(error, OpenError::Disk { .. }), "{error}");
}

/// To see it fail: let `WriteError::is_fatal` say yes to all.
#[test]
fn trap_E06_a_full_disk_keeps_the_batch_until_there_is_room() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &small_files(), &faults).unwrap();
    node.found(one());
    node.append(one(), entries(2..=5, 1));
    faults.disk_is_full.store(true, Ordering::SeqCst);
    node.log(one()).append(&entries(6..=8, 1));
    let write = node.part(one(), entries(6..=8, 1));
    for attempt in 0..3 {
        let writes = if attempt == 0 { vec![write.clone()] } else { vec![] };
        let error = node.engine.writer.write(writes).unwrap_err();
        assert!(matches!(error, WriteError::Full { .. }) && !error.is_fatal(), "{error}");
        assert!(node.engine.writer.is_waiting());
        assert_eq!(node.fetch(one(), 2, 6).unwrap(), entries(2..=5, 1), "reads go on");
    }
    // What comes later replaces a part of what waits.
    node.log(one()).append(&[entry(7, 2)]);
    node.log(one()).set_hard_state(hard_state(2, 0, 6));
    let later = node.part(one(), vec![entry(7, 2)]);
    assert!(node.engine.writer.write(vec![later]).is_err());
    faults.disk_is_full.store(false, Ordering::SeqCst);
    let receipts = node.engine.writer.write(vec![]).unwrap();
    let found: Vec<_> = receipts.iter().map(receipt).collect();
    assert_eq!(found, [(1, 3, 3), (1, 4, 3)]);
    assert!(!node.engine.writer.is_waiting());
    let mut expected = entries(2..=6, 1);
    expected.push(entry(7, 2));
    assert_eq!(node.fetch(one(), 2, 8).unwrap(), expected);
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), LogId::new(7, 2));
    assert_eq!(node.logs[&one()].hard_state(), &hard_state(2, 0, 6));
}

/// Full at any moment, also while a file is begun: the header-less file that raft-engine leaves is
/// no obstacle. To see it fail: take `take_headerless` out of `Survey::of`.
#[test]
fn trap_E06_a_disk_that_fills_up_anywhere_opens_again() {
    for room in 0..40 {
        let dir = tempdir();
        let faults = std::sync::Arc::<Faults>::default();
        let mut node = open(dir.path(), &small_files(), &faults).unwrap();
        node.found(one());
        for index in 2..=room {
            node.append(one(), vec![entry_of(index, 1, 200)]);
        }
        faults.disk_is_full.store(true, Ordering::SeqCst);
        let last = node.logs[&one()].last_index();
        node.log(one()).append(&[entry(last + 1, 1)]);
        let write = node.part(one(), vec![entry(last + 1, 1)]);
        assert!(matches!(node.commit(vec![write]), Err(WriteError::Full { .. })));
        // Killed, and started while the disk is still full.
        std::mem::forget(node);
        let copy = tempdir();
        copy_dir(dir.path(), copy.path());
        let mut node = open(copy.path(), &small_files(), &faults).unwrap();
        assert_eq!(node.logs[&one()].last_index(), last);
        faults.disk_is_full.store(false, Ordering::SeqCst);
        node.append(one(), entries(last + 1..=last + 9, 1));
        node.close();
        let node = open_small(copy.path());
        assert_eq!(node.logs[&one()].last_index(), last + 9);
    }
}

/// To see it fail: take the last line out of `LogWriter::commit`.
#[test]
fn trap_E07_a_vote_is_witnessed_durably_before_it_is_revealed() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    let mut syncs_of = |term, vote| {
        let commit = node.logs[&one()].hard_state().commit;
        node.log(one()).set_hard_state(hard_state(term, vote, commit));
        let before = faults.syncs();
        let write = node.part(one(), vec![]);
        node.commit(vec![write]).unwrap();
        (faults.syncs() - before, node.engine.writer.is_witness_synced())
    };
    assert_eq!(syncs_of(2, 0), (2, true));
    assert_eq!(syncs_of(2, 1), (2, true));
    assert_eq!(syncs_of(2, 1), (1, false));
    node.engine.writer.sync_witness().unwrap();
    let before = faults.syncs();
    node.engine.writer.sync_witness().unwrap();
    assert_eq!(faults.syncs(), before, "nothing new, nothing to sync");
}

/// To see it fail: take `witness.write` out of `LogWriter::commit`.
#[test]
fn trap_E07_after_a_kill_the_witness_is_exact() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    for index in 2..=9 {
        node.append(one(), vec![entry(index, 1)]);
    }
    std::mem::forget(node);
    assert_eq!(crate::testing::findings(dir.path()), []);
    let path = dir.path().join("log/0000000000000001.raftlog");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = crate::testing::damage(dir.path());
    assert!(found.what.contains("ends here with batch 8, and batch 9 was durable"), "{found}");
}

/// To see it fail: take `Plan::merge`'s check of contiguity out.
#[test]
fn trap_E04_a_hole_is_refused_before_the_disk_sees_it() {
    let dir = tempdir();
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
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.engine.writer.sync_witness().unwrap();
    let witness = std::fs::read(dir.path().join("witness")).unwrap();
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
        // As it was before the record was acknowledged.
        std::fs::write(dir.path().join("witness"), &witness).unwrap();
        assert_eq!(opened(), (hard_state(1, 0, 1), LogId::new(1, 1)), "cut {cut}");
    }
}

#[test]
fn trap_I04_an_entry_that_looks_like_a_record_is_an_entry() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    let mut ghost = entry(2, 1);
    let record = crate::GroupRecord { hard_state: hard_state(99, 9, 0), ..Default::default() };
    ghost.data = record.encode(one(), Mark::default()).into();
    node.append(one(), vec![ghost.clone()]);
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].hard_state(), &hard_state(1, 1, 2));
    assert_eq!(node.fetch(one(), 2, 3).unwrap(), [ghost]);
}

#[test]
fn trap_I07_nothing_is_acknowledged_after_a_failed_append() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    // A batch that does not follow: the writer can trust nothing of its caller any more.
    let write = node.part(one(), vec![entry(7, 1)]);
    assert!(node.commit(vec![write]).unwrap_err().is_fatal());
    let write = node.part(one(), vec![]);
    assert!(node.commit(vec![write]).is_err(), "the error is sticky");
    // A full disk: no receipt before there is room.
    let dir = tempdir();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    faults.disk_is_full.store(true, Ordering::SeqCst);
    let write = node.part(one(), vec![]);
    assert!(node.commit(vec![write]).is_err());
    assert!(node.commit(vec![]).is_err());
    faults.disk_is_full.store(false, Ordering::SeqCst);
    assert_eq!(node.commit(vec![]).unwrap().len(), 1);
}

/// To see it fail: do not join the reader's thread in `LogWriter::shut_down`: its share keeps
/// raft-engine, and the lock, for a while.
#[test]
fn trap_E11_closing_ends_the_reader_and_frees_the_directory() {
    let dir = tempdir();
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

/// raft-engine keeps every key in memory for ever: a group has two and the engine one, whatever is
/// written. To see it fail: put the sequence into `STAMP_KEY`, or an index into `RECORD_KEY`.
#[test]
fn trap_E12_what_stays_in_memory_does_not_grow_with_what_is_written() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    let keys = |node: &crate::testing::Node<_>| {
        let (mut count, mut bytes) = (0, 0);
        let engine = node.engine.writer.store().engine();
        for region in engine.raft_groups() {
            let add = |key: &[u8], value: &[u8]| {
                (count, bytes) = (count + 1, bytes + key.len() + value.len());
                true
            };
            engine.scan_raw_messages(region, None, None, false, add).unwrap();
        }
        (count, bytes)
    };
    assert_eq!(keys(&node).0, 5);
    for index in 2..=2000 {
        node.append(one(), vec![entry(index, 1)]);
        if index % 100 == 0 {
            node.compact(one(), index, index - 10);
            node.purge().unwrap();
        }
    }
    let (count, bytes) = keys(&node);
    assert_eq!(count, 5);
    assert!(bytes < 1000, "{bytes} bytes");
    let engine = node.engine.writer.store().engine();
    let (first, last) = (engine.first_index(1).unwrap(), engine.last_index(1).unwrap());
    assert_eq!((first, last), (1991, 2000), "and of the entries only what is not compacted");
}

/// To see it fail: keep the batch after an error in `LogWriter::write_all`: raft-engine has
/// finished it, and what is written next panics or is wrong.
#[test]
fn trap_E11_a_batch_that_failed_is_made_anew() {
    let dir = tempdir();
    let faults = std::sync::Arc::<Faults>::default();
    let mut node = open(dir.path(), &EngineConfig::default(), &faults).unwrap();
    node.found(one());
    let mut expected = Vec::new();
    for index in 2..=30 {
        node.log(one()).append(&[entry(index, 1)]);
        expected.push(entry(index, 1));
        let write = node.part(one(), vec![entry(index, 1)]);
        faults.disk_is_full.store(index % 3 != 0, Ordering::SeqCst);
        assert_eq!(node.commit(vec![write]).is_ok(), index % 3 == 0);
    }
    assert_eq!(node.fetch(one(), 2, 31).unwrap(), expected);
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.fetch(one(), 2, 31).unwrap(), expected);
}
