//! [`Roster`]: who this node is, and which nodes it talks to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use quorate_engine::{ClusterId, DirectoryId, NodeId};

use super::tls::Tls;
use crate::frame::{Hello, PROTOCOL_VERSION, Refusal, RefusalCode};
use crate::guard::INDEX_MAX;
use crate::members::Members;

/// The roster as the transport's tasks see it; the loop replaces it when it learns more.
pub(crate) type SharedRoster = Arc<ArcSwap<Roster>>;

/// Who this node is, and whom it knows: by address, and by data directory once it knows that.
///
/// Whom a node talks to, the members of group 1 say: whoever is none there has no business with any
/// other group. A node that lags knows older members than its peers do. So each shows in its
/// handshake of which index of the log its members are, and a stranger is refused only by a node
/// that knows more than the stranger does.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) directory: DirectoryId,
    peers: BTreeMap<NodeId, Peer>,
    standing: Standing,
    /// The certificates of this node, where connections are encrypted.
    pub(crate) tls: Option<Tls>,
    /// Whether they may go without encryption to other hosts.
    pub(crate) allow_plaintext: bool,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    addr: String,
    /// Those that its members are bound to; two while one replaces the other, none while they are
    /// not known.
    directories: BTreeSet<DirectoryId>,
}

/// What this node knows of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The addresses of the initial voters; the directories that are bound are not for good yet.
    Founding,
    /// Nothing: it was formatted to join, and nobody has let it in.
    Outside,
    /// The members of group 1 as of this index of its log.
    Member { index: u64 },
}

impl Roster {
    /// A roster that knows the addresses of the initial voters only.
    pub(crate) fn founding(
        cluster: ClusterId,
        node: NodeId,
        directory: DirectoryId,
        addresses: impl IntoIterator<Item = (NodeId, String)>,
    ) -> Roster {
        let others = addresses.into_iter().filter(|(peer, _)| *peer != node);
        let peers = others.map(|(peer, addr)| (peer, Peer { addr, ..Peer::default() })).collect();
        Roster { peers, standing: Standing::Founding, ..Roster::outside(cluster, node, directory) }
    }

    /// The same, with certificates: every connection is encrypted. Without, only loopback is
    /// connected, unless `allow_plaintext` says otherwise.
    pub(crate) fn with_tls(self, tls: Option<Tls>, allow_plaintext: bool) -> Roster {
        Roster { tls, allow_plaintext, ..self }
    }

    /// A roster that knows nobody yet.
    pub(crate) fn outside(cluster: ClusterId, node: NodeId, directory: DirectoryId) -> Roster {
        let (peers, standing) = (BTreeMap::new(), Standing::Outside);
        Roster { cluster, node, directory, peers, standing, tls: None, allow_plaintext: false }
    }

    /// The same, with the directories of the initial voters as they were heard of.
    pub(crate) fn bound(&self, bindings: &BTreeMap<NodeId, DirectoryId>) -> Roster {
        let mut roster = self.clone();
        for (node, peer) in &mut roster.peers {
            peer.directories = bindings.get(node).copied().into_iter().collect();
        }
        roster
    }

    /// The same node among the members of group 1.
    pub(crate) fn among(&self, members: &Members) -> Roster {
        let mut peers: BTreeMap<NodeId, Peer> = BTreeMap::new();
        // Who has departed is needed still.
        let all = members.departed().iter().chain(members.iter());
        for member in all.filter(|member| member.node_id() != self.node) {
            let peer = peers.entry(member.node_id()).or_default();
            // In order of their ids, and those that have departed first: the newest one's address stays.
            peer.addr.clone_from(&member.addr);
            peer.directories.insert(member.binding.directory_id);
        }
        let standing = Standing::Member { index: members.index() };
        Roster { peers, standing, ..self.clone() }
    }

    /// Whether a connection without encryption may lead to this host.
    pub(crate) fn may_speak_plainly_to(&self, host: IpAddr) -> bool {
        self.allow_plaintext || host.to_canonical().is_loopback()
    }

    /// All other nodes that are talked to.
    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Whether a node is one of those that are talked to.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether a member on this node is bound to this directory.
    pub(super) fn binds(&self, node: NodeId, directory: DirectoryId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.directories.contains(&directory))
    }

    /// Where a peer is reached.
    pub(crate) fn addr(&self, peer: NodeId) -> Option<&str> {
        self.peers.get(&peer).map(|peer| peer.addr.as_str())
    }

    /// The index of the log of group 1 of which this node knows the members; 0 if of none.
    pub(crate) fn index(&self) -> u64 {
        match self.standing {
            Standing::Member { index } => index,
            Standing::Founding | Standing::Outside => 0,
        }
    }

    /// What this node says of itself to `to`, or to anybody.
    pub(crate) fn hello(&self, to: Option<NodeId>, snapshot: bool) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            cluster_id: self.cluster.as_bytes().to_vec(),
            node_id: self.node.get(),
            directory_id: self.directory.as_bytes().to_vec(),
            to_node_id: to.map_or(0, NodeId::get),
            snapshot,
            members_index: self.index(),
            joins: false,
        }
    }

    /// Checks what a peer says of itself and of whom it means to reach.
    ///
    /// # Errors
    ///
    /// The refusal that the peer is answered with.
    pub(crate) fn check(&self, hello: &Hello) -> Result<(NodeId, DirectoryId), Refusal> {
        let refuse = |code, message| Err(self.refusal(code, message));
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "this node speaks protocol {PROTOCOL_VERSION} and the peer {}: upgrade the older",
                hello.protocol
            );
            return refuse(RefusalCode::WrongProtocol, text);
        }
        if hello.cluster_id != self.cluster.as_bytes() {
            let text = format!(
                "node {} of cluster {} was reached by a node of another cluster: check the \
                 addresses given to `quorate format`",
                self.node, self.cluster
            );
            return refuse(RefusalCode::WrongCluster, text);
        }
        if hello.to_node_id != 0 && hello.to_node_id != self.node.get() {
            let text = format!(
                "this is node {}, not {}: check the addresses given to `quorate format`",
                self.node, hello.to_node_id
            );
            return refuse(RefusalCode::WrongNode, text);
        }
        let node = NodeId::new(hello.node_id);
        let (Some(node), Some(directory)) = (node, hello.directory()) else {
            let text = "a peer names no node, or no data directory".to_owned();
            return refuse(RefusalCode::UnknownNode, text);
        };
        // Whoever asks to join may be what is left of this very node.
        if hello.joins {
            return Ok((node, directory));
        }
        if node == self.node {
            let text = format!(
                "two nodes call themselves {node}: give every node an id and a data directory of \
                 its own"
            );
            return refuse(RefusalCode::UnknownNode, text);
        }
        let is_known = |peer: &Peer| peer.directories.contains(&directory);
        match (self.peers.get(&node), self.standing) {
            (Some(peer), _) if is_known(peer) => Ok((node, directory)),
            (Some(peer), Standing::Founding) if peer.directories.is_empty() => {
                Ok((node, directory))
            }
            (Some(_), Standing::Founding) => refuse(
                RefusalCode::Other,
                format!(
                    "node {node} was formatted again while the cluster was being founded: no \
                     voter has voted yet; format all voters anew"
                ),
            ),
            // No log comes to an index beyond that: nobody would ever know more.
            (_, Standing::Member { index })
                if (index + 1..INDEX_MAX).contains(&hello.members_index) =>
            {
                Ok((node, directory))
            }
            (Some(_), Standing::Member { .. }) => refuse(
                RefusalCode::ReplacedDirectory,
                format!(
                    "this cluster knows node {node} by another data directory: a wiped disk \
                     cannot come back as the voter it was; join it as a new member with `quorate \
                     format --join`"
                ),
            ),
            (None, Standing::Member { .. }) if hello.members_index > 0 => refuse(
                RefusalCode::Removed,
                format!(
                    "node {node} is no member of this cluster any more: to bring it back, join it \
                     as a new member with `quorate format --join`"
                ),
            ),
            (None, Standing::Founding | Standing::Member { .. }) => refuse(
                RefusalCode::UnknownNode,
                format!("node {node} is no member of this cluster"),
            ),
            (_, Standing::Outside) => {
                let text = "this node is no member itself yet: try again".to_owned();
                refuse(RefusalCode::Other, text)
            }
        }
    }

    /// The refusal of a peer by this node.
    pub(crate) fn refusal(&self, code: RefusalCode, message: String) -> Refusal {
        Refusal { code: code as i32, message, members_index: self.index() }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::ConfState;

    use super::*;
    use crate::change::{Change, Step};

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn directory(n: u64) -> DirectoryId {
        DirectoryId::from_bytes([n as u8; 16])
    }

    fn roster(n: u64, cluster: u8) -> Roster {
        let addresses = [1, 2, 3].map(|n| (node(n), format!("127.0.0.1:{n}")));
        let cluster = ClusterId::from_bytes([cluster; 16]);
        Roster::founding(cluster, node(n), directory(n), addresses)
    }

    /// Node `n` among the founders 1, 2 and 3, who have the directories 11, 12 and 13.
    fn member(n: u64, own: u64) -> Roster {
        let cluster = ClusterId::from_bytes([7; 16]);
        Roster::outside(cluster, node(n), directory(own)).among(&founders())
    }

    fn code(result: Result<(NodeId, DirectoryId), Refusal>) -> RefusalCode {
        RefusalCode::try_from(result.unwrap_err().code).unwrap()
    }

    #[test]
    fn a_voter_of_the_same_cluster_is_let_in() {
        let hello = roster(2, 7).hello(Some(node(1)), false);
        assert_eq!(roster(1, 7).check(&hello).unwrap(), (node(2), directory(2)));
        let hello = member(2, 12).hello(Some(node(1)), false);
        assert_eq!(member(1, 11).check(&hello).unwrap(), (node(2), directory(12)));
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
    fn without_certificates_no_other_host_is_spoken_to() {
        let plain = roster(1, 7);
        for host in ["127.0.0.1", "127.4.5.6", "::1", "::ffff:127.0.0.1"] {
            assert!(plain.may_speak_plainly_to(host.parse().unwrap()), "{host}");
        }
        let trusting = plain.clone().with_tls(None, true);
        for host in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"] {
            assert!(!plain.may_speak_plainly_to(host.parse().unwrap()), "{host}");
            assert!(trusting.may_speak_plainly_to(host.parse().unwrap()), "{host}");
        }
    }

    #[test]
    fn a_wiped_directory_is_refused_and_told_the_remedy() {
        let bindings = [2, 3].map(|n| (node(n), directory(n + 10)));
        let hello = roster(2, 7).hello(Some(node(1)), false);
        let refusal = member(1, 11).check(&hello).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ReplacedDirectory as i32);
        assert!(refusal.message.contains("--join"), "{}", refusal.message);
        let founding = roster(1, 7).bound(&bindings.into());
        let refusal = founding.check(&hello).unwrap_err();
        assert!(refusal.message.contains("format all voters anew"), "{}", refusal.message);
        // It may ask to be let in.
        let joins = Hello { joins: true, ..hello };
        assert_eq!(member(1, 11).check(&joins).unwrap(), (node(2), directory(2)));
    }

    /// To see it fail: leave the departed out of `among`.
    #[test]
    fn whoever_was_removed_is_heard_until_another_change_is_behind_its_removal() {
        let founders = founders();
        let remove = Change { steps: vec![Step::Remove(3)] };
        let two = ConfState::from((vec![1, 2], vec![]));
        let removed = founders.changed(&remove, two.clone(), 5);
        let sealed = removed.changed(&Change::default(), two, 6);
        let hello = Hello { members_index: 5, ..member(3, 13).hello(None, false) };
        let roster = member(1, 11).among(&removed);
        assert_eq!(roster.check(&hello).unwrap(), (node(3), directory(13)));
        assert_eq!((roster.addr(node(3)), roster.index()), (Some("127.0.0.1:3"), 5));
        let roster = roster.among(&sealed);
        let refusal = roster.check(&hello).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Removed as i32);
        assert!(refusal.members_index > hello.members_index, "so it is believed");
        assert_eq!(roster.addr(node(3)), None);
    }

    fn at(n: u64) -> String {
        format!("127.0.0.1:{n}")
    }

    fn founders() -> Members {
        Members::founding([1, 2, 3].map(|n| (node(n), directory(n + 10), at(n))))
    }

    #[test]
    fn whoever_knows_later_members_is_believed_and_whoever_knows_older_ones_is_told() {
        let hello = member(2, 99).hello(None, false);
        assert_eq!(code(member(1, 11).check(&hello)), RefusalCode::ReplacedDirectory);
        let later = Hello { members_index: 2, ..hello };
        assert_eq!(member(1, 11).check(&later).unwrap(), (node(2), directory(99)));
        let stranger = Hello { node_id: 9, members_index: 1, ..later.clone() };
        let refusal = member(1, 11).check(&stranger).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Removed as i32);
        assert_eq!(refusal.members_index, 1);
        let later = Hello { members_index: 2, ..stranger };
        assert_eq!(member(1, 11).check(&later).unwrap(), (node(9), directory(99)));
        let impossible = Hello { members_index: INDEX_MAX, ..later };
        assert_eq!(code(member(1, 11).check(&impossible)), RefusalCode::Removed);
    }
}
