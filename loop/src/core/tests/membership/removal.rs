//! Members that leave or lose their vote, and what they still do.

use super::*;

#[test]
fn a_removed_node_learns_it_and_cannot_come_back_by_itself() {
    let (mut net, leader) = three();
    let [gone, stays] = others(leader);
    let old = net.bindings[&gone];
    ask(&mut net, leader, change(&[MemberChange::Remove(node(gone))])).unwrap().unwrap();
    net.tick_all(1);
    assert_eq!(net.peer(leader).core.status().members.conf_state().voters.len(), 2);
    // It does not campaign, whether it has heard of it or not.
    net.tick_all(4 * config().election_ticks);
    assert_eq!(net.peer(leader).core.status().leader, Some(node(leader)));
    let retired = Join { binding: old, addr: String::new(), was: None };
    let refused = ask(&mut net, leader, MembershipRequest::Join(retired)).unwrap();
    assert_eq!(refused, Err(MembershipError::Retired(node(gone))));
    net.kill(gone);
    // An operator who formats a directory to join may bring it back, as an observer.
    assert_eq!(join(&mut net, leader, gone, None), Ok(4));
    assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Observer));
    assert_eq!(role_on(&mut net, leader, stays), Some(MemberRole::Voter));
}

/// To see it fail: name nobody who has departed (a driver would refuse the node that was removed, and
/// it would stop); or do not tick whoever was removed, which then never gives up the leader that it heard.
#[test]
fn whoever_is_removed_votes_until_those_that_are_left_remember_it() {
    let mut net = Net::new(&[1, 2], &[], config());
    let leader = net.elect();
    let gone = 3 - leader;
    net.settle();
    let members = |net: &Net, n: u64| net.peers[&n].core.status().members;
    let request = change(&[MemberChange::Remove(node(gone))]);
    net.step(leader, Input::Membership { request, dry_run: false, caller: 1 });
    net.sync(leader);
    while members(&net, leader).of_node(node(gone)).is_some() {
        assert!(net.deliver(leader, gone) || net.deliver(gone, leader), "the change is committed");
        net.sync(gone);
    }
    while net.deliver(leader, gone) {}
    assert!(!net.refuses(net.bindings[&gone]), "nothing behind it is committed yet");
    // A leader that forgot the change has beaten once more.
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to) = (leader, gone);
    heartbeat.term = net.peer(gone).core.status().term;
    let message = PeerMessage::Raft(heartbeat);
    net.step(gone, Input::Peer { from: node(leader), message });
    assert_eq!(net.peer(gone).core.status().leader, Some(node(leader)));
    // The leader forgets that it was committed.
    net.kill(leader);
    net.start(leader);
    assert_eq!(members(&net, leader).conf_state().voters.len(), 2);
    assert_eq!(net.elect(), leader);
    net.settle();
    net.tick_all(1);
    net.settle();
    assert_eq!(members(&net, leader).conf_state().voters, [leader]);
    assert!(net.refuses(net.bindings[&gone]));
}

/// Delivers and syncs between two nodes until `done`; the state machine of one may hang meanwhile.
fn talk_until(net: &mut Net, [a, b]: [u64; 2], done: impl Fn(&Net) -> bool) {
    for _ in 0..1_000 {
        for n in [a, b] {
            if done(net) {
                return;
            }
            net.sync(n);
        }
        for (from, to) in [(a, b), (b, a)] {
            if done(net) {
                return;
            }
            net.deliver(from, to);
        }
    }
    panic!("it does not come to that");
}

/// To see it fail: answer at the beginning of a joint configuration, or at its end.
#[test]
fn whoever_changes_several_voters_is_answered_when_the_old_ones_may_go() {
    let (mut net, leader) = three();
    for n in [4, 5] {
        join(&mut net, leader, n, None).unwrap();
        tick_with_snapshots(&mut net, 5);
    }
    let [first, second] = others(leader);
    let swap = [MemberChange::Promote(node(4)), MemberChange::Remove(node(first))];
    net.step(leader, Input::Membership { request: change(&swap), dry_run: false, caller: 1 });
    let on = |net: &Net, n: u64| net.peers[&n].core.status().members;
    talk_until(&mut net, [leader, second], |net| on(net, leader).is_joint());
    assert_eq!(answer(&mut net, leader, 1), None, "the old ones have a vote still");
    net.links.retain(|(from, to), _| *from == leader || *to == leader);
    let deliver_to_all = |net: &mut Net, done: &dyn Fn(&Net) -> bool| {
        for _ in 0..100 {
            for n in [4, second, leader] {
                net.sync(n);
                for (from, to) in [(leader, n), (n, leader)] {
                    while !done(net) && net.deliver(from, to) {}
                }
            }
        }
        assert!(done(net), "it does not come to that");
    };
    deliver_to_all(&mut net, &|net: &Net| !on(net, leader).is_joint());
    let left = on(&net, leader);
    assert_eq!(left.of_node(node(first)), None);
    assert_eq!(answer(&mut net, leader, 1), None, "nobody else is sure to know it");
    assert!(!net.refuses(net.bindings[&first]));
    net.settle();
    let done = answer(&mut net, leader, 1).unwrap().unwrap();
    assert_eq!((done.index, done.members), (left.index(), left));
    assert!(net.refuses(net.bindings[&first]));

    // Where nobody loses a vote there is nothing to wait for behind the end.
    let promote = [MemberChange::Promote(node(5)), MemberChange::Demote(node(4))];
    let done = ask(&mut net, leader, change(&promote)).unwrap().unwrap();
    assert!(!done.members.is_joint() && done.index == done.members.index());
}

/// To see it fail: take it for tried where `seal` has found that it has to wait.
#[test]
fn a_removal_is_sealed_as_soon_as_it_is_applied() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    net.stalled = Some((leader, 0));
    let remove = change(&[MemberChange::Remove(node(gone))]);
    assert_eq!(ask(&mut net, leader, remove), None, "the next change has to wait");
    net.answer_stalled();
    net.settle();
    assert!(matches!(answer(&mut net, leader, 1_000_000), Some(Ok(_))));
}

/// To see it fail: leave what the last change took out of the table as it is encoded.
#[test]
fn a_restart_from_a_snapshot_knows_whom_the_last_change_took() {
    let (mut net, leader) = three();
    let [gone, stays] = others(leader);
    let remove = change(&[MemberChange::Remove(node(gone))]);
    net.step(leader, Input::Membership { request: remove, dry_run: false, caller: 1 });
    let members = |net: &Net, n: u64| net.peers[&n].core.status().members;
    let has_left = |net: &Net| members(net, leader).of_node(node(gone)).is_none();
    talk_until(&mut net, [leader, stays], has_left);
    assert_eq!(answer(&mut net, leader, 1), None);
    // Whoever asks again is not told that it is done: its vote may be needed still.
    let again = change(&[MemberChange::Remove(node(gone))]);
    net.step(leader, Input::Membership { request: again.clone(), dry_run: false, caller: 2 });
    assert_eq!(answer(&mut net, leader, 2), Some(Err(MembershipError::Pending)));
    net.take_snapshot(leader);
    // Nothing but the snapshot, and its place in the log, is written behind it.
    net.sync(leader);
    net.kill(leader);
    net.links.clear();
    net.start(leader);
    assert_eq!(net.peers[&leader].core.status().snapshot_index, members(&net, leader).index());
    let known: Vec<_> = members(&net, leader).departed().iter().map(Member::node_id).collect();
    assert_eq!(known, [node(gone)]);
    assert!(members(&net, leader).took_from_somebody());
    let left = members(&net, leader).index();
    let next = net.elect_but(0);
    net.settle();
    assert!(members(&net, next).index() > left, "another change is behind it");
    assert!(net.refuses(net.bindings[&gone]));
    let now = ask(&mut net, next, again);
    assert_eq!(now, Some(Err(MembershipError::NoMember(node(gone)))));
}

/// To see it fail: have `of_binding_or_departed` look at the members alone.
#[test]
fn a_removed_node_that_restarts_from_a_snapshot_goes_on_voting_and_does_not_campaign() {
    let mut net = Net::new(&[1, 2], &[], config());
    let leader = net.elect();
    let gone = 3 - leader;
    net.settle();
    let remove = change(&[MemberChange::Remove(node(gone))]);
    net.step(leader, Input::Membership { request: remove, dry_run: false, caller: 1 });
    let is_removed = |net: &Net| net.peers[&gone].core.status().role == Role::Removed;
    // The leader writes no more behind the change itself, and so not that it is committed.
    net.sync(leader);
    while !is_removed(&net) {
        assert!(net.deliver(leader, gone) || net.deliver(gone, leader), "the change is committed");
        net.sync(gone);
    }
    net.take_snapshot(gone);
    net.sync(gone);
    for n in [leader, gone] {
        net.kill(n);
    }
    net.start(gone);
    assert_eq!(net.peer(gone).core.status().role, Role::Removed);
    net.tick_all(4 * config().election_ticks);
    assert!(net.waiting(gone).is_empty(), "it asks nobody for a vote");
    // The other forgot that the change was committed, and needs that vote.
    net.start(leader);
    assert_eq!(net.peer(leader).core.status().members.conf_state().voters.len(), 2);
    assert_eq!(net.elect_but(0), leader);
    net.settle();
    assert!(net.refuses(net.bindings[&gone]));
}

/// To see it fail: have a removal take only the newest member of the node.
#[test]
fn whoever_removes_a_member_removes_what_waits_to_take_its_place() {
    let (mut net, leader) = three();
    let [gone, _] = others(leader);
    let old = net.bindings[&gone];
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    assert_eq!(join(&mut net, leader, gone, Some(old.directory_id)), Ok(4));
    net.kill(gone);
    ask(&mut net, leader, change(&[MemberChange::Remove(node(gone))])).unwrap().unwrap();
    net.tick_all(2);
    let now = members(&mut net, leader);
    assert_eq!((now.all_of_node(node(gone)).count(), now.is_joint()), (0, false));
    let refused = join(&mut net, leader, gone, Some(old.directory_id));
    assert_eq!(refused, Err(MembershipError::Retired(node(gone))));
}

/// To see it fail: let `may_send_ahead` allow it.
#[test]
fn whoever_lost_its_vote_holds_no_more_than_the_leader_that_is_left() {
    let config = LoopConfig { append_mode: AppendMode::Parallel, ..config() };
    let mut net = Net::new(&[1, 2], &[], config.clone());
    let leader = net.elect();
    let demoted = 3 - leader;
    net.settle();
    let request = MembershipRequest::Change(vec![MemberChange::Demote(node(demoted))]);
    net.step(leader, Input::Membership { request, dry_run: false, caller: 1 });
    // The disk of the leader is slow: what it has written when the change is in force on the other is
    // the last that it ever writes.
    while net.peer(demoted).head.members.is_voter(demoted) {
        net.settle_but(leader);
        if net.peer(demoted).head.members.is_voter(demoted) {
            net.sync(leader);
        }
    }
    net.settle_but(leader);
    net.kill(leader);
    net.kill(demoted);
    [1, 2].into_iter().for_each(|n| net.start(n));
    assert_eq!(net.elect(), leader);
    net.tick_all(2 * config.election_ticks);
    assert_eq!(members(&mut net, demoted).role(demoted), Some(MemberRole::Observer));
}

/// To see it fail: have `append_queued` take them in.
#[test]
fn a_leader_that_may_lose_its_vote_by_an_earlier_change_takes_nothing_in_behind_it() {
    let mut net = Net::new(&[1, 2], &[], config());
    let old = net.elect();
    let leader = 3 - old;
    net.settle();
    // The change is in both logs, and nobody knows that it is committed.
    let request = MembershipRequest::Change(vec![MemberChange::Demote(node(leader))]);
    net.step(old, Input::Membership { request, dry_run: false, caller: 1 });
    net.sync(old);
    while net.deliver(old, leader) {}
    net.sync(leader);
    net.links.clear();
    let mut campaign = Message::default();
    campaign.set_msg_type(MessageType::MsgTimeoutNow);
    let term = net.peer(leader).core.status().term;
    (campaign.from, campaign.to, campaign.term) = (old, leader, term);
    net.step(leader, Input::Peer { from: node(old), message: PeerMessage::Raft(campaign) });
    while net.peer(leader).core.status().role != Role::Leader {
        net.sync(leader);
        net.deliver(leader, old);
        net.sync(old);
        net.deliver(old, leader);
    }
    net.propose(leader, 7);
    let refused = ProposeError::NotLeader { leader: None };
    assert_eq!(net.peer(leader).answers, [(7, Err(refused))]);

    // All that it says when it has lost its vote is lost: who is left leads all the same.
    net.sync(leader);
    while net.deliver(leader, old) {}
    net.sync(old);
    while net.deliver(old, leader) {}
    assert_eq!(net.peer(leader).core.status().role, Role::Observer);
    net.kill(leader);
    net.start(leader);
    assert_eq!(net.elect(), old);
    net.propose(old, 8);
    net.settle();
    assert!(net.peer(old).answers.iter().any(|(caller, answer)| *caller == 8 && answer.is_ok()));
}
