//! [`Members`]: who belongs to a group, and which data directory stands behind each member.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{DirectoryId, NodeId};

/// One member of a group, bound to one data directory.
///
/// Raft knows members by `member_id`, which is given once to a (node, directory) and never again:
/// raft-rs keeps what it knows about an id for as long as the id lives, and would take a wiped
/// disk under an old id for one that still holds everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Raft's name for the member; at the founding it equals the node id.
    pub member_id: u64,
    /// The node.
    pub node_id: NodeId,
    /// The data directory that holds this member's votes and log.
    pub directory_id: DirectoryId,
    /// Where its peers reach it, `HOST:PORT`.
    pub addr: String,
}

/// The member table of a group: part of its replicated state, carried in every snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    by_id: BTreeMap<u64, Member>,
    next_member_id: u64,
}

/// The member table of a snapshot could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the member table cannot be read ({0}): the snapshot is damaged, or written by a newer version"
)]
pub struct MembersError(String);

#[derive(Clone, PartialEq, prost::Message)]
struct MembersWire {
    #[prost(message, repeated, tag = "1")]
    members: Vec<MemberWire>,
    #[prost(uint64, tag = "2")]
    next_member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MemberWire {
    #[prost(uint64, tag = "1")]
    member_id: u64,
    #[prost(uint64, tag = "2")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "3")]
    directory_id: Vec<u8>,
    #[prost(string, tag = "4")]
    addr: String,
}

impl Members {
    /// The founding table: every voter's member id is its node id.
    ///
    /// The counter of member ids starts above the highest of them, so that no later member is
    /// ever mistaken for a founder.
    pub fn founding(voters: impl IntoIterator<Item = (NodeId, DirectoryId, String)>) -> Members {
        let by_id: BTreeMap<u64, Member> = voters
            .into_iter()
            .map(|(node_id, directory_id, addr)| {
                let member_id = node_id.get();
                (member_id, Member { member_id, node_id, directory_id, addr })
            })
            .collect();
        let next_member_id = by_id.keys().next_back().map_or(1, |id| id + 1);
        Members { by_id, next_member_id }
    }

    /// The founding table of another group, with these nodes as its voters. Each keeps its member id,
    /// which stands for one directory and for no other.
    ///
    /// # Errors
    ///
    /// A node that is no member here.
    pub(crate) fn founding_of(&self, voters: &[NodeId]) -> Result<Members, NodeId> {
        let of_node = |node: &NodeId| self.of_node(*node).ok_or(*node);
        let members: Vec<&Member> = voters.iter().map(of_node).collect::<Result<_, _>>()?;
        let by_id: BTreeMap<u64, Member> =
            members.into_iter().map(|member| (member.member_id, member.clone())).collect();
        let next_member_id = by_id.keys().next_back().map_or(1, |id| id + 1);
        Ok(Members { by_id, next_member_id })
    }

    /// The member that Raft calls `member_id`.
    pub fn get(&self, member_id: u64) -> Option<&Member> {
        self.by_id.get(&member_id)
    }

    /// The member that runs on `node`.
    pub fn of_node(&self, node: NodeId) -> Option<&Member> {
        self.by_id.values().find(|member| member.node_id == node)
    }

    /// All members, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether the group has no member; true only before its founding.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Encodes the table; equal tables give equal bytes.
    pub fn encode(&self) -> Bytes {
        let wire = MembersWire {
            members: self
                .iter()
                .map(|m| MemberWire {
                    member_id: m.member_id,
                    node_id: m.node_id.get(),
                    directory_id: m.directory_id.as_bytes().to_vec(),
                    addr: m.addr.clone(),
                })
                .collect(),
            next_member_id: self.next_member_id,
        };
        wire.encode_to_vec().into()
    }

    /// Decodes what [`Members::encode`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are no member table, or one that names a member twice.
    pub fn decode(bytes: &[u8]) -> Result<Members, MembersError> {
        let wire = MembersWire::decode(bytes).map_err(|e| MembersError(e.to_string()))?;
        let mut by_id = BTreeMap::new();
        for m in wire.members {
            let directory_id = <[u8; 16]>::try_from(m.directory_id.as_slice())
                .map(DirectoryId::from_bytes)
                .map_err(|_| MembersError("a directory id is not 16 bytes".into()))?;
            let node_id =
                NodeId::new(m.node_id).ok_or_else(|| MembersError("a node id is zero".into()))?;
            let member = Member { member_id: m.member_id, node_id, directory_id, addr: m.addr };
            if m.member_id == 0 || by_id.insert(m.member_id, member).is_some() {
                return Err(MembersError(format!("member id {} is zero or doubled", m.member_id)));
            }
        }
        Ok(Members { by_id, next_member_id: wire.next_member_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Members {
        Members::founding([1u64, 2, 7].map(|n| {
            let node = NodeId::new(n).unwrap();
            (node, DirectoryId::from_bytes([n as u8; 16]), format!("127.0.0.1:{n}"))
        }))
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let members = three();
        assert_eq!(Members::decode(&members.encode()).unwrap(), members);
        assert_eq!(members.next_member_id, 8);
        assert_eq!(members.of_node(NodeId::new(7).unwrap()).unwrap().member_id, 7);
    }

    #[test]
    fn a_doubled_member_is_refused() {
        let m =
            MemberWire { member_id: 1, node_id: 1, directory_id: vec![0; 16], addr: String::new() };
        let bytes = MembersWire { members: vec![m.clone(), m], next_member_id: 2 }.encode_to_vec();
        assert!(Members::decode(&bytes).unwrap_err().to_string().contains("doubled"));
        assert!(Members::decode(&[0xff; 9]).is_err());
    }
}
