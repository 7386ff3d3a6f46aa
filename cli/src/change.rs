//! [`ShownChange`]: a change of the membership, in an entry of a log, as it is shown.

use std::fmt;

use protobuf::{Message as _, ProtobufError};
use quorate_loop::{Member, Promotion, Step, steps_of};
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry,
    EntryType,
};
use serde::Serialize;

use crate::entry::hex;

/// A change of the membership: what it means, and what Raft was told of it.
#[derive(Debug, Serialize)]
pub(crate) struct ShownChange {
    /// Absent where Raft is not told: of an address, or of a wish for a vote.
    #[serde(flatten)]
    raft: Option<RaftChange>,
    /// Absent where this version cannot read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<ShownStep>>,
    /// Why there are no steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What Raft acts on.
#[derive(Debug, Serialize)]
struct RaftChange {
    transition: &'static str,
    changes: Vec<RaftStep>,
    context_hex: String,
}

#[derive(Debug, Serialize)]
struct RaftStep {
    #[serde(rename = "type")]
    what: &'static str,
    member_id: u64,
}

/// What happens to one member.
#[derive(Debug, Serialize)]
struct ShownStep {
    step: &'static str,
    member_id: u64,
    /// As it is from then on, of one that is new or that is reached elsewhere.
    #[serde(flatten)]
    member: Option<ShownMember>,
}

#[derive(Debug, Serialize)]
struct ShownMember {
    node_id: u64,
    directory_id: String,
    incarnation: u64,
    addr: String,
    /// Whether it is to become a voter: `never`, `when-caught-up`, or `replacing`.
    promotion: &'static str,
    /// Whom it replaces then.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<u64>,
}

impl ShownChange {
    /// The change that `entry` makes; `None` where it makes none.
    ///
    /// # Errors
    ///
    /// When not even Raft's part of it can be decoded.
    pub(crate) fn of(entry: &Entry) -> Option<Result<ShownChange, ProtobufError>> {
        let (steps, error) = match steps_of(entry)? {
            Ok(steps) => (Some(steps.iter().map(ShownStep::of).collect()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let raft =
            match entry.get_entry_type() {
                EntryType::EntryNormal => Ok(None),
                EntryType::EntryConfChange => ConfChange::parse_from_bytes(&entry.data)
                    .map(|one| Some(RaftChange::of_one(&one))),
                EntryType::EntryConfChangeV2 => ConfChangeV2::parse_from_bytes(&entry.data)
                    .map(|all| Some(RaftChange::of(&all))),
            };
        Some(raft.map(|raft| ShownChange { raft, steps, error }))
    }
}

impl RaftChange {
    fn of(change: &ConfChangeV2) -> RaftChange {
        let transition = match change.get_transition() {
            ConfChangeTransition::Auto => "auto",
            ConfChangeTransition::Implicit => "implicit",
            ConfChangeTransition::Explicit => "explicit",
        };
        let changes = change.changes.iter().map(RaftStep::of).collect();
        RaftChange { transition, changes, context_hex: hex(&change.context) }
    }

    /// A change of the older form, which is that of one member.
    fn of_one(change: &ConfChange) -> RaftChange {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(change.get_change_type());
        single.node_id = change.node_id;
        let changes = vec![RaftStep::of(&single)];
        RaftChange { transition: "auto", changes, context_hex: hex(&change.context) }
    }
}

impl RaftStep {
    fn of(change: &ConfChangeSingle) -> RaftStep {
        let what = match change.get_change_type() {
            ConfChangeType::AddNode => "add-voter",
            ConfChangeType::AddLearnerNode => "add-learner",
            ConfChangeType::RemoveNode => "remove",
        };
        // What raft-rs calls a node is a member to us.
        RaftStep { what, member_id: change.node_id }
    }
}

impl ShownStep {
    fn of(step: &Step) -> ShownStep {
        let of = |step, member_id| ShownStep { step, member_id, member: None };
        match step {
            Step::Promote(id) => of("promote", *id),
            Step::Demote(id) => of("demote", *id),
            Step::Remove(id) => of("remove", *id),
            Step::Add(member) => {
                ShownStep { member: Some(ShownMember::of(member)), ..of("add", member.member_id) }
            }
            Step::Update(member) => ShownStep {
                member: Some(ShownMember::of(member)),
                ..of("update", member.member_id)
            },
        }
    }
}

impl ShownMember {
    fn of(member: &Member) -> ShownMember {
        let (promotion, replaces) = match member.promotion {
            Promotion::Never => ("never", None),
            Promotion::WhenCaughtUp => ("when-caught-up", None),
            Promotion::Replacing(id) => ("replacing", Some(id)),
        };
        ShownMember {
            node_id: member.binding.node_id.get(),
            directory_id: member.binding.directory_id.to_string(),
            incarnation: member.binding.incarnation,
            addr: member.addr.clone(),
            promotion,
            replaces,
        }
    }
}

impl fmt::Display for ShownChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> = match (&self.steps, &self.raft) {
            (Some(steps), _) => steps.iter().map(ToString::to_string).collect(),
            (None, Some(raft)) => {
                raft.changes.iter().map(|it| format!("{} {}", it.what, it.member_id)).collect()
            }
            (None, None) => vec![self.error.clone().unwrap_or_default()],
        };
        match told.is_empty() {
            true => f.write_str("leave the joint membership"),
            false => f.write_str(&told.join(", ")),
        }
    }
}

impl fmt::Display for ShownStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} member {}", self.step, self.member_id)?;
        let Some(member) = &self.member else { return Ok(()) };
        let ShownMember { node_id, addr, promotion, replaces, .. } = member;
        write!(f, " (node {node_id} at {}, promoted {promotion}", addr.escape_debug())?;
        match replaces {
            Some(id) => write!(f, " member {id})"),
            None => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_raft_is_not_told_of_is_shown_too() {
        // Member 9, on node 3, is to replace member 3; by the numbers of the fields on disk.
        let (ids, directory) = ([8, 9, 16, 3], [&[0x1a, 16][..], &[3; 16]].concat());
        let (addr, rest) = (*b"\x22\x03a:9", [40, 12, 48, 2, 56, 3]);
        let member = [&ids[..], &directory, &addr, &rest].concat();
        let step = [&[8, 5, 0x1a, member.len() as u8][..], &member].concat();
        let context = [&[0x0a, step.len() as u8][..], &step].concat();
        let entry = Entry { context: context.into(), ..Entry::default() };
        let change = ShownChange::of(&entry).unwrap().unwrap();
        let directory = "03030303-0303-0303-0303-030303030303";
        let expected = json!({"steps": [{
            "step": "update", "member_id": 9, "node_id": 3, "directory_id": directory,
            "incarnation": 12, "addr": "a:9", "promotion": "replacing", "replaces": 3,
        }]});
        assert_eq!(serde_json::to_value(&change).unwrap(), expected);
        let text = "update member 9 (node 3 at a:9, promoted replacing member 3)";
        assert_eq!(change.to_string(), text);
    }
}
