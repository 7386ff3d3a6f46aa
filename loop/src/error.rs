//! What a caller can be told instead of a result.
//!
//! Three kinds, and [`ProposeError::never_applied`] tells the first from the rest: surely without
//! effect, so that it may be tried again; unknown, so that it must not be tried again blindly; and
//! fatal, after which this node answers nothing else.

use quorate_engine::{Damage, GroupId, NodeId};
use quorate_statemachine::SessionError;

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead and could not hand the command to a leader, or another leader's
    /// entry took its place. The command was not applied and never will be: try again.
    #[error("this node is not the leader{}: try again", hint(*leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A queue is full. The command was not applied and never will be: try again later.
    #[error("too much is waiting already: try again later")]
    Overloaded,
    /// The command is empty, or longer than `command_bytes_max` here or on the leader. It was not
    /// applied and never will be.
    #[error("the command is empty, or longer than command_bytes_max allows: mend or split it")]
    Unsound,
    /// There is no room on the disk of this node, or of the leader. The command was not applied
    /// and never will be: try again later. The node works again by itself when there is room.
    #[error("the disk of the node is full: make room, and try again")]
    StorageFull,
    /// The entry was committed, and the table of client sessions did not have it applied: see there
    /// what is known of the command. Only for a command of a session.
    #[error("the command was not applied here: {0}")]
    Session(#[from] SessionError),
    /// No answer within the configured time. Whether it was or will be applied is unknown.
    #[error("no answer in time: the outcome is unknown")]
    TimedOut,
    /// The connection to the leader broke after the command was sent. The outcome is unknown.
    #[error("the connection to the leader broke: the outcome is unknown")]
    ConnectionLost,
    /// This node learned the state from a snapshot, or too late, and cannot tell what became of
    /// the command. The outcome is unknown.
    #[error("the command's position was overtaken: the outcome is unknown")]
    Superseded,
    /// This node is shutting down. The outcome is unknown.
    #[error("this node is shutting down: the outcome is unknown")]
    ShutDown,
    /// This node has stopped for good; see its status. The outcome is unknown.
    #[error("this node has stopped ({0}): the outcome is unknown")]
    Fatal(String),
}

fn hint(leader: Option<NodeId>) -> String {
    leader.map_or_else(String::new, |node| format!(" (node {node} is)"))
}

impl ProposeError {
    /// Whether the command surely was not applied and never will be by this proposal, so that proposing
    /// it again cannot apply it twice.
    pub fn never_applied(&self) -> bool {
        match self {
            ProposeError::NotLeader { .. }
            | ProposeError::Overloaded
            | ProposeError::Unsound
            | ProposeError::StorageFull
            | ProposeError::Session(_) => true,
            ProposeError::TimedOut
            | ProposeError::ConnectionLost
            | ProposeError::Superseded
            | ProposeError::ShutDown
            | ProposeError::Fatal(_) => false,
        }
    }
}

/// Why a linearizable read has no index. Reads have no effect: trying again is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No quorum confirmed a leader within the configured time.
    #[error("no leader could be confirmed in time: try again")]
    TimedOut,
    /// A queue is full.
    #[error("too much is waiting already: try again later")]
    Overloaded,
    /// This node has stopped or is about to.
    #[error("this node has stopped")]
    ShutDown,
}

/// The node stopped, in order or by a fault; its status says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has stopped")]
pub struct Stopped;

/// Why a request of the application to a peer has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no connection to the peer, or its queue is full: it surely was not delivered.
    #[error("node {0} cannot be reached: try again")]
    Unreachable(NodeId),
    /// The connection broke, or no answer came in time: the outcome is unknown.
    #[error("node {0} did not answer: the outcome is unknown")]
    Lost(NodeId),
    /// The request is longer than a frame may be; it was not sent.
    #[error("the request has {bytes} bytes, more than the limit of {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// The first finding, with its remedy, and how many more there are.
pub(crate) fn listed(findings: &[Damage]) -> String {
    let first = findings.first().map(ToString::to_string).unwrap_or_default();
    match findings.len() {
        0 | 1 => first,
        more => format!("{first} ({} more findings)", more - 1),
    }
}

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Settings out of their range, every one of them.
    #[error("the configuration is not valid: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The data directory cannot be used.
    #[error(transparent)]
    Engine(#[from] quorate_engine::OpenError),
    /// The group's log, record or snapshot is not what was written: its votes and acknowledgements
    /// cannot be trusted, so it does not act as the member it was. Other groups are not concerned.
    #[error(
        "this node does not start, since group {group} on it is damaged: {}. While a majority of \
         the voters is sound the group goes on without this node; otherwise it stays down, since \
         nobody can tell what was acknowledged",
        listed(findings)
    )]
    DamagedGroup {
        /// The group.
        group: GroupId,
        /// What was found.
        findings: Vec<Damage>,
    },
    /// The address to listen on cannot be used.
    #[error("cannot listen on {addr}: {source}; choose a free address of this machine")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The transport is not encrypted, and an address is not loopback.
    #[error(
        "{0} is not a loopback address and the transport is not encrypted: use 127.0.0.1, give the \
         node certificates (tls), or set allow_plaintext where every host of the network is trusted"
    )]
    Plaintext(String),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::transport::TlsError),
    /// The directory was formatted in a way that this version cannot run.
    #[error("{0}")]
    Unsupported(String),
    /// The state in the data directory does not fit this program.
    #[error("the state of this node cannot be restored: {0}")]
    Restore(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}
