//! [`Roster`]: who this node is, and which nodes it talks to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use quorate_engine::{ClusterId, DirectoryId, NodeId};

use super::tls::Tls;
use crate::frame::{Hello, PROTOCOL_VERSION, Refusal, RefusalCode};

/// The roster as the transport's tasks see it; the loop replaces it when it learns more.
pub(crate) type SharedRoster = Arc<ArcSwap<Roster>>;

/// Who this node is, and whom it knows, by address and, once founded, by directory.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) directory: DirectoryId,
    peers: BTreeMap<NodeId, (String, Option<DirectoryId>)>,
    /// Whether the founding is complete, so that a directory is bound for good.
    founded: bool,
    /// The certificates of this node, where connections are encrypted.
    pub(crate) tls: Option<Tls>,
}

impl Roster {
    /// A roster that knows addresses only.
    pub(crate) fn new(
        cluster: ClusterId,
        node: NodeId,
        directory: DirectoryId,
        addresses: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Roster {
        let others = addresses.into_iter().filter(|(peer, _)| *peer != node);
        let peers = others.map(|(peer, addr)| (peer, (addr, None))).collect();
        Roster { cluster, node, directory, peers, founded: false, tls: None }
    }

    /// The same, with certificates: every connection is encrypted.
    pub(crate) fn with_tls(self, tls: Option<Tls>) -> Roster {
        Roster { tls, ..self }
    }

    /// The same, with the directories of the peers bound.
    pub(crate) fn bound(&self, bindings: &BTreeMap<NodeId, DirectoryId>, founded: bool) -> Roster {
        let mut roster = Roster { founded, ..self.clone() };
        for (node, (_, directory)) in &mut roster.peers {
            *directory = bindings.get(node).copied();
        }
        roster
    }

    /// All other nodes.
    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Where a peer is reached.
    pub(crate) fn addr(&self, peer: NodeId) -> Option<&str> {
        self.peers.get(&peer).map(|(addr, _)| addr.as_str())
    }

    /// What this node says of itself to `to`, or to anybody.
    pub(crate) fn hello(&self, to: Option<NodeId>, snapshot: bool) -> Hello {
        let directory = to.and_then(|to| self.peers.get(&to)).and_then(|(_, directory)| *directory);
        Hello {
            protocol: PROTOCOL_VERSION,
            cluster_id: self.cluster.as_bytes().to_vec(),
            node_id: self.node.get(),
            directory_id: self.directory.as_bytes().to_vec(),
            to_node_id: to.map_or(0, NodeId::get),
            to_directory_id: directory.map_or_else(Vec::new, |d| d.as_bytes().to_vec()),
            snapshot,
        }
    }

    /// Checks what a peer says of itself and of whom it means to reach.
    ///
    /// # Errors
    ///
    /// The refusal that the peer is answered with.
    pub(crate) fn check(&self, hello: &Hello) -> Result<(NodeId, DirectoryId), Refusal> {
        let refuse = |code: RefusalCode, message: String| Refusal { code: code as i32, message };
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "this node speaks protocol {PROTOCOL_VERSION} and the peer {}: upgrade the older",
                hello.protocol
            );
            return Err(refuse(RefusalCode::WrongProtocol, text));
        }
        if hello.cluster_id != self.cluster.as_bytes() {
            let text = format!(
                "node {} of cluster {} was reached by a node of another cluster: check the \
                 addresses given to `quorate format`",
                self.node, self.cluster
            );
            return Err(refuse(RefusalCode::WrongCluster, text));
        }
        let node = NodeId::new(hello.node_id).filter(|node| self.peers.contains_key(node));
        let (Some(node), Some(directory)) = (node, hello.directory()) else {
            let text = format!("node {} is no voter of this cluster", hello.node_id);
            return Err(refuse(RefusalCode::UnknownNode, text));
        };
        if hello.to_node_id != 0 && hello.to_node_id != self.node.get() {
            let text = format!(
                "this is node {}, not {}: check the addresses given to `quorate format`",
                self.node, hello.to_node_id
            );
            return Err(refuse(RefusalCode::WrongNode, text));
        }
        let bound = self.peers.get(&node).and_then(|(_, directory)| *directory);
        if bound.is_some_and(|bound| bound != directory) {
            return Err(self.replaced(node));
        }
        let means_us =
            hello.to_directory_id.is_empty() || hello.to_directory_id == self.directory.as_bytes();
        if !means_us {
            let text = format!("the peer knows node {} by another data directory", self.node);
            return Err(refuse(RefusalCode::Other, text));
        }
        Ok((node, directory))
    }

    fn replaced(&self, node: NodeId) -> Refusal {
        if self.founded {
            Refusal {
                code: RefusalCode::ReplacedDirectory as i32,
                message: format!(
                    "this cluster knows node {node} by another data directory: a wiped disk \
                     cannot come back as the voter it was; join it as a new member with `quorate \
                     format --join`"
                ),
            }
        } else {
            Refusal {
                code: RefusalCode::Other as i32,
                message: format!(
                    "node {node} was formatted again while the cluster was being founded: no \
                     voter has voted yet; format all voters anew"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn roster(n: u64, cluster: u8) -> Roster {
        let addresses = [1, 2, 3].map(|n| (node(n), format!("127.0.0.1:{n}")));
        let cluster = ClusterId::from_bytes([cluster; 16]);
        Roster::new(cluster, node(n), DirectoryId::from_bytes([n as u8; 16]), addresses)
    }

    fn code(result: Result<(NodeId, DirectoryId), Refusal>) -> RefusalCode {
        RefusalCode::try_from(result.unwrap_err().code).unwrap()
    }

    #[test]
    fn a_voter_of_the_same_cluster_is_let_in() {
        let hello = roster(2, 7).hello(Some(node(1)), false);
        let expected = (node(2), DirectoryId::from_bytes([2; 16]));
        assert_eq!(roster(1, 7).check(&hello).unwrap(), expected);
    }

    #[test]
    fn strangers_are_refused_each_for_its_reason() {
        let me = roster(1, 7);
        assert_eq!(code(me.check(&roster(2, 8).hello(None, false))), RefusalCode::WrongCluster);
        let hello = roster(2, 7).hello(Some(node(1)), false);
        let other = Hello { protocol: 9, ..hello.clone() };
        assert_eq!(code(me.check(&other)), RefusalCode::WrongProtocol);
        let other = Hello { node_id: 4, ..hello.clone() };
        assert_eq!(code(me.check(&other)), RefusalCode::UnknownNode);
        let other = Hello { node_id: 1, ..hello.clone() };
        assert_eq!(code(me.check(&other)), RefusalCode::UnknownNode);
        let other = Hello { to_node_id: 3, ..hello };
        assert_eq!(code(me.check(&other)), RefusalCode::WrongNode);
    }

    #[test]
    fn a_wiped_directory_is_refused_and_told_the_remedy() {
        let bindings = [2, 3].map(|n| (node(n), DirectoryId::from_bytes([n as u8 + 10; 16])));
        let hello = roster(2, 7).hello(Some(node(1)), false);
        let founded = roster(1, 7).bound(&bindings.into(), true);
        let refusal = founded.check(&hello).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ReplacedDirectory as i32);
        assert!(refusal.message.contains("--join"), "{}", refusal.message);
        let founding = roster(1, 7).bound(&bindings.into(), false);
        let refusal = founding.check(&hello).unwrap_err();
        assert!(refusal.message.contains("format all voters anew"), "{}", refusal.message);
    }
}
