use std::path::Path;

use raft::eraftpb::ConfState;
use raft::{GetEntriesContext, Storage};

use super::*;
use crate::record::{ENGINE_REGION, Mark, RECORD_KEY, StoredRecord};
use crate::stamp::{STAMP_KEY, Stamp, Tally};
use crate::testing::{
    copy_dir, damage, entries, entry, entry_of, findings, format, hard_state, one, open,
    open_small, small_files, tempdir, two, voters,
};
use crate::{DirectoryId, GroupRecord, LogId};

fn log_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn settings() -> EngineConfig {
    EngineConfig { cache_bytes_max: u64::MAX >> 32, ..small_files() }
}

#[test]
fn a_fresh_directory_has_no_groups() {
    let dir = tempdir();
    let node = open_small(dir.path());
    assert!(node.engine.groups.is_empty());
    assert_eq!(node.engine.writer.sequence(), 0);
    node.close();
    let node = open_small(dir.path());
    assert_eq!((node.logs.len(), node.engine.writer.sequence()), (0, 0));
    assert!(node.engine.writer.disk_bytes() > 0);
}

#[test]
fn a_group_is_found_as_it_was_left() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=9, 1));
    node.log(one()).append(&[entry(10, 1), entry(11, 1)]);
    let write = node.part(one(), entries(10..=11, 1));
    node.commit(vec![write]).unwrap();
    node.append(one(), vec![entry(10, 3)]);
    node.compact(one(), 5, 3);
    let expected = node.logs[&one()].record();
    node.close();
    let formatted = crate::Formatted::open(dir.path()).unwrap();
    let engine = Engine::open(formatted, &settings()).unwrap();
    assert_eq!(engine.writer.sequence(), 5);
    let RecoveredGroup { log, genesis, snapshot, .. } = &engine.groups[&one()];
    assert_eq!(log.record(), expected);
    assert_eq!(genesis.as_deref(), Some(&b"genesis"[..]));
    assert_eq!((snapshot.id, &snapshot.members[..]), (LogId::new(5, 1), &b"members at 5-1"[..]));
    let found = log.entries(6, 11, None, GetEntriesContext::empty(false)).unwrap();
    let mut expected = entries(4..=9, 1);
    expected.push(entry(10, 3));
    assert_eq!(found, expected[2..]);
    // Below the snapshot they are on disk only.
    assert_eq!(engine.reader.read(one(), 4, 11, u64::MAX).unwrap(), expected);
}

/// To see it fail: give the voters of another snapshot to `GroupLog::recovered`.
#[test]
fn trap_I05_the_membership_survives_a_restart() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=9, 1));
    let mut joint = ConfState::from((vec![1, 2, 4], vec![7]));
    joint.voters_outgoing = vec![1, 2, 3];
    let id = LogId::new(8, 1);
    let members = Bytes::new();
    let meta = SnapshotMeta { group: one(), id, conf_state: joint.clone(), members };
    let meta = node.engine.snapshots.create(meta).unwrap().finish().unwrap();
    node.log(one()).applied_to(8);
    assert!(node.log(one()).set_snapshot(id, meta.conf_state));
    let write = node.part(one(), vec![]);
    node.commit(vec![write]).unwrap();
    node.close();
    let node = open_small(dir.path());
    let log = &node.logs[&one()];
    assert_eq!(log.conf_state(), &joint);
    assert_eq!(log.initial_state().unwrap().conf_state, joint);
    assert_eq!(log.snapshot(1, 7).unwrap().get_metadata().get_conf_state(), &joint);
}

#[test]
fn trap_R07_commit_is_never_below_what_is_known_to_be_committed() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=9, 1));
    let mut write = node.part(one(), vec![]);
    write.record.hard_state = hard_state(1, 1, 2);
    node.snapshot(one(), LogId::new(8, 1));
    write.record.snapshot = LogId::new(8, 1);
    node.commit(vec![write]).unwrap();
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].hard_state(), &hard_state(1, 1, 8));
}

/// To see it fail: take `repeat_compactions` out of `open` and let `check_span` pass.
#[test]
fn trap_E05_compaction_survives_purge_and_restart() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    // A quiet group's few old entries are rewritten by the purge, its compaction comes later.
    node.append(two(), entries(2..=12, 1));
    let fill = |node: &mut crate::testing::Node<_>, from: u64| {
        for index in from..from + 300 {
            node.append(one(), vec![entry_of(index, 1, 100)]);
        }
        node.compact(one(), from + 299, from + 290);
        node.purge().unwrap();
    };
    fill(&mut node, 2);
    node.compact(two(), 12, 9);
    fill(&mut node, 302);
    fill(&mut node, 602);
    let appended = log_files(dir.path());
    let oldest = appended.iter().find(|name| name.ends_with(".raftlog")).unwrap();
    assert!(oldest.as_str() > "0000000000000010", "the old files are gone: {oldest}");
    let sequence = node.engine.writer.sequence();
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.engine.writer.sequence(), sequence + 1, "raft-engine had forgotten it");
    node.close();
    for _ in 0..3 {
        let node = open_small(dir.path());
        let log = &node.logs[&two()];
        assert_eq!((log.first_index(), log.last_index()), (10, 12));
        assert_eq!(node.fetch(two(), 10, 13).unwrap(), entries(10..=12, 1));
        assert!(node.fetch(two(), 9, 13).is_err(), "they are gone for raft-engine too");
        node.close();
    }
}

/// To see it fail: take the clean of an installed group out of `LogWriter::add`.
#[test]
fn trap_E05_an_installed_log_stays_installed_over_purges() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    node.append(two(), entries(2..=12, 1));
    node.snapshot(two(), LogId::new(50, 4));
    node.log(two()).install_snapshot(LogId::new(50, 4), voters());
    let mut write = node.part(two(), vec![]);
    write.install = true;
    node.commit(vec![write]).unwrap();
    assert_eq!(node.engine.writer.store().engine().last_index(2), None, "the old log is gone");
    for index in 2..=600 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
        if index % 100 == 0 {
            node.compact(one(), index, index - 5);
            node.purge().unwrap();
        }
    }
    node.close();
    let formatted = crate::Formatted::open(dir.path()).unwrap();
    let engine = Engine::open(formatted, &small_files()).unwrap();
    let RecoveredGroup { log, genesis, snapshot, .. } = &engine.groups[&two()];
    assert_eq!((log.truncated(), log.last()), (LogId::new(50, 4), LogId::new(50, 4)));
    assert_eq!(genesis.as_deref(), Some(&b"genesis"[..]), "an install keeps it");
    assert_eq!(snapshot.id, LogId::new(50, 4));
}

/// raft-engine creates no parents; `open` does, and syncs them before the first write. To see
/// the first part fail, take `create_dir_durable` out of it.
#[test]
fn trap_E09_the_log_directory_is_made_and_its_name_durable() {
    let dir = tempdir();
    let deep = dir.path().join("a/b/c");
    format(&deep);
    let node = open_small(&deep);
    assert_eq!(log_files(&deep), ["0000000000000001.raftlog", "0000000000000001.rewrite", "LOCK"]);
    node.close();
}

#[test]
fn trap_I08_what_is_recovered_is_the_newest_without_gaps() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    for index in 2..=500 {
        node.append(one(), vec![entry_of(index, 1 + index / 100, 50)]);
    }
    node.close();
    let node = open_small(dir.path());
    let log = &node.logs[&one()];
    assert_eq!((log.first_index(), log.last()), (2, LogId::new(500, 6)));
    let found = log.entries(2, 501, None, GetEntriesContext::empty(false)).unwrap();
    assert_eq!(found.len(), 499);
    for (entry, index) in found.iter().zip(2..) {
        assert_eq!(*entry, entry_of(index, 1 + index / 100, 50));
    }
}

#[test]
fn trap_I09_the_state_is_restored_from_the_recorded_snapshot() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=20, 1));
    node.compact(one(), 10, 5);
    // A newer file that no record names, as a crash before the batch leaves it.
    node.snapshot(one(), LogId::new(15, 1));
    node.close();
    let formatted = crate::Formatted::open(dir.path()).unwrap();
    let engine = Engine::open(formatted, &small_files()).unwrap();
    let recovered = &engine.groups[&one()];
    assert_eq!(recovered.snapshot.id, LogId::new(10, 1));
    assert_eq!(recovered.log.snapshot_id(), LogId::new(10, 1));
    let mut state = String::new();
    let mut reader = engine.snapshots.open(one(), recovered.snapshot.id).unwrap();
    std::io::Read::read_to_string(&mut reader, &mut state).unwrap();
    assert_eq!(state, "state at 10-1");
    // All that is to be replayed is in memory, whatever the budget.
    let replay = recovered.log.entries(11, 21, None, GetEntriesContext::empty(false)).unwrap();
    assert_eq!(replay, entries(11..=20, 1));
}

#[test]
fn a_group_that_waits_for_its_first_snapshot_is_found_again() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.logs.insert(one(), GroupLog::blank(one(), &node.engine.cache));
    node.log(one()).set_hard_state(hard_state(5, 0, 0));
    let write = node.part(one(), vec![]);
    node.commit(vec![write]).unwrap();
    node.close();
    let mut node = open_small(dir.path());
    assert_eq!(node.logs[&one()].hard_state(), &hard_state(5, 0, 0));
    assert_eq!(node.logs[&one()].snapshot_id(), LogId::default());
    node.snapshot(one(), LogId::new(40, 3));
    node.log(one()).install_snapshot(LogId::new(40, 3), voters());
    let mut write = node.part(one(), vec![]);
    write.install = true;
    node.commit(vec![write]).unwrap();
    node.append(one(), entries(41..=42, 5));
    node.close();
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), LogId::new(42, 5));
}

/// A node of group 1 with entries up to 9, whose record is then replaced by a false one.
fn with_false_record(change: fn(&mut GroupRecord)) -> Damage {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=9, 3));
    let mut record = node.logs[&one()].record();
    let directory = node.engine.identity.directory_id;
    node.close();
    change(&mut record);
    append_record(dir.path(), directory, record);
    damage(dir.path())
}

/// Writes a third batch with a record as nobody would give it to the writer.
fn append_record(dir: &Path, directory: DirectoryId, record: GroupRecord) {
    let config = raft_engine::Config {
        dir: dir.join("log").to_str().unwrap().to_owned(),
        enable_log_recycle: false,
        ..Default::default()
    };
    let engine = raft_engine::Engine::open(config).unwrap();
    let mut batch = raft_engine::LogBatch::default();
    let before = StoredRecord::decode(one(), &engine.get(1, RECORD_KEY).unwrap()).unwrap();
    let mark = Mark { sequence: 3, ..before.mark };
    batch.put(1, RECORD_KEY.to_vec(), record.encode(one(), mark)).unwrap();
    let mut tally = Tally::default();
    tally.add(one(), 3);
    let stamp = Stamp { directory, sequence: 3, tally };
    batch.put(ENGINE_REGION, STAMP_KEY.to_vec(), stamp.encode()).unwrap();
    engine.write(&mut batch, true).unwrap();
}

/// As they come back when raft-engine has forgotten that they were dropped. To see it fail: let
/// `Source::recover` find nothing stale.
#[test]
fn trap_E05_entries_below_an_installed_snapshot_are_dropped_at_open() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.append(one(), entries(2..=9, 3));
    node.snapshot(one(), LogId::new(50, 4));
    let mut record = node.logs[&one()].record();
    let directory = node.engine.identity.directory_id;
    node.close();
    let at = LogId::new(50, 4);
    (record.truncated, record.last, record.snapshot) = (at, at, at);
    record.hard_state = hard_state(4, 1, 50);
    append_record(dir.path(), directory, record);
    let node = open_small(dir.path());
    assert_eq!(node.logs[&one()].last(), at);
    assert_eq!(node.engine.writer.store().engine().last_index(1), None);
    assert_eq!(node.engine.writer.sequence(), 4);
    node.close();
    let formatted = crate::Formatted::open(dir.path()).unwrap();
    let engine = Engine::open(formatted, &small_files()).unwrap();
    assert_eq!(engine.writer.sequence(), 4, "once is enough");
    assert_eq!(engine.groups[&one()].genesis.as_deref(), Some(&b"genesis"[..]));
}

#[test]
fn what_does_not_match_the_record_is_named() {
    type Case = (fn(&mut GroupRecord), Option<u64>, &'static str);
    let cases: [Case; 6] = [
        (|r| r.last = LogId::new(10, 3), Some(10), "missing from here on"),
        (
            |r| (r.last, r.hard_state.commit) = (LogId::new(8, 3), 8),
            Some(9),
            "recorded is 8-3 as the last one",
        ),
        (|r| r.last = LogId::new(9, 2), Some(2), "cannot follow"),
        (
            |r| (r.last, r.hard_state.term) = (LogId::new(9, 4), 4),
            Some(9),
            "the last entry is 9-3, recorded is 9-4",
        ),
        (|r| r.hard_state.commit = 10, None, "commit 10 is beyond"),
        (
            |r| (r.truncated, r.snapshot) = (LogId::default(), LogId::default()),
            Some(1),
            "entries up to 1 are recorded, and are missing",
        ),
    ];
    for (change, index, text) in cases {
        let damage = with_false_record(change);
        assert_eq!((damage.group, damage.index), (Some(one()), index), "{damage}");
        assert!(damage.what.contains(text), "{damage}");
    }
}

#[test]
fn a_missing_or_damaged_snapshot_is_named() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.close();
    let path = dir.path().join("snapshots/1/1-1.snap");
    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[12] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    let found = damage(dir.path());
    assert_eq!((found.group, &found.file), (Some(one()), &path), "{found}");
    std::fs::remove_file(&path).unwrap();
    let found = damage(dir.path());
    assert_eq!((found.group, &found.file), (Some(one()), &path), "{found}");
    std::fs::write(&path, bytes).unwrap();
    open_small(dir.path()).close();
}

/// Every file of a store, gone or exchanged, is named. To see it fail: take the witness out of
/// `Survey::of`, the stamps out of `Scan::record`, `LogFiles::gap`, the tally out of `Survey::check_tally`, or
/// `verify_snapshot`.
#[test]
fn trap_E07_a_lost_cut_or_exchanged_file_is_named() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    for index in 2..=300 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
        if index % 60 == 0 {
            node.compact(one(), index, index - 20);
            node.purge().unwrap();
        }
    }
    for index in 301..=380 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
    }
    node.close();
    let names: Vec<_> = log_files(dir.path()).into_iter().filter(|name| name != "LOCK").collect();
    assert!(names.len() > 4 && names.iter().any(|name| name.ends_with("1.rewrite")), "{names:?}");
    let mut paths: Vec<_> = names.iter().map(|name| format!("log/{name}")).collect();
    paths.extend(["witness", "snapshots/1/300-1.snap", "snapshots/2/1-1.snap"].map(str::to_owned));
    let records = |dir: &Path| {
        let node = open_small(dir);
        let records = [one(), two()].map(|group| {
            let log = &node.logs[&group];
            let (low, high) = (log.first_index(), log.last_index() + 1);
            (log.record(), (low < high).then(|| node.fetch(group, low, high).unwrap()))
        });
        node.close();
        records
    };
    let expected = records(dir.path());
    // Whether the harm is noticed, or does not matter: what a purge left behind may be dead.
    let is_safe = |harm: &dyn Fn(&Path)| {
        let copy = tempdir();
        copy_dir(dir.path(), copy.path());
        harm(copy.path());
        !findings(copy.path()).is_empty() || records(copy.path()) == expected
    };
    assert_eq!(findings(dir.path()), []);
    for path in &paths {
        let remove = |dir: &Path| std::fs::remove_file(dir.join(path)).unwrap();
        assert!(is_safe(&remove), "{path} removed");
        let len = std::fs::metadata(dir.path().join(path)).unwrap().len();
        for len in [0, 10, len / 2, len - 1] {
            let cut = |dir: &Path| {
                let file = std::fs::File::options().write(true).open(dir.join(path)).unwrap();
                file.set_len(len).unwrap();
            };
            assert!(is_safe(&cut), "{path} cut to {len}");
        }
        for other in paths.iter().filter(|other| *other != path) {
            let exchange = |dir: &Path| {
                std::fs::rename(dir.join(path), dir.join("x")).unwrap();
                std::fs::rename(dir.join(other), dir.join(path)).unwrap();
                std::fs::rename(dir.join("x"), dir.join(other)).unwrap();
            };
            assert!(is_safe(&exchange), "{path} and {other} exchanged");
        }
    }
}

/// To see it fail: take the directory out of `Scan::stamp`.
#[test]
fn trap_E07_a_whole_file_of_another_directory_is_not_taken() {
    let (dir, other) = (tempdir(), tempdir());
    for dir in [&dir, &other] {
        let mut node = open_small(dir.path());
        node.found(one());
        node.append(one(), entries(2..=9, 1));
        node.close();
    }
    let name = "log/0000000000000001.raftlog";
    std::fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
    let found = findings(dir.path());
    assert!(found[0].what.contains("in another directory"), "{found:?}");
    assert!(found[0].file.ends_with(name) && found[0].offset.is_some(), "{found:?}");
}

/// With the witness left behind, as a power loss right after an acknowledgement may leave it:
/// the records themselves say that the bad one was durable. To see it fail: take `record_behind`
/// out of `Scan`.
#[test]
fn trap_E07_a_bad_record_with_a_good_one_behind_it_is_damage() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    let fresh = std::fs::read(dir.path().join("witness")).unwrap();
    for index in 2..=6 {
        node.append(one(), vec![entry(index, 1)]);
    }
    node.close();
    std::fs::write(dir.path().join("witness"), fresh).unwrap();
    let path = dir.path().join("log/0000000000000001.raftlog");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(findings(dir.path()), []);
    let mut last_offset = None;
    for at in 69..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x40;
        std::fs::write(&path, flipped).unwrap();
        let found = findings(dir.path());
        match found.as_slice() {
            // The last record: nothing tells it from one that a crash tore.
            [] => assert!(last_offset < Some(at as u64)),
            [first, ..] => {
                assert!(first.offset.unwrap() <= at as u64, "byte {at}: {first}");
                last_offset = last_offset.max(Some(at as u64));
            }
        }
    }
    assert!(last_offset > Some(bytes.len() as u64 * 3 / 4));
}

/// To see it fail: take any of the checks of `trap_E07_a_lost_cut_or_exchanged_file_is_named` out.
#[test]
fn trap_E07_a_flipped_bit_is_never_silent_loss_and_never_wrong_data() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    for index in 2..=6 {
        node.append(one(), vec![entry(index, 1)]);
    }
    node.close();
    let path = dir.path().join("log/0000000000000001.raftlog");
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        let found = findings(dir.path());
        assert!(!found.is_empty(), "byte {at}");
        for finding in found {
            let at_record = finding.offset.is_some_and(|offset| offset <= at as u64);
            assert!(finding.file == path && at_record, "byte {at}: {finding}");
        }
    }
}

/// To see it fail: take `quarantine` out of `Opening::condemn_if`.
#[test]
fn a_directory_with_a_finding_stays_in_quarantine() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.close();
    let witness = dir.path().join("witness");
    let bytes = std::fs::read(&witness).unwrap();
    std::fs::remove_file(&witness).unwrap();
    let open = || open(dir.path(), &small_files(), &Arc::default()).map(drop);
    let first = open().unwrap_err().to_string();
    assert!(first.contains("witness") && first.contains("missing"), "{first}");
    std::fs::write(&witness, bytes).unwrap();
    assert_eq!(open().unwrap_err().to_string(), first, "also when the cause is gone");
}

/// To see it fail: take `quarantine` out of `Opening::recover`.
#[test]
fn a_damaged_group_stays_in_quarantine_and_others_go_on() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.found(two());
    node.append(one(), entries(2..=5, 1));
    node.close();
    let path = dir.path().join("snapshots/2/1-1.snap");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut node = open_small(dir.path());
    assert!(node.engine.damaged[&two()][0].what.contains("is missing"));
    assert_eq!(node.logs.keys().copied().collect::<Vec<_>>(), [one()]);
    for index in 6..=400 {
        node.append(one(), vec![entry_of(index, 1, 100)]);
    }
    node.compact(one(), 400, 390);
    let before = log_files(dir.path());
    assert_eq!(node.purge().unwrap(), []);
    assert_eq!(log_files(dir.path()), before, "what is damaged stays where it is");
    node.close();
    std::fs::write(&path, bytes).unwrap();
    let node = open_small(dir.path());
    assert!(node.engine.damaged[&two()][0].what.contains("is missing"));
    assert_eq!(node.logs[&one()].last(), LogId::new(400, 1));
    node.close();
}

/// After a kill the end of the log may be in memory only. To see it fail: take `make_durable` out
/// of `Opening::recover`.
#[test]
fn trap_E09_what_was_found_is_synced_before_anything_relies_on_it() {
    let dir = tempdir();
    let mut node = open_small(dir.path());
    node.found(one());
    node.close();
    let faults = Arc::<crate::testing::Faults>::default();
    let node = open(dir.path(), &small_files(), &faults).unwrap();
    // Witness, log, rewritten log, and the witness again with what was found.
    assert_eq!(faults.syncs(), 4);
    node.close();
    faults.sync_fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = open(dir.path(), &small_files(), &faults).err().unwrap();
    assert!(matches!(error, OpenError::Io { .. } | OpenError::Disk { .. }), "{error}");
}

#[test]
fn settings_that_are_not_valid_are_refused() {
    let dir = tempdir();
    let config = EngineConfig { reader_queue_max: 0, ..small_files() };
    let error = open(dir.path(), &config, &Arc::default()).err().unwrap();
    assert!(matches!(&error, OpenError::Config { faults } if faults.len() == 1), "{error}");
    assert!(!dir.path().join("log").exists());
}
