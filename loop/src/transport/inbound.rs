//! [`Inbound`]: the connections that peers have made to this node, and the answers on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_engine::{DirectoryId, NodeId};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::queue::{Queue, Waiting, queue};
use super::roster::Roster;
use super::{LinkEvent, OnLink};
use crate::frame::Frame;

/// The open connection of each peer to this node: a newer one replaces it, and so ends the older. Two
/// directories of one node, while one takes the place of the other, are two peers.
///
/// A peer that this node has no connection to is answered on its own: one that has moved and is in the table
/// with its old address, one that is in no table yet because this node has missed a change of the
/// members, and one that can connect and cannot be connected to. It is the one that the handshake
/// let in, and answers end with its connection. Snapshots are not sent on it: they go to the address in
/// the table, on connections of their own (`sending.rs`).
pub(crate) struct Inbound {
    streams: Mutex<Streams>,
    queue_max: usize,
    on_link: OnLink,
}

#[derive(Default)]
struct Streams {
    next: u64,
    is_closed: bool,
    /// Not more than there are connections.
    by_peer: BTreeMap<(NodeId, DirectoryId), Stream>,
}

struct Stream {
    number: u64,
    queue: Arc<Queue>,
    /// Whether anything was sent on it since this node had a connection of its own to the peer.
    is_used: Arc<AtomicBool>,
    /// Dropped when a newer connection takes over.
    _keep: oneshot::Sender<()>,
}

/// What is to be sent on one connection; dropped with it.
pub(super) struct Answers {
    pub(super) frames: Waiting,
    /// Ends when a newer connection takes over, or the node ends.
    pub(super) superseded: oneshot::Receiver<()>,
    inbound: Arc<Inbound>,
    peer: (NodeId, DirectoryId),
    number: u64,
    is_used: Arc<AtomicBool>,
}

impl Inbound {
    /// At most `queue_max` frames wait for each connection.
    pub(super) fn new(queue_max: usize, on_link: OnLink) -> Arc<Inbound> {
        Arc::new(Inbound { streams: Mutex::default(), queue_max, on_link })
    }

    /// A peer was let in.
    pub(super) fn opened(self: &Arc<Self>, node: NodeId, directory: DirectoryId) -> Answers {
        let (queue, frames) = queue(self.queue_max);
        let (keep, superseded) = oneshot::channel();
        let (inbound, peer, is_used) = (self.clone(), (node, directory), Arc::default());
        let mut streams = self.streams();
        streams.next += 1;
        let number = streams.next;
        let stream =
            Stream { number, queue: Arc::new(queue), is_used: Arc::clone(&is_used), _keep: keep };
        let older = match streams.is_closed {
            true => None,
            false => streams.by_peer.insert(peer, stream),
        };
        drop(streams);
        // Now, and not when its end is noticed: by then others may wait for answers on the newer one.
        if older.is_some_and(|older| older.is_used.swap(false, Ordering::Relaxed)) {
            (self.on_link)(LinkEvent::Down(node));
        }
        Answers { frames, superseded, inbound, peer, number, is_used }
    }

    /// This node has a connection of its own to the peer, and sends nothing here any more. Whoever waits
    /// still for an answer to what it sent here is not told when this connection ends, and hears of it by
    /// its time-out.
    pub(super) fn relieved(&self, node: NodeId) {
        let streams = self.streams();
        for (_, stream) in streams.by_peer.iter().filter(|((peer, _), _)| *peer == node) {
            stream.is_used.store(false, Ordering::Relaxed);
        }
    }

    /// Ends all connections, those to come too.
    pub(super) fn close(&self) {
        let mut streams = self.streams();
        streams.is_closed = true;
        streams.by_peer.clear();
    }

    /// Answers a node on the connection that it made, of a directory that the roster has it bound to
    /// rather than of another, with the next [`Inbound::flush`]. Never waits.
    #[expect(clippy::result_large_err, reason = "a frame that was not sent comes back as it was")]
    pub(super) fn put(
        &self,
        roster: &Roster,
        to: NodeId,
        frame: Frame,
    ) -> Result<(), TrySendError<Frame>> {
        let streams = self.streams();
        let of_node = streams.by_peer.iter().filter(|((node, _), _)| *node == to);
        let best = of_node
            .max_by_key(|((node, directory), it)| (roster.binds(*node, *directory), it.number));
        let Some((_, stream)) = best else {
            return Err(TrySendError::Closed(frame));
        };
        stream.is_used.store(true, Ordering::Relaxed);
        stream.queue.put(frame)
    }

    /// Sends all that was put in before.
    pub(super) fn flush(&self) {
        let waits = |stream: &&Stream| stream.queue.len() > 0;
        let queues: Vec<_> =
            self.streams().by_peer.values().filter(waits).map(|it| it.queue.clone()).collect();
        queues.iter().for_each(|queue| queue.flush());
    }

    /// How many peers are connected.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.streams().by_peer.len()
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Nothing in the critical sections can panic half way.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let mut streams = self.inbound.streams();
        let is_closed = streams.is_closed;
        if streams.by_peer.get(&self.peer).is_some_and(|stream| stream.number == self.number) {
            streams.by_peer.remove(&self.peer);
        }
        drop(streams);
        // Whoever waits for what was sent on it must not wait for ever.
        if !is_closed && self.is_used.load(Ordering::Relaxed) {
            (self.inbound.on_link)(LinkEvent::Down(self.peer.0));
        }
    }
}
