//! [`Front`]: where everything goes that arrives at the node from outside.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{DirectoryId, GroupId, NodeId};
use quorate_statemachine::StateMachine;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::Input;
use crate::frame::{FRAME_BYTES_MAX, FoundingNews, Frame};
use crate::inbox::{Event, Inbox};
use crate::message::PeerMessage;
use crate::transport::{Calls, Ingress, PeerStream, Receiving, Service, Transport};

/// Calls of peers that run at a time; more are dropped, and their callers time out.
const CALLS_MAX: usize = 1_024;

/// Everything that arrives at the node from outside.
pub(crate) struct Front<S: StateMachine> {
    pub(crate) group: GroupId,
    pub(crate) inbox: Inbox<S>,
    pub(crate) calls: Calls,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) receiving: Arc<Receiving>,
    pub(crate) limits: Limits,
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

    fn snapshot(
        &self,
        from: NodeId,
        stream: PeerStream,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let is_served = |group| group == self.group;
        let deliver = move |_, message| {
            self.inbox.send(Event::Input(Input::SnapshotReceived { from, message }));
        };
        Box::pin(self.receiving.take(from, stream, is_served, deliver))
    }
}
