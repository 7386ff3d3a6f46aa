//! What must not be taken for damage, and what must not be hidden by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::GroupLog;
use crate::LogId;
use crate::testing::{
    Faults, Node, Step, TestFileSystem, entries, entry, entry_of, findings, hard_state, one,
    open_small, small_files, tempdir, two,
};

fn group(number: u64) -> GroupId {
    GroupId::new(number).unwrap()
}

fn open(dir: &Path, faults: &Arc<Faults>) -> Node<TestFileSystem> {
    crate::testing::open(dir, &small_files(), faults).unwrap()
}

fn append_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "raftlog")).collect();
    files.sort();
    files
}

/// Entries of group 1 from `from` on, all but the last ten compacted.
fn fill(node: &mut Node<TestFileSystem>, from: u64, count: u64) {
    for index in from..from + count {
        node.append(one(), vec![entry(index, 1)]);
    }
    node.compact(one(), from + count - 1, from + count - 11);
}

/// Group 2's few entries are rewritten, the files that they were in removed.
fn with_a_rewritten_group(node: &mut Node<TestFileSystem>) {
    node.found(one());
    node.found(two());
    node.append(two(), entries(2..=9, 1));
    fill(node, 2, 399);
    node.purge().unwrap();
}

/// To see it fail: take `is_wanted` out of `File::record_behind`.
#[test]
fn trap_E07_an_entry_that_looks_like_a_record_does_not_make_a_torn_tail_damage() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=5, 1));
    let witness = std::fs::read(dir.path().join("witness")).unwrap();
    let mut false_record = (21_u64 << 8).to_be_bytes().to_vec();
    false_record.extend_from_slice(&16_u64.to_be_bytes());
    false_record.push(0);
    false_record.extend_from_slice(&(crc32fast::hash(&[0]) ^ 1).to_le_bytes());
    let mut hostile = entry(6, 1);
    let mut data = [&[b'x'; 64][..], &false_record].concat();
    data.resize(512, b'y');
    hostile.data = data.into();
    node.append(one(), vec![hostile]);
    node.close();
    // As a power loss before the acknowledgement leaves it.
    let path = dir.path().join("log/0000000000000001.raftlog");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    std::fs::write(dir.path().join("witness"), witness).unwrap();
    assert_eq!(findings(dir.path()), []);
    assert_eq!(open_small(dir.path()).logs[&one()].last(), LogId::new(5, 1));
}

/// To see it fail: check the tally only where nothing is damaged.
#[test]
fn trap_E07_a_group_that_is_gone_is_missed_beside_one_that_is_damaged() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(two());
    node.append(two(), entries(2..=9, 1));
    node.found(group(3));
    node.append(group(3), entries(2..=9, 1));
    node.found(one());
    fill(&mut node, 2, 399);
    // Group 3's record is in the append queue, its entries are rewritten; all of group 2 is.
    node.append(group(3), vec![entry(10, 1)]);
    node.purge().unwrap();
    node.found(group(4));
    node.close();
    let path = dir.path().join("log/0000000000000001.rewrite");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[69 + 14] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let found = findings(dir.path());
    assert!(found.iter().any(|finding| finding.group == Some(two())), "{found:?}");
    assert!(found.iter().any(|finding| finding.group.is_none()), "{found:?}");
}

/// To see it fail: take the stamps of rewritten records out of `Scan::record`.
#[test]
fn trap_E05_the_last_stamp_may_be_rewritten_behind_an_empty_file() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    let mut index = 1;
    while append_files(dir.path()).len() < 5 {
        index += 1;
        node.append(one(), vec![entry_of(index, 1, 700)]);
    }
    node.compact(one(), index, index - 3);
    let sequence = node.engine.writer.sequence();
    node.close();
    // The next file is begun, and the process killed before the first record.
    let last = append_files(dir.path()).pop().unwrap();
    let number: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let header = std::fs::read(&last).unwrap()[..69].to_vec();
    let next = dir.path().join(format!("log/{:016}.raftlog", number + 1));
    std::fs::write(&next, header).unwrap();
    let node = open_small(dir.path());
    node.purge().unwrap();
    node.close();
    assert_eq!(append_files(dir.path()), [next], "the file with the last stamp is gone");
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), LogId::new(index, 1));
    assert_eq!(node.engine.writer.sequence(), sequence);
    node.close();
}

/// To see it fail: take `purge_had_no_room` out of `purge`.
#[test]
fn trap_E06_a_purge_without_room_does_not_bring_a_replaced_log_back() {
    let dir = tempdir();
    let faults = Arc::<Faults>::default();
    let mut node = open(dir.path(), &faults);
    with_a_rewritten_group(&mut node);
    // A snapshot in place of group 2's log, below its end.
    let meta = node.snapshot(two(), LogId::new(5, 2));
    let mut log = GroupLog::founded(two(), &meta, &node.engine.cache);
    log.set_hard_state(hard_state(2, 1, 5));
    node.logs.insert(two(), log);
    let mut write = node.part(two(), vec![]);
    write.install = true;
    node.commit(vec![write]).unwrap();
    fill(&mut node, 401, 200);
    faults.disk_is_full.store(true, Ordering::SeqCst);
    assert!(!node.purge().unwrap_err().is_fatal());
    faults.disk_is_full.store(false, Ordering::SeqCst);
    for round in 0..4 {
        fill(&mut node, 601 + round * 200, 200);
        node.purge().unwrap();
    }
    node.close();
    assert_eq!(findings(dir.path()), []);
    let mut node = open(dir.path(), &faults);
    let before = append_files(dir.path()).len();
    fill(&mut node, 1401, 200);
    node.purge().unwrap();
    assert!(append_files(dir.path()).len() < before, "and it is purged again");
    node.close();
    assert_eq!(findings(dir.path()), []);
    assert_eq!(open_small(dir.path()).logs[&two()].last(), LogId::new(5, 2));
}

/// To see it fail: return the error of `LatchedFileSystem::delete` without latching it.
#[test]
fn trap_E07_a_removal_that_fails_leaves_no_gap() {
    let dir = tempdir();
    let faults = Arc::<Faults>::default();
    let mut node = open(dir.path(), &faults);
    node.found(one());
    fill(&mut node, 2, 399);
    faults.fail(Step::Remove, 2);
    assert!(node.purge().unwrap_err().is_fatal(), "raft-engine would go on behind the file");
    let write = node.part(one(), vec![]);
    assert!(node.commit(vec![write]).unwrap_err().is_fatal());
    drop(node);
    assert_eq!(findings(dir.path()), []);
}

/// To see it fail: take the check of `quarantined` out of `LogWriter::write_all`.
#[test]
fn nothing_is_written_for_a_group_in_quarantine() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    node.close();
    std::fs::remove_file(dir.path().join("snapshots/2/1-1.snap")).unwrap();
    for _ in 0..2 {
        let mut node = open_small(dir.path());
        assert!(node.engine.damaged.contains_key(&two()));
        let meta = node.snapshot(two(), LogId::new(40, 1));
        let log = GroupLog::founded(two(), &meta, &node.engine.cache);
        node.logs.insert(two(), log);
        let mut write = node.part(two(), vec![]);
        write.install = true;
        let error = node.commit(vec![write]).unwrap_err();
        assert!(matches!(error, WriteError::Quarantined { group } if group == two()), "{error}");
    }
}

/// To see it fail: take the sync out of `LatchedWriter::write`.
#[test]
fn trap_E08_rewritten_records_are_synced_one_by_one() {
    let dir = tempdir();
    let faults = Arc::<Faults>::default();
    let config = EngineConfig {
        target_file_size_bytes: 1 << 20,
        purge_threshold_bytes: 1 << 20,
        ..small_files()
    };
    let mut node = crate::testing::open(dir.path(), &config, &faults).unwrap();
    node.found(one());
    for number in 2..=320 {
        node.found(group(number));
        let few = (2..=20).map(|index| entry_of(index, 1, 400)).collect();
        node.append(group(number), few);
    }
    let before = faults.syncs();
    node.purge().unwrap();
    let path = dir.path().join("log/0000000000000001.rewrite");
    let rewritten = std::fs::metadata(path).unwrap().len();
    // raft-engine makes records of 128 KiB and a little, and syncs when it is done.
    let (records, syncs) = (rewritten / (130 << 10), faults.syncs() - before);
    assert!(records > 4 && syncs >= records, "{syncs} syncs for {rewritten} bytes");
    node.close();
}
