//! Why a partition is as it is.

use super::*;
use crate::ReplayError;
use crate::history::Changes;

/// To see it fail: have the history tell of all commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_tells_which_command_took_a_replica_out() {
    let mut cluster = Cluster::with_brokers(3).await;
    let quorum = cluster.follower().await.clone();
    quorum.create_topic(TopicSpec::new("t", 1, 3)).await.unwrap();
    let key = {
        let image = quorum.image().image;
        PartitionKey { topic: image.topic_by_name("t").unwrap().id, partition: 0 }
    };
    let leader = quorum.image().image.partition(key).unwrap().leader.unwrap();
    let session = cluster.sessions.remove(&u64::from(leader.get())).unwrap();
    session.shut_down().await.unwrap();
    let led_by_another = |image: &MetadataImage| {
        let partition = image.partition(key).unwrap();
        partition.leader.is_some_and(|now| now != leader) && !partition.isr.contains(&leader)
    };
    cluster.everywhere("another leads", led_by_another).await;

    for node in cluster.nodes.values() {
        let history = node.partition_history(key).await.unwrap();
        let told: Vec<String> = history.changes.iter().map(|change| change.reason()).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("the topic was created: replicas "), "{told:?}");
        let left = format!("broker {leader} shuts down: {leader} left the ISR");
        assert!(told[1].starts_with(&left), "{told:?}");
        let explained = node.explain_partition(key).await.unwrap().unwrap();
        let missing: Vec<_> =
            explained.missing.iter().map(|missing| (missing.replica, missing.index)).collect();
        assert_eq!(missing, [(leader, Some(history.changes[1].index))]);
        assert_eq!(explained.leader, node.image().image.partition(key).unwrap().leader);
        let nowhere = PartitionKey { partition: 1, ..key };
        assert_eq!(node.explain_partition(nowhere).await.unwrap(), None);
    }
}

/// To see it fail: have `Quorum::replay` wait for its turn without a limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_get_a_turn_in_time_is_told() {
    let mut cluster = Cluster::format(1);
    cluster.open(1).await;
    let quorum = &cluster.nodes[&1];
    quorum.wait(PATIENCE).leader().await.unwrap();
    let key =
        PartitionKey { topic: quorate_statemachine::TopicId(uuid::Uuid::max()), partition: 0 };
    let mut turns = vec![quorum.turn_to_replay().await, quorum.turn_to_replay().await];
    let limit = Duration::from_millis(300);
    let replay = quorum.replay(key, limit, |found: Changes| found.picked.len());
    let late = timeout(PATIENCE, replay).await.unwrap().unwrap_err();
    assert!(matches!(late, ReplayError::TimedOut { limit: told, .. } if told == limit), "{late}");
    turns.pop();
    let history = timeout(PATIENCE, quorum.partition_history(key)).await.unwrap().unwrap();
    assert_eq!(history.changes, []);
}
