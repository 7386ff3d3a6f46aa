//! Nodes that join, or come back in another directory.

use super::*;

#[test]
fn a_newcomer_observes_until_it_is_given_a_vote() {
    let (mut net, leader) = three();
    assert_eq!(join(&mut net, leader, 4, None), Ok(4));
    assert_eq!(net.peer(4).core.status().role, Role::Observer);
    tick_with_snapshots(&mut net, 5);
    assert_eq!(role_on(&mut net, leader, 4), Some(MemberRole::Observer));
    assert_eq!(net.peers[&4].applied, net.peers[&leader].applied);

    let done = ask(&mut net, leader, change(&[MemberChange::Promote(node(4))])).unwrap().unwrap();
    assert_eq!(done.members.role(4), Some(MemberRole::Voter));
    net.tick_all(2);
    for n in 1..=4 {
        assert_eq!(role_on(&mut net, n, 4), Some(MemberRole::Voter), "node {n}");
        assert_eq!(net.peer(n).core.status().members.conf_state().voters.len(), 4);
    }
    assert_eq!(net.peer(4).core.status().role, Role::Follower);
    // It counts: without it and another one nothing is committed any more.
    net.kill(4);
    net.kill(others(leader)[0]);
    let before = net.peer(leader).core.status().commit_index;
    net.propose(leader, 2);
    net.settle();
    assert_eq!(net.peer(leader).core.status().commit_index, before);
}

#[test]
fn a_wiped_node_comes_back_in_its_own_place() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    let refused = join_over_a_live_one(&mut net, leader, gone);
    assert_eq!(refused, Err(MembershipError::StillActive(node(gone))));
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    assert_eq!(join(&mut net, leader, gone, None), Ok(4));
    let learner = members(&mut net, leader).get(4).unwrap().clone();
    assert_eq!(learner.promotion, Promotion::Replacing(gone));
    tick_with_snapshots(&mut net, 8);
    let now = members(&mut net, leader);
    let mut expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|n| *n != gone).collect();
    expected.sort_unstable();
    let mut voters = now.conf_state().voters.clone();
    voters.sort_unstable();
    assert_eq!((voters, now.is_joint(), now.len()), (expected, false, 3));
    assert_eq!(net.peer(gone).core.status().role, Role::Follower);

    // A restart finds it again, under its new name.
    net.propose(leader, 7);
    net.settle();
    net.kill(gone);
    net.start(gone);
    net.tick_all(3);
    assert_eq!(net.peer(gone).core.own_id, 4);
    assert_eq!(net.peer(gone).applied.last().unwrap().1[..], 7u64.to_le_bytes());
}

fn join_over_a_live_one(net: &mut Net, leader: u64, n: u64) -> Result<(), MembershipError> {
    let binding = Binding {
        node_id: node(n),
        directory_id: DirectoryId::from_bytes([9; 16]),
        incarnation: 1,
    };
    let join = Join { binding, addr: "127.0.0.1:9".to_owned(), was: None };
    ask(net, leader, MembershipRequest::Join(join)).unwrap().map(|_| ())
}

/// A leader that has just been elected by one of two has not heard of the other. To see it fail: have
/// `Answers::liveness` believe at once that a member is silent.
#[test]
fn whom_a_new_leader_has_not_heard_of_is_not_taken_for_dead() {
    let (mut net, old) = three();
    let [leader, unheard] = others(old);
    net.tick_all(2 * config().election_ticks);
    net.kill(unheard);
    let status = net.peer(old).core.status();
    let mut campaign = Message::default();
    campaign.set_msg_type(MessageType::MsgTimeoutNow);
    (campaign.from, campaign.to, campaign.term) = (old, leader, status.term);
    net.step(leader, Input::Peer { from: node(old), message: PeerMessage::Raft(campaign) });
    net.settle();
    assert_eq!(net.peer(leader).core.status().role, Role::Leader);

    let seen = |net: &mut Net| {
        let answers = net.peer(leader).core.last_answers();
        answers.into_iter().find(|answer| answer.member_id == unheard).unwrap()
    };
    let liveness = Liveness::Unheard;
    assert_eq!(seen(&mut net), LastAnswer { member_id: unheard, ago: None, liveness });
    let refused = join_over_a_live_one(&mut net, leader, unheard);
    assert_eq!(refused, Err(MembershipError::StillActive(node(unheard))));
    let remove = || MembershipRequest::Change(vec![MemberChange::Remove(node(old))]);
    assert_eq!(ask(&mut net, leader, remove()), Some(Err(MembershipError::Pending)));

    net.tick_all(config().election_ticks);
    assert_eq!(seen(&mut net).liveness, Liveness::Unheard);
    net.tick_all(1);
    let lost = MembershipError::WouldLoseQuorum { voters: 2, live: 1, needed: 2 };
    assert_eq!(ask(&mut net, leader, remove()), Some(Err(lost)));
    assert_eq!(seen(&mut net).liveness, Liveness::Silent);
}

/// To see it fail: give the replacement the id of the member it replaces.
#[test]
fn trap_R15_a_replaced_disk_has_an_id_that_nobody_ever_had() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    let mut old = net.bindings[&gone];
    for expected in 4..=6 {
        net.kill(gone);
        net.tick_all(config().election_ticks + 2);
        assert_eq!(join(&mut net, leader, gone, Some(old.directory_id)), Ok(expected));
        tick_with_snapshots(&mut net, 8);
        assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Voter));
        // Who follows a member that is none any more is not let in.
        let late = Join {
            binding: Binding { incarnation: 77, ..old },
            addr: String::new(),
            was: Some(old.directory_id),
        };
        let refused = ask(&mut net, leader, MembershipRequest::Join(late)).unwrap();
        assert_eq!(refused, Err(MembershipError::Retired(node(gone))));
        old = net.bindings[&gone];
        net.propose(leader, 100 + expected);
        net.settle();
        assert_eq!(net.peers[&gone].applied, net.peers[&leader].applied);
    }
}

/// To see it fail: let every attempt stay until one of them has caught up.
#[test]
fn a_node_that_is_formatted_again_and_again_has_two_members_at_most() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    for attempt in 4..10 {
        net.kill(gone);
        net.tick_all(config().election_ticks + 2);
        assert_eq!(join(&mut net, leader, gone, None), Ok(attempt));
        net.tick_all(1);
        let now = members(&mut net, leader);
        let of_node: Vec<u64> = now.all_of_node(node(gone)).map(|m| m.member_id).collect();
        assert_eq!((of_node, now.is_joint()), (vec![gone, attempt], false));
        assert_eq!(now.get(attempt).unwrap().promotion, Promotion::Replacing(gone));
    }
    tick_with_snapshots(&mut net, 8);
    let now = members(&mut net, leader);
    assert_eq!((now.role(9), now.len()), (Some(MemberRole::Voter), 3));
}

/// To see it fail: have a change speak of the newest member of its node.
#[test]
fn a_role_is_that_of_the_place_while_somebody_waits_to_take_it() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    assert_eq!(join(&mut net, leader, gone, None), Ok(4));
    net.kill(gone);
    for promote in [MemberChange::Promote(node(gone)), MemberChange::Add(node(gone))] {
        let refused = ask(&mut net, leader, change(&[promote])).unwrap();
        assert_eq!(refused, Err(MembershipError::NoChange(node(gone))), "it has its vote");
    }
    ask(&mut net, leader, change(&[MemberChange::Demote(node(gone))])).unwrap().unwrap();
    assert_eq!(members(&mut net, leader).conf_state().voters.len(), 2);
    net.start(gone);
    tick_with_snapshots(&mut net, 8);
    let now = members(&mut net, leader);
    assert_eq!((now.get(gone), now.role(4)), (None, Some(MemberRole::Observer)));
    ask(&mut net, leader, change(&[MemberChange::Add(node(gone))])).unwrap().unwrap();
    net.tick_all(3);
    assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Voter));
}

/// To see it fail: let `promoting` not look at the old member.
#[test]
fn a_member_that_comes_back_in_time_keeps_its_place() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    assert_eq!(join(&mut net, leader, gone, None), Ok(4));
    for _ in 0..10 {
        // The old directory answers, from wherever it is.
        let kind = MessageType::MsgHeartbeatResponse;
        let alive = said_by(&mut net, (gone, gone), (leader, leader), kind);
        net.step(leader, alive);
        tick_with_snapshots(&mut net, 1);
    }
    let now = members(&mut net, leader);
    assert_eq!((now.role(gone), now.role(4)), (Some(MemberRole::Voter), Some(MemberRole::Learner)));
    tick_with_snapshots(&mut net, config().election_ticks + 3);
    let now = members(&mut net, leader);
    assert_eq!((now.role(gone), now.role(4)), (None, Some(MemberRole::Voter)));
}

/// To see it fail: let `step_raft` pass votes to a log without a snapshot.
#[test]
fn a_newcomer_votes_for_nobody_before_its_first_snapshot() {
    let (mut net, leader) = three();
    let [candidate, _] = others(leader);
    join(&mut net, leader, 4, None).unwrap();
    let asks = |net: &mut Net| {
        net.links.clear();
        let mut asked = said_by(net, (candidate, candidate), (4, 4), MessageType::MsgRequestVote);
        if let Input::Peer { message: PeerMessage::Raft(message), .. } = &mut asked {
            // As in a transfer, so that no lease is in the way, and with a log that is no worse.
            message.term += 1;
            (message.index, message.log_term) = (1_000, message.term);
            message.context = Bytes::from_static(b"CampaignTransfer");
        }
        net.step(4, asked);
        net.sync(4);
        let is_vote = |said: &PeerMessage| {
            let kind = kind(said) == Some(MessageType::MsgRequestVoteResponse);
            kind && matches!(said, PeerMessage::Raft(vote) if !vote.reject)
        };
        net.waiting(4).into_iter().filter(|said| is_vote(said)).count()
    };
    assert_eq!(asks(&mut net), 0);
    tick_with_snapshots(&mut net, 5);
    ask(&mut net, leader, change(&[MemberChange::Promote(node(4))])).unwrap().unwrap();
    net.tick_all(2);
    assert_eq!(asks(&mut net), 1, "it is the snapshot that it lacked");
}

/// To see it fail: take what a newcomer says for its address, whatever it is.
#[test]
fn a_newcomer_that_does_not_know_its_address_is_reached_where_the_old_member_was() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    let enter = |net: &mut Net, n: u64, addr: &str| {
        let directory_id = DirectoryId::from_bytes([9; 16]);
        let binding = Binding { node_id: node(n), directory_id, incarnation: 1 };
        let join = Join { binding, addr: addr.to_owned(), was: None };
        ask(net, leader, MembershipRequest::Join(join)).unwrap()
    };
    assert_eq!(enter(&mut net, 9, ""), Err(MembershipError::NoAddress(node(9))));
    for (said, known) in
        [("", format!("127.0.0.1:{gone}")), ("b:2", "b:2".into()), ("", "b:2".into())]
    {
        let members = enter(&mut net, gone, said).unwrap().members;
        assert_eq!(members.get(4).unwrap().addr, known);
    }
}
