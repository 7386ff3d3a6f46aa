//! [`Presence`]: whether the process of a peer is there, as far as connections tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_engine::NodeId;
use tokio::sync::watch;

/// Refusals in a row after which a peer is gone: one may meet a process that is just beginning.
const REFUSALS: u32 = 3;

/// The connections that peers have made to this node, and the peers that are *gone*.
///
/// The kernel of a host closes all connections of a process that ends, and refuses those to a port
/// on which nobody listens. So a peer is gone when all of this holds:
///
/// - a connection to it was up, and was closed;
/// - three attempts in a row to connect to the very address that was connected were refused. One that
///   is reset later, in the handshake, is none, and nor is one that nobody answers: a host that is
///   silent may be alive;
/// - from the first of them on, no connection of the peer to this node was open. What a peer has to
///   say comes on one of those, or on the one that was closed, so nothing has arrived either.
///
/// It stays gone until a connection in either direction is up, and is found to be gone once at most
/// for each connection that was. Whoever can reset connections between two nodes can make it so:
/// what is concluded from it must be harmless where it is wrong.
pub(crate) struct Presence {
    peers: Mutex<Peers>,
    /// Changed with the lock held, so that nothing comes between what is counted and what is told.
    gone: watch::Sender<BTreeSet<NodeId>>,
}

#[derive(Default)]
struct Peers {
    /// How many connections of each are open.
    arrived: BTreeMap<NodeId, usize>,
    /// How often in a row each refused one, since when none of its own was open.
    refused: BTreeMap<NodeId, u32>,
}

/// A connection that a peer has made, until it is dropped.
pub(super) struct Arrival {
    presence: Arc<Presence>,
    peer: NodeId,
}

impl Presence {
    pub(crate) fn new() -> Arc<Presence> {
        Arc::new(Presence { peers: Mutex::default(), gone: watch::Sender::default() })
    }

    /// The peers that are gone, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.gone.subscribe()
    }

    /// A connection that the peer made to this node is up.
    pub(super) fn arrived(self: &Arc<Self>, peer: NodeId) -> Arrival {
        let mut peers = self.peers();
        *peers.arrived.entry(peer).or_default() += 1;
        self.is_there(&mut peers, peer);
        Arrival { presence: self.clone(), peer }
    }

    /// A connection that this node made to the peer is up.
    pub(super) fn reached(&self, peer: NodeId) {
        self.is_there(&mut self.peers(), peer);
    }

    /// A peer refused a connection where it had been connected. Whether it is gone by that.
    pub(super) fn refused(&self, peer: NodeId) -> bool {
        let mut peers = self.peers();
        if peers.arrived.contains_key(&peer) {
            return false;
        }
        let in_a_row = peers.refused.entry(peer).or_default();
        *in_a_row += 1;
        let is_gone = *in_a_row >= REFUSALS;
        if is_gone {
            peers.refused.remove(&peer);
            self.gone.send_if_modified(|gone| gone.insert(peer));
        }
        is_gone
    }

    /// An attempt to connect to a peer failed otherwise.
    pub(super) fn failed(&self, peer: NodeId) {
        self.peers().refused.remove(&peer);
    }

    /// Forgets all peers but those that this node still talks to.
    pub(super) fn retain(&self, is_peer: impl Fn(NodeId) -> bool) {
        let mut peers = self.peers();
        peers.refused.retain(|peer, _| is_peer(*peer));
        self.gone.send_if_modified(|gone| {
            let before = gone.len();
            gone.retain(|peer| is_peer(*peer));
            gone.len() < before
        });
    }

    fn is_there(&self, peers: &mut Peers, peer: NodeId) {
        peers.refused.remove(&peer);
        self.gone.send_if_modified(|gone| gone.remove(&peer));
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        // Nothing in the critical sections can panic half way.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut peers = self.presence.peers();
        if let Some(open) = peers.arrived.get_mut(&self.peer) {
            *open -= 1;
            if *open == 0 {
                peers.arrived.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
#[allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
mod tests {
    use super::*;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn refusals(presence: &Presence, times: u32) -> Vec<bool> {
        (0..times).map(|_| presence.refused(node(2))).collect()
    }

    #[test]
    fn trap_R16_a_peer_is_gone_after_refusals_in_a_row_and_until_a_connection_is_up() {
        let presence = Presence::new();
        let watch = presence.watch();
        assert_eq!(refusals(&presence, 3), [false, false, true]);
        assert_eq!(*watch.borrow(), BTreeSet::from([node(2)]));
        presence.reached(node(2));
        assert!(watch.borrow().is_empty());

        assert_eq!(refusals(&presence, 2), [false, false]);
        presence.failed(node(2));
        assert_eq!(refusals(&presence, 3), [false, false, true], "a timeout begins a new row");
        drop(presence.arrived(node(2)));
        assert!(watch.borrow().is_empty(), "it has said something since");
    }

    #[test]
    fn trap_R16_refusals_count_only_while_nothing_of_the_peer_arrives() {
        let presence = Presence::new();
        let (first, second) = (presence.arrived(node(2)), presence.arrived(node(2)));
        assert_eq!(refusals(&presence, 5), [false; 5], "what it says comes in by another way");
        drop(first);
        assert_eq!(refusals(&presence, 5), [false; 5]);
        drop(second);
        assert_eq!(refusals(&presence, 2), [false, false]);
        let other = presence.arrived(node(3));
        drop(presence.arrived(node(2)));
        assert_eq!(refusals(&presence, 3), [false, false, true], "it arrived in between");
        drop(other);
        assert!(presence.peers().arrived.is_empty(), "nothing is kept of connections that ended");
    }

    #[test]
    fn whoever_is_no_peer_any_more_is_forgotten() {
        let presence = Presence::new();
        let mut watch = presence.watch();
        refusals(&presence, 3);
        watch.mark_unchanged();
        presence.retain(|peer| peer == node(2));
        assert!(!watch.has_changed().unwrap());
        presence.retain(|_| false);
        assert!(watch.has_changed().unwrap() && watch.borrow().is_empty());
    }
}
