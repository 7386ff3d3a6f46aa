//! [`Input`]: everything that can happen to a core.

use std::sync::Arc;

use quorate_engine::{Durable, Fetched, NodeId, SnapshotMeta};
use raft::eraftpb::Message;

use crate::catalogue::Catalogue;
use crate::catalogue_change::CatalogueRequest;
use crate::members::Members;
use crate::membership::MembershipRequest;
use crate::message::{Envelope, PeerMessage};
use crate::proposal::Proposal;

/// Something that happened, for [`Core::step`](super::Core::step).
///
/// `P`, `R` and `M` are the completions of proposals, of reads, and of changes of the membership or the
/// catalogue: a channel's sender in production, a number in a simulator. The core moves them and never looks inside.
#[derive(Debug)]
pub enum Input<P, R, M = R> {
    /// The Raft clock advanced by one tick.
    Tick,
    /// A peer said something; the transport has authenticated it as `from`.
    Peer {
        /// The node it comes from.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// A caller proposes a command, or a step in a client session.
    Propose {
        /// What is proposed.
        proposal: Proposal,
        /// Who is told the outcome.
        caller: P,
    },
    /// A caller wants a linearizable read index.
    Read {
        /// Who is told the index.
        caller: R,
    },
    /// A batch is durable.
    Durable(Durable),
    /// There was no room for what was written last. It is kept, and tried again until there is;
    /// then its receipt comes.
    StorageFull,
    /// The state machine has applied everything up to this index.
    Applied(u64),
    /// The log reader answered a fetch.
    Fetched(Fetched),
    /// A snapshot file arrived with this message, was verified and is durable.
    SnapshotReceived {
        /// The node that sent it.
        from: NodeId,
        /// The message that announced it.
        message: Message,
        /// The members, as the file tells them.
        members: Arc<Members>,
        /// The catalogue of groups, as the file tells it.
        catalogue: Catalogue,
    },
    /// A snapshot transfer to a peer ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether the receiver has it.
        received: bool,
    },
    /// The state machine's snapshot of this position is durable.
    SnapshotTaken(SnapshotMeta),
    /// The log's files take more room than they may, and cannot be removed while they hold entries
    /// of this group.
    CompactionWanted,
    /// The connection to a peer broke, or could not be made.
    Unreachable(NodeId),
    /// The process of a node is gone, as far as connections tell: its own were closed, and nobody
    /// listens any more where it was. It may be wrong; whoever follows a leader there looks for another.
    Gone(NodeId),
    /// The time that [`Effects::campaign_after`](super::Effects::campaign_after) named is over.
    Campaign,
    /// A message was not sent: the peer's queue was full or its connection down.
    Undelivered(Envelope),
    /// Hand leadership to the voter on this node, or else to the most advanced one; ignored on
    /// others than the leader.
    TransferLeader {
        /// The node that shall lead.
        to: Option<NodeId>,
    },
    /// A caller wants another membership.
    Membership {
        /// What is wanted.
        request: MembershipRequest,
        /// Whether it is only asked what would be answered.
        dry_run: bool,
        /// Who is told what became of it.
        caller: M,
    },
    /// A caller wants groups to begin or to end.
    Catalogue {
        /// What is wanted.
        request: CatalogueRequest,
        /// Who is told what became of it.
        caller: M,
    },
}
