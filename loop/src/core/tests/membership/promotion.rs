//! When a learner is given a vote.

use super::*;

#[test]
fn whoever_was_added_is_promoted_when_it_has_caught_up() {
    let (mut net, leader) = three();
    join(&mut net, leader, 4, None).unwrap();
    ask(&mut net, leader, change(&[MemberChange::Add(node(4))])).unwrap().unwrap();
    assert_eq!(role_on(&mut net, leader, 4), Some(MemberRole::Learner));
    tick_with_snapshots(&mut net, 6);
    assert_eq!(role_on(&mut net, leader, 4), Some(MemberRole::Voter));
    let again = ask(&mut net, leader, change(&[MemberChange::Add(node(4))])).unwrap();
    assert_eq!(again, Err(MembershipError::NoChange(node(4))));
}

/// To see it fail: let `has_caught_up` look at the number of missing entries alone.
#[test]
fn whoever_has_nothing_is_given_no_vote_however_short_the_log() {
    let (mut net, leader) = three();
    join(&mut net, leader, 4, None).unwrap();
    let promote = change(&[MemberChange::Promote(node(4))]);
    let refused = ask(&mut net, leader, promote).unwrap().unwrap_err();
    assert!(matches!(refused, MembershipError::NotCaughtUp { .. }), "{refused}");
    ask(&mut net, leader, change(&[MemberChange::Add(node(4))])).unwrap().unwrap();
    // It answers, and nobody has a snapshot for it.
    net.tick_all(10);
    assert_eq!(role_on(&mut net, leader, 4), Some(MemberRole::Learner));
    tick_with_snapshots(&mut net, 6);
    assert_eq!(role_on(&mut net, leader, 4), Some(MemberRole::Voter));
}

/// A node whose member 4 has just acknowledged its first snapshot, all of the log, before the leader is told
/// that the file was sent: from then on raft-rs probes it.
fn acknowledged_ahead(net: &mut Net, leader: u64) -> u64 {
    let [gone, _] = others(leader);
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    assert_eq!(join(net, leader, gone, None), Ok(4));
    net.take_snapshot(leader);
    let sent = (0..100).find_map(|_| {
        net.step(leader, Input::Tick);
        for n in 1..=3 {
            net.sync(n);
        }
        for (from, to) in net.links.keys().copied().collect::<Vec<_>>() {
            while net.deliver(from, to) {}
        }
        net.peer(leader).snapshots_sent.pop()
    });
    let sent = sent.expect("it needs a snapshot");
    let PeerMessage::Raft(message) = sent.message else { panic!("{:?}", sent.message) };
    let head = net.copy_snapshot(leader, gone, &PeerMessage::Raft(message.clone()));
    let Head { members, catalogue, .. } = head;
    let from = node(leader);
    net.step(gone, Input::SnapshotReceived { from, message, members, catalogue });
    net.settle();
    gone
}

/// How raft-rs sends to member 4, what that has acknowledged, and where the log of the leader ends.
fn progress_of_4(net: &mut Net, leader: u64) -> (raft::ProgressState, u64, u64) {
    let core = &net.peer(leader).core;
    let progress = core.raw.raft.prs().get(4).unwrap();
    (progress.state, progress.matched, core.status().last_index)
}

/// The member's acknowledgement of its snapshot overtakes the report that it was sent, and nothing is proposed: raft-rs
/// goes on probing. To see it fail: let `has_caught_up` ask for `Replicate` alone.
#[test]
fn whoever_lacks_nothing_is_promoted_though_raft_rs_probes_it() {
    let (mut net, leader) = three();
    let gone = acknowledged_ahead(&mut net, leader);
    net.step(leader, Input::SnapshotSent { to: node(gone), received: true });
    assert_eq!(progress_of_4(&mut net, leader), (raft::ProgressState::Probe, 4, 4));
    net.tick_all(8);
    assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Voter));
}

/// To see it fail: have `has_caught_up` take a probed one for whatever it has acknowledged.
#[test]
fn whoever_lacks_an_entry_is_not_promoted_while_raft_rs_probes_it() {
    let (mut net, leader) = three();
    let gone = acknowledged_ahead(&mut net, leader);
    net.propose(leader, 9);
    net.settle_but(gone);
    net.step(leader, Input::SnapshotSent { to: node(gone), received: true });
    // Its disk is slow, and it answers.
    net.tick_all_but(gone, 8);
    assert_eq!(progress_of_4(&mut net, leader), (raft::ProgressState::Probe, 4, 5));
    assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Learner));
    net.tick_all(8);
    assert_eq!(role_on(&mut net, leader, gone), Some(MemberRole::Voter));
}
