//! [`JoinWire`] and [`JoinAnswerWire`]: a request to be let into a group, and its answer, as they
//! travel. See [`crate::joining`].

use quorate_engine::{GroupId, check_address};
use raft::eraftpb::ConfState;

use crate::frame::directory_of;
use crate::members::{MemberWire, Members, MembersError};
use crate::membership::{Join, MembershipChanged, MembershipError};

/// A request to be let into a group.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct JoinWire {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    /// Binding and address.
    #[prost(message, optional, tag = "2")]
    member: Option<MemberWire>,
    /// Empty unless the newcomer comes back by itself.
    #[prost(bytes = "vec", tag = "3")]
    was: Vec<u8>,
    /// Whether it is only asked what would be answered.
    #[prost(bool, tag = "4")]
    pub(crate) dry_run: bool,
}

impl JoinWire {
    pub(crate) fn new(group: GroupId, join: &Join, dry_run: bool) -> Self {
        let member = MemberWire::of(&join.binding, &join.addr);
        let was = join.was.map(|was| was.as_bytes().to_vec()).unwrap_or_default();
        JoinWire { group: group.get(), member: Some(member), was, dry_run }
    }

    /// The request, unless it makes no sense.
    pub(crate) fn join(&self) -> Option<Join> {
        let member = self.member.as_ref()?;
        let was = match self.was.as_slice() {
            [] => None,
            bytes => Some(directory_of(bytes)?),
        };
        let (binding, addr) = (member.binding().ok()?, member.addr().to_owned());
        let is_address = addr.is_empty() || check_address(&addr).is_ok();
        is_address.then_some(Join { binding, addr, was })
    }
}

/// The answer to a [`JoinWire`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct JoinAnswerWire {
    #[prost(enumeration = "JoinOutcome", tag = "1")]
    pub(crate) outcome: i32,
    /// Why not.
    #[prost(string, tag = "2")]
    pub(crate) text: String,
    /// Of a dry run, 0.
    #[prost(uint64, tag = "3")]
    pub(crate) member_id: u64,
    #[prost(bytes = "vec", tag = "4")]
    members: Vec<u8>,
    #[prost(uint64, repeated, tag = "5")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    learners: Vec<u64>,
    /// Where the leader is reached; empty if that is not known.
    #[prost(string, tag = "7")]
    pub(crate) leader_addr: String,
}

/// What is to be done about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum JoinOutcome {
    /// Whatever this version does not know: asked again.
    Later = 0,
    /// The newcomer is a member.
    LetIn = 1,
    /// Somebody else leads.
    NotLeader = 2,
    /// For good.
    Refused = 3,
}

impl JoinAnswerWire {
    /// The members as the leader knows them.
    pub(crate) fn members(&self) -> Result<Members, MembersError> {
        let conf_state = ConfState::from((self.voters.clone(), self.learners.clone()));
        Members::decode(&self.members, conf_state)
    }

    /// What is answered when the group is not here, or nobody knows.
    pub(crate) fn later(text: &str) -> Self {
        JoinAnswerWire { text: text.to_owned(), ..JoinAnswerWire::default() }
    }

    /// What is answered when the group is nowhere, and never will be again.
    pub(crate) fn never(text: &str) -> Self {
        let outcome = JoinOutcome::Refused as i32;
        JoinAnswerWire { outcome, ..JoinAnswerWire::later(text) }
    }

    /// `leader_addr` is where the leader is reached, as far as this node knows.
    pub(crate) fn of(
        join: &Join,
        result: &Result<MembershipChanged, MembershipError>,
        leader_addr: Option<String>,
    ) -> Self {
        let answer = |outcome: JoinOutcome, text: String| JoinAnswerWire {
            outcome: outcome as i32,
            text,
            ..JoinAnswerWire::default()
        };
        match result {
            Ok(MembershipChanged { members, .. }) => {
                let conf = members.conf_state();
                JoinAnswerWire {
                    // Of a dry run it is none yet.
                    member_id: members.of_binding(join.binding).map_or(0, |m| m.member_id),
                    members: members.encode().to_vec(),
                    voters: conf.voters.iter().chain(&conf.voters_outgoing).copied().collect(),
                    learners: conf.learners.clone(),
                    ..answer(JoinOutcome::LetIn, String::new())
                }
            }
            Err(error @ MembershipError::NotLeader { .. }) => JoinAnswerWire {
                leader_addr: leader_addr.unwrap_or_default(),
                ..answer(JoinOutcome::NotLeader, error.to_string())
            },
            Err(error) if error.is_retryable() => answer(JoinOutcome::Later, error.to_string()),
            Err(error) => answer(JoinOutcome::Refused, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use quorate_engine::{DirectoryId, NodeId};

    use super::*;
    use crate::change::{Change, Step};
    use crate::members::{Binding, Member, Promotion, RETIRED_MAX};
    use crate::membership::MEMBERS_MAX;
    use crate::transport::JOIN_FRAME_BYTES_MAX;

    /// Or a newcomer that was let in would never hear of it, and ask for ever.
    #[test]
    fn the_largest_table_fits_into_the_answer() {
        let high = 1 << 62;
        let member = |n: u64| {
            let node_id = NodeId::new(high + n).unwrap();
            let (directory_id, incarnation) = (DirectoryId::from_bytes([7; 16]), high + n);
            let binding = Binding { node_id, directory_id, incarnation };
            let addr = format!("{}:65535", "x".repeat(253));
            Member { member_id: n, binding, addr, promotion: Promotion::Replacing(high) }
        };
        let all = 1..=(RETIRED_MAX + MEMBERS_MAX) as u64;
        let add = Change { steps: all.clone().map(|n| Step::Add(member(n))).collect() };
        let conf = |ids: Vec<u64>| ConfState::from((ids, vec![]));
        let none = Members::founding([]);
        let members = none.changed(&add, conf(all.clone().collect()), 2);
        let stay: Vec<u64> = all.skip(RETIRED_MAX).collect();
        let mut joint = conf(stay.clone());
        joint.voters_outgoing = stay;
        let members = members.changed(&Change::default(), joint.clone(), high);
        // Whoever departs was one of as many members, until the next change.
        let members = std::sync::Arc::new(members.changed(&Change::default(), joint, high));
        assert_eq!((members.len(), members.departed().len()), (MEMBERS_MAX, 0));
        let binding = members.iter().next().unwrap().binding;
        let join = Join { binding, addr: "localhost:1".to_owned(), was: None };
        let answer = JoinAnswerWire::of(&join, &Ok(MembershipChanged { index: 3, members }), None);
        let length = answer.encoded_len() + 64;
        assert!(length <= JOIN_FRAME_BYTES_MAX, "{length}");
    }
}
