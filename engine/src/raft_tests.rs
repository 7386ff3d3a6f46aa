//! The log below a real `RawNode`, persisted asynchronously: what Raft asks for is there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode};

use crate::testing::{Node, TestFileSystem, one, open, small_files, tempdir};
use crate::{GroupLog, GroupWrite, LogId};

/// Writes whose receipts are kept back: how far a member runs ahead of its disk.
const IN_FLIGHT_MAX: usize = 3;

struct Member {
    raw: RawNode<GroupLog>,
    node: Node<TestFileSystem>,
    /// Ready number, write, and the messages that wait for it.
    in_flight: VecDeque<(u64, GroupWrite, Vec<Message>)>,
    applied: Vec<(u64, Vec<u8>)>,
    _dir: tempfile::TempDir,
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

impl Member {
    fn new(id: u64) -> Self {
        let dir = tempdir();
        let mut node = open(dir.path(), &small_files(), &Arc::default()).unwrap();
        node.found(one());
        let log = node.logs.remove(&one()).unwrap();
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 2,
            applied: 1,
            max_size_per_msg: 400,
            max_inflight_msgs: 4,
            ..Config::default()
        };
        let raw = RawNode::new(&config, log, &logger()).unwrap();
        Self { raw, node, in_flight: VecDeque::new(), applied: Vec::new(), _dir: dir }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        for entry in entries {
            self.applied.push((entry.index, entry.data.to_vec()));
        }
        self.raw.advance_apply_to(last);
        self.raw.mut_store().applied_to(last);
    }

    /// Emits what Raft has, without waiting for the disk; returns what may leave at once.
    fn emit(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            sent.extend(ready.take_messages());
            let store = self.raw.mut_store();
            let mut install = false;
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata();
                let id = LogId::new(metadata.index, metadata.term);
                store.install_snapshot(id, metadata.get_conf_state().clone());
                install = true;
            }
            store.append(ready.entries());
            if let Some(hard_state) = ready.hs() {
                store.set_hard_state(hard_state.clone());
            }
            let write = GroupWrite {
                group: one(),
                number: 100 + ready.number(),
                entries: ready.entries().clone(),
                record: store.record(),
                install,
                genesis: None,
            };
            let committed = ready.take_committed_entries();
            let waiting = ready.take_persisted_messages();
            self.in_flight.push_back((ready.number(), write, waiting));
            self.raw.advance_append_async(ready);
            self.apply(committed);
            if self.in_flight.len() > IN_FLIGHT_MAX {
                break;
            }
        }
        sent
    }

    /// Makes all that is in flight durable in one round; returns what may leave now.
    fn sync(&mut self) -> Vec<Message> {
        let round: Vec<_> = self.in_flight.drain(..).collect();
        let writes = round.iter().map(|(_, write, _)| write.clone()).collect();
        let receipts = self.node.engine.writer.write(writes).unwrap();
        let mut sent = Vec::new();
        for ((number, write, messages), receipt) in round.into_iter().zip(receipts) {
            assert_eq!(receipt.number(), 100 + number);
            self.raw.mut_store().persisted_to(write.record.last);
            self.raw.on_persist_ready(number);
            sent.extend(messages);
        }
        sent
    }

    /// Reads from disk what Raft wants for members that are behind.
    fn serve_fetches(&mut self) -> usize {
        let fetches = self.raw.store().take_fetches();
        let count = fetches.len();
        for fetch in fetches {
            let (sender, receiver) = std::sync::mpsc::channel();
            let answer = move |fetched| sender.send(fetched).unwrap();
            self.node.engine.reader.fetch(fetch, answer).unwrap();
            let fetched: crate::Fetched = receiver.recv().unwrap();
            self.raw.mut_store().deliver(fetched.low, fetched.result.unwrap());
            self.raw.on_entries_fetched(fetched.context);
        }
        count
    }
}

struct Cluster {
    members: BTreeMap<u64, Member>,
    cut_off: Option<u64>,
    fetches: usize,
    snapshots: usize,
}

impl Cluster {
    fn new() -> Self {
        let members = (1..=3).map(|id| (id, Member::new(id))).collect();
        Self { members, cut_off: None, fetches: 0, snapshots: 0 }
    }

    /// Runs until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut messages = Vec::new();
            for member in self.members.values_mut() {
                messages.extend(member.emit());
                if !member.in_flight.is_empty() {
                    messages.extend(member.sync());
                }
                self.fetches += member.serve_fetches();
                messages.extend(member.emit());
            }
            let is_quiet = messages.is_empty()
                && self.members.values().all(|m| !m.raw.has_ready() && m.in_flight.is_empty());
            if is_quiet {
                return;
            }
            for message in messages {
                self.deliver(message);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        if self.cut_off == Some(from) || self.cut_off == Some(to) {
            if is_snapshot {
                let sender = self.members.get_mut(&from).unwrap();
                sender.raw.report_snapshot(to, raft::SnapshotStatus::Failure);
            }
            return;
        }
        if is_snapshot {
            self.snapshots += 1;
            self.copy_snapshot(&message);
        }
        self.members.get_mut(&to).unwrap().raw.step(message).unwrap();
        if is_snapshot {
            let sender = self.members.get_mut(&from).unwrap();
            sender.raw.report_snapshot(to, raft::SnapshotStatus::Finish);
        }
    }

    /// The file goes beside Raft, and before the message.
    fn copy_snapshot(&mut self, message: &Message) {
        let metadata = message.get_snapshot().get_metadata();
        let id = LogId::new(metadata.index, metadata.term);
        let sender = &self.members[&message.from].node.engine.snapshots;
        let mut file = sender.raw(one(), id).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let receiver = &self.members[&message.to].node.engine.snapshots;
        let mut receiver = receiver.receive(one(), id, file.digest()).unwrap();
        receiver.write(&bytes).unwrap();
        assert_eq!(receiver.finish().unwrap().conf_state, *metadata.get_conf_state());
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for (id, member) in &mut self.members {
                if Some(*id) != self.cut_off {
                    member.raw.tick();
                }
            }
            self.settle();
        }
    }

    /// Proposes at member 1, in bursts that run ahead of the disk.
    fn propose(&mut self, count: usize) {
        for number in 0..count {
            let data = format!("{number} {}", "x".repeat(60)).into_bytes();
            self.members.get_mut(&1).unwrap().raw.propose(vec![], data).unwrap();
            if number % 7 == 0 {
                self.settle();
            }
        }
        self.settle();
    }

    fn snapshot_and_compact(&mut self, id: u64, keep: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let index = member.applied.last().unwrap().0;
        let store = member.raw.store();
        let position = LogId::new(index, store.term(index).unwrap());
        let meta = member.node.snapshot(one(), position);
        let store = member.raw.mut_store();
        assert!(store.set_snapshot(position, meta.conf_state));
        store.compact_to(index - keep);
    }
}

fn elected() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.members.get_mut(&1).unwrap().raw.campaign().unwrap();
    cluster.settle();
    assert_eq!(cluster.members[&1].raw.raft.state, raft::StateRole::Leader);
    cluster
}

/// With a cache of no bytes at all: only what is pinned is in memory.
#[test]
fn trap_R05_raft_runs_ahead_of_the_disk_and_finds_all_it_reads() {
    let mut cluster = elected();
    cluster.propose(200);
    cluster.tick(4);
    let expected = cluster.members[&1].applied.clone();
    assert_eq!(expected.len(), 201, "200 and the leader's own");
    for member in cluster.members.values() {
        assert_eq!(member.applied, expected);
        assert_eq!(member.raw.store().last(), LogId::new(202, 2));
    }
}

#[test]
fn trap_R08_a_member_that_was_away_is_served_from_disk() {
    let mut cluster = elected();
    cluster.cut_off = Some(3);
    cluster.propose(200);
    cluster.tick(4);
    cluster.cut_off = None;
    cluster.tick(12);
    assert!(cluster.fetches > 0, "the cache holds nothing of it");
    assert_eq!(cluster.snapshots, 0);
    assert_eq!(cluster.members[&3].applied, cluster.members[&1].applied);
}

#[test]
fn trap_R08_a_member_that_was_away_too_long_gets_the_snapshot() {
    let mut cluster = elected();
    cluster.cut_off = Some(3);
    cluster.propose(200);
    cluster.tick(4);
    cluster.snapshot_and_compact(1, 10);
    cluster.cut_off = None;
    cluster.tick(12);
    cluster.propose(20);
    cluster.tick(4);
    assert!(cluster.snapshots > 0);
    let (leader, late) = (&cluster.members[&1], &cluster.members[&3]);
    assert_eq!(late.raw.store().last(), leader.raw.store().last());
    assert_eq!(late.raw.store().snapshot_id(), LogId::new(202, 2));
    // The first entry it had before it was cut off; what is between came as a snapshot.
    assert_eq!(late.applied[0], leader.applied[0]);
    assert_eq!(late.applied[1..], leader.applied[201..]);
}

/// Votes, terms and entries as they are found again are where Raft goes on.
#[test]
fn trap_R07_every_member_goes_on_after_a_restart() {
    let mut cluster = elected();
    cluster.propose(50);
    cluster.tick(4);
    for member in std::mem::take(&mut cluster.members).into_values() {
        let Member { raw, node, _dir: dir, .. } = member;
        let expected = raw.store().record();
        node.close();
        let mut node = open(dir.path(), &small_files(), &Arc::default()).unwrap();
        let log = node.logs.remove(&one()).unwrap();
        let found = log.record();
        assert_eq!(found.last, expected.last);
        assert_eq!(found.hard_state.term, expected.hard_state.term);
        assert_eq!(found.hard_state.vote, expected.hard_state.vote);
        let applied = found.hard_state.commit;
        let config = Config { id: raw.raft.id, applied, ..Config::default() };
        let mut raw = RawNode::new(&config, log, &logger()).unwrap();
        raw.mut_store().applied_to(applied);
        assert!(!raw.has_ready());
        node.close();
    }
}
