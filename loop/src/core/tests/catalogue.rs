//! Groups that are created and removed.

use quorate_engine::GroupId;

use super::*;
use crate::catalogue::tests::{founders, id, ids};
use crate::catalogue_change::{CatalogueError, CatalogueRequest};

fn create(groups: impl IntoIterator<Item = u64>) -> CatalogueRequest {
    CatalogueRequest::Create { groups: ids(groups), voters: [1, 2, 3].map(node).to_vec() }
}

fn remove(groups: impl IntoIterator<Item = u64>) -> CatalogueRequest {
    CatalogueRequest::Remove { groups: ids(groups) }
}

/// Asks, and lets nothing else happen.
fn ask(net: &mut Net, n: u64, request: CatalogueRequest, caller: u64) {
    net.step(n, Input::Catalogue { request, caller });
}

/// What node `n` was told last.
fn groups(net: &Net, n: u64) -> Vec<GroupId> {
    let (catalogue, _) = net.peers[&n].catalogues.last().unwrap();
    catalogue.iter().map(|(group, _)| group).collect()
}

fn answers(net: &Net, n: u64) -> Vec<(u64, Result<u64, CatalogueError>)> {
    net.peers[&n].catalogued.clone()
}

#[test]
fn groups_are_created_and_removed_on_every_node_or_not_at_all() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    let follower = leader % 3 + 1;
    ask(&mut net, follower, create([2]), 1);
    let not_leader = CatalogueError::NotLeader { leader: Some(node(leader)) };
    assert_eq!(answers(&net, follower), [(1, Err(not_leader))]);
    ask(&mut net, leader, create(2..=500), 2);
    assert_eq!(answers(&net, leader), [], "nothing is committed");
    // All that is proposed before the first is committed passes the leader's own check.
    ask(&mut net, leader, create([500, 501]), 3);
    ask(&mut net, leader, create([501]), 4);
    ask(&mut net, leader, remove([7]), 5);
    net.settle();
    let first = net.history.len() as u64;
    net.propose(leader, 9);
    ask(&mut net, leader, remove([7, 8]), 6);
    ask(&mut net, leader, remove([8, 9]), 7);
    ask(&mut net, leader, create([8]), 8);
    net.settle();
    let refused = |told: &(u64, Result<u64, CatalogueError>)| told.1.clone().unwrap_err();
    let told = answers(&net, leader);
    let callers: Vec<u64> = told.iter().map(|(caller, _)| *caller).collect();
    assert_eq!(callers, [5, 2, 3, 4, 8, 6, 7], "each once");
    assert_eq!(refused(&told[0]), CatalogueError::NoGroup(id(7)));
    let at = told[1].1.clone().unwrap();
    assert_eq!(refused(&told[2]), CatalogueError::Exists(id(500)), "void");
    assert_eq!(told[3].1, Ok(at + 2));
    assert_eq!(refused(&told[4]), CatalogueError::Exists(id(8)));
    assert_eq!(told[5].1, Ok(at + 4));
    assert_eq!(refused(&told[6]), CatalogueError::NoGroup(id(8)));
    assert_eq!(first, at + 1, "the history begins at 2, and what is void stands in it");
    net.tick_all(2);
    for n in 1..=3 {
        let expected: Vec<GroupId> = ids((2..=501).filter(|number| ![7, 8].contains(number)));
        assert_eq!(groups(&net, n), expected, "node {n}");
        let (catalogue, _) = net.peers[&n].catalogues.last().unwrap();
        assert_eq!(**catalogue.founders(id(2)).unwrap(), *founders([1, 2, 3]));
        assert_eq!((catalogue.next_group_id(), catalogue.index()), (502, at + 4));
        assert_eq!(net.peers[&n].head.catalogue, *catalogue, "the state machine is told the same");
    }
    ask(&mut net, leader, create([8]), 10);
    let spent = CatalogueError::Spent { group: id(8), next: 502 };
    assert_eq!(answers(&net, leader).last().unwrap(), &(10, Err(spent)));
}

/// To see it fail, set `must_record` nowhere: a node that is killed after it has removed a group takes
/// it for one that it has yet to begin.
#[test]
fn what_a_node_was_told_of_the_groups_it_knows_after_a_crash() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    for (caller, request) in (1..).zip([create(2..=4), remove([3])]) {
        let leader = net.elect();
        ask(&mut net, leader, request, caller);
        net.settle();
        net.tick_all(1);
        for n in 1..=3 {
            let told = net.peers[&n].catalogues.last().unwrap().clone();
            assert!(told.1, "node {n}: the commit index is in the write of the very effects");
            net.sync(n);
            net.kill(n);
            net.start(n);
            let (first, _) = net.peers[&n].catalogues.first().unwrap();
            assert_eq!(*first, told.0, "node {n}");
            assert!(net.peers[&n].writes.is_empty(), "it was durable when it was read");
        }
    }
}

#[test]
fn the_groups_are_in_the_snapshot() {
    let mut net = Net::new(&[1, 2, 3], &[], LoopConfig { tail_entries: 2, ..config() });
    let leader = net.elect();
    ask(&mut net, leader, create(2..=9), 1);
    net.settle();
    net.tick_all(2);
    let [follower, away] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    net.kill(away);
    ask(&mut net, leader, remove([3]), 2);
    ask(&mut net, leader, create([12]), 3);
    net.settle();
    for n in 0..20 {
        net.propose(leader, n);
    }
    net.settle();
    net.tick_all(2);
    for n in [leader, follower] {
        net.take_snapshot(n);
    }
    net.settle();
    net.start(away);
    assert_eq!(groups(&net, away), ids(2..=9), "as it left");
    net.tick_all(30);
    assert_eq!(groups(&net, away), ids([2, 4, 5, 6, 7, 8, 9, 12]));
    assert!(net.peers[&away].applied.len() > 20, "it was sent a snapshot");
    for n in [leader, follower, away] {
        net.kill(n);
    }
    for n in [leader, follower, away] {
        net.start(n);
        assert_eq!(groups(&net, n), ids([2, 4, 5, 6, 7, 8, 9, 12]), "node {n}");
    }
}

#[test]
fn whoever_asks_is_told_once_however_it_ends() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    // Nobody hears of it, and somebody else leads.
    ask(&mut net, leader, create([2]), 1);
    ask(&mut net, leader, create([3]), 2);
    net.links.clear();
    let others: Vec<u64> = (1..=3).filter(|n| *n != leader).collect();
    let mut ticks = 0;
    while !others.iter().any(|n| net.peers[n].core.status().role == Role::Leader) {
        for n in &others {
            net.step(*n, Input::Tick);
            net.sync(*n);
        }
        for from in &others {
            for to in &others {
                while net.deliver(*from, *to) {
                    net.sync(*to);
                }
            }
        }
        ticks += 1;
        assert!(ticks < 1_000);
    }
    net.settle();
    net.tick_all(3);
    let successor = net.elect();
    let lost = CatalogueError::NotLeader { leader: Some(node(successor)) };
    let told = answers(&net, leader);
    assert_eq!(told[0], (1, Err(lost)), "another entry stands in its place");
    // Of the second that is not known until something stands where it stood, or it has waited enough.
    for n in 0..3 {
        net.propose(successor, n);
    }
    net.settle();
    net.tick_all(3);
    assert_eq!(answers(&net, leader).len(), 2);
    // One that waits at the end is told that nobody knows.
    ask(&mut net, successor, create([2]), 3);
    let effects = net.peer(successor).core.end(&ProposeError::ShutDown);
    assert_eq!(effects.catalogued, [(3, Err(CatalogueError::Unknown))]);
    // And so is one that nobody answers.
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    ask(&mut net, leader, create([2]), 4);
    net.links.clear();
    for _ in 0..100 {
        net.step(leader, Input::Tick);
        net.links.clear();
    }
    assert_eq!(answers(&net, leader), [(4, Err(CatalogueError::Unknown))]);
}

/// raft-rs counts none of their bytes.
#[test]
fn no_more_changes_wait_than_there_is_room_for() {
    let mut net = Net::new(&[1, 2, 3], &[], config());
    let leader = net.elect();
    for caller in 0..1_000 {
        ask(&mut net, leader, create([2 + caller]), caller);
    }
    let told = answers(&net, leader);
    assert_eq!(
        told,
        (256..1_000).map(|n| (n, Err(CatalogueError::Overloaded))).collect::<Vec<_>>()
    );
    net.settle();
    ask(&mut net, leader, create([1_000]), 1_000);
    net.settle();
    let done = |told: &&(u64, Result<u64, CatalogueError>)| told.1.is_ok();
    assert_eq!(answers(&net, leader).iter().filter(done).count(), 257);
}
