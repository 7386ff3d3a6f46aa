//! A node that has no place for more: its disk is full or hangs, or its state machine is slow.
//!
//! It refuses proposals, takes no more entries from its leader, and does not campaign. What speaks
//! of the term only, heartbeats and their answers, goes on. It works again when the receipts come,
//! which say that there is room.
//!
//! **What it holds in memory** of a group's entries is bounded, whoever is slow:
//!
//! | entries | bound |
//! | --- | --- |
//! | given out to the log writer | `uncommitted_bytes_max`, and one append or batch of proposals |
//! | written and not committed | `uncommitted_bytes_max`, the leader's |
//! | committed and not applied | `apply_lag_max` and `apply_lag_bytes_max`, one append or batch more, and what of the rows above is committed by then |
//! | committed and not applied at a start | what was committed since the snapshot, all of it |
//! | all else | the cache's budget |
//!
//! Beyond the first and the third a leader refuses proposals, and a follower drops appends: Raft
//! sends them again, the leader and the others go on meanwhile, and what the follower lacks stays in
//! the leader's log, or is made up for by a snapshot. The engine's cache pins what is not both
//! applied and written, and shares the bytes of each entry with all who hold it; so it is within
//! these bounds too. What a full disk leaves to be written has no entries: a new term, a vote.

use quorate_engine::NodeId;
use raft::eraftpb::Message;
use raft::{INVALID_ID, Progress};

use super::Core;

impl<P, R, M> Core<P, R, M> {
    /// There was no room for what was to be written; it is kept, and tried again.
    pub(super) fn storage_is_full(&mut self) {
        self.storage_full = true;
        self.hand_over();
    }

    /// Whether nothing becomes durable here: the disk is full, or has not moved for an election
    /// timeout.
    pub(super) fn cannot_write(&self) -> bool {
        let patience = u64::from(self.config.election_ticks);
        self.storage_full || self.outbox.is_stuck_since(self.now.saturating_sub(patience))
    }

    /// Whether a campaign would end badly now.
    ///
    /// A single voter becomes leader in the very step in which it campaigns, and raft-rs asserts
    /// that its log is persisted by then (trap R06). While a snapshot replaces the log, a campaign
    /// would look for entries that are gone. Nor does a node campaign that could not make its own
    /// vote durable.
    pub(super) fn must_not_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        let is_persisted =
            self.outbox.is_idle() && raft.raft_log.persisted == raft.raft_log.last_index();
        let alone = raft.prs().is_singleton() && !is_persisted;
        alone || self.installing.is_some() || self.cannot_write()
    }

    /// Hands leadership to the voter on a node, or else to the most advanced other one, if this node leads.
    pub(super) fn transfer_leader(&mut self, to: Option<NodeId>) {
        let named = to.map(|node| {
            let member = self.members.of_node(node).map(|member| member.member_id);
            member.filter(|id| self.members.is_voter(*id))
        });
        let successor = named.unwrap_or_else(|| self.successor());
        if let (true, Some(id)) = (self.leads(), successor) {
            self.raw.transfer_leader(id);
        }
    }

    /// A leader that cannot write must go: raft-rs would never depose it, since its heartbeats go
    /// on. raft-rs's own transfer waits until the successor has all entries, and those that are
    /// not written here are never sent. So the most advanced active voter is told to campaign as
    /// it is: it has all that is committed, or it is not elected. Where nobody can follow, the
    /// leader stays; it can confirm reads.
    pub(super) fn hand_over(&mut self) {
        if !self.leads() || !self.cannot_write() {
            return;
        }
        if self.successor().is_some() {
            tracing::warn!(group = %self.group, "this node leads and cannot write: it hands over");
            self.give_way();
        }
    }

    /// Tells the most advanced other voter, if there is one, to campaign, and follows.
    pub(super) fn give_way(&mut self) {
        let term = self.raw.raft.term;
        if let Some(successor) = self.successor() {
            self.raw.raft.send_timeout_now(successor);
        }
        // Its term and vote stay; they are durable, or it would not have been elected.
        self.raw.raft.become_follower(term, INVALID_ID);
    }

    /// The most advanced voter but this one, of those that were heard of lately; or, of a new leader that
    /// has heard of none yet, one that it has no reason to take for dead.
    pub(super) fn successor(&self) -> Option<u64> {
        let progress = self.raw.raft.prs();
        let others = progress
            .iter()
            .filter(|(id, _)| **id != self.own_id && progress.conf().voters().contains(**id));
        // raft-rs forgets who was active once an election timeout; we do not.
        let answers = |id: u64, other: &Progress| other.recent_active || self.is_live(id);
        others
            .filter(|(id, other)| answers(**id, other) || !self.is_silent(**id))
            .max_by_key(|(id, other)| (answers(**id, other), other.matched))
            .map(|(&id, _)| id)
    }

    /// Whether an append brings entries although there is no place for more. Raft sends them again.
    pub(super) fn has_no_place_for(&self, append: &Message) -> bool {
        let backlog = self.outbox.entry_bytes() >= self.config.uncommitted_bytes_max;
        !append.get_entries().is_empty() && (self.storage_full || backlog || self.lags())
    }

    /// Whether the state machine has so much still to apply that it must not be more.
    pub(super) fn lags(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        // Not what was handed out: many appends are stepped before the next entries are. And before
        // a snapshot that is being restored from there are no entries.
        let (committed, applied) = (log.committed, self.applied.max(log.applied));
        committed.saturating_sub(applied) > self.config.apply_lag_max
            || self.tail.between(applied, committed) > self.config.apply_lag_bytes_max
    }
}
