//! What a node shows of itself, without asking its loop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{Identity, NodeId};
use quorate_statemachine::StateMachine;
use tokio::sync::watch;

use super::Node;
use crate::meters::Metrics;
use crate::publish::{Published, Updates};
use crate::status::{GroupStatus, Leadership};
use crate::wait::Wait;

impl<S: StateMachine> Node<S> {
    /// The newest image of this node, and the index it was applied up to. Lock-free; it may lag
    /// behind the leader: see [`Node::read_index`].
    pub fn image(&self) -> Arc<Published<S::Image>> {
        self.0.first.image()
    }

    /// A gap-free watch on the state.
    pub fn updates(&self) -> Updates<S> {
        self.0.first.updates()
    }

    /// Group 1 as this node sees it now.
    pub fn status(&self) -> GroupStatus {
        self.0.first.status()
    }

    /// The same, to wait on. Take what you need and let go: while a borrowed status is held, the
    /// loop cannot publish the next, and waits.
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.0.first.watch_status()
    }

    /// Whom this node takes for the leader of group 1; see
    /// [`Group::watch_leader`](crate::Group::watch_leader).
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.0.first.watch_leader()
    }

    /// Whether there is no room on the disk for what is to be written to group 1, as the status says too.
    pub fn is_storage_full(&self) -> bool {
        self.0.first.is_storage_full()
    }

    /// Waits until something is so in group 1, for at most `timeout`; see [`Group::wait`](crate::Group::wait).
    pub fn wait(&self, timeout: Duration) -> Wait {
        self.0.first.wait(timeout)
    }

    /// What this node has counted since it was opened, all its groups taken together.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            inbox_requests: self.0.inbox.waiting(),
            peers: self.0.transport.metrics(),
            groups: self.groups().len(),
            ..self.0.meters.metrics()
        }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Where this node listens, with the port that the system chose when it was asked for any.
    pub fn listen_addr(&self) -> SocketAddr {
        self.0.listen_addr
    }

    /// The other nodes whose processes are gone, as far as this node's own connections tell: a
    /// connection to the node was up and was closed, several attempts in a row to make it anew were
    /// refused, and nothing has arrived from the node meanwhile. A node is among them until a
    /// connection is up again, to it or from it. One that is merely silent never is.
    ///
    /// Whoever can reset connections between two nodes can have one taken for gone that lives. Act on
    /// it only where that does no harm.
    pub fn watch_gone(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.0.presence.watch()
    }
}
