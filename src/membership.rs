//! [`QuorumMember`]: who belongs to the quorum, and what an operator may ask of the membership.
//!
//! Every operation is carried out by the leader, whichever node is asked. What only means "not now"
//! (no leader is known, or another change is under way) is tried again within the operation's time;
//! what the leader looked at and refused is told at once.

use std::time::Duration;

use quorate_engine::{DirectoryId, NodeId, check_address};
use quorate_loop::{MemberChange, MemberRole, Members, MembershipError};
use tokio::time::{Instant, timeout_at};

use crate::caller::{self, Repeat};
use crate::error::{
    ChangeMembersError, ReadError, TransferError, Unavailable, UnknownReason, WriteError,
};
use crate::membership_desk::{changes_to_wire, refusal, transfer_refusal};
use crate::quorum::Quorum;
use crate::wire::{
    ChangeMembersRequest, MemberWire, MembersResponse, RequestKind, ResponseKind, RoleWire,
    SetAddressRequest, TransferRequest,
};

/// A member of the quorum, as the leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    /// The node.
    pub node_id: NodeId,
    /// The id that Raft knows the member by: given once, never used again.
    pub member_id: u64,
    /// The data directory that holds its votes and its log.
    pub directory_id: DirectoryId,
    /// Where its peers reach it, `HOST:PORT`.
    pub addr: String,
    /// Whether it votes.
    pub role: MemberRole,
    /// How many entries of the leader's log it has not acknowledged; `None` where only the leader
    /// would know.
    pub trails_leader_by: Option<u64>,
    /// How long ago it answered the leader last, in milliseconds, to a tick; `None` where only the
    /// leader would know, or where it has not answered this leader yet.
    pub last_contact_ms: Option<u64>,
}

/// A change of the members that is committed; of a dry run, one that would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersChanged {
    /// The log index at which it was committed; of a dry run, that of the present membership.
    pub index: u64,
    /// The members from then on; of a dry run, the present ones.
    pub members: Vec<QuorumMember>,
}

impl QuorumMember {
    /// All members of a table, without what only the leader knows.
    pub(crate) fn all_of(members: &Members) -> Vec<QuorumMember> {
        let row = |member: &quorate_loop::Member| {
            Some(QuorumMember {
                node_id: member.node_id(),
                member_id: member.member_id,
                directory_id: member.binding.directory_id,
                addr: member.addr.clone(),
                role: members.role(member.member_id)?,
                trails_leader_by: None,
                last_contact_ms: None,
            })
        };
        members.iter().filter_map(row).collect()
    }

    pub(crate) fn to_wire(&self) -> MemberWire {
        let role = match self.role {
            MemberRole::Voter => RoleWire::Voter,
            MemberRole::Learner => RoleWire::Learner,
            MemberRole::Observer => RoleWire::Observer,
        };
        MemberWire {
            member: self.member_id,
            trails_leader_by: self.trails_leader_by,
            last_contact_ms: self.last_contact_ms,
            node: self.node_id.get(),
            directory: self.directory_id.as_bytes().to_vec(),
            addr: self.addr.clone(),
            role: role as i32,
        }
    }

    /// `None` for what this version cannot read.
    fn of_wire(wire: MemberWire) -> Option<QuorumMember> {
        let role = match RoleWire::try_from(wire.role).ok()? {
            RoleWire::Voter => MemberRole::Voter,
            RoleWire::Learner => MemberRole::Learner,
            RoleWire::Observer => MemberRole::Observer,
            RoleWire::Unknown => return None,
        };
        Some(QuorumMember {
            node_id: NodeId::new(wire.node)?,
            member_id: wire.member,
            directory_id: DirectoryId::from_bytes(wire.directory.try_into().ok()?),
            addr: wire.addr,
            role,
            trails_leader_by: wire.trails_leader_by,
            last_contact_ms: wire.last_contact_ms,
        })
    }
}

impl MembersChanged {
    fn of_wire(wire: MembersResponse) -> Option<MembersChanged> {
        let MembersResponse { members, index } = wire;
        let members = members.into_iter().map(QuorumMember::of_wire).collect::<Option<_>>()?;
        Some(MembersChanged { index, members })
    }
}

impl Quorum {
    /// The members of the quorum with their lag, as the leader knows them: at least as of every
    /// change that was acknowledged before the call.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn members(&self) -> Result<Vec<QuorumMember>, ReadError> {
        let waited = self.config().operation_timeout();
        let members = caller::members(self.way(), waited).await?;
        let members = MembersChanged::of_wire(members).ok_or(ReadError::TimedOut { waited })?;
        Ok(members.members)
    }

    /// The members of the quorum as this node knows them, without their lag: it may be behind the
    /// others.
    pub fn members_here(&self) -> Vec<QuorumMember> {
        QuorumMember::all_of(&self.status().members)
    }

    /// Changes the roles of members, all at once: with several changes no state in between is ever
    /// in force. When it returns, the change is committed; this node knows of it, too, unless it
    /// lags until the time of an operation is up. A node is removed by asking another one. With `dry_run` nothing is
    /// changed, and what would be refused is.
    ///
    /// Not cancel safe: the change may be made afterwards.
    ///
    /// # Errors
    ///
    /// [`ChangeMembersError`]: what the leader refuses, a change that would lose the quorum say, is
    /// told at once. That no leader is known, and that another change is under way, only when the
    /// time of an operation is up.
    pub async fn change_members(
        &self,
        changes: Vec<MemberChange>,
        dry_run: bool,
    ) -> Result<MembersChanged, ChangeMembersError> {
        let own = self.identity().node_id;
        let leaves = !dry_run && changes.contains(&MemberChange::Remove(own));
        // The leader closes its connections to whom it has removed; the leader itself stays.
        if leaves && self.status().leader != Some(own) {
            let (reason, waited) = (Unavailable::Leaving, Duration::ZERO);
            return Err(ChangeMembersError::Unavailable { reason, waited });
        }
        let changes = changes_to_wire(&changes);
        let request = ChangeMembersRequest { changes, dry_run };
        self.change(RequestKind::ChangeMembers(request)).await
    }

    /// Tells the quorum that the member on `node` is reached at `addr` from now on.
    ///
    /// The node itself is to be started with that address. Not cancel safe: the change may be made
    /// afterwards; made twice it is the same as once.
    ///
    /// # Errors
    ///
    /// [`ChangeMembersError`].
    pub async fn set_address(
        &self,
        node: NodeId,
        addr: &str,
    ) -> Result<MembersChanged, ChangeMembersError> {
        let refuse =
            |reason| Err(ChangeMembersError::Address { node, addr: addr.to_owned(), reason });
        if let Err(reason) = check_address(addr) {
            return refuse(reason);
        }
        // An operator's slip rather than a race: so what this node knows is enough to tell.
        if self.members_here().iter().any(|it| it.addr == addr && it.node_id != node) {
            return refuse("another member is reached there");
        }
        let request = SetAddressRequest { node: node.get(), addr: addr.to_owned() };
        self.change(RequestKind::SetAddress(request)).await
    }

    async fn change(&self, request: RequestKind) -> Result<MembersChanged, ChangeMembersError> {
        let started = Instant::now();
        let deadline = started + self.config().operation_timeout();
        let unreadable = || ChangeMembersError::Unknown { reason: UnknownReason::Unreadable };
        // Twice is not the same as once: after it was made, it would be refused.
        let answer = caller::ask(self.way(), request, Repeat::Never, started, deadline).await?;
        let changed = match answer {
            ResponseKind::MembersChanged(changed) => {
                MembersChanged::of_wire(changed).ok_or_else(unreadable)?
            }
            ResponseKind::MembersRefused(refused) => {
                let refused: Option<MembershipError> = refusal(&refused);
                return Err(refused.map_or_else(unreadable, ChangeMembersError::Refused));
            }
            _ => return Err(unreadable()),
        };
        let mut status = self.watch_status();
        let known = status
            .wait_for(|status| status.fatal.is_some() || status.members.index() >= changed.index);
        // Committed it is, whether it is known here in time or not.
        let _ = timeout_at(deadline, known).await;
        Ok(changed)
    }

    /// Hands leadership over to the voter on the node `to`, or else to the most advanced one, and
    /// waits until it has moved. Returns who leads then; this node knows it, too. Where `to` leads
    /// already, nothing is to be done. Meanwhile, for an election timeout at most, the leader refuses
    /// changes.
    ///
    /// Not cancel safe: leadership may move afterwards.
    ///
    /// # Errors
    ///
    /// [`TransferError`].
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let started = Instant::now();
        let deadline = started + self.config().operation_timeout();
        let before = self.status().leader;
        // To a node that is named twice is the same as once.
        let repeat = if to.is_some() { Repeat::Harmless } else { Repeat::Never };
        let request = RequestKind::TransferLeadership(TransferRequest { to: to.map(NodeId::get) });
        let answer = caller::ask(self.way(), request, repeat, started, deadline).await;
        let unreadable = || TransferError::Unknown { reason: UnknownReason::Unreadable };
        let leader = match answer {
            Ok(ResponseKind::Transferred(leader)) => NodeId::new(leader).ok_or_else(unreadable)?,
            Ok(ResponseKind::TransferRefused(refused)) => {
                return Err(transfer_refusal(&refused, to).unwrap_or_else(unreadable));
            }
            Ok(_) => return Err(unreadable()),
            // The old leader did not live to tell; who leads now is known all the same.
            Err(WriteError::Unknown { reason: UnknownReason::LeadershipLost }) => {
                match self.status().leader.filter(|now| before.is_some_and(|was| was != *now)) {
                    Some(leader) => leader,
                    None => {
                        let reason = UnknownReason::LeadershipLost;
                        return Err(TransferError::Unknown { reason });
                    }
                }
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(wanted) = to.filter(|wanted| *wanted != leader) {
            return Err(TransferError::AnotherLeads { wanted, leader });
        }
        let mut status = self.watch_status();
        let known =
            status.wait_for(|status| status.fatal.is_some() || status.leader == Some(leader));
        // It has moved, whether that is known here in time or not.
        let _ = timeout_at(deadline, known).await;
        Ok(leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_was_written_and_nothing_is_guessed() {
        let member = QuorumMember {
            node_id: NodeId::new(4).unwrap(),
            member_id: 9,
            directory_id: DirectoryId::from_bytes([7; 16]),
            addr: "127.0.0.1:9104".to_owned(),
            role: MemberRole::Learner,
            trails_leader_by: Some(3),
            last_contact_ms: None,
        };
        assert_eq!(QuorumMember::of_wire(member.to_wire()), Some(member.clone()));
        for spoil in [
            |wire: &mut MemberWire| wire.node = 0,
            |wire: &mut MemberWire| wire.role = 0,
            |wire: &mut MemberWire| wire.role = 99,
            |wire: &mut MemberWire| wire.directory.clear(),
        ] {
            let mut wire = member.to_wire();
            spoil(&mut wire);
            assert_eq!(QuorumMember::of_wire(wire.clone()), None, "{wire:?}");
        }
    }
}
