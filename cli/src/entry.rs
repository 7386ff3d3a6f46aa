//! [`ShownEntry`]: one entry of a log as people and tools are shown it.

use std::fmt::{self, Display, Write as _};

use quorate::metadata::Command;
use quorate_engine::GroupId;
use quorate_loop::session_step_of;
use raft::eraftpb::Entry;
use serde::Serialize;

use crate::args::EntryKind;
use crate::change::ShownChange;
use crate::entry_session::ShownSession;
use crate::groups::ShownGroups;

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
    /// What it does in a client session, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<ShownSession>,
}

/// What is in an entry.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Command {
        command: Command,
    },
    Change {
        change: ShownChange,
    },
    Groups {
        groups: ShownGroups,
    },
    Nothing {},
    /// The first of its bytes; how many there are says the entry.
    Undecoded {
        error: String,
        hex: String,
    },
}

impl ShownEntry {
    /// Decodes `entry` of `group`.
    pub(crate) fn of(group: GroupId, entry: &Entry) -> ShownEntry {
        let data: &[u8] = &entry.data;
        // One that cannot be read is told of below, as a change that cannot be.
        let session =
            session_step_of(entry).ok().flatten().map(|step| ShownSession::of(step, entry));
        let (kind, content) = match (ShownGroups::of(entry), ShownChange::of(entry)) {
            (Some(Ok(groups)), _) => (EntryKind::Groups, Content::Groups { groups }),
            (Some(Err(error)), _) => (EntryKind::Groups, undecoded(&error, &entry.context)),
            (None, Some(Ok(change))) => (EntryKind::ConfChange, Content::Change { change }),
            (None, Some(Err(error))) => (EntryKind::ConfChange, undecoded(&error, data)),
            (None, None) if data.is_empty() && session.is_some() => {
                (EntryKind::Session, Content::Nothing {})
            }
            (None, None) if data.is_empty() => (EntryKind::Empty, Content::Nothing {}),
            (None, None) => {
                let command = Command::decode(data).map(|command| Content::Command { command });
                (EntryKind::Command, command.unwrap_or_else(|error| undecoded(&error, data)))
            }
        };
        // What Raft is not told of stands in the context alone.
        let (group, bytes) = (group.get(), data.len() + entry.context.len());
        ShownEntry { group, index: entry.index, term: entry.term, kind, bytes, content, session }
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
        let Self { group, index, term, kind, bytes, content, session } = self;
        let kind = kind.as_str();
        write!(f, "{group:<5}  {index:<10}  {term:<6}  {kind:<11}  {bytes:<7}  ")?;
        match (session, content) {
            (None, content) => content.fmt(f),
            (Some(session), Content::Nothing {}) => session.fmt(f),
            (Some(session), content) => write!(f, "{content} ({session})"),
        }
    }
}

impl Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { command } => command.fmt(f),
            Self::Change { change } => change.fmt(f),
            Self::Groups { groups } => groups.fmt(f),
            Self::Nothing {} => f.write_str("-"),
            Self::Undecoded { error, hex } => write!(f, "cannot be decoded: {error}: {hex}"),
        }
    }
}

fn undecoded(error: &dyn Display, data: &[u8]) -> Content {
    Content::Undecoded { error: error.to_string(), hex: hex(data) }
}

/// The first bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(RAW_BYTES_MAX).fold(String::new(), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use quorate::metadata::{BrokerEpoch, BrokerId, BrokerSession};
    use raft::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType,
    };
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
    fn what_an_entry_does_in_a_session_is_told() {
        let shown = |context: &'static [u8], data: Vec<u8>| {
            let (context, data) = (context.into(), data.into());
            let entry = Entry { index: 7, term: 2, context, data, ..Entry::default() };
            ShownEntry::of(GroupId::new(1).unwrap(), &entry)
        };
        let told = |entry: &ShownEntry| {
            let at = ShownEntry::header().find("WHAT").unwrap();
            (entry.kind(), entry.to_string()[at..].to_owned())
        };
        let opens = shown(&[0x12, 2, 8, 1], vec![]);
        assert_eq!(told(&opens), (EntryKind::Session, "open session 7".to_owned()));
        let closes = shown(&[0x12, 4, 8, 3, 16, 5], vec![]);
        assert_eq!(told(&closes), (EntryKind::Session, "close session 5".to_owned()));
        let session = BrokerSession { broker: BrokerId(3), epoch: BrokerEpoch(9) };
        let command = Command::FenceBroker(session).encode().to_vec();
        let command = shown(&[0x12, 8, 8, 2, 16, 5, 24, 4, 32, 3], command);
        let text = "fence broker 3 of epoch 9 (command 4 of session 5, waiting from 3 on)";
        assert_eq!(told(&command), (EntryKind::Command, text.to_owned()));
        let json = serde_json::to_value(&command).unwrap();
        let expected = json!({"step": "command", "id": 5, "sequence": 4, "lowest_unfinished": 3});
        assert_eq!(json["session"], expected);
        assert_eq!(json["command"]["name"], "FenceBroker");
        // What this version cannot read is shown as it is.
        let later = shown(&[0x12, 2, 8, 9], b"data".to_vec());
        assert!(told(&later).1.contains("run the version that proposed it"), "{later}");
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
        // Steps 2, promote, of member 4, and 4, remove, of member 2.
        change.context = vec![0x0a, 4, 8, 2, 16, 4, 0x0a, 4, 8, 4, 16, 2].into();
        let changes =
            json!([{"type": "add-voter", "member_id": 4}, {"type": "remove", "member_id": 2}]);
        let steps =
            json!([{"step": "promote", "member_id": 4}, {"step": "remove", "member_id": 2}]);
        let hex = "0a04080210040a0408041002";
        let json = json!({"transition": "implicit", "changes": changes, "context_hex": hex});
        let mut json = json!({"kind": "conf-change", "change": json});
        json["change"]["steps"] = steps;
        let data = change.write_to_bytes().unwrap();
        let text = "promote member 4, remove member 2";
        assert_shown(EntryType::EntryConfChangeV2, data, json, text);
        // Of another version: what Raft was told can be shown all the same.
        change.context = vec![0, 255].into();
        let entry = shown(EntryType::EntryConfChangeV2, change.write_to_bytes().unwrap());
        assert!(entry.to_string().ends_with("add-voter 4, remove 2"), "{entry}");
        let json = serde_json::to_value(&entry).unwrap();
        assert!(json["change"]["error"].as_str().unwrap().contains("run the version"), "{json}");
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
    fn groups_that_come_and_go_are_told() {
        // Field 8, with: created ids 2 to 4 and 9 (1), and a founder (2): member 1 on node 1.
        let founder = [vec![8, 1, 16, 1, 26, 16], vec![7; 16], vec![34, 3], b"a:1".to_vec()];
        let founder = founder.concat();
        let mut change = vec![10, 4, 2, 3, 4, 9, 18, founder.len() as u8];
        change.extend(&founder);
        let removal = vec![26, 2, 2, 9];
        let entry = |change: &[u8]| {
            let context = [&[66, change.len() as u8], change].concat().into();
            let entry = Entry { index: 7, term: 2, context, ..Entry::default() };
            ShownEntry::of(GroupId::new(1).unwrap(), &entry)
        };
        let created = entry(&change);
        let founders = json!([{"member_id": 1, "node_id": 1, "addr": "a:1",
            "directory_id": "07070707-0707-0707-0707-070707070707"}]);
        let groups = json!({"change": "create", "ids": [[2, 4], [9, 9]], "founders": founders});
        let bytes = change.len() + 2;
        let json = json!({"group": 1, "index": 7, "term": 2, "kind": "groups", "bytes": bytes,
            "groups": groups});
        assert_eq!(serde_json::to_value(&created).unwrap(), json);
        assert!(created.to_string().ends_with("create groups 2-4, 9 on nodes 1"), "{created}");
        let removed = entry(&removal);
        assert_eq!(removed.kind(), EntryKind::Groups);
        assert!(removed.to_string().ends_with("remove groups 2, 9"), "{removed}");
        let unknown = entry(&[]).to_string();
        assert!(unknown.contains("run the version"), "{unknown}");
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
