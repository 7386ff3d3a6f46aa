//! Members that come, go, and take each other's place.

mod newcomers;
mod promotion;
mod removal;

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
