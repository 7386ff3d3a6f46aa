//! What a driver of many groups asks a core that has little to do.

use raft::StateRole;

use super::Core;

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
}
