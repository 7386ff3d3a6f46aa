//! When whoever has lost its vote may go: it is needed for as long as somebody might forget that it did.
//!
//! A change of the membership is in force on a node when that node knows it to be committed. A node that
//! is killed may forget that it knew, and ask for votes among the members before the change. It may need
//! those that the change took: of two voters, one is removed, learns it and stops; the other restarts,
//! does not know, and would ask for that vote for ever. So **a member that lost its vote goes on voting
//! until a majority of those that are left is sure to remember**. Only then do nodes refuse whom it
//! removed, and the caller hears that it is done, and may wipe a disk. (A vote of
//! somebody who lost it is safe: it is counted only by those who do not know, by the rules of before.
//! Whoever knows that it was removed does not campaign.) Of a group other than the first, though, the
//! driver stops a removed node at once: nobody refuses its connections, and so tells it when to go.
//!
//! A majority remembers when another change *behind* it is in force: a leader proposes none before it
//! knows that the last is committed, and whoever acknowledges it has written in the same batch that it
//! is. So the leader *seals* the change with one that changes nothing, an update of its own member.
//!
//! It gives its vote to a log as long as its own only. So until then it is sent nothing that its leader has not
//! written ([`Core::may_send_ahead`]); and a leader that may be the one who loses its vote takes nothing in
//! ([`Core::may_lose_its_vote`]).
//!
//! Whether a change is sealed is part of the table: it names whom its last change took something from
//! ([`Members::took_from_somebody`]), and every change behind that clears it. So it means the same on
//! every node, in a snapshot, and after a restart; and nobody need ask for how long to wait.

use std::sync::Arc;

use quorate_engine::GroupLog;
use raft::RawNode;
use raft::eraftpb::{Entry, EntryType};

use super::Core;
use crate::change::{Change, Step};
use crate::members::Members;
use crate::membership::{MembershipChanged, MembershipError};

/// Somebody who is told of a change when it is sealed.
#[derive(Debug)]
struct Waiting<M> {
    deadline: u64,
    caller: M,
    changed: MembershipChanged,
}

/// What waits for the change behind the last one.
#[derive(Debug)]
pub(super) struct Departure<M> {
    callers: Vec<Waiting<M>>,
    /// The tick at which a seal was refused: it is not proposed again before the next.
    refused_at: Option<u64>,
}

impl<M> Default for Departure<M> {
    fn default() -> Self {
        Departure { callers: Vec::new(), refused_at: None }
    }
}

impl<M> Departure<M> {
    /// Whether anybody waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.callers.is_empty()
    }

    /// Has a caller of the change wait until `deadline` for its seal.
    pub(super) fn wait(&mut self, deadline: u64, caller: M, changed: MembershipChanged) {
        self.callers.push(Waiting { deadline, caller, changed });
    }
}

/// Whether more must follow before it is true that a change is done: the old voters are to leave, or
/// somebody may be needed who lost something.
pub(super) fn is_open(members: &Members) -> bool {
    members.is_joint() || members.took_from_somebody()
}

/// Whether an entry changes who has a vote.
pub(super) fn changes_voters(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// The last entry of a recovered log that changes who has a vote and is not known to be committed; where
/// it cannot be said, the last one that could.
pub(super) fn last_change(raw: &RawNode<GroupLog>) -> u64 {
    let log = &raw.raft.raft_log;
    if log.committed >= log.last_index() {
        return 0;
    }
    match log.store.in_memory(log.committed + 1) {
        Some(mut entries) => {
            entries.rfind(|entry| changes_voters(entry)).map_or(0, |entry| entry.index)
        }
        None => log.last_index(),
    }
}

impl<P, R, M> Core<P, R, M> {
    /// Whether a leader may send entries that are not on its own disk yet
    /// ([`AppendMode::Parallel`](crate::AppendMode::Parallel)): not from the entry of a change on, until it
    /// is certain that the change took nothing, or is sealed.
    ///
    /// Else whoever lost its vote could hold more than all of those that are left: of two voters one is
    /// demoted, is sent what comes behind that, and the leader is killed before it has written it. It
    /// restarts, has forgotten the change, and asks for a vote that the other must not give to a log that
    /// is shorter than its own; and the other, which knows that it has no vote, does not campaign. So
    /// nobody ever would lead again.
    ///
    /// With this a leader has written whatever others hold from that entry on. It, or a later leader
    /// that has all of it, is given the vote.
    pub(super) fn may_send_ahead(&self) -> bool {
        !self.is_changing() && !self.members.took_from_somebody()
    }

    /// Whether this leader takes nothing in, since it may be about to lose its vote: by a change of an
    /// earlier leader that is in its log and not committed, or by leaving a joint configuration.
    ///
    /// What it took in would be behind the entry by which it loses its vote. That one is committed without
    /// the rest, the leader gives way, and if what it says then is lost it is the one who holds more than
    /// all that are left. (A change that it proposed itself never takes its own vote.)
    pub(super) fn may_lose_its_vote(&self) -> bool {
        let inherits =
            self.change_at.term != self.raw.raft.term && self.change_in_log > self.handed;
        let conf_state = self.members.conf_state();
        inherits || self.members.is_joint() && !conf_state.voters.contains(&self.own_id)
    }

    /// Another change is in force: what was before it is remembered now. Whoever waits is told, but for
    /// those whose change it has only brought to an end: out of a joint configuration leads a change of
    /// its own.
    pub(super) fn seal_last(&mut self, members: &Arc<Members>) {
        for mut waiting in std::mem::take(&mut self.departure.callers) {
            if waiting.changed.members.is_joint() {
                let (index, members) = (members.index(), members.clone());
                waiting.changed = MembershipChanged { index, members };
                if is_open(&waiting.changed.members) {
                    self.departure.callers.push(waiting);
                    continue;
                }
            }
            self.effects.memberships.push((waiting.caller, Ok(waiting.changed)));
        }
    }

    /// Ends the wait of those whose deadline has come by tick `now`.
    pub(super) fn end_departure(&mut self, now: u64) {
        for late in self.departure.callers.extract_if(.., |waiting| waiting.deadline <= now) {
            self.effects.memberships.push((late.caller, Err(MembershipError::Unknown)));
        }
    }

    /// Whether the leader has a change to seal, and can now.
    pub(super) fn has_to_seal(&self) -> bool {
        self.leads()
            && self.members.took_from_somebody()
            && self.departure.refused_at != Some(self.now)
            && !self.is_changing()
    }

    /// Proposes the change behind. One that is refused, as while leadership is handed over, comes with
    /// the next tick.
    pub(super) fn seal(&mut self) {
        if !self.has_to_seal() {
            return;
        }
        let own = self.members.get(self.own_id).cloned();
        let change = Change { steps: own.into_iter().map(Step::Update).collect() };
        if let Err(error) = self.propose_change(&change) {
            self.departure.refused_at = Some(self.now);
            tracing::debug!(group = %self.group, %error, "a change that took a vote is not sealed yet");
        }
    }
}
