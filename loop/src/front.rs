//! [`Front`]: where everything goes that arrives at the node from outside.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{DirectoryId, GroupId, NodeId, SnapshotMeta};
use quorate_statemachine::StateMachine;
use raft::eraftpb::MessageType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::Input;
use crate::drops::DropCause;
use crate::frame::{FRAME_BYTES_MAX, FoundingNews, Frame};
use crate::head::Head;
use crate::heartbeat::Heartbeat;
use crate::inbox::{Event, Inbox};
use crate::join_wire::{JoinAnswerWire, JoinWire};
use crate::members::Binding;
use crate::membership::{MembershipError, MembershipRequest};
use crate::message::PeerMessage;
use crate::meters::Meters;
use crate::registry::Registry;
use crate::transport::{
    Calls, Ingress, PeerStream, Receiving, Roster, Service, SharedRoster, Transport,
};

/// Requests of peers that a [`Service`] works on at a time, vital ones not counted.
pub const CALLS_MAX: usize = 8_192;

/// Vital requests of peers that a [`Service`] works on at a time.
pub const VITAL_CALLS_MAX: usize = 4_096;

/// Bytes of the requests of [`CALLS_MAX`] together: as many as a leader holds of entries that are not
/// committed, unless it is configured otherwise, and a few times the longest request.
const CALL_BYTES_MAX: usize = 64 << 20;

/// A longer request is not vital, whatever it says.
const VITAL_BYTES_MAX: usize = 1 << 10;

/// Everything that arrives at the node from outside.
pub(crate) struct Front<S: StateMachine> {
    pub(crate) registry: Registry<S>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) calls: Calls,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) roster: SharedRoster,
    pub(crate) receiving: Arc<Receiving>,
    pub(crate) limits: Limits,
    pub(crate) meters: Arc<Meters>,
}

/// What bounds the work that peers can cause.
pub(crate) struct Limits {
    calls: Arc<Semaphore>,
    call_bytes: Arc<Semaphore>,
    vital_calls: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            call_bytes: Arc::new(Semaphore::new(CALL_BYTES_MAX)),
            vital_calls: Arc::new(Semaphore::new(VITAL_CALLS_MAX)),
        }
    }
}

impl Limits {
    /// A place for a request, which is free again when it is dropped; none while all are taken.
    fn place(&self, is_vital: bool, bytes: usize) -> Option<Place> {
        if is_vital {
            let call = self.vital_calls.clone().try_acquire_owned().ok()?;
            return Some(Place { _call: call, _bytes: None });
        }
        let call = self.calls.clone().try_acquire_owned().ok()?;
        let bytes = u32::try_from(bytes).ok()?;
        let bytes = self.call_bytes.clone().try_acquire_many_owned(bytes).ok()?;
        Some(Place { _call: call, _bytes: Some(bytes) })
    }
}

/// What a request holds while it is worked on.
struct Place {
    _call: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl<S: StateMachine> Front<S> {
    /// Asks the group, which is led here or not.
    async fn decide(
        &self,
        from: NodeId,
        directory: DirectoryId,
        request: JoinWire,
    ) -> JoinAnswerWire {
        let group = GroupId::new(request.group).and_then(|group| self.registry.get(group));
        let (Some(group), Some(join)) = (group, request.join()) else {
            let is_removed = |group| self.registry.catalogue().is_spent(group);
            return match GroupId::new(request.group).is_some_and(is_removed) {
                true => JoinAnswerWire::never("the group was removed"),
                false => JoinAnswerWire::later("this node does not have the group"),
            };
        };
        let Binding { node_id, directory_id, .. } = join.binding;
        // Of a dry run there is no directory yet.
        if node_id != from || (directory_id != directory && !request.dry_run) {
            return JoinAnswerWire::later("a node asks for another than itself");
        }
        let asked = MembershipRequest::Join(join.clone());
        let result = group.change_membership(asked, request.dry_run).await;
        let leader = match &result {
            Err(MembershipError::NotLeader { leader }) => *leader,
            _ => None,
        };
        let leader_addr = leader.and_then(|leader| hint(&self.roster.load(), leader, from));
        JoinAnswerWire::of(&join, &result, leader_addr)
    }
}

/// Where `from` is to ask the leader; nowhere, if that is itself. Who comes back in another directory may
/// be taken for the leader that it was; it listens already, and would wait for its own answer.
fn hint(roster: &Roster, leader: NodeId, from: NodeId) -> Option<String> {
    roster.addr(leader).filter(|_| leader != from).map(str::to_owned)
}

impl<S: StateMachine> Ingress for Front<S> {
    fn peer(
        &self,
        from: NodeId,
        group: GroupId,
        message: PeerMessage,
        permit: OwnedSemaphorePermit,
    ) {
        self.inbox.send(Event::Peer { from, group, message, permit });
    }

    fn heartbeats(
        &self,
        from: NodeId,
        kind: MessageType,
        beats: Vec<Heartbeat>,
        permit: OwnedSemaphorePermit,
    ) {
        self.inbox.send(Event::Heartbeats { from, kind, beats, permit });
    }

    fn founding(
        &self,
        from: NodeId,
        directory: DirectoryId,
        news: FoundingNews,
        permit: OwnedSemaphorePermit,
    ) {
        self.inbox.send(Event::Founding { from, directory, news, permit });
    }

    fn call(&self, from: NodeId, request: u64, payload: Bytes) {
        let is_vital = payload.len() <= VITAL_BYTES_MAX && self.service.is_vital(&payload);
        let Some(place) = self.limits.place(is_vital, payload.len()) else {
            tracing::debug!(%from, is_vital, "a call was refused: too many run already");
            self.meters.dropped(DropCause::Busy);
            // Where it cannot be sent its caller is not told, as below.
            let _ = self
                .transport
                .send(from, Frame::Reply { request, payload: self.service.overloaded() });
            return;
        };
        let answer = self.service.call(from, payload);
        let transport = self.transport.clone();
        tokio::spawn(async move {
            let payload = answer.await;
            if payload.len() + 64 > FRAME_BYTES_MAX {
                tracing::error!(%from, bytes = payload.len(), "an answer is too long to be sent");
                return;
            }
            // Not connected any more: the caller is told that its call is lost. Where the queue to the
            // peer is full the answer is lost, and the caller waits for as long as its call may take.
            let _ = transport.send(from, Frame::Reply { request, payload });
            drop(place);
        });
    }

    fn reply(&self, from: NodeId, request: u64, payload: Bytes) {
        self.calls.answered(from, request, payload);
    }

    fn join(
        &self,
        from: NodeId,
        directory: DirectoryId,
        request: JoinWire,
    ) -> Pin<Box<dyn Future<Output = JoinAnswerWire> + Send + '_>> {
        Box::pin(self.decide(from, directory, request))
    }

    fn snapshot(
        &self,
        from: NodeId,
        stream: PeerStream,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let is_served = |group| self.registry.serves(group);
        let deliver = move |group, message, meta: SnapshotMeta| match Head::of(&meta) {
            Ok(Head { members, catalogue, .. }) => {
                let input = Input::SnapshotReceived { from, message, members, catalogue };
                self.inbox.send(Event::Input(group, input));
            }
            Err(error) => tracing::warn!(%from, %group, %error, "a snapshot is of no use"),
        };
        Box::pin(self.receiving.take(from, stream, is_served, deliver))
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::ClusterId;

    use super::*;

    /// Also where it does not know its own address. To see it fail: look at no more than the roster.
    #[test]
    fn nobody_is_sent_to_itself() {
        let [one, two, three] = [1, 2, 3].map(|n| NodeId::new(n).unwrap());
        let directory = DirectoryId::from_bytes([3; 16]);
        let addresses = [one, two].map(|node| (node, format!("127.0.0.1:{node}")));
        let cluster = ClusterId::from_bytes([7; 16]);
        let roster = Roster::founding(cluster, three, directory, addresses);
        assert_eq!(hint(&roster, one, two), Some("127.0.0.1:1".to_owned()));
        assert_eq!(hint(&roster, one, one), None);
    }
}
