//! What a driver of many groups asks a core that has little to do.

use raft::StateRole;
use raft::eraftpb::MessageType;

use super::Core;

/// Ticks that are put off at most: they are made up for in one go.
const PUT_OFF_MAX: u64 = 1_000;

/// All that a status shows, in a form that is compared without allocating.
///
/// Instead of each member's position there is their sum: within a term of one leader, and among the
/// same members, they only grow. Instead of the member table there is the entry that changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vitals {
    role: (StateRole, bool),
    leader_id: u64,
    term: u64,
    commit_index: u64,
    applied_index: u64,
    first_index: u64,
    last_index: u64,
    snapshot_index: u64,
    members_index: u64,
    removed: bool,
    matched: u64,
    dropped: u64,
    storage_full: bool,
}

impl<P, R, M> Core<P, R, M> {
    /// Equal to an earlier one exactly where [`Core::status`] is.
    pub(crate) fn vitals(&self) -> Vitals {
        let raft = &self.raw.raft;
        let matched = match raft.state {
            StateRole::Leader => {
                let sum = |sum: u64, matched: u64| sum.wrapping_add(matched);
                raft.prs().iter().map(|(_, progress)| progress.matched).fold(0, sum)
            }
            _ => 0,
        };
        Vitals {
            role: (raft.state, raft.promotable()),
            leader_id: self.leader_id(),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.applied,
            first_index: self.raw.store().first_index(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.raw.store().snapshot_id().index,
            members_index: self.members.index(),
            removed: self.removed,
            matched,
            dropped: self.dropped,
            storage_full: self.storage_full,
        }
    }

    /// How many ticks from now on change nothing but the clocks, if no other input comes before: a
    /// driver may leave them out, and make up for them before the next input.
    ///
    /// A leader beats and looks for its quorum, a follower campaigns or gives its leader up, and what waits has deadlines.
    pub(crate) fn idle_ticks(&self) -> u64 {
        let raft = &self.raw.raft;
        let waits = !self.proposals.is_idle()
            || !self.reads.is_idle()
            || !self.outbox.is_idle()
            || self.arrived.is_some()
            || self.installing.is_some()
            || self.storage_full
            || self.has_members_to_change()
            || raft.lead_transferee.is_some()
            || self.has_more();
        if waits {
            return 0;
        }
        let until_election = |timeout: usize| timeout.saturating_sub(raft.election_elapsed);
        let until = match raft.state {
            StateRole::Leader => {
                let beat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
                beat.min(until_election(raft.election_timeout()))
            }
            _ if raft.promotable() => until_election(raft.randomized_election_timeout()),
            // It gives up a leader that is silent.
            _ if self.leader_id() != raft::INVALID_ID => until_election(self.patience() + 1),
            _ => usize::MAX,
        };
        (until as u64).saturating_sub(1).min(PUT_OFF_MAX)
    }

    /// Gives back the memory that only a busy group needs: on a leader, the windows of the appends
    /// that are under way.
    pub(crate) fn rest(&mut self) {
        if self.leads() {
            self.raw.raft.maybe_free_inflight_buffers();
        }
    }

    /// Takes heartbeats and their answers past the Ready, when there is nothing else to be ready: they
    /// speak of a term and vote that earlier Readies brought, and wait for these like any other
    /// that speaks of the term only. A group with nothing to do beats several times a second.
    pub(super) fn hold_heartbeats(&mut self) {
        let is_heartbeat =
            |kind| matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse);
        let messages = &self.raw.raft.msgs;
        if messages.is_empty() || !messages.iter().all(|m| is_heartbeat(m.get_msg_type())) {
            return;
        }
        let messages = std::mem::take(&mut self.raw.raft.msgs);
        if self.raw.has_ready() {
            self.raw.raft.msgs = messages;
            return;
        }
        for message in messages {
            self.hold(message);
        }
    }
}
