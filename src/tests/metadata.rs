//! What operators ask of topics, partitions, configs, brokers and features, through whichever node.

use quorate_loop::{FIRST_GROUP, Replayed};
use quorate_statemachine::{BrokerEpoch, Command, FeatureRange, Metadata};

use super::*;
use crate::history::HISTORY_MAX;
use crate::{
    ConfigChange, ConfigOperation, ConfigSource, ConfigTarget, ElectionScope, ElectionType,
    FeatureLevel, PartitionResult, Placement, TopicConfigKey, TopicPartition,
};

pub(super) fn brokers(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// A topic with these replicas of its partitions.
pub(super) fn assigned(name: &str, partitions: &[&[u32]]) -> TopicSpec {
    let partitions = partitions.iter().map(|replicas| brokers(replicas)).collect();
    TopicSpec { placement: Placement::Assigned(partitions), ..TopicSpec::new(name, 0, 0) }
}

pub(super) fn named(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: topic.to_owned(), partition }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, WriteError>, code: ErrorCode) {
    match result {
        Err(WriteError::Rejected(rejection)) => {
            assert_eq!(rejection.code, code, "{rejection}");
            assert!(rejection.message.contains(": "), "no remedy: {rejection}");
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn code_of(result: &PartitionResult) -> Option<ErrorCode> {
    result.as_ref().err().map(|rejection| rejection.code)
}

fn replicas(image: &MetadataImage, name: &TopicPartition) -> Vec<u32> {
    let topic = image.topic_by_name(&name.topic).unwrap();
    topic.partition(name.partition).unwrap().replicas.iter().map(|id| id.get()).collect()
}

fn leader_of(image: &MetadataImage, name: &TopicPartition) -> Option<u32> {
    let topic = image.topic_by_name(&name.topic).unwrap();
    topic.partition(name.partition).unwrap().leader.map(BrokerId::get)
}

/// A node that follows, and the one that leads.
async fn both(cluster: &Cluster) -> [Quorum; 2] {
    [cluster.follower().await.clone(), cluster.nodes[&cluster.leader().await].clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_together_and_grow_through_any_node() {
    let cluster = Cluster::with_brokers(3).await;
    for (n, quorum) in both(&cluster).await.into_iter().enumerate() {
        let (planned, given) = (format!("planned-{n}"), format!("given-{n}"));
        let specs = vec![TopicSpec::new(&planned, 2, 2), assigned(&given, &[&[3, 1], &[1, 2]])];
        let created = quorum.create_topics(specs.clone()).await.unwrap();
        let names: Vec<&str> = created.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, [planned.as_str(), given.as_str()]);
        assert_eq!(created[0].index, created[1].index, "one command");
        let image = quorum.image().image;
        for topic in &created {
            assert_eq!(image.topic_by_name(&topic.name).unwrap().id, topic.id);
        }
        assert_eq!(replicas(&image, &named(&given, 0)), [3, 1]);
        assert_eq!(replicas(&image, &named(&given, 1)), [1, 2]);

        // All or none; and said again, it is said that it was done.
        assert_refused(quorum.create_topics(specs).await, ErrorCode::TopicAlreadyExists);
        let batch = vec![TopicSpec::new("new", 1, 1), TopicSpec::new("wide", 1, 4)];
        let refused = quorum.create_topics(batch).await;
        assert!(refused.as_ref().unwrap_err().to_string().contains("topic wide: "), "{refused:?}");
        assert_refused(refused, ErrorCode::InvalidReplicationFactor);
        let batch = ["a", "b"].map(|name| TopicSpec::new(name, 6_000, 1)).into();
        assert_refused(quorum.create_topics(batch).await, ErrorCode::InvalidPartitions);
        assert_refused(quorum.create_topics(vec![]).await, ErrorCode::InvalidRequest);
        assert_eq!(quorum.image().image.topic_count(), 2 * (n + 1));

        let grown = quorum.create_partitions(&planned, 5, vec![]).await.unwrap();
        assert_eq!((grown.id, grown.partitions), (created[0].id, 5));
        let image = quorum.image().image;
        let topic = image.topic(grown.id).unwrap();
        assert!(topic.partitions().all(|(_, partition)| partition.replicas.len() == 2));
        assert_eq!(topic.partition_count(), 5);
        let before = quorum.status().last_index;
        let again = quorum.create_partitions(&planned, 5, vec![]).await.unwrap();
        assert_eq!((again.partitions, quorum.status().last_index), (5, before), "no command");

        let assignment = vec![brokers(&[2, 3])];
        quorum.create_partitions(&given, 3, assignment.clone()).await.unwrap();
        assert_eq!(replicas(&quorum.image().image, &named(&given, 2)), [2, 3]);
        for (topic, total, assignment, code) in [
            (planned.as_str(), 4, vec![], ErrorCode::InvalidPartitions),
            (&planned, 10_006, vec![], ErrorCode::InvalidPartitions),
            (&given, 5, assignment, ErrorCode::InvalidReplicaAssignment),
            (&given, 4, vec![brokers(&[2, 9])], ErrorCode::InvalidReplicaAssignment),
            ("none", 4, vec![], ErrorCode::UnknownTopicOrPartition),
        ] {
            assert_refused(quorum.create_partitions(topic, total, assignment).await, code);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_as_many_partitions_at_the_same_time_gets_them_once() {
    let cluster = Cluster::with_brokers(3).await;
    let [quorum, leader] = both(&cluster).await;
    quorum.create_topic(TopicSpec::new("orders", 1, 3)).await.unwrap();
    for total in 2..=6 {
        let mut calls = tokio::task::JoinSet::new();
        for quorum in [&quorum, &leader, &quorum, &leader] {
            let quorum = quorum.clone();
            calls.spawn(async move { quorum.create_partitions("orders", total, vec![]).await });
        }
        for grown in calls.join_all().await {
            assert_eq!(grown.unwrap().partitions, total);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_elected_of_what_was_asked_for() {
    let cluster = Cluster::with_brokers(3).await;
    let topics = vec![assigned("orders", &[&[1, 2, 3], &[2, 3, 1]]), assigned("other", &[&[1, 3]])];
    cluster.nodes[&1].create_topics(topics).await.unwrap();
    let (first, second) = (named("orders", 0), named("orders", 1));
    for quorum in both(&cluster).await {
        // Another one leads, the preferred one is back.
        let fenced = quorum.fence_broker(BrokerId(1)).await.unwrap();
        assert!(fenced.partitions_changed >= 2, "{fenced:?}");
        until(&quorum, "the ISRs are full", |image| full(image, "orders") && full(image, "other"))
            .await;

        let scope =
            ElectionScope::Partitions(vec![first.clone(), named("none", 0), second.clone()]);
        let elected = quorum.elect_leaders(ElectionType::Preferred, scope).await.unwrap();
        let [(_, one), (_, none), (_, two)] = &elected.partitions[..] else { panic!() };
        assert_eq!(one.as_ref().unwrap().leader, Some(BrokerId(1)), "{one:?}");
        assert_eq!(code_of(none), Some(ErrorCode::UnknownTopicOrPartition));
        assert_eq!(code_of(two), Some(ErrorCode::ElectionNotNeeded));
        assert!(quorum.image().index >= elected.index);
        assert_eq!(leader_of(&quorum.image().image, &first), Some(1));

        let scope = ElectionScope::Topic("orders".to_owned());
        let none = quorum.elect_leaders(ElectionType::Preferred, scope).await.unwrap();
        assert_eq!(none.partitions, [], "each is led as it should be");
        let all = quorum.elect_leaders(ElectionType::Preferred, ElectionScope::All).await.unwrap();
        let names: Vec<_> = all.partitions.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["other-0"]);
        let all = quorum.elect_leaders(ElectionType::Unclean, ElectionScope::All).await.unwrap();
        assert_eq!(all.partitions, []);
    }
    let quorum = cluster.follower().await;
    for (scope, code) in [
        (ElectionScope::Topic("none".to_owned()), ErrorCode::UnknownTopicOrPartition),
        (ElectionScope::Partitions(vec![]), ErrorCode::InvalidRequest),
        (ElectionScope::Partitions(vec![first.clone(); 10_001]), ErrorCode::InvalidRequest),
        (ElectionScope::Partitions(vec![first.clone(), first]), ErrorCode::InvalidRequest),
    ] {
        let refused = quorum.elect_leaders(ElectionType::Preferred, scope).await;
        assert_refused(refused, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_and_a_move_is_taken_back() {
    let mut cluster = Cluster::with_brokers(3).await;
    let moved = named("orders", 0);
    cluster.nodes[&1].create_topic(assigned("orders", &[&[1, 2]])).await.unwrap();
    for (quorum, target) in both(&cluster).await.iter().zip([[2, 3], [1, 2]]) {
        let targets = vec![(moved.clone(), brokers(&target)), (named("orders", 9), brokers(&[1]))];
        let answer = quorum.reassign_partitions(targets).await.unwrap();
        assert_eq!(code_of(&answer.partitions[0].1), None, "{answer:?}");
        let unknown = code_of(&answer.partitions[1].1);
        assert_eq!(unknown, Some(ErrorCode::UnknownTopicOrPartition));
        let done = |image: &MetadataImage| replicas(image, &moved) == target;
        until(quorum, "the partition has moved", done).await;
        let none = quorum.cancel_reassignments(vec![moved.clone()]).await.unwrap();
        assert_eq!(code_of(&none.partitions[0].1), Some(ErrorCode::NoReassignmentInProgress));
        let unregistered = vec![(moved.clone(), brokers(&[2, 9]))];
        let refused = quorum.reassign_partitions(unregistered).await.unwrap();
        assert_eq!(code_of(&refused.partitions[0].1), Some(ErrorCode::InvalidReplicaAssignment));
        assert_refused(quorum.reassign_partitions(vec![]).await, ErrorCode::InvalidRequest);
    }
    // It cannot be complete before broker 3 is there.
    drop(cluster.sessions.remove(&3));
    let quorum = cluster.follower().await;
    quorum.fence_broker(BrokerId(3)).await.unwrap();
    for _ in 0..2 {
        let target = vec![(moved.clone(), brokers(&[1, 3]))];
        let answer = quorum.reassign_partitions(target).await.unwrap();
        assert_eq!(code_of(&answer.partitions[0].1), None, "{answer:?}");
        assert_eq!(replicas(&quorum.image().image, &moved), [1, 3, 2], "the same when said again");
    }
    let answer = quorum.cancel_reassignments(vec![moved.clone()]).await.unwrap();
    assert_eq!(code_of(&answer.partitions[0].1), None, "{answer:?}");
    assert_eq!(replicas(&quorum.image().image, &moved), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_are_changed_and_each_value_says_where_it_stands() {
    let cluster = Cluster::with_brokers(3).await;
    cluster.nodes[&1].create_topic(TopicSpec::new("orders", 2, 3)).await.unwrap();
    let change = |key: &str, operation| ConfigChange { key: key.to_owned(), operation };
    let set = |key, value: &str| change(key, ConfigOperation::Set(value.to_owned()));
    let (topic, broker) = (ConfigTarget::Topic("orders".into()), ConfigTarget::Broker(BrokerId(2)));
    for (n, quorum) in both(&cluster).await.into_iter().enumerate() {
        quorum.read_index().await.unwrap();
        let shown = |target: &ConfigTarget, key: TopicConfigKey| {
            let image = quorum.image().image;
            let all = target.describe(&image).unwrap();
            assert_eq!(all.len(), TopicConfigKey::ALL.len());
            let entry = all.into_iter().find(|entry| entry.key == key).unwrap();
            (entry.value.to_owned(), entry.source)
        };
        let retention = TopicConfigKey::RetentionMs;
        let built_in = (retention.default_value().to_owned(), ConfigSource::BuiltIn);
        assert_eq!(shown(&topic, retention), built_in);
        let value = (100 + n).to_string();
        let steps = [
            (&ConfigTarget::Default, ConfigSource::Default, [true, true]),
            (&broker, ConfigSource::Broker, [false, true]),
            (&topic, ConfigSource::Topic, [true, false]),
        ];
        for (target, source, seen_by) in steps {
            let set = vec![set("retention.ms", &value)];
            quorum.alter_configs(target, set).await.unwrap();
            for (seen, other) in seen_by.into_iter().zip([&topic, &broker]) {
                assert!(!seen || shown(other, retention) == (value.clone(), source), "{other:?}");
            }
        }
        for (target, ..) in steps {
            let delete = vec![change("retention.ms", ConfigOperation::Delete)];
            let first = quorum.alter_configs(target, delete.clone()).await.unwrap();
            let again = quorum.alter_configs(target, delete).await.unwrap();
            assert!(again.index > first.index);
        }
        assert_eq!(shown(&topic, retention), built_in);

        let append = change("retention.ms", ConfigOperation::Append("1".into()));
        let nobody = ConfigTarget::Broker(BrokerId(9));
        let nothing = ConfigTarget::Topic("none".into());
        for (target, changes, code) in [
            (&topic, vec![], ErrorCode::InvalidRequest),
            (&topic, vec![append], ErrorCode::InvalidConfig),
            (&topic, vec![set("colour", "red")], ErrorCode::InvalidConfig),
            (&broker, vec![set("min.insync.replicas", "2")], ErrorCode::InvalidConfig),
            (&nobody, vec![set("retention.ms", "1")], ErrorCode::BrokerIdNotRegistered),
            (&nothing, vec![set("retention.ms", "1")], ErrorCode::UnknownTopicOrPartition),
        ] {
            assert_refused(quorum.alter_configs(target, changes).await, code);
        }
        let image = quorum.image().image;
        assert_eq!(nobody.describe(&image).unwrap_err().code, ErrorCode::BrokerIdNotRegistered);
        assert_eq!(nothing.describe(&image).unwrap_err().code, ErrorCode::UnknownTopicOrPartition);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_are_fenced_and_forgotten_by_operators() {
    let mut cluster = Cluster::with_brokers(3).await;
    cluster.nodes[&1].create_topic(assigned("orders", &[&[2, 3], &[3, 1]])).await.unwrap();
    for quorum in both(&cluster).await {
        assert_refused(quorum.fence_broker(BrokerId(9)).await, ErrorCode::BrokerIdNotRegistered);
    }
    // Whoever lives is not forgotten, fenced or not, through whichever node and whichever door.
    let [quorum, leader] = both(&cluster).await;
    for asked in [&quorum, &leader] {
        assert_refused(asked.unregister_broker(BrokerId(3)).await, ErrorCode::InvalidRequest);
        let command = Command::UnregisterBroker { broker: BrokerId(3), epoch: None };
        assert_refused(asked.propose(command).await, ErrorCode::InvalidRequest);
        asked.fence_broker(BrokerId(3)).await.unwrap();
        assert_refused(asked.unregister_broker(BrokerId(3)).await, ErrorCode::InvalidRequest);
        until(asked, "it is back", |image| !image.broker(BrokerId(3)).unwrap().fenced).await;
    }
    until(&quorum, "the ISRs are full", |image| full(image, "orders")).await;

    // One that is silent, long before its session ends; said again, it is so already.
    drop(cluster.sessions.remove(&3));
    let fenced = quorum.fence_broker(BrokerId(3)).await.unwrap();
    assert_eq!(fenced.partitions_changed, 2);
    let image = quorum.image().image;
    assert!(image.broker(BrokerId(3)).unwrap().fenced);
    assert_eq!(leader_of(&image, &named("orders", 1)), Some(1));
    assert_eq!(leader.fence_broker(BrokerId(3)).await.unwrap().partitions_changed, 0);

    // Another registration than the one that was meant stays, and that is said, whatever its process does.
    let epoch = image.broker(BrokerId(3)).unwrap().epoch;
    let other = Some(BrokerEpoch(epoch.get() - 1));
    let stale = Command::UnregisterBroker { broker: BrokerId(3), epoch: other };
    assert_refused(quorum.propose(stale).await, ErrorCode::StaleBrokerEpoch);

    // Whose session has ended is forgotten: its fence tells of it.
    drop(cluster.sessions.remove(&2));
    let is_fenced = |image: &MetadataImage| image.broker(BrokerId(2)).unwrap().fenced;
    let ended = until(&leader, "its session has ended", is_fenced).await;
    let epoch = ended.image.broker(BrokerId(2)).unwrap().epoch;
    quorum.unregister_broker(BrokerId(2)).await.unwrap();
    assert!(quorum.image().image.broker(BrokerId(2)).is_none());
    let again = leader.unregister_broker(BrokerId(2)).await;
    assert_refused(again, ErrorCode::BrokerIdNotRegistered);
    // Where nobody named an epoch it is the leader's to say which one goes; the log decides, also that there is
    // none.
    let named = |replayed: Replayed<'_, Metadata>| match Command::decode(replayed.command) {
        Ok(Command::UnregisterBroker { epoch, .. }) => Some(epoch),
        _ => None,
    };
    let (group, most) = (FIRST_GROUP, HISTORY_MAX);
    // The last one was asked of the leader: the other may not have it yet.
    let found = leader.node().replay(group, PATIENCE, most, named, |found| found.picked).await;
    assert_eq!(found.unwrap(), [other, Some(epoch), Some(BrokerEpoch(0))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_level_is_one_that_the_leader_and_all_brokers_support() {
    let cluster = Cluster::with_brokers(3).await;
    let supported = FeatureRange::SUPPORTED;
    let level = MetadataImage::FEATURE_LEVEL_GENESIS;
    for quorum in both(&cluster).await {
        let features = quorum.features().await.unwrap();
        assert_eq!((features.level, features.supported), (level, supported));
        assert_eq!(features.brokers, [1, 2, 3].map(|id| (BrokerId(id), supported)));
        let before = quorum.status().last_index;
        assert_eq!(quorum.set_feature_level(level).await.unwrap().level, level);
        let beyond = FeatureLevel(supported.max.get() + 1);
        let code = ErrorCode::InvalidUpdateVersion;
        assert_refused(quorum.set_feature_level(beyond).await, code);
        assert_eq!(quorum.status().last_index, before, "the log has nothing of it");
        assert_refused(quorum.set_feature_level(FeatureLevel(0)).await, code);
        // Not past the leader's check.
        let past = quorum.propose(Command::SetFeatureLevel { level: beyond }).await;
        assert_refused(past, ErrorCode::UnsupportedVersion);
    }
}
