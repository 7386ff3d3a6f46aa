//! Owns the place where requests to the quorum leader arrive, on every node.
//!
//! What needs the leader's sessions goes on to its [duties](crate::duties), also a command that came
//! as it is; what only the leader may
//! decide about metadata to the [metadata desk](crate::metadata_desk), and about members to the
//! [membership desk](crate::membership_desk). Everything else is proposed as it came. The loop below
//! does not forward proposals, so a node that has lost its leadership by then gets `NotLeader` from its
//! own loop, and nothing happens: there is no gap between the check of leadership and its use.
//!
//! Requests of peers are bounded before they come here ([`quorate_loop::CALLS_MAX`]), and here once more
//! together with those of this node itself. However many there are, heartbeats have places that nothing
//! else takes: a leader that is busy must not take its brokers for dead.

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

/// Requests that a leader works on at a time, its own node's too; heartbeats and registrations are not
/// counted. Beyond it nodes are told `Overloaded`. As many may come from peers, so that they are not
/// refused before, nor its own for their sake alone.
const REQUESTS_MAX: usize = quorate_loop::CALLS_MAX;

/// Registrations, and their ends, that a leader works on at a time: one for each of a thousand brokers.
/// Beyond it nodes are told `Overloaded`.
pub(crate) const REGISTRATIONS_MAX: usize = 1_024;

/// Heartbeats and registrations that wait for the duties: all registrations, and as many heartbeats as
/// may come from peers, several for each of a thousand brokers.
pub(crate) const CALLS_MAX: usize = quorate_loop::VITAL_CALLS_MAX + REGISTRATIONS_MAX;

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
    registrations: Semaphore,
    /// How long leadership may take to move: raft-rs gives a transfer up after one election timeout,
    /// and an election that came of it takes as long again.
    transfer_patience: Duration,
}

impl Desk {
    pub(crate) fn new(duties: mpsc::Sender<Call>, election_timeout: Duration) -> Self {
        let inner = Inner {
            node: ArcSwapOption::empty(),
            duties,
            slots: Semaphore::new(REQUESTS_MAX),
            registrations: Semaphore::new(REGISTRATIONS_MAX),
            transfer_patience: election_timeout * 2,
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn open_for(&self, node: Node<Metadata>) {
        self.inner.node.store(Some(Arc::new(node)));
    }

    pub(crate) fn close(&self) {
        self.inner.node.store(None);
    }

    /// Answers a request, of this node itself or of a peer.
    pub(crate) async fn answer(&self, request: Request) -> Response {
        match request.kind {
            Some(kind) => self.inner.answer(kind).await,
            // Of a later version.
            None => Refusal::Unsupported.into(),
        }
    }
}

impl Service for Desk {
    fn call(&self, from: NodeId, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let desk = self.clone();
        Box::pin(async move {
            let mut request = Request::decode(request).unwrap_or_default();
            match &mut request.kind {
                // Its own bytes: for as long as the entry is in memory, it would keep all that came with it.
                Some(RequestKind::Propose(command)) => *command = Bytes::copy_from_slice(command),
                Some(_) => {}
                None => tracing::warn!(%from, "refused a request that this version does not know"),
            }
            desk.answer(request).await.encode_to_vec().into()
        })
    }

    fn overloaded(&self) -> Bytes {
        Response::from(Refusal::Overloaded).encode_to_vec().into()
    }

    fn is_vital(&self, request: &Bytes) -> bool {
        let request = Request::decode(request.clone());
        request.is_ok_and(|request| matches!(request.kind, Some(RequestKind::Heartbeat(_))))
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
                let registering = self.to_duties(|reply| Call::Register(register, reply));
                in_place(&self.registrations, registering).await
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
                Ok(Command::UnregisterBroker { broker, epoch }) => {
                    let unregistering =
                        self.to_duties(|reply| Call::Unregister(broker, epoch, reply));
                    in_place(&self.registrations, unregistering).await
                }
                // Asked far more often than the rest, and so with no more room than it needs.
                Ok(decided) if is_the_senders_to_decide(&decided) => {
                    match self.slots.try_acquire() {
                        Ok(_place) => propose_encoded(&node, &decided, command).await,
                        Err(_) => Refusal::Overloaded.into(),
                    }
                }
                Ok(_) | Err(_) => Refusal::Unsupported.into(),
            },
        }
    }

    /// On the heap, or every request would have as much room as the largest.
    fn in_slot<'a>(
        &'a self,
        work: impl Future<Output = Response> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + 'a>> {
        Box::pin(in_place(&self.slots, work))
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

/// Does work that has one of these places, and none that has not.
async fn in_place(places: &Semaphore, work: impl Future<Output = Response>) -> Response {
    match places.try_acquire() {
        Ok(_place) => work.await,
        Err(_) => Refusal::Overloaded.into(),
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
            | Command::ElectLeaders(_)
            | Command::AlterReassignments { .. }
            | Command::AlterConfigs { .. }
    )
}

/// Proposes on this node, if it leads. What the feature level does not allow is not proposed: a node of an
/// earlier version would stop at it.
pub(crate) async fn propose(node: &Node<Metadata>, command: &Command) -> Response {
    propose_encoded(node, command, command.encode()).await
}

/// As [`propose`], of a command that came encoded.
async fn propose_encoded(node: &Node<Metadata>, command: &Command, encoded: Bytes) -> Response {
    let now = node.image();
    if let Err(rejection) = now.image.check_level(command) {
        return rejected(rejection, now.applied);
    }
    match node.propose(encoded).await {
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

#[cfg(test)]
mod tests {
    use quorate_statemachine::TopicId;

    use super::*;
    use crate::wire::{CreateTopicRequest, Empty, HeartbeatRequest, RegisterRequest};

    fn bytes(kind: impl Into<RequestKind>) -> Bytes {
        Request::from(kind.into()).encode_to_vec().into()
    }

    fn heartbeat() -> RequestKind {
        let whole = HeartbeatRequest {
            broker: u32::MAX,
            epoch: u64::MAX,
            applied: u64::MAX,
            want_fence: true,
            want_shutdown: true,
        };
        RequestKind::Heartbeat(whole)
    }

    /// To see it fail: take another request for vital, or none.
    #[test]
    fn heartbeats_and_nothing_else_are_vital() {
        let desk = Desk::new(mpsc::channel(1).0, Duration::ZERO);
        assert!(desk.is_vital(&bytes(heartbeat())));
        assert!(desk.is_vital(&bytes(RequestKind::Heartbeat(HeartbeatRequest::default()))));
        for other in [
            RequestKind::Register(RegisterRequest::default()),
            RequestKind::CreateTopic(CreateTopicRequest::default()),
            RequestKind::ReadIndex(Empty {}),
        ] {
            assert!(!desk.is_vital(&bytes(other.clone())), "{other:?}");
        }
        assert!(!desk.is_vital(&Bytes::new()));
        assert!(!desk.is_vital(&Bytes::from_static(b"\xff\xff")));
        let refused = Response::decode(desk.overloaded()).unwrap();
        assert_eq!(refused, Refusal::Overloaded.into());
    }

    /// To see it fail: have registrations or heartbeats share a bound with each other, or with the rest.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_desk_that_is_full_takes_heartbeats() {
        let (_dir, quorum) = crate::tests::alone().await;
        let one = quorum.identity().node_id;
        // A second desk before the same node, whose duties are ours.
        let (duties, mut calls) = mpsc::channel(CALLS_MAX);
        let desk = Desk::new(duties, Duration::ZERO);
        desk.open_for(quorum.node().clone());
        let ask = |kind: RequestKind| {
            let answer = desk.call(one, bytes(kind));
            async move { Response::decode(answer.await).unwrap() }
        };
        let overloaded = Response::from(Refusal::Overloaded);

        let slots = desk.inner.slots.try_acquire_many(REQUESTS_MAX as u32).unwrap();
        assert_eq!(ask(RequestKind::ReadIndex(Empty {})).await, overloaded);
        let topic = TopicId(uuid::Uuid::nil());
        let proposing = RequestKind::Propose(Command::DeleteTopic { topic }.encode());
        assert_eq!(ask(proposing.clone()).await, overloaded);
        // Whoever registers has the places of its own kind, and no more of them.
        let registering: Vec<_> = (0..REGISTRATIONS_MAX)
            .map(|_| tokio::spawn(ask(RequestKind::Register(RegisterRequest::default()))))
            .collect();
        let mut waiting = Vec::new();
        for _ in 0..REGISTRATIONS_MAX {
            let Some(Call::Register(_, reply)) = calls.recv().await else { panic!() };
            waiting.push(reply);
        }
        let register = RequestKind::Register(RegisterRequest::default());
        assert_eq!(ask(register).await, overloaded);
        let beating = tokio::spawn(ask(heartbeat()));
        let Some(Call::Heartbeat(_, reply)) = calls.recv().await else { panic!() };
        reply.send(Refusal::NotLeader.into()).unwrap();
        assert_eq!(beating.await.unwrap(), Refusal::NotLeader.into());

        drop((slots, waiting));
        let answer = ask(proposing).await;
        assert!(matches!(answer.kind, Some(ResponseKind::Applied(_))), "{answer:?}");
        assert_eq!(desk.inner.slots.available_permits(), REQUESTS_MAX);
        for one in registering {
            assert_eq!(one.await.unwrap(), Doubt::Stopped.into());
        }
        assert_ne!(ask(RequestKind::ReadIndex(Empty {})).await, overloaded);
        desk.close();
    }
}
