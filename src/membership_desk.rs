//! Owns what the leader does with requests about the membership, and how its refusals travel.
//!
//! The loop below checks a change against what it knows and proposes it in one step, so there is no
//! gap between the two. Here its answer is put into words that another node can act on: surely
//! without effect and worth another try, refused, or unknown.

use std::time::Duration;

use quorate_engine::NodeId;
use quorate_loop::{Liveness, MemberChange, MembershipError, MembershipRequest, Node, Role};
use quorate_statemachine::Metadata;
use tokio::time::timeout;

use crate::desk::confirm;
use crate::error::TransferError;
use crate::membership::QuorumMember;
use crate::wire::{
    ChangeKind, ChangeMembersRequest, Doubt, MemberChangeWire, MembersRefusal,
    MembersRefusedResponse, MembersResponse, Refusal, Response, ResponseKind, SetAddressRequest,
    TransferRefusal, TransferRefusedResponse,
};

/// The members and their lag, once this node was confirmed as the leader.
pub(crate) async fn list(node: &Node<Metadata>) -> Response {
    if let Err(refusal) = confirm(node).await {
        return refusal.into();
    }
    let answers = node.last_answers().await;
    let status = node.status();
    if status.role != Role::Leader {
        return Refusal::NotLeader.into();
    }
    let mut members = QuorumMember::all_of(&status.members);
    for member in &mut members {
        let matched = status.matched.iter().find(|(id, _)| *id == member.member_id);
        let answer = answers.iter().find(|answer| answer.member_id == member.member_id);
        member.trails_leader_by =
            matched.map(|(_, matched)| status.last_index.saturating_sub(*matched));
        member.last_contact_ms = answer
            .and_then(|it| it.ago)
            .map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
    }
    ResponseKind::Progress(response(&members, status.members.index())).into()
}

fn response(members: &[QuorumMember], index: u64) -> MembersResponse {
    MembersResponse { members: members.iter().map(QuorumMember::to_wire).collect(), index }
}

/// Changes roles, all at once.
pub(crate) async fn change(node: &Node<Metadata>, request: &ChangeMembersRequest) -> Response {
    let changes: Option<Vec<MemberChange>> = request.changes.iter().map(change_of_wire).collect();
    let Some(changes) = changes else { return Refusal::Unsupported.into() };
    carry_out(node, MembershipRequest::Change(changes), request.dry_run).await
}

/// Changes where a member is reached.
pub(crate) async fn set_address(node: &Node<Metadata>, request: SetAddressRequest) -> Response {
    let SetAddressRequest { node: id, addr } = request;
    let Some(id) = NodeId::new(id) else { return Refusal::Unsupported.into() };
    carry_out(node, MembershipRequest::Address { node: id, addr }, false).await
}

async fn carry_out(node: &Node<Metadata>, request: MembershipRequest, dry_run: bool) -> Response {
    match node.change_membership(request, dry_run).await {
        Ok(changed) => {
            let members = QuorumMember::all_of(&changed.members);
            ResponseKind::MembersChanged(response(&members, changed.index)).into()
        }
        Err(error) => refused(node, &error),
    }
}

fn refused(node: &Node<Metadata>, error: &MembershipError) -> Response {
    let refused = |code: MembersRefusal, node: Option<&NodeId>| MembersRefusedResponse {
        code: code as i32,
        node: node.map_or(0, |node| node.get()),
        ..MembersRefusedResponse::default()
    };
    let wire = match error {
        MembershipError::NotLeader { .. } => return Refusal::NotLeader.into(),
        MembershipError::Pending => return Refusal::ChangePending.into(),
        MembershipError::Overloaded if node.status().storage_full => {
            return Refusal::StorageFull.into();
        }
        MembershipError::Overloaded => return Refusal::Overloaded.into(),
        MembershipError::NoMember(node) => refused(MembersRefusal::NoMember, Some(node)),
        MembershipError::NoChange(node) => refused(MembersRefusal::NoChange, Some(node)),
        MembershipError::Unsound => refused(MembersRefusal::Unsound, None),
        MembershipError::NotCaughtUp { node, behind } => MembersRefusedResponse {
            behind: *behind,
            ..refused(MembersRefusal::NotCaughtUp, Some(node))
        },
        MembershipError::WouldLoseQuorum { voters, live, needed } => MembersRefusedResponse {
            voters: *voters as u64,
            live: *live as u64,
            needed: *needed as u64,
            ..refused(MembersRefusal::WouldLoseQuorum, None)
        },
        MembershipError::LastVoter => refused(MembersRefusal::LastVoter, None),
        MembershipError::Leads(node) => refused(MembersRefusal::Leads, Some(node)),
        MembershipError::StillActive(node) => refused(MembersRefusal::StillActive, Some(node)),
        MembershipError::Retired(node) => refused(MembersRefusal::Retired, Some(node)),
        // It was proposed, and this node does not lead any more, stops, or is too slow.
        _ if node.status().role == Role::Leader => return Doubt::TimedOut.into(),
        _ => return Doubt::LeadershipLost.into(),
    };
    ResponseKind::MembersRefused(wire).into()
}

/// What a refusal says; `None` for one that this version does not know.
pub(crate) fn refusal(wire: &MembersRefusedResponse) -> Option<MembershipError> {
    let node = || NodeId::new(wire.node);
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Some(match MembersRefusal::try_from(wire.code).ok()? {
        MembersRefusal::Unknown => return None,
        MembersRefusal::NoMember => MembershipError::NoMember(node()?),
        MembersRefusal::NoChange => MembershipError::NoChange(node()?),
        MembersRefusal::Unsound => MembershipError::Unsound,
        MembersRefusal::NotCaughtUp => {
            MembershipError::NotCaughtUp { node: node()?, behind: wire.behind }
        }
        MembersRefusal::WouldLoseQuorum => MembershipError::WouldLoseQuorum {
            voters: count(wire.voters),
            live: count(wire.live),
            needed: count(wire.needed),
        },
        MembersRefusal::LastVoter => MembershipError::LastVoter,
        MembersRefusal::Leads => MembershipError::Leads(node()?),
        MembersRefusal::StillActive => MembershipError::StillActive(node()?),
        MembersRefusal::Retired => MembershipError::Retired(node()?),
    })
}

pub(crate) fn changes_to_wire(changes: &[MemberChange]) -> Vec<MemberChangeWire> {
    let to_wire = |change: &MemberChange| {
        let kind = match change {
            MemberChange::Add(_) => ChangeKind::Add,
            MemberChange::Promote(_) => ChangeKind::Promote,
            MemberChange::Demote(_) => ChangeKind::Demote,
            MemberChange::Remove(_) => ChangeKind::Remove,
        };
        MemberChangeWire { kind: kind as i32, node: change.node().get() }
    };
    changes.iter().map(to_wire).collect()
}

/// `None` for a change that this version does not know, and for one of no node.
fn change_of_wire(wire: &MemberChangeWire) -> Option<MemberChange> {
    let node = NodeId::new(wire.node)?;
    Some(match ChangeKind::try_from(wire.kind).ok()? {
        ChangeKind::Unknown => return None,
        ChangeKind::Add => MemberChange::Add(node),
        ChangeKind::Promote => MemberChange::Promote(node),
        ChangeKind::Demote => MemberChange::Demote(node),
        ChangeKind::Remove => MemberChange::Remove(node),
    })
}

/// Hands leadership over, and answers when it has moved, or when it has not for `patience`.
///
/// While raft-rs hands over it takes no proposals, so nobody is asked who would surely not answer.
pub(crate) async fn transfer(
    node: &Node<Metadata>,
    to: Option<u64>,
    patience: Duration,
) -> Response {
    let own = node.identity().node_id;
    let Ok(to) = to.map(|to| NodeId::new(to).ok_or(())).transpose() else {
        return Refusal::Unsupported.into();
    };
    let answers = node.last_answers().await;
    let mut watch = node.watch_status();
    let members = {
        let status = watch.borrow_and_update();
        if status.role != Role::Leader {
            return Refusal::NotLeader.into();
        }
        status.members.clone()
    };
    if to == Some(own) {
        return ResponseKind::Transferred(own.get()).into();
    }
    // A new leader has not heard of everyone, and finds out by handing over.
    let is_silent =
        |id: u64| !answers.iter().any(|it| it.member_id == id && it.liveness != Liveness::Silent);
    let obstacle = match to.map(|to| members.of_node(to)) {
        Some(None) => Some(TransferRefusal::NoMember),
        Some(Some(member)) if !members.is_voter(member.member_id) => Some(TransferRefusal::NoVote),
        Some(Some(member)) => is_silent(member.member_id).then_some(TransferRefusal::Silent),
        None => {
            let could_lead = |member: &quorate_loop::Member| {
                let id = member.member_id;
                member.node_id() != own && members.is_voter(id) && !is_silent(id)
            };
            (!members.iter().any(could_lead)).then_some(TransferRefusal::NoSuccessor)
        }
    };
    if let Some(obstacle) = obstacle {
        return not_transferred(obstacle, to);
    }
    node.transfer_leadership(to);
    let moved = watch.wait_for(|status| {
        status.fatal.is_some() || status.leader.is_some_and(|leader| leader != own)
    });
    let leader = timeout(patience, moved).await.map(|moved| moved.map(|status| status.leader));
    match leader {
        Ok(Ok(Some(leader))) => ResponseKind::Transferred(leader.get()).into(),
        Ok(Ok(None) | Err(_)) => Doubt::Stopped.into(),
        Err(_) if node.status().role == Role::Leader => {
            not_transferred(TransferRefusal::NotTaken, to)
        }
        Err(_) => Doubt::LeadershipLost.into(),
    }
}

fn not_transferred(code: TransferRefusal, to: Option<NodeId>) -> Response {
    let node = to.map_or(0, NodeId::get);
    ResponseKind::TransferRefused(TransferRefusedResponse { code: code as i32, node }).into()
}

/// What a refusal to hand over to `to` says; `None` for one that this version does not know.
pub(crate) fn transfer_refusal(
    wire: &TransferRefusedResponse,
    to: Option<NodeId>,
) -> Option<TransferError> {
    Some(match TransferRefusal::try_from(wire.code).ok()? {
        TransferRefusal::Unknown => return None,
        TransferRefusal::NoMember => TransferError::NoMember(to?),
        TransferRefusal::NoVote => TransferError::NoVote(to?),
        TransferRefusal::Silent => TransferError::Silent(to?),
        TransferRefusal::NoSuccessor => TransferError::NoSuccessor,
        TransferRefusal::NotTaken => TransferError::NotTaken(to),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn changes_are_read_as_they_were_written_and_nothing_is_guessed() {
        let changes = [
            MemberChange::Add(node(4)),
            MemberChange::Promote(node(5)),
            MemberChange::Demote(node(6)),
            MemberChange::Remove(node(7)),
        ];
        let wire = changes_to_wire(&changes);
        assert_eq!(wire.iter().map(|it| it.kind).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let read: Option<Vec<_>> = wire.iter().map(change_of_wire).collect();
        assert_eq!(read.unwrap(), changes);
        for (kind, node) in [(0, 4), (5, 4), (4, 0)] {
            assert_eq!(change_of_wire(&MemberChangeWire { kind, node }), None);
        }
    }

    #[test]
    fn a_refusal_is_read_whole_and_one_of_a_later_version_is_not_guessed() {
        let wire = MembersRefusedResponse {
            code: MembersRefusal::WouldLoseQuorum as i32,
            voters: 3,
            live: 1,
            needed: 2,
            ..MembersRefusedResponse::default()
        };
        let lost = MembershipError::WouldLoseQuorum { voters: 3, live: 1, needed: 2 };
        assert_eq!(refusal(&wire), Some(lost));
        let wire = MembersRefusedResponse { code: MembersRefusal::Leads as i32, node: 2, ..wire };
        assert_eq!(refusal(&wire), Some(MembershipError::Leads(node(2))));
        assert_eq!(refusal(&MembersRefusedResponse { node: 0, ..wire }), None);
        assert_eq!(refusal(&MembersRefusedResponse { code: 99, ..wire }), None);
        assert_eq!(refusal(&MembersRefusedResponse::default()), None);
        let silent = TransferRefusedResponse { code: TransferRefusal::Silent as i32, node: 3 };
        let refused = transfer_refusal(&silent, Some(node(3)));
        assert_eq!(refused, Some(TransferError::Silent(node(3))));
        assert_eq!(transfer_refusal(&TransferRefusedResponse { code: 9, node: 3 }, None), None);
    }
}
