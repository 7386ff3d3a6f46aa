//! Client sessions on real nodes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_loop::{Session, SessionError, SessionProposeError};

use super::*;

/// Adds 1 again and again, until told to stop; the sums that it was answered with.
async fn count_up(session: Session<Tally>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut sums = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let applied = session.propose(tally::add(1), PATIENCE).await;
        sums.push(applied.unwrap_or_else(|error| panic!("{error}")).outcome);
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_and_dies_a_command_of_a_session_is_applied_once() {
    let mut cluster = Cluster::start(3, config_of_short_logs()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let session = cluster.nodes[&1].open_session(PATIENCE).await.unwrap();
        for _ in 0..4 {
            clients.push(tokio::spawn(count_up(session.clone(), stop.clone())));
        }
    }
    for _ in 0..6 {
        // The clients' own node stays; whoever else leads goes, with whatever was proposed to it.
        let status = cluster.until(1, |status| status.leader.is_some()).await;
        if status.leader == NodeId::new(1) {
            cluster.nodes[&1].transfer_leadership(None);
        }
        let other = |status: &GroupStatus| status.leader.is_some_and(|leader| leader.get() != 1);
        let leader = cluster.until(1, other).await.leader.unwrap().get();
        let before = cluster.nodes[&1].image().applied;
        cluster.close(leader).await;
        let more = cluster.nodes[&1].wait_applied(before + 50);
        tokio::time::timeout(PATIENCE, more).await.unwrap().unwrap();
        cluster.open(leader).await;
        let applied = cluster.nodes[&1].image().applied;
        let caught_up = cluster.nodes[&leader].wait_applied(applied);
        tokio::time::timeout(PATIENCE, caught_up).await.unwrap().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut sums = Vec::new();
    for client in clients {
        sums.extend(client.await.unwrap());
    }
    // Each addition was answered with a sum of its own, and nothing was added that was not answered.
    let expected: BTreeSet<u64> = (1..=sums.len() as u64).collect();
    let total = sums.len() as u64;
    assert_eq!(sums.into_iter().collect::<BTreeSet<u64>>(), expected);
    let last = cluster.nodes[&1].image().applied;
    cluster.agree(total, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_a_window_and_waits_for_it() {
    let cluster = Cluster::start(3, config()).await;
    let follower = 1 + cluster.leader().await % 3;
    let session = cluster.nodes[&follower].open_session(PATIENCE).await.unwrap();
    let mut under_way = Vec::new();
    for _ in 0..1_000 {
        let session = session.clone();
        let add = async move { session.propose(tally::add(1), PATIENCE).await.unwrap().outcome };
        under_way.push(tokio::spawn(add));
    }
    let mut sums = BTreeSet::new();
    for add in under_way {
        assert!(sums.insert(add.await.unwrap()));
    }
    assert_eq!(sums, (1..=1_000).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_hold_nobody_back() {
    let cluster = Cluster::start(3, config()).await;
    let session = cluster.nodes[&1].open_session(PATIENCE).await.unwrap();
    // More than a window of them, each gone as soon as it has proposed.
    let mut answered = 0;
    for _ in 0..600 {
        tokio::select! {
            biased;
            applied = session.propose(tally::add(1), PATIENCE) => {
                applied.unwrap();
                answered += 1;
            }
            () = std::future::ready(()) => {}
        }
    }
    assert!(answered < 300, "hardly anybody gave up");
    let applied = session.propose(tally::add(1_000), PATIENCE).await.unwrap();
    assert!((1_000 + answered..=1_600).contains(&applied.outcome), "{}", applied.outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_closed_is_expired_for_all_its_handles() {
    let cluster = Cluster::start(3, config()).await;
    let session = cluster.nodes[&2].open_session(PATIENCE).await.unwrap();
    let other = session.clone();
    let first = session.propose(tally::add(1), PATIENCE).await.unwrap();
    assert!(first.index > session.id());
    session.close(PATIENCE).await.unwrap();
    session.close(PATIENCE).await.unwrap();
    let expired = other.propose(tally::add(1), PATIENCE).await.unwrap_err();
    assert_eq!(expired, SessionProposeError::Expired);
    assert!(expired.never_applied());
    assert_eq!(cluster.add(2, 1).await.1, 2, "it was not applied");
    let again = cluster.nodes[&2].open_session(PATIENCE).await.unwrap();
    assert!(again.id() > first.index);
    assert_eq!(again.propose(tally::add(1), PATIENCE).await.unwrap().outcome, 3);
    let unsound = again.propose(Bytes::new(), PATIENCE).await.unwrap_err();
    assert_eq!(unsound, SessionProposeError::NotApplied(ProposeError::Unsound));
    assert_eq!(SessionError::Expired.to_string(), "the session has expired: open a new one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_session_says_what_it_does_not_know() {
    let mut cluster = Cluster::start(3, config()).await;
    let session = cluster.nodes[&1].open_session(PATIENCE).await.unwrap();
    for n in [2, 3] {
        cluster.close(n).await;
    }
    cluster.until(1, |status| status.leader.is_none()).await;
    // It leads no more and knows nobody who does.
    let within = Duration::from_millis(300);
    let failed = session.propose(tally::add(1), within).await.unwrap_err();
    let none = ProposeError::NotLeader { leader: None };
    assert_eq!(failed, SessionProposeError::NotApplied(none));
    // A try that may go on for longer than the outage ends well.
    let going_on = tokio::spawn(async move { session.propose(tally::add(1), PATIENCE).await });
    cluster.open(2).await;
    assert_eq!(going_on.await.unwrap().unwrap().outcome, 1);
}
