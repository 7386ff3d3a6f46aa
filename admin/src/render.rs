//! Owns the way from images and statuses to the [views](crate::views).

use std::collections::BTreeMap;

use quorate::metadata::{self, Image as _};
use quorate::{BrokerId, GroupStatus, Identity, MetadataImage, Metrics, QuorumMember, Snapshot};
use uuid::Uuid;

use crate::views::{
    Broker, Member, MemberRole, MembersChanged, Partition, ProducerIds, Role, Status, Topic, Voter,
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
    let row = |topic: &metadata::Topic| {
        let replicas = topic.partition(0).map_or(0, |partition| partition.replicas.len());
        Topic {
            name: topic.name.to_string(),
            topic_id: topic.id.0,
            partitions: topic.partition_count(),
            replication_factor: u32::try_from(replicas).unwrap_or(u32::MAX),
            configs: configs(topic),
        }
    };
    image.topics_by_name().map(row).collect()
}

fn configs(topic: &metadata::Topic) -> BTreeMap<String, String> {
    topic.configs.iter().map(|(key, value)| (key.name().to_owned(), value.to_owned())).collect()
}

/// All partitions, by topic name and number; or those of one topic, `None` when it is not there.
pub(crate) fn partitions(image: &MetadataImage, topic: Option<&str>) -> Option<Vec<Partition>> {
    match topic {
        Some(name) => image.topic_by_name(name).map(|topic| partitions_of(topic).collect()),
        None => Some(image.topics_by_name().flat_map(partitions_of).collect()),
    }
}

fn partitions_of(topic: &metadata::Topic) -> impl Iterator<Item = Partition> + '_ {
    topic.partitions().map(|(number, partition)| Partition {
        topic: topic.name.to_string(),
        topic_id: topic.id.0,
        partition: number,
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        elr: ids(&partition.elr),
        leader: partition.leader.map(|leader| u64::from(leader.get())),
        leader_epoch: u64::from(partition.leader_epoch.get()),
        partition_epoch: u64::from(partition.partition_epoch.get()),
    })
}

fn ids(brokers: &[BrokerId]) -> Vec<u64> {
    brokers.iter().map(|broker| u64::from(broker.get())).collect()
}

/// Where the next block of producer ids begins.
pub(crate) fn producer_ids(image: &MetadataImage) -> ProducerIds {
    ProducerIds { next: image.next_producer_id().get() }
}
