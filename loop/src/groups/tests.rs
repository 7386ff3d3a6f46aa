//! Three nodes' groups on real logs, with the network and the clock in the hands of the test.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{
    CacheBudget, ClusterId, DefaultFileSystem, DirectoryId, Engine, EngineConfig, Formatted,
    Founding, GroupLog, GroupWrite, LogId, LogWriter, SnapshotMeta, Voter,
};
use quorate_statemachine::Metadata;
use raft::eraftpb::{ConfState, MessageType};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::catalogue::Catalogue;
use crate::config::LoopConfig;
use crate::core::beginning::tests::{LAST, MOVED, restarted};
use crate::core::{Apply, Core};
use crate::heartbeat::Heartbeat;
use crate::inbox::ProposeCaller;
use crate::members::Members;
use crate::message::{Envelope, PeerMessage};
use crate::proposal::Proposal;
use crate::status::{GroupStatus, Role};

const NODES: [u64; 3] = [1, 2, 3];
const ELECTION_TICKS: u64 = 10;
const HEARTBEAT_TICKS: u64 = 2;

fn node(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn group() -> GroupId {
    GroupId::new(7).unwrap()
}

struct Node {
    groups: Groups<Metadata>,
    heartbeats: Heartbeats,
    writer: LogWriter<DefaultFileSystem>,
    status: watch::Receiver<GroupStatus>,
}

impl Node {
    fn new(n: u64, directory: &TempDir) -> Node {
        let voters = NODES.map(|n| (node(n), directory_of(n), format!("localhost:{n}")));
        let members = Members::founding(voters);
        let meta = SnapshotMeta {
            group: group(),
            id: LogId { index: 1, term: 1 },
            conf_state: ConfState::from((NODES.to_vec(), vec![])),
            members: members.encode(),
        };
        let addrs = NODES.map(|n| Voter { node_id: node(n), addr: format!("localhost:{n}") });
        let path = directory.path().join(n.to_string());
        let founding = Founding::Voters(addrs.to_vec());
        quorate_engine::format(&path, ClusterId::random(), node(n), founding).unwrap();
        let mut engine: Engine<DefaultFileSystem> =
            Engine::open(Formatted::open(path).unwrap(), &EngineConfig::default()).unwrap();
        let log = GroupLog::founded(group(), &meta, &CacheBudget::new(1 << 20));
        let write = GroupWrite {
            group: group(),
            number: 1,
            entries: Vec::new(),
            record: log.record(),
            install: false,
            genesis: None,
        };
        engine.writer.write(vec![write]).unwrap();
        let config = LoopConfig {
            election_ticks: ELECTION_TICKS as u32,
            heartbeat_ticks: HEARTBEAT_TICKS as u32,
            ..LoopConfig::default()
        };
        let standing = (Arc::new(members), Catalogue::default());
        let core = Core::new(group(), n, standing, log, config, 1).unwrap();
        let (status, watching) = watch::channel(GroupStatus::founding(0));
        let mut groups = Groups::new();
        groups.insert(group(), Slot::new(group(), status));
        groups.begin(group(), core);
        let heartbeats = Heartbeats::default();
        Node { groups, heartbeats, writer: engine.writer, status: watching }
    }

    fn slot(&self) -> &Slot<Metadata> {
        &self.groups.slots[&group()]
    }

    /// Carries everything out that is touched, the disk with it, and returns what it says, but for
    /// heartbeats.
    fn carry_out(&mut self) -> Vec<Envelope> {
        let mut said = Vec::new();
        while self.groups.is_any_touched() {
            for (group, mut effects) in self.groups.take_effects() {
                let mut next = Vec::new();
                for work in std::mem::take(&mut effects.apply) {
                    let Apply::Entries(entries) = work else { panic!("no snapshot was made") };
                    next.extend(entries.last().map(|entry| Input::Applied(entry.at.index)));
                }
                if let Some(write) = effects.write.take() {
                    let durable = self.writer.write(vec![write]).unwrap();
                    next.extend(durable.into_iter().map(Input::Durable));
                }
                for envelope in std::mem::take(&mut effects.messages) {
                    said.extend(self.heartbeats.gather(group, envelope));
                }
                answer(effects);
                self.groups.carried_out(group, 0);
                next.into_iter().for_each(|input| self.groups.step(group, input));
            }
        }
        said
    }
}

fn directory_of(n: u64) -> DirectoryId {
    DirectoryId::from_bytes([n as u8; 16])
}

/// What is heard at the other end.
enum Message {
    Beat(Heard),
    Other(NodeId, PeerMessage),
}

struct Cluster {
    nodes: BTreeMap<u64, Node>,
    /// Whom nobody hears, and who hears nobody.
    cut_off: Vec<u64>,
    /// Beats that were sent, answers not counted.
    beats: u64,
    _directory: TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let nodes = NODES.map(|n| (n, Node::new(n, &directory))).into();
        let mut cluster = Cluster { nodes, cut_off: Vec::new(), beats: 0, _directory: directory };
        cluster.settle();
        cluster
    }

    /// Lets everything happen that needs no tick.
    fn settle(&mut self) {
        loop {
            let mut said = VecDeque::new();
            for (&from, at) in &mut self.nodes {
                for Envelope { to, message } in at.carry_out() {
                    said.push_back((from, to.get(), Message::Other(node(from), message)));
                }
                let (beats, answers) = at.heartbeats.take();
                self.beats += beats.values().map(|beats| beats.len() as u64).sum::<u64>();
                let beats = beats.into_iter().map(|to| (MessageType::MsgHeartbeat, to));
                let answers = answers.into_iter().map(|to| (MessageType::MsgHeartbeatResponse, to));
                for (kind, (to, beats)) in beats.chain(answers) {
                    let hear = |beat: Heartbeat| Heard { from: node(from), kind, beat };
                    said.extend(
                        beats.into_iter().map(|beat| (from, to.get(), Message::Beat(hear(beat)))),
                    );
                }
            }
            if said.is_empty() {
                return;
            }
            for (from, to, message) in said {
                if self.cut_off.contains(&from) || self.cut_off.contains(&to) {
                    continue;
                }
                let at = self.nodes.get_mut(&to).unwrap();
                match message {
                    Message::Beat(heard) => at.groups.step_heartbeat(heard, &mut at.heartbeats),
                    Message::Other(from, message) => {
                        at.groups.step(group(), Input::Peer { from, message });
                    }
                }
            }
        }
    }

    fn tick(&mut self) {
        for at in self.nodes.values_mut() {
            at.groups.tick(&mut at.heartbeats);
        }
        self.settle();
    }

    fn leaders(&self) -> Vec<u64> {
        let leads =
            |(n, at): (&u64, &Node)| (at.status.borrow().role == Role::Leader).then_some(*n);
        self.nodes.iter().filter_map(leads).collect()
    }

    fn term(&self, n: u64) -> u64 {
        self.nodes[&n].status.borrow().term
    }

    /// Ticks until this is so, and returns how often.
    fn tick_until(&mut self, what: &str, is_so: impl Fn(&Cluster) -> bool) -> u64 {
        for ticks in 0..100 * ELECTION_TICKS {
            if is_so(self) {
                return ticks;
            }
            self.tick();
        }
        panic!("waited for {what} in vain");
    }

    /// A cluster with a leader, in which every group has become quiescent.
    fn quiescent() -> (Cluster, u64) {
        let mut cluster = Cluster::new();
        cluster.tick_until("a leader", |cluster| !cluster.leaders().is_empty());
        cluster.tick_until("quiescence", Cluster::is_quiescent);
        let leader = cluster.leaders()[0];
        (cluster, leader)
    }

    fn is_quiescent(&self) -> bool {
        self.nodes.values().all(|at| at.slot().is_quiescent())
    }

    fn clocks(&self) -> Vec<u64> {
        self.nodes.values().map(|at| at.slot().core_ticks()).collect()
    }
}

/// To see it fail: let `hear_again` return false.
#[test]
fn a_quiescent_group_beats_on_and_its_cores_are_left_alone() {
    let (mut cluster, leader) = Cluster::quiescent();
    let (clocks, term) = (cluster.clocks(), cluster.term(leader));
    cluster.beats = 0;
    (0..1_000 * HEARTBEAT_TICKS).for_each(|_| cluster.tick());
    assert_eq!(cluster.clocks(), clocks, "no core has seen a tick");
    assert_eq!(cluster.beats, 2 * 1_000, "each follower was beaten for, each time");
    assert!(cluster.is_quiescent());

    // It is none any more when it has something to do, and goes on as if it had been none.
    let (caller, mut answer) = oneshot::channel();
    let proposal = Proposal {
        session: None,
        command: Bytes::from_static(b"not a command, which is no matter"),
    };
    propose(&mut cluster, leader, proposal, caller);
    assert!(!cluster.nodes[&leader].slot().is_quiescent());
    for n in NODES {
        assert_eq!(cluster.term(n), term);
        let status = cluster.nodes[&n].status.borrow().clone();
        let (positions, led_by) = ((status.last_index, status.commit_index), status.leader);
        assert_eq!((positions, led_by), ((3, 3), Some(node(leader))), "node {n}");
    }
    // It was handed to the state machine, which here lets go of whoever waits for it.
    assert_eq!(answer.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
    cluster.tick_until("quiescence", Cluster::is_quiescent);
    assert_eq!((cluster.leaders(), cluster.term(leader)), (vec![leader], term));
}

fn propose(cluster: &mut Cluster, n: u64, proposal: Proposal, caller: ProposeCaller<Metadata>) {
    let at = cluster.nodes.get_mut(&n).unwrap();
    at.groups.step(group(), Input::Propose { proposal, caller });
    cluster.settle();
}

#[test]
fn a_leader_that_falls_silent_is_replaced_as_soon_as_ever() {
    let (mut cluster, leader) = Cluster::quiescent();
    (0..501).for_each(|_| cluster.tick());
    cluster.cut_off.push(leader);
    let is_given_up = |cluster: &Cluster| {
        cluster.nodes.values().any(|at| at.status.borrow().leader != Some(node(leader)))
    };
    let ticks = cluster.tick_until("the leader to be given up", is_given_up);
    // A follower waits for one election timeout at least, and for two at most; the last beat was
    // heard a tick ago or now.
    assert!((ELECTION_TICKS - HEARTBEAT_TICKS..=2 * ELECTION_TICKS).contains(&ticks), "{ticks}");
    let leads_alone =
        |cluster: &Cluster| matches!(cluster.leaders()[..], [alone] if alone != leader);
    cluster.tick_until("another leader, and the old one to give up", leads_alone);

    // It comes back, and everybody is quiescent again.
    cluster.cut_off.clear();
    cluster.tick_until("quiescence", Cluster::is_quiescent);
    assert_eq!(cluster.leaders().len(), 1);
}

#[test]
fn a_leader_that_nobody_answers_gives_up_and_one_that_one_answers_does_not() {
    let (mut cluster, leader) = Cluster::quiescent();
    let others: Vec<u64> = NODES.into_iter().filter(|n| *n != leader).collect();
    let term = cluster.term(leader);
    cluster.cut_off.push(others[0]);
    (0..10 * ELECTION_TICKS).for_each(|_| cluster.tick());
    assert_eq!((cluster.leaders(), cluster.term(leader)), (vec![leader], term));
    assert!(!cluster.nodes[&leader].slot().is_quiescent(), "it looks at each answer");
    assert!(cluster.nodes[&others[1]].slot().is_quiescent(), "it hears what it always hears");

    cluster.cut_off.push(others[1]);
    let ticks = cluster.tick_until("it to give up", |cluster| cluster.leaders().is_empty());
    assert!(ticks <= 2 * ELECTION_TICKS, "{ticks}");
}

/// To see it fail: leave the quiescence alone in `Slot::stop`.
#[test]
fn a_group_that_has_stopped_says_nothing_and_its_leader_gives_up_without_it() {
    let (mut cluster, leader) = Cluster::quiescent();
    for n in NODES.into_iter().filter(|n| *n != leader) {
        cluster.nodes.get_mut(&n).unwrap().groups.fail(group(), "its state machine cannot go on");
    }
    let ticks = cluster.tick_until("it to give up", |cluster| cluster.leaders().is_empty());
    assert!(ticks <= 2 * ELECTION_TICKS, "{ticks}");
}

/// Beats get lost here and there, but never for as long as a follower waits.
#[test]
fn beats_that_are_lost_change_nothing() {
    let (mut cluster, leader) = Cluster::quiescent();
    let term = cluster.term(leader);
    for round in 0..200_u64 {
        cluster.cut_off.clear();
        // Who is cut off, and when, in a pattern without an end of its own.
        if round % 7 < 3 {
            cluster.cut_off.push(1 + round.wrapping_mul(round) % 3);
        }
        (0..HEARTBEAT_TICKS).for_each(|_| cluster.tick());
    }
    assert_eq!((cluster.leaders(), cluster.term(leader)), (vec![leader], term));
    cluster.cut_off.clear();
    cluster.tick_until("quiescence", Cluster::is_quiescent);
}

/// To see it fail: publish every status, or have the driver look no more than twice.
#[test]
fn a_group_shows_nothing_before_it_has_handed_out_what_it_found_committed() {
    let (status, watching) = watch::channel(GroupStatus::founding(0));
    let mut groups = Groups::<Metadata>::new();
    groups.insert(group(), Slot::new(group(), status));
    groups.begin(group(), restarted(&[1]));
    let (mut parts, mut last) = (0, 0);
    while groups.is_any_beginning() {
        assert!(!watching.borrow().serving, "after {parts} parts");
        for (group, mut effects) in groups.take_effects() {
            for work in std::mem::take(&mut effects.apply) {
                let Apply::Entries(entries) = work else { panic!("there is no snapshot") };
                last = entries.last().unwrap().at.index;
            }
            answer(effects);
            groups.carried_out(group, 0);
        }
        parts += 1;
    }
    assert_eq!((parts, last), (3, LAST));
    let status = watching.borrow();
    assert!(status.serving);
    assert_eq!(status.members.index(), MOVED);
}
