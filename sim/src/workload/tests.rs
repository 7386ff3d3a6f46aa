use std::collections::BTreeSet;

use super::*;
use crate::scratch::scratch;
use crate::{CrashDisk, Moment, Phase};

/// The operations of a history, and how it ends.
fn history(seed: u64) -> (Vec<String>, Promise) {
    let dir = scratch().unwrap();
    found(dir.path()).unwrap();
    let disk = Arc::new(CrashDisk::new(dir.path()).unwrap());
    let operations = Arc::new(Mutex::new(Vec::new()));
    disk.observe({
        let operations = operations.clone();
        move |moment: &Moment<'_>| {
            if moment.phase() == Phase::After {
                operations.lock().unwrap().push(moment.operation().to_string());
            }
        }
    });
    let promise = run(seed, disk.clone(), dir.path(), Ledger::default()).unwrap();
    let engine = Engine::open_with(Formatted::open(dir.path()).unwrap(), &config(), disk).unwrap();
    let found = StoreState::read(&engine).unwrap();
    assert_eq!(found.difference(&promise.acknowledged), None);
    let operations = std::mem::take(&mut *operations.lock().unwrap());
    (operations, promise)
}

#[test]
fn a_history_is_recovered_exactly() {
    for seed in 0..20 {
        let (_, promise) = history(seed);
        assert_eq!(promise.acknowledged.groups.len(), 2);
        assert!(promise.in_flight.is_none());
    }
}

#[test]
fn a_seed_gives_one_history() {
    let ((first, _), (second, _)) = (history(5), history(5));
    assert!(first.len() > 100, "{}", first.len());
    assert_eq!(first, second);
}

#[test]
fn histories_rotate_purge_and_rewrite() {
    let operations: Vec<_> = (0..5).flat_map(|seed| history(seed).0).collect();
    let kinds: BTreeSet<_> = operations.iter().filter_map(|text| text.split(' ').nth(1)).collect();
    for kind in ["create", "write", "allocate", "truncate", "sync", "delete", "sync_dir"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    let has = |part: &str| operations.iter().any(|text| text.contains(part));
    assert!(
        has("create log/0000000000000005.raftlog") && has("delete log/0000000000000001.raftlog")
    );
    let rewritten =
        operations.iter().filter(|text| text.contains("write log/0000000000000001.rewrite"));
    assert!(rewritten.count() > 5, "headers alone are not enough");
}

#[test]
fn a_full_disk_is_told_as_such_and_what_was_acknowledged_is_there() {
    let dir = scratch().unwrap();
    found(dir.path()).unwrap();
    let disk = Arc::new(CrashDisk::new(dir.path()).unwrap());
    let ledger = Ledger::default();
    let mut workload = Workload::start(disk.clone(), dir.path(), ledger.clone()).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 9000));
    let group = GroupId::new(1).unwrap();
    let change = || step::Change::Append { count: 5, len: 200, is_new_term: false };
    let full = loop {
        match workload.take(&Step::Change { group, change: change() }) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, WorkloadError::Write(WriteError::Full { .. })), "{full}");
    let promise = ledger.promise();
    assert!(promise.acknowledged.groups[&group].entries.len() > 10);
    drop(workload);
    disk.set_capacity(None);
    let engine = Engine::open_with(Formatted::open(dir.path()).unwrap(), &config(), disk).unwrap();
    let found = StoreState::read(&engine).unwrap();
    assert_eq!(found.difference(&promise.acknowledged), None);
}

/// raft-engine and the engine list directories with the real file system: names are there, and
/// contents are not. What raft-engine removes is gone for good, since the engine syncs the directory
/// through its disk. To see it fail: take the mirror out of `CrashDisk::create`, or `sync_dir` out
/// of the engine's `LatchedFileSystem::delete`.
#[test]
#[allow(non_snake_case, reason = "it carries the number of its trap")]
fn trap_E13_names_are_mirrored_and_what_is_removed_stays_so() {
    let numbers = |root: &Path| -> BTreeSet<String> {
        let names = std::fs::read_dir(root.join("log")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".raftlog")).collect()
    };
    let mut purged = 0;
    for seed in 0..20 {
        let (dir, left) = (scratch().unwrap(), scratch().unwrap());
        found(dir.path()).unwrap();
        let disk = CrashDisk::new(dir.path()).unwrap();
        run(seed, Arc::new(disk.clone()), dir.path(), Ledger::default()).unwrap();
        let mirrored = numbers(dir.path());
        for name in &mirrored {
            let path = Path::new("log").join(name);
            assert_eq!(std::fs::metadata(dir.path().join(&path)).unwrap().len(), 0);
            assert!(disk.content(&path).unwrap().starts_with(b"RAFT-LOG-FILE-HEADER"));
        }
        purged += usize::from(!mirrored.contains("0000000000000001.raftlog"));
        let root = left.path().join("left");
        disk.image().unwrap().power_loss(crate::Survival::LoseAll, &root).unwrap();
        assert_eq!(numbers(&root), mirrored, "seed {seed}");
    }
    assert!(purged > 2, "{purged} of 20 histories lost their first file to a purge");
}
