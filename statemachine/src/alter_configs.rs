//! AlterConfigs: changes the configs of all topics, of a broker, or of a topic (KIP-226, KIP-339).
//!
//! Another `min.insync.replicas` decides anew who stays in the ELR of the partitions that it governs.

use crate::change::Target;
use crate::command::{ConfigChange, ConfigResource};
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, PartitionKey, TopicId};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::Reply;
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
    let after = before.altered(changes, TopicConfigKey::default_value)?;
    if after == *before {
        return Ok(0);
    }
    let min_insync =
        |image: &MetadataImage| image.default_config(TopicConfigKey::MinInsyncReplicas).to_owned();
    let held = min_insync(step.image);
    step.delta.defaults = true;
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
    let after = before.altered(changes, |key| image.default_config(key))?;
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
        step.delta.brokers.insert(id);
        step.image.put_broker_configs(id, after);
    }
    Ok(0)
}

fn of_topic(step: &mut Step<'_>, id: TopicId, changes: &[ConfigChange]) -> Result<u64, Rejection> {
    let topic = step.topic(id)?;
    let before = topic.configs.clone();
    let image = &*step.image;
    let after = before.altered(changes, |key| image.default_config(key))?;
    if after == *before {
        return Ok(0);
    }
    let held = image.min_insync_replicas(topic);
    step.delta.topics_changed.insert(id);
    step.image.put_topic_configs(id, after);
    match step.image.min_insync_replicas(step.topic(id)?) == held {
        true => Ok(0),
        false => Ok(change_partitions(step, id)),
    }
}

/// Has the partitions of a topic follow the `min.insync.replicas` that holds for it now.
fn change_partitions(step: &mut Step<'_>, id: TopicId) -> u64 {
    let count = step.image.topic(id).map_or(0, Topic::partition_count);
    let mut changed = 0;
    for partition in 0..count {
        let key = PartitionKey { topic: id, partition };
        let target = step.image.partition(key).map(Target::of);
        changed += u64::from(target.is_some_and(|target| step.change_partition(key, target)));
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ConfigOperation, Reassignment};
    use crate::testing::{Cluster, ids, key, topic_id};

    fn set(cluster: &mut Cluster, resource: ConfigResource, key: &str, value: &str) -> Reply {
        let operation = ConfigOperation::Set(value.into());
        let changes = vec![ConfigChange { key: key.into(), operation }];
        cluster.accept(Command::AlterConfigs { resource, changes })
    }

    #[test]
    fn partitions_are_changed_where_another_min_insync_holds_and_nowhere_else() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        cluster.set_isr(&[1]);
        cluster.fence(1);
        let reassignments = vec![Reassignment { partition: key(1, 0), target: Some(ids(&[1])) }];
        cluster.accept(Command::AlterReassignments { reassignments });
        // Elected from the ELR: whatever changes the partition next completes the reassignment.
        cluster.unfence(1);
        let before = cluster.partition().clone();
        assert!(before.is_reassigning());

        let topic = ConfigResource::Topic(topic_id(1));
        for (resource, key, value) in [
            (topic, "segment.bytes", "100"),
            (topic, "min.insync.replicas", "1"),
            (ConfigResource::Default, "segment.bytes", "100"),
            (ConfigResource::Default, "min.insync.replicas", "1"),
            (ConfigResource::Default, "min.insync.replicas", "2"),
        ] {
            let reply = set(&mut cluster, resource, key, value);
            assert_eq!(reply, Reply::ConfigsAltered { partitions_changed: 0 }, "{key}={value}");
            assert_eq!(*cluster.partition(), before, "{key}={value}");
        }
        let reply = set(&mut cluster, topic, "min.insync.replicas", "2");
        assert_eq!(reply, Reply::ConfigsAltered { partitions_changed: 1 });
    }
}
