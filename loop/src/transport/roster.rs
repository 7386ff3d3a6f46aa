//! [`Roster`]: who this node is, and which nodes it talks to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use quorate_engine::{ClusterId, DirectoryId, NodeId, check_address};

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
    /// Where this node is reached, as its operator says.
    advertise: Option<String>,
    /// Where this node is reached: as its operator says, or else as its table does.
    addr: String,
    peers: BTreeMap<NodeId, Peer>,
    acquaintances: VecDeque<Acquaintance>,
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

/// A node on an open connection that is not where this node's table has it, or not in the table at all,
/// and that shows members at least as late: it is answered where it says to be reached, or a node that
/// has missed a change of the members would learn of none any more. It counts for nothing else, and is
/// forgotten with its connection, or when this node's table says where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acquaintance {
    /// The connection on which it said so; each has another number.
    pub(crate) connection: u64,
    pub(crate) node: NodeId,
    pub(crate) directory: DirectoryId,
    /// Where it says to be reached.
    pub(crate) addr: String,
    /// The index of the log of group 1 of which it knows the members.
    pub(crate) members_index: u64,
}

/// Acquaintances that are kept, the latest: more than could lead or campaign before a node that lags
/// learns of them.
const ACQUAINTANCES_MAX: usize = 16;

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

    /// The same, of a node that its operator says is reached there, whatever its table has.
    pub(crate) fn advertised(self, advertise: Option<String>) -> Roster {
        Roster { addr: advertise.clone().unwrap_or_default(), advertise, ..self }
    }

    /// A roster that knows nobody yet.
    pub(crate) fn outside(cluster: ClusterId, node: NodeId, directory: DirectoryId) -> Roster {
        let (peers, standing) = (BTreeMap::new(), Standing::Outside);
        Roster {
            cluster,
            node,
            directory,
            advertise: None,
            addr: String::new(),
            peers,
            acquaintances: VecDeque::new(),
            standing,
            tls: None,
            allow_plaintext: false,
        }
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
        let own = members.of_node(self.node).map(|own| own.addr.clone());
        let mut roster = Roster {
            addr: self.advertise.clone().or(own).unwrap_or_default(),
            peers,
            standing: Standing::Member { index: members.index() },
            ..self.clone()
        };
        let addr_was = |node| self.peers.get(&node).map(|peer| &peer.addr);
        let has_moved = |met: &Acquaintance| {
            self.has_member(met)
                && roster.has_member(met)
                && roster.peers.get(&met.node).map(|peer| &peer.addr) == addr_was(met.node)
        };
        let needed = |met: &&Acquaintance| met.members_index > members.index() || has_moved(met);
        roster.acquaintances = self.acquaintances.iter().filter(needed).cloned().collect();
        roster
    }

    /// The same, when a node has connected and shown its members. `None` where that tells nothing: who
    /// knows less than this node is where the table has it, and who knows no more and is in no
    /// table is nobody.
    pub(crate) fn acquainted(&self, met: Acquaintance) -> Option<Roster> {
        let is_member = self.has_member(&met);
        let is_late =
            met.members_index > self.index() || (met.members_index == self.index() && is_member);
        // An index that no log comes to would never be overtaken.
        let is_possible = met.members_index < INDEX_MAX && met.node != self.node;
        if self.standing == Standing::Outside || !is_late || !is_possible {
            return None;
        }
        let is_there = self.peers.get(&met.node).is_some_and(|peer| peer.addr == met.addr);
        if is_there && !(is_member && self.is_acquainted(met.node)) {
            return None;
        }
        if !is_there && check_address(&met.addr).is_err() {
            return None;
        }
        let mut roster = self.clone();
        roster.acquaintances.retain(|other| other.node != met.node);
        if !is_there {
            if roster.acquaintances.len() == ACQUAINTANCES_MAX {
                roster.acquaintances.pop_front();
            }
            roster.acquaintances.push_back(met);
        }
        Some(roster)
    }

    /// The same, when this connection has ended, and who was met on it. `None` if nobody was.
    pub(crate) fn parted(&self, connection: u64) -> Option<(Roster, NodeId)> {
        let at = self.acquaintances.iter().position(|met| met.connection == connection)?;
        let mut roster = self.clone();
        let met = roster.acquaintances.remove(at)?;
        Some((roster, met.node))
    }

    fn has_member(&self, met: &Acquaintance) -> bool {
        self.peers.get(&met.node).is_some_and(|peer| peer.directories.contains(&met.directory))
    }

    fn is_acquainted(&self, node: NodeId) -> bool {
        self.acquaintances.iter().any(|met| met.node == node)
    }

    /// Whether a connection without encryption may lead to this host.
    pub(crate) fn may_speak_plainly_to(&self, host: IpAddr) -> bool {
        self.allow_plaintext || host.to_canonical().is_loopback()
    }

    /// All other nodes that are talked to.
    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        let met = self.acquaintances.iter().map(|met| met.node);
        self.peers.keys().copied().chain(met.filter(|node| !self.knows(*node)))
    }

    fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether it is the node it claims to be that was dialled: by its certificate, or because it is where
    /// the table has a member.
    pub(crate) fn believes(&self, node: NodeId) -> bool {
        self.tls.is_some() || (self.knows(node) && !self.is_acquainted(node))
    }

    /// Where a peer is reached.
    pub(crate) fn addr(&self, peer: NodeId) -> Option<&str> {
        let met = self.acquaintances.iter().find(|met| met.node == peer);
        let known = || self.peers.get(&peer).map(|peer| peer.addr.as_str());
        met.map(|met| met.addr.as_str()).or_else(known)
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
            addr: self.addr.clone(),
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
            (_, Standing::Member { index }) if hello.members_index > index => Ok((node, directory)),
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
    use crate::members::Member;

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

    /// Node `n`, which shows the members of this index at `addr`, on the connection 1.
    fn met(n: u64, directory_id: u64, addr: String, members_index: u64) -> Acquaintance {
        let (node, directory) = (node(n), directory(directory_id));
        Acquaintance { connection: 1, node, directory, addr, members_index }
    }

    fn founders() -> Members {
        Members::founding([1, 2, 3].map(|n| (node(n), directory(n + 10), at(n))))
    }

    fn peers(roster: &Roster) -> Vec<NodeId> {
        roster.peers().collect()
    }

    /// To see it fail: have `check` look at acquaintances, keep them all, or forget them at the next table.
    #[test]
    fn whoever_shows_later_members_is_answered_and_is_no_member_by_that() {
        let me = member(1, 11);
        assert_eq!(me.hello(None, false).addr, at(1));
        assert!(me.acquainted(met(9, 9, at(9), 1)).is_none(), "it knows no more");
        assert!(me.acquainted(met(9, 9, "nowhere".to_owned(), 7)).is_none());
        assert!(me.acquainted(met(9, 9, at(9), INDEX_MAX)).is_none(), "no log comes there");
        assert!(me.acquainted(met(2, 99, at(2), 7)).is_none(), "that is known");
        assert!(me.acquainted(met(1, 9, at(8), 7)).is_none(), "it is not this node");
        let outside = Roster::outside(me.cluster, node(1), directory(11));
        assert!(outside.acquainted(met(9, 9, at(9), 7)).is_none(), "this node knows nobody");
        let roster = me.acquainted(met(9, 9, at(9), 7)).unwrap();
        assert_eq!(peers(&roster), [node(2), node(3), node(9)]);
        assert_eq!((roster.addr(node(9)), roster.believes(node(9))), (Some("127.0.0.1:9"), false));
        let hello = Hello { node_id: 9, members_index: 1, ..member(2, 99).hello(None, false) };
        assert_eq!(code(roster.check(&hello)), RefusalCode::Removed);
        // A member that has moved is found, and is one member still.
        assert!(roster.believes(node(2)));
        let roster = roster.acquainted(met(2, 99, at(22), 7)).unwrap();
        assert_eq!(peers(&roster), [node(2), node(3), node(9)]);
        assert_eq!((roster.addr(node(2)), roster.believes(node(2))), (Some("127.0.0.1:22"), false));

        // Until this node knows as much.
        let all = founders().conf_state().clone();
        let between = roster.among(&founders().changed(&Change::default(), all.clone(), 6));
        assert_eq!(between.addr(node(9)), Some("127.0.0.1:9"));
        let latest = between.among(&founders().changed(&Change::default(), all, 7));
        assert_eq!((latest.addr(node(9)), latest.addr(node(2))), (None, Some("127.0.0.1:2")));

        let many = |me: Roster, n: u64| me.acquainted(met(n, 9, at(n), 7)).unwrap();
        let crowded = (10..40).fold(me, many);
        assert_eq!(peers(&crowded)[2..], (24..40).map(node).collect::<Vec<_>>(), "the latest");
    }

    /// To see it fail: have `parted` forget by node, or leave it out.
    #[test]
    fn an_acquaintance_ends_with_its_connection() {
        let roster = member(1, 11).acquainted(met(2, 99, at(22), 7)).unwrap();
        let again = Acquaintance { connection: 2, ..met(2, 99, at(23), 7) };
        let roster = roster.acquainted(again).unwrap();
        assert!(roster.parted(1).is_none(), "a newer connection took over");
        let (roster, node_2) = roster.parted(2).unwrap();
        assert_eq!((node_2, roster.addr(node(2))), (node(2), Some("127.0.0.1:2")));
        // Nor does a stranger keep the place of a member that is where it was.
        let roster = roster.acquainted(met(2, 99, at(22), 7)).unwrap();
        assert!(roster.acquainted(met(2, 99, at(2), 7)).is_none());
        let roster = roster.acquainted(met(2, 12, at(2), 1)).unwrap();
        assert_eq!(roster.addr(node(2)), Some("127.0.0.1:2"));
    }

    /// To see it fail: ask for later members of everybody, or forget all of that index in `among`.
    #[test]
    fn a_member_that_moved_is_answered_where_it_is() {
        let two = member(2, 12).advertised(Some(at(22))).among(&founders());
        let Hello { addr, members_index, .. } = two.hello(None, false);
        assert_eq!((addr.as_str(), members_index), ("127.0.0.1:22", 1));
        assert!(member(1, 11).acquainted(met(2, 99, addr.clone(), 1)).is_none(), "not a member");
        let roster = member(1, 11).acquainted(met(2, 12, addr.clone(), 1)).unwrap();
        assert_eq!(roster.addr(node(2)), Some("127.0.0.1:22"));
        assert!(!roster.believes(node(2)), "without a certificate it may be anybody");
        // Changes of others do not say where it is.
        let all = founders().conf_state().clone();
        let other = founders().changed(&Change::default(), all.clone(), 2);
        let roster = roster.among(&other);
        assert_eq!(roster.addr(node(2)), Some("127.0.0.1:22"));
        let moved = Member { addr: at(23), ..other.of_node(node(2)).unwrap().clone() };
        let moved = other.changed(&Change { steps: vec![Step::Update(moved)] }, all, 3);
        assert_eq!(roster.among(&moved).addr(node(2)), Some("127.0.0.1:23"));
        // One that founds the cluster still is not too early to meet anybody.
        let founder = self::roster(1, 7);
        let founding = founder.acquainted(met(2, 2, at(22), 5)).unwrap();
        assert_eq!(founding.among(&founders()).addr(node(2)), Some("127.0.0.1:22"));
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
    }
}
