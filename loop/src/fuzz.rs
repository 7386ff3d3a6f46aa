//! The decoders of the network, for a fuzzer and for nothing else: what bytes on a connection
//! lead to, without the connection.
//!
//! It is public so that `quorate-sim` and the fuzz targets can reach what is private for a good
//! reason; a broker has no use for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use quorate_engine::{ClusterId, DirectoryId, GroupId, LogId, NodeId, SnapshotDigest};
use quorate_statemachine::CommandId;
use raft::eraftpb::{ConfState, Message};
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::founding::Founding;
use crate::frame::{
    BindingWire, FoundingNews, Frame, FrameCodec, Hello, PROTOCOL_VERSION, Refusal, RefusalCode,
};
use crate::join_wire::{JoinAnswerWire, JoinWire};
use crate::members::Members;
use crate::message::{PeerMessage, Refused};
use crate::proposal::{Proposal, SessionStep};
use crate::transport::Roster;

/// The cluster that [`examples`] speak of, and that [`arrive`] is a node of.
const CLUSTER: [u8; 16] = [7; 16];

/// What came of bytes that arrived on a connection.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Frames that were decoded.
    pub frames: u64,
    /// Messages for the core of a group.
    pub messages: Vec<PeerMessage>,
    /// Messages that announce the file of a snapshot.
    pub snapshots: Vec<Message>,
    /// Why the connection is closed before its last byte, if it is.
    pub refused: Option<String>,
    /// What a decoder must not do, if one did it.
    pub wrong: Option<String>,
}

/// Decodes a stream of bytes as a connection does, and hands what it says to whoever takes it in:
/// the roster, the founding of a group in each of its phases, the table of members.
///
/// Must not panic, whatever the bytes.
pub fn arrive(bytes: &[u8]) -> Arrival {
    let mut arrival = Arrival::default();
    let mut bytes = BytesMut::from(bytes);
    while arrival.wrong.is_none() {
        match FrameCodec.decode(&mut bytes) {
            Ok(Some(frame)) => {
                arrival.frames += 1;
                arrival.wrong = wrong_with(&frame);
                match frame {
                    Frame::Peer { message, .. } => arrival.messages.push(message),
                    Frame::Snapshot { message, .. } => arrival.snapshots.push(message),
                    _ => {}
                }
            }
            Ok(None) => break,
            Err(error) => {
                arrival.refused = Some(error.to_string());
                break;
            }
        }
    }
    arrival
}

/// The bytes of a frame that carries `message`; `None` when no frame can.
pub fn frame_of(message: PeerMessage) -> Option<Vec<u8>> {
    encode(&Frame::Peer { group: GroupId::new(1)?, message })
}

/// One frame and more of every kind, to begin mutations with.
pub fn examples() -> Vec<Vec<u8>> {
    let (two, directory) = (NodeId::new(2), DirectoryId::from_bytes([2; 16]));
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        cluster_id: CLUSTER.to_vec(),
        node_id: 2,
        directory_id: directory.as_bytes().to_vec(),
        to_node_id: 1,
        snapshot: true,
        members_index: 1,
        joins: false,
    };
    let binding = |n: u8| BindingWire { node_id: u64::from(n), directory_id: vec![n; 16] };
    let bindings = vec![binding(1), binding(2), binding(3)];
    let news = FoundingNews { bindings, complete: true, asks: true };
    let members = Members::founding(two.map(|two| (two, directory, "127.0.0.1:2".to_owned())));
    let code = RefusalCode::Busy as i32;
    let frames = [
        Frame::Hello(hello.clone()),
        Frame::Hello(Hello { joins: true, ..hello.clone() }),
        Frame::Welcome(Hello { to_node_id: 0, ..hello }),
        Frame::Refusal(Refusal { code, message: "busy".into(), members_index: 1 }),
        Frame::Founding(FoundingNews { complete: false, ..news.clone() }),
        Frame::Founding(FoundingNews::default()),
        Frame::Founding(news),
        Frame::Call { request: 1, payload: members.encode() },
        Frame::Reply { request: 1, payload: Bytes::from_static(b"reply") },
        Frame::Chunk(Bytes::from_static(b"chunk")),
        Frame::Received,
        Frame::Alive,
        Frame::Offset(7),
        Frame::Join(JoinWire::default()),
        Frame::JoinAnswer(JoinAnswerWire::default()),
    ];
    let answers = [Refused::NotLeader(two), Refused::Overloaded, Refused::Unsound];
    let at = LogId { index: 5, term: 2 };
    let id = CommandId { session: 5, sequence: 2, lowest_unfinished: 1 };
    let in_session = Proposal {
        command: Bytes::from_static(b"command"),
        session: Some(SessionStep::Command(id)),
    };
    let messages = [
        PeerMessage::Raft(Message::default()),
        PeerMessage::Propose { request: 1, proposal: Bytes::from_static(b"command").into() },
        PeerMessage::Propose { request: 1, proposal: SessionStep::Open.into() },
        PeerMessage::Propose { request: 1, proposal: in_session },
        PeerMessage::Proposed { request: 1, result: Ok(at) },
        PeerMessage::ReadIndex { request: 1 },
        PeerMessage::ReadIndexed { request: 1, result: Ok(5) },
    ];
    let refusals = answers.into_iter().flat_map(|refused| {
        [
            PeerMessage::Proposed { request: 1, result: Err(refused) },
            PeerMessage::ReadIndexed { request: 1, result: Err(refused) },
        ]
    });
    let snapshot = GroupId::new(1).and_then(|group| {
        let file = SnapshotDigest { len_bytes: 7, crcs: 9 };
        encode(&Frame::Snapshot { group, file, message: Message::default() })
    });
    let frames = frames.iter().filter_map(encode);
    frames
        .chain(messages.into_iter().chain(refusals).filter_map(frame_of))
        .chain(snapshot)
        .collect()
}

fn encode(frame: &Frame) -> Option<Vec<u8>> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes).ok()?;
    Some(bytes.to_vec())
}

/// What is wrong with how a frame was decoded, or with what came of it.
fn wrong_with(frame: &Frame) -> Option<String> {
    let again = encode(frame).map(|bytes| FrameCodec.decode(&mut BytesMut::from(&bytes[..])));
    if !matches!(&again, Some(Ok(Some(again))) if again == frame) {
        return Some(format!("{frame:?} is encoded and decoded as {again:?}"));
    }
    match frame {
        Frame::Hello(hello) | Frame::Welcome(hello) => greet(hello),
        Frame::Founding(news) => hear(news),
        Frame::Call { payload, .. } | Frame::Reply { payload, .. } => {
            let conf_state = ConfState::from((vec![2], vec![]));
            let members = Members::decode(payload, conf_state.clone()).ok()?;
            let same = Members::decode(&members.encode(), conf_state).as_ref() == Ok(&members);
            (!same).then(|| format!("{members:?} is encoded and decoded as another table"))
        }
        _ => None,
    }
}

/// A hello reaches a node that knows its peers' directories, and one that does not yet.
fn greet(hello: &Hello) -> Option<String> {
    let (own, bindings) = (NodeId::new(1)?, voters());
    let addresses = bindings.keys().map(|node| (*node, format!("127.0.0.1:{node}")));
    let cluster = ClusterId::from_bytes(CLUSTER);
    let roster = Roster::founding(cluster, own, DirectoryId::from_bytes([1; 16]), addresses);
    let founders = bindings.iter().map(|(node, directory)| (*node, *directory, String::new()));
    let member = roster.among(&Members::founding(founders));
    for (roster, is_bound) in [(member, true), (roster.bound(&bindings), true), (roster, false)] {
        if let Ok((node, directory)) = roster.check(hello) {
            // Whoever shows that it knows later members is believed; whoever joins, is asked who
            // it is by the leader.
            let is_later = roster.index() > 0 && hello.members_index > roster.index();
            let is_known =
                bindings.get(&node) == Some(&directory) || !is_bound || is_later || hello.joins;
            let is_own = node == own && !hello.joins;
            if !is_known || is_own || hello.cluster_id != CLUSTER {
                return Some(format!("{hello:?} is welcome"));
            }
        }
    }
    None
}

/// News of the founding reach a voter in each phase. One that has not heard from all others never
/// votes, unless another says `complete` of the very set that it holds.
fn hear(news: &FoundingNews) -> Option<String> {
    let (own, two, three) = (NodeId::new(1)?, NodeId::new(2)?, NodeId::new(3)?);
    let directory = |n: NodeId| DirectoryId::from_bytes([n.get() as u8; 16]);
    let voters: BTreeSet<NodeId> = [own, two, three].into();
    let mut founding = Founding::recover((own, directory(own)), voters, None).ok()?;
    // Collecting, with one heard of already.
    founding.hear(three, directory(three), &FoundingNews::default()).ok()?;
    if founding.hear(two, directory(two), news).is_err() {
        founding.hear(two, directory(two), &FoundingNews::default()).ok()?;
    }
    let record = founding.next_record()?;
    founding.persisted(&record);
    if founding.is_complete() {
        return Some(format!("{news:?} ends a founding that nobody has confirmed"));
    }
    // Confirming.
    let is_same = founding.news(false).bindings == news.bindings;
    let heard = founding.hear(two, directory(two), news);
    if let Some(record) = founding.next_record() {
        founding.persisted(&record);
    }
    let may_end = news.complete && heard.is_ok() && is_same;
    (founding.is_complete() && !may_end)
        .then(|| format!("{news:?} ends a founding that it does not confirm"))
}

fn voters() -> BTreeMap<NodeId, DirectoryId> {
    (1..=3u8)
        .filter_map(|n| Some((NodeId::new(u64::from(n))?, DirectoryId::from_bytes([n; 16]))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_arrives() {
        let (mut messages, mut snapshots) = (0, 0);
        for example in examples() {
            let Arrival { frames, messages: m, snapshots: s, refused, wrong } = arrive(&example);
            assert_eq!((frames, refused, wrong), (1, None, None), "{example:?}");
            messages += m.len();
            snapshots += s.len();
        }
        assert_eq!((messages, snapshots), (13, 1));
        let stream = examples().concat();
        assert_eq!(arrive(&stream).frames, examples().len() as u64, "one after the other");
        assert!(arrive(&stream[..stream.len() - 1]).refused.is_none(), "the rest may follow");
    }

    #[test]
    fn a_decoder_that_is_wrong_would_be_told() {
        let set = |complete, nodes: &[u8]| FoundingNews {
            bindings: nodes
                .iter()
                .map(|n| BindingWire { node_id: u64::from(*n), directory_id: vec![*n; 16] })
                .collect(),
            complete,
            asks: false,
        };
        for news in [set(true, &[1, 2, 3]), set(true, &[1, 2]), set(false, &[1, 2, 3])] {
            assert_eq!(hear(&news), None, "{news:?}");
        }
    }
}
