//! What becomes of a group that is told of the death of its leader, rightly or not.

use std::time::Duration;

use raft::eraftpb::Entry;

use super::super::net::group;
use super::*;

/// Three nodes that follow a leader, and who the others are: first the one whose turn comes first.
/// The leader is dead, and nobody was told.
fn dead_leader() -> (Net, u64, u64, u64) {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    net.kill(leader);
    let term = net.peers.values().next().unwrap().core.status().term;
    let mut left: Vec<u64> = net.peers.keys().copied().collect();
    if (group().get() + term) % 2 == 1 {
        left.swap(0, 1);
    }
    (net, leader, left[0], left[1])
}

fn role(net: &Net, n: u64) -> Role {
    net.peers[&n].core.status().role
}

fn term(net: &Net, n: u64) -> u64 {
    net.peers[&n].core.status().term
}

/// To see it fail: have both campaign at once, in `process_gone`; they win the pre-vote together, and
/// neither leads until the election timeout.
#[test]
fn trap_R16_two_that_are_told_at_once_do_not_both_lose() {
    let (mut net, dead, first, second) = dead_leader();
    let before = term(&net, first);
    net.step(first, Input::Gone(node(dead)));
    net.step(second, Input::Gone(node(dead)));
    assert_eq!((role(&net, first), role(&net, second)), (Role::Candidate, Role::Follower));
    assert_eq!(net.peers[&second].core.status().leader, None, "it has given its leader up");
    let (one, two) = (Duration::from_millis(50), Duration::from_millis(100));
    assert_eq!(net.peer(first).campaign_after, Some(two), "in case that it does not win");
    assert_eq!(net.peer(second).campaign_after, Some(one));
    // No tick, and no turn.
    net.settle();
    assert_eq!((role(&net, first), term(&net, first)), (Role::Leader, before + 1));
    net.propose(first, 7);
    net.settle();
    assert!(matches!(net.peer(first).answers[..], [(7, Ok(_))]));
    // The turns that are left come to nothing.
    for n in [first, second] {
        net.step(n, Input::Campaign);
    }
    net.settle();
    assert_eq!((role(&net, first), role(&net, second)), (Role::Leader, Role::Follower));
    assert_eq!(term(&net, second), before + 1);
}

/// To see it fail: leave `become_follower` out of `process_gone`; the lease outlasts every turn.
#[test]
fn trap_R16_the_lease_is_given_up_before_anybody_campaigns() {
    let (mut net, dead, first, second) = dead_leader();
    let before = term(&net, first);
    // It asks too early: the other takes the leader for alive, and says nothing.
    net.step(first, Input::Gone(node(dead)));
    net.settle();
    assert_eq!((role(&net, first), net.waiting(second).len()), (Role::Candidate, 0));
    net.step(second, Input::Gone(node(dead)));
    net.step(second, Input::Campaign);
    net.settle();
    assert_eq!((role(&net, second), term(&net, second)), (Role::Leader, before + 1));
    assert_eq!(role(&net, first), Role::Follower);
}

#[test]
fn trap_R16_a_turn_that_is_lost_comes_again() {
    let (mut net, dead, first, second) = dead_leader();
    // What only the first has: the second cannot win.
    net.peers.values_mut().for_each(|peer| peer.campaign_after = None);
    let missing = net.peers[&first].core.status().last_index + 1;
    let message = append(&net, dead, first, missing);
    net.step(first, Input::Peer { from: node(dead), message });
    net.settle();
    net.links.clear();
    let before = term(&net, first);
    net.step(first, Input::Gone(node(dead)));
    net.settle();
    net.step(second, Input::Gone(node(dead)));
    net.step(second, Input::Campaign);
    net.settle();
    assert_eq!((role(&net, second), term(&net, second)), (Role::Candidate, before));
    net.step(first, Input::Campaign);
    net.settle();
    assert_eq!((role(&net, first), term(&net, first)), (Role::Leader, before + 1));
    assert_eq!(net.peers[&second].core.status().commit_index, missing + 1);
}

/// An append of one entry that a dead leader has sent.
fn append(net: &Net, from: u64, to: u64, index: u64) -> PeerMessage {
    let status = net.peers[&to].core.status();
    let mut message = Message { from, to, term: status.term, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    (message.index, message.log_term, message.commit) = (index - 1, status.term, index - 1);
    let entry = Entry { index, term: status.term, data: "late".into(), ..Entry::default() };
    message.entries = vec![entry].into();
    PeerMessage::Raft(message)
}

/// Turns end, so that a group without a majority is left to its election timeout.
#[test]
fn a_campaign_that_cannot_win_ends() {
    let (mut net, dead, first, second) = dead_leader();
    let before = term(&net, first);
    net.kill(second);
    net.step(first, Input::Gone(node(dead)));
    let mut turns = 1;
    while net.peer(first).campaign_after.take().is_some() {
        net.step(first, Input::Campaign);
        turns += 1;
    }
    assert_eq!((turns, term(&net, first)), (4, before));
    net.links.clear();
    net.step(first, Input::Campaign);
    assert!(net.waiting(first).is_empty(), "nobody asked for it");
}

/// To see it fail: let it act more than once in a term, or without the pre-vote.
#[test]
fn trap_R16_a_leader_that_lives_is_not_disturbed_by_who_takes_it_for_dead() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let (before, wrong) = (term(&net, leader), leader % 3 + 1);
    net.step(wrong, Input::Gone(node(leader)));
    net.step(wrong, Input::Campaign);
    net.settle();
    assert_eq!(net.peers[&wrong].core.status().leader, None);
    net.step(leader, Input::Tick);
    net.settle();
    for n in 1..=3 {
        let status = net.peers[&n].core.status();
        assert_eq!((status.leader, status.term), (Some(node(leader)), before), "node {n}");
    }
    // Told once more, it believes the leader.
    net.step(wrong, Input::Gone(node(leader)));
    net.step(wrong, Input::Campaign);
    assert!(net.waiting(wrong).is_empty());
    assert_eq!(net.peers[&wrong].core.status().leader, Some(node(leader)));
    // What is said of another, or to the leader, is nothing to them.
    let other = wrong % 3 + 1;
    let other = if other == leader { other % 3 + 1 } else { other };
    net.step(other, Input::Gone(node(wrong)));
    net.step(leader, Input::Gone(node(wrong)));
    assert!(net.waiting(other).is_empty() && net.waiting(leader).is_empty());
    net.tick_all(20);
    assert_eq!((role(&net, leader), term(&net, leader)), (Role::Leader, before));
}

/// Whoever has no vote waits for the next leader, and does not call the dead one its leader.
#[test]
fn an_observer_gives_a_dead_leader_up_and_asks_for_no_votes() {
    let mut net = Net::new(&[1, 2, 3], &[4], config());
    let leader = net.elect();
    net.tick_all(2);
    net.kill(leader);
    net.step(4, Input::Gone(node(leader)));
    assert_eq!(net.peers[&4].core.status().leader, None);
    net.step(4, Input::Campaign);
    assert!(net.waiting(4).is_empty() && net.peer(4).campaign_after.is_none());
}
