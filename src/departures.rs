//! [`Departures`]: the brokers whose processes are gone, as this node's own connections tell.

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::{DirectoryId, NodeId};
use quorate_loop::Node;
use quorate_statemachine::{BrokerSession as RegisteredBroker, Metadata, MetadataImage};
use uuid::Uuid;

/// The brokers that ran in the processes of nodes that are gone, until one is fenced for it or its node
/// comes back.
///
/// A broker runs in the process of a node if it registered the node's data directory among its own
/// ([`Registration`](crate::Registration) tells). One that did not is somebody else's process, which
/// may live: its session has to run out.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// The nodes that are gone.
    gone: BTreeSet<NodeId>,
    /// Their brokers, each with the epoch that it had when its node was found to be gone. What is
    /// registered later is another process.
    waiting: BTreeMap<NodeId, RegisteredBroker>,
}

impl Departures {
    /// Takes in which nodes are gone now.
    pub(crate) fn follow(&mut self, gone: &BTreeSet<NodeId>, node: &Node<Metadata>) {
        self.waiting.retain(|node, _| gone.contains(node));
        let members = node.status().members;
        let image = node.image();
        for new in gone.difference(&self.gone) {
            let directories = members.all_of_node(*new).map(|member| member.binding.directory_id);
            let broker = directories.filter_map(|own| broker_in(&image.image, own)).next_back();
            self.waiting.extend(broker.map(|broker| (*new, broker)));
        }
        self.gone.clone_from(gone);
    }

    /// Those that are to be fenced, each once.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = RegisteredBroker> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}

/// The broker that has registered this directory; no two have.
fn broker_in(image: &MetadataImage, directory: DirectoryId) -> Option<RegisteredBroker> {
    let directory = quorate_statemachine::DirectoryId(Uuid::from_bytes(*directory.as_bytes()));
    let broker = image.brokers().find(|broker| broker.directories.contains(&directory))?;
    Some(RegisteredBroker { broker: broker.id, epoch: broker.epoch })
}
