//! [`CatalogueChange`]: groups that are created, or removed, as it stands in an entry of group 1's log.
//!
//! Raft is told nothing of it, so it is an ordinary entry without data and with the change as the
//! entry's context, like what [`crate::change`] says of members. The number of the context's first field
//! tells them apart.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{GroupId, NodeId};
use raft::eraftpb::{Entry, EntryType};

use crate::context::ContextError;
use crate::members::{Member, MemberWire, Members};

/// Groups that one change may create or remove.
pub(crate) const GROUPS_PER_CHANGE_MAX: usize = 10_000;

/// Voters that a group may be founded with: more than any sensible group has.
const FOUNDERS_MAX: usize = 32;

/// How the context of such an entry begins: field 8, with a length.
const FIRST_BYTE: u8 = 8 << 3 | 2;

/// A request to change which groups there are; the leader of group 1 carries it out, all of it or
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogueRequest {
    /// Groups begin, all with the same voters.
    Create {
        /// Their ids, none of which a group ever had.
        groups: Vec<GroupId>,
        /// Their voters, members of group 1.
        voters: Vec<NodeId>,
    },
    /// Groups end, on every node, with all that they hold.
    Remove {
        /// Their ids.
        groups: Vec<GroupId>,
    },
}

/// One change of the catalogue: what an entry of group 1's log says about which groups there are. That
/// it is in the log does not say that it took effect: one that does not fit what was before it is
/// void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogueChange {
    /// Groups begin.
    Create {
        /// Their ids, ascending.
        groups: Vec<GroupId>,
        /// The members that each begins with.
        founders: Arc<Members>,
    },
    /// Groups end.
    Remove {
        /// Their ids, ascending.
        groups: Vec<GroupId>,
    },
}

/// Why groups were not created or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// This node does not lead group 1; nothing was changed.
    #[error("this node does not lead group 1: ask the one that does")]
    NotLeader {
        /// Who leads it, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// There is a group of this id; nothing was changed.
    #[error("there is a group {0} already: choose another id")]
    Exists(GroupId),
    /// The id is below one that was given before; nothing was changed.
    #[error(
        "the id {group} was used before, or passed over: nodes that were away may still have what \
         it named; choose {next} or above"
    )]
    Spent {
        /// The id.
        group: GroupId,
        /// The lowest one that is free.
        next: u64,
    },
    /// A voter is no member of group 1, which would know its data directory; nothing was changed.
    #[error("node {0} is no member of group 1: have it join the cluster first")]
    UnknownVoter(NodeId),
    /// There is no such group; nothing was changed.
    #[error("there is no group {0}: it was never created, or is removed already")]
    NoGroup(GroupId),
    /// Group 1 stays as long as the cluster; nothing was changed.
    #[error("group 1 is that of the cluster itself: it cannot be removed")]
    First,
    /// No group or no voter is named, one is named twice, or too many are; nothing was changed.
    #[error("name each group and each voter once, at most 10000 groups and 32 voters at a time")]
    Unsound,
    /// There are as many groups as there may be; nothing was changed.
    #[error("there would be more than {max} groups: remove some first")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The disk of the leader is full, or too much is waiting; nothing was changed.
    #[error("the leader takes nothing in now: try again")]
    Overloaded,
    /// The change was proposed; whether it is or will be committed is unknown. Asking again is safe:
    /// an id is given once.
    #[error("no answer in time: ask again, or see whether the groups are there")]
    Unknown,
    /// This node has stopped, before it had carried out what was asked for, which is committed, or what
    /// was waited for.
    #[error("this node has stopped: what is committed is carried out when it is opened again")]
    Stopped,
}

impl CatalogueError {
    /// Whether asking again, another node perhaps, can help without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            CatalogueError::NotLeader { .. } | CatalogueError::Overloaded | CatalogueError::Unknown
        )
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContextWire {
    #[prost(message, optional, tag = "8")]
    change: Option<CatalogueChangeWire>,
}

/// Either created groups and their founders, or removed ones.
#[derive(Clone, PartialEq, prost::Message)]
struct CatalogueChangeWire {
    #[prost(uint64, repeated, tag = "1")]
    created: Vec<u64>,
    #[prost(message, repeated, tag = "2")]
    founders: Vec<MemberWire>,
    #[prost(uint64, repeated, tag = "3")]
    removed: Vec<u64>,
}

impl CatalogueChange {
    /// What a request leads to where `members` are those of group 1.
    ///
    /// # Errors
    ///
    /// What is wrong with the request itself; whether it fits a catalogue, that one says.
    pub(crate) fn of_request(
        request: &CatalogueRequest,
        members: &Members,
    ) -> Result<CatalogueChange, CatalogueError> {
        Ok(match request {
            CatalogueRequest::Create { groups, voters } => {
                let each_once: BTreeSet<&NodeId> = voters.iter().collect();
                if !(1..=FOUNDERS_MAX).contains(&voters.len()) || each_once.len() != voters.len() {
                    return Err(CatalogueError::Unsound);
                }
                let founders = members.founding_of(voters).map_err(CatalogueError::UnknownVoter)?;
                CatalogueChange::Create { groups: ascending(groups)?, founders: Arc::new(founders) }
            }
            CatalogueRequest::Remove { groups } => {
                CatalogueChange::Remove { groups: ascending(groups)? }
            }
        })
    }

    /// The entry that proposes it; its index and term are Raft's to give.
    pub(crate) fn entry(&self) -> Entry {
        let numbers = |groups: &[GroupId]| groups.iter().map(|group| group.get()).collect();
        let change = match self {
            CatalogueChange::Create { groups, founders } => CatalogueChangeWire {
                created: numbers(groups),
                founders: founders.iter().map(MemberWire::from).collect(),
                ..CatalogueChangeWire::default()
            },
            CatalogueChange::Remove { groups } => {
                let removed = numbers(groups);
                CatalogueChangeWire { removed, ..CatalogueChangeWire::default() }
            }
        };
        let context = ContextWire { change: Some(change) }.encode_to_vec();
        Entry { context: Bytes::from(context), ..Entry::default() }
    }

    /// Whether `entry` says something about which groups there are.
    pub(crate) fn is_in(entry: &Entry) -> bool {
        entry.get_entry_type() == EntryType::EntryNormal
            && entry.context.first() == Some(&FIRST_BYTE)
    }

    /// What an entry changes that says something about which groups there are.
    ///
    /// # Errors
    ///
    /// When it cannot be read: this version must not go on, since others may have.
    pub(crate) fn decode(entry: &Entry) -> Result<CatalogueChange, ContextError> {
        let wrong = |what: &str| ContextError(format!("which groups there are: {what}"));
        let context =
            ContextWire::decode(&*entry.context).map_err(|error| wrong(&error.to_string()))?;
        let Some(change) = context.change.filter(|_| entry.data.is_empty()) else {
            return Err(wrong("it is of an unknown kind"));
        };
        let groups = |numbers: &[u64]| {
            let groups = numbers.iter().map(|number| GroupId::new(*number)).collect();
            let groups: Option<Vec<GroupId>> = groups;
            let is_sound = |groups: &Vec<GroupId>| ascending(groups).as_ref() == Ok(groups);
            groups.filter(is_sound).ok_or_else(|| wrong("ids do not ascend"))
        };
        let CatalogueChangeWire { created, founders, removed } = &change;
        let change = match (created.is_empty(), removed.is_empty()) {
            (false, true) => {
                let founders: Vec<Member> =
                    founders.iter().map(MemberWire::member).collect::<Result<_, _>>()?;
                let founders = Arc::new(Members::of_founders(founders)?);
                CatalogueChange::Create { groups: groups(created)?, founders }
            }
            (true, false) => CatalogueChange::Remove { groups: groups(removed)? },
            _ => return Err(wrong("it neither creates nor removes")),
        };
        // Whoever skipped a part of it would do something else than the others.
        match change.entry().context == entry.context {
            true => Ok(change),
            false => Err(wrong("it says more than is known here")),
        }
    }
}

/// The ids in ascending order, each of which must be there once.
fn ascending(groups: &[GroupId]) -> Result<Vec<GroupId>, CatalogueError> {
    let each_once: BTreeSet<GroupId> = groups.iter().copied().collect();
    let is_sound = (1..=GROUPS_PER_CHANGE_MAX).contains(&groups.len());
    match is_sound && each_once.len() == groups.len() {
        true => Ok(each_once.into_iter().collect()),
        false => Err(CatalogueError::Unsound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::{founders, id, ids};
    use crate::meaning::{Meaning, catalogue_change_of, steps_of};
    use crate::members::{Binding, Promotion};

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn an_entry_says_what_was_proposed() {
        let created =
            CatalogueChange::Create { groups: ids(2..=700), founders: founders([1, 2, 7]) };
        let removed = CatalogueChange::Remove { groups: ids([3, 9, 12]) };
        for change in [created, removed] {
            let entry = change.entry();
            assert_eq!((entry.get_entry_type(), entry.data.len()), (EntryType::EntryNormal, 0));
            assert_eq!(Meaning::of(&entry), Ok(Meaning::Groups(change.clone())));
            assert_eq!(catalogue_change_of(&entry), Some(Ok(change)));
            assert_eq!(steps_of(&entry), None, "it says nothing about members");
        }
        assert_eq!(catalogue_change_of(&Entry::default()), None);
    }

    #[test]
    fn a_request_names_each_once() {
        let members = founders([1, 2, 3]);
        let create = |groups: Vec<GroupId>, voters: Vec<NodeId>| {
            CatalogueChange::of_request(&CatalogueRequest::Create { groups, voters }, &members)
        };
        let change = create(ids([9, 2]), vec![node(3), node(1)]).unwrap();
        let expected = CatalogueChange::Create { groups: ids([2, 9]), founders: founders([1, 3]) };
        assert_eq!(change, expected);
        for (groups, voters) in [
            (ids([]), vec![node(1)]),
            (ids([2, 2]), vec![node(1)]),
            (ids(2..=10_002), vec![node(1)]),
            (ids([2]), vec![]),
            (ids([2]), vec![node(1), node(1)]),
        ] {
            assert_eq!(create(groups, voters), Err(CatalogueError::Unsound));
        }
        let unknown = create(ids([2]), vec![node(1), node(9)]);
        assert_eq!(unknown, Err(CatalogueError::UnknownVoter(node(9))));
        let remove = CatalogueRequest::Remove { groups: ids([4, 2]) };
        let change = CatalogueChange::of_request(&remove, &members).unwrap();
        assert_eq!(change, CatalogueChange::Remove { groups: vec![id(2), id(4)] });
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let founder = || MemberWire::from(founders([1]).iter().next().unwrap());
        let founder_as = |member_id, incarnation, promotion| {
            let members = founders([1]);
            let founder = members.iter().next().unwrap();
            let binding = Binding { incarnation, ..founder.binding };
            MemberWire::from(&Member { member_id, binding, promotion, ..founder.clone() })
        };
        let of = |created: &[u64], founders, removed: &[u64]| CatalogueChangeWire {
            created: created.to_vec(),
            founders,
            removed: removed.to_vec(),
        };
        for change in [
            of(&[], vec![], &[]),
            of(&[2], vec![founder()], &[3]),
            of(&[], vec![founder()], &[3]),
            of(&[3, 2], vec![founder()], &[]),
            of(&[0], vec![founder()], &[]),
            of(&[2], vec![], &[]),
            of(&[2], vec![founder(), founder()], &[]),
            of(&[2], vec![founder_as(1, 0, Promotion::WhenCaughtUp)], &[]),
            of(&[2], vec![founder_as(1, 5, Promotion::Never)], &[]),
            of(&[2], vec![founder_as(u64::MAX, 0, Promotion::Never)], &[]),
        ] {
            let context = ContextWire { change: Some(change.clone()) }.encode_to_vec();
            let entry = Entry { context: context.into(), ..Entry::default() };
            assert!(Meaning::of(&entry).is_err(), "{change:?}");
        }
        let more = CatalogueChange::Remove { groups: ids([2]) }.entry();
        let context = [&more.context[..], &[9 << 3, 1]].concat().into();
        assert!(Meaning::of(&Entry { context, ..more }).is_err());
        let data = Bytes::from_static(b"command");
        let entry = CatalogueChange::Remove { groups: ids([2]) }.entry();
        assert!(Meaning::of(&Entry { data, ..entry }).is_err());
    }
}
