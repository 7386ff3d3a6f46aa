//! From what waits in the core to its effects: proposals, reads, and raft-rs's Ready.

use mutation::Bug;
use quorate_engine::{GroupWrite, LogId, NodeId};
use raft::Ready;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::beginning::HANDED_MAX;
use super::departure::changes_voters;
use super::outbox::Submitted;
use super::proposals::Proposer;
use super::reads::Reader;
use super::{Apply, Committed, Core, Effects};
use crate::config::AppendMode;
use crate::error::ProposeError;
use crate::meaning::Meaning;
use crate::message::{Envelope, PeerMessage, Refused};
use crate::proposal::Proposal;

/// Readies taken in one go. raft-rs pages committed entries; the rest of a long backlog comes
/// with the next call, and ticks and peers are heard in between.
const READIES_MAX: usize = 8;

/// Entries a leader holds that are not committed yet. raft-rs counts the bytes of their data, and those
/// that open or close a session have none.
pub(super) const UNCOMMITTED_ENTRIES_MAX: u64 = 1 << 18;

/// What an entry costs beside its data, roughly.
pub(crate) const ENTRY_BYTES: u64 = 64;

impl<P, R, M> Core<P, R, M> {
    /// Everything that the inputs since the last call lead to.
    ///
    /// The driver must carry all of it out, and in the order of the fields' own lists; messages
    /// in it may leave at once. After the start, what was known to be committed comes first, in parts and
    /// with nothing else; [`Core::has_more`] is true until then.
    pub fn effects(&mut self) -> Effects<P, R, M> {
        if !self.begin(HANDED_MAX) {
            return self.part_of_beginning();
        }
        self.append_queued();
        self.seal();
        self.ask_for_reads();
        self.hold_heartbeats();
        for _ in 0..READIES_MAX {
            if self.effects.fatal.is_some() || !self.raw.has_ready() || self.has_write() {
                break;
            }
            self.take_ready();
        }
        self.write_record();
        self.effects.fetches = self.raw.store().take_fetches();
        self.ask_for_snapshot();
        std::mem::take(&mut self.effects)
    }

    /// Whether [`Core::effects`] would have more to do without another input.
    pub fn has_more(&self) -> bool {
        self.raw.has_ready()
            || !self.effects.failed.is_empty()
            || !self.effects.reads.is_empty()
            || self.has_to_seal()
    }

    /// Once for each index at which a newer snapshot could be had: the wish stands until it is
    /// fulfilled, and must not be granted for ever (trap I11). Once more after an election timeout: it
    /// may have come to nothing, for want of room or because too many were wanted at a time.
    fn ask_for_snapshot(&mut self) {
        let log = self.raw.store();
        let wanted = log.snapshot_wanted().is_some() && self.applied > log.snapshot_id().index;
        let patience = u64::from(self.config.election_ticks);
        let is_asked = self
            .snapshot_asked
            .is_some_and(|(index, at)| index == self.applied && self.now - at <= patience);
        if wanted && self.leads() && !is_asked {
            self.snapshot_asked = Some((self.applied, self.now));
            self.effects.snapshot_wanted = true;
        }
    }

    fn has_write(&self) -> bool {
        self.effects.write.is_some()
    }

    /// Appends all queued commands with one message to raft-rs, or sends them to the leader.
    fn append_queued(&mut self) {
        let queued = self.proposals.take_queued();
        if queued.is_empty() {
            return;
        }
        if self.storage_full {
            // On a follower too: it would not see what became of them.
            return self.refuse(proposers_of(queued), Refused::StorageFull);
        }
        if !self.leads() {
            return self.forward(queued);
        }
        if self.may_lose_its_vote() {
            return self.refuse(proposers_of(queued), Refused::NotLeader(None));
        }
        let term = self.raw.raft.term;
        let before = self.raw.raft.raft_log.last_index();
        let uncommitted = before - self.raw.raft.raft_log.committed;
        if self.lags() || uncommitted > UNCOMMITTED_ENTRIES_MAX {
            return self.refuse(proposers_of(queued), Refused::Overloaded);
        }
        let mut propose = Message::default();
        propose.set_msg_type(MessageType::MsgPropose);
        propose.from = self.own_id;
        let (proposers, entries): (Vec<_>, Vec<_>) = queued
            .into_iter()
            .map(|(proposer, proposal)| (proposer, proposal.into_entry()))
            .unzip();
        propose.entries = entries.into();
        // raft-rs refuses when too much is uncommitted, or while leadership is handed over; it
        // appends all entries or none.
        if self.raw.raft.step(propose).is_err() {
            return self.refuse(proposers, Refused::Overloaded);
        }
        let deadline = self.deadline();
        for (index, proposer) in (before + 1..).zip(proposers) {
            let at = LogId { index, term };
            match proposer {
                Proposer::Caller(caller) => {
                    let misled = self.proposals.place(caller, at, deadline);
                    let failed = &mut self.effects.failed;
                    failed.extend(misled.map(|caller| (caller, ProposeError::Superseded)));
                }
                Proposer::Peer { node, request } => {
                    // Ahead of the appends that carry the entry, so that the asking node knows
                    // what it waits for before it can learn that it is committed.
                    let message = PeerMessage::Proposed { request, result: Ok(at) };
                    self.send(Envelope { to: node, message });
                }
            }
        }
    }

    fn forward(&mut self, queued: Vec<(Proposer<P>, Proposal)>) {
        let leader = self.leader().filter(|_| self.config.forward);
        let deadline = self.deadline();
        for (proposer, proposal) in queued {
            match (proposer, leader) {
                (Proposer::Caller(caller), Some(to)) => {
                    let request = self.proposals.forward(caller, to, deadline);
                    let message = PeerMessage::Propose { request, proposal };
                    self.send(Envelope { to, message });
                }
                (proposer, _) => {
                    let refused = Refused::NotLeader(self.leader());
                    self.refuse(vec![proposer], refused);
                }
            }
        }
    }

    fn refuse(&mut self, proposers: Vec<Proposer<P>>, refused: Refused) {
        for proposer in proposers {
            match proposer {
                Proposer::Caller(caller) => self.effects.failed.push((caller, refused.into())),
                Proposer::Peer { node, request } => {
                    let message = PeerMessage::Proposed { request, result: Err(refused) };
                    self.send(Envelope { to: node, message });
                }
            }
        }
    }

    /// One round for every read that waits: with raft-rs on the leader, by the leader elsewhere.
    fn ask_for_reads(&mut self) {
        if self.leads() {
            // raft-rs drops a read silently before the leader has committed in its term; the
            // reads wait here until then.
            if !self.raw.raft.commit_to_current_term() {
                return;
            }
            if let Some(context) = self.reads.start_round(self.now, None, |_| true) {
                if mutation::is(Bug::ReadsUnconfirmed) {
                    return self.read_confirmed(context, self.raw.raft.raft_log.committed);
                }
                self.raw.read_index(context.to_le_bytes().to_vec());
            }
            return;
        }
        for (node, request) in self.reads.take_peers() {
            let result = Err(Refused::NotLeader(self.leader()));
            self.send(Envelope { to: node, message: PeerMessage::ReadIndexed { request, result } });
        }
        if let Some(to) = self.leader().filter(|_| self.config.forward) {
            let callers = |reader: &Reader<R>| matches!(reader, Reader::Caller(_));
            if let Some(request) = self.reads.start_round(self.now, Some(to), callers) {
                self.send(Envelope { to, message: PeerMessage::ReadIndex { request } });
            }
        }
    }

    /// One Ready, to the letter of its contract. Nothing between `ready` and `advance` touches
    /// the RawNode but its storage, which must serve the new entries by then (traps R03, R05).
    pub(super) fn take_ready(&mut self) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        self.last_ready = number;
        let soft_state_changed = ready.ss().is_some();
        let must_sync = ready.must_sync()
            && !(mutation::is(Bug::BallotNotWritten) && ready.entries().is_empty());
        let changes_vote = self.changes_vote(&ready);
        let snapshot = snapshot_id(&ready);
        let entries = ready.take_entries();
        let change = entries.iter().rfind(|entry| changes_voters(entry));
        self.change_in_log = change.map_or(self.change_in_log, |entry| entry.index);

        let log = self.raw.mut_store();
        if let Some(id) = snapshot {
            log.install_snapshot(id, ready.snapshot().get_metadata().get_conf_state().clone());
        }
        log.append(&entries);
        if let Some(hard_state) = ready.hs() {
            log.set_hard_state(hard_state.clone());
        }

        let mut messages = ready.take_messages();
        if !mutation::is(Bug::PersistedMessagesDropped) {
            messages.append(&mut ready.take_persisted_messages());
        }
        let mut committed = ready.take_committed_entries();
        if mutation::is(Bug::CommittedDropped) && !entries.is_empty() {
            committed.clear();
        }
        let read_states = ready.take_read_states();
        self.raw.advance_append_async(ready);
        if snapshot.is_some()
            && let Some((members, catalogue)) = self.coming.take()
        {
            self.set_members(members);
            self.set_catalogue(catalogue);
        }

        if must_sync {
            let install = snapshot.inspect(|&id| self.installing = Some(id));
            let submitted = Submitted { ready: number, changes_vote, install, ..self.next_write() };
            self.submit(submitted, entries);
            if mutation::is(Bug::OwnCopyCountedEarly) {
                self.raw.on_persist_ready(number);
            }
            if let Some(id) = snapshot.filter(|_| mutation::is(Bug::InstallBeforeDurable)) {
                self.installed(id);
            }
        } else if self.outbox.wrote_nothing(number) {
            self.raw.on_persist_ready(number);
        }
        if soft_state_changed {
            self.reads.restart();
        }
        for message in messages {
            self.hold(message);
        }
        self.commit(committed);
        for state in read_states {
            if let Ok(context) = state.request_ctx.as_slice().try_into() {
                self.read_confirmed(u64::from_le_bytes(context), state.index);
            }
        }
    }

    fn changes_vote(&self, ready: &Ready) -> bool {
        let old = self.raw.store().hard_state();
        ready.hs().is_some_and(|new| new.term != old.term || new.vote != old.vote)
    }

    fn next_write(&mut self) -> Submitted {
        let write = self.next_write;
        self.next_write += 1;
        // The latest snapshot rides along: once the record that names it is durable, older
        // files are not needed.
        Submitted { write, retain: self.record_changed.take(), ..Submitted::default() }
    }

    fn submit(&mut self, submitted: Submitted, entries: Vec<Entry>) {
        let record = self.raw.store().record();
        let bytes_of =
            |entry: &Entry| (entry.data.len() + entry.context.len()) as u64 + ENTRY_BYTES;
        let entry_bytes = entries.iter().map(bytes_of).sum();
        let (last, submitted_at) = (record.last, self.now);
        if let Some(first) = entries.first() {
            self.tail.appended(first.index, last.index, entry_bytes);
        }
        self.outbox.submit(Submitted { last, submitted_at, entry_bytes, ..submitted });
        self.effects.write = Some(GroupWrite {
            group: self.group,
            number: submitted.write,
            entries,
            record,
            install: submitted.install.is_some(),
            genesis: None,
        });
    }

    /// A snapshot and the compaction behind it ride with the next write, and so does how far this node
    /// has committed, where that must be durable; without one they are a write of their own.
    fn write_record(&mut self) {
        let is_wanted = std::mem::take(&mut self.must_record) || self.record_changed.is_some();
        if !is_wanted || self.has_write() || self.effects.fatal.is_some() {
            return;
        }
        let submitted = Submitted { ready: self.last_ready, ..self.next_write() };
        self.submit(submitted, Vec::new());
    }

    /// Sends a message as soon as all that it depends on is durable.
    ///
    /// Those of a kind keep their order, but for appends with [`AppendMode::Parallel`] when a change of the
    /// members is over, or an election: those that were held are overtaken, and a follower asks for them. Kinds may overtake each other, as on any network: a heartbeat the appends before it, and with
    /// [`AppendMode::Parallel`] an append the leader's answers to other nodes.
    pub(super) fn hold(&mut self, message: Message) {
        let Some(to) = self.node_of(message.to) else {
            tracing::debug!(group = %self.group, to = message.to, "no such member to send to");
            return;
        };
        let message_kind = message.get_msg_type();
        let waits_for_vote_only = match message_kind {
            MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgTimeoutNow => true,
            MessageType::MsgAppendResponse if mutation::is(Bug::AcknowledgementNotHeld) => true,
            // It claims nothing of this node's disk: a leader counts itself when it has written.
            MessageType::MsgAppend => {
                let is_parallel = self.config.append_mode == AppendMode::Parallel;
                is_parallel && self.leads() && self.may_send_ahead()
            }
            _ => false,
        };
        let envelope = Envelope { to, message: PeerMessage::Raft(message) };
        if message_kind == MessageType::MsgRequestVoteResponse && mutation::is(Bug::VoteNotHeld) {
            return self.send(envelope);
        }
        let free = if waits_for_vote_only {
            self.outbox.hold_for_vote(envelope)
        } else {
            self.outbox.hold(envelope)
        };
        if let Some(envelope) = free {
            self.send(envelope);
        }
    }

    fn commit(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        self.handed = last.index;
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let at = LogId { index: entry.index, term: entry.term };
            let (session, change, groups) = match Meaning::of(&entry) {
                Ok(Meaning::Command) => (None, None, None),
                Ok(Meaning::Session(step)) => (Some(step), None, None),
                Ok(Meaning::Members(raft, change)) => (None, Some((raft, change)), None),
                Ok(Meaning::Groups(change)) => (None, None, Some(change)),
                Err(error) => {
                    self.effects.fatal = Some(format!("entry {}: {error}", entry.index));
                    return;
                }
            };
            let members = self.change_committed(change, at);
            let catalogue = self.catalogue_committed(groups, at);
            let (caller, lost) = self.proposals.committed(at);
            let leader = self.leader();
            let lost = if mutation::is(Bug::ReplacedCallerForgotten) { Vec::new() } else { lost };
            let failed = &mut self.effects.failed;
            failed.extend(lost.into_iter().map(|p| (p, ProposeError::NotLeader { leader })));
            let is_command = entry.get_entry_type() == EntryType::EntryNormal;
            let command = if is_command { entry.data } else { bytes::Bytes::new() };
            committed.push(Committed { at, command, session, caller, members, catalogue });
        }
        self.effects.apply.push(Apply::Entries(committed));
    }

    fn read_confirmed(&mut self, context: u64, index: u64) {
        let peers: Vec<(NodeId, u64)> = self.reads.confirmed(None, context, index);
        for (to, request) in peers {
            let message = PeerMessage::ReadIndexed { request, result: Ok(index) };
            self.send(Envelope { to, message });
        }
        self.answer_reads();
    }
}

fn proposers_of<P>(queued: Vec<(Proposer<P>, Proposal)>) -> Vec<Proposer<P>> {
    queued.into_iter().map(|(proposer, _)| proposer).collect()
}

fn snapshot_id(ready: &Ready) -> Option<LogId> {
    let meta = ready.snapshot().get_metadata();
    (meta.index > 0).then_some(LogId { index: meta.index, term: meta.term })
}
