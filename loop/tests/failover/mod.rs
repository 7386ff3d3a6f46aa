//! A leader that dies, and one that is only silent.

use std::collections::BTreeSet;

use crate::{Cluster, LoopConfig, NodeId, PATIENCE, config, tally};

/// A cluster that node 1 leads. The others notice by themselves that nobody leads after half an hour
/// only: if another leads before, it is not for its election timeout.
async fn led_by_one() -> Cluster {
    let mut cluster = Cluster::format(3, config());
    cluster.open(1).await;
    cluster.config =
        LoopConfig { election_ticks: 100_000, request_timeout_ms: 2_000_000, ..config() };
    cluster.open(2).await;
    cluster.open(3).await;
    for n in 1..=3 {
        cluster.until(n, |status| status.leader == NodeId::new(1)).await;
    }
    cluster
}

async fn until_gone(cluster: &Cluster, n: u64, gone: &[u64]) {
    let gone: BTreeSet<_> = gone.iter().filter_map(|n| NodeId::new(*n)).collect();
    let mut watch = cluster.nodes[&n].watch_gone();
    let waiting = tokio::time::timeout(PATIENCE, watch.wait_for(|now| *now == gone)).await;
    waiting.unwrap_or_else(|_| panic!("{:?}", cluster.nodes[&n].watch_gone().borrow())).unwrap();
}

/// To see it fail: leave `Input::Gone` out of the driver, or the lease with its follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_R16_a_leader_whose_process_is_gone_is_succeeded_long_before_an_election_timeout() {
    let mut cluster = led_by_one().await;
    assert_eq!(cluster.add(2, 1).await.1, 1);
    let term = cluster.nodes[&2].status().term;
    // Node 1, and then whoever has succeeded it.
    for _ in 0..2 {
        let dead = cluster.leader().await;
        let left: Vec<u64> = (1..=3).filter(|n| *n != dead).collect();
        cluster.close(dead).await;
        for n in &left {
            until_gone(&cluster, *n, &[dead]).await;
            let live = |leader: NodeId| left.contains(&leader.get());
            let status = cluster.until(*n, |status| status.leader.is_some_and(live)).await;
            assert!(status.term > term, "{status:?}");
        }
        let sum = cluster.add(left[0], 1).await.1;
        // It comes back, and is there for everybody.
        cluster.open(dead).await;
        for n in &left {
            until_gone(&cluster, *n, &[]).await;
        }
        let (index, _) = cluster.add(dead, 1).await;
        cluster.agree(sum + 1, index).await;
    }
}

/// A follower that dies is found to be gone too, and nothing comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_R16_the_death_of_a_follower_costs_no_leadership() {
    let mut cluster = led_by_one().await;
    let term = cluster.nodes[&1].status().term;
    cluster.close(3).await;
    until_gone(&cluster, 1, &[3]).await;
    until_gone(&cluster, 2, &[3]).await;
    assert_eq!(cluster.nodes[&2].propose(tally::add(1)).await.unwrap().outcome, 1);
    let status = cluster.nodes[&2].status();
    assert_eq!((status.leader, status.term), (NodeId::new(1), term));
}
