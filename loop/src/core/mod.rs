//! [`Core`]: one group's Raft, without a thread, socket, clock or file.
//!
//! The core turns inputs into effects. A driver owns threads and channels and carries the effects
//! out; the code that runs in production is the code that a simulator runs, but for heartbeats that only
//! repeat, for which a driver does not ask it (`quiescence.rs`).
//!
//! ```text
//!   step(Input)*  ──►  effects()  ──►  write      to the log writer, one fsync
//!                                 ├─►  messages   to peers, now
//!                                 ├─►  apply      to the state machine
//!                                 └─►  answers    to callers
//! ```
//!
//! Several inputs may be stepped before the effects are taken: what is ready by then shares one
//! batch, one fsync and one message per peer.

pub(crate) mod beginning;
mod catalogue;
mod departure;
mod effects;
mod failover;
mod idle;
mod ingress;
mod input;
mod install;
mod liveness;
mod membership;
mod outbox;
mod proposals;
mod reads;
mod ready;
mod room;
mod tail;
mod timeout;

use std::sync::Arc;

use mutation::Bug;
use quorate_engine::{Durable, Fetched, GroupId, GroupLog, LogId, NodeId};
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use self::departure::Departure;
pub use self::effects::{Apply, Committed, Effects};
use self::failover::Abandoned;
pub(crate) use self::idle::Vitals;
use self::ingress::Strangers;
pub use self::input::Input;
use self::liveness::Answers;
use self::membership::Proposed;
use self::outbox::Outbox;
use self::proposals::{Proposals, Proposer};
use self::reads::{Reader, Reads};
pub(crate) use self::ready::ENTRY_BYTES;
use self::tail::Tail;
use crate::catalogue::Catalogue;
use crate::config::LoopConfig;
use crate::error::{ProposeError, ReadError};
use crate::founding::FOUNDING_WRITES;
use crate::logger;
use crate::members::{Member, Members};
use crate::message::{Envelope, PeerMessage, Refused};
use crate::proposal::Proposal;
use crate::status::{CoreStatus, Role};

/// One group's Raft and everything that waits for it.
///
/// Invariants:
/// - No message leaves before the batch it speaks of is durable (see `Outbox`). With
///   [`AppendMode::Parallel`](crate::AppendMode::Parallel) a leader's append carries entries that
///   are being written, and claims nothing of them.
/// - Nothing touches the RawNode between its `ready` and its `advance` (trap R03): both are in
///   one function, in `ready.rs`.
/// - Every caller that came in goes out once: through `apply`, `failed` or `reads`.
/// - No message from a peer reaches raft-rs unguarded (see `guard`).
pub struct Core<P, R, M = R> {
    raw: RawNode<GroupLog>,
    group: GroupId,
    own_id: u64,
    members: Arc<Members>,
    /// Which groups there are. Of every group but the first, empty.
    catalogue: Catalogue,
    config: LoopConfig,
    /// Ticks since the start.
    now: u64,
    /// The term at the last tick: how far messages may take it until the next hangs on it.
    term_at_tick: u64,
    outbox: Outbox,
    proposals: Proposals<P>,
    reads: Reads<R>,
    /// Last index handed to the state machine, and last one it has applied.
    handed: u64,
    applied: u64,
    next_write: u64,
    last_ready: u64,
    /// A received snapshot that waits until no batch is in flight.
    arrived: Option<(NodeId, Message, Arc<Members>, Catalogue)>,
    /// The members and the catalogue of the snapshot that raft-rs is about to begin with.
    coming: Option<(Arc<Members>, Catalogue)>,
    /// Changes of the membership that were proposed here and wait to be committed.
    changes: Vec<Proposed<M>>,
    /// Changes of the catalogue that were proposed here and wait to be committed.
    catalogue_changes: Vec<Proposed<M>>,
    /// Where the last change of the membership stands that this node has proposed.
    change_at: LogId,
    answers: Answers,
    /// The last entry of the log that changes who has a vote, or a later one.
    change_in_log: u64,
    strangers: Strangers,
    /// Whether this node is a member no longer.
    removed: bool,
    /// Who waits for the end of a change of the membership that is in force.
    departure: Departure<M>,
    /// A snapshot that is replacing the log: no election meanwhile.
    installing: Option<LogId>,
    /// The applied index at which a snapshot was last asked for, and the tick (trap I11).
    snapshot_asked: Option<(u64, u64)>,
    /// The log's record changed without a Ready, by a new snapshot and compaction.
    record_changed: Option<LogId>,
    /// How far this node has committed must be durable ahead of what it does about it.
    must_record: bool,
    dropped: u64,
    /// The bytes of the last entries.
    tail: Tail,
    /// The log's files must go: the next snapshot keeps no tail.
    drops_tail: bool,
    /// There was no room for the oldest write.
    storage_full: bool,
    /// The last leader that this node gave up before it had to.
    abandoned: Abandoned,
    /// Whether it has yet to hand out what was known to be committed at the start.
    beginning: bool,
    /// Whether all was applied once that was known to be committed.
    has_begun: bool,
    effects: Effects<P, R, M>,
}

impl<P, R, M> Core<P, R, M> {
    /// Starts a group from its recovered log. The state machine must have been restored from
    /// the log's snapshot; entries after it that are known to be committed come with the first
    /// effects, in parts where they are many, and changes of the membership among them have taken effect
    /// before anything is stepped.
    ///
    /// `own_id` is this node's name in the group, and `members` are those of the log's snapshot; of a
    /// log without one, those that the leader named when it let this node join. `catalogue` is that of
    /// the log's snapshot.
    ///
    /// `run` must differ between two runs of the same node: answers to requests of an earlier
    /// run may still arrive, and are told apart by it.
    ///
    /// # Errors
    ///
    /// When raft-rs refuses the log or the configuration; the text says why.
    pub fn new(
        group: GroupId,
        own_id: u64,
        (members, catalogue): (Arc<Members>, Catalogue),
        log: GroupLog,
        config: LoopConfig,
        run: u32,
    ) -> Result<Self, String> {
        let first_request = u64::from(run) << 32 | 1;
        let restored = log.snapshot_id().index;
        let replays = mutation::is(Bug::ReplayedTwice);
        let handed = if replays { log.truncated().index } else { restored };
        let raft_config = config.raft(own_id, handed);
        raft_config.validate().map_err(|e| e.to_string())?;
        let logger = logger::into_tracing();
        let removed = members.get(own_id).is_none();
        let raw = RawNode::new(&raft_config, log, &logger).map_err(|e| e.to_string())?;
        let change_in_log = departure::last_change(&raw);
        let mut core = Core {
            term_at_tick: raw.raft.term,
            raw,
            group,
            own_id,
            members,
            catalogue,
            config,
            now: 0,
            outbox: Outbox::default(),
            proposals: Proposals::new(first_request),
            reads: Reads::new(first_request),
            handed: restored,
            applied: restored,
            next_write: FOUNDING_WRITES + 1,
            last_ready: 0,
            arrived: None,
            coming: None,
            changes: Vec::new(),
            catalogue_changes: Vec::new(),
            change_at: LogId::default(),
            answers: Answers::default(),
            change_in_log,
            strangers: Strangers::default(),
            removed,
            departure: Departure::default(),
            installing: None,
            snapshot_asked: None,
            record_changed: None,
            must_record: false,
            dropped: 0,
            tail: Tail::default(),
            drops_tail: false,
            storage_full: false,
            abandoned: Abandoned::default(),
            beginning: true,
            has_begun: false,
            effects: Effects::default(),
        };
        core.effects.removed = removed.then(|| core.members.index());
        Ok(core)
    }

    /// Takes one input in. Its effects come with the next [`Core::effects`].
    pub fn step(&mut self, input: Input<P, R, M>) {
        self.begin(usize::MAX);
        match input {
            Input::Tick => self.tick(),
            Input::Peer { from, message } => self.step_peer(from, message),
            Input::Propose { proposal, caller } if self.is_sound(&proposal) => {
                self.proposals.queue(Proposer::Caller(caller), proposal);
            }
            Input::Propose { caller, .. } => {
                self.effects.failed.push((caller, ProposeError::Unsound));
            }
            Input::Read { caller } => {
                self.reads.queue(Reader::Caller(caller), self.deadline());
            }
            Input::Durable(durable) => self.durable(&durable),
            Input::StorageFull => self.storage_is_full(),
            Input::Applied(index) => self.applied_to(index),
            Input::Fetched(fetched) => self.fetched(fetched),
            Input::SnapshotReceived { from, message, members, catalogue } => {
                self.snapshot_received(from, message, members, catalogue);
            }
            Input::SnapshotSent { .. } if mutation::is(Bug::SnapshotReportDropped) => {}
            Input::SnapshotSent { to, received } => {
                let status =
                    if received { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                // raft-rs knows which of them waits for one.
                for member in self.members.clone().all_of_node(to) {
                    self.raw.report_snapshot(member.member_id, status);
                }
            }
            Input::SnapshotTaken(meta) => self.snapshot_taken(meta),
            Input::CompactionWanted => self.compaction_wanted(),
            Input::Unreachable(node) => self.unreachable(node),
            Input::Gone(node) => self.process_gone(node),
            Input::Campaign => self.take_turn(),
            Input::Undelivered(envelope) => self.undelivered(envelope),
            Input::TransferLeader { to } => self.transfer_leader(to),
            Input::Membership { request, dry_run, caller } => {
                self.change_membership(&request, dry_run, caller);
            }
            Input::Catalogue { request, caller } => self.change_catalogue(&request, caller),
        }
    }

    /// The role, positions and peers of this node as of now.
    pub fn status(&self) -> CoreStatus {
        let raft = &self.raw.raft;
        let log = self.raw.store();
        CoreStatus {
            role: Role::of(raft.state, self.members.role(self.own_id)),
            leader: self.leader(),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: log.snapshot_id().index,
            members: self.members.clone(),
            matched: match raft.state {
                StateRole::Leader => {
                    raft.prs().iter().map(|(&id, progress)| (id, progress.matched)).collect()
                }
                _ => Vec::new(),
            },
            dropped: self.dropped,
            storage_full: self.storage_full,
        }
    }

    /// Ends every caller that still waits with `error`; the group is about to end.
    pub fn end(&mut self, error: &ProposeError) -> Effects<P, R, M> {
        self.abandon_changes(u64::MAX);
        self.abandon_catalogue_changes(u64::MAX);
        self.end_departure(u64::MAX);
        for caller in self.proposals.take_all() {
            self.effects.failed.push((caller, error.clone()));
        }
        for caller in self.reads.take_all() {
            self.effects.reads.push((caller, Err(ReadError::ShutDown)));
        }
        std::mem::take(&mut self.effects)
    }

    fn leader(&self) -> Option<NodeId> {
        // One that is not known yet is followed, and nothing is entrusted to it.
        self.members.get(self.leader_id()).map(Member::node_id)
    }

    /// Raft's name for the leader, or its name for nobody. raft-rs lets a node without a vote hold
    /// on to a leader for ever, since it has no election to begin; whoever is silent for as long as
    /// a voter would wait at most is none here either.
    fn leader_id(&self) -> u64 {
        let raft = &self.raw.raft;
        let is_silent = raft.election_elapsed > self.patience();
        let follows = raft.state == StateRole::Follower;
        if follows && !raft.promotable() && is_silent { raft::INVALID_ID } else { raft.leader_id }
    }

    /// Ticks that a voter waits for its leader at most.
    fn patience(&self) -> usize {
        2 * self.config.election_ticks as usize
    }

    fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn is_sound(&self, proposal: &Proposal) -> bool {
        proposal.is_sound(self.config.command_bytes_max)
    }

    fn deadline(&self) -> u64 {
        self.now + self.config.request_ticks()
    }

    fn tick(&mut self) {
        self.now += 1;
        self.term_at_tick = self.raw.raft.term;
        if !self.leads() {
            self.answers.asked_for_none(self.now);
        }
        for caller in self.proposals.expired(self.now) {
            self.effects.failed.push((caller, ProposeError::TimedOut));
        }
        let patience = u64::from(self.config.election_ticks);
        for caller in self.reads.tick(self.now, patience) {
            self.effects.reads.push((caller, Err(ReadError::TimedOut)));
        }
        // One that was removed does not campaign, and gives up a leader that it hears no more: who asks
        // for its vote may need it.
        if self.leads() || self.removed || !self.must_not_campaign() {
            self.raw.tick();
        }
        self.hand_over();
        self.tick_membership();
        self.tick_catalogue();
        self.end_departure(self.now);
    }

    fn step_peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.step_raft(from, message),
            PeerMessage::Propose { request, proposal } if self.is_sound(&proposal) => {
                self.proposals.queue(Proposer::Peer { node: from, request }, proposal);
            }
            PeerMessage::Propose { request, .. } => {
                let message = PeerMessage::Proposed { request, result: Err(Refused::Unsound) };
                self.send(Envelope { to: from, message });
            }
            PeerMessage::Proposed { request, result: Ok(at) } => {
                if let Some(caller) = self.proposals.accepted(from, request, at, self.handed) {
                    self.effects.failed.push((caller, ProposeError::Superseded));
                }
            }
            PeerMessage::Proposed { request, result: Err(refused) } => {
                if let Some(caller) = self.proposals.refused(from, request) {
                    self.effects.failed.push((caller, refused.into()));
                }
            }
            PeerMessage::ReadIndex { request } => {
                self.reads.queue(Reader::Peer { node: from, request }, self.deadline());
            }
            PeerMessage::ReadIndexed { request, result: Ok(index) } => {
                // A round that this node asked the leader for has callers only.
                self.reads.confirmed(Some(from), request, index);
                self.answer_reads();
            }
            PeerMessage::ReadIndexed { request, result: Err(_) } => {
                self.reads.refused(from, request)
            }
        }
    }

    fn durable(&mut self, durable: &Durable) {
        assert_eq!(durable.group(), self.group, "a receipt for another group");
        self.storage_full = false;
        let released = self.outbox.release(durable);
        if let Some(ready) = released.ready {
            self.raw.on_persist_ready(ready);
        }
        for last in released.lasts {
            self.raw.mut_store().persisted_to(last);
        }
        if let Some(id) = released.install {
            self.installed(id);
        }
        for envelope in released.messages {
            self.send(envelope);
        }
        self.effects.retain = released.retain.or(self.effects.retain);
        if self.outbox.is_idle()
            && let Some((from, message, members, catalogue)) = self.arrived.take()
        {
            // Admitted once more: it may not fit what came after it.
            self.snapshot_received(from, message, members, catalogue);
        }
    }

    fn applied_to(&mut self, index: u64) {
        assert!(
            self.applied <= index && index <= self.handed,
            "applied {index} is not between {} and {}",
            self.applied,
            self.handed
        );
        self.applied = index;
        // Behind an installed snapshot raft-rs has moved on already.
        if index > self.raw.raft.raft_log.applied {
            let last = self.raw.raft.raft_log.last_index();
            self.raw.advance_apply_to(index);
            self.raw.mut_store().applied_to(index);
            // The entry by which raft-rs leaves a joint configuration: it would send it with the answers
            // to its next heartbeat, and callers wait for it.
            if self.leads() && self.raw.raft.raft_log.last_index() > last {
                self.raw.raft.bcast_append();
            }
        }
        self.begin_alone();
        self.answer_reads();
    }

    fn answer_reads(&mut self) {
        let applied = if mutation::is(Bug::ReadsBeforeApply) { u64::MAX } else { self.applied };
        let answered = self.reads.applied(applied);
        self.effects.reads.extend(answered.into_iter().map(|(caller, index)| (caller, Ok(index))));
    }

    fn fetched(&mut self, fetched: Fetched) {
        match fetched.result {
            Ok(entries) => {
                self.raw.mut_store().deliver(fetched.low, entries);
                self.raw.on_entries_fetched(fetched.context);
            }
            // Compacted meanwhile: raft-rs asks again, and finds that it must send a snapshot.
            Err(quorate_engine::ReadError::Gone { index, .. })
                if index < self.raw.store().first_index() =>
            {
                self.raw.on_entries_fetched(fetched.context);
            }
            Err(error) => self.effects.fatal = Some(error.to_string()),
        }
    }

    fn unreachable(&mut self, node: NodeId) {
        for member in self.members.clone().all_of_node(node) {
            self.raw.report_unreachable(member.member_id);
        }
        for caller in self.proposals.disconnected(node) {
            self.effects.failed.push((caller, ProposeError::ConnectionLost));
        }
    }

    fn undelivered(&mut self, envelope: Envelope) {
        match envelope.message {
            PeerMessage::Raft(message) => self.raw.report_unreachable(message.to),
            PeerMessage::Propose { request, .. } => {
                if let Some(caller) = self.proposals.unforward(request) {
                    self.effects.failed.push((caller, ProposeError::NotLeader { leader: None }));
                }
            }
            // The asking side repeats reads; a lost acceptance ends there by its deadline.
            PeerMessage::ReadIndex { .. }
            | PeerMessage::ReadIndexed { .. }
            | PeerMessage::Proposed { .. } => {}
        }
    }

    fn send(&mut self, envelope: Envelope) {
        let snapshot = matches!(&envelope.message, PeerMessage::Raft(m)
            if m.get_msg_type() == MessageType::MsgSnapshot);
        if snapshot {
            self.effects.snapshots.push(envelope);
        } else {
            self.effects.messages.push(envelope);
        }
    }
}

#[cfg(test)]
mod net;
#[cfg(test)]
#[allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
mod scenarios;
#[cfg(test)]
#[allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
mod tests;
