//! AlterConfigs: changes the configs of all topics, of a broker, or of a topic (KIP-226, KIP-339).
//!
//! Another `min.insync.replicas` decides anew who stays in the ELR of the partitions that it governs.

use crate::change::with_min_insync;
use crate::command::{ConfigChange, ConfigResource};
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, PartitionKey, TopicId};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::Reply;
use crate::partition::Partition;
use crate::topic::Topic;
use crate::topic_config::TopicConfigKey;

pub(crate) fn apply(
    step: &mut Step<'_>,
    resource: ConfigResource,
    changes: &[ConfigChange],
) -> Result<Reply, Rejection> {
    if changes.is_empty() {
        return Err(Rejection::new(
            ErrorCode::InvalidRequest,
            "the command changes no config: name at least one",
        ));
    }
    let partitions_changed = match resource {
        ConfigResource::Default => of_all(step, changes)?,
        ConfigResource::Broker(id) => of_broker(step, id, changes)?,
        ConfigResource::Topic(id) => of_topic(step, id, changes)?,
    };
    Ok(Reply::ConfigsAltered { partitions_changed })
}

fn of_all(step: &mut Step<'_>, changes: &[ConfigChange]) -> Result<u64, Rejection> {
    let before = step.image.defaults.clone();
    let after = before.altered(changes, step.image.feature_level, TopicConfigKey::default_value)?;
    if after == *before {
        return Ok(0);
    }
    let min_insync =
        |image: &MetadataImage| image.default_config(TopicConfigKey::MinInsyncReplicas).to_owned();
    let held = min_insync(step.image);
    step.delta().defaults = true;
    step.image.set_defaults(after);
    if min_insync(step.image) == held {
        return Ok(0);
    }
    let has_none = |topic: &&Topic| topic.configs.get(TopicConfigKey::MinInsyncReplicas).is_none();
    let governed: Vec<TopicId> =
        step.image.topics().filter(has_none).map(|topic| topic.id).collect();
    Ok(governed.into_iter().map(|id| change_partitions(step, id)).sum())
}

fn of_broker(
    step: &mut Step<'_>,
    id: BrokerId,
    changes: &[ConfigChange],
) -> Result<u64, Rejection> {
    if step.image.broker(id).is_none() {
        return Err(Rejection::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {id} is not registered: name a registered one"),
        ));
    }
    let image = &*step.image;
    let before = image.broker_configs(id).cloned().unwrap_or_default();
    let after = before.altered(changes, image.feature_level, |key| image.default_config(key))?;
    if let Some((key, _)) = after.iter().find(|(key, _)| !key.may_differ_by_broker()) {
        return Err(Rejection::new(
            ErrorCode::InvalidConfig,
            format!(
                "{} is decided by for all brokers alike: set it for a topic, or for all",
                key.name()
            ),
        ));
    }
    if after != before {
        step.delta().brokers.insert(id);
        step.image.put_broker_configs(id, after);
    }
    Ok(0)
}

fn of_topic(step: &mut Step<'_>, id: TopicId, changes: &[ConfigChange]) -> Result<u64, Rejection> {
    let topic = step.topic(id)?;
    let before = topic.configs.clone();
    let image = &*step.image;
    let after = before.altered(changes, image.feature_level, |key| image.default_config(key))?;
    if after == *before {
        return Ok(0);
    }
    let held = image.min_insync_replicas(topic);
    step.delta().topic_changed(id);
    step.image.put_topic_configs(id, after);
    match step.image.min_insync_replicas(step.topic(id)?) == held {
        true => Ok(0),
        false => Ok(change_partitions(step, id)),
    }
}

/// Has the ELRs of a topic follow the `min.insync.replicas` that holds for it now. Nothing else of its
/// partitions changes, and those without an ELR are only looked at.
fn change_partitions(step: &mut Step<'_>, id: TopicId) -> u64 {
    let Some(topic) = step.image.topic(id) else { return 0 };
    let min_insync = step.image.min_insync_replicas(topic);
    let changed: Vec<(u32, Partition)> = topic
        .partitions()
        .filter_map(|(number, partition)| Some((number, with_min_insync(partition, min_insync)?)))
        .collect();
    let count = changed.len() as u64;
    for (partition, next) in changed {
        step.put_partition(PartitionKey { topic: id, partition }, next);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ConfigOperation};
    use crate::partition::EPOCH_MAX;
    use crate::testing::{Cluster, ids, topic_id};

    fn set(cluster: &mut Cluster, resource: ConfigResource, key: &str, value: &str) -> Reply {
        let operation = ConfigOperation::Set(value.into());
        let changes = vec![ConfigChange { key: key.into(), operation }];
        cluster.accept(Command::AlterConfigs { resource, changes })
    }

    /// Topic 1 of one partition, led by 1 with 2 in the ELR, as min.insync.replicas is 2; and it moves to 1
    /// alone, so that whatever runs the whole of `change` completes that.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[("min.insync.replicas", "2")]);
        cluster.set_isr(&[1]);
        let mut partition = cluster.partition().clone();
        partition.removing = ids(&[2]);
        cluster.replace_partition(partition);
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[2] last=- epochs=0/2");
        cluster
    }

    #[test]
    fn partitions_are_changed_where_another_min_insync_holds_and_nowhere_else() {
        let mut cluster = cluster();
        let before = cluster.partition().clone();
        let topic = ConfigResource::Topic(topic_id(1));
        for (resource, key, value) in [
            (topic, "segment.bytes", "100"),
            (topic, "min.insync.replicas", "2"),
            (topic, "min.insync.replicas", "3"),
            (ConfigResource::Default, "segment.bytes", "100"),
            (ConfigResource::Default, "min.insync.replicas", "1"),
            (ConfigResource::Default, "min.insync.replicas", "2"),
        ] {
            let reply = set(&mut cluster, resource, key, value);
            assert_eq!(reply, Reply::ConfigsAltered { partitions_changed: 0 }, "{key}={value}");
            assert_eq!(*cluster.partition(), before, "{key}={value}");
        }
        let reply = set(&mut cluster, topic, "min.insync.replicas", "1");
        assert_eq!(reply, Reply::ConfigsAltered { partitions_changed: 1 });
    }

    /// To see it fail: have `change_partitions` run `change`.
    #[test]
    fn only_the_elr_follows_another_min_insync() {
        let mut cluster = cluster();
        let before = cluster.partition().clone();
        set(&mut cluster, ConfigResource::Topic(topic_id(1)), "min.insync.replicas", "1");
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[] last=- epochs=0/3");
        assert_eq!(cluster.partition().replicas, before.replicas);
        assert_eq!(cluster.partition().removing, before.removing, "it goes on to move");
        // Nobody leads: whoever may lead next stays.
        cluster.fence(1);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[1] last=1 epochs=1/4");
        set(&mut cluster, ConfigResource::Topic(topic_id(1)), "min.insync.replicas", "2");
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[1] last=1 epochs=1/4");
    }

    /// To see it fail: have `with_min_insync` change the ELR alone.
    #[test]
    fn another_min_insync_closes_what_has_no_epoch_left_for_it() {
        let mut cluster = cluster();
        let mut partition = cluster.partition().clone();
        partition.partition_epoch.0 = EPOCH_MAX - 2;
        cluster.replace_partition(partition);
        let last = format!("leader=1 isr=[1] elr=[2] last=- epochs=0/{}", EPOCH_MAX - 1);
        assert_eq!(cluster.shown(), last);
        let topic = ConfigResource::Topic(topic_id(1));
        let closed = format!("leader=- isr=[] elr=[] last=- epochs=1/{EPOCH_MAX}");
        // The first is one that its ELR does not have to follow.
        for (value, partitions_changed, shown) in
            [("3", 0, &last), ("1", 1, &closed), ("2", 0, &closed)]
        {
            let reply = set(&mut cluster, topic, "min.insync.replicas", value);
            assert_eq!(reply, Reply::ConfigsAltered { partitions_changed }, "{value}");
            assert_eq!(cluster.shown(), *shown, "{value}");
        }
        assert!(!cluster.partition().is_reassigning());
    }
}
