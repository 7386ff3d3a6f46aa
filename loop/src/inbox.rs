//! [`Inbox`]: the one queue into the loop.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use quorate_engine::{DirectoryId, Durable, GroupId, NodeId, SnapshotMeta};
use quorate_statemachine::StateMachine;
use raft::eraftpb::MessageType;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::catalogue_change::CatalogueError;
use crate::core::Input;
use crate::error::{ProposeError, ReadError};
use crate::frame::FoundingNews;
use crate::heartbeat::Heartbeat;
use crate::joining::LetIn;
use crate::membership::{MembershipChanged, MembershipError, MembershipRequest};
use crate::message::PeerMessage;
use crate::replica::Done;
use crate::status::LastAnswer;
use crate::transport::LinkEvent;

/// A command that was applied, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<O> {
    /// Where the command stands in the log; of a command of a session, where it was applied. This node
    /// has applied everything up to it.
    pub index: u64,
    /// What the state machine answered.
    pub outcome: O,
}

/// The completion of a proposal with outcome `O`.
pub(crate) type Caller<O> = oneshot::Sender<Result<Done<O>, ProposeError>>;

/// The completion of a proposal to the state machine `S`.
pub(crate) type ProposeCaller<S> = Caller<<S as StateMachine>::Outcome>;

/// The completion of a linearizable read.
pub(crate) type ReadCaller = oneshot::Sender<Result<u64, ReadError>>;

/// The completion of a request to change the membership, or which groups there are.
#[derive(Debug)]
pub(crate) enum ChangeCaller {
    Members(oneshot::Sender<Result<MembershipChanged, MembershipError>>),
    Groups(oneshot::Sender<Result<u64, CatalogueError>>),
}

/// The completion of a question for the members' last answers.
pub(crate) type AnswersCaller = oneshot::Sender<Vec<LastAnswer>>;

/// What callers on this node, and everybody else, have for the core of a group.
pub(crate) type GroupInput<S> = Input<ProposeCaller<S>, ReadCaller, ChangeCaller>;

/// Whatever wakes the loop, besides its tick.
pub(crate) enum Event<S: StateMachine> {
    /// Something for the core of a group.
    Input(GroupId, GroupInput<S>),
    /// A caller asks when the members of a group answered last.
    LastAnswers(GroupId, AnswersCaller),
    /// Writes that are durable, of whichever groups.
    Durable(Vec<Durable>),
    /// A message of a peer. The permit holds its bytes' place in the peer's share of the inbox.
    Peer { from: NodeId, group: GroupId, message: PeerMessage, permit: OwnedSemaphorePermit },
    /// Heartbeats of a peer for many groups, or answers; the permit as above.
    Heartbeats {
        from: NodeId,
        kind: MessageType,
        beats: Vec<Heartbeat>,
        permit: OwnedSemaphorePermit,
    },
    /// News of the founding; the permit as above.
    Founding {
        from: NodeId,
        directory: DirectoryId,
        news: FoundingNews,
        permit: OwnedSemaphorePermit,
    },
    /// A connection went down or was refused.
    Link(LinkEvent),
    /// A group has let this node in, or will not.
    Entered(GroupId, Result<LetIn, String>),
    /// These groups hold log files back that should be removed.
    HeldBack(Vec<GroupId>),
    /// The first snapshot of such a group is durable, or could not be written.
    FirstSnapshot(GroupId, Result<SnapshotMeta, String>),
    /// Groups that are removed from this node are gone from the log.
    Removed(Vec<GroupId>),
    /// The files of such a group are gone too.
    Discarded(GroupId),
    /// A group cannot go on, and the others can: its own state machine is at fault.
    Failed(GroupId, String),
    /// Another thread of this node cannot go on.
    Fault(String),
    /// Stop in order.
    Stop,
}

/// The sending side of the loop's queue.
///
/// The queue itself never refuses, so that receipts are never lost. It is bounded all the same,
/// by whoever sends: requests are counted here, messages hold permits of their connection, and
/// receipts answer to what the loop itself has given out.
pub(crate) struct Inbox<S: StateMachine> {
    events: mpsc::Sender<Event<S>>,
    requests: Arc<AtomicUsize>,
    requests_max: usize,
}

impl<S: StateMachine> Clone for Inbox<S> {
    fn clone(&self) -> Self {
        let (events, requests) = (self.events.clone(), self.requests.clone());
        Inbox { events, requests, requests_max: self.requests_max }
    }
}

/// An inbox that refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// As many requests wait as may.
    Full,
    /// The loop has ended.
    Ended,
}

impl<S: StateMachine> Inbox<S> {
    pub(crate) fn new(requests_max: usize) -> (Self, mpsc::Receiver<Event<S>>) {
        let (events, receiver) = mpsc::channel();
        let requests = Arc::new(AtomicUsize::new(0));
        (Inbox { events, requests, requests_max }, receiver)
    }

    /// Sends what the loop itself waits for. After its end nobody waits any more.
    pub(crate) fn send(&self, event: Event<S>) {
        let _ = self.events.send(event);
    }

    /// Sends a proposal, a read, or a request for another membership or for groups, of a caller on this
    /// node.
    pub(crate) fn request(&self, group: GroupId, input: GroupInput<S>) -> Result<(), Closed> {
        self.counted(Event::Input(group, input))
    }

    /// Asks for another membership of a group. Cancel safe: what was asked for may come about all the same.
    ///
    /// # Errors
    ///
    /// [`MembershipError`]; only [`MembershipError::Unknown`] leaves the outcome open.
    pub(crate) async fn change_membership(
        &self,
        group: GroupId,
        request: MembershipRequest,
        dry_run: bool,
    ) -> Result<MembershipChanged, MembershipError> {
        let (caller, answer) = oneshot::channel();
        let caller = ChangeCaller::Members(caller);
        match self.request(group, Input::Membership { request, dry_run, caller }) {
            Ok(()) => answer.await.unwrap_or(Err(MembershipError::Unknown)),
            Err(Closed::Full) => Err(MembershipError::Overloaded),
            Err(Closed::Ended) => Err(MembershipError::NotLeader { leader: None }),
        }
    }

    /// Asks when the members of a group answered last, for a caller on this node.
    pub(crate) fn ask_last_answers(&self, group: GroupId, to: AnswersCaller) -> Result<(), Closed> {
        self.counted(Event::LastAnswers(group, to))
    }

    fn counted(&self, request: Event<S>) -> Result<(), Closed> {
        if self.requests.fetch_add(1, Ordering::Relaxed) >= self.requests_max {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(Closed::Full);
        }
        self.events.send(request).map_err(|_| Closed::Ended)
    }

    /// Does the work of a thread of this node; a panic in it stops the node, not the process.
    pub(crate) fn guard<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.send(Event::Fault(panic_text(&*panic)));
                None
            }
        }
    }

    /// Requests that wait for the loop.
    pub(crate) fn waiting(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) as u64
    }

    /// The loop took a request out.
    pub(crate) fn taken(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("an invariant does not hold: {}", text.unwrap_or("no reason was given"))
}
