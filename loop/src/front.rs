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

/// Calls of peers that run at a time; more are dropped, and their callers time out.
const CALLS_MAX: usize = 1_024;

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
}

impl Default for Limits {
    fn default() -> Self {
        Limits { calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }
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
        let Ok(permit) = self.limits.calls.clone().try_acquire_owned() else {
            tracing::debug!(%from, "a call was dropped: too many run already");
            self.meters.dropped(DropCause::Busy);
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
            // Not connected any more: the caller is told that its call is lost.
            let _ = transport.send(from, Frame::Reply { request, payload });
            drop(permit);
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
