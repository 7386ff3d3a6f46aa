//! AlterPartition: a leader grows or shrinks the ISR of its partition, or says that it recovered.
//!
//! The order of the checks is part of the protocol: it decides which error a leader sees that is
//! wrong in several ways, and so whether it retries, waits for metadata or steps down (KIP-497,
//! KIP-704, KIP-841, KIP-903).

use mutation::Bug;

use crate::brokers::Brokers;
use crate::change::Target;
use crate::command::{AlterPartition, BrokerSession};
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, list};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::{PartitionAltered, Reply};
use crate::partition::{Members, Partition, Recovery, first_doubled};

pub(crate) fn apply(step: &mut Step<'_>, alter: &AlterPartition) -> Result<Reply, Rejection> {
    step.session(alter.sender)?;
    let (topic, partition) = step.located(alter.partition)?;
    let isr: Brokers = alter.isr.iter().map(|member| member.broker).collect();
    check_epochs(partition, alter)?;
    check_isr(partition, alter, &isr)?;
    check_recovery(partition, alter, &isr)?;
    check_members(step.image, alter)?;
    // Last: whoever is wrong about more than that is to hear of it, as the specification has it.
    Step::check_changeable(alter.partition, partition)?;

    let target = Target { isr, recovery: alter.recovery, ..Target::of(partition) };
    let next = step.changed(topic, partition, target);
    let after = next.as_ref().unwrap_or(partition);
    let completed = partition.is_reassigning() && !after.is_reassigning();
    let moved = after.leader != partition.leader;
    let altered = PartitionAltered::of(after, completed && moved);
    if let Some(next) = next {
        step.put_partition(alter.partition, next);
    }
    Ok(Reply::PartitionAltered(altered))
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
    if alter.partition_epoch < partition_epoch && !mutation::is(Bug::PartitionEpochNotChecked) {
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
    let replicas = Members::of(&partition.replicas);
    let fault = if let Some(id) = isr.iter().find(|id| !replicas.contains(**id)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::ids::{BrokerEpoch, LeaderEpoch, PartitionEpoch};
    use crate::testing::{Cluster, ids, key};

    /// Replicas 1, 2, 3 of five brokers; 2 leads after 1 was fenced and came back: epochs 1/1.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::with_topic(&[1, 2, 3, 4], &[1, 2, 3], &[]);
        cluster.fence(1);
        cluster.unfence(1);
        assert_eq!(cluster.shown(), "leader=2 isr=[2,3] elr=[] last=- epochs=1/1");
        cluster
    }

    fn refused(cluster: &mut Cluster, alter: AlterPartition) -> ErrorCode {
        cluster.refuse(Command::AlterPartition(alter))
    }

    #[test]
    fn each_check_gives_its_error() {
        type Fault = fn(&mut AlterPartition);
        let faults: &[(Fault, ErrorCode)] = &[
            (|a| a.sender.epoch = BrokerEpoch(99), ErrorCode::StaleBrokerEpoch),
            (|a| a.sender.broker = BrokerId(9), ErrorCode::StaleBrokerEpoch),
            (|a| a.partition = key(2, 0), ErrorCode::UnknownTopicId),
            (|a| a.partition = key(1, 1), ErrorCode::UnknownTopicOrPartition),
            (|a| a.leader_epoch = LeaderEpoch(2), ErrorCode::NotController),
            (|a| a.partition_epoch = PartitionEpoch(2), ErrorCode::NotController),
            (|a| a.leader_epoch = LeaderEpoch(0), ErrorCode::FencedLeaderEpoch),
            (|a| a.partition_epoch = PartitionEpoch(0), ErrorCode::InvalidUpdateVersion),
            (|a| a.isr.clear(), ErrorCode::InvalidRequest),
            (|a| a.isr.retain(|member| member.broker != BrokerId(2)), ErrorCode::InvalidRequest),
            (|a| a.isr.push(a.isr[0]), ErrorCode::InvalidRequest),
            (|a| a.isr[1].broker = BrokerId(4), ErrorCode::InvalidRequest),
            (|a| a.recovery = Recovery::Recovering, ErrorCode::InvalidRequest),
            (
                |a| {
                    a.isr.truncate(1);
                    a.recovery = Recovery::Recovering;
                },
                ErrorCode::InvalidRequest,
            ),
            (|a| a.isr[1].epoch = BrokerEpoch(1), ErrorCode::IneligibleReplica),
        ];
        let mut cluster = cluster();
        for (at, (fault, code)) in faults.iter().enumerate() {
            let mut alter = cluster.alter(&[2, 3]);
            fault(&mut alter);
            assert_eq!(refused(&mut cluster, alter), *code, "fault {at}");
        }
        // Sent by a broker that does not lead.
        let alter = AlterPartition { sender: cluster.session(3), ..cluster.alter(&[2, 3]) };
        assert_eq!(refused(&mut cluster, alter), ErrorCode::InvalidRequest);
    }

    #[test]
    fn the_order_of_the_checks_decides() {
        let mut cluster = cluster();
        let mut alter = cluster.alter(&[9, 9]);
        alter.recovery = Recovery::Recovering;
        alter.sender = BrokerSession { broker: BrokerId(3), epoch: BrokerEpoch(0) };
        alter.partition = key(2, 1);
        alter.leader_epoch = LeaderEpoch(0);
        alter.partition_epoch = PartitionEpoch(9);
        // One fault is mended after the other, in the order of the specification.
        type Mend = fn(&mut AlterPartition, &Cluster);
        let mends: &[(Mend, ErrorCode)] = &[
            (|_, _| (), ErrorCode::StaleBrokerEpoch),
            (|a, cluster| a.sender = cluster.session(3), ErrorCode::UnknownTopicId),
            (|a, _| a.partition.topic = key(1, 0).topic, ErrorCode::UnknownTopicOrPartition),
            (|a, _| a.partition = key(1, 0), ErrorCode::NotController),
            (|a, _| a.partition_epoch = PartitionEpoch(0), ErrorCode::FencedLeaderEpoch),
            (|a, _| a.leader_epoch = LeaderEpoch(1), ErrorCode::InvalidRequest),
            (|a, cluster| a.sender = cluster.session(2), ErrorCode::InvalidUpdateVersion),
            (|a, _| a.partition_epoch = PartitionEpoch(1), ErrorCode::InvalidRequest),
            (
                |a, cluster| a.isr = vec![cluster.session(2), cluster.session(1)],
                ErrorCode::InvalidRequest,
            ),
            (
                |a, _| {
                    a.recovery = Recovery::Recovered;
                    a.isr[1].epoch = BrokerEpoch(99);
                },
                ErrorCode::IneligibleReplica,
            ),
        ];
        for (at, (mend, code)) in mends.iter().enumerate() {
            mend(&mut alter, &cluster);
            assert_eq!(refused(&mut cluster, alter.clone()), *code, "after {at} mends");
        }
        alter.isr[1] = cluster.session(1);
        cluster.accept(Command::AlterPartition(alter));
        assert_eq!(cluster.shown(), "leader=2 isr=[1,2] elr=[] last=- epochs=1/2");
    }

    #[test]
    fn members_that_cannot_be_in_sync_are_ineligible() {
        let mut cluster = cluster();
        let all = cluster.alter(&[1, 2, 3]);
        let leave: [fn(&mut Cluster); 4] = [
            |cluster| drop(cluster.fence(1)),
            |cluster| {
                cluster.unfence(1);
                cluster.shut_down(1);
            },
            // Back as another incarnation: active, but not the one that fetched.
            |cluster| {
                cluster.restart(1, 2, &[1]);
                cluster.unfence(1);
            },
            |cluster| {
                drop(cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None }))
            },
        ];
        for (at, leave) in leave.iter().enumerate() {
            leave(&mut cluster);
            let alter = all.clone();
            assert_eq!(refused(&mut cluster, alter), ErrorCode::IneligibleReplica, "way {at}");
        }
    }

    #[test]
    fn the_isr_grows_and_shrinks_by_its_leader() {
        let mut cluster = cluster();
        let Reply::PartitionAltered(altered) = cluster.set_isr(&[3, 1, 2]) else {
            panic!("another reply")
        };
        assert_eq!(
            altered,
            PartitionAltered {
                leader: Some(BrokerId(2)),
                isr: ids(&[1, 2, 3]),
                leader_epoch: LeaderEpoch(1),
                partition_epoch: PartitionEpoch(2),
                recovery: Recovery::Recovered,
                new_leader_elected: false,
            }
        );
        // The same again is no change and steps no epoch.
        let applied = cluster.apply(Command::AlterPartition(cluster.alter(&[1, 2, 3])));
        assert_eq!(applied.outcome.into_result(), Ok(Reply::PartitionAltered(altered)));
        assert_eq!(applied.changes, crate::Delta::default());
        cluster.set_isr(&[2]);
        assert_eq!(cluster.shown(), "leader=2 isr=[2] elr=[] last=- epochs=1/3");
    }

    #[test]
    fn a_recovering_leader_recovers_alone_first() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        let mut partition = cluster.partition().clone();
        partition.isr = ids(&[1]);
        partition.recovery = Recovery::Recovering;
        cluster.replace_partition(partition);
        let alter = |isr: &[u32], recovery, cluster: &Cluster| {
            Command::AlterPartition(AlterPartition { recovery, ..cluster.alter(isr) })
        };
        let with_two = alter(&[1, 2], Recovery::Recovering, &cluster);
        assert_eq!(cluster.refuse(with_two), ErrorCode::InvalidRequest);
        let still = alter(&[1], Recovery::Recovering, &cluster);
        cluster.accept(still);
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[] last=- epochs=0/1 RECOVERING");
        let done = alter(&[1], Recovery::Recovered, &cluster);
        cluster.accept(done);
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[] last=- epochs=0/2");
        let back = alter(&[1], Recovery::Recovering, &cluster);
        assert_eq!(cluster.refuse(back), ErrorCode::InvalidRequest);
        cluster.set_isr(&[1, 2]);
        assert_eq!(cluster.shown(), "leader=1 isr=[1,2] elr=[] last=- epochs=0/3");
    }

    #[test]
    fn completing_a_reassignment_away_from_the_leader_is_made_and_answered_as_such() {
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[]);
        let mut partition = cluster.partition().clone();
        partition.replicas = ids(&[3, 2, 1]);
        partition.isr = ids(&[2, 1]);
        partition.adding = ids(&[3]);
        partition.removing = ids(&[1]);
        cluster.replace_partition(partition);
        let outcome = cluster.apply(Command::AlterPartition(cluster.alter(&[1, 2, 3]))).outcome;
        assert_eq!(outcome.error_code(), Some(ErrorCode::NewLeaderElected));
        assert_eq!(cluster.shown(), "leader=3 isr=[3,2] elr=[] last=- epochs=1/2");
        assert_eq!(cluster.partition().replicas, ids(&[3, 2]));
        // The index follows: what the removed broker kept is not looked up for it any more.
        assert_eq!(cluster.image().partitions_of(BrokerId(1)).count(), 0);
        assert_eq!(cluster.image().partitions_of(BrokerId(3)).count(), 1);
    }
}
