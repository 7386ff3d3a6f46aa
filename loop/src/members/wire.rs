//! [`Members`] as bytes: in snapshots, and where a newcomer is told who the others are.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{DirectoryId, NodeId};
use raft::eraftpb::ConfState;

use super::{Binding, Member, Members, MembersError, Promotion};

#[derive(Clone, PartialEq, prost::Message)]
struct MembersWire {
    #[prost(message, repeated, tag = "1")]
    members: Vec<MemberWire>,
    #[prost(uint64, tag = "2")]
    next_member_id: u64,
    #[prost(message, repeated, tag = "3")]
    retired: Vec<MemberWire>,
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(message, repeated, tag = "5")]
    departed: Vec<MemberWire>,
    #[prost(bool, tag = "6")]
    took: bool,
}

/// A member as it is encoded, in snapshots, in changes of the membership and between nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MemberWire {
    #[prost(uint64, tag = "1")]
    member_id: u64,
    #[prost(uint64, tag = "2")]
    node_id: u64,
    #[prost(bytes = "vec", tag = "3")]
    directory_id: Vec<u8>,
    #[prost(string, tag = "4")]
    addr: String,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    /// 0 never, 1 when caught up, 2 replacing the member of the next field.
    #[prost(uint32, tag = "6")]
    promotion: u32,
    #[prost(uint64, tag = "7")]
    replaces: u64,
}

impl From<&Member> for MemberWire {
    fn from(member: &Member) -> Self {
        let (promotion, replaces) = match member.promotion {
            Promotion::Never => (0, 0),
            Promotion::WhenCaughtUp => (1, 0),
            Promotion::Replacing(id) => (2, id),
        };
        MemberWire {
            member_id: member.member_id,
            addr: member.addr.clone(),
            promotion,
            replaces,
            ..MemberWire::from(&member.binding)
        }
    }
}

impl From<&Binding> for MemberWire {
    fn from(binding: &Binding) -> Self {
        MemberWire {
            node_id: binding.node_id.get(),
            directory_id: binding.directory_id.as_bytes().to_vec(),
            incarnation: binding.incarnation,
            ..MemberWire::default()
        }
    }
}

impl MemberWire {
    /// A binding and an address, of somebody who is no member yet.
    pub(crate) fn of(binding: &Binding, addr: &str) -> Self {
        MemberWire { addr: addr.to_owned(), ..MemberWire::from(binding) }
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    pub(crate) fn binding(&self) -> Result<Binding, MembersError> {
        let directory_id = <[u8; 16]>::try_from(self.directory_id.as_slice())
            .map(DirectoryId::from_bytes)
            .map_err(|_| MembersError("a directory id is not 16 bytes".into()))?;
        let node_id =
            NodeId::new(self.node_id).ok_or_else(|| MembersError("a node id is zero".into()))?;
        Ok(Binding { node_id, directory_id, incarnation: self.incarnation })
    }

    pub(crate) fn member(&self) -> Result<Member, MembersError> {
        let promotion = match self.promotion {
            0 => Promotion::Never,
            1 => Promotion::WhenCaughtUp,
            2 => Promotion::Replacing(self.replaces),
            other => return Err(MembersError(format!("promotion {other} is unknown"))),
        };
        let (binding, addr) = (self.binding()?, self.addr.clone());
        Ok(Member { member_id: self.member_id, binding, addr, promotion })
    }
}

impl Members {
    /// Encodes the table; equal tables give equal bytes. The ConfState is not part of it.
    pub fn encode(&self) -> Bytes {
        let wire = MembersWire {
            members: self.iter().map(MemberWire::from).collect(),
            next_member_id: self.next_member_id,
            retired: self.retired.iter().map(MemberWire::from).collect(),
            index: self.index,
            departed: self.departed.iter().map(MemberWire::from).collect(),
            took: self.took,
        };
        wire.encode_to_vec().into()
    }

    /// Decodes what [`Members::encode`] wrote, beside the ConfState of the same snapshot.
    ///
    /// # Errors
    ///
    /// When the bytes are no member table, or one that names a member twice, or by an id that was not
    /// given.
    pub fn decode(bytes: &[u8], conf_state: ConfState) -> Result<Members, MembersError> {
        let wire = MembersWire::decode(bytes).map_err(|e| MembersError(e.to_string()))?;
        let mut by_id = BTreeMap::new();
        for m in &wire.members {
            let member = m.member()?;
            // An id that was not given yet would be given once more.
            let is_given = (1..wire.next_member_id).contains(&m.member_id);
            if !is_given || by_id.insert(m.member_id, member).is_some() {
                let text = format!("member id {} was not given, or is doubled", m.member_id);
                return Err(MembersError(text));
            }
        }
        let retired = wire.retired.iter().map(MemberWire::binding).collect::<Result<_, _>>()?;
        let departed = wire.departed.iter().map(MemberWire::member).collect::<Result<_, _>>()?;
        let MembersWire { next_member_id, index, took, .. } = wire;
        Ok(Members { by_id, next_member_id, retired, departed, took, conf_state, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_doubled_or_has_no_name_yet_is_refused() {
        let m = MemberWire {
            member_id: 1,
            node_id: 1,
            directory_id: vec![0; 16],
            ..Default::default()
        };
        for (members, next_member_id) in [(vec![m.clone(), m.clone()], 2), (vec![m.clone()], 1)] {
            let wire = MembersWire { members, next_member_id, ..Default::default() };
            let refused = Members::decode(&wire.encode_to_vec(), ConfState::default());
            assert!(refused.unwrap_err().to_string().contains("member id 1"));
        }
        let wire = MembersWire { members: vec![m], next_member_id: 2, ..Default::default() };
        assert!(Members::decode(&wire.encode_to_vec(), ConfState::default()).is_ok());
        assert!(Members::decode(&[0xff; 9], ConfState::default()).is_err());
    }
}
