//! [`Transport`]: ordered streams of frames between the nodes of a cluster, over TCP, with TLS where
//! the node has certificates.
//!
//! Every node dials every other node of its table and sends on the connections that it dialled; it receives on
//! those that it accepted. Each has a bounded queue of its own, and a slow peer delays nobody else.
//!
//! ```text
//!   loop ──► queue of peer ──► dialler ══ TCP ══► acceptor ──► inbox of the peer's loop
//! ```
//!
//! A peer that has connected and that this node has no connection to is answered on that of the peer
//! ([`Inbound`]): it has moved, or is in no table yet. What is said on one connection arrives in order; between the
//! two there is none, nor any between a connection and the one that follows it.

mod acceptor;
mod calls;
mod dialler;
mod handshake;
mod inbound;
mod join;
mod outlet;
mod presence;
mod queue;
mod rate;
mod reading;
mod receiving;
mod roster;
mod sending;
mod stream;
mod tls;
mod transfer;
mod writing;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use quorate_engine::NodeId;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;

pub(crate) use self::acceptor::Acceptor;
pub(crate) use self::calls::Calls;
pub(crate) use self::dialler::jittered;
pub(crate) use self::handshake::HandshakeError;
pub(crate) use self::inbound::Inbound;
#[cfg(test)]
pub(crate) use self::join::FRAME_BYTES_MAX as JOIN_FRAME_BYTES_MAX;
pub(crate) use self::join::ask_to_join;
pub(crate) use self::presence::Presence;
use self::queue::{Queue, queue};
pub(crate) use self::reading::Ingress;
pub(crate) use self::receiving::Receiving;
pub(crate) use self::roster::{Roster, SharedRoster};
pub(crate) use self::sending::{Outgoing, Sending};
pub(crate) use self::stream::PeerStream;
pub(crate) use self::tls::Tls;
pub use self::tls::{TlsConfig, TlsError};
pub(crate) use self::transfer::TransferError;
use crate::config::LoopConfig;
use crate::drops::DropCause;
use crate::error::CallError;
use crate::frame::{FRAME_BYTES_MAX, Frame, RefusalCode};
use crate::meters::{Meters, PeerMetrics};

/// What a node answers to requests of the application on other nodes.
///
/// Requests run on the tokio runtime, not on the loop. Of those of all peers taken together at most
/// [`CALLS_MAX`](crate::CALLS_MAX) run at a time, of at most 64 MiB; whoever comes then is answered
/// [`Service::overloaded`] at once. Requests that are [vital](Service::is_vital) have
/// [`VITAL_CALLS_MAX`](crate::VITAL_CALLS_MAX) places of their own, which no other request takes.
pub trait Service: Send + Sync + 'static {
    /// Answers one request that the authenticated node `from` sent.
    ///
    /// The future may be dropped before its end, when the connection breaks.
    fn call(&self, from: NodeId, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>>;

    /// What is answered to a request that had no place, and so has no effect.
    fn overloaded(&self) -> Bytes;

    /// Whether somebody would be taken for dead if this request had no place: a heartbeat, say. It is
    /// asked where requests arrive, of those up to 1 KiB only, and should look no further than it must.
    ///
    /// Without an implementation none is.
    fn is_vital(&self, _request: &Bytes) -> bool {
        false
    }
}

/// What the transport tells the loop about its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The connection broke, or could not be made after it had been up.
    Down(NodeId),
    /// The peer's process is gone: see [`Presence`].
    Gone(NodeId),
    /// The peer refuses this node.
    Refused {
        by: NodeId,
        code: RefusalCode,
        message: String,
        /// Of which index of the log of group 1 the peer knows the members.
        members_index: u64,
    },
}

/// Tells the loop about links; given by the driver.
pub(crate) type OnLink = Arc<dyn Fn(LinkEvent) + Send + Sync>;

/// The sending half: one queue and one dialler task per peer.
pub(crate) struct Transport {
    /// Replaced by the loop alone, when the members change.
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    runtime: Handle,
    roster: SharedRoster,
    timeout: Duration,
    queue_max: usize,
    room_bytes: usize,
    presence: Arc<Presence>,
    inbound: Arc<Inbound>,
    on_link: OnLink,
    /// Not held: it sends through this.
    ingress: OnceLock<Weak<dyn Ingress>>,
    meters: Arc<Meters>,
}

/// Dropping it ends the connection.
struct Peer {
    queue: Queue,
    connected: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Peer {
    fn stop(&self) {
        self.task.abort();
        self.connected.store(false, Ordering::Release);
    }
}

impl Transport {
    /// A transport that dials nobody yet. Must be called on a tokio runtime.
    pub(crate) fn new(
        roster: &SharedRoster,
        config: &LoopConfig,
        presence: &Arc<Presence>,
        on_link: &OnLink,
        meters: Arc<Meters>,
    ) -> Self {
        Transport {
            peers: ArcSwap::default(),
            runtime: Handle::current(),
            roster: roster.clone(),
            timeout: Duration::from_millis(config.connect_timeout_ms),
            queue_max: config.peer_queue_max,
            room_bytes: config.peer_inbox_bytes_max,
            presence: presence.clone(),
            inbound: Inbound::new(config.peer_queue_max, on_link.clone()),
            on_link: on_link.clone(),
            ingress: OnceLock::new(),
            meters,
        }
    }

    /// Starts a dialler for every peer of the roster. What the peers answer on its connections goes there,
    /// for as long as the caller keeps it.
    pub(crate) fn start(&self, ingress: &Arc<dyn Ingress>) {
        self.ingress.get_or_init(|| Arc::downgrade(ingress));
        self.follow_roster();
    }

    /// The connections that peers make to this node, for the acceptor.
    pub(crate) fn inbound(&self) -> Arc<Inbound> {
        self.inbound.clone()
    }

    /// Dials whoever is new on the roster, and lets go of those that are not on it any more. One
    /// whose address has changed is found there when its connection has broken.
    pub(crate) fn follow_roster(&self) {
        let Some(ingress) = self.ingress.get() else { return };
        let old = self.peers.load();
        let kept = |node| old.get(&node).filter(|peer| !peer.task.is_finished()).cloned();
        let roster = self.roster.load();
        let peers = roster
            .peers()
            .map(|node| (node, kept(node).unwrap_or_else(|| self.dial(node, ingress))));
        self.peers.store(Arc::new(peers.collect()));
        self.presence.retain(|node| roster.addr(node).is_some());
    }

    fn dial(&self, node: NodeId, ingress: &Weak<dyn Ingress>) -> Arc<Peer> {
        let (queue, frames) = queue(self.queue_max);
        let connected = Arc::new(AtomicBool::new(false));
        let dialler = dialler::Dialler {
            peer: node,
            roster: self.roster.clone(),
            timeout: self.timeout,
            connected: connected.clone(),
            presence: self.presence.clone(),
            inbound: self.inbound.clone(),
            on_link: self.on_link.clone(),
            ingress: ingress.clone(),
            room_bytes: self.room_bytes,
        };
        let task = self.runtime.spawn(dialler.run(frames)).abort_handle();
        Arc::new(Peer { queue, connected, task })
    }

    /// Sends a frame to a peer: on the connection that this node has dialled, or else on the one that the
    /// peer has. Never waits.
    ///
    /// # Errors
    ///
    /// Gives the frame back when the peer is not connected, or its queue is full: it was surely not sent.
    #[expect(clippy::result_large_err, reason = "a frame that was not sent comes back as it was")]
    pub(crate) fn send(&self, to: NodeId, frame: Frame) -> Result<(), Frame> {
        self.put(to, frame)?;
        self.flush();
        Ok(())
    }

    /// As [`Transport::send`], with the next [`Transport::flush`]: frames that come together leave together.
    #[expect(clippy::result_large_err, reason = "a frame that was not sent comes back as it was")]
    pub(crate) fn put(&self, to: NodeId, frame: Frame) -> Result<(), Frame> {
        let sent = match self.peers.load().get(&to) {
            Some(peer) if peer.connected.load(Ordering::Acquire) => peer.queue.put(frame),
            _ => self.inbound.put(&self.roster.load(), to, frame),
        };
        sent.map_err(|error| {
            self.meters.dropped(match error {
                TrySendError::Full(_) => DropCause::QueueFull,
                TrySendError::Closed(_) => DropCause::Disconnected,
            });
            error.into_inner()
        })
    }

    /// Sends all that was put in before.
    pub(crate) fn flush(&self) {
        self.peers.load().values().for_each(|peer| peer.queue.flush());
        self.inbound.flush();
    }

    /// The state of every connection that this node dials.
    pub(crate) fn metrics(&self) -> Vec<PeerMetrics> {
        let metrics = |(node, peer): (&NodeId, &Arc<Peer>)| PeerMetrics {
            node: *node,
            connected: peer.connected.load(Ordering::Acquire),
            queue: peer.queue.len(),
        };
        self.peers.load().iter().map(metrics).collect()
    }

    /// Ends every connection; whatever is sent after this comes back.
    pub(crate) fn stop(&self) {
        self.inbound.close();
        self.peers.load().values().for_each(|peer| peer.stop());
    }

    /// The nodes that can be sent to.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.peers.load().keys().copied().collect()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        calls: &Calls,
        to: NodeId,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        if payload.len() + 64 > FRAME_BYTES_MAX {
            let (bytes, bytes_max) = (payload.len(), FRAME_BYTES_MAX - 64);
            return Err(CallError::TooLarge { bytes, bytes_max });
        }
        let call = calls.register(to);
        let frame = Frame::Call { request: call.request(), payload };
        self.send(to, frame).map_err(|_| CallError::Unreachable(to))?;
        call.answer().await
    }
}
