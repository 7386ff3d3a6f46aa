//! Requests of the application, and what becomes of those for which there is no place.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_loop::{CALLS_MAX, CallError, DropCause, LoopConfig, Node, Service, VITAL_CALLS_MAX};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::tally::Tally;
use crate::{Cluster, NodeId, PATIENCE, config};

const ORDINARY: &[u8] = b"work";
const VITAL: &[u8] = b"beat";

/// Answers with the request, but not before the gate is open; counts what it has taken on.
struct Gate {
    open: watch::Sender<bool>,
    taken: watch::Sender<[usize; 2]>,
}

impl Service for Gate {
    fn call(&self, _: NodeId, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let kind = usize::from(request.starts_with(VITAL));
        self.taken.send_modify(|taken| taken[kind] += 1);
        let mut open = self.open.subscribe();
        Box::pin(async move {
            open.wait_for(|open| *open).await.unwrap();
            request
        })
    }

    fn overloaded(&self) -> Bytes {
        Bytes::from_static(b"overloaded")
    }

    fn is_vital(&self, request: &Bytes) -> bool {
        request.starts_with(VITAL)
    }
}

impl Gate {
    async fn until_taken(&self, expected: [usize; 2]) {
        let mut taken = self.taken.subscribe();
        let reached = tokio::time::timeout(PATIENCE, taken.wait_for(|taken| *taken == expected));
        reached.await.unwrap_or_else(|_| panic!("{:?}", self.taken.borrow())).unwrap();
    }
}

/// A gate on node 1, and a node that calls it.
async fn gated() -> (Cluster, Arc<Gate>, Node<Tally>) {
    let gate = Gate { open: watch::Sender::new(false), taken: watch::Sender::new([0, 0]) };
    let gate = Arc::new(gate);
    let config = LoopConfig { request_timeout_ms: 120_000, ..config() };
    let mut cluster = Cluster::format(2, config);
    let gated = cluster.try_open_with(1, gate.clone()).await.unwrap();
    cluster.nodes.insert(1, gated);
    cluster.open(2).await;
    cluster.leader().await;
    let caller = cluster.nodes[&2].clone();
    (cluster, gate, caller)
}

fn one() -> NodeId {
    NodeId::new(1).unwrap()
}

fn call_many(caller: &Node<Tally>, request: &'static [u8], count: usize) -> JoinSet<Bytes> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let caller = caller.clone();
        calls.spawn(async move { caller.call(one(), Bytes::from_static(request)).await.unwrap() });
    }
    calls
}

async fn answer(caller: &Node<Tally>, request: Bytes) -> Result<Bytes, CallError> {
    tokio::time::timeout(PATIENCE, caller.call(one(), request)).await.unwrap()
}

/// To see it fail: let vital requests take the places of the others, or drop what has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_place_are_refused_at_once_and_vital_ones_have_places_of_their_own() {
    let (cluster, gate, caller) = gated().await;
    let refused = Bytes::from_static(b"overloaded");
    let work = call_many(&caller, ORDINARY, CALLS_MAX);
    gate.until_taken([CALLS_MAX, 0]).await;
    assert_eq!(answer(&caller, Bytes::from_static(ORDINARY)).await.as_ref(), Ok(&refused));

    let beats = call_many(&caller, VITAL, VITAL_CALLS_MAX);
    gate.until_taken([CALLS_MAX, VITAL_CALLS_MAX]).await;
    assert_eq!(answer(&caller, Bytes::from_static(VITAL)).await.as_ref(), Ok(&refused));
    let busy = |node: &Node<Tally>| {
        let dropped = node.metrics().dropped;
        dropped.into_iter().find(|(cause, _)| *cause == DropCause::Busy).map(|(_, count)| count)
    };
    assert_eq!(busy(&cluster.nodes[&1]), Some(2));

    // Nobody who had a place was forgotten, and all places are free again.
    gate.open.send_replace(true);
    for (calls, request) in [(work, ORDINARY), (beats, VITAL)] {
        let answers = tokio::time::timeout(PATIENCE, calls.join_all()).await.unwrap();
        assert!(answers.iter().all(|answer| answer == request));
        assert_eq!(answer(&caller, Bytes::from_static(request)).await.unwrap(), request);
    }
    assert_eq!(busy(&cluster.nodes[&1]), Some(2));
}

/// To see it fail: count requests and not their bytes; or ask of long ones whether they are vital.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_requests_are_bounded_together_and_never_vital() {
    let (_cluster, gate, caller) = gated().await;
    let refused = Bytes::from_static(b"overloaded");
    let long = Bytes::from(VITAL.repeat(4 << 20));
    let mut calls = JoinSet::new();
    for taken in 1..=4 {
        let (caller, long) = (caller.clone(), long.clone());
        calls.spawn(async move { caller.call(one(), long).await.unwrap().len() });
        gate.until_taken([0, taken]).await;
    }
    for request in [ORDINARY, &VITAL.repeat(300)] {
        let request = Bytes::copy_from_slice(request);
        assert_eq!(answer(&caller, request).await.as_ref(), Ok(&refused));
    }
    gate.open.send_replace(true);
    assert_eq!(answer(&caller, Bytes::from_static(VITAL)).await.unwrap(), VITAL);
    let answers = tokio::time::timeout(PATIENCE, calls.join_all()).await.unwrap();
    assert_eq!(answers, [16 << 20; 4]);
}
