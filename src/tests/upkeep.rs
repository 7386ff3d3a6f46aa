//! What the leading node puts in order by itself.

use super::*;

/// To see it fail: leave `preferred_elections` out of the upkeep's look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_go_back_to_where_they_should_be() {
    let mut cluster = Cluster::format(3);
    for n in 1..=3 {
        let config = QuorumConfig { upkeep_ms: 50, balance_ms: 50, ..cluster.config(n) };
        cluster.nodes.insert(n, Quorum::open(config).await.unwrap());
    }
    for n in 1..=3 {
        cluster.join(n).await;
    }
    let quorum = cluster.follower().await.clone();
    quorum.create_topic(TopicSpec::new("t", 6, 3)).await.unwrap();
    let leads = |image: &MetadataImage, broker: u64| {
        let leader = |leader: Option<BrokerId>| leader.map(|it| u64::from(it.get()));
        image.partitions().filter(|(_, it)| leader(it.leader) == Some(broker)).count()
    };
    cluster.everywhere("each leads its share", |image| (1..=3).all(|n| leads(image, n) == 2)).await;

    let gone = 1;
    let session = cluster.sessions.remove(&gone).unwrap();
    session.shut_down().await.unwrap();
    cluster.everywhere("it leads nothing", |image| leads(image, gone) == 0).await;
    cluster.join(gone).await;
    cluster
        .everywhere("it leads its share again", |image| (1..=3).all(|n| leads(image, n) == 2))
        .await;
}

/// To see it fail: leave `CompareState` out of the upkeep's look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_cluster_compares_its_states() {
    let mut cluster = Cluster::format(1);
    let config = QuorumConfig { upkeep_ms: 20, ..cluster.config(1) };
    cluster.nodes.insert(1, Quorum::open(config).await.unwrap());
    cluster.join(1).await;
    let quorum = cluster.nodes[&1].clone();
    let begin = quorum.image().index;
    let mut asked = 0;
    while quorum.image().image.checkpoint().is_none() {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let quorum = quorum.clone();
            asking.spawn(async move { quorum.allocate_producer_ids(BrokerId(1)).await.unwrap() });
        }
        asked += asking.join_all().await.len() as u64;
    }
    // Nobody else writes: the one command more is the comparison.
    quorum.wait(PATIENCE).applied(begin + asked + 1).await.unwrap();
    let image = quorum.image().image;
    assert_eq!(image.next_producer_id().get(), asked * 1_000);
    assert!(image.checkpoint().is_some_and(|noted| noted.index > begin));
}
