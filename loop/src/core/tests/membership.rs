//! Members that come, go, and take each other's place.

use std::time::Duration;

use quorate_engine::{DirectoryId, Founding, GroupLog, GroupWrite};

use super::super::net::group;
use super::*;
use crate::head::Head;
use crate::members::{Binding, Member, MemberRole, Promotion};
use crate::membership::{
    Join, MemberChange, MembershipChanged, MembershipError, MembershipRequest,
};
use crate::status::{LastAnswer, Liveness};

/// Asks the leader for another membership; returns what it was told, if it was told by now.
fn ask(
    net: &mut Net,
    leader: u64,
    request: MembershipRequest,
) -> Option<Result<MembershipChanged, MembershipError>> {
    let caller = 1_000_000 + net.peer(leader).memberships.len() as u64;
    net.step(leader, Input::Membership { request, dry_run: false, caller });
    net.settle();
    answer(net, leader, caller)
}

fn answer(
    net: &mut Net,
    n: u64,
    caller: u64,
) -> Option<Result<MembershipChanged, MembershipError>> {
    let told = &net.peer(n).memberships;
    let answers: Vec<_> = told.iter().filter(|(c, _)| *c == caller).collect();
    assert!(answers.len() <= 1, "one answer: {answers:?}");
    answers.first().map(|(_, answer)| answer.clone())
}

fn change(changes: &[MemberChange]) -> MembershipRequest {
    MembershipRequest::Change(changes.to_vec())
}

/// A fresh data directory of node `n` asks to be let in, and starts when it is.
fn join(
    net: &mut Net,
    leader: u64,
    n: u64,
    was: Option<DirectoryId>,
) -> Result<u64, MembershipError> {
    let path = net.dir.path().join(n.to_string());
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    let founding = Founding::Join(vec!["127.0.0.1:1".to_owned()]);
    quorate_engine::format(&path, net.cluster, node(n), founding).unwrap();
    let mut engine = net.engine(n);
    let write = GroupWrite {
        group: group(),
        number: 1,
        entries: Vec::new(),
        record: GroupLog::blank(group(), &engine.cache).record(),
        install: false,
        genesis: None,
    };
    let incarnation = engine.writer.write(vec![write]).unwrap().pop().unwrap().sequence();
    let directory_id = engine.identity.directory_id;
    drop(engine);
    let binding = Binding { node_id: node(n), directory_id, incarnation };
    let request = Join { binding, addr: format!("127.0.0.1:{n}"), was };
    let told = ask(net, leader, MembershipRequest::Join(request)).unwrap()?;
    let id = told.members.of_binding(binding).unwrap().member_id;
    net.bindings.insert(n, binding);
    net.let_in.insert(n, (id, told.members));
    net.start(n);
    Ok(id)
}

/// Ticks everybody, and gives each leader the snapshots that it wants.
fn tick_with_snapshots(net: &mut Net, ticks: u32) {
    for _ in 0..ticks {
        net.tick_all(1);
        for n in net.peers.keys().copied().collect::<Vec<_>>() {
            if std::mem::take(&mut net.peer(n).snapshot_wanted) {
                net.take_snapshot(n);
                net.settle();
            }
        }
    }
}

fn members(net: &mut Net, n: u64) -> Arc<Members> {
    net.peer(n).core.status().members
}

fn role_on(net: &mut Net, at: u64, n: u64) -> Option<MemberRole> {
    let members = members(net, at);
    members.of_node(node(n)).and_then(|member| members.role(member.member_id))
}

fn three() -> (Net, u64) {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    // Everybody answers something, so that everybody is known to be alive.
    net.propose(leader, 1);
    net.settle();
    (net, leader)
}

fn others(leader: u64) -> [u64; 2] {
    let mut others = [1, 2, 3].into_iter().filter(|n| *n != leader);
    [others.next().unwrap(), others.next().unwrap()]
}

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

/// To see it fail: take the check of `is_changing` out of `planned`, and that of
/// `pending_conf_index` out of `append_change`.
#[test]
fn trap_R09_a_second_change_is_refused_while_one_is_under_way() {
    let (mut net, leader) = three();
    join(&mut net, leader, 4, None).unwrap();
    tick_with_snapshots(&mut net, 5);
    let promote = change(&[MemberChange::Promote(node(4))]);
    net.step(leader, Input::Membership { request: promote, dry_run: false, caller: 1 });
    let [first, _] = others(leader);
    let remove = change(&[MemberChange::Remove(node(first))]);
    net.step(leader, Input::Membership { request: remove.clone(), dry_run: false, caller: 2 });
    assert_eq!(answer(&mut net, leader, 1), None);
    assert_eq!(answer(&mut net, leader, 2), Some(Err(MembershipError::Pending)));
    net.settle();
    assert!(matches!(answer(&mut net, leader, 1), Some(Ok(_))));
    assert!(matches!(ask(&mut net, leader, remove), Some(Ok(_))));
    assert_eq!(net.peer(leader).core.status().members.conf_state().voters.len(), 3);
}

/// To see it fail: take `leave_joint` and raft-rs's own attempt away, or let the new leader wait
/// for a change of its own.
#[test]
fn trap_R09_a_joint_configuration_is_left_by_the_next_leader() {
    let (mut net, leader) = three();
    for n in [4, 5] {
        join(&mut net, leader, n, None).unwrap();
        tick_with_snapshots(&mut net, 5);
    }
    let [first, second] = others(leader);
    let swap = [
        MemberChange::Promote(node(4)),
        MemberChange::Promote(node(5)),
        MemberChange::Remove(node(first)),
    ];
    net.step(leader, Input::Membership { request: change(&swap), dry_run: false, caller: 1 });
    // The change is committed, and the leader is gone before anybody hears of the end of it.
    for _ in 0..40 {
        net.sync(leader);
        for n in [first, second, 4, 5] {
            while net.deliver(leader, n) {}
            net.sync(n);
            while !members(&mut net, leader).is_joint() && net.deliver(n, leader) {}
        }
        if members(&mut net, leader).is_joint() {
            break;
        }
    }
    assert!(members(&mut net, leader).is_joint());
    net.kill(leader);
    for n in [first, second, 4, 5] {
        assert!(!members(&mut net, n).is_joint() || n != leader);
    }
    // Both halves of the joint configuration have a majority without the old leader. Whoever is removed
    // follows nobody.
    let next = net.elect_but(0);
    net.tick_all(12);
    let now = members(&mut net, next);
    assert!(!now.is_joint(), "{now:?}");
    let mut voters = now.conf_state().voters.clone();
    voters.sort_unstable();
    let mut expected = vec![leader, second, 4, 5];
    expected.sort_unstable();
    assert_eq!(voters, expected);
    if let Some(removed) = net.peers.get(&first) {
        assert_eq!(removed.core.status().role, Role::Removed);
    }
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

fn join_over_a_live_one(net: &mut Net, leader: u64, n: u64) -> Result<(), MembershipError> {
    let binding = Binding {
        node_id: node(n),
        directory_id: DirectoryId::from_bytes([9; 16]),
        incarnation: 1,
    };
    let join = Join { binding, addr: "127.0.0.1:9".to_owned(), was: None };
    ask(net, leader, MembershipRequest::Join(join)).unwrap().map(|_| ())
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

/// One snapshot is written at a time: what is asked for meanwhile comes to nothing. To see it fail: leave
/// `snapshot_asked` as it is when one is taken; or ask once for each index only.
#[test]
fn a_snapshot_that_is_wanted_while_an_older_one_is_written_is_asked_for_again() {
    let (mut net, leader) = three();
    net.propose(leader, 1);
    net.settle();
    net.tick_all(1);
    let older = net.write_snapshot(leader);
    assert_eq!(join(&mut net, leader, 4, None), Ok(4));
    net.tick_all(3);
    assert!(
        std::mem::take(&mut net.peer(leader).snapshot_wanted),
        "the older one names nobody new"
    );
    net.tick_all(3);
    assert!(!net.peer(leader).snapshot_wanted, "once for each index");
    // It may have come to nothing.
    let mut asked = 0;
    for _ in 0..4 * (config().election_ticks + 1) {
        net.tick_all(1);
        asked += u32::from(std::mem::take(&mut net.peer(leader).snapshot_wanted));
    }
    assert_eq!(asked, 4, "once in an election timeout");
    while !std::mem::take(&mut net.peer(leader).snapshot_wanted) {
        net.tick_all(1);
    }
    net.tick_all(3);
    assert!(!net.peer(leader).snapshot_wanted);
    net.step(leader, Input::SnapshotTaken(older));
    net.tick_all(3);
    assert!(net.peer(leader).snapshot_wanted);
    tick_with_snapshots(&mut net, 3);
    assert_eq!(role_on(&mut net, 4, 4), Some(MemberRole::Observer));
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

#[test]
fn what_would_lose_the_quorum_is_refused_and_says_why() {
    let (mut net, leader) = three();
    let [first, second] = others(leader);
    let refused = |net: &mut Net, changes: &[MemberChange]| {
        ask(net, leader, change(changes)).unwrap().unwrap_err()
    };
    let leads = refused(&mut net, &[MemberChange::Remove(node(leader))]);
    assert_eq!(leads, MembershipError::Leads(node(leader)));
    let stranger = refused(&mut net, &[MemberChange::Remove(node(9))]);
    assert_eq!(stranger, MembershipError::NoMember(node(9)));
    let twice = [MemberChange::Remove(node(first)), MemberChange::Demote(node(first))];
    assert_eq!(refused(&mut net, &twice), MembershipError::Unsound);
    assert_eq!(refused(&mut net, &[]), MembershipError::Unsound);

    net.kill(first);
    net.tick_all(config().election_ticks + 2);
    let lost = refused(&mut net, &[MemberChange::Demote(node(second))]);
    assert_eq!(lost, MembershipError::WouldLoseQuorum { voters: 2, live: 1, needed: 2 });
    // Asked for only, it changes nothing; and what nobody misses may go.
    let dead = change(&[MemberChange::Remove(node(first))]);
    net.step(leader, Input::Membership { request: dead.clone(), dry_run: true, caller: 5 });
    assert!(matches!(answer(&mut net, leader, 5), Some(Ok(_))));
    assert_eq!(net.peer(leader).core.status().members.len(), 3);
    ask(&mut net, leader, dead).unwrap().unwrap();
    assert_eq!(net.peer(leader).core.status().members.len(), 2);
    let follower = ask(&mut net, second, change(&[MemberChange::Demote(node(leader))])).unwrap();
    assert_eq!(follower, Err(MembershipError::NotLeader { leader: Some(node(leader)) }));
}

/// To see it fail: take the loop over `take_ready` out of `Core::new`.
#[test]
fn trap_R07_I05_a_restart_knows_the_members_before_its_first_tick() {
    let (mut net, leader) = three();
    let [gone, stays] = others(leader);
    net.kill(gone);
    net.tick_all(config().election_ticks + 2);
    ask(&mut net, leader, change(&[MemberChange::Remove(node(gone))])).unwrap().unwrap();
    net.propose(leader, 2);
    net.settle();
    net.propose(leader, 3);
    net.settle();
    for n in [leader, stays] {
        net.kill(n);
    }
    for n in [leader, stays] {
        net.start(n);
        let voters = members(&mut net, n).conf_state().voters.clone();
        assert_eq!(voters.len(), 2, "node {n}: {voters:?}");
    }
    net.elect();
}

#[test]
fn an_address_changes_without_raft() {
    let (mut net, leader) = three();
    let [moved, other] = others(leader);
    let addr = "127.0.0.1:77".to_owned();
    let request = MembershipRequest::Address { node: node(moved), addr: addr.clone() };
    ask(&mut net, leader, request.clone()).unwrap().unwrap();
    net.tick_all(1);
    assert_eq!(members(&mut net, other).of_node(node(moved)).unwrap().addr, addr);
    // Said again, nothing is written.
    let last = net.peer(leader).core.status().last_index;
    ask(&mut net, leader, request).unwrap().unwrap();
    assert_eq!(net.peer(leader).core.status().last_index, last);
}

#[test]
fn the_leader_knows_who_answers_and_an_observer_knows_that_nobody_leads_it() {
    let (mut net, leader) = three();
    join(&mut net, leader, 4, None).unwrap();
    tick_with_snapshots(&mut net, 5);
    assert_eq!(net.peer(4).core.last_answers(), [], "it does not lead");
    let answers = net.peer(leader).core.last_answers();
    assert_eq!(answers.iter().map(|answer| answer.member_id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(answers.iter().all(|answer| answer.liveness == Liveness::Live), "{answers:?}");
    let before = net.peer(leader).core.vitals();

    let [dead, _] = others(leader);
    net.kill(dead);
    net.tick_all(config().election_ticks + 1);
    let answers = net.peer(leader).core.last_answers();
    let silent = answers.iter().find(|answer| answer.member_id == dead).unwrap();
    let election = Duration::from_millis(config().tick_ms) * config().election_ticks;
    assert!(silent.liveness == Liveness::Silent && silent.ago >= Some(election), "{silent:?}");
    let live = |answer: &LastAnswer| answer.liveness == Liveness::Live;
    assert!(answers.iter().all(|answer| live(answer) || answer.member_id == dead));
    assert_eq!(net.peer(leader).core.vitals(), before, "heartbeats change no status");

    // It begins no election, and is ticked in time to know, and still does not take the dead for its leader.
    assert_eq!(net.peer(4).core.status().leader, Some(node(leader)));
    assert!(net.peer(4).core.idle_ticks() <= 2 * u64::from(config().election_ticks));
    [1, 2, 3].into_iter().filter(|n| *n != dead).for_each(|n| net.kill(n));
    net.tick_all(3 * config().election_ticks);
    let status = net.peer(4).core.status();
    assert_eq!((status.role, status.leader), (Role::Observer, None));
}

/// Ticks two nodes, and lets them settle between themselves, until one of them leads.
fn elect_between(net: &mut Net, [a, b]: [u64; 2]) -> u64 {
    for _ in 0..100 {
        for n in [a, b] {
            net.step(n, Input::Tick);
            net.sync(n);
        }
        for _ in 0..4 {
            while net.deliver(a, b) || net.deliver(b, a) {}
            net.sync(a);
            net.sync(b);
        }
        net.links.retain(|link, _| *link == (a, b) || *link == (b, a));
        if let Some(leads) =
            [a, b].into_iter().find(|n| net.peers[n].core.status().role == Role::Leader)
        {
            return leads;
        }
    }
    panic!("neither {a} nor {b} was elected");
}

/// A leader that is cut off proposes commands, and a change after them; another one takes over, and
/// none of it is ever committed.
fn a_change_that_is_lost(commands: u64) -> (Net, u64, u64) {
    let (mut net, old) = three();
    for command in 0..commands {
        net.propose(old, 100 + command);
    }
    let demote = change(&[MemberChange::Demote(node(others(old)[0]))]);
    net.step(old, Input::Membership { request: demote, dry_run: false, caller: 1 });
    net.sync(old);
    net.links.clear();
    let next = elect_between(&mut net, others(old));
    assert_eq!(answer(&mut net, old, 1), None);
    net.tick_all(3);
    assert_eq!(net.peer(old).core.status().leader, Some(node(next)));
    (net, old, next)
}

/// To see it fail: let `is_under_way` look at the index of the change alone.
#[test]
fn a_change_that_was_lost_with_its_term_bars_no_later_one() {
    let (mut net, old, next) = a_change_that_is_lost(20);
    net.step(next, Input::TransferLeader { to: Some(node(old)) });
    net.tick_all(3);
    let status = net.peer(old).core.status();
    assert_eq!(status.role, Role::Leader);
    assert!(status.last_index < 20, "the log is shorter than it was: {status:?}");
    let demote = change(&[MemberChange::Demote(node(others(old)[0]))]);
    assert!(matches!(ask(&mut net, old, demote), Some(Ok(_))));
}

/// To see it fail: have only an entry that changes the membership end the wait.
#[test]
fn whoever_waits_for_a_change_is_told_when_another_entry_has_its_place() {
    let (mut net, old, next) = a_change_that_is_lost(0);
    let lost = MembershipError::NotLeader { leader: Some(node(next)) };
    assert_eq!(answer(&mut net, old, 1), Some(Err(lost)));
}

/// To see it fail: have `step_snapshot` remember the members before raft-rs has looked at it.
#[test]
fn a_snapshot_that_raft_ignores_brings_no_members() {
    let (mut net, leader) = three();
    let [lags, moved] = others(leader);
    let mut announced = Vec::new();
    for addr in ["127.0.0.1:71", "127.0.0.1:72"] {
        let request = MembershipRequest::Address { node: node(moved), addr: addr.to_owned() };
        net.step(leader, Input::Membership { request, dry_run: false, caller: 1 });
        for _ in 0..4 {
            net.sync(leader);
            while net.deliver(leader, moved) {}
            net.sync(moved);
            while net.deliver(moved, leader) {}
        }
        net.links.clear();
        net.take_snapshot(leader);
        let status = net.peer(leader).core.status();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (leader, lags, status.term);
        let meta = message.mut_snapshot().mut_metadata();
        (meta.index, meta.term) = (status.applied_index, status.term);
        meta.set_conf_state(status.members.conf_state().clone());
        let head = net.copy_snapshot(leader, lags, &PeerMessage::Raft(message.clone()));
        announced.push((message, head.members));
    }
    let [older, newer] = announced.try_into().unwrap();
    let known = newer.1.clone();
    assert!(older.1.index() < known.index());
    for (message, members) in [newer, older] {
        let from = node(leader);
        net.peer(lags).core.step(Input::SnapshotReceived {
            from,
            message,
            members,
            catalogue: Catalogue::default(),
        });
    }
    net.turn(lags);
    net.sync(lags);
    assert_eq!(members(&mut net, lags), known);
    assert_eq!(net.peers[&lags].head.members, known);
}

/// To see it fail: keep the first strangers instead of the last.
#[test]
fn whoever_makes_members_up_keeps_no_later_member_from_being_answered() {
    let (mut net, leader) = three();
    let [lags, liar] = others(leader);
    net.tick_all(1);
    let term = net.peer(lags).core.status().term;
    let heartbeat = |net: &mut Net, from: u64, member: u64| {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        (message.from, message.to, message.term) = (member, lags, term);
        net.step(lags, Input::Peer { from: node(from), message: PeerMessage::Raft(message) });
    };
    for made_up in 1_000..1_200 {
        heartbeat(&mut net, liar, made_up);
    }
    net.links.clear();
    // The leader's node has another member by now.
    heartbeat(&mut net, leader, 7);
    let answers: Vec<u64> = net.links[&(lags, leader)]
        .iter()
        .filter_map(|answer| match answer {
            PeerMessage::Raft(answer) => Some(answer.to),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [7]);
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

#[test]
fn there_are_as_many_members_as_fit_into_a_table() {
    let (mut net, leader) = three();
    let join = |net: &mut Net, n: u64| {
        let directory_id = DirectoryId::from_bytes([n as u8; 16]);
        let binding = Binding { node_id: node(n), directory_id, incarnation: 1 };
        let join = Join { binding, addr: format!("127.0.0.1:{n}"), was: None };
        ask(net, leader, MembershipRequest::Join(join)).unwrap().map(|_| ())
    };
    for n in 4..=128 {
        assert_eq!(join(&mut net, n), Ok(()));
    }
    assert_eq!(join(&mut net, 129), Err(MembershipError::TooMany(128)));
    ask(&mut net, leader, change(&[MemberChange::Remove(node(77))])).unwrap().unwrap();
    assert_eq!(join(&mut net, 129), Ok(()));
}

fn said_by(net: &mut Net, from: (u64, u64), to: (u64, u64), kind: MessageType) -> Input<u64, u64> {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (from.1, to.1, net.peer(to.0).core.status().term);
    Input::Peer { from: node(from.0), message: PeerMessage::Raft(message) }
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
