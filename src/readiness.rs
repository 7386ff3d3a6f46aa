//! [`NotReady`]: whether a node can be given work, and why not.

use std::time::Duration;

use quorate_loop::{GroupStatus, Role};
use tokio::time::Instant;

/// Committed entries that may wait to be applied on a node that is ready. A node that is this far
/// behind answers from the past for a noticeable time.
const LAG_MAX: u64 = 1_000;

/// How long the log may go on growing, or stay grown, without anything being committed.
const STALL_MAX: Duration = Duration::from_secs(5);

/// A reason why a node is not ready for work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The node has stopped for good.
    #[error(
        "this node has stopped ({fatal}): restart it, and replace its disk if that does not help"
    )]
    Stopped {
        /// Why.
        fatal: String,
    },
    /// The node's log was damaged: it may have lost what the node acknowledged.
    #[error(
        "the log of this node is damaged ({damaged}): where the other voters can do without it, the \
         node is on its way back as another member"
    )]
    Damaged {
        /// What was found.
        damaged: String,
    },
    /// The cluster was never complete yet.
    #[error("the cluster is not founded yet: every initial voter must be started once")]
    NotFounded,
    /// The node is no member any more.
    #[error(
        "this node was removed from the quorum: stop it, or format a new directory for it with \
         `quorate format --join`"
    )]
    Removed,
    /// The node was let in and has nothing yet.
    #[error("this node waits for its first snapshot: the leader must be up and reach it")]
    Blank,
    /// Nobody leads, as far as this node knows.
    #[error("no leader is known: a majority of the voters must be up and reach each other")]
    NoLeader,
    /// The node cannot write.
    #[error("the disk of this node is full: make room, it goes on by itself then")]
    StorageFull,
    /// The node has not applied what it knows to be committed.
    #[error("{lag} committed entries are not applied yet: wait until this node has caught up")]
    Lagging {
        /// How many.
        lag: u64,
    },
    /// Proposals wait, and nothing is committed.
    #[error(
        "nothing was committed for {since:.1?} while proposals wait: look at the disks and the network of the voters"
    )]
    Stalled {
        /// For how long.
        since: Duration,
    },
}

/// Remembers since when the commit index stands still while the log is longer.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    standing: Option<(u64, Instant)>,
}

impl StallWatch {
    /// Every reason why the node is not ready; empty when it is. A stall shows at the second look at
    /// the earliest.
    pub(crate) fn reasons(&mut self, status: &GroupStatus, now: Instant) -> Vec<NotReady> {
        // It has stopped for that reason, or is about to.
        if status.serving && status.role == Role::Removed {
            return vec![NotReady::Removed];
        }
        if let Some(damaged) = &status.damaged {
            return vec![NotReady::Damaged { damaged: damaged.clone() }];
        }
        if let Some(fatal) = &status.fatal {
            return vec![NotReady::Stopped { fatal: fatal.clone() }];
        }
        if !status.serving {
            return vec![NotReady::NotFounded];
        }
        let mut reasons = Vec::new();
        // Every group begins with an entry: whoever has applied none waits for what the others have.
        if matches!(status.role, Role::Learner | Role::Observer) && status.applied_index == 0 {
            reasons.push(NotReady::Blank);
        }
        if status.leader.is_none() {
            reasons.push(NotReady::NoLeader);
        }
        if status.storage_full {
            reasons.push(NotReady::StorageFull);
        }
        let lag = status.commit_index.saturating_sub(status.applied_index);
        if lag > LAG_MAX {
            reasons.push(NotReady::Lagging { lag });
        }
        if let Some(since) = self.standing_for(status, now).filter(|since| *since >= STALL_MAX) {
            reasons.push(NotReady::Stalled { since });
        }
        reasons
    }

    fn standing_for(&mut self, status: &GroupStatus, now: Instant) -> Option<Duration> {
        if status.last_index <= status.commit_index {
            self.standing = None;
            return None;
        }
        match self.standing {
            Some((commit, since)) if commit == status.commit_index => Some(now - since),
            _ => {
                self.standing = Some((status.commit_index, now));
                Some(Duration::ZERO)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_engine::NodeId;
    use quorate_loop::Members;

    use super::*;

    fn status(commit_index: u64, last_index: u64) -> GroupStatus {
        GroupStatus {
            role: Role::Leader,
            leader: NodeId::new(1),
            term: 1,
            commit_index,
            applied_index: commit_index,
            first_index: 1,
            last_index,
            snapshot_index: 0,
            members: Arc::new(Members::default()),
            matched: Vec::new(),
            dropped: 0,
            storage_full: false,
            log_disk_bytes: 0,
            serving: true,
            fatal: None,
            damaged: None,
        }
    }

    #[test]
    fn trap_I01_a_node_whose_proposals_stall_is_not_ready() {
        let mut stall = StallWatch::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(stall.reasons(&status(5, 5), at(0)), []);
        assert_eq!(stall.reasons(&status(5, 6), at(100)), [], "it has only just grown");
        assert_eq!(stall.reasons(&status(5, 9), at(104)), []);
        let since = STALL_MAX;
        assert_eq!(stall.reasons(&status(5, 9), at(105)), [NotReady::Stalled { since }]);
        assert_eq!(stall.reasons(&status(6, 9), at(106)), [], "it moves");
        assert_eq!(stall.reasons(&status(9, 9), at(107)), []);
        assert_eq!(stall.reasons(&status(9, 10), at(200)), []);
    }

    #[test]
    fn every_reason_is_given() {
        let mut stall = StallWatch::default();
        let now = Instant::now();
        let behind = GroupStatus { leader: None, applied_index: 10, ..status(LAG_MAX + 11, 9_999) };
        let lag = LAG_MAX + 1;
        assert_eq!(stall.reasons(&behind, now), [NotReady::NoLeader, NotReady::Lagging { lag }]);
        let unfounded = GroupStatus { serving: false, ..status(0, 0) };
        assert_eq!(stall.reasons(&unfounded, now), [NotReady::NotFounded]);
        let removed = GroupStatus { role: Role::Removed, ..behind.clone() };
        assert_eq!(stall.reasons(&removed, now), [NotReady::Removed]);
        let fatal = String::from("disk");
        let stopped = GroupStatus { fatal: Some(fatal.clone()), ..behind };
        assert_eq!(stall.reasons(&stopped, now), [NotReady::Stopped { fatal }]);
        let damaged = String::from("a lost log");
        let renewed = GroupStatus { damaged: Some(damaged.clone()), ..status(0, 0) };
        assert_eq!(stall.reasons(&renewed, now), [NotReady::Damaged { damaged }]);
    }

    #[test]
    fn a_node_without_a_vote_is_ready_when_it_follows_and_has_something() {
        let mut stall = StallWatch::default();
        let now = Instant::now();
        for role in [Role::Learner, Role::Observer] {
            let at = |commit: u64, applied_index: u64| GroupStatus {
                role,
                applied_index,
                ..status(commit, commit)
            };
            assert_eq!(stall.reasons(&at(0, 0), now), [NotReady::Blank]);
            assert_eq!(stall.reasons(&at(7, 7), now), []);
            let lag = LAG_MAX + 1;
            assert_eq!(stall.reasons(&at(LAG_MAX + 2, 1), now), [NotReady::Lagging { lag }]);
            let alone = GroupStatus { leader: None, ..at(7, 7) };
            assert_eq!(stall.reasons(&alone, now), [NotReady::NoLeader]);
        }
    }
}
