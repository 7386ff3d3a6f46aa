//! [`Front`]: where everything goes that arrives at the node from outside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{DirectoryId, GroupId, NodeId, SnapshotStore};
use quorate_statemachine::StateMachine;
use raft::eraftpb::MessageType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::Input;
use crate::frame::{FRAME_BYTES_MAX, FoundingNews, Frame};
use crate::heartbeat::Heartbeat;
use crate::inbox::{Event, Inbox};
use crate::message::PeerMessage;
use crate::registry::Registry;
use crate::transport::{Calls, Ingress, Service, Transport, receive_snapshot};

/// Calls of peers that run at a time; more are dropped, and their callers time out.
const CALLS_MAX: usize = 1_024;

/// Snapshots that are received at a time, whichever groups they are of; more are refused, and their
/// leaders try again.
const RECEIVES_MAX: usize = 4;

/// Everything that arrives at the node from outside.
pub(crate) struct Front<S: StateMachine> {
    pub(crate) registry: Registry<S>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) calls: Calls,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) snapshots: SnapshotStore,
    /// Longest silence during a snapshot transfer.
    pub(crate) timeout: Duration,
    pub(crate) limits: Limits,
}

/// What bounds the work that peers can cause.
pub(crate) struct Limits {
    calls: Arc<Semaphore>,
    receives: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        Limits { calls, receives: Arc::new(Semaphore::new(RECEIVES_MAX)) }
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

    fn snapshot(&self, from: NodeId, stream: tokio::net::TcpStream) {
        let Ok(permit) = self.limits.receives.clone().try_acquire_owned() else { return };
        let (inbox, snapshots) = (self.inbox.clone(), self.snapshots.clone());
        let (registry, timeout) = (self.registry.clone(), self.timeout);
        let transfer = move || {
            let _permit = permit;
            let serves = |group| registry.serves(group);
            match receive_snapshot(stream, timeout, &snapshots, &serves) {
                Ok((group, message)) => {
                    tracing::info!(%from, %group, "a snapshot was received");
                    inbox.send(Event::Input(group, Input::SnapshotReceived { from, message }));
                }
                Err(error) => tracing::warn!(%from, %error, "a snapshot was not received"),
            }
        };
        let thread = std::thread::Builder::new().name("quorate-snapshot-receive".to_owned());
        // A closure that is not run is dropped, and the permit with it.
        if let Err(error) = thread.spawn(transfer) {
            tracing::warn!(%error, "a snapshot was not received");
        }
    }
}
