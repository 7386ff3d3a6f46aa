//! A random history against a plain model of a log, and against raft-rs's own storage in memory,
//! with every reopening exact, after a clean close and after a kill.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use raft::eraftpb::{Entry, Snapshot};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, Storage};

use crate::testing::{
    Node, TestFileSystem, copy_dir, entry_of, hard_state, one, open, small_files, tempdir, two,
    voters,
};
use crate::{EngineConfig, GroupId, GroupLog, LogId};

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, len: usize, is_new_term: bool },
    Overwrite { back: u64, count: u64 },
    Vote { vote: u64 },
    Commit { part: u64 },
    Snapshot { part: u64 },
    Compact { part: u64 },
    Install { ahead: u64 },
    Purge,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_u64, 0..300_usize, any::<bool>())
            .prop_map(|(count, len, is_new_term)| Step::Append { count, len, is_new_term }),
        2 => (1..15_u64, 1..5_u64).prop_map(|(back, count)| Step::Overwrite { back, count }),
        1 => (1..4_u64).prop_map(|vote| Step::Vote { vote }),
        3 => (0..=4_u64).prop_map(|part| Step::Commit { part }),
        2 => (0..=4_u64).prop_map(|part| Step::Snapshot { part }),
        2 => (0..=4_u64).prop_map(|part| Step::Compact { part }),
        1 => (1..30_u64).prop_map(|ahead| Step::Install { ahead }),
        2 => Just(Step::Purge),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ]
}

/// What a group must be, in the plainest form.
#[derive(Debug, Clone)]
struct Model {
    term: u64,
    vote: u64,
    commit: u64,
    snapshot: LogId,
    truncated: LogId,
    /// All entries beyond `truncated`.
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn last(&self) -> LogId {
        self.entries
            .last_key_value()
            .map_or(self.truncated, |(index, entry)| LogId::new(*index, entry.term))
    }

    fn at(&self, index: u64) -> LogId {
        let term = self.entries.get(&index).map_or(self.truncated.term, |entry| entry.term);
        LogId::new(index, term)
    }

    /// A point `part` quarters of the way from `low` to `high`.
    fn between(low: u64, high: u64, part: u64) -> u64 {
        low + high.saturating_sub(low) * part / 4
    }
}

struct World {
    dir: tempfile::TempDir,
    config: EngineConfig,
    node: Option<Node<TestFileSystem>>,
    models: BTreeMap<GroupId, Model>,
    sequence: u64,
}

impl World {
    fn new(cache_bytes_max: u64) -> Self {
        let dir = tempdir();
        let config = EngineConfig { cache_bytes_max, ..small_files() };
        let mut node = open(dir.path(), &config, &Arc::default()).unwrap();
        let mut models = BTreeMap::new();
        let id = LogId::new(1, 1);
        let model = Model {
            term: 1,
            vote: 0,
            commit: 1,
            snapshot: id,
            truncated: id,
            entries: BTreeMap::new(),
        };
        for group in [one(), two()] {
            node.found(group);
            models.insert(group, model.clone());
        }
        Self { dir, config, node: Some(node), models, sequence: 2 }
    }

    fn take(&mut self, group: GroupId, step: Step) {
        let node = self.node.as_mut().unwrap();
        let model = self.models.get_mut(&group).unwrap();
        let last = model.last();
        let (mut entries, mut is_install) = (Vec::new(), false);
        match step {
            Step::Append { count, len, is_new_term } => {
                model.term += u64::from(is_new_term);
                let indexes = last.index + 1..=last.index + count;
                entries = indexes.map(|index| entry_of(index, model.term, len)).collect();
            }
            Step::Overwrite { back, count } => {
                // Never what is committed: Raft does not, either.
                let from = (last.index + 1).saturating_sub(back).max(model.commit + 1);
                model.term += 1;
                entries = (from..from + count).map(|i| entry_of(i, model.term, 9)).collect();
            }
            Step::Vote { vote } => (model.term, model.vote) = (model.term + 1, vote),
            Step::Commit { part } => {
                model.commit = Model::between(model.commit, last.index, part);
            }
            Step::Snapshot { part } => {
                let index = Model::between(model.snapshot.index, model.commit, part);
                if index > model.snapshot.index {
                    model.snapshot = model.at(index);
                    let meta = node.snapshot(group, model.snapshot);
                    node.log(group).applied_to(model.commit);
                    assert!(node.log(group).set_snapshot(model.snapshot, meta.conf_state));
                }
            }
            Step::Compact { part } => {
                let index = Model::between(model.truncated.index, model.snapshot.index, part);
                let to = index.min(last.index.saturating_sub(1)).max(model.truncated.index);
                let id = model.at(to);
                assert_eq!(node.log(group).compact_to(index), id);
                model.truncated = id;
                model.entries.retain(|index, _| *index > to);
            }
            Step::Install { ahead } => {
                model.term += 1;
                let id = LogId::new(model.commit + ahead, model.term);
                let meta = node.snapshot(group, id);
                node.log(group).install_snapshot(id, meta.conf_state);
                (model.snapshot, model.truncated, model.commit) = (id, id, id.index);
                model.entries.clear();
                is_install = true;
            }
            Step::Purge => drop(node.purge().unwrap()),
            Step::Reopen => return self.reopen(),
            Step::Crash => return self.crash(),
        }
        if let Some(first) = entries.first() {
            model.entries.retain(|index, _| *index < first.index);
            model.entries.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        let log = node.log(group);
        log.append(&entries);
        log.set_hard_state(hard_state(model.term, model.vote, model.commit));
        let mut write = node.part(group, entries);
        write.install = is_install;
        let receipts = node.commit(vec![write]).unwrap();
        self.sequence += 1;
        assert_eq!(receipts[0].sequence(), self.sequence);
        let commit = model.commit;
        node.log(group).applied_to(commit);
        let keep = model.snapshot;
        node.engine.snapshots.retain(group, keep).unwrap();
    }

    /// Goes on in a copy of what the files hold at this moment, as a killed process leaves them.
    fn crash(&mut self) {
        let left = tempdir();
        copy_dir(self.dir.path(), left.path());
        self.node.take().unwrap().close();
        self.dir = left;
        self.open();
    }

    fn reopen(&mut self) {
        self.node.take().unwrap().close();
        self.open();
    }

    fn open(&mut self) {
        let node = open(self.dir.path(), &self.config, &Arc::default()).unwrap();
        // Compactions that had to be repeated are a batch.
        let sequence = node.engine.writer.sequence();
        assert!((self.sequence..=self.sequence + 1).contains(&sequence));
        self.sequence = sequence;
        self.node = Some(node);
    }

    fn check(&self) {
        let node = self.node.as_ref().unwrap();
        for (group, model) in &self.models {
            let log = &node.logs[group];
            let expected = (model.truncated, model.last(), model.snapshot);
            assert_eq!((log.truncated(), log.last(), log.snapshot_id()), expected);
            assert_eq!(log.hard_state(), &hard_state(model.term, model.vote, model.commit));
            for index in log.first_index() - 1..=log.last_index() {
                assert_eq!(Storage::term(log, index).unwrap(), model.at(index).term);
            }
            let expected: Vec<_> = model.entries.values().cloned().collect();
            let (low, high) = (log.first_index(), log.last_index() + 1);
            if low < high {
                assert_eq!(node.fetch(*group, low, high).unwrap(), expected);
            }
            // And from memory, as far as Raft may ask without waiting.
            let low = model.commit + 1;
            let found = log.entries(low, high, None, GetEntriesContext::empty(false)).unwrap();
            let expected: Vec<_> = model.entries.range(low..).map(|(_, e)| e.clone()).collect();
            assert_eq!(found, expected);
            check_contract(log, model);
        }
    }
}

/// What Raft is told must be what its own storage would tell it.
fn check_contract(log: &GroupLog, model: &Model) {
    let raft = MemStorage::new();
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (model.truncated.index, model.truncated.term);
    metadata.set_conf_state(voters());
    raft.wl().apply_snapshot(snapshot).unwrap();
    let entries: Vec<_> = model.entries.values().cloned().collect();
    raft.wl().append(&entries).unwrap();
    raft.wl().mut_hard_state().clone_from(&hard_state(model.term, model.vote, model.commit));
    let (ours, theirs) = (log.initial_state().unwrap(), raft.initial_state().unwrap());
    assert_eq!((ours.hard_state, ours.conf_state), (theirs.hard_state, theirs.conf_state));
    let (first, last) = (raft.first_index().unwrap(), raft.last_index().unwrap());
    assert_eq!(
        (Storage::first_index(log).unwrap(), Storage::last_index(log).unwrap()),
        (first, last)
    );
    for index in 0..=last + 2 {
        assert_eq!(Storage::term(log, index), raft.term(index), "term of {index}");
    }
    let none = || GetEntriesContext::empty(false);
    let compacted = Storage::entries(log, first - 1, last + 1, None, none());
    assert_eq!(compacted, raft.entries(first - 1, last + 1, None, none()));
    // What is not applied yet is asked for without waiting, in any size.
    for low in (model.commit + 1).max(first)..=last {
        for high in [low + 1, last + 1] {
            for bytes_max in [None, Some(0), Some(100), Some(700)] {
                let ours = log.entries(low, high, bytes_max, none());
                assert_eq!(ours, raft.entries(low, high, bytes_max, none()), "[{low}, {high})");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_recovered_exactly(
        steps in prop::collection::vec((any::<bool>(), step()), 1..60),
        cache_bytes_max in prop_oneof![Just(0), Just(5_000), Just(1 << 20)],
    ) {
        let mut world = World::new(cache_bytes_max);
        for (is_first, step) in steps {
            world.take(if is_first { one() } else { two() }, step);
            world.check();
        }
        world.reopen();
        world.check();
    }
}
