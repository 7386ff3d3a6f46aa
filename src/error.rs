//! What can go wrong, one type an operation, in kinds that a caller can tell apart.

use std::time::Duration;

use quorate_engine::NodeId;
use quorate_loop::{MembershipError, Stopped};
use quorate_statemachine::{BrokerId, Rejection};

/// What a caller needs to know about a failure before it decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request was looked at and refused. It changed nothing, and the same request would be
    /// refused again until somebody changes something.
    Rejected,
    /// The request surely changed nothing, and may be sent again as it is.
    Retryable,
    /// The request may have been applied, or may be still. It is never sent again by itself: look at
    /// the image (after [`Quorum::read_index`](crate::Quorum::read_index)) before you do.
    Unknown,
    /// This node has stopped for good; the request surely changed nothing. Ask another node.
    Fatal,
}

/// Why [`Quorum::open`](crate::Quorum::open) failed. Nothing runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration has faults; all of them are listed.
    #[error("the configuration has faults: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The data directory is not one that this node can use.
    #[error(transparent)]
    Directory(quorate_engine::IdentityError),
    /// The runtime ended meanwhile, or opening the directory panicked, which is a bug.
    #[error("opening the data directory was interrupted: {0}")]
    Interrupted(String),
    /// The loop could not start.
    #[error(transparent)]
    Loop(quorate_loop::OpenError),
}

/// Why an operation that changes metadata did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The quorum refused it, by Kafka's name and with the remedy. Nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is longer than a command may be. Nothing changed.
    #[error(
        "the request is longer than a command may be: split it, or raise loop.command_bytes_max on all nodes"
    )]
    TooLarge,
    /// It never reached a log. Nothing changed; it may be sent again.
    #[error("{reason}: nothing was changed, try again")]
    Unavailable {
        /// What was in the way at last.
        reason: Unavailable,
        /// How long the operation tried.
        waited: Duration,
    },
    /// Nobody can say yet whether it was applied.
    #[error("{reason}: the change may have been made or not, look before you try again")]
    Unknown {
        /// What happened.
        reason: UnknownReason,
    },
    /// It was applied, and this node had not seen that when time was up. The outcome that the leader
    /// gave is not passed on, for the image here does not show it yet.
    #[error(
        "the change is committed at index {index}, and this node did not apply that in time: wait \
         for the index before you look"
    )]
    NotSeenYet {
        /// The log index of the change.
        index: u64,
    },
    /// It took several commands. The first of them are committed, one failed, and none was sent after
    /// that. The results of those that are committed are not passed on: this node's image shows them.
    #[error(
        "{done} of {all} partitions were dealt with, up to index {index}, and then it failed \
         ({}): ask again, and it goes on from there", reason(.why)
    )]
    Partly {
        /// Partitions of the commands that are committed.
        done: usize,
        /// Partitions of all the commands.
        all: usize,
        /// The log index of the last command that is committed.
        index: u64,
        /// Why the one after it failed.
        why: Box<WriteError>,
    },
    /// This node has stopped. Nothing changed.
    #[error("this node has stopped{}: ask another one, and restart this one", because(.fatal))]
    Stopped {
        /// Why, unless it was asked to.
        fatal: Option<String>,
    },
}

impl WriteError {
    /// Which of the four kinds it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected(_) | Self::TooLarge => ErrorKind::Rejected,
            Self::Unavailable { .. } => ErrorKind::Retryable,
            Self::Unknown { .. } | Self::NotSeenYet { .. } | Self::Partly { .. } => {
                ErrorKind::Unknown
            }
            Self::Stopped { .. } => ErrorKind::Fatal,
        }
    }
}

/// Why one of several commands failed, without what that says of the others.
fn reason(error: &WriteError) -> String {
    match error {
        WriteError::Unavailable { reason, .. } => reason.to_string(),
        WriteError::Unknown { reason } => reason.to_string(),
        error => error.to_string(),
    }
}

fn because(fatal: &Option<String>) -> String {
    fatal.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
}

/// Why an operation could not be handed to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// No leader is known: an election is going on, or there is no majority.
    #[error("no leader of the quorum is known")]
    NoLeader,
    /// The node that leads cannot be reached.
    #[error("node {0}, which leads the quorum, cannot be reached")]
    Unreachable(NodeId),
    /// The node that was asked does not lead any more, or does not lead yet.
    #[error("leadership of the quorum is changing")]
    NotLeader,
    /// The disk of this node, or of the one that leads, is full.
    #[error(
        "there is no room on the disk of a node of the quorum: free some, the node goes on by itself"
    )]
    StorageFull,
    /// The leader, or this node, has as much work as it may take.
    #[error("the quorum has more work than it may take at a time")]
    Overloaded,
    /// Each time that the leader planned it, another change of the same topic came first.
    #[error("other changes of the same topic came first each time")]
    Overtaken,
    /// The members are changing already, and only one change is made at a time; or the leader leads for
    /// too short a time to know who is alive.
    #[error("another change of the members is under way, or the leader has changed just now")]
    ChangePending,
    /// The change would remove this node, and with that its connection to the leader who answers.
    #[error(
        "this node would be gone before it heard the answer, so that another one must be asked"
    )]
    Leaving,
    /// This node was removed, and hears nothing of the quorum any more.
    #[error("this node was removed from the quorum, so that another one must be asked")]
    Removed,
}

/// Why the outcome of an operation is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownReason {
    /// Time was up before the answer came.
    #[error("the quorum did not answer in time")]
    TimedOut,
    /// The connection broke before the answer came.
    #[error("the connection to the leader broke before it answered")]
    ConnectionLost,
    /// The leader lost its leadership before it knew.
    #[error("the leader lost its leadership before the change was committed")]
    LeadershipLost,
    /// The leader stopped before it knew.
    #[error("the leader stopped before it answered")]
    Stopped,
    /// The answer cannot be read.
    #[error("the leader's answer cannot be read, it may run another version")]
    Unreadable,
}

/// Why a broker could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another process with this broker id is alive, or was a moment ago. The newcomer waited for
    /// its session to end, and it did not.
    #[error(
        "another process is registered as broker {broker} and alive: stop it, or give this one \
         another id"
    )]
    SessionAlive {
        /// The broker id that both use.
        broker: BrokerId,
    },
    /// As for any other change.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl RegisterError {
    /// Which of the four kinds it is. A live session is retryable: it may end.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SessionAlive { .. } => ErrorKind::Retryable,
            Self::Write(error) => error.kind(),
        }
    }
}

/// Why a linearizable read was not possible. A read changes nothing: it may always be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader could confirm in time that it still leads, or this node did not catch up in time.
    #[error("{reason}: try again, or read this node's own image")]
    Unavailable {
        /// What was in the way at last.
        reason: Unavailable,
        /// How long the read tried.
        waited: Duration,
    },
    /// The leader, or this node's own log, was too slow.
    #[error(
        "the quorum did not answer within {waited:.1?}: try again, or read this node's own image"
    )]
    TimedOut {
        /// How long the read tried.
        waited: Duration,
    },
    /// This node has stopped.
    #[error("this node has stopped{}: ask another one, and restart this one", because(.fatal))]
    Stopped {
        /// Why, unless it was asked to.
        fatal: Option<String>,
    },
}

/// Why the members of the quorum were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeMembersError {
    /// The leader looked at it and refused; nothing changed.
    #[error(transparent)]
    Refused(MembershipError),
    /// The new address is none; nothing changed.
    #[error(
        "{addr:?} is no address for node {node} ({reason}): give the HOST:PORT where its peers \
         reach it"
    )]
    Address {
        /// The member that was to be reached there.
        node: NodeId,
        /// What was given.
        addr: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It never reached a log. Nothing changed; it may be sent again.
    #[error("{reason}: the members were not changed, try again")]
    Unavailable {
        /// What was in the way at last.
        reason: Unavailable,
        /// How long the operation tried.
        waited: Duration,
    },
    /// Nobody can say yet whether it was made.
    #[error("{reason}: look at `members ls` for what became of it before you try again")]
    Unknown {
        /// What happened.
        reason: UnknownReason,
    },
    /// The leader runs a version that does not know the request; nothing changed.
    #[error("the quorum leader cannot change members: run the same version on all nodes")]
    Unsupported,
    /// This node has stopped. Nothing changed.
    #[error("this node has stopped{}: ask another one, and restart this one", because(.fatal))]
    Stopped {
        /// Why, unless it was asked to.
        fatal: Option<String>,
    },
}

impl ChangeMembersError {
    /// Which of the four kinds it is. What the leader refused is rejected, also where time alone may
    /// help: an operator who is told at once knows more than one who waits.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) | Self::Address { .. } | Self::Unsupported => ErrorKind::Rejected,
            Self::Unavailable { .. } => ErrorKind::Retryable,
            Self::Unknown { .. } => ErrorKind::Unknown,
            Self::Stopped { .. } => ErrorKind::Fatal,
        }
    }

    /// Whether the same change may succeed later without anybody doing anything, and surely was not
    /// made by now.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.is_retryable(),
            error => error.kind() == ErrorKind::Retryable,
        }
    }
}

impl From<WriteError> for ChangeMembersError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Unavailable { reason, waited } => Self::Unavailable { reason, waited },
            WriteError::Unknown { reason } => Self::Unknown { reason },
            WriteError::Stopped { fatal } => Self::Stopped { fatal },
            WriteError::TooLarge => Self::Refused(MembershipError::Unsound),
            WriteError::Rejected(_) => Self::Unsupported,
            // Nothing is waited for that could be seen too late, and one command is all.
            WriteError::NotSeenYet { .. } | WriteError::Partly { .. } => {
                Self::Unknown { reason: UnknownReason::TimedOut }
            }
        }
    }
}

/// Why leadership was not handed over. Whoever led goes on, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is no such member.
    #[error("node {0} is no member of the quorum: choose a voter, `members ls` names them")]
    NoMember(NodeId),
    /// The member has no vote, so it cannot lead.
    #[error("node {0} has no vote: choose a voter, or promote it first, with `members promote`")]
    NoVote(NodeId),
    /// The member has not answered the leader for an election timeout.
    #[error("node {0} does not answer: bring it back, or choose another voter")]
    Silent(NodeId),
    /// There is no other voter that answers.
    #[error("there is no other voter that answers: bring one back, or add one, first")]
    NoSuccessor,
    /// The member was asked to lead, and did not begin to in time.
    #[error(
        "{} did not take leadership over: wait until `members ls` shows it up to date, and try \
         again",
        successor(*.0)
    )]
    NotTaken(Option<NodeId>),
    /// Leadership moved, but to another node than was asked for.
    #[error("node {leader} leads now, and not node {wanted}: try again")]
    AnotherLeads {
        /// Who was to lead.
        wanted: NodeId,
        /// Who leads.
        leader: NodeId,
    },
    /// No leader could be asked. Nothing changed.
    #[error("{reason}: leadership was not handed over, try again")]
    Unavailable {
        /// What was in the way at last.
        reason: Unavailable,
        /// How long the operation tried.
        waited: Duration,
    },
    /// Nobody can say yet who leads.
    #[error("{reason}: look at `status` for who leads before you try again")]
    Unknown {
        /// What happened.
        reason: UnknownReason,
    },
    /// The leader runs a version that does not know the request.
    #[error("the quorum leader cannot be asked for it: run the same version on all nodes")]
    Unsupported,
    /// This node has stopped. Nothing changed.
    #[error("this node has stopped{}: ask another one, and restart this one", because(.fatal))]
    Stopped {
        /// Why, unless it was asked to.
        fatal: Option<String>,
    },
}

fn successor(node: Option<NodeId>) -> String {
    node.map_or_else(|| "no other voter".to_owned(), |node| format!("node {node}"))
}

impl TransferError {
    /// Which of the four kinds it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoMember(_)
            | Self::NoVote(_)
            | Self::Silent(_)
            | Self::NoSuccessor
            | Self::NotTaken(_)
            | Self::AnotherLeads { .. }
            | Self::Unsupported => ErrorKind::Rejected,
            Self::Unavailable { .. } => ErrorKind::Retryable,
            Self::Unknown { .. } => ErrorKind::Unknown,
            Self::Stopped { .. } => ErrorKind::Fatal,
        }
    }

    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Silent(_) | Self::NotTaken(_) | Self::AnotherLeads { .. } | Self::NoSuccessor
        ) || self.kind() == ErrorKind::Retryable
    }
}

impl From<WriteError> for TransferError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Unavailable { reason, waited } => Self::Unavailable { reason, waited },
            WriteError::Unknown { reason } => Self::Unknown { reason },
            WriteError::Stopped { fatal } => Self::Stopped { fatal },
            WriteError::TooLarge | WriteError::Rejected(_) => Self::Unsupported,
            WriteError::NotSeenYet { .. } | WriteError::Partly { .. } => {
                Self::Unknown { reason: UnknownReason::TimedOut }
            }
        }
    }
}

/// A controlled shutdown was not granted in time. The broker's session goes on until it runs out;
/// then the quorum fences the broker and moves its leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the quorum did not grant the shutdown of broker {broker} within {waited:.1?}: its leaders move when its session ends"
)]
pub struct ShutdownNotGranted {
    /// The broker that wanted to stop.
    pub broker: BrokerId,
    /// How long it asked.
    pub waited: Duration,
}

/// This node has stopped: nothing new will be seen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has stopped: ask another one, and restart this one")]
pub struct WatchEnded;

impl From<Stopped> for WatchEnded {
    fn from(_: Stopped) -> Self {
        Self
    }
}
