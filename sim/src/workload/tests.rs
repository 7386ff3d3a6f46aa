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
