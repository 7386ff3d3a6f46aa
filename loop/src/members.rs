//! [`Members`]: who belongs to a group, in which role, and which data directory stands behind each.

mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_engine::{DirectoryId, NodeId};
use raft::eraftpb::ConfState;

pub(crate) use self::wire::MemberWire;
use crate::change::{Change, Step};

/// Retired bindings that are remembered, the latest: so that a removed member's late request to
/// join is not taken for a new one.
pub(crate) const RETIRED_MAX: usize = 256;

/// What stands behind a member: one life of a group in one data directory of one node.
///
/// A wiped disk, a directory that was set aside, or a group that was begun anew in the same
/// directory is another binding, and so never taken for the member it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// The node.
    pub node_id: NodeId,
    /// The data directory that holds the member's votes and log.
    pub directory_id: DirectoryId,
    /// Which life of the group in that directory: 0 for the one it was founded with, else the
    /// engine's number of the batch that began it.
    pub incarnation: u64,
}

/// One member of a group, bound to one life of it in one data directory.
///
/// Raft knows members by `member_id`, which is given once to a binding and never again: raft-rs
/// keeps what it knows about an id for as long as the id lives, and would take a wiped disk under
/// an old id for one that still holds everything (trap R15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Raft's name for the member; at the founding it equals the node id.
    pub member_id: u64,
    /// What stands behind it.
    pub binding: Binding,
    /// Where its peers reach it, `HOST:PORT`.
    pub addr: String,
    /// Whether it is to become a voter.
    pub promotion: Promotion,
}

impl Member {
    /// The node.
    pub fn node_id(&self) -> NodeId {
        self.binding.node_id
    }
}

/// Whether a learner is to become a voter. Of no meaning for a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// It stays a learner: an observer.
    Never,
    /// The leader makes it a voter as soon as it has caught up.
    WhenCaughtUp,
    /// As before, and the member with this id goes by the same change.
    Replacing(u64),
}

/// What a member is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// It has a vote.
    Voter,
    /// It has none yet, and becomes a voter when it has caught up.
    Learner,
    /// It has none, and stays so.
    Observer,
}

/// The members of a group as of one index of its log: part of its replicated state. The table is
/// carried in every snapshot, beside the ConfState.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Members {
    by_id: BTreeMap<u64, Member>,
    next_member_id: u64,
    /// Bindings of members that were removed, oldest first.
    retired: VecDeque<Binding>,
    /// Who was removed by the last change.
    departed: Vec<Member>,
    /// Whether the last change took somebody's vote or place.
    took: bool,
    conf_state: ConfState,
    /// The entry that changed the table last.
    index: u64,
}

/// Raft's ConfState compares by its fields, so equality is total.
impl Eq for Members {}

/// The member table of a snapshot could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the member table cannot be read ({0}): the snapshot is damaged, or written by a newer version"
)]
pub struct MembersError(String);

impl MembersError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        MembersError(what.into())
    }
}

impl Members {
    /// The founding table: every voter's member id is its node id.
    ///
    /// The counter of member ids starts above the highest of them, so that no later member is
    /// ever mistaken for a founder.
    pub fn founding(voters: impl IntoIterator<Item = (NodeId, DirectoryId, String)>) -> Members {
        let by_id: BTreeMap<u64, Member> = voters
            .into_iter()
            .map(|(node_id, directory_id, addr)| {
                let member_id = node_id.get();
                let binding = Binding { node_id, directory_id, incarnation: 0 };
                (member_id, Member { member_id, binding, addr, promotion: Promotion::Never })
            })
            .collect();
        Members::founded(by_id)
    }

    /// The founding table of a group, as whoever decided on it wrote it down.
    ///
    /// # Errors
    ///
    /// When it names nobody, a member or a node twice, or one that no founding table could have.
    pub(crate) fn of_founders(founders: Vec<Member>) -> Result<Members, MembersError> {
        let can_found = |member: &Member| {
            (1..u64::MAX).contains(&member.member_id)
                && member.binding.incarnation == 0
                && member.promotion == Promotion::Never
        };
        let nodes: BTreeSet<NodeId> = founders.iter().map(Member::node_id).collect();
        let count = founders.len();
        let by_id: BTreeMap<u64, Member> =
            founders.into_iter().map(|member| (member.member_id, member)).collect();
        let is_sound = by_id.values().all(can_found);
        if count == 0 || nodes.len() != count || by_id.len() != count || !is_sound {
            return Err(MembersError::new("founders are none, doubled, or no founders"));
        }
        Ok(Members::founded(by_id))
    }

    fn founded(by_id: BTreeMap<u64, Member>) -> Members {
        let next_member_id = by_id.keys().next_back().map_or(1, |id| id.saturating_add(1));
        let ids: Vec<u64> = by_id.keys().copied().collect();
        let conf_state = ConfState::from((ids, Vec::new()));
        Members { by_id, next_member_id, conf_state, index: 1, ..Members::default() }
    }

    /// The founding table of another group, with these nodes as its voters. Each keeps its member id,
    /// which stands for one directory and for no other.
    ///
    /// # Errors
    ///
    /// A node that is no member here.
    pub(crate) fn founding_of(&self, voters: &[NodeId]) -> Result<Members, NodeId> {
        let of_node = |node: &NodeId| self.of_node(*node).ok_or(*node);
        let members: Vec<&Member> = voters.iter().map(of_node).collect::<Result<_, _>>()?;
        let by_id: BTreeMap<u64, Member> = members
            .into_iter()
            .map(|member| {
                let binding = Binding { incarnation: 0, ..member.binding };
                let promotion = Promotion::Never;
                (member.member_id, Member { binding, promotion, ..member.clone() })
            })
            .collect();
        Ok(Members::founded(by_id))
    }

    /// The member that Raft calls `member_id`.
    pub fn get(&self, member_id: u64) -> Option<&Member> {
        self.by_id.get(&member_id)
    }

    /// The member that runs on `node`: the newest one, where one is about to replace another.
    pub fn of_node(&self, node: NodeId) -> Option<&Member> {
        self.all_of_node(node).next_back()
    }

    /// The members on `node`: two, while one replaces the other.
    pub fn all_of_node(&self, node: NodeId) -> impl DoubleEndedIterator<Item = &Member> {
        self.by_id.values().filter(move |member| member.node_id() == node)
    }

    /// The member behind which `binding` stands.
    pub fn of_binding(&self, binding: Binding) -> Option<&Member> {
        self.by_id.values().find(|member| member.binding == binding)
    }

    /// As [`Members::of_binding`], and of those that have departed: a node may restart from a snapshot by
    /// which it is removed, and be needed still.
    pub(crate) fn of_binding_or_departed(&self, binding: Binding) -> Option<&Member> {
        let departed = || self.departed.iter().find(|member| member.binding == binding);
        self.of_binding(binding).or_else(departed)
    }

    /// What a member is; `None` for one that is not in the table.
    pub fn role(&self, member_id: u64) -> Option<MemberRole> {
        let member = self.get(member_id)?;
        Some(match (self.is_voter(member_id), member.promotion) {
            (true, _) => MemberRole::Voter,
            (false, Promotion::Never) => MemberRole::Observer,
            (false, _) => MemberRole::Learner,
        })
    }

    /// Whether a member has a vote now; in a joint configuration, in either half.
    pub fn is_voter(&self, member_id: u64) -> bool {
        let ConfState { voters, voters_outgoing, .. } = &self.conf_state;
        voters.contains(&member_id) || voters_outgoing.contains(&member_id)
    }

    /// Whether the voters are changing from one set to another.
    pub fn is_joint(&self) -> bool {
        !self.conf_state.voters_outgoing.is_empty()
    }

    /// The roles of all members, as Raft knows them.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The log index of the entry that changed the membership last.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether `binding` was a member's, and is not any more.
    pub fn is_retired(&self, binding: Binding) -> bool {
        self.retired.contains(&binding)
    }

    /// Who was removed by the change that this is the table of: needed still, and not refused, until
    /// another change is behind it (`core/departure.rs`).
    pub(crate) fn departed(&self) -> &[Member] {
        &self.departed
    }

    /// Whether that change took anybody's vote or place.
    pub(crate) fn took_from_somebody(&self) -> bool {
        self.took
    }

    /// The id that the next member gets; all ids that were ever given are below it.
    pub fn next_member_id(&self) -> u64 {
        self.next_member_id
    }

    /// All members, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether the group has no member; true only before its founding.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether `change` can follow this table: it names members that are there, and gives new ones
    /// the next ids. The same on every node.
    pub(crate) fn admits(&self, change: &Change) -> bool {
        let mut next = self.next_member_id;
        change.steps.iter().all(|step| match step {
            Step::Add(member) => {
                let is_next = member.member_id == next;
                next += 1;
                is_next && self.of_binding(member.binding).is_none()
            }
            Step::Promote(id) | Step::Demote(id) | Step::Remove(id) => self.get(*id).is_some(),
            Step::Update(member) => {
                self.get(member.member_id).is_some_and(|old| old.binding == member.binding)
            }
        })
    }

    /// The table after `change`, committed at `index`, with which Raft came to `conf_state`.
    ///
    /// # Panics
    ///
    /// When the table does not admit the change.
    pub(crate) fn changed(&self, change: &Change, conf_state: ConfState, index: u64) -> Members {
        assert!(self.admits(change), "{change:?} cannot follow the membership of {}", self.index);
        let mut next = Members { conf_state, index, ..self.clone() };
        for step in &change.steps {
            match step {
                Step::Add(member) | Step::Update(member) => {
                    next.next_member_id = next.next_member_id.max(member.member_id + 1);
                    next.by_id.insert(member.member_id, member.clone());
                }
                // A voter wishes for nothing, and one that loses its vote shall not get it back
                // by itself.
                Step::Promote(id) | Step::Demote(id) => {
                    if let Some(member) = next.by_id.get_mut(id) {
                        member.promotion = Promotion::Never;
                    }
                }
                Step::Remove(_) => {}
            }
        }
        // Whom Raft still counts stays: in a joint configuration, the outgoing voters.
        let conf = &next.conf_state;
        let is_counted = |id: &u64| {
            [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next]
                .iter()
                .any(|ids| ids.contains(id))
        };
        let gone: Vec<u64> = next.by_id.keys().copied().filter(|id| !is_counted(id)).collect();
        next.departed = gone.iter().filter_map(|id| next.by_id.remove(id)).collect();
        next.retired.extend(next.departed.iter().map(|member| member.binding));
        let has_lost_its_vote = |id: &u64| self.is_voter(*id) && !next.is_voter(*id);
        next.took = !next.departed.is_empty() || self.by_id.keys().any(has_lost_its_vote);
        while next.retired.len() > RETIRED_MAX {
            next.retired.pop_front();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Members {
        Members::founding([1u64, 2, 7].map(|n| {
            let node = NodeId::new(n).unwrap();
            (node, DirectoryId::from_bytes([n as u8; 16]), format!("127.0.0.1:{n}"))
        }))
    }

    fn newcomer(members: &Members, node: u64, promotion: Promotion) -> Member {
        let node_id = NodeId::new(node).unwrap();
        let directory_id = DirectoryId::from_bytes([99; 16]);
        let binding = Binding { node_id, directory_id, incarnation: 5 };
        let member_id = members.next_member_id();
        Member { member_id, binding, addr: "127.0.0.1:99".to_owned(), promotion }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let members = three();
        let decoded = Members::decode(&members.encode(), members.conf_state().clone());
        assert_eq!(decoded.unwrap(), members);
        assert_eq!(members.next_member_id, 8);
        assert_eq!(members.of_node(NodeId::new(7).unwrap()).unwrap().member_id, 7);
    }

    #[test]
    fn a_replacement_has_an_id_and_a_role_of_its_own_until_the_swap() {
        let members = three();
        let new = newcomer(&members, 7, Promotion::Replacing(7));
        let change = Change { steps: vec![Step::Add(new.clone())] };
        assert!(members.admits(&change));
        let learning = ConfState::from((vec![1, 2, 7], vec![8]));
        let members = members.changed(&change, learning, 30);
        assert!(!members.admits(&change), "an id is given once");
        let node = NodeId::new(7).unwrap();
        let ids: Vec<u64> = members.all_of_node(node).map(|member| member.member_id).collect();
        assert_eq!(ids, [7, 8]);
        assert_eq!(members.of_node(node).unwrap().member_id, 8);
        assert_eq!(members.role(8), Some(MemberRole::Learner));

        let swap = Change { steps: vec![Step::Promote(8), Step::Remove(7)] };
        let mut joint = ConfState::from((vec![1, 2, 8], vec![]));
        joint.voters_outgoing = vec![1, 2, 7];
        let members = members.changed(&swap, joint, 40);
        assert_eq!(
            (members.role(7), members.role(8)),
            (Some(MemberRole::Voter), Some(MemberRole::Voter))
        );
        let old = members.get(7).unwrap().binding;
        let left = ConfState::from((vec![1, 2, 8], vec![]));
        let members = members.changed(&Change::default(), left, 41);
        assert_eq!((members.get(7), members.next_member_id(), members.index()), (None, 9, 41));
        assert!(members.is_retired(old) && !members.is_retired(new.binding));
        assert_eq!(members.departed().iter().map(|m| m.binding).collect::<Vec<_>>(), [old]);
        assert!(members.took_from_somebody());
        let decoded = Members::decode(&members.encode(), members.conf_state().clone());
        assert_eq!(decoded.unwrap(), members);

        // Whatever comes behind it, they are gone for good; and who is demoted has not departed.
        let members = members.changed(&Change::default(), members.conf_state().clone(), 42);
        assert!(members.departed().is_empty() && !members.took_from_somebody());
        let demote = Change { steps: vec![Step::Demote(2)] };
        let members = members.changed(&demote, ConfState::from((vec![1, 8], vec![2])), 43);
        assert!(members.departed().is_empty() && members.took_from_somebody());
        let decoded = Members::decode(&members.encode(), members.conf_state().clone());
        assert_eq!(decoded.unwrap(), members);
    }
}
