//! [`GroupStatus`]: what a node knows of its group and of itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::NodeId;
use raft::StateRole;

use crate::members::{MemberRole, Members};

/// What a node is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows, or waits for a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows and has no vote yet.
    Learner,
    /// It follows without a vote, and stays so.
    Observer,
    /// It was a member and is not any more.
    Removed,
}

impl Role {
    pub(crate) fn of(state: StateRole, role: Option<MemberRole>) -> Role {
        match (role, state) {
            (None, _) => Role::Removed,
            (_, StateRole::Leader) => Role::Leader,
            (_, StateRole::Candidate | StateRole::PreCandidate) => Role::Candidate,
            (Some(MemberRole::Voter), StateRole::Follower) => Role::Follower,
            (Some(MemberRole::Learner), StateRole::Follower) => Role::Learner,
            (Some(MemberRole::Observer), StateRole::Follower) => Role::Observer,
        }
    }
}

/// The group as one core sees it; see [`Core::status`](crate::Core::status).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreStatus {
    /// What this node is.
    pub role: Role,
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Highest index known to be committed.
    pub commit_index: u64,
    /// Highest index the state machine has applied.
    pub applied_index: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Who belongs to the group.
    pub members: Arc<Members>,
    /// On the leader: by member id, the highest index known to be durable there. Else empty.
    pub matched: Vec<(u64, u64)>,
    /// Messages from peers that were dropped: by the guard, or for want of room for their entries.
    pub dropped: u64,
    /// Whether there is no room on the disk for what is to be written.
    pub storage_full: bool,
}

/// When a leader last had an answer of a member. It changes with every heartbeat, so it is no part
/// of a status, which is published at every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    /// Raft's name for the member.
    pub member_id: u64,
    /// How long ago it answered last, in whole ticks; `None` where it never has.
    pub ago: Option<Duration>,
    /// What follows from that.
    pub liveness: Liveness,
}

/// What a leader may believe of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It answered within an election timeout.
    Live,
    /// It did not, but this node leads, or it is a member, for a shorter time: it says nothing.
    Unheard,
    /// It did not, though it was asked all that time.
    Silent,
}

/// The group as this node sees it, and the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// What this node is.
    pub role: Role,
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Highest index known to be committed.
    pub commit_index: u64,
    /// Highest index the state machine has applied.
    pub applied_index: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Index of the newest snapshot; 0 where there is none.
    pub snapshot_index: u64,
    /// Who belongs to the group; empty before the founding.
    pub members: Arc<Members>,
    /// On the leader: by member id, the highest index known to be durable there. Else empty.
    pub matched: Vec<(u64, u64)>,
    /// Messages from peers that were dropped: by the guard, or for want of room for their entries.
    pub dropped: u64,
    /// Whether there is no room on the disk for what is to be written. The node refuses proposals,
    /// does not lead where another can, and goes on by itself when there is room.
    pub storage_full: bool,
    /// Bytes of the log's files on disk, counted in whole files, after the last write.
    pub log_disk_bytes: u64,
    /// Whether the founding is complete, so that this node takes part in elections.
    pub serving: bool,
    /// Why the node has stopped for good; `None` while it runs.
    pub fatal: Option<String>,
    /// What was found damaged: this node's log of the group may have lost what the node
    /// acknowledged or voted, and does not act any more. Either the group stays down here, and
    /// `fatal` says so too; or what was there was set aside, and the node is on its way back as
    /// another member: until it has its first snapshot.
    pub damaged: Option<String>,
}

/// Whom a node takes for the leader. It changes with elections and with nothing else, so that whoever
/// waits for another leader is not woken by every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// Who leads, if this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
}

impl fmt::Display for GroupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Leader => "the leader",
            Role::Follower => "a follower",
            Role::Candidate => "a candidate",
            Role::Learner => "a learner",
            Role::Observer => "an observer",
            Role::Removed => "no member",
        };
        match self.leader {
            _ if self.role == Role::Leader => write!(f, "{role}")?,
            Some(leader) => write!(f, "{role} of node {leader}")?,
            None => write!(f, "{role} without a leader")?,
        }
        let GroupStatus { term, commit_index, applied_index, last_index, .. } = self;
        write!(
            f,
            " in term {term}, commit index {commit_index}, applied index {applied_index}, \
             last index {last_index}"
        )?;
        match &self.fatal {
            Some(fatal) => write!(f, ", stopped: {fatal}"),
            None => Ok(()),
        }
    }
}

impl GroupStatus {
    /// Whom the node takes for the leader.
    pub(crate) fn leadership(&self) -> Leadership {
        Leadership { leader: self.leader, term: self.term }
    }

    /// Before the founding nothing is known.
    pub(crate) fn founding(log_disk_bytes: u64) -> Self {
        GroupStatus {
            role: Role::Follower,
            leader: None,
            term: 0,
            commit_index: 0,
            applied_index: 0,
            first_index: 0,
            last_index: 0,
            snapshot_index: 0,
            members: Arc::new(Members::default()),
            matched: Vec::new(),
            dropped: 0,
            storage_full: false,
            log_disk_bytes,
            serving: false,
            fatal: None,
            damaged: None,
        }
    }

    pub(crate) fn serving(core: CoreStatus, log_disk_bytes: u64) -> Self {
        GroupStatus {
            role: core.role,
            leader: core.leader,
            term: core.term,
            commit_index: core.commit_index,
            applied_index: core.applied_index,
            first_index: core.first_index,
            last_index: core.last_index,
            snapshot_index: core.snapshot_index,
            members: core.members,
            matched: core.matched,
            dropped: core.dropped,
            storage_full: core.storage_full,
            log_disk_bytes,
            serving: true,
            fatal: None,
            damaged: None,
        }
    }
}
