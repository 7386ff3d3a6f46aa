//! [`Change`]: one change of a membership, as it stands in an entry of the log.
//!
//! A change of who votes or learns is a `ConfChangeV2`, which Raft acts on, with the change as its
//! context, which we act on. What Raft does not care for, an address or a wish, is an ordinary entry
//! without data and with the change as the entry's context.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};

use crate::context::{Context, ContextError};
use crate::members::{Member, MemberWire, MembersError};

/// Steps that one change may have: two for each node that a request may name.
const STEPS_MAX: usize = 64;

/// One change of a membership: steps that take effect together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Change {
    /// Empty where a joint configuration is left.
    pub(crate) steps: Vec<Step>,
}

/// What a change of the membership does to one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new learner.
    Add(Member),
    /// A learner becomes a voter.
    Promote(u64),
    /// A voter becomes an observer.
    Demote(u64),
    /// A member goes.
    Remove(u64),
    /// The address or the wish of a member changes.
    Update(Member),
}

/// A step, as it stands in a context.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StepWire {
    /// 1 add, 2 promote, 3 demote, 4 remove, 5 update.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(message, optional, tag = "3")]
    member: Option<MemberWire>,
}

impl From<MembersError> for ContextError {
    fn from(error: MembersError) -> Self {
        ContextError(error.to_string())
    }
}

impl Change {
    /// The entry that proposes it; its index and term are Raft's to give.
    ///
    /// # Errors
    ///
    /// When nobody could read it, and so every node would stop that finds it committed.
    pub(crate) fn entry(&self) -> Result<Entry, ContextError> {
        if self.steps.len() > STEPS_MAX {
            return Err(ContextError(format!("it has more than {STEPS_MAX} steps")));
        }
        let context = Context::Change(self.clone()).encode();
        let mut entry = Entry::default();
        let changes: Vec<ConfChangeSingle> = self.steps.iter().filter_map(Step::raft).collect();
        if changes.is_empty() {
            entry.context = context;
            return Ok(entry);
        }
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        change.context = context;
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change.write_to_bytes().map_err(|e| ContextError(e.to_string()))?.into();
        Ok(entry)
    }

    pub(crate) fn of_wire(steps: &[StepWire]) -> Result<Change, ContextError> {
        if steps.len() > STEPS_MAX {
            return Err(ContextError(format!("it has more than {STEPS_MAX} steps")));
        }
        let steps = steps.iter().map(Step::of_wire).collect::<Result<_, _>>()?;
        Ok(Change { steps })
    }
}

impl Step {
    /// What Raft is told of it.
    pub(crate) fn raft(&self) -> Option<ConfChangeSingle> {
        let (kind, id) = match self {
            Step::Add(member) => (ConfChangeType::AddLearnerNode, member.member_id),
            Step::Promote(id) => (ConfChangeType::AddNode, *id),
            Step::Demote(id) => (ConfChangeType::AddLearnerNode, *id),
            Step::Remove(id) => (ConfChangeType::RemoveNode, *id),
            Step::Update(_) => return None,
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id;
        Some(single)
    }

    fn of_wire(wire: &StepWire) -> Result<Step, ContextError> {
        let member = || match &wire.member {
            Some(member) => Ok(member.member()?),
            None => Err(ContextError("a step names no member".into())),
        };
        Ok(match wire.kind {
            1 => Step::Add(member()?),
            2 => Step::Promote(wire.member_id),
            3 => Step::Demote(wire.member_id),
            4 => Step::Remove(wire.member_id),
            5 => Step::Update(member()?),
            other => return Err(ContextError(format!("step {other} is unknown"))),
        })
    }
}

impl From<&Step> for StepWire {
    fn from(step: &Step) -> Self {
        let (kind, member_id, member) = match step {
            Step::Add(member) => (1, 0, Some(member.into())),
            Step::Promote(id) => (2, *id, None),
            Step::Demote(id) => (3, *id, None),
            Step::Remove(id) => (4, *id, None),
            Step::Update(member) => (5, 0, Some(member.into())),
        };
        StepWire { kind, member_id, member }
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::{DirectoryId, NodeId};

    use super::*;
    use crate::meaning::{Meaning, steps_of};
    use crate::members::{Binding, Promotion};
    use crate::proposal::SessionStep;

    fn member() -> Member {
        let node_id = NodeId::new(3).unwrap();
        let binding =
            Binding { node_id, directory_id: DirectoryId::from_bytes([3; 16]), incarnation: 12 };
        let promotion = Promotion::Replacing(3);
        Member { member_id: 9, binding, addr: "localhost:9".to_owned(), promotion }
    }

    #[test]
    fn an_entry_tells_raft_and_us_the_same() {
        let steps = vec![Step::Add(member()), Step::Promote(4), Step::Demote(5), Step::Remove(6)];
        let change = Change { steps };
        let mut entry = change.entry().unwrap();
        let Meaning::Members(Some(mut lies), decoded) = Meaning::of(&entry).unwrap() else {
            panic!()
        };
        assert_eq!(decoded, change);
        assert_eq!(lies.get_changes().len(), 4);
        lies.mut_changes()[1].node_id = 7;
        entry.data = lies.write_to_bytes().unwrap().into();
        assert!(Meaning::of(&entry).is_err());
    }

    #[test]
    fn what_nobody_could_read_is_not_proposed() {
        let steps = |count: u64| Change { steps: (1..=count).map(Step::Remove).collect() };
        let longest = steps(STEPS_MAX as u64).entry().unwrap();
        assert!(Meaning::of(&longest).is_ok());
        assert!(steps(STEPS_MAX as u64 + 1).entry().is_err());
    }

    #[test]
    fn what_raft_does_not_care_for_is_an_ordinary_entry() {
        let change = Change { steps: vec![Step::Update(member())] };
        let entry = change.entry().unwrap();
        assert_eq!((entry.get_entry_type(), entry.data.len()), (EntryType::EntryNormal, 0));
        assert_eq!(Meaning::of(&entry), Ok(Meaning::Members(None, change)));
        assert_eq!(Meaning::of(&Entry::default()), Ok(Meaning::Command));
        assert_eq!(steps_of(&entry), Some(Ok(vec![Step::Update(member())])));
        assert_eq!(steps_of(&Entry::default()), None);
        // What Raft must know cannot be slipped past it.
        let context = Context::Change(Change { steps: vec![Step::Remove(1)] }).encode();
        let hidden = Entry { context, ..Entry::default() };
        assert!(Meaning::of(&hidden).is_err());
        assert!(steps_of(&hidden).unwrap().is_err());
    }

    #[test]
    fn leaving_a_joint_configuration_has_no_steps() {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        let Meaning::Members(Some(raft), change) = Meaning::of(&entry).unwrap() else { panic!() };
        assert!(raft.leave_joint() && change.steps.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChange);
        assert!(Meaning::of(&entry).is_err());
        // Garbage, a step of a later version, and a field of one.
        for bad in [&[0xff; 5][..], &[0x0a, 2, 8, 6], &[0x1a, 0]] {
            let entry = Entry { context: bad.into(), ..Entry::default() };
            assert!(Meaning::of(&entry).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_session_changes_no_membership() {
        let context = Context::Session(SessionStep::Open).encode();
        let mut entry = Entry { context: context.clone(), ..Entry::default() };
        assert_eq!(Meaning::of(&entry), Ok(Meaning::Session(SessionStep::Open)));
        entry.data = "a command".into();
        assert!(Meaning::of(&entry).is_err(), "none belongs to it");
        let change = ConfChangeV2 { context, ..ConfChangeV2::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change.write_to_bytes().unwrap().into();
        assert!(Meaning::of(&entry).is_err());
    }
}
