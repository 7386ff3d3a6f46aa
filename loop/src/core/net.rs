//! Cores on real engines, with the network, the clock and the moment of each fsync in the hands
//! of the test.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{
    ClusterId, DirectoryId, Engine, EngineConfig, Fetch, Formatted, Founding, GroupWrite,
    LogReader, LogWriter, SnapshotMeta, SnapshotStore, Voter,
};
use quorate_statemachine::{Admission, ClientSessions};
use raft::eraftpb::ConfState;
use tempfile::TempDir;

use super::*;
use crate::catalogue_change::CatalogueError;
use crate::head::Head;
use crate::members::Binding;
use crate::membership::{MembershipChanged, MembershipError};
use crate::proposal::SessionStep;

pub(super) type TestCore = Core<u64, u64>;

pub(super) fn group() -> GroupId {
    GroupId::new(1).unwrap()
}

pub(super) fn node(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

/// A directory in memory where there is one: these tests lose what was not written, and need no
/// disk to lose what was not synced.
fn memory_dir() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

pub(super) fn config() -> LoopConfig {
    let request_timeout_ms = 1_500;
    LoopConfig {
        election_ticks: 5,
        heartbeat_ticks: 1,
        request_timeout_ms,
        ..LoopConfig::default()
    }
}

/// One node: a core, its disk, and what is on the way to it and from it.
pub(super) struct Peer {
    pub(super) core: TestCore,
    pub(super) writer: LogWriter<quorate_engine::DefaultFileSystem>,
    pub(super) reader: LogReader,
    pub(super) snapshots: SnapshotStore,
    /// Written by the core, not durable yet.
    pub(super) writes: VecDeque<GroupWrite>,
    /// Applied commands, in order; what a restart has to find again.
    pub(super) applied: Vec<(LogId, Bytes)>,
    /// As of what was applied last; a restart finds it in the snapshot.
    pub(super) sessions: ClientSessions,
    pub(super) answers: Vec<(u64, Result<u64, ProposeError>)>,
    pub(super) reads: Vec<(u64, Result<u64, ReadError>)>,
    pub(super) memberships: Vec<(u64, Result<MembershipChanged, MembershipError>)>,
    pub(super) catalogued: Vec<(u64, Result<u64, CatalogueError>)>,
    /// As the effects told it, in order, and whether their write shows how far it was committed.
    pub(super) catalogues: Vec<(Catalogue, bool)>,
    /// As of what was applied last.
    pub(super) head: Head,
    pub(super) snapshot_wanted: bool,
    pub(super) snapshots_sent: Vec<Envelope>,
    /// When its turn to campaign comes, as it was told last.
    pub(super) campaign_after: Option<Duration>,
}

impl Peer {
    fn fetch(&mut self, fetch: Fetch) {
        let (done, fetched) = std::sync::mpsc::channel();
        let send = move |fetched| done.send(fetched).unwrap();
        self.reader.fetch(fetch, send).unwrap();
        self.core.step(Input::Fetched(fetched.recv().unwrap()));
    }
}

pub(super) struct Net {
    pub(super) dir: TempDir,
    pub(super) config: LoopConfig,
    pub(super) cache_bytes_max: u64,
    pub(super) peers: BTreeMap<u64, Peer>,
    /// In flight, by (from, to): each link keeps its order.
    pub(super) links: BTreeMap<(u64, u64), VecDeque<PeerMessage>>,
    pub(super) cluster: ClusterId,
    /// What stands behind each node's member.
    pub(super) bindings: BTreeMap<u64, Binding>,
    /// For those that wait for their first snapshot: their ids, and the members as they were told.
    pub(super) let_in: BTreeMap<u64, (u64, Arc<Members>)>,
    /// What was applied at each index, by anyone, ever.
    pub(super) history: BTreeMap<u64, (u64, Bytes)>,
    /// Where each command of a session, by session and sequence, was applied, by anyone, ever.
    pub(super) ran: BTreeMap<(u64, u64), u64>,
    pub(super) leaders: BTreeMap<u64, u64>,
    /// The latest members that a driver was told of, anywhere: whoever is none of them, and has not
    /// only just departed, is refused.
    pub(super) announced: Arc<Members>,
    /// The latest of them that a majority is sure to remember, where that is not sure of all.
    pub(super) remembered: Arc<Members>,
    pub(super) runs: u32,
    /// Reads of the log that the test answers when it wants.
    pub(super) hold_fetches: bool,
    /// The node whose state machine does not answer, and what it would say last.
    pub(super) stalled: Option<(u64, u64)>,
    pub(super) fetches: Vec<(u64, Fetch)>,
}

impl Net {
    pub(super) fn new(voters: &[u64], learners: &[u64], config: LoopConfig) -> Net {
        let cache_bytes_max = EngineConfig::default().cache_bytes_max;
        Net::with_cache(voters, learners, config, cache_bytes_max)
    }

    pub(super) fn with_cache(
        voters: &[u64],
        learners: &[u64],
        config: LoopConfig,
        cache_bytes_max: u64,
    ) -> Net {
        let dir = memory_dir();
        let ids: Vec<u64> = voters.iter().chain(learners).copied().collect();
        let addrs = ids.iter().map(|n| Voter { node_id: node(*n), addr: format!("127.0.0.1:{n}") });
        let founding = Founding::Voters(addrs.collect());
        let members = Members::founding(
            ids.iter().map(|n| (node(*n), directory(*n), format!("127.0.0.1:{n}"))),
        );
        let meta = SnapshotMeta {
            group: group(),
            id: LogId { index: 1, term: 1 },
            conf_state: ConfState::from((voters.to_vec(), learners.to_vec())),
            members: members.encode(),
        };
        let cluster = ClusterId::random();
        let (peers, links) = (BTreeMap::new(), BTreeMap::new());
        let (history, leaders) = (BTreeMap::new(), BTreeMap::new());
        let runs = 0;
        let mut net = Net {
            dir,
            config,
            cache_bytes_max,
            peers,
            links,
            cluster,
            bindings: ids
                .iter()
                .map(|n| {
                    let (node_id, directory_id) = (node(*n), directory(*n));
                    (*n, Binding { node_id, directory_id, incarnation: 0 })
                })
                .collect(),
            let_in: BTreeMap::new(),
            history,
            ran: BTreeMap::new(),
            leaders,
            announced: Arc::new(members.clone()),
            remembered: Arc::new(members),
            runs,
            hold_fetches: false,
            stalled: None,
            fetches: Vec::new(),
        };
        for n in ids {
            let path = net.dir.path().join(n.to_string());
            quorate_engine::format(&path, cluster, node(n), founding.clone()).unwrap();
            let mut engine = net.engine(n);
            engine.snapshots.create(meta.clone()).unwrap().finish().unwrap();
            let log = GroupLog::founded(group(), &meta, &engine.cache);
            let write = GroupWrite {
                group: group(),
                number: 1,
                entries: Vec::new(),
                record: log.record(),
                install: false,
                genesis: None,
            };
            engine.writer.write(vec![write]).unwrap();
            drop(engine);
            net.start(n);
        }
        net
    }

    pub(super) fn engine(&self, n: u64) -> Engine<quorate_engine::DefaultFileSystem> {
        let formatted = Formatted::open(self.dir.path().join(n.to_string())).unwrap();
        let cache_bytes_max = self.cache_bytes_max;
        let config = EngineConfig { cache_bytes_max, ..EngineConfig::default() };
        Engine::open(formatted, &config).unwrap()
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, n: u64) {
        let mut engine = self.engine(n);
        let recovered = engine.groups.remove(&group()).unwrap();
        let head = Head::of(&recovered.snapshot).unwrap();
        let (members, catalogue) = (head.members.clone(), head.catalogue.clone());
        self.runs += 1;
        let snapshot = recovered.snapshot.id;
        let sessions = match snapshot.index {
            0 => ClientSessions::default(),
            _ => sessions_of(&engine.snapshots, snapshot),
        };
        let (own_id, members, log) = match self.let_in.get(&n) {
            // It has acknowledged nothing, and begins once more.
            Some((own_id, members)) if snapshot.index == 0 => {
                (*own_id, members.clone(), GroupLog::blank(group(), &engine.cache))
            }
            _ => {
                let own = members.of_binding_or_departed(self.bindings[&n]).unwrap();
                (own.member_id, members, recovered.log)
            }
        };
        let (config, run) = (self.config.clone(), self.runs);
        let core = Core::new(group(), own_id, (members, catalogue), log, config, run).unwrap();
        // The state machine's snapshot: all that was ever applied up to its index.
        let up_to = self.history.range(..=snapshot.index);
        let applied = up_to
            .map(|(&index, (term, data))| (LogId { index, term: *term }, data.clone()))
            .collect();
        let peer = Peer {
            core,
            writer: engine.writer,
            reader: engine.reader,
            snapshots: engine.snapshots,
            writes: VecDeque::new(),
            applied,
            sessions,
            answers: Vec::new(),
            reads: Vec::new(),
            memberships: Vec::new(),
            catalogued: Vec::new(),
            catalogues: Vec::new(),
            head,
            snapshot_wanted: false,
            snapshots_sent: Vec::new(),
            campaign_after: None,
        };
        self.peers.insert(n, peer);
        self.turn(n);
    }

    /// Kills a node: what is not durable is gone, and so is what was on its way to it.
    pub(super) fn kill(&mut self, n: u64) {
        self.peers.remove(&n);
        self.links.retain(|(from, to), _| *from != n && *to != n);
    }

    pub(super) fn peer(&mut self, n: u64) -> &mut Peer {
        self.peers.get_mut(&n).unwrap()
    }

    pub(super) fn step(&mut self, n: u64, input: Input<u64, u64>) {
        self.peer(n).core.step(input);
        self.turn(n);
    }

    /// Takes the effects of a node and puts them where they belong. Nothing becomes durable.
    pub(super) fn turn(&mut self, n: u64) {
        loop {
            let peer = self.peers.get_mut(&n).unwrap();
            let effects = peer.core.effects();
            assert_eq!(effects.fatal, None, "node {n}");
            if let Some(catalogue) = effects.catalogue {
                let commit = peer.core.status().commit_index;
                let shows = |write: &GroupWrite| write.record.hard_state.commit == commit;
                peer.catalogues.push((catalogue, effects.write.as_ref().is_some_and(shows)));
            }
            peer.writes.extend(effects.write);
            peer.answers.extend(effects.failed.into_iter().map(|(c, e)| (c, Err(e))));
            peer.reads.extend(effects.reads);
            peer.memberships.extend(effects.memberships);
            let is_newer = |members: &Arc<Members>| members.index() > self.announced.index();
            if let Some(members) = effects.members.filter(is_newer) {
                let before = std::mem::replace(&mut self.announced, members.clone());
                self.remembered = if members.took_from_somebody() { before } else { members };
            }
            peer.catalogued.extend(effects.catalogued);
            peer.snapshot_wanted |= effects.snapshot_wanted;
            peer.snapshots_sent.extend(effects.snapshots);
            peer.campaign_after = effects.campaign_after.or(peer.campaign_after);
            let mut last = None;
            for work in effects.apply {
                last = Some(match work {
                    Apply::Entries(entries) => {
                        let mut last = 0;
                        for Committed { at, command, session, caller, members, catalogue } in
                            entries
                        {
                            if let Some(members) = members {
                                peer.head.members = members;
                            }
                            if let Some(catalogue) = catalogue {
                                peer.head.catalogue = catalogue;
                            }
                            let seen = self
                                .history
                                .entry(at.index)
                                .or_insert_with(|| (at.term, command.clone()));
                            assert_eq!(*seen, (at.term, command.clone()), "node {n} at {at}");
                            peer.applied.push((at, command));
                            let answer = in_session(&mut peer.sessions, at.index, session);
                            if let (Some(SessionStep::Command(id)), Ok(index)) = (session, &answer)
                            {
                                let ran = self.ran.entry((id.session, id.sequence));
                                let first = *ran.or_insert(*index);
                                assert_eq!(first, *index, "node {n} applied {id:?} once more");
                            }
                            peer.answers.extend(caller.map(|caller| (caller, answer)));
                            last = at.index;
                        }
                        last
                    }
                    Apply::Restore(id) => {
                        peer.head = head_of(&peer.snapshots, id);
                        peer.sessions = sessions_of(&peer.snapshots, id);
                        peer.applied = self
                            .history
                            .range(..=id.index)
                            .map(|(&index, (term, c))| (LogId { index, term: *term }, c.clone()))
                            .collect();
                        id.index
                    }
                });
            }
            for envelope in effects.messages {
                let link = self.links.entry((n, envelope.to.get())).or_default();
                link.push_back(envelope.message);
            }
            for fetch in effects.fetches {
                if self.hold_fetches {
                    self.fetches.push((n, fetch));
                } else {
                    peer.fetch(fetch);
                }
            }
            match (last, &mut self.stalled) {
                (Some(last), Some((stalled, says))) if *stalled == n => *says = last,
                (Some(last), _) => peer.core.step(Input::Applied(last)),
                (None, _) => {}
            }
            let status = peer.core.status();
            if status.role == Role::Leader {
                let leader = *self.leaders.entry(status.term).or_insert(n);
                assert_eq!(leader, n, "two leaders in term {}", status.term);
            }
            if !peer.core.has_more() && last.is_none() {
                return;
            }
        }
    }

    /// The state machine that did not answer has done all that it was given.
    pub(super) fn answer_stalled(&mut self) {
        if let Some((n, last)) = self.stalled.take() {
            self.step(n, Input::Applied(last));
        }
    }

    pub(super) fn answer_fetches(&mut self) {
        for (n, fetch) in std::mem::take(&mut self.fetches) {
            self.peer(n).fetch(fetch);
            self.turn(n);
        }
    }

    /// Makes everything durable that a node has written.
    pub(super) fn sync(&mut self, n: u64) {
        let peer = self.peer(n);
        let writes: Vec<_> = peer.writes.drain(..).collect();
        for durable in peer.writer.write(writes).unwrap() {
            peer.core.step(Input::Durable(durable));
        }
        self.turn(n);
    }

    /// Delivers one message; false when there is none on that link.
    pub(super) fn deliver(&mut self, from: u64, to: u64) -> bool {
        let Some(message) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        if self.peers.contains_key(&to) {
            self.step(to, Input::Peer { from: node(from), message });
        }
        true
    }

    /// Lets everything happen that needs no tick.
    pub(super) fn settle(&mut self) {
        self.settle_but(0);
    }

    /// As [`Net::settle`], but for the disk of one node, on which nothing becomes durable.
    pub(super) fn settle_but(&mut self, stuck: u64) {
        loop {
            let mut quiet = true;
            for n in self.peers.keys().copied().collect::<Vec<_>>() {
                if n != stuck && !self.peer(n).writes.is_empty() {
                    quiet = false;
                    self.sync(n);
                }
                self.transfer_snapshots(n);
            }
            for (from, to) in self.links.keys().copied().collect::<Vec<_>>() {
                quiet &= !self.deliver(from, to);
            }
            if quiet {
                return;
            }
        }
    }

    /// Copies the files of the snapshots that a node sends, and steps their messages.
    pub(super) fn transfer_snapshots(&mut self, n: u64) {
        for Envelope { to, message } in std::mem::take(&mut self.peer(n).snapshots_sent) {
            let PeerMessage::Raft(message) = message else { panic!("{message:?}") };
            let mut received = false;
            if self.peers.contains_key(&to.get()) {
                let head = self.copy_snapshot(n, to.get(), &PeerMessage::Raft(message.clone()));
                let Head { members, catalogue, .. } = head;
                let from = node(n);
                self.step(to.get(), Input::SnapshotReceived { from, message, members, catalogue });
                received = true;
            }
            self.step(n, Input::SnapshotSent { to, received });
        }
    }

    /// Copies the file of the snapshot that a message announces, and returns what its head says.
    pub(super) fn copy_snapshot(&mut self, from: u64, to: u64, message: &PeerMessage) -> Head {
        let PeerMessage::Raft(message) = message else { panic!("{message:?}") };
        let meta = message.get_snapshot().get_metadata();
        let id = LogId { index: meta.index, term: meta.term };
        let mut file = self.peer(from).snapshots.raw(group(), id).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let store = &self.peer(to).snapshots;
        let mut receiver = store.receive(group(), id, file.digest()).unwrap();
        receiver.write(&bytes).unwrap();
        receiver.finish().unwrap();
        head_of(store, id)
    }

    /// Ticks everybody until there is a leader that all follow.
    pub(super) fn elect(&mut self) -> u64 {
        for _ in 0..1_000 {
            let statuses: Vec<_> = self.peers.values().map(|p| p.core.status()).collect();
            let leader = statuses[0].leader;
            let leads = statuses.iter().any(|s| s.role == Role::Leader);
            if let (Some(leader), true) = (leader, leads)
                && statuses.iter().all(|s| s.leader == Some(leader))
            {
                return leader.get();
            }
            for n in self.peers.keys().copied().collect::<Vec<_>>() {
                self.step(n, Input::Tick);
                self.settle();
            }
        }
        panic!("nobody was elected");
    }

    /// As [`Net::elect`], among those whose disk works.
    pub(super) fn elect_but(&mut self, stuck: u64) -> u64 {
        for _ in 0..1_000 {
            let leads = |(_, peer): &(&u64, &Peer)| peer.core.status().role == Role::Leader;
            if let Some((&leader, _)) = self.peers.iter().find(leads) {
                return leader;
            }
            for n in self.peers.keys().copied().collect::<Vec<_>>() {
                self.step(n, Input::Tick);
                self.settle_but(stuck);
            }
        }
        panic!("nobody was elected");
    }

    /// Ticks everybody, and lets everything happen in between.
    pub(super) fn tick_all(&mut self, ticks: u32) {
        self.tick_all_but(0, ticks);
    }

    /// As [`Net::tick_all`], with one node's disk stuck.
    pub(super) fn tick_all_but(&mut self, stuck: u64, ticks: u32) {
        for _ in 0..ticks {
            for n in self.peers.keys().copied().collect::<Vec<_>>() {
                self.step(n, Input::Tick);
            }
            self.settle_but(stuck);
        }
    }

    pub(super) fn propose(&mut self, n: u64, caller: u64) {
        let command = Bytes::copy_from_slice(&caller.to_le_bytes());
        self.step(n, Input::Propose { proposal: command.into(), caller });
    }

    pub(super) fn take_snapshot(&mut self, n: u64) {
        let meta = self.write_snapshot(n);
        self.step(n, Input::SnapshotTaken(meta));
    }

    /// Writes what is applied, and tells nobody yet.
    pub(super) fn write_snapshot(&mut self, n: u64) -> SnapshotMeta {
        let peer = self.peer(n);
        let status = peer.core.status();
        let at = peer.applied.last().map_or(LogId { index: 1, term: 1 }, |(at, _)| *at);
        assert_eq!(at.index.max(1), status.applied_index);
        let head = Head { id: at, ..peer.head.clone() };
        let mut writer = peer.snapshots.create(head.meta()).unwrap();
        peer.sessions.write_snapshot(&mut writer).unwrap();
        writer.finish().unwrap()
    }

    /// Whether a node is refused by those who know most.
    pub(super) fn refuses(&self, binding: Binding) -> bool {
        let departed = self.announced.departed().iter().any(|member| member.binding == binding);
        self.announced.of_binding(binding).is_none() && !departed
    }

    pub(super) fn waiting(&self, from: u64) -> Vec<&PeerMessage> {
        self.links.iter().filter(|((f, _), _)| *f == from).flat_map(|(_, link)| link).collect()
    }
}

pub(super) fn directory(n: u64) -> DirectoryId {
    DirectoryId::from_bytes([n as u8; 16])
}

pub(super) fn head_of(snapshots: &SnapshotStore, id: LogId) -> Head {
    Head::of(snapshots.open(group(), id).unwrap().meta()).unwrap()
}

fn sessions_of(snapshots: &SnapshotStore, id: LogId) -> ClientSessions {
    let mut reader = snapshots.open(group(), id).unwrap();
    ClientSessions::read_snapshot(&mut reader).unwrap().0
}

/// What an entry gives, of which every command's outcome is its index: that, or where it was applied
/// before.
fn in_session(
    sessions: &mut ClientSessions,
    index: u64,
    step: Option<SessionStep>,
) -> Result<u64, ProposeError> {
    match step {
        None => {}
        Some(SessionStep::Open) => sessions.open(index),
        Some(SessionStep::Close(session)) => sessions.close(session),
        Some(SessionStep::Command(id)) => match sessions.admit(index, &id)? {
            Admission::Apply => {
                sessions.keep(index, &id, Bytes::copy_from_slice(&index.to_le_bytes()));
            }
            Admission::Applied { index, outcome } => {
                assert_eq!(outcome.as_ref(), index.to_le_bytes());
                return Ok(index);
            }
        },
    }
    Ok(index)
}

pub(super) fn kind(message: &PeerMessage) -> Option<MessageType> {
    match message {
        PeerMessage::Raft(message) => Some(message.get_msg_type()),
        _ => None,
    }
}
