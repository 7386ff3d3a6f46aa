//! [`Frame`]: everything that travels on a connection, and its bytes.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the body, little endian; at most FRAME_BYTES_MAX
//!      4     4  CRC-32 of the body
//!      8     1  kind
//!      9     …  the kind's payload
//! ```
//!
//! A frame that is too long is refused before anything is allocated for it; one whose CRC or
//! payload is wrong closes the connection, since nothing after it can be trusted. Field numbers
//! and kinds never change their meaning.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use protobuf::{CodedInputStream, Message as _};
use quorate_engine::{DirectoryId, GroupId, LogId, NodeId, SnapshotDigest};
use raft::eraftpb;
use tokio_util::codec::{Decoder, Encoder};

use crate::config::COMMAND_BYTES_LIMIT;
use crate::context::Context;
use crate::heartbeat::{self, Heartbeat};
use crate::join_wire::{JoinAnswerWire, JoinWire};
use crate::message::{PeerMessage, Refused};
use crate::proposal::Proposal;

/// Version of this format; peers that speak another one are refused in the handshake.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Longest body: the largest command, and room for what Raft puts around it.
pub(crate) const FRAME_BYTES_MAX: usize = COMMAND_BYTES_LIMIT + (1 << 20);

/// What a short frame has at most of entries or heartbeats, and of their bytes.
const SHORT_ENTRIES: usize = 16;
const SHORT_BYTES: usize = 4 << 10;

/// Bytes before the body.
const HEADER_BYTES: usize = 8;

/// Deepest nesting is the decoder's own limit; entries of one message are bounded by its bytes.
const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REFUSAL: u8 = 3;
const KIND_RAFT: u8 = 4;
const KIND_PROPOSE: u8 = 5;
const KIND_PROPOSED: u8 = 6;
const KIND_READ_INDEX: u8 = 7;
const KIND_READ_INDEXED: u8 = 8;
const KIND_FOUNDING: u8 = 9;
const KIND_CALL: u8 = 10;
const KIND_REPLY: u8 = 11;
// 12 announced a snapshot file by its length alone.
const KIND_CHUNK: u8 = 13;
const KIND_RECEIVED: u8 = 14;
const KIND_SNAPSHOT: u8 = 20;
const KIND_OFFSET: u8 = 21;
const KIND_HEARTBEATS: u8 = 40;
const KIND_HEARTBEAT_ANSWERS: u8 = 41;
const KIND_JOIN: u8 = 30;
const KIND_JOIN_ANSWER: u8 = 31;
const KIND_ALIVE: u8 = 22;
const KIND_PROPOSE_IN_SESSION: u8 = 50;

/// One unit on the wire.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// The first frame of whoever connects.
    Hello(Hello),
    /// The answer of whoever accepts: the same about itself.
    Welcome(Hello),
    /// The answer instead of a welcome; the connection is closed after it.
    Refusal(Refusal),
    /// Something for the core of a group.
    Peer { group: GroupId, message: PeerMessage },
    /// What a voter knows about the founding.
    Founding(FoundingNews),
    /// A request of the application, answered by a [`Frame::Reply`] on the way back.
    Call { request: u64, payload: Bytes },
    /// The answer to a [`Frame::Call`].
    Reply { request: u64, payload: Bytes },
    /// The peer has nothing to say, and is there.
    Alive,
    /// Announces a snapshot file: the Raft message that goes with it, and which file it is.
    Snapshot { group: GroupId, file: SnapshotDigest, message: eraftpb::Message },
    /// So many bytes of the announced file have arrived and are written: go on behind them. The
    /// first one says where to begin; the same one again, that the receiver is still at work.
    Offset(u64),
    /// The next bytes of the announced file.
    Chunk(Bytes),
    /// Asks to be let into a group; see [`crate::joining`].
    Join(JoinWire),
    /// What came of it.
    JoinAnswer(JoinAnswerWire),
    /// The whole file arrived, was verified, is durable, and the core was told.
    Received,
    /// Heartbeats of many groups.
    Heartbeats(Vec<Heartbeat>),
    /// The answers to such.
    HeartbeatAnswers(Vec<Heartbeat>),
}

impl Frame {
    /// Whether it takes no time to speak of to encode it: a few entries, an answer.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Frame::Peer { message: PeerMessage::Raft(message), .. } => {
                let entries = message.get_entries();
                let bytes = |entry: &eraftpb::Entry| entry.data.len() + entry.context.len();
                entries.len() <= SHORT_ENTRIES
                    && entries.iter().map(bytes).sum::<usize>() <= SHORT_BYTES
                    && !message.has_snapshot()
            }
            Frame::Peer { message: PeerMessage::Propose { proposal, .. }, .. } => {
                proposal.command.len() <= SHORT_BYTES
            }
            Frame::Peer { .. } | Frame::Alive => true,
            Frame::Call { payload, .. } | Frame::Reply { payload, .. } => {
                payload.len() <= SHORT_BYTES
            }
            Frame::Heartbeats(beats) | Frame::HeartbeatAnswers(beats) => {
                beats.len() <= SHORT_ENTRIES
            }
            _ => false,
        }
    }
}

/// Who is speaking.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) cluster_id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(crate) node_id: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) directory_id: Vec<u8>,
    /// The node the speaker believes to have reached; zero in a welcome.
    #[prost(uint64, tag = "5")]
    pub(crate) to_node_id: u64,
    /// Whether this connection carries one snapshot file instead of messages.
    #[prost(bool, tag = "7")]
    pub(crate) snapshot: bool,
    /// The index of the log of group 1 of which the speaker knows the members; 0 if of none.
    #[prost(uint64, tag = "8")]
    pub(crate) members_index: u64,
    /// Whether this connection carries one request to join instead of messages.
    #[prost(bool, tag = "9")]
    pub(crate) joins: bool,
}

/// Why a connection is refused.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Refusal {
    #[prost(enumeration = "RefusalCode", tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    /// As in [`Hello`], of whoever refuses.
    #[prost(uint64, tag = "3")]
    pub(crate) members_index: u64,
}

/// The kinds of refusal that the other side acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum RefusalCode {
    /// Anything else; see the message.
    Other = 0,
    /// Another cluster id.
    WrongCluster = 1,
    /// Another protocol version.
    WrongProtocol = 2,
    /// The node id is not a member.
    UnknownNode = 3,
    /// The node is known by another data directory, and its founding is complete.
    ReplacedDirectory = 4,
    /// Whoever was reached is another node than the one meant.
    WrongNode = 5,
    /// At the limit of connections.
    Busy = 6,
    /// The node was a member, and is not any more.
    Removed = 7,
}

impl RefusalCode {
    /// Whether it says who the members are, and that the refused is none of them.
    pub(crate) fn is_about_membership(self) -> bool {
        matches!(self, Self::UnknownNode | Self::ReplacedDirectory | Self::Removed)
    }
}

/// What one voter tells the others until the founding is complete; see [`crate::founding`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FoundingNews {
    /// The set of (node, directory) that the sender has made durable; empty before that.
    #[prost(message, repeated, tag = "1")]
    pub(crate) bindings: Vec<BindingWire>,
    /// Whether the sender has made `complete` durable.
    #[prost(bool, tag = "2")]
    pub(crate) complete: bool,
    /// Whether the sender wants an answer.
    #[prost(bool, tag = "3")]
    pub(crate) asks: bool,
}

impl FoundingNews {
    /// Bytes that it holds in memory, roughly: what a queue of them is bounded by.
    pub(crate) fn weight(&self) -> usize {
        let binding =
            |binding: &BindingWire| size_of::<BindingWire>() + binding.directory_id.capacity();
        (4 << 10) + self.bindings.iter().map(binding).sum::<usize>()
    }
}

/// A node and its directory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct BindingWire {
    #[prost(uint64, tag = "1")]
    pub(crate) node_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) directory_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerWire {
    #[prost(uint64, tag = "1")]
    request: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    /// 0 accepted, 1 not the leader, 2 overloaded, 3 unsound, 4 storage full. Whoever does not
    /// know a number takes it for 2: surely not appended.
    #[prost(uint32, tag = "4")]
    refused: u32,
    #[prost(uint64, tag = "5")]
    leader: u64,
}

impl AnswerWire {
    fn refused(request: u64, refused: Refused) -> AnswerWire {
        let (code, leader) = match refused {
            Refused::NotLeader(leader) => (1, leader.map_or(0, NodeId::get)),
            Refused::Overloaded => (2, 0),
            Refused::Unsound => (3, 0),
            Refused::StorageFull => (4, 0),
        };
        AnswerWire { request, refused: code, leader, ..AnswerWire::default() }
    }

    fn result(&self) -> Result<LogId, Refused> {
        match self.refused {
            0 => Ok(LogId { index: self.index, term: self.term }),
            1 => Err(Refused::NotLeader(NodeId::new(self.leader))),
            3 => Err(Refused::Unsound),
            4 => Err(Refused::StorageFull),
            _ => Err(Refused::Overloaded),
        }
    }
}

/// Bytes that are no frame of ours; the connection they came from is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes is longer than any may be here")]
    TooLong(usize),
    #[error("a frame's CRC is {found:08x} where its header says {expected:08x}")]
    Crc { expected: u32, found: u32 },
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of kind {kind} cannot be decoded: {why}")]
    Malformed { kind: u8, why: String },
    #[error("a frame that does not belong into this stream")]
    Unexpected,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Encodes and decodes [`Frame`]s on a byte stream.
#[derive(Debug, Default)]
pub(crate) struct FrameCodec;

impl Encoder<&Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let start = out.len();
        out.put_bytes(0, HEADER_BYTES);
        put_body(frame, out).inspect_err(|_| out.truncate(start))?;
        let body = &out[start + HEADER_BYTES..];
        let (length, crc) = (body.len(), crc32fast::hash(body));
        if length > FRAME_BYTES_MAX {
            out.truncate(start);
            return Err(FrameError::TooLong(length));
        }
        out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }
}

fn put_body(frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
    let put = |kind: u8, message: &dyn Fn(&mut BytesMut), out: &mut BytesMut| {
        out.put_u8(kind);
        message(out);
    };
    match frame {
        Frame::Hello(hello) => put(KIND_HELLO, &|o| hello.encode_raw(o), out),
        Frame::Welcome(hello) => put(KIND_WELCOME, &|o| hello.encode_raw(o), out),
        Frame::Refusal(refusal) => put(KIND_REFUSAL, &|o| refusal.encode_raw(o), out),
        Frame::Founding(news) => put(KIND_FOUNDING, &|o| news.encode_raw(o), out),
        Frame::Call { request, payload } => put_request(KIND_CALL, *request, payload, out),
        Frame::Reply { request, payload } => put_request(KIND_REPLY, *request, payload, out),
        Frame::Chunk(bytes) => put(KIND_CHUNK, &|o| o.put_slice(bytes), out),
        Frame::Received => out.put_u8(KIND_RECEIVED),
        Frame::Join(join) => put(KIND_JOIN, &|o| join.encode_raw(o), out),
        Frame::JoinAnswer(answer) => put(KIND_JOIN_ANSWER, &|o| answer.encode_raw(o), out),
        Frame::Alive => out.put_u8(KIND_ALIVE),
        Frame::Offset(offset) => put(KIND_OFFSET, &|o| o.put_u64_le(*offset), out),
        Frame::Heartbeats(beats) => put(KIND_HEARTBEATS, &|o| heartbeat::put(beats, o), out),
        Frame::HeartbeatAnswers(beats) => {
            put(KIND_HEARTBEAT_ANSWERS, &|o| heartbeat::put(beats, o), out);
        }
        Frame::Snapshot { group, file, message } => {
            out.put_u8(KIND_SNAPSHOT);
            for number in [group.get(), file.len_bytes, file.crcs] {
                out.put_u64_le(number);
            }
            put_raft(KIND_SNAPSHOT, message, out)?;
        }
        Frame::Peer { group, message } => put_peer(*group, message, out)?,
    }
    Ok(())
}

fn put_request(kind: u8, request: u64, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u64_le(request);
    out.put_slice(payload);
}

fn put_peer(group: GroupId, message: &PeerMessage, out: &mut BytesMut) -> Result<(), FrameError> {
    let mut head = |kind: u8| {
        out.put_u8(kind);
        out.put_u64_le(group.get());
    };
    match message {
        PeerMessage::Raft(message) => {
            head(KIND_RAFT);
            put_raft(KIND_RAFT, message, out)?;
        }
        PeerMessage::Propose { request, proposal } => match proposal.session {
            None => {
                head(KIND_PROPOSE);
                out.put_u64_le(*request);
                out.put_slice(&proposal.command);
            }
            Some(step) => {
                head(KIND_PROPOSE_IN_SESSION);
                out.put_u64_le(*request);
                let context = Context::Session(step).encode();
                // A few numbers: far below 256 bytes.
                out.put_u8(context.len() as u8);
                out.put_slice(&context);
                out.put_slice(&proposal.command);
            }
        },
        PeerMessage::Proposed { request, result } => {
            head(KIND_PROPOSED);
            let answer = match *result {
                Ok(id) => AnswerWire {
                    request: *request,
                    index: id.index,
                    term: id.term,
                    ..AnswerWire::default()
                },
                Err(refused) => AnswerWire::refused(*request, refused),
            };
            answer.encode_raw(out);
        }
        PeerMessage::ReadIndex { request } => {
            head(KIND_READ_INDEX);
            out.put_u64_le(*request);
        }
        PeerMessage::ReadIndexed { request, result } => {
            head(KIND_READ_INDEXED);
            let answer = match *result {
                Ok(index) => AnswerWire { request: *request, index, ..AnswerWire::default() },
                Err(refused) => AnswerWire::refused(*request, refused),
            };
            answer.encode_raw(out);
        }
    }
    Ok(())
}

fn put_raft(kind: u8, message: &eraftpb::Message, out: &mut BytesMut) -> Result<(), FrameError> {
    message
        .write_to_writer(&mut out.writer())
        .map_err(|e| FrameError::Malformed { kind, why: e.to_string() })
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let expected = u32::from_le_bytes([c0, c1, c2, c3]);
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if bytes.len() < HEADER_BYTES + length {
            bytes.reserve(HEADER_BYTES + length - bytes.len());
            return Ok(None);
        }
        bytes.advance(HEADER_BYTES);
        let body = bytes.split_to(length).freeze();
        let found = crc32fast::hash(&body);
        if found != expected {
            return Err(FrameError::Crc { expected, found });
        }
        get_body(body).map(Some)
    }
}

fn get_body(mut body: Bytes) -> Result<Frame, FrameError> {
    if body.is_empty() {
        return Err(FrameError::UnknownKind(0));
    }
    let kind = body.get_u8();
    let malformed = |why: &str| FrameError::Malformed { kind, why: why.to_owned() };
    let prost_error = |e: prost::DecodeError| malformed(&e.to_string());
    let number = |body: &mut Bytes| {
        (body.len() >= 8).then(|| body.get_u64_le()).ok_or_else(|| malformed("it is cut short"))
    };
    let group = |body: &mut Bytes| {
        GroupId::new(number(body)?).ok_or_else(|| malformed("group zero is the engine's own"))
    };
    Ok(match kind {
        KIND_HELLO => Frame::Hello(Hello::decode(body).map_err(prost_error)?),
        KIND_WELCOME => Frame::Welcome(Hello::decode(body).map_err(prost_error)?),
        KIND_REFUSAL => Frame::Refusal(Refusal::decode(body).map_err(prost_error)?),
        KIND_FOUNDING => Frame::Founding(FoundingNews::decode(body).map_err(prost_error)?),
        KIND_CALL => Frame::Call { request: number(&mut body)?, payload: body },
        KIND_REPLY => Frame::Reply { request: number(&mut body)?, payload: body },
        KIND_CHUNK => Frame::Chunk(body),
        KIND_RECEIVED => Frame::Received,
        KIND_JOIN => Frame::Join(JoinWire::decode(body).map_err(prost_error)?),
        KIND_JOIN_ANSWER => Frame::JoinAnswer(JoinAnswerWire::decode(body).map_err(prost_error)?),
        KIND_ALIVE => Frame::Alive,
        KIND_OFFSET => Frame::Offset(number(&mut body)?),
        KIND_HEARTBEATS => {
            Frame::Heartbeats(heartbeat::get(body).ok_or_else(|| malformed("no heartbeats"))?)
        }
        KIND_HEARTBEAT_ANSWERS => {
            Frame::HeartbeatAnswers(heartbeat::get(body).ok_or_else(|| malformed("no answers"))?)
        }
        KIND_SNAPSHOT => Frame::Snapshot {
            group: group(&mut body)?,
            file: SnapshotDigest { len_bytes: number(&mut body)?, crcs: number(&mut body)? },
            message: get_raft(kind, &body)?,
        },
        KIND_RAFT => {
            let group = group(&mut body)?;
            Frame::Peer { group, message: PeerMessage::Raft(get_raft(kind, &body)?) }
        }
        KIND_PROPOSE => {
            let group = group(&mut body)?;
            let request = number(&mut body)?;
            let message = PeerMessage::Propose { request, proposal: body.into() };
            Frame::Peer { group, message }
        }
        KIND_PROPOSE_IN_SESSION => {
            let group = group(&mut body)?;
            let request = number(&mut body)?;
            let step = match body.try_get_u8().map(usize::from) {
                Ok(len) if len <= body.len() => Context::decode(&body.split_to(len)),
                _ => return Err(malformed("it is cut short")),
            };
            let Ok(Context::Session(step)) = step else {
                return Err(malformed("it is no step in a session"));
            };
            let proposal = Proposal { command: body, session: Some(step) };
            Frame::Peer { group, message: PeerMessage::Propose { request, proposal } }
        }
        KIND_READ_INDEX => {
            let group = group(&mut body)?;
            let request = number(&mut body)?;
            Frame::Peer { group, message: PeerMessage::ReadIndex { request } }
        }
        KIND_PROPOSED => {
            let group = group(&mut body)?;
            let answer = AnswerWire::decode(body).map_err(prost_error)?;
            let message =
                PeerMessage::Proposed { request: answer.request, result: answer.result() };
            Frame::Peer { group, message }
        }
        KIND_READ_INDEXED => {
            let group = group(&mut body)?;
            let answer = AnswerWire::decode(body).map_err(prost_error)?;
            let result = answer.result().map(|id| id.index);
            let message = PeerMessage::ReadIndexed { request: answer.request, result };
            Frame::Peer { group, message }
        }
        unknown => return Err(FrameError::UnknownKind(unknown)),
    })
}

/// Entry data shares the frame's bytes: nothing is copied.
fn get_raft(kind: u8, body: &Bytes) -> Result<eraftpb::Message, FrameError> {
    let mut message = eraftpb::Message::default();
    message
        .merge_from(&mut CodedInputStream::from_carllerche_bytes(body))
        .map_err(|e| FrameError::Malformed { kind, why: e.to_string() })?;
    Ok(message)
}

/// The directory id with these bytes, when they are sixteen.
pub(crate) fn directory_of(bytes: &[u8]) -> Option<DirectoryId> {
    <[u8; 16]>::try_from(bytes).ok().map(DirectoryId::from_bytes)
}

impl Hello {
    /// The directory of the speaker, when it is one.
    pub(crate) fn directory(&self) -> Option<DirectoryId> {
        directory_of(&self.directory_id)
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use proptest::prelude::*;
    use quorate_statemachine::CommandId;

    use super::*;
    use crate::proposal::SessionStep;

    fn round_trip(frame: &Frame) -> Frame {
        let mut bytes = BytesMut::new();
        FrameCodec.encode(frame, &mut bytes).unwrap();
        let decoded = FrameCodec.decode(&mut bytes).unwrap().unwrap();
        assert!(bytes.is_empty());
        decoded
    }

    fn frames() -> Vec<Frame> {
        let group = GroupId::new(1).unwrap();
        let data = Bytes::from_static(b"payload");
        let entry = eraftpb::Entry { index: 8, term: 3, data, ..eraftpb::Entry::default() };
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgAppend);
        message.to = 2;
        message.entries = vec![entry].into();
        let hello = Hello { protocol: 1, node_id: 3, snapshot: true, ..Hello::default() };
        let peer = |message| Frame::Peer { group, message };
        let at = LogId { index: 5, term: 2 };
        let leader = NodeId::new(2);
        let file = SnapshotDigest { len_bytes: 77, crcs: 5 << 40 };
        let id = CommandId { session: u64::MAX, sequence: u64::MAX, lowest_unfinished: u64::MAX };
        let session = Some(SessionStep::Command(id));
        let in_session = Proposal { command: Bytes::from_static(b"c"), session };
        vec![
            Frame::Hello(hello.clone()),
            Frame::Welcome(hello),
            Frame::Refusal(Refusal { code: 4, message: "no".into(), members_index: 9 }),
            Frame::Founding(FoundingNews { asks: true, ..FoundingNews::default() }),
            Frame::Call { request: 9, payload: Bytes::from_static(b"x") },
            Frame::Reply { request: 9, payload: Bytes::new() },
            Frame::Snapshot { group, file, message: message.clone() },
            Frame::Offset(1 << 40),
            Frame::Chunk(Bytes::from_static(b"chunk")),
            Frame::Received,
            Frame::Alive,
            peer(PeerMessage::Raft(message)),
            peer(PeerMessage::Propose { request: 1, proposal: Bytes::from_static(b"c").into() }),
            peer(PeerMessage::Propose { request: 1, proposal: SessionStep::Open.into() }),
            peer(PeerMessage::Propose { request: 1, proposal: in_session }),
            peer(PeerMessage::Proposed { request: 1, result: Ok(at) }),
            peer(PeerMessage::Proposed { request: 1, result: Err(Refused::NotLeader(leader)) }),
            peer(PeerMessage::Proposed { request: 1, result: Err(Refused::Overloaded) }),
            peer(PeerMessage::Proposed { request: 1, result: Err(Refused::Unsound) }),
            peer(PeerMessage::Proposed { request: 1, result: Err(Refused::StorageFull) }),
            peer(PeerMessage::ReadIndex { request: 4 }),
            peer(PeerMessage::ReadIndexed { request: 4, result: Ok(6) }),
            peer(PeerMessage::ReadIndexed { request: 4, result: Err(Refused::NotLeader(None)) }),
        ]
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in frames() {
            assert_eq!(round_trip(&frame), frame);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        for frame in frames() {
            let mut good = BytesMut::new();
            FrameCodec.encode(&frame, &mut good).unwrap();
            for bit in HEADER_BYTES * 8..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let result = FrameCodec.decode(&mut bad);
                assert!(matches!(result, Err(FrameError::Crc { .. })), "{frame:?} bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_allocation() {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(FRAME_BYTES_MAX as u32 + 1);
        bytes.put_u32_le(0);
        let capacity = bytes.capacity();
        assert!(matches!(FrameCodec.decode(&mut bytes), Err(FrameError::TooLong(_))));
        assert_eq!(bytes.capacity(), capacity);
    }

    /// RUSTSEC-2024-0437: unknown groups nested without end must not exhaust the stack. Without
    /// the limit in the decoder this test ends the process.
    #[test]
    fn trap_R00_nested_groups_are_an_error() {
        // Field 999, wire type 3 (start group), nested a million deep.
        let tag: [u8; 2] = [0xbb, 0x3e];
        let mut body = BytesMut::new();
        body.put_u8(KIND_RAFT);
        body.put_u64_le(1);
        for _ in 0..1_000_000 {
            body.put_slice(&tag);
        }
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(body.len() as u32);
        bytes.put_u32_le(crc32fast::hash(&body));
        bytes.put_slice(&body);
        assert!(matches!(FrameCodec.decode(&mut bytes), Err(FrameError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::new();
            bytes.put_u32_le(body.len() as u32);
            bytes.put_u32_le(crc32fast::hash(&body));
            bytes.put_slice(&body);
            let _ = FrameCodec.decode(&mut bytes);
        }
    }
}
