//! [`Group`]: three cores that go on living while one of their peers lies to them.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{
    ClusterId, DirectoryId, Engine, EngineConfig, Formatted, Founding, GroupLog, GroupWrite, LogId,
    NodeId, SnapshotError, SnapshotMeta, SnapshotStore, Voter, format,
};
use quorate_loop::{
    Apply, Catalogue, Committed, Effects, Envelope, Input, LoopConfig, Members, PeerMessage,
};
use raft::eraftpb::{ConfState, Message, MessageType};
use tempfile::TempDir;

use super::node::{Node, Seen, state_of, write_snapshot};
use super::oracle::{Lies, Oracle};
use super::{FuzzError, GROUP};
use crate::random::Random;
use crate::record::LogRecord;
use crate::scratch::scratch;

/// Messages that wait on one link; the oldest are lost.
const LINK_MAX: usize = 64;
/// Messages that were really sent and are at hand to be altered.
const POOL_MAX: usize = 96;
/// Rounds after which it is an error that messages still beget messages.
const ROUNDS_MAX: u32 = 10_000;

/// The nodes, the network between them, and what must be true of them.
pub(super) struct Group {
    dir: TempDir,
    config: LoopConfig,
    /// By node id; a node that is down is not there.
    pub(super) nodes: BTreeMap<u64, Node>,
    /// What a node that is down holds.
    down: BTreeMap<u64, LogRecord>,
    /// In flight, by sender and receiver: each link keeps its order.
    links: BTreeMap<(u64, u64), VecDeque<PeerMessage>>,
    /// The last Raft messages that were really sent.
    pub(super) pool: VecDeque<Message>,
    /// The numbers of the last requests and answers of our own protocol.
    pub(super) requests: VecDeque<u64>,
    pub(super) oracle: Oracle,
    /// Draws election timeouts.
    draws: Random,
    runs: u32,
    next_caller: u64,
}

impl Group {
    /// Founds a group of three in memory.
    pub(super) fn new(seed: u64, lies: Lies, liar: u64) -> Result<Group, FuzzError> {
        let dir = scratch().map_err(FuzzError::group)?;
        let config = LoopConfig {
            election_ticks: 5,
            heartbeat_ticks: 1,
            request_timeout_ms: 3_000,
            command_bytes_max: 4 << 10,
            append_bytes_max: 4 << 10,
            append_inflight_max: 16,
            uncommitted_bytes_max: 64 << 10,
            tail_entries: 20,
            tail_bytes: 8 << 10,
            ..LoopConfig::default()
        };
        let (nodes, down) = (BTreeMap::new(), BTreeMap::new());
        let (links, pool, requests) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let (oracle, draws) = (Oracle::new(lies, liar), Random::new(seed));
        let (runs, next_caller) = (0, 0);
        let mut group = Group {
            dir,
            config,
            nodes,
            down,
            links,
            pool,
            requests,
            oracle,
            draws,
            runs,
            next_caller,
        };
        group.found()?;
        Ok(group)
    }

    fn found(&mut self) -> Result<(), FuzzError> {
        let ids: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
        let addr = |node: &NodeId| format!("127.0.0.1:{node}");
        let voter = |node: &NodeId| Voter { node_id: *node, addr: addr(node) };
        let founding = Founding::Voters(ids.iter().map(voter).collect());
        let directory = |node: &NodeId| DirectoryId::from_bytes([node.get() as u8; 16]);
        let members =
            Members::founding(ids.iter().map(|node| (*node, directory(node), addr(node))));
        let meta = SnapshotMeta {
            group: GROUP,
            id: LogId { index: 1, term: 1 },
            conf_state: ConfState::from((vec![1, 2, 3], vec![])),
            members: members.encode(),
        };
        let cluster = ClusterId::from_bytes([7; 16]);
        for id in ids {
            let path = self.dir.path().join(id.to_string());
            format(&path, cluster, id, founding.clone()).map_err(FuzzError::group)?;
            let formatted = Formatted::open(&path).map_err(FuzzError::group)?;
            let mut engine =
                Engine::open(formatted, &EngineConfig::default()).map_err(FuzzError::group)?;
            write_snapshot(&engine.snapshots, meta.clone(), 0)?;
            let record = GroupLog::founded(GROUP, &meta, &engine.cache).record();
            let (entries, genesis, install) = (Vec::new(), None, false);
            let write = GroupWrite { group: GROUP, number: 1, entries, record, install, genesis };
            engine.writer.write(vec![write]).map_err(FuzzError::group)?;
            drop(engine);
            self.down.insert(id.get(), LogRecord::founded());
            self.start(id.get())?;
        }
        Ok(())
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, id: u64) -> Result<(), FuzzError> {
        let (Some(node_id), Some(durable)) = (NodeId::new(id), self.down.remove(&id)) else {
            return Ok(());
        };
        self.runs += 1;
        let path = self.dir.path().join(id.to_string());
        let node = Node::open(&path, node_id, self.runs, &self.config, durable)?;
        self.oracle.started(id, &node);
        self.nodes.insert(id, node);
        self.turn(id)
    }

    /// Kills a node: what is not durable is gone, and so is what was on its way.
    pub(super) fn kill(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            self.down.insert(id, node.durable.clone());
            self.oracle.killed(id);
        }
        self.links.retain(|(from, to), _| *from != id && *to != id);
    }

    /// The nodes that are down.
    pub(super) fn down(&self) -> Vec<u64> {
        self.down.keys().copied().collect()
    }

    /// One input for a node, looked at before and after. Its effects come with the next turn.
    /// `forged` tells a liar's message from a real one. Returns whether its guard let it pass.
    pub(super) fn step(&mut self, id: u64, input: Input<u64, u64>, forged: bool) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let raft = match &input {
            Input::Peer { message: PeerMessage::Raft(message), .. }
            | Input::SnapshotReceived { message, .. } => Some(message.clone()),
            _ => None,
        };
        if matches!(input, Input::Tick) {
            node.term_at_tick = node.seen.term;
        }
        node.core.step(input);
        let now = Seen::from(node.core.status());
        let passed = now.dropped == node.seen.dropped;
        if let Some(message) = raft.filter(|_| passed) {
            self.oracle.passed(node, &message, forged);
        }
        self.oracle.look(id, node, now);
        passed
    }

    /// A step, and its effects.
    pub(super) fn act(&mut self, id: u64, input: Input<u64, u64>) -> Result<(), FuzzError> {
        self.step(id, input, false);
        self.turn(id)
    }

    /// Takes the effects of a node and puts them where they belong. Nothing becomes durable.
    pub(super) fn turn(&mut self, id: u64) -> Result<(), FuzzError> {
        loop {
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            node.core.draw_election_timeout(self.draws.next());
            let effects = node.core.effects();
            if let Some(fatal) = &effects.fatal {
                self.oracle.fatal(id, fatal);
                self.kill(id);
                return Ok(());
            }
            if let Some(write) = &effects.write {
                node.log.write(write);
            }
            let applied = self.carry_out(id, effects)?;
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            if let Some(applied) = applied {
                node.core.step(Input::Applied(applied));
            }
            // Not before the core knows what is applied.
            if std::mem::take(&mut node.wants_snapshot) {
                node.take_snapshot()?;
            }
            let now = Seen::from(node.core.status());
            self.oracle.look(id, node, now);
            if !node.core.has_more() && applied.is_none() {
                return Ok(());
            }
        }
    }

    /// Carries out effects; the index that was applied, if any was.
    fn carry_out(&mut self, id: u64, effects: Effects<u64, u64>) -> Result<Option<u64>, FuzzError> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(None) };
        node.writes.extend(effects.write);
        for (caller, error) in effects.failed {
            self.oracle.refused(caller, &error);
        }
        for (reader, answer) in effects.reads {
            self.oracle.read(id, reader, answer.ok());
        }
        let mut applied = None;
        for work in effects.apply {
            match work {
                Apply::Entries(entries) => {
                    for Committed { at, command, caller, members, .. } in entries {
                        if let Some(members) = members {
                            node.members = members;
                        }
                        self.oracle.applied(id, node, at, &command, caller);
                        applied = Some(at.index);
                    }
                }
                Apply::Restore(at) => {
                    node.state = state_of(&node.snapshots, at)?;
                    node.applied = at;
                    node.members = members_of(&node.snapshots, at)?;
                    self.oracle.restored(id, node);
                    applied = Some(at.index);
                }
            }
        }
        for envelope in effects.messages {
            match &envelope.message {
                PeerMessage::Raft(message) => {
                    self.oracle.left(id, node, message);
                    self.pool.push_back(message.clone());
                }
                PeerMessage::Propose { request, .. }
                | PeerMessage::Proposed { request, .. }
                | PeerMessage::ReadIndex { request }
                | PeerMessage::ReadIndexed { request, .. } => self.requests.push_back(*request),
            }
            let link = self.links.entry((id, envelope.to.get())).or_default();
            link.push_back(envelope.message);
            if link.len() > LINK_MAX {
                link.pop_front();
            }
        }
        while self.pool.len() > POOL_MAX {
            self.pool.pop_front();
        }
        while self.requests.len() > POOL_MAX {
            self.requests.pop_front();
        }
        for fetch in effects.fetches {
            node.fetch(fetch)?;
        }
        if let Some(keep) = effects.retain {
            node.snapshots.retain(GROUP, keep).map_err(FuzzError::group)?;
        }
        node.wants_snapshot |= effects.snapshot_wanted;
        for envelope in effects.snapshots {
            self.transfer(id, envelope)?;
        }
        Ok(applied)
    }

    /// Copies the file of a snapshot that a node sends, and steps its message.
    fn transfer(&mut self, from: u64, envelope: Envelope) -> Result<(), FuzzError> {
        let Envelope { to, message } = envelope;
        let (PeerMessage::Raft(message), Some(sender)) = (message, NodeId::new(from)) else {
            return Ok(());
        };
        self.pool.push_back(message.clone());
        let meta = message.get_snapshot().get_metadata();
        let id = LogId { index: meta.index, term: meta.term };
        let may_send = self.oracle.may_send(from, &message);
        let members = match (self.nodes.get(&from), self.nodes.get(&to.get())) {
            (Some(source), Some(target)) if may_send => copy_snapshot(source, target, id)?,
            _ => None,
        };
        let received = members.is_some();
        if let Some(members) = members {
            let catalogue = Catalogue::default();
            let input = Input::SnapshotReceived { from: sender, message, members, catalogue };
            self.step(to.get(), input, false);
        }
        // The effects of both come with their next turns.
        self.step(from, Input::SnapshotSent { to, received }, false);
        Ok(())
    }

    /// Makes everything durable that a node has given out.
    pub(super) fn sync(&mut self, id: u64) -> Result<(), FuzzError> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if !node.writes.is_empty() {
            for write in &node.writes {
                let term = write.record.hard_state.term;
                self.oracle.synced(id, term, write.record.last.index);
            }
            node.sync()?;
            let now = Seen::from(node.core.status());
            self.oracle.look(id, node, now);
        }
        self.turn(id)
    }

    /// Delivers one message; false when there is none on that link.
    pub(super) fn deliver(&mut self, from: u64, to: u64) -> Result<bool, FuzzError> {
        let message = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        let (Some(message), Some(sender)) = (message, NodeId::new(from)) else { return Ok(false) };
        let may_send = match &message {
            PeerMessage::Raft(message) => self.oracle.may_send(from, message),
            _ => true,
        };
        if may_send {
            self.act(to, Input::Peer { from: sender, message })?;
        }
        Ok(true)
    }

    /// Lets everything happen that needs no tick.
    pub(super) fn settle(&mut self) -> Result<(), FuzzError> {
        for _ in 0..ROUNDS_MAX {
            let mut is_quiet = true;
            for id in 1..=3 {
                is_quiet &= self.nodes.get(&id).is_none_or(|node| node.writes.is_empty());
                self.sync(id)?;
            }
            for (from, to) in self.links.keys().copied().collect::<Vec<_>>() {
                is_quiet &= !self.deliver(from, to)?;
            }
            if is_quiet {
                return Ok(());
            }
        }
        // Between two leaders of one term a follower's reads go back and forth until a tick.
        if !self.oracle.forked {
            self.oracle.violated("messages beget messages without end".to_owned());
        }
        Ok(())
    }

    /// A caller on a node proposes something.
    pub(super) fn propose(&mut self, id: u64, padding: usize) -> Result<u64, FuzzError> {
        self.next_caller += 1;
        let caller = self.next_caller;
        let mut command = caller.to_le_bytes().to_vec();
        command.resize(8 + padding, caller as u8);
        if self.nodes.contains_key(&id) {
            self.oracle.asked(id, caller, None);
            self.act(id, Input::Propose { proposal: Bytes::from(command).into(), caller })?;
        }
        Ok(caller)
    }

    /// A reader on a node asks for a linearizable index.
    pub(super) fn read(&mut self, id: u64) -> Result<(), FuzzError> {
        self.next_caller += 1;
        let caller = self.next_caller;
        if self.nodes.contains_key(&id) {
            self.oracle.asked(id, caller, Some(self.oracle.acknowledged()));
            self.act(id, Input::Read { caller })?;
        }
        Ok(())
    }

    /// A snapshot of a node's state, where it has applied anything since the last.
    pub(super) fn take_snapshot(&mut self, id: u64) -> Result<(), FuzzError> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.applied.index > node.core.status().snapshot_index {
            node.take_snapshot()?;
        }
        self.turn(id)
    }

    /// A forged snapshot arrives, with a file that is what the message says.
    pub(super) fn forged_snapshot(
        &mut self,
        from: NodeId,
        to: u64,
        message: Message,
    ) -> Result<bool, FuzzError> {
        let Some(node) = self.nodes.get(&to) else { return Ok(false) };
        let meta = message.get_snapshot().get_metadata();
        let id = LogId { index: meta.index, term: meta.term };
        let listed = node.snapshots.list(GROUP).map_err(FuzzError::group)?;
        // A file of a position that this node has would take the place of its own.
        if !listed.contains(&id) {
            let conf_state = meta.get_conf_state().clone();
            let members = node.core.status().members.encode();
            let meta = SnapshotMeta { group: GROUP, id, conf_state, members };
            write_snapshot(&node.snapshots, meta, id.index ^ 0x5eed)?;
        }
        let members = members_of(&node.snapshots, id)?;
        let catalogue = Catalogue::default();
        Ok(self.step(to, Input::SnapshotReceived { from, message, members, catalogue }, true))
    }
}

/// The members that a snapshot file tells of.
fn members_of(snapshots: &SnapshotStore, id: LogId) -> Result<Arc<Members>, FuzzError> {
    let meta = snapshots.open(GROUP, id).map_err(FuzzError::group)?.meta().clone();
    let members = Members::decode(&meta.members, meta.conf_state).map_err(FuzzError::group)?;
    Ok(Arc::new(members))
}

/// Copies a snapshot file, and returns whom it names; `None` where it is superseded, so that there
/// is none to send.
fn copy_snapshot(
    source: &Node,
    target: &Node,
    id: LogId,
) -> Result<Option<Arc<Members>>, FuzzError> {
    let mut file = match source.snapshots.raw(GROUP, id) {
        Ok(file) => file,
        Err(SnapshotError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(FuzzError::group(error)),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(FuzzError::group)?;
    let receiver = target.snapshots.receive(GROUP, id, file.digest());
    let mut receiver = receiver.map_err(FuzzError::group)?;
    receiver.write(&bytes).map_err(FuzzError::group)?;
    receiver.finish().map_err(FuzzError::group)?;
    members_of(&target.snapshots, id).map(Some)
}

/// Whether this message makes its receiver believe in a leader.
pub(super) fn speaks_as_leader(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot)
}
