//! AlterReassignments: moves partitions to other brokers, or takes that back (KIP-455).
//!
//! While a partition moves, its replicas are those it is to have and then those that will leave. When
//! all that stay are in sync, `change` completes it. A reassignment that replaces another one begins
//! where that one began, as if it had been cancelled first; but whoever is in both stays in sync.

use crate::brokers::Brokers;
use crate::change::Target;
use crate::command::Reassignment;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{PartitionKey, list};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::{PartitionAltered, PartitionResult, Reply};
use crate::partition::{Partition, first_doubled, in_order_of, without};
use crate::topics::REPLICATION_FACTOR_MAX;

pub(crate) fn apply(
    step: &mut Step<'_>,
    reassignments: &[Reassignment],
) -> Result<Reply, Rejection> {
    step.check_named_once(reassignments.iter().map(|one| one.partition))?;
    let results = reassignments.iter().map(|one| reassign(step, one)).collect();
    Ok(Reply::Reassigned { results })
}

fn reassign(
    step: &mut Step<'_>,
    Reassignment { partition: key, target }: &Reassignment,
) -> PartitionResult {
    let partition = step.partition(*key)?;
    let before = partition.leader;
    let target = match target {
        Some(replicas) => moved(step.image, *key, partition, replicas)?,
        None => cancelled(*key, partition)?,
    };
    step.change_partition(*key, target);
    let partition = step.partition(*key)?;
    let moved = !partition.is_reassigning() && partition.leader != before;
    Ok(PartitionAltered::of(partition, moved))
}

fn moved(
    image: &MetadataImage,
    key: PartitionKey,
    partition: &Partition,
    wanted: &Brokers,
) -> Result<Target, Rejection> {
    let fault = if !(1..=REPLICATION_FACTOR_MAX).contains(&wanted.len()) {
        Some(format!("has {} brokers: name 1 to {REPLICATION_FACTOR_MAX}", wanted.len()))
    } else if let Some(id) = first_doubled(wanted) {
        Some(format!("names broker {id} twice: name it once"))
    } else {
        let unknown = wanted.iter().find(|id| image.broker(**id).is_none());
        unknown.map(|id| format!("names broker {id}, which is not registered: use registered ones"))
    };
    if let Some(fault) = fault {
        return Err(invalid(format!("the new assignment {} of {key} {fault}", list(wanted))));
    }
    let base = without(&partition.replicas, &partition.adding);
    let removing = without(&base, wanted);
    let replicas: Brokers = wanted.iter().chain(&removing).copied().collect();
    let isr = in_order_of(&replicas, &partition.isr);
    if isr.is_empty() && !partition.isr.is_empty() {
        return Err(leaderless(key, partition));
    }
    let adding = without(wanted, &base);
    Ok(Target { replicas, isr, adding, removing, ..Target::of(partition) })
}

fn cancelled(key: PartitionKey, partition: &Partition) -> Result<Target, Rejection> {
    if !partition.is_reassigning() {
        return Err(Rejection::new(
            ErrorCode::NoReassignmentInProgress,
            format!("{key} is not being reassigned: it is done, or was never asked for"),
        ));
    }
    let isr = without(&partition.isr, &partition.adding);
    if isr.is_empty() {
        return Err(leaderless(key, partition));
    }
    Ok(Target {
        replicas: without(&partition.replicas, &partition.adding),
        isr,
        adding: Brokers::default(),
        removing: Brokers::default(),
        ..Target::of(partition)
    })
}

fn leaderless(key: PartitionKey, partition: &Partition) -> Rejection {
    invalid(format!(
        "{key} would have no replica in sync, its ISR is {}: wait until one that stays has caught up",
        list(&partition.isr)
    ))
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidReplicaAssignment, message)
}
