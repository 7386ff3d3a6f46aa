//! Owns the place where requests to the quorum leader arrive, on every node.
//!
//! What needs the leader's sessions goes on to its [duties](crate::duties); what only the leader may
//! decide about metadata to the [metadata desk](crate::metadata_desk), and about members to the
//! [membership desk](crate::membership_desk). Everything else is proposed as it came. The loop below does not forward proposals, so a node that has lost its leadership by then gets
//! `NotLeader` from its own loop, and nothing happens: there is no gap between the check of
//! leadership and its use.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use prost::Message as _;
use quorate_engine::NodeId;
use quorate_loop::{Node, ProposeError, ReadError, Role, Service};
use quorate_statemachine::{
    BrokerId, Command, ErrorCode, FeatureLevel, Metadata, Outcome, Rejection,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::duties::Call;
use crate::wire::{
    AppliedResponse, Doubt, Refusal, RejectedResponse, Request, RequestKind, Response, ResponseKind,
};
use crate::{comparison, membership_desk, metadata_desk};

/// Requests that a leader works on at a time, heartbeats not counted. Beyond it nodes are told
/// `Overloaded`; it is far above what one log can commit within the time of a request.
const REQUESTS_MAX: usize = 8_192;

/// Heartbeats and registrations that wait for the duties: several for each of a thousand brokers.
pub(crate) const CALLS_MAX: usize = 4_096;

/// Where requests arrive. Clones are the same desk.
#[derive(Clone)]
pub(crate) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    /// The node behind the desk. It is put in after the node was made, for the node is made with
    /// the desk; and taken out at the end, so that the two do not keep each other alive.
    node: ArcSwapOption<Node<Metadata>>,
    duties: mpsc::Sender<Call>,
    slots: Semaphore,
    /// How long leadership may take to move: raft-rs gives a transfer up after one election timeout,
    /// and an election that came of it takes as long again.
    transfer_patience: Duration,
}

impl Desk {
    pub(crate) fn new(duties: mpsc::Sender<Call>, election_timeout: Duration) -> Self {
        let (node, slots) = (ArcSwapOption::empty(), Semaphore::new(REQUESTS_MAX));
        let transfer_patience = election_timeout * 2;
        Self { inner: Arc::new(Inner { node, duties, slots, transfer_patience }) }
    }

    pub(crate) fn open_for(&self, node: Node<Metadata>) {
        self.inner.node.store(Some(Arc::new(node)));
    }

    pub(crate) fn close(&self) {
        self.inner.node.store(None);
    }
}

impl Service for Desk {
    fn call(&self, from: NodeId, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let response = match Request::decode(request).ok().and_then(|request| request.kind) {
                Some(kind) => inner.answer(kind).await,
                None => {
                    tracing::warn!(%from, "refused a request that this version does not know");
                    Refusal::Unsupported.into()
                }
            };
            response.encode_to_vec().into()
        })
    }
}

impl Inner {
    async fn answer(&self, kind: RequestKind) -> Response {
        let Some(node) = self.node.load_full() else { return Refusal::NotLeader.into() };
        match kind {
            RequestKind::Heartbeat(beat) => {
                self.to_duties(|reply| Call::Heartbeat(beat, reply)).await
            }
            RequestKind::Register(register) => {
                self.to_duties(|reply| Call::Register(register, reply)).await
            }
            RequestKind::Progress(_) => self.in_slot(membership_desk::list(&node)).await,
            RequestKind::ChangeMembers(request) => {
                self.in_slot(membership_desk::change(&node, &request)).await
            }
            RequestKind::SetAddress(request) => {
                self.in_slot(membership_desk::set_address(&node, request)).await
            }
            RequestKind::TransferLeadership(request) => {
                let patience = self.transfer_patience;
                self.in_slot(membership_desk::transfer(&node, request.to, patience)).await
            }
            RequestKind::ReadIndex(_) => self.in_slot(read_index(&node)).await,
            RequestKind::CreateTopic(topic) => {
                self.in_slot(metadata_desk::create_topics(&node, &[topic])).await
            }
            RequestKind::CreateTopics(request) => {
                self.in_slot(metadata_desk::create_topics(&node, &request.topics)).await
            }
            RequestKind::CreatePartitions(request) => {
                self.in_slot(metadata_desk::create_partitions(&node, &request)).await
            }
            RequestKind::FenceBroker(broker) => {
                self.in_slot(metadata_desk::fence(&node, BrokerId(broker))).await
            }
            RequestKind::SetFeatureLevel(level) => {
                let level = FeatureLevel(level);
                self.in_slot(metadata_desk::set_feature_level(&node, level)).await
            }
            RequestKind::Checkpoints(_) => comparison::answer(&node),
            RequestKind::Propose(command) => match Command::decode(&command) {
                Ok(decided) if is_the_senders_to_decide(&decided) => {
                    self.in_slot(propose(&node, &decided)).await
                }
                Ok(_) | Err(_) => Refusal::Unsupported.into(),
            },
        }
    }

    async fn in_slot(&self, work: impl Future<Output = Response>) -> Response {
        match self.slots.try_acquire() {
            Ok(_slot) => work.await,
            Err(_) => Refusal::Overloaded.into(),
        }
    }

    async fn to_duties(&self, call: impl FnOnce(oneshot::Sender<Response>) -> Call) -> Response {
        let (reply, answer) = oneshot::channel();
        match self.duties.try_send(call(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Doubt::Stopped.into()),
            Err(mpsc::error::TrySendError::Full(_)) => Refusal::Overloaded.into(),
            Err(mpsc::error::TrySendError::Closed(_)) => Refusal::NotLeader.into(),
        }
    }
}

/// Commands whose preconditions the state machine checks alone. The others depend on sessions, on a
/// plan that only the leader makes, or on what its version can do.
fn is_the_senders_to_decide(command: &Command) -> bool {
    matches!(
        command,
        Command::DeleteTopic { .. }
            | Command::AlterPartition(_)
            | Command::AllocateProducerIds(_)
            | Command::UnregisterBroker { .. }
            | Command::ElectLeaders(_)
            | Command::AlterReassignments { .. }
            | Command::AlterConfigs { .. }
    )
}

/// Proposes on this node, if it leads. What the feature level does not allow is not proposed: a node of an
/// earlier version would stop at it.
pub(crate) async fn propose(node: &Node<Metadata>, command: &Command) -> Response {
    let now = node.image();
    if let Err(rejection) = now.image.check_level(command) {
        return rejected(rejection, now.applied);
    }
    match node.propose(command.encode()).await {
        Ok(committed) => applied(&committed.outcome, committed.index),
        Err(error) => proposal_failed(&error),
    }
}

/// The outcome of a command as of this index.
pub(crate) fn applied(outcome: &Outcome, index: u64) -> Response {
    ResponseKind::Applied(AppliedResponse { index, outcome: outcome.encode() }).into()
}

fn proposal_failed(error: &ProposeError) -> Response {
    match error {
        ProposeError::Overloaded => Refusal::Overloaded.into(),
        ProposeError::Unsound => Refusal::TooLarge.into(),
        ProposeError::StorageFull => Refusal::StorageFull.into(),
        error if error.never_applied() => Refusal::NotLeader.into(),
        ProposeError::TimedOut => Doubt::TimedOut.into(),
        ProposeError::ConnectionLost => Doubt::ConnectionLost.into(),
        ProposeError::Superseded => Doubt::LeadershipLost.into(),
        _ => Doubt::Stopped.into(),
    }
}

async fn read_index(node: &Node<Metadata>) -> Response {
    match confirm(node).await {
        Ok(index) => ResponseKind::ReadIndex(index).into(),
        Err(refusal) => refusal.into(),
    }
}

/// A read index that this node confirms as the leader. The loop would let a read wait for a leader;
/// whoever asked here should rather ask the next one.
pub(crate) async fn confirm(node: &Node<Metadata>) -> Result<u64, Refusal> {
    let mut watch = node.watch_status();
    tokio::select! {
        biased;
        _ = watch.wait_for(|status| status.role != Role::Leader) => Err(Refusal::NotLeader),
        index = node.read_index() => index.map_err(|error| match error {
            ReadError::Overloaded => Refusal::Overloaded,
            _ => Refusal::NotLeader,
        }),
    }
}

/// A rejection by the leader itself, decided on the image with this index.
pub(crate) fn rejected(rejection: Rejection, index: u64) -> Response {
    ResponseKind::Rejected(RejectedResponse {
        code: i32::from(rejection.code.code()),
        message: rejection.message,
        index,
    })
    .into()
}

/// Whether a command was applied, and not refused.
pub(crate) fn accepted(response: &Response) -> bool {
    match &response.kind {
        Some(ResponseKind::Applied(applied)) => {
            matches!(Outcome::decode(&applied.outcome), Ok(Outcome::Accepted(_)))
        }
        _ => false,
    }
}

/// As [`rejected`], from its parts.
pub(crate) fn rejected_with(code: ErrorCode, message: String, index: u64) -> Response {
    rejected(Rejection::new(code, message), index)
}
