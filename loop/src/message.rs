//! [`PeerMessage`]: what the loops of two nodes say to each other about one group.

use protobuf::Message as _;
use quorate_engine::{LogId, NodeId};
use raft::eraftpb::Message;

use crate::proposal::Proposal;

/// A message between the cores of two nodes.
///
/// Raft's own messages pass through untouched. Everything else is ours: raft-rs would forward
/// proposals and reads by itself, without telling the caller what became of them.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// A message of the Raft protocol.
    Raft(Message),
    /// Asks the leader to append a proposal.
    Propose {
        /// Chosen by the asking node, unique while it runs.
        request: u64,
        /// What is proposed.
        proposal: Proposal,
    },
    /// The leader's answer to [`PeerMessage::Propose`].
    ///
    /// An accepted proposal is *not* committed yet: the answer says at which position the leader
    /// appended it. The asking node completes its caller when it applies that position, or finds
    /// another term there.
    Proposed {
        /// The request that is answered.
        request: u64,
        /// The position, or why the command was surely not appended.
        result: Result<LogId, Refused>,
    },
    /// Asks the leader for a linearizable read index.
    ReadIndex {
        /// Chosen by the asking node, unique while it runs.
        request: u64,
    },
    /// The leader's answer to [`PeerMessage::ReadIndex`].
    ReadIndexed {
        /// The request that is answered.
        request: u64,
        /// The index that must be applied before reading, or why there is none.
        result: Result<u64, Refused>,
    },
}

impl PeerMessage {
    /// Bytes this message holds in memory, roughly: what a queue of messages is bounded by.
    pub(crate) fn weight(&self) -> usize {
        const FIXED_BYTES: usize = 256;
        const ENTRY_BYTES: usize = 64;
        let payload = match self {
            // All of it: a context may be as long as a frame, and so may what nobody knows.
            PeerMessage::Raft(message) => {
                message.compute_size() as usize + message.get_entries().len() * ENTRY_BYTES
            }
            PeerMessage::Propose { proposal, .. } => proposal.command.len(),
            _ => 0,
        };
        FIXED_BYTES + payload
    }
}

/// Why a leader did not take a forwarded request; the request surely had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The node asked is not the leader; perhaps it knows who is.
    NotLeader(Option<NodeId>),
    /// The leader is at one of its limits.
    Overloaded,
    /// The command is empty, or longer than the leader allows.
    Unsound,
    /// The disk of the node asked is full.
    StorageFull,
}

/// A message on its way: what [`Core`](crate::Core) hands to the transport.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The node it goes to.
    pub to: NodeId,
    /// What it says.
    pub message: PeerMessage,
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use super::*;

    #[test]
    fn trap_R13_a_message_weighs_whatever_it_carries() {
        let mut message = Message { context: vec![0; 1 << 20].into(), ..Message::default() };
        assert!(PeerMessage::Raft(message.clone()).weight() >= 1 << 20);
        message.clear_context();
        message.mut_snapshot().data = vec![0; 1 << 20].into();
        assert!(PeerMessage::Raft(message.clone()).weight() >= 1 << 20);
        message.clear_snapshot();
        message.entries = vec![Default::default(); 1 << 14].into();
        assert!(PeerMessage::Raft(message).weight() >= 1 << 20, "many small ones cost memory");
    }
}
