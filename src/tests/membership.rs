//! Who belongs to the quorum, changed through whichever node.

use quorate_loop::{MemberChange, MemberRole, MembershipError};

use super::*;
use crate::{ChangeMembersError, QuorumMember, TransferError};

fn node(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn voters(members: &[QuorumMember]) -> BTreeSet<u64> {
    let voters = members.iter().filter(|member| member.role == MemberRole::Voter);
    voters.map(|member| member.node_id.get()).collect()
}

/// Waits until the leader knows all of these to be alive.
async fn until_all_answer(quorum: &Quorum, nodes: &[u64]) -> Vec<QuorumMember> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = quorum.members().await.unwrap();
        let answers = |n: &u64| {
            let member = members.iter().find(|member| member.node_id.get() == *n);
            member.is_some_and(|member| member.last_contact_ms.is_some_and(|ms| ms < 200))
        };
        if nodes.iter().all(answers) {
            return members;
        }
        assert!(Instant::now() < deadline, "{members:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_changed_through_any_node_and_refusals_are_told_at_once() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let [first, second] = [1, 2].map(|step| (leader + step - 1) % 3 + 1);
    let quorum = cluster.nodes[&first].clone();
    let members = until_all_answer(&quorum, &[1, 2, 3]).await;
    assert_eq!(voters(&members), BTreeSet::from([1, 2, 3]));
    assert!(members.iter().all(|it| it.trails_leader_by.is_some()), "{members:?}");
    let here = quorum.members_here();
    assert_eq!(voters(&here), voters(&members));
    assert!(here.iter().all(|it| it.trails_leader_by.is_none()));

    // Refused, with the leader's own words, and long before the time of an operation is up.
    let asked = Instant::now();
    for (changes, refused) in [
        (vec![MemberChange::Demote(node(leader))], MembershipError::Leads(node(leader))),
        (vec![MemberChange::Remove(node(9))], MembershipError::NoMember(node(9))),
        (vec![MemberChange::Promote(node(second))], MembershipError::NoChange(node(second))),
        (vec![], MembershipError::Unsound),
    ] {
        let error = quorum.change_members(changes, false).await.unwrap_err();
        assert_eq!(error, ChangeMembersError::Refused(refused));
        assert_eq!(error.kind(), ErrorKind::Rejected);
    }
    let error = quorum.set_address(node(second), "nowhere").await.unwrap_err();
    assert!(matches!(error, ChangeMembersError::Address { .. }), "{error}");
    let taken = cluster.addrs[&leader].to_string();
    let error = quorum.set_address(node(second), &taken).await.unwrap_err();
    assert!(error.to_string().contains("another member"), "{error}");
    assert!(asked.elapsed() < quorum.config().operation_timeout());

    // Only asked.
    let before = quorum.status().last_index;
    let asked = quorum.change_members(vec![MemberChange::Remove(node(second))], true).await;
    assert_eq!(voters(&asked.unwrap().members), BTreeSet::from([1, 2, 3]));
    assert_eq!(quorum.status().last_index, before);

    // One of three loses its vote, and is told so; whoever asked sees it, too.
    let changed = quorum.change_members(vec![MemberChange::Demote(node(second))], false).await;
    let changed = changed.unwrap();
    assert_eq!(voters(&changed.members), BTreeSet::from([leader, first]));
    assert_eq!(voters(&quorum.members_here()), BTreeSet::from([leader, first]));
    cluster.nodes[&second].wait(PATIENCE).role(Role::Observer).await.unwrap();
    assert_eq!(cluster.nodes[&second].readiness(), Ok(()));
    let error = quorum.transfer_leadership(Some(node(second))).await.unwrap_err();
    assert_eq!(error, TransferError::NoVote(node(second)));
    let error = quorum.transfer_leadership(Some(node(9))).await.unwrap_err();
    assert_eq!(error, TransferError::NoMember(node(9)));

    // Two at once: one joint change, and what is told is what is left of it.
    until_all_answer(&quorum, &[1, 2, 3]).await;
    let swap = vec![MemberChange::Promote(node(second)), MemberChange::Remove(node(first))];
    let error = quorum.change_members(swap.clone(), false).await.unwrap_err();
    let leaving = |error: &ChangeMembersError| {
        matches!(error, ChangeMembersError::Unavailable { reason: Unavailable::Leaving, .. })
    };
    assert!(leaving(&error), "{error}");
    let changed = cluster.nodes[&second].change_members(swap, false).await.unwrap();
    assert_eq!(voters(&changed.members), BTreeSet::from([leader, second]));
    assert_eq!(changed.members.len(), 2);

    let moved = "127.0.0.1:9".to_owned();
    let changed = cluster.nodes[&second].set_address(node(second), &moved).await.unwrap();
    assert_eq!(changed.members.iter().find(|it| it.node_id == node(second)).unwrap().addr, moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_to_whom_it_was_asked_for() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let [first, second] = [1, 2].map(|step| (leader + step - 1) % 3 + 1);
    let quorum = cluster.nodes[&first].clone();
    until_all_answer(&quorum, &[1, 2, 3]).await;
    // Through a node that is neither of the two.
    assert_eq!(quorum.transfer_leadership(Some(node(second))).await, Ok(node(second)));
    assert_eq!(quorum.status().leader, Some(node(second)));
    cluster.nodes[&second].wait(PATIENCE).role(Role::Leader).await.unwrap();
    // Said again, nothing moves.
    let term = quorum.status().term;
    assert_eq!(quorum.transfer_leadership(Some(node(second))).await, Ok(node(second)));
    assert_eq!(quorum.status().term, term);
    // To anybody, through the leader itself.
    until_all_answer(&quorum, &[1, 2, 3]).await;
    let next = cluster.nodes[&second].transfer_leadership(None).await.unwrap();
    assert_ne!(next, node(second));
    // To one that is gone: refused, and whoever leads goes on.
    let gone = (1..=3).find(|n| node(*n) != next && node(*n) != quorum.identity().node_id).unwrap();
    let asked = cluster.nodes[&next.get()].clone();
    until_all_answer(&asked, &[1, 2, 3]).await;
    cluster.stop(gone).await;
    let refused = async {
        loop {
            let members = asked.members().await.unwrap();
            let silent = members.iter().find(|it| it.node_id == node(gone)).unwrap();
            if silent.last_contact_ms.is_some_and(|ms| ms > 1_000) {
                break asked.transfer_leadership(Some(node(gone))).await;
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused, Err(TransferError::Silent(node(gone))));
    assert_eq!(asked.status().leader, Some(next));
}

/// To see it fail: have `caller::refused` take `ChangePending` for final.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_wait_for_one_another() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    until_all_answer(&cluster.nodes[&1], &[1, 2, 3]).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 1..=3u64 {
        for port in 1..=4 {
            // Through all nodes, and each of them another's address.
            let quorum = cluster.nodes[&n].clone();
            let addr = format!("127.0.0.1:{n}{port}");
            calls.spawn(async move { quorum.set_address(node(n % 3 + 1), &addr).await });
        }
    }
    let indexes: BTreeSet<u64> =
        calls.join_all().await.into_iter().map(|changed| changed.unwrap().index).collect();
    assert_eq!(indexes.len(), 12, "each was a change of its own");
}
