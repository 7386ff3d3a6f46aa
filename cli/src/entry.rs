//! [`ShownEntry`]: one entry of a log as people and tools are shown it.

use std::fmt::{self, Display, Write as _};

use protobuf::Message as _;
use quorate::metadata::Command;
use quorate_engine::GroupId;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry,
    EntryType,
};
use serde::Serialize;

use crate::args::EntryKind;

/// Bytes shown of what cannot be decoded: enough to recognise it by.
const RAW_BYTES_MAX: usize = 256;

/// One entry.
#[derive(Debug, Serialize)]
pub(crate) struct ShownEntry {
    group: u64,
    index: u64,
    term: u64,
    kind: EntryKind,
    bytes: usize,
    #[serde(flatten)]
    content: Content,
}

/// What is in an entry.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Command {
        command: Command,
    },
    Change {
        change: Change,
    },
    Nothing {},
    /// The first of its bytes; how many there are says the entry.
    Undecoded {
        error: String,
        hex: String,
    },
}

/// A change of the membership.
#[derive(Debug, Serialize)]
struct Change {
    transition: &'static str,
    changes: Vec<MemberChange>,
    context_hex: String,
}

#[derive(Debug, Serialize)]
struct MemberChange {
    #[serde(rename = "type")]
    what: &'static str,
    member_id: u64,
}

impl ShownEntry {
    /// Decodes `entry` of `group`.
    pub(crate) fn of(group: GroupId, entry: &Entry) -> ShownEntry {
        let data: &[u8] = &entry.data;
        let (kind, content) = match entry.get_entry_type() {
            EntryType::EntryNormal if data.is_empty() => (EntryKind::Empty, Content::Nothing {}),
            EntryType::EntryNormal => {
                let command = Command::decode(data).map(|command| Content::Command { command });
                (EntryKind::Command, command.unwrap_or_else(|error| undecoded(&error, data)))
            }
            EntryType::EntryConfChange => {
                let change = ConfChange::parse_from_bytes(data).map(|one| Change::of_one(&one));
                (EntryKind::ConfChange, Content::of_change(change, data))
            }
            EntryType::EntryConfChangeV2 => {
                let change = ConfChangeV2::parse_from_bytes(data).map(|change| Change::of(&change));
                (EntryKind::ConfChange, Content::of_change(change, data))
            }
        };
        let (group, bytes) = (group.get(), data.len());
        ShownEntry { group, index: entry.index, term: entry.term, kind, bytes, content }
    }

    /// What the entry is for.
    pub(crate) fn kind(&self) -> EntryKind {
        self.kind
    }

    /// The names of the columns of its `Display`.
    pub(crate) fn header() -> String {
        let (group, index, term, kind, bytes) = ("GROUP", "INDEX", "TERM", "KIND", "BYTES");
        format!("{group:<5}  {index:<10}  {term:<6}  {kind:<11}  {bytes:<7}  WHAT")
    }
}

impl Display for ShownEntry {
    /// One line: columns of fixed width, since a log is too long to be measured first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, index, term, kind, bytes, content } = self;
        let kind = kind.as_str();
        write!(f, "{group:<5}  {index:<10}  {term:<6}  {kind:<11}  {bytes:<7}  {content}")
    }
}

impl Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { command } => command.fmt(f),
            Self::Change { change } => change.fmt(f),
            Self::Nothing {} => f.write_str("-"),
            Self::Undecoded { error, hex } => write!(f, "cannot be decoded: {error}: {hex}"),
        }
    }
}

impl Content {
    fn of_change(change: protobuf::ProtobufResult<Change>, data: &[u8]) -> Content {
        match change {
            Ok(change) => Content::Change { change },
            Err(error) => undecoded(&error, data),
        }
    }
}

impl Change {
    fn of(change: &ConfChangeV2) -> Change {
        let transition = match change.get_transition() {
            ConfChangeTransition::Auto => "auto",
            ConfChangeTransition::Implicit => "implicit",
            ConfChangeTransition::Explicit => "explicit",
        };
        let changes = change.changes.iter().map(MemberChange::of).collect();
        Change { transition, changes, context_hex: hex(&change.context) }
    }

    /// A change of the older form, which is that of one member.
    fn of_one(change: &ConfChange) -> Change {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(change.get_change_type());
        single.node_id = change.node_id;
        let changes = vec![MemberChange::of(&single)];
        Change { transition: "auto", changes, context_hex: hex(&change.context) }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return f.write_str("leave the joint membership");
        }
        for (number, change) in self.changes.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", change.what, change.member_id)?;
        }
        Ok(())
    }
}

impl MemberChange {
    fn of(change: &ConfChangeSingle) -> MemberChange {
        let what = match change.get_change_type() {
            ConfChangeType::AddNode => "add-voter",
            ConfChangeType::AddLearnerNode => "add-learner",
            ConfChangeType::RemoveNode => "remove",
        };
        // What raft-rs calls a node is a member to us.
        MemberChange { what, member_id: change.node_id }
    }
}

fn undecoded(error: &dyn Display, data: &[u8]) -> Content {
    Content::Undecoded { error: error.to_string(), hex: hex(data) }
}

/// The first bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(RAW_BYTES_MAX).fold(String::new(), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use quorate::metadata::{BrokerEpoch, BrokerId, BrokerSession};
    use serde_json::json;

    use super::*;

    fn shown(kind: EntryType, data: Vec<u8>) -> ShownEntry {
        let mut entry = Entry { index: 7, term: 2, data: data.into(), ..Entry::default() };
        entry.set_entry_type(kind);
        ShownEntry::of(GroupId::new(1).unwrap(), &entry)
    }

    #[track_caller]
    fn assert_shown(kind: EntryType, data: Vec<u8>, json: serde_json::Value, text: &str) {
        let mut expected = json!({"group": 1, "index": 7, "term": 2, "bytes": data.len()});
        let entry = shown(kind, data);
        expected.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        assert_eq!(serde_json::to_value(&entry).unwrap(), expected);
        let line = entry.to_string();
        assert_eq!(line.lines().count(), 1);
        let at = ShownEntry::header().find("WHAT").unwrap();
        assert_eq!(&line[at..], text, "{line}");
    }

    #[test]
    fn an_entry_is_shown_with_what_is_in_it() {
        let session = BrokerSession { broker: BrokerId(3), epoch: BrokerEpoch(9) };
        let command = Command::FenceBroker(session).encode().to_vec();
        let fields = json!({"broker": 3, "epoch": 9});
        let json = json!({"kind": "command", "command": {"name": "FenceBroker", "fields": fields}});
        assert_shown(EntryType::EntryNormal, command, json, "fence broker 3 of epoch 9");
        assert_shown(EntryType::EntryNormal, vec![], json!({"kind": "empty"}), "-");
    }

    #[test]
    fn a_change_of_the_membership_is_told() {
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Implicit);
        for (kind, id) in [(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 2)] {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id;
            change.mut_changes().push(single);
        }
        change.context = vec![0, 255].into();
        let changes =
            json!([{"type": "add-voter", "member_id": 4}, {"type": "remove", "member_id": 2}]);
        let json = json!({"transition": "implicit", "changes": changes, "context_hex": "00ff"});
        let json = json!({"kind": "conf-change", "change": json});
        let data = change.write_to_bytes().unwrap();
        assert_shown(EntryType::EntryConfChangeV2, data, json, "add-voter 4, remove 2");
        let mut change = ConfChange::default();
        change.set_change_type(ConfChangeType::AddLearnerNode);
        change.node_id = 5;
        let data = change.write_to_bytes().unwrap();
        let text = shown(EntryType::EntryConfChange, data).to_string();
        assert!(text.ends_with("add-learner 5"), "{text}");
        let text = shown(EntryType::EntryConfChangeV2, vec![]).to_string();
        assert!(text.ends_with("leave the joint membership"), "{text}");
    }

    #[test]
    fn what_cannot_be_decoded_is_shown_raw_and_not_without_a_bound() {
        let error = "a kind or a field that this version does not know: upgrade this node";
        let json = json!({"kind": "command", "error": error, "hex": "9a0600"});
        let text = format!("cannot be decoded: {error}: 9a0600");
        assert_shown(EntryType::EntryNormal, vec![0x9a, 0x06, 0x00], json, &text);
        let long = serde_json::to_value(shown(EntryType::EntryConfChange, vec![255; 5000]));
        let long = long.unwrap();
        assert_eq!(long["hex"].as_str().unwrap().len(), 2 * RAW_BYTES_MAX);
        assert_eq!((&long["bytes"], &long["kind"]), (&json!(5000), &json!("conf-change")));
    }
}
