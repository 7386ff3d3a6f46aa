//! What one can ask of a group's membership, and what can be wrong with it.

use std::sync::Arc;

use quorate_engine::{DirectoryId, NodeId};

use crate::members::{Binding, Members};

/// Members that a group has at most: more than a cluster of brokers has nodes, and few enough that
/// their table fits into one frame.
pub(crate) const MEMBERS_MAX: usize = 128;

/// A request to change who belongs to a group; the leader carries it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipRequest {
    /// A data directory that belongs to no member asks to become one.
    Join(Join),
    /// Voters and learners change, all of it at once.
    Change(Vec<MemberChange>),
    /// A member is reached elsewhere from now on.
    Address {
        /// Its node.
        node: NodeId,
        /// `HOST:PORT`.
        addr: String,
    },
}

/// A data directory asks to become a member.
///
/// Where its node is a member already, by another directory, it is to take that member's place, in
/// the same role. Else it becomes an observer, until somebody promotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The new member.
    pub binding: Binding,
    /// Where it is reached, `HOST:PORT`. Empty where it does not know that: it is reached then where
    /// the member was that it follows.
    pub addr: String,
    /// The directory of the member that it was, when it comes back by itself: it is let in only
    /// while that one is still a member. `None` when an operator formatted the directory to join.
    pub was: Option<DirectoryId>,
}

/// What becomes of the member on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// It becomes a voter as soon as it has caught up.
    Add(NodeId),
    /// It becomes a voter now; it must have caught up.
    Promote(NodeId),
    /// It loses its vote and becomes an observer.
    Demote(NodeId),
    /// It leaves. Its data directory cannot come back as this member.
    Remove(NodeId),
}

impl MemberChange {
    /// The node it is about.
    pub fn node(&self) -> NodeId {
        match self {
            MemberChange::Add(node)
            | MemberChange::Promote(node)
            | MemberChange::Demote(node)
            | MemberChange::Remove(node) => *node,
        }
    }
}

/// A change of the membership that is committed, or would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChanged {
    /// The log index from which on the members are these: where several voters changed at once, that at
    /// which the old ones left. Of a dry run, that of the present membership.
    pub index: u64,
    /// The members as of then.
    pub members: Arc<Members>,
}

/// Why a membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// This node does not lead; nothing was changed.
    #[error("this node is not the leader: ask the one that is")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A change is under way, or the leader leads for too short a time to know who is alive; nothing
    /// was changed.
    #[error("the membership is changing, or its leader has changed just now: try again")]
    Pending,
    /// There is no such member; nothing was changed.
    #[error("node {0} is no member: start it with a directory of `quorate format --join` first")]
    NoMember(NodeId),
    /// The member is what the change would make of it; nothing was changed.
    #[error("node {0} is that already: there is nothing to do, see `members ls`")]
    NoChange(NodeId),
    /// One node is named twice, or more are named than one change may have; nothing was changed.
    #[error("name every node once, and at most 32 of them")]
    Unsound,
    /// The learner does not have enough of the log yet; nothing was changed.
    #[error(
        "node {node} has not caught up, it is {behind} entries behind: wait, or use `members add`"
    )]
    NotCaughtUp {
        /// The learner.
        node: NodeId,
        /// How many entries it lacks.
        behind: u64,
    },
    /// The voters after the change, or those before it, would not have a majority of live members;
    /// nothing was changed.
    #[error(
        "the quorum would be lost: of {voters} voters only {live} answer, and {needed} are needed; \
         bring others back first"
    )]
    WouldLoseQuorum {
        /// How many voters there would be.
        voters: usize,
        /// How many of them answer now.
        live: usize,
        /// How many a majority is.
        needed: usize,
    },
    /// Nobody would have a vote; nothing was changed.
    #[error("no voter would be left: add another one first")]
    LastVoter,
    /// The leader would lose its vote; nothing was changed.
    #[error("node {0} leads: hand leadership over first, with `leader transfer`")]
    Leads(NodeId),
    /// The member whose place is to be taken still answers; nothing was changed.
    #[error(
        "node {0} is a member by another data directory, which still answers: stop that one first"
    )]
    StillActive(NodeId),
    /// The binding was a member once, or the member that it wants to follow is none any more;
    /// nothing was changed.
    #[error("node {0} was removed: to come back it needs a new directory, `quorate format --join`")]
    Retired(NodeId),
    /// The newcomer follows nobody, and does not say where it is reached; nothing was changed.
    #[error(
        "node {0} listens on all addresses and does not say which of them others reach: set \
         `loop.advertise`"
    )]
    NoAddress(NodeId),
    /// There are as many members as there may be; nothing was changed.
    #[error("there are {0} members, as many as there may be: remove one first")]
    TooMany(usize),
    /// The disk of the leader is full, or too much is waiting; nothing was changed.
    #[error("the leader takes nothing in now: try again")]
    Overloaded,
    /// The change was proposed; whether it is or will be committed is unknown.
    #[error("no answer in time: look at `members ls` for what became of it")]
    Unknown,
}

impl MembershipError {
    /// Whether trying again, with another node perhaps, can help without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            MembershipError::NotLeader { .. }
                | MembershipError::Pending
                | MembershipError::NotCaughtUp { .. }
                | MembershipError::StillActive(_)
                | MembershipError::WouldLoseQuorum { .. }
                | MembershipError::Overloaded
                | MembershipError::Unknown
        )
    }
}
