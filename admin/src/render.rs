//! Owns the way from images and statuses to the [views](crate::views).

use std::collections::{BTreeMap, BTreeSet};

use quorate::metadata::{self, Image as _};
use quorate::{
    BrokerId, ConfigTarget, ErrorCode, GroupStatus, Identity, MetadataImage, Metrics, PartitionKey,
    QuorumMember, Rejection, Snapshot,
};
use uuid::Uuid;

use crate::views::{
    Broker, BrokerFeatures, ConfigEntry, ConfigSource, Explanation, FeatureRange, Features, Member,
    MemberRole, MembersChanged, MissingReplica, Partition, PartitionChange, PartitionResult,
    PartitionResults, ProducerIds, Recovery, Role, Status, Topic, TopicDescription, Voter, WhatIf,
};

/// The node and its group. `applied_index`, `feature_level` and `state_hash` are of one and the same
/// image. Costs a pass over the whole state, for the hash.
pub(crate) fn status(
    identity: &Identity,
    group: &GroupStatus,
    snapshot: &Snapshot,
    metrics: &Metrics,
) -> Status {
    let happened = |cause: &str, count: u64| (count > 0).then(|| (cause.to_owned(), count));
    let votes = |member: &quorate::Member| group.members.is_voter(member.member_id);
    Status {
        cluster_id: Uuid::from_bytes(*identity.cluster_id.as_bytes()),
        node_id: identity.node_id.get(),
        directory_id: Uuid::from_bytes(*identity.directory_id.as_bytes()),
        role: role(group),
        leader_id: group.leader.map(|leader| leader.get()),
        term: group.term,
        // The image may be a step ahead of the status.
        commit_index: group.commit_index.max(snapshot.index),
        applied_index: snapshot.index,
        first_index: group.first_index,
        last_index: group.last_index.max(snapshot.index),
        voters: group.members.iter().filter(|it| votes(it)).map(voter).collect(),
        learners: group.members.iter().filter(|it| !votes(it)).map(voter).collect(),
        feature_level: snapshot.image.feature_level().get(),
        state_hash: snapshot.image.state_hash().to_string(),
        fatal: group.fatal.clone(),
        damaged: group.damaged.clone(),
        storage_full: group.storage_full,
        log_disk_bytes: group.log_disk_bytes,
        dropped: metrics
            .dropped
            .iter()
            .filter_map(|(cause, count)| happened(cause.as_str(), *count))
            .collect(),
        closed: metrics
            .closed
            .iter()
            .filter_map(|(cause, count)| happened(cause.as_str(), *count))
            .collect(),
    }
}

fn role(group: &GroupStatus) -> Role {
    match group.role {
        quorate::Role::Leader => Role::Leader,
        quorate::Role::Candidate => Role::Candidate,
        quorate::Role::Learner => Role::Learner,
        quorate::Role::Observer => Role::Observer,
        // Before the founding nobody is a member, and nobody was removed.
        quorate::Role::Removed if group.serving => Role::Removed,
        _ => Role::Follower,
    }
}

fn voter(member: &quorate::Member) -> Voter {
    Voter {
        node_id: member.node_id().get(),
        member_id: member.member_id,
        directory_id: Uuid::from_bytes(*member.binding.directory_id.as_bytes()),
        addr: member.addr.clone(),
    }
}

/// The members, by id.
pub(crate) fn members(members: Vec<QuorumMember>) -> Vec<Member> {
    let row = |member: QuorumMember| Member {
        node_id: member.node_id.get(),
        member_id: member.member_id,
        directory_id: Uuid::from_bytes(*member.directory_id.as_bytes()),
        addr: member.addr,
        role: match member.role {
            quorate::MemberRole::Voter => MemberRole::Voter,
            quorate::MemberRole::Learner => MemberRole::Learner,
            quorate::MemberRole::Observer => MemberRole::Observer,
        },
        trails_leader_by: member.trails_leader_by,
        last_contact_ms: member.last_contact_ms,
    };
    members.into_iter().map(row).collect()
}

/// A change that was made, or only asked for.
pub(crate) fn members_changed(changed: quorate::MembersChanged, dry_run: bool) -> MembersChanged {
    MembersChanged { index: changed.index, dry_run, members: members(changed.members) }
}

/// All brokers, by id.
pub(crate) fn brokers(image: &MetadataImage) -> Vec<Broker> {
    let row = |broker: &metadata::Broker| Broker {
        id: u64::from(broker.id.get()),
        epoch: broker.epoch.get(),
        fenced: broker.fenced,
        in_shutdown: broker.in_shutdown,
        listeners: broker.listeners.iter().map(listener).collect(),
        rack: broker.rack.clone(),
    };
    image.brokers().map(row).collect()
}

fn listener(listener: &metadata::Listener) -> (String, String) {
    let metadata::Listener { name, host, port } = listener;
    // An IPv6 address has colons of its own.
    let addr =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    (name.clone(), addr)
}

/// All topics, by name.
pub(crate) fn topics(image: &MetadataImage) -> Vec<Topic> {
    image.topics_by_name().map(topic).collect()
}

fn topic(topic: &metadata::Topic) -> Topic {
    Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.0,
        partitions: topic.partition_count(),
        replication_factor: u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX),
        configs: configs(topic),
    }
}

/// One topic with all that belongs to it.
///
/// # Errors
///
/// UNKNOWN_TOPIC_OR_PARTITION.
pub(crate) fn described(image: &MetadataImage, name: &str) -> Result<TopicDescription, Rejection> {
    let effective_configs = config_entries(image, &ConfigTarget::Topic(name.to_owned()))?;
    let partition_list = partitions(image, Some(name))?;
    // It is there: its configs were found.
    let topic = image.topic_by_name(name).map(topic).ok_or_else(|| no_topic(name))?;
    Ok(TopicDescription { topic, effective_configs, partition_list })
}

fn configs(topic: &metadata::Topic) -> BTreeMap<String, String> {
    topic.configs.iter().map(|(key, value)| (key.name().to_owned(), value.to_owned())).collect()
}

/// All partitions, by topic name and number; or those of one topic.
///
/// # Errors
///
/// UNKNOWN_TOPIC_OR_PARTITION.
pub(crate) fn partitions(
    image: &MetadataImage,
    topic: Option<&str>,
) -> Result<Vec<Partition>, Rejection> {
    match topic {
        Some(name) => {
            let topic = image.topic_by_name(name).ok_or_else(|| no_topic(name))?;
            Ok(partitions_of(topic).collect())
        }
        None => Ok(image.topics_by_name().flat_map(partitions_of).collect()),
    }
}

fn no_topic(name: &str) -> Rejection {
    let name = name.escape_debug();
    let message = format!("there is no topic `{name}`: see the names with `topics ls`");
    Rejection::new(ErrorCode::UnknownTopicOrPartition, message)
}

fn partitions_of(topic: &metadata::Topic) -> impl Iterator<Item = Partition> + '_ {
    topic.partitions().map(|(number, partition)| Partition {
        topic: topic.name.to_string(),
        topic_id: topic.id.0,
        partition: number,
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        elr: ids(&partition.elr),
        leader: partition.leader.map(id),
        leader_epoch: u64::from(partition.leader_epoch.get()),
        partition_epoch: u64::from(partition.partition_epoch.get()),
        adding: ids(&partition.adding),
        removing: ids(&partition.removing),
        recovery: match partition.recovery {
            metadata::Recovery::Recovered => Recovery::Recovered,
            metadata::Recovery::Recovering => Recovery::Recovering,
        },
        last_known_leader: partition.last_known_leader.map(id),
    })
}

fn ids(brokers: &[BrokerId]) -> Vec<u64> {
    brokers.iter().copied().map(id).collect()
}

fn id(broker: BrokerId) -> u64 {
    u64::from(broker.get())
}

/// What became of each of several partitions.
pub(crate) fn partition_results(changed: quorate::PartitionResults) -> PartitionResults {
    let result = |(name, result): (quorate::TopicPartition, quorate::PartitionResult)| {
        let quorate::TopicPartition { topic, partition } = name;
        let (altered, rejection) = match result {
            Ok(altered) => (Some(altered), None),
            Err(rejection) => (None, Some(rejection)),
        };
        PartitionResult {
            topic,
            partition,
            error: rejection.as_ref().map(|rejection| rejection.code.name().to_owned()),
            message: rejection.map(|rejection| rejection.message),
            leader: altered.as_ref().and_then(|altered| altered.leader.map(id)),
            isr: altered.as_ref().map(|altered| ids(&altered.isr)),
            leader_epoch: altered.as_ref().map(|altered| u64::from(altered.leader_epoch.get())),
            partition_epoch: altered.map(|altered| u64::from(altered.partition_epoch.get())),
        }
    };
    let results = changed.partitions.into_iter().map(result).collect();
    PartitionResults { index: changed.index, results }
}

/// Every config of a target, with the value that holds.
///
/// # Errors
///
/// UNKNOWN_TOPIC_OR_PARTITION, BROKER_ID_NOT_REGISTERED.
pub(crate) fn config_entries(
    image: &MetadataImage,
    target: &ConfigTarget,
) -> Result<Vec<ConfigEntry>, Rejection> {
    let row = |entry: quorate::ConfigEntry<'_>| ConfigEntry {
        key: entry.key.name().to_owned(),
        value: entry.value.to_owned(),
        source: match entry.source {
            quorate::ConfigSource::Topic => ConfigSource::Topic,
            quorate::ConfigSource::Broker => ConfigSource::Broker,
            quorate::ConfigSource::Default => ConfigSource::Default,
            quorate::ConfigSource::BuiltIn => ConfigSource::BuiltIn,
        },
    };
    Ok(target.describe(image)?.into_iter().map(row).collect())
}

/// The feature level, and who supports which.
pub(crate) fn features(features: &quorate::Features) -> Features {
    let range =
        |range: quorate::FeatureRange| FeatureRange { min: range.min.get(), max: range.max.get() };
    let brokers = features.brokers.iter();
    let broker = |(broker, supported): &(BrokerId, quorate::FeatureRange)| BrokerFeatures {
        id: id(*broker),
        supported: range(*supported),
    };
    Features {
        level: features.level.get(),
        supported: range(features.supported),
        brokers: brokers.map(broker).collect(),
    }
}

/// Where the next block of producer ids begins.
pub(crate) fn producer_ids(image: &MetadataImage) -> ProducerIds {
    ProducerIds { next: image.next_producer_id().get() }
}

/// The latest changes of a partition.
pub(crate) fn history(history: &quorate::PartitionHistory) -> Vec<PartitionChange> {
    let row = |change: &quorate::PartitionChange| {
        // It was there before or is there after, for it changed.
        let state = change.after.as_ref().or(change.before.as_ref())?;
        Some(PartitionChange {
            index: change.index,
            leader: state.leader.map(id),
            leader_epoch: u64::from(state.leader_epoch.get()),
            partition_epoch: u64::from(state.partition_epoch.get()),
            isr: ids(&state.isr),
            command: change.command.to_owned(),
            reason: change.reason(),
        })
    };
    history.changes.iter().filter_map(row).collect()
}

/// Why a partition is as it is.
pub(crate) fn explanation(explained: quorate::Explanation) -> Explanation {
    let missing = |missing: quorate::MissingReplica| MissingReplica {
        replica: id(missing.replica),
        why: missing.why,
        index: missing.index,
    };
    Explanation {
        leader: explained.leader.map(id),
        why: explained.why,
        missing: explained.missing.into_iter().map(missing).collect(),
    }
}

/// What would become of the partitions if these brokers died.
pub(crate) fn what_if(image: &MetadataImage, killed: &BTreeSet<BrokerId>) -> WhatIf {
    let named = |keys: Vec<PartitionKey>| {
        let name = |key: PartitionKey| {
            image.topic(key.topic).map(|topic| format!("{}-{}", topic.name, key.partition))
        };
        keys.into_iter().filter_map(name).collect()
    };
    let quorate::WhatIf { leaderless, under_min_isr, data_at_risk } =
        quorate::what_if(image, killed);
    WhatIf {
        killed: killed.iter().copied().map(id).collect(),
        leaderless: named(leaderless),
        under_min_isr: named(under_min_isr),
        data_at_risk: named(data_at_risk),
    }
}
