//! What the core promises, schedule by schedule.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

mod catalogue;
mod churn;
mod failover;
mod membership;
mod sessions;

use super::net::{Net, config, kind, node};
use super::*;
use crate::config::AppendMode;
use crate::drops::DropCause;

#[test]
fn trap_R01_I07_no_append_and_no_acknowledgement_before_the_batch_is_durable() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    net.propose(leader, 7);
    assert_eq!(net.peer(leader).writes.len(), 1);
    assert_eq!(net.waiting(leader), Vec::<&PeerMessage>::new(), "the leader speaks too early");
    net.sync(leader);
    let kinds: Vec<_> = net.waiting(leader).into_iter().map(kind).collect();
    assert_eq!(kinds, [Some(MessageType::MsgAppend); 2]);
    let follower = leader % 3 + 1;
    assert!(net.deliver(leader, follower));
    assert_eq!(net.waiting(follower), Vec::<&PeerMessage>::new(), "the follower speaks too early");
    net.sync(follower);
    let kinds: Vec<_> = net.waiting(follower).into_iter().map(kind).collect();
    assert_eq!(kinds, [Some(MessageType::MsgAppendResponse)]);
    assert_eq!(net.peer(leader).answers, vec![]);
    assert!(net.deliver(follower, leader));
    assert_eq!(net.peer(leader).answers.len(), 1, "two of three hold it");
}

#[test]
fn trap_R01_heartbeats_go_on_while_the_disk_is_slow_and_nothing_else_does() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    net.propose(leader, 7);
    net.step(leader, Input::Tick);
    let kinds: Vec<_> = net.waiting(leader).into_iter().map(kind).collect();
    assert_eq!(kinds, [Some(MessageType::MsgHeartbeat); 2]);
    // An append that needs no write of its own still waits for the batch before it.
    net.propose(leader, 8);
    assert_eq!(net.waiting(leader).len(), 2);
    net.settle();
    assert_eq!(net.peer(leader).answers.len(), 2);
}

#[test]
fn trap_R02_a_single_voter_with_learners_reveals_nothing_before_its_vote_is_durable() {
    let mut net = Net::new(&[1], &[2], config());
    for _ in 0..100 {
        net.step(1, Input::Tick);
        if net.peer(1).core.status().role == Role::Leader {
            break;
        }
    }
    assert_eq!(net.peer(1).core.status().role, Role::Leader, "it won by itself, in memory");
    assert!(!net.peer(1).writes.is_empty());
    net.step(1, Input::Tick);
    assert_eq!(net.waiting(1), Vec::<&PeerMessage>::new(), "not even a heartbeat");
    net.sync(1);
    assert!(!net.waiting(1).is_empty());
    net.settle();
    net.propose(1, 5);
    net.settle();
    assert_eq!(net.peer(1).answers, vec![(5, Ok(3))]);
    assert_eq!(net.peer(2).applied.last().unwrap().0.index, 3);
}

fn parallel() -> LoopConfig {
    LoopConfig { append_mode: AppendMode::Parallel, ..config() }
}

#[test]
fn trap_R01_I16_in_parallel_an_entry_is_on_its_way_while_the_leader_writes_it() {
    let mut net = Net::new(&[1, 2, 3], &[], parallel());
    let leader = net.elect();
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let before = net.peer(leader).core.status();
    // The answer to another node's proposal goes first: it knows what it waits for.
    net.propose(second, 7);
    assert!(net.deliver(second, leader));
    assert_eq!(net.peer(leader).writes.len(), 1, "its own write has not come back");
    let to_second = &net.links[&(leader, second)];
    assert!(matches!(to_second[0], PeerMessage::Proposed { .. }), "{to_second:?}");
    assert_eq!(kind(&to_second[1]), Some(MessageType::MsgAppend));
    assert_eq!(to_second.len(), 2);

    // One follower has it, and the leader has not: that is no majority.
    assert!(net.deliver(leader, second) && net.deliver(leader, second));
    assert_eq!(net.waiting(second), Vec::<&PeerMessage>::new(), "an answer waits as ever");
    net.sync(second);
    assert!(net.deliver(second, leader));
    assert_eq!(net.peer(leader).core.status().commit_index, before.commit_index);
    // Both have it: it is committed, and not applied where it is not durable.
    assert!(net.deliver(leader, third));
    net.sync(third);
    assert!(net.deliver(third, leader));
    let status = net.peer(leader).core.status();
    assert_eq!(status.commit_index, before.commit_index + 1);
    assert_eq!(status.applied_index, before.applied_index);
    net.sync(leader);
    assert_eq!(net.peer(leader).core.status().applied_index, before.applied_index + 1);
    net.settle();
    net.tick_all(1);
    assert_eq!(net.peer(second).answers, vec![(7, Ok(before.commit_index + 1))]);
}

/// To see it fail, count the leader's own entries before they are durable, or let it answer an
/// append before its write: then what is committed is lost with it.
#[test]
fn a_leader_that_crashes_without_what_the_others_committed_takes_it_from_them() {
    let mut net = Net::new(&[1, 2, 3], &[], parallel());
    let leader = net.elect();
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    for caller in 0..5 {
        net.propose(leader, caller);
    }
    net.settle_but(leader);
    let committed = net.peer(leader).core.status().commit_index;
    assert_eq!(net.peer(leader).writes.len(), 5, "nothing of it is durable on the leader");
    net.tick_all_but(leader, 1);
    for follower in [second, third] {
        assert_eq!(net.peer(follower).core.status().applied_index, committed);
    }
    let term = net.peer(leader).core.status().term;
    net.kill(leader);
    net.start(leader);
    let restarted = net.peer(leader).core.status();
    assert_eq!((restarted.term, restarted.last_index), (term, committed - 5));
    // No heartbeat of the next leader counts on what it has lost: that would be taken for damage.
    let next = net.elect();
    assert_ne!(next, leader, "whoever lags is not elected");
    net.propose(next, 9);
    net.settle();
    net.tick_all(5);
    for n in 1..=3 {
        assert_eq!(net.peers[&n].applied, net.peers[&next].applied, "node {n}");
        assert_eq!(net.peers[&n].applied.last().unwrap().0.index, committed + 2, "node {n}");
    }
}

#[test]
fn trap_R02_in_parallel_a_single_voter_waits_for_its_vote_and_for_nothing_else() {
    let mut net = Net::new(&[1], &[2], parallel());
    for _ in 0..100 {
        net.step(1, Input::Tick);
        if net.peer(1).core.status().role == Role::Leader {
            break;
        }
    }
    assert_eq!(net.peer(1).core.status().role, Role::Leader, "it won by itself, in memory");
    // Its first entry is part of the same write as its vote; one more is not.
    net.propose(1, 5);
    assert_eq!(net.peer(1).writes.len(), 2);
    assert_eq!(net.waiting(1), Vec::<&PeerMessage>::new(), "the vote is not durable");
    let vote = net.peer(1).writes.pop_front().unwrap();
    let receipts = net.peer(1).writer.write(vec![vote]).unwrap();
    for durable in receipts {
        net.peer(1).core.step(Input::Durable(durable));
    }
    net.turn(1);
    let kinds: Vec<_> = net.waiting(1).into_iter().map(kind).collect();
    assert_eq!(kinds, [Some(MessageType::MsgAppend)]);
    assert!(net.deliver(1, 2));
    net.sync(2);
    assert!(net.deliver(2, 1));
    net.propose(1, 6);
    let kinds: Vec<_> = net.waiting(1).into_iter().map(kind).collect();
    assert_eq!(kinds, [Some(MessageType::MsgAppend); 2], "5 and 6, which are not durable here");
    assert_eq!(net.peer(1).writes.len(), 2);
    net.settle();
    assert_eq!(net.peer(1).answers, vec![(5, Ok(3)), (6, Ok(4))]);
    assert_eq!(net.peer(2).applied.last().unwrap().0.index, 4);
}

#[test]
fn trap_R06_a_single_voter_does_not_campaign_over_a_write_in_flight() {
    let mut net = Net::new(&[1], &[], config());
    net.elect();
    net.propose(1, 1);
    net.settle();
    net.kill(1);
    net.start(1);
    net.take_snapshot(1);
    assert_eq!(net.peer(1).writes.len(), 1, "the record of the snapshot is in flight");
    for _ in 0..100 {
        net.step(1, Input::Tick);
    }
    assert_ne!(net.peer(1).core.status().role, Role::Leader);
    net.sync(1);
    net.elect();
    net.propose(1, 2);
    net.settle();
    assert_eq!(net.peer(1).answers.len(), 1);
}

#[test]
fn the_only_voter_leads_again_without_waiting_for_anybody() {
    let mut net = Net::new(&[1], &[2], config());
    net.elect();
    net.propose(1, 1);
    net.settle();
    for n in [1, 2] {
        net.kill(n);
        net.start(n);
    }
    net.settle();
    assert_eq!([1, 2].map(|n| net.peer(n).campaign_after), [Some(std::time::Duration::ZERO), None]);
    net.step(1, Input::Campaign);
    net.settle();
    assert_eq!(net.peer(1).core.status().role, Role::Leader);

    let mut net = Net::new(&[1, 2, 3], &[], config());
    net.elect();
    net.kill(1);
    net.start(1);
    net.settle();
    assert_eq!(net.peer(1).campaign_after, None, "others may lead");
}

/// To see it fail, let `MsgTimeoutNow` through to a single voter whatever is in flight, in
/// `step_raft`: raft-rs asserts that it has persisted its log, and panics.
#[test]
fn trap_R06_R13_nobody_makes_a_single_voter_campaign_over_a_write_in_flight() {
    let mut net = Net::new(&[1], &[2], config());
    net.elect();
    net.propose(1, 1);
    // It gives way without a single tick, and its log is not on its disk.
    let term = net.peer(1).core.status().term + 1;
    for kind in [MessageType::MsgHeartbeatResponse, MessageType::MsgTimeoutNow] {
        let mut message = Message { from: 2, to: 1, term, ..Message::default() };
        message.set_msg_type(kind);
        net.step(1, Input::Peer { from: node(2), message: PeerMessage::Raft(message) });
    }
    assert_ne!(net.peer(1).core.status().role, Role::Leader);
    net.settle();
    net.elect();
    net.propose(1, 2);
    net.settle();
    let answer = net.peers[&1].answers.iter().find(|(caller, _)| *caller == 2);
    assert!(matches!(answer, Some((_, Ok(_)))), "{answer:?}");
}

#[test]
fn trap_R07_I09_a_compacted_log_is_gone_on_from_after_a_restart() {
    let mut net = Net::new(&[1, 2, 3], &[], LoopConfig { tail_entries: 2, ..config() });
    let leader = net.elect();
    for n in 0..20 {
        net.propose(leader, n);
    }
    net.settle();
    for n in 1..=3 {
        net.take_snapshot(n);
    }
    net.settle();
    let before = net.peer(leader).core.status();
    assert_eq!(before.snapshot_index, before.applied_index);
    assert_eq!(before.first_index, before.snapshot_index - 1);
    for n in 1..=3 {
        net.kill(n);
    }
    for n in 1..=3 {
        net.start(n);
        let after = net.peer(n).core.status();
        assert_eq!(after.applied_index, before.applied_index, "node {n}");
        assert_eq!(after.first_index, before.first_index, "node {n}");
        assert!(after.term >= before.term, "node {n}");
    }
    let leader = net.elect();
    net.propose(leader, 99);
    net.settle();
    assert_eq!(net.peer(leader).answers.len(), 1);
}

#[test]
fn trap_R11_I11_a_lost_snapshot_is_reported_and_sent_again_and_installed_once() {
    let mut net = Net::new(&[1, 2, 3], &[], LoopConfig { tail_bytes: 0, ..config() });
    let leader = net.elect();
    let absent = leader % 3 + 1;
    net.kill(absent);
    for n in 0..20 {
        net.propose(leader, n);
    }
    net.settle();
    net.take_snapshot(leader);
    net.settle();
    net.start(absent);
    // The leader probes, learns what is missing, and sends a snapshot; it gets lost.
    for _ in 0..50 {
        net.step(leader, Input::Tick);
        if !net.peer(leader).snapshots_sent.is_empty() {
            break;
        }
        while net.deliver(leader, absent) || net.deliver(absent, leader) {}
    }
    let lost = net.peer(leader).snapshots_sent.pop().unwrap();
    assert_eq!(lost.to.get(), absent);
    net.step(leader, Input::SnapshotSent { to: node(absent), received: false });
    for _ in 0..50 {
        for n in 1..=3 {
            net.step(n, Input::Tick);
        }
        net.settle();
    }
    let status = net.peer(absent).core.status();
    assert_eq!(status.snapshot_index, net.peers[&leader].core.status().snapshot_index);
    assert_eq!(status.applied_index, net.peers[&leader].core.status().applied_index);
    assert_eq!(net.peers[&absent].applied, net.peers[&leader].applied);
}

#[test]
fn trap_R12_what_is_not_committed_is_bounded() {
    let bounded = LoopConfig { uncommitted_bytes_max: 1_024, append_bytes_max: 512, ..config() };
    let mut net = Net::new(&[1, 2, 3], &[], bounded);
    let leader = net.elect();
    for caller in 0..3 {
        let command = Bytes::from(vec![0; 600]);
        net.step(leader, Input::Propose { proposal: command.into(), caller });
    }
    assert_eq!(
        net.peer(leader).answers,
        vec![(1, Err(ProposeError::Overloaded)), (2, Err(ProposeError::Overloaded))]
    );
    net.settle();
    assert_eq!(net.peer(leader).answers.len(), 3, "the first one is committed");
}

#[test]
fn trap_R12_what_is_still_to_be_applied_is_bounded_on_a_follower() {
    let by_entries = LoopConfig { apply_lag_max: 50, ..config() };
    let by_bytes = LoopConfig { apply_lag_bytes_max: 256 << 10, ..config() };
    for (config, command_bytes, lag_max) in [(by_entries, 8, 53), (by_bytes, 64 << 10, 7)] {
        let mut net = Net::new(&[1, 2, 3], &[], config);
        let leader = net.elect();
        let slow = leader % 3 + 1;
        let applied_index = net.peer(slow).core.status().applied_index;
        net.stalled = Some((slow, applied_index));
        for caller in 0..300 {
            let command = Bytes::from(vec![7; command_bytes]);
            net.step(leader, Input::Propose { proposal: command.into(), caller });
            net.settle();
        }
        assert_eq!(net.peer(leader).answers.len(), 300, "the others go on");
        let status = net.peer(slow).core.status();
        assert_eq!((status.role, status.applied_index), (Role::Follower, applied_index));
        let lag = status.last_index - applied_index;
        assert!((lag_max - 4..=lag_max).contains(&lag), "{lag}");
        net.tick_all(30);
        let status = net.peer(slow).core.status();
        assert_eq!(status.last_index - applied_index, lag, "nothing more is taken");
        assert_eq!((status.role, status.leader), (Role::Follower, Some(node(leader))));

        net.answer_stalled();
        net.tick_all(10);
        assert_eq!(net.peers[&slow].applied, net.peers[&leader].applied);
        let status = net.peer(slow).core.status();
        assert_eq!(status.applied_index, net.peer(leader).core.status().applied_index);
    }
}

#[test]
fn trap_R12_what_is_still_to_be_applied_is_bounded_on_a_leader() {
    let brief = LoopConfig { apply_lag_bytes_max: 256 << 10, ..config() };
    let mut net = Net::new(&[1, 2, 3], &[], brief);
    let leader = net.elect();
    net.settle();
    net.stalled = Some((leader, net.peers[&leader].core.status().applied_index));
    for caller in 0..100 {
        let command = Bytes::from(vec![7; 64 << 10]);
        net.step(leader, Input::Propose { proposal: command.into(), caller });
        net.settle();
    }
    let refused = |answer: &&(u64, Result<u64, ProposeError>)| answer.1.is_err();
    let answers = net.peers[&leader].answers.clone();
    let first = answers.iter().find(refused).unwrap();
    assert_eq!(first.1, Err(ProposeError::Overloaded));
    assert!((4..=7).contains(&first.0), "{}", first.0);
    assert!(answers.iter().filter(refused).count() == 100 - first.0 as usize);
    net.answer_stalled();
    net.propose(leader, 100);
    net.settle();
    assert!(matches!(net.peer(leader).answers.last(), Some((100, Ok(_)))));
}

#[test]
fn trap_R14_a_follower_forwards_in_our_own_protocol_or_not_at_all() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let follower = leader % 3 + 1;
    net.propose(follower, 4);
    let forwarded = net.waiting(follower);
    assert!(matches!(forwarded[..], [PeerMessage::Propose { .. }]), "{forwarded:?}");
    net.settle();
    let (answered, applied) = (net.peers[&follower].answers.clone(), &net.peers[&follower].applied);
    assert_eq!(answered, vec![(4, Ok(applied.last().unwrap().0.index))]);

    let mut net = Net::new(&[1, 2, 3], &[], LoopConfig { forward: false, ..config() });
    let leader = net.elect();
    let follower = leader % 3 + 1;
    net.propose(follower, 4);
    assert_eq!(net.waiting(follower), Vec::<&PeerMessage>::new());
    let refused = ProposeError::NotLeader { leader: Some(node(leader)) };
    assert_eq!(net.peer(follower).answers, vec![(4, Err(refused))]);
}

#[test]
fn trap_I16_a_commit_takes_two_syncs_in_sequence_and_no_tick() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    net.settle();
    net.propose(leader, 1);
    let follower = leader % 3 + 1;
    net.sync(leader);
    assert!(net.deliver(leader, follower));
    net.sync(follower);
    assert!(net.deliver(follower, leader));
    assert_eq!(net.peer(leader).answers.len(), 1);
    assert!(net.peer(leader).writes.is_empty(), "the new commit index rides in the next batch");
}

#[test]
fn a_leader_reads_from_disk_what_it_no_longer_holds_and_sends_a_snapshot_where_that_is_gone() {
    let late = LoopConfig { tail_bytes: 0, ..config() };
    let mut net = Net::with_cache(&[1, 2, 3], &[], late, 0);
    let leader = net.elect();
    let absent = leader % 3 + 1;
    net.kill(absent);
    for n in 0..50 {
        net.propose(leader, n);
        net.settle();
    }
    net.start(absent);
    // Up to the point where entries are being read, and no further.
    net.hold_fetches = true;
    for _ in 0..50 {
        net.step(leader, Input::Tick);
        net.settle();
        if !net.fetches.is_empty() {
            break;
        }
    }
    assert!(!net.fetches.is_empty(), "entries come from disk");
    // Meanwhile they are compacted, in memory and on disk: the answer comes too late.
    net.take_snapshot(leader);
    net.settle();
    net.hold_fetches = false;
    net.answer_fetches();
    for _ in 0..50 {
        for n in 1..=3 {
            net.step(n, Input::Tick);
        }
        net.settle();
    }
    assert_eq!(net.peers[&absent].applied, net.peers[&leader].applied);
    assert!(net.peers[&absent].core.status().snapshot_index > 1, "by snapshot");

    // And once more without a snapshot: from disk alone.
    net.kill(absent);
    for n in 50..100 {
        net.propose(leader, n);
        net.settle();
    }
    net.start(absent);
    for _ in 0..50 {
        for n in 1..=3 {
            net.step(n, Input::Tick);
        }
        net.settle();
    }
    assert_eq!(net.peers[&absent].applied, net.peers[&leader].applied);
}

/// A large snapshot takes longer to arrive than the next one to come due.
#[test]
fn trap_R11_what_follows_a_snapshot_on_its_way_is_kept() {
    for (tail_bytes, is_enough) in [(64 << 20, true), (1, false)] {
        let brief = LoopConfig { tail_entries: 0, tail_bytes, ..config() };
        let mut net = Net::new(&[1, 2, 3], &[], brief);
        let leader = net.elect();
        let absent = leader % 3 + 1;
        net.kill(absent);
        (0..20).for_each(|n| net.propose(leader, n));
        // Until it does not count any more as one that answers.
        net.tick_all(2 * config().election_ticks);
        net.take_snapshot(leader);
        net.settle();
        net.start(absent);
        for _ in 0..50 {
            net.step(leader, Input::Tick);
            if !net.peer(leader).snapshots_sent.is_empty() {
                break;
            }
            while net.deliver(leader, absent) || net.deliver(absent, leader) {}
        }
        let under_way = std::mem::take(&mut net.peer(leader).snapshots_sent);
        assert_eq!(under_way.len(), 1);
        for n in 20..40 {
            net.propose(leader, n);
        }
        net.settle();
        net.take_snapshot(leader);
        net.settle();
        let snapshot_index = net.peer(leader).core.status().snapshot_index;
        net.peer(leader).snapshots_sent = under_way;
        net.tick_all(10);
        assert_eq!(net.peers[&absent].applied, net.peers[&leader].applied);
        let installed_index = net.peer(absent).core.status().snapshot_index;
        assert_eq!(installed_index < snapshot_index, is_enough, "{installed_index}");
    }
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_follows_until_it_can_write() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let old = net.elect();
    net.settle();
    net.propose(old, 7);
    for _ in 0..=net.config.election_ticks {
        net.step(old, Input::Tick);
        net.settle_but(old);
    }
    assert_ne!(net.peer(old).core.status().role, Role::Leader);
    let new = net.elect_but(old);
    assert_ne!(new, old);
    net.propose(new, 8);
    net.settle_but(old);
    assert_eq!(net.peer(new).answers.len(), 1, "the others go on");
    net.settle();
    net.tick_all(20);
    assert_eq!(
        net.peers[&old].applied, net.peers[&new].applied,
        "it follows when it can write again"
    );
    let lost = ProposeError::NotLeader { leader: Some(node(new)) };
    assert_eq!(net.peer(old).answers, vec![(7, Err(lost))]);
}

#[test]
fn trap_E06_a_leader_without_room_hands_over_at_once() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let old = net.elect();
    net.settle();
    let term = net.peer(old).core.status().term;
    net.propose(old, 7);
    net.step(old, Input::StorageFull);
    let status = net.peer(old).core.status();
    assert_eq!((status.role, status.term, status.leader), (Role::Follower, term, None));
    assert!(status.storage_full);
    let said: Vec<_> = net.waiting(old).into_iter().map(kind).collect();
    assert_eq!(said, [Some(MessageType::MsgTimeoutNow)], "to one, and nothing of the batch");
    // Without a single tick: the successor is told, not left to find out.
    net.settle_but(old);
    let (mut new, mut leaders) = (0, 0);
    for n in (1..=3).filter(|n| *n != old) {
        if net.peer(n).core.status().role == Role::Leader {
            (new, leaders) = (n, leaders + 1);
        }
    }
    assert_eq!(leaders, 1);
    net.propose(new, 8);
    net.settle_but(old);
    assert_eq!(net.peer(new).answers.len(), 1, "the others go on");

    // However long it lasts it never campaigns, keeps its leader, and the leader keeps hearing it.
    for _ in 0..10 * net.config.election_ticks {
        for n in 1..=3 {
            net.step(n, Input::Tick);
        }
        net.settle_but(old);
    }
    let full = net.peer(old).core.status();
    assert_eq!((full.role, full.leader), (Role::Follower, Some(node(new))));
    assert_eq!(net.peer(new).core.status().role, Role::Leader);

    // There is room.
    net.settle();
    net.tick_all(20);
    assert!(!net.peer(old).core.status().storage_full);
    assert_eq!(net.peers[&old].applied, net.peers[&new].applied);
    assert_eq!(net.peer(old).answers, vec![(7, Err(ProposeError::TimedOut))], "long ago");
    net.propose(old, 9);
    net.settle();
    assert_eq!(net.peer(old).answers.len(), 2, "what it forwards is taken again");
}

#[test]
fn trap_E06_a_node_without_room_refuses_proposals_and_says_why() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let follower = leader % 3 + 1;
    net.settle();
    net.step(follower, Input::StorageFull);
    net.propose(follower, 1);
    assert_eq!(net.peer(follower).answers, vec![(1, Err(ProposeError::StorageFull))]);
    // And what another node forwards to it.
    let other = follower % 3 + 1;
    let command = Bytes::from_static(b"command");
    let message = PeerMessage::Propose { request: 5, proposal: command.into() };
    net.step(follower, Input::Peer { from: node(other), message });
    let refused = PeerMessage::Proposed { request: 5, result: Err(Refused::StorageFull) };
    assert_eq!(net.waiting(follower), vec![&refused]);
    assert!(ProposeError::from(Refused::StorageFull).never_applied());
    // Nor does it campaign because it is told to.
    let term = net.peer(follower).core.status().term;
    let mut campaign = Message::default();
    campaign.set_msg_type(MessageType::MsgTimeoutNow);
    (campaign.from, campaign.to, campaign.term) = (leader, follower, term);
    net.step(follower, Input::Peer { from: node(leader), message: PeerMessage::Raft(campaign) });
    assert_eq!(net.peer(follower).core.status().term, term);
}

#[test]
fn a_follower_without_room_answers_heartbeats_and_holds_a_bounded_part_of_the_log() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    net.settle();
    let follower = leader % 3 + 1;
    net.propose(leader, 0);
    net.sync(leader);
    assert!(net.deliver(leader, follower));
    net.step(follower, Input::StorageFull);
    let given_out = net.peer(follower).writes.len();
    for caller in 1..200 {
        net.propose(leader, caller);
        net.step(leader, Input::Tick);
        net.settle_but(follower);
    }
    assert_eq!(net.peer(leader).core.status().role, Role::Leader);
    assert_eq!(net.peer(leader).answers.len(), 200);
    let said = net.peer(follower).core.status();
    assert_eq!(said.leader, Some(node(leader)), "it heard every heartbeat");
    assert!(said.dropped > 0);
    assert_eq!(net.peer(follower).writes.len(), given_out, "nothing more is kept in memory");
    net.settle();
    net.tick_all(20);
    assert_eq!(net.peers[&follower].applied, net.peers[&leader].applied);
}

#[test]
fn a_follower_whose_disk_is_slow_takes_no_more_than_its_bound() {
    let small = LoopConfig {
        command_bytes_max: 4 << 10,
        append_bytes_max: 4 << 10,
        uncommitted_bytes_max: 16 << 10,
        ..config()
    };
    let mut net = Net::new(&[1, 2, 3], &[], small);
    let leader = net.elect();
    net.settle();
    let follower = leader % 3 + 1;
    for caller in 0..100 {
        let command = Bytes::from(vec![1; 1 << 10]);
        net.step(leader, Input::Propose { proposal: command.into(), caller });
        net.settle_but(follower);
    }
    assert_eq!(net.peer(leader).answers.iter().filter(|(_, answer)| answer.is_ok()).count(), 100);
    let entries = net.peer(follower).writes.iter().flat_map(|write| &write.entries);
    let bytes: usize = entries.map(|entry| entry.data.len()).sum();
    assert!((8 << 10..=20 << 10).contains(&bytes), "{bytes}");
    net.settle();
    net.tick_all(20);
    assert_eq!(net.peers[&follower].applied, net.peers[&leader].applied);
}

#[test]
fn a_single_voter_without_room_stays_and_goes_on_when_there_is() {
    let mut net = Net::new(&[1], &[], config());
    net.elect();
    net.propose(1, 1);
    net.step(1, Input::StorageFull);
    net.propose(1, 2);
    for _ in 0..5 * net.config.election_ticks {
        net.step(1, Input::Tick);
    }
    let status = net.peer(1).core.status();
    assert_eq!((status.role, status.storage_full), (Role::Leader, true));
    net.step(1, Input::Read { caller: 1 });
    assert_eq!(net.peer(1).reads.len(), 1, "reads go on");
    net.sync(1);
    net.propose(1, 3);
    net.sync(1);
    let answers = &net.peer(1).answers;
    assert_eq!(answers[0], (2, Err(ProposeError::StorageFull)));
    assert_eq!(answers[1], (1, Err(ProposeError::TimedOut)), "its own end, whatever comes of it");
    assert_eq!((answers[2].0, answers[2].1.is_ok()), (3, true));
    assert!(!net.peer(1).core.status().storage_full);
}

#[test]
fn many_proposals_share_one_write_and_one_append() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    for caller in 0..100u64 {
        let command = Bytes::copy_from_slice(&caller.to_le_bytes());
        net.peer(leader).core.step(Input::Propose { proposal: command.into(), caller });
    }
    net.turn(leader);
    assert_eq!(net.peer(leader).writes.len(), 1);
    assert_eq!(net.peer(leader).writes[0].entries.len(), 100);
    net.sync(leader);
    assert_eq!(net.waiting(leader).len(), 2, "one append for each follower");
    net.settle();
    assert_eq!(net.peer(leader).answers.len(), 100);
}

#[test]
fn trap_I18_a_deposed_leader_says_which_proposals_are_lost() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let old = net.elect();
    // It appends, and nobody hears of it.
    net.propose(old, 1);
    net.sync(old);
    net.links.clear();
    let others: Vec<u64> = (1..=3).filter(|n| *n != old).collect();
    for _ in 0..100 {
        for &n in &others {
            net.step(n, Input::Tick);
            if !net.peer(n).writes.is_empty() {
                net.sync(n);
            }
        }
        net.links.retain(|(from, to), _| *from != old && *to != old);
        while net.deliver(others[0], others[1]) || net.deliver(others[1], others[0]) {}
    }
    let new = *others
        .iter()
        .find(|n| net.peers[n].core.status().role == Role::Leader)
        .expect("the others elect a leader");
    net.propose(new, 2);
    for _ in 0..20 {
        for n in 1..=3 {
            net.step(n, Input::Tick);
        }
        net.settle();
    }
    let answers = &net.peers[&old].answers;
    assert_eq!(*answers, vec![(1, Err(ProposeError::NotLeader { leader: Some(node(new)) }))]);
    assert_eq!(net.peers[&new].answers.len(), 1);
}

#[test]
fn reads_wait_for_a_quorum_and_for_the_own_state_machine() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let follower = leader % 3 + 1;
    net.propose(leader, 1);
    net.settle();
    let committed = net.peer(leader).core.status().commit_index;
    net.step(leader, Input::Read { caller: 1 });
    assert_eq!(net.peer(leader).reads, vec![], "no quorum has confirmed the leader");
    net.settle();
    assert_eq!(net.peer(leader).reads, vec![(1, Ok(committed))]);
    net.step(follower, Input::Read { caller: 2 });
    net.settle();
    assert_eq!(net.peer(follower).reads, vec![(2, Ok(committed))]);
    // Without a quorum it ends by its deadline.
    for n in (1..=3).filter(|n| *n != leader) {
        net.kill(n);
    }
    net.step(leader, Input::Read { caller: 3 });
    for _ in 0..net.config.request_ticks() {
        net.step(leader, Input::Tick);
    }
    assert_eq!(net.peer(leader).reads.last(), Some(&(3, Err(ReadError::TimedOut))));
}

#[test]
fn a_message_for_a_lost_log_stops_the_group() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    net.elect();
    let last = net.peer(1).core.status().last_index;
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to) = (2, 1);
    heartbeat.term = net.peer(1).core.status().term;
    heartbeat.commit = last + 1;
    let message = PeerMessage::Raft(heartbeat);
    net.peer(1).core.step(Input::Peer { from: node(2), message });
    let effects = net.peer(1).core.effects();
    assert!(effects.log_is_lost);
    assert_eq!(effects.dropped, [DropCause::LostLog]);
    let fatal = effects.fatal.unwrap();
    assert!(fatal.contains("format a new one"), "{fatal}");
}

/// What a random schedule does next.
#[derive(Debug, Clone)]
enum Act {
    Tick(u64),
    Sync(u64),
    Deliver(u64, u64),
    Drop(u64, u64),
    Propose(u64),
    Read(u64),
    Snapshot(u64),
    Transfer(u64),
    Unreachable(u64, u64),
    Gone(u64, u64),
    Campaign(u64),
    HandOver(u64),
    Full(u64),
    Compact(u64),
    Restart(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let n = || 1..=3u64;
    prop_oneof![
        12 => n().prop_map(Act::Tick),
        20 => n().prop_map(Act::Sync),
        40 => (n(), n()).prop_map(|(a, b)| Act::Deliver(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Act::Drop(a, b)),
        12 => n().prop_map(Act::Propose),
        4 => n().prop_map(Act::Read),
        2 => n().prop_map(Act::Snapshot),
        4 => n().prop_map(Act::Transfer),
        2 => (n(), n()).prop_map(|(a, b)| Act::Unreachable(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Act::Gone(a, b)),
        2 => n().prop_map(Act::Campaign),
        1 => n().prop_map(Act::HandOver),
        2 => n().prop_map(Act::Full),
        1 => n().prop_map(Act::Compact),
        1 => n().prop_map(Act::Restart),
    ]
}

/// An act that concerns no caller.
fn perform(net: &mut Net, act: Act) {
    match act {
        Act::Tick(n) => net.step(n, Input::Tick),
        Act::Sync(n) => net.sync(n),
        Act::Deliver(a, b) => drop(net.deliver(a, b)),
        Act::Drop(a, b) => drop(net.links.remove(&(a, b))),
        Act::Transfer(n) => net.transfer_snapshots(n),
        Act::Unreachable(a, b) => {
            net.links.remove(&(a, b));
            net.step(a, Input::Unreachable(node(b)));
        }
        // Rightly or not.
        Act::Gone(a, b) => net.step(a, Input::Gone(node(b))),
        Act::Campaign(n) => net.step(n, Input::Campaign),
        Act::HandOver(n) => net.step(n, Input::TransferLeader { to: None }),
        // Only what is to be written can find the disk full; its receipt ends it.
        Act::Full(n) => {
            if !net.peers[&n].writes.is_empty() {
                net.step(n, Input::StorageFull);
            }
        }
        Act::Compact(n) => net.step(n, Input::CompactionWanted),
        Act::Snapshot(n) => net.take_snapshot(n),
        Act::Propose(_) | Act::Read(_) | Act::Restart(_) => {}
    }
}

/// The highest index that any caller was told of.
fn acknowledged(net: &Net) -> u64 {
    let answers = net.peers.values().flat_map(|peer| &peer.answers);
    answers.filter_map(|(_, answer)| answer.as_ref().ok().copied()).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any order of ticks, fsyncs, full disks, deliveries, losses, snapshots and kills: never two leaders in
    /// a term, never two entries at an index, never a term that goes back; and once the schedule
    /// is kind again, every node applies the same, and every caller was answered once.
    #[test]
    fn trap_R03_R04_R05_any_schedule_is_safe_and_ends_well(
        acts in proptest::collection::vec(act(), 1..400),
        append_mode in prop_oneof![Just(AppendMode::AfterWrite), Just(AppendMode::Parallel)],
        tail_bytes in prop_oneof![Just(0), Just(64 << 20)],
    ) {
        let config = LoopConfig { tail_entries: 3, tail_bytes, append_mode, ..config() };
        let mut net = Net::new(&[1, 2, 3], &[], config);
        let mut next = 0;
        let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
        let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
        let mut reads: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for act in acts {
            match act.clone() {
                Act::Propose(n) => { next += 1; asked.insert(next, n); net.propose(n, next); }
                Act::Read(n) => {
                    next += 1;
                    reads.insert(next, (n, acknowledged(&net)));
                    net.step(n, Input::Read { caller: next });
                }
                Act::Restart(n) => {
                    let durable = net.peers[&n].core.status().term;
                    let speaks = net.peers[&n].writes.is_empty();
                    asked.retain(|_, on| *on != n);
                    reads.retain(|_, (on, _)| *on != n);
                    net.kill(n);
                    net.start(n);
                    if speaks {
                        prop_assert!(net.peers[&n].core.status().term >= durable);
                    }
                }
                act => perform(&mut net, act),
            }
            for (&n, peer) in &net.peers {
                let term = peer.core.status().term;
                let before = terms.insert(n, term).unwrap_or(0);
                prop_assert!(term >= before || matches!(act, Act::Restart(_)));
            }
        }
        for _ in 0..60 {
            for n in 1..=3 {
                net.step(n, Input::Tick);
            }
            net.settle();
        }
        let leader = net.elect();
        net.propose(leader, 1_000_000);
        for _ in 0..30 {
            for n in 1..=3 {
                net.step(n, Input::Tick);
            }
            net.settle();
        }
        let expected = net.peers[&leader].applied.clone();
        for n in 1..=3 {
            prop_assert_eq!(&net.peers[&n].applied, &expected, "node {}", n);
        }
        for _ in 0..net.config.request_ticks() {
            for n in 1..=3 {
                net.step(n, Input::Tick);
            }
            net.settle();
        }
        for (caller, (n, before)) in reads {
            let answers: Vec<_> =
                net.peers[&n].reads.iter().filter(|(c, _)| *c == caller).collect();
            prop_assert_eq!(answers.len(), 1, "read {} on node {}", caller, n);
            if let (_, Ok(index)) = answers[0] {
                prop_assert!(*index >= before, "a stale read: {} after {}", index, before);
            }
        }
        for (caller, n) in asked {
            let answers = &net.peers[&n].answers;
            let count = answers.iter().filter(|(c, _)| *c == caller).count();
            prop_assert_eq!(count, 1, "caller {} on node {}", caller, n);
            let told = answers.iter().find(|(c, _)| *c == caller);
            if let Some((_, Ok(index))) = told {
                let command = &net.history[index].1;
                prop_assert_eq!(command.as_ref(), &caller.to_le_bytes()[..]);
            }
            if let Some((_, Err(error))) = told
                && error.never_applied()
            {
                let applied = net.history.values().any(|(_, c)| c.as_ref() == caller.to_le_bytes());
                prop_assert!(!applied, "caller {} was told {} and was applied", caller, error);
            }
        }
    }
}
