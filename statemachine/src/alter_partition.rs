//! AlterPartition: a leader grows or shrinks the ISR of its partition, or says that it recovered.
//!
//! The order of the checks is part of the protocol: it decides which error a leader sees that is
//! wrong in several ways, and so whether it retries, waits for metadata or steps down (KIP-497,
//! KIP-704, KIP-841, KIP-903).

use crate::broker::ActiveBrokers;
use crate::change::{Target, change};
use crate::command::{AlterPartition, BrokerSession};
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, Brokers, list};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::{PartitionAltered, Reply};
use crate::partition::{Partition, Recovery, first_doubled};

pub(crate) fn apply(step: &mut Step<'_>, alter: &AlterPartition) -> Result<Reply, Rejection> {
    step.session(alter.sender)?;
    let (partition, min_insync) = find(step.image, alter)?;
    let isr: Brokers = alter.isr.iter().map(|member| member.broker).collect();
    check_epochs(partition, alter)?;
    check_isr(partition, alter, &isr)?;
    check_recovery(partition, alter, &isr)?;
    check_members(step.image, alter)?;

    let target = Target { isr, recovery: alter.recovery, ..Target::of(partition) };
    let active = ActiveBrokers::all(&step.image.brokers);
    let Some(next) = change(partition, target, min_insync, &active) else {
        return Ok(Reply::PartitionAltered(PartitionAltered::of(partition, false)));
    };
    let completed = partition.is_reassigning() && !next.is_reassigning();
    let moved = next.leader != partition.leader;
    let reply = PartitionAltered::of(&next, completed && moved);
    step.put_partition(alter.partition, next);
    Ok(Reply::PartitionAltered(reply))
}

fn find<'a>(
    image: &'a MetadataImage,
    alter: &AlterPartition,
) -> Result<(&'a Partition, u32), Rejection> {
    let Some(topic) = image.topic(alter.partition.topic) else {
        return Err(Rejection::new(
            ErrorCode::UnknownTopicId,
            format!("no topic has the id {}: wait for metadata", alter.partition.topic),
        ));
    };
    let Some(partition) = topic.partition(alter.partition.partition) else {
        return Err(Rejection::new(
            ErrorCode::UnknownTopicOrPartition,
            format!(
                "topic {} has {} partitions and no number {}: wait for metadata",
                topic.name,
                topic.partition_count(),
                alter.partition.partition
            ),
        ));
    };
    Ok((partition, topic.configs.min_insync_replicas()))
}

fn check_epochs(partition: &Partition, alter: &AlterPartition) -> Result<(), Rejection> {
    let sender = alter.sender.broker;
    let (leader_epoch, partition_epoch) = (partition.leader_epoch, partition.partition_epoch);
    if alter.leader_epoch > leader_epoch || alter.partition_epoch > partition_epoch {
        return Err(Rejection::new(
            ErrorCode::NotController,
            format!(
                "broker {sender} knows epochs {}/{} of {}, and this state is at {leader_epoch}/\
                 {partition_epoch}: ask the current quorum leader",
                alter.leader_epoch, alter.partition_epoch, alter.partition
            ),
        ));
    }
    if alter.leader_epoch < leader_epoch {
        return Err(Rejection::new(
            ErrorCode::FencedLeaderEpoch,
            format!(
                "broker {sender} speaks with leader epoch {}, and {} is at {leader_epoch}: wait \
                 for metadata",
                alter.leader_epoch, alter.partition
            ),
        ));
    }
    if partition.leader != Some(sender) {
        return Err(invalid(format!(
            "broker {sender} does not lead {}: only its leader may alter it",
            alter.partition
        )));
    }
    if alter.partition_epoch < partition_epoch {
        return Err(Rejection::new(
            ErrorCode::InvalidUpdateVersion,
            format!(
                "broker {sender} speaks with partition epoch {}, and {} is at {partition_epoch}: \
                 wait for metadata",
                alter.partition_epoch, alter.partition
            ),
        ));
    }
    Ok(())
}

fn check_isr(
    partition: &Partition,
    alter: &AlterPartition,
    isr: &[BrokerId],
) -> Result<(), Rejection> {
    let fault = if let Some(id) = isr.iter().find(|id| !partition.replicas.contains(id)) {
        format!("has broker {id}, which is no replica: use {}", list(&partition.replicas))
    } else if let Some(id) = first_doubled(isr) {
        format!("names broker {id} twice: name it once")
    } else if !isr.contains(&alter.sender.broker) {
        format!("lacks the leader {}: include it", alter.sender.broker)
    } else {
        return Ok(());
    };
    Err(invalid(format!("the ISR {} of {} {fault}", list(isr), alter.partition)))
}

fn check_recovery(
    partition: &Partition,
    alter: &AlterPartition,
    isr: &[BrokerId],
) -> Result<(), Rejection> {
    if alter.recovery == Recovery::Recovered {
        return Ok(());
    }
    let fault = if isr.len() > 1 {
        "cannot be recovering with more than its leader in sync: finish recovery first"
    } else if partition.recovery == Recovery::Recovered {
        "has recovered, and cannot go back to recovering: send it as recovered"
    } else {
        return Ok(());
    };
    Err(invalid(format!("{} {fault}", alter.partition)))
}

fn check_members(image: &MetadataImage, alter: &AlterPartition) -> Result<(), Rejection> {
    for member in &alter.isr {
        let BrokerSession { broker: id, epoch } = *member;
        let fault = match image.broker(id) {
            None => "is not registered".to_owned(),
            Some(broker) if broker.fenced => "is fenced".to_owned(),
            Some(broker) if broker.in_shutdown => "is shutting down".to_owned(),
            Some(broker) if broker.epoch != epoch => {
                format!("has epoch {} and not {epoch}", broker.epoch)
            }
            Some(_) => continue,
        };
        return Err(Rejection::new(
            ErrorCode::IneligibleReplica,
            format!(
                "broker {id} {fault}, it cannot be in the ISR of {}: go on with the committed ISR",
                alter.partition
            ),
        ));
    }
    Ok(())
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidRequest, message)
}
