//! [`Forge`]: messages that no correct node would send, and many that one might.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_engine::{LogId, NodeId};
use quorate_loop::{CommandId, PeerMessage, Proposal, Refused, SessionStep};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::node::Seen;
use super::oracle::three;
use super::source::Source;

/// Every type of a Raft message.
pub(super) const TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// What real peers send.
const PEER_TYPES: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

const EDGES: [u64; 12] = [
    0,
    1,
    2,
    1 << 32,
    (1 << 32) + 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 2,
    u64::MAX - 1,
    u64::MAX,
];

/// Whom a message is forged for, and in whose name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addressed {
    pub(super) from: u64,
    pub(super) to: u64,
    /// What the receiver is.
    pub(super) target: Seen,
    /// Whether the liar leaves leaders alone, so that the group gets on and has more to lose.
    pub(super) is_gentle: bool,
}

/// Makes messages out of decisions.
pub(super) struct Forge<'f, 'a> {
    pub(super) source: &'f mut Source<'a>,
    /// What the group really said lately.
    pub(super) pool: &'f VecDeque<Message>,
    /// The numbers of what it really asked and answered lately.
    pub(super) requests: &'f VecDeque<u64>,
    pub(super) addressed: Addressed,
}

impl Forge<'_, '_> {
    /// A message: altered or from nothing.
    pub(super) fn message(&mut self) -> PeerMessage {
        let mut message = self.any();
        // A node that is no member has only others' names to speak in.
        if let PeerMessage::Raft(message) = &mut message
            && self.addressed.from > 3
            && self.source.chance(50)
        {
            message.from = 1 + self.source.below(3);
        }
        if let PeerMessage::Raft(message) = &mut message
            && self.addressed.is_gentle
        {
            let kind = message.get_msg_type();
            if matches!(kind, MessageType::MsgRequestVote | MessageType::MsgTimeoutNow) {
                message.set_msg_type(MessageType::MsgAppendResponse);
            }
            message.term = message.term.min(self.addressed.target.term);
        }
        message
    }

    fn any(&mut self) -> PeerMessage {
        match self.source.below(16) {
            0..=8 => self.altered(),
            9..=13 => PeerMessage::Raft(self.invented()),
            _ => self.ours(),
        }
    }

    /// A message that announces a snapshot.
    pub(super) fn snapshot(&mut self) -> Message {
        let mut message = self.addressed_message();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.term = self.term();
        let meta = message.mut_snapshot().mut_metadata();
        (meta.index, meta.term) = (self.index(), self.term());
        if self.source.chance(70) {
            let target = self.addressed.target;
            meta.index = target.commit.saturating_add(self.source.below(8));
            meta.term = target.term;
        }
        let conf = self.conf_state();
        message.mut_snapshot().mut_metadata().set_conf_state(conf);
        message
    }

    /// Something that was really said, with up to four changes.
    fn altered(&mut self) -> PeerMessage {
        let index = self.source.below(self.pool.len() as u64) as usize;
        match self.pool.get(index).cloned() {
            Some(mut message) => {
                if !self.source.chance(5) {
                    (message.from, message.to) = (self.addressed.from, self.addressed.to);
                }
                if self.source.chance(60) {
                    message.term = self.addressed.target.term;
                }
                for _ in 0..self.source.below(5) {
                    self.alter(&mut message);
                }
                PeerMessage::Raft(message)
            }
            None => PeerMessage::Raft(self.invented()),
        }
    }

    /// A message of any type with any numbers in it.
    fn invented(&mut self) -> Message {
        let mut message = self.addressed_message();
        let types: &[MessageType] = if self.source.chance(85) { &PEER_TYPES } else { &TYPES };
        let kind = self.source.one_of(types).copied().unwrap_or(MessageType::MsgHup);
        message.set_msg_type(kind);
        message.term = self.term();
        for _ in 0..self.source.below(9) {
            self.alter_number(&mut message);
        }
        if kind == MessageType::MsgAppend {
            self.append(&mut message);
        }
        if kind == MessageType::MsgSnapshot || self.source.chance(2) {
            message.set_snapshot(self.snapshot().take_snapshot());
        }
        if self.source.chance(5) {
            (message.from, message.to) = (self.source.below(5), self.source.below(5));
        }
        message
    }

    /// A proposal, perhaps of a session that there may be.
    fn proposal(&mut self) -> Proposal {
        let command = Bytes::from(self.source.bytes(32));
        let session = match self.source.below(6) {
            0 => Some(SessionStep::Open),
            1 => Some(SessionStep::Close(self.index())),
            2 => Some(SessionStep::Command(CommandId {
                session: self.index(),
                sequence: self.index(),
                lowest_unfinished: self.index(),
            })),
            _ => None,
        };
        match session {
            Some(step @ (SessionStep::Open | SessionStep::Close(_))) if self.source.chance(80) => {
                step.into()
            }
            session => Proposal { command, session },
        }
    }

    /// A message of our own protocol.
    fn ours(&mut self) -> PeerMessage {
        let request = self.request();
        match self.source.below(6) {
            0 => PeerMessage::Propose { request, proposal: self.proposal() },
            1 => {
                let command = Bytes::from(vec![1; (4 << 10) + self.source.below(3) as usize]);
                PeerMessage::Propose { request, proposal: command.into() }
            }
            2 => {
                let at = LogId { index: self.index(), term: self.term() };
                let refused = self.refused();
                let result = if self.source.chance(70) { Ok(at) } else { Err(refused) };
                PeerMessage::Proposed { request, result }
            }
            3 => PeerMessage::ReadIndex { request },
            _ => {
                let (index, refused) = (self.index(), self.refused());
                let result = if self.source.chance(70) { Ok(index) } else { Err(refused) };
                PeerMessage::ReadIndexed { request, result }
            }
        }
    }

    fn refused(&mut self) -> Refused {
        match self.source.below(4) {
            0 => Refused::NotLeader(NodeId::new(self.source.below(5))),
            1 => Refused::Overloaded,
            2 => Refused::Unsound,
            _ => Refused::StorageFull,
        }
    }

    /// The number of a request: one that was really asked, or near it.
    fn request(&mut self) -> u64 {
        let at = self.source.below(self.requests.len() as u64) as usize;
        let request = self.requests.get(at).copied().unwrap_or(1 << 32 | 1);
        request.wrapping_add(self.source.below(3))
    }

    fn addressed_message(&self) -> Message {
        Message { from: self.addressed.from, to: self.addressed.to, ..Message::default() }
    }

    /// A term: mostly that of the receiver, so that the rest of the message is looked at.
    fn term(&mut self) -> u64 {
        let term = self.addressed.target.term;
        match self.source.below(32) {
            0..=23 => term,
            24 | 25 => term.saturating_sub(1 + self.source.below(3)),
            26 => term.saturating_add(1),
            27 => term.saturating_add(1 << 32),
            28 => term.saturating_add(self.source.below(1 << 33)),
            29 => term.saturating_add(1 << 40),
            30 => self.edge(),
            _ => self.source.number(),
        }
    }

    /// An index: near one that matters to the receiver, or at the edge of what a number can be.
    fn index(&mut self) -> u64 {
        let Seen { commit, first, last, .. } = self.addressed.target;
        let near = match self.source.below(8) {
            0 | 1 => commit,
            2 | 3 => last,
            4 => first,
            5 => self.source.below(last.saturating_add(2)),
            6 => return self.edge(),
            _ => return self.source.number(),
        };
        near.wrapping_add(self.source.below(5)).wrapping_sub(2)
    }

    fn edge(&mut self) -> u64 {
        self.source.one_of(&EDGES).copied().unwrap_or(0)
    }

    fn alter(&mut self, message: &mut Message) {
        match self.source.below(16) {
            0 => {
                let kind = self.source.one_of(&TYPES).copied();
                message.set_msg_type(kind.unwrap_or(MessageType::MsgHup));
            }
            1 => message.term = self.term(),
            2..=9 => self.alter_number(message),
            10 | 11 => self.alter_entries(message),
            12 => self.append(message),
            13 => {
                let conf = self.conf_state();
                message.mut_snapshot().mut_metadata().set_conf_state(conf);
            }
            14 => {
                let (index, term) = (self.index(), self.term());
                let meta = message.mut_snapshot().mut_metadata();
                (meta.index, meta.term) = (index, term);
            }
            _ => message.term = self.edge(),
        }
    }

    fn alter_number(&mut self, message: &mut Message) {
        match self.source.below(12) {
            0 | 1 => message.index = self.index(),
            2 => message.log_term = self.term(),
            3 => message.log_term = 0,
            4 | 5 => message.commit = self.index(),
            6 => message.commit_term = self.term(),
            7 => message.reject = !message.reject,
            8 => message.reject_hint = self.index(),
            9 => message.request_snapshot = self.index(),
            10 => message.priority = self.source.number() as i64,
            _ => {
                message.context = match self.source.below(3) {
                    // What makes a vote request override the leader's lease.
                    0 => Bytes::from_static(b"CampaignTransfer"),
                    1 => Bytes::copy_from_slice(&self.request().to_le_bytes()),
                    _ => self.source.bytes(40).into(),
                };
            }
        }
    }

    /// Entries that follow the message's index, mostly.
    fn append(&mut self, message: &mut Message) {
        let Seen { term, commit, .. } = self.addressed.target;
        if self.source.chance(60) {
            message.index = commit.saturating_add(self.source.below(4));
            message.log_term = if self.source.chance(70) { term } else { self.term() };
        }
        let count = self.source.below(4);
        let entries: Vec<Entry> =
            (1..=count).map(|n| self.entry(message.index.wrapping_add(n), message.term)).collect();
        message.entries = entries.into();
    }

    fn entry(&mut self, index: u64, term: u64) -> Entry {
        let data = Bytes::from(self.source.bytes(24));
        let mut entry = Entry { index, term, data, ..Entry::default() };
        if self.source.chance(10) {
            let kinds = [EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
            entry.set_entry_type(self.source.one_of(&kinds).copied().unwrap_or_default());
        }
        if self.source.chance(10) {
            entry.index = self.index();
        }
        if self.source.chance(10) {
            entry.term = self.term();
        }
        entry
    }

    fn alter_entries(&mut self, message: &mut Message) {
        let mut entries = message.take_entries().into_vec();
        let at = self.source.below(entries.len() as u64) as usize;
        match self.source.below(5) {
            0 if !entries.is_empty() => drop(entries.remove(at)),
            1 if !entries.is_empty() => entries.push(entries[at].clone()),
            2 if !entries.is_empty() => entries.swap(at, 0),
            3 if !entries.is_empty() => {
                entries[at] = self.entry(entries[at].index, entries[at].term);
            }
            _ => {
                let last = entries.last().map_or(message.index, |entry| entry.index);
                let entry = self.entry(last.wrapping_add(1), message.term);
                entries.push(entry);
            }
        }
        message.entries = entries.into();
    }

    fn conf_state(&mut self) -> ConfState {
        let mut conf = three();
        if self.source.chance(80) {
            return conf;
        }
        let mut ids = || {
            let count = self.source.below(4);
            (0..count).map(|_| self.source.below(6)).collect::<Vec<u64>>()
        };
        conf.voters = ids();
        conf.learners = ids();
        conf.voters_outgoing = ids();
        conf.learners_next = ids();
        conf.auto_leave = self.source.chance(20);
        conf
    }
}

/// Changes bytes of a frame; three times in four its length and checksum are made right again, so
/// that the body is looked at.
pub(super) fn mangle(source: &mut Source<'_>, frame: &mut Vec<u8>) {
    const HEADER_BYTES: usize = 8;
    for _ in 0..=source.below(4) {
        let at = source.below(frame.len() as u64) as usize;
        match source.below(6) {
            0 if at < frame.len() => drop(frame.remove(at)),
            1 => frame.insert(at, source.below(256) as u8),
            2 => frame.truncate(at.max(HEADER_BYTES)),
            3 => frame.extend(source.bytes(16)),
            4 => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = source.below(256) as u8;
                }
            }
            _ => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << source.below(8);
                }
            }
        }
    }
    if source.chance(75) && frame.len() >= HEADER_BYTES {
        seal(frame);
    }
}

/// Writes length and checksum of a frame's body into its header.
fn seal(frame: &mut [u8]) {
    let (header, body) = frame.split_at_mut(8);
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}
