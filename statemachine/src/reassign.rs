//! AlterReassignments: moves partitions to other brokers, or takes that back (KIP-455).
//!
//! While a partition moves, its replicas are those it is to have and then those that will leave. When
//! all that stay are in sync, `change` completes it. Until then nobody leaves: a reassignment that
//! replaces another one begins at all replicas that there are, those being added among them, since any
//! of them may hold what was acknowledged.

use crate::brokers::Brokers;
use crate::change::Target;
use crate::command::Reassignment;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{PartitionKey, list};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::{PartitionAltered, PartitionResult, Reply};
use crate::partition::{Partition, first_doubled, without};
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
    let partition = step.changeable(*key)?;
    let before = partition.leader;
    let target = match target {
        Some(wanted) => moved(step.image, *key, partition, wanted)?,
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
    } else if let Some(id) = wanted.iter().find(|id| image.broker(**id).is_none()) {
        Some(format!("names broker {id}, which is not registered: use registered ones"))
    } else {
        first_doubled(wanted).map(|id| format!("names broker {id} twice: name it once"))
    };
    if let Some(fault) = fault {
        return Err(invalid(format!("the new assignment {} of {key} {fault}", list(wanted))));
    }
    // A retry changes nothing: counted as a reassignment of its own it would add nobody, and what the
    // first one adds could not be taken back any more.
    if partition.is_reassigning() && **wanted == *without(&partition.replicas, &partition.removing)
    {
        return Ok(Target::of(partition));
    }
    let removing = without(&partition.replicas, wanted);
    let adding = without(wanted, &partition.replicas);
    let replicas: Brokers = wanted.iter().chain(&removing).copied().collect();
    if replicas.len() > REPLICATION_FACTOR_MAX {
        return Err(invalid(format!(
            "{key} would have {} replicas while it moves: wait until it has moved, or cancel that",
            replicas.len()
        )));
    }
    Ok(Target { replicas, adding, removing, ..Target::of(partition) })
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
        return Err(invalid(format!(
            "{key} would have no replica in sync, its ISR is {}: wait until one that stays has \
             caught up",
            list(&partition.isr)
        )));
    }
    Ok(Target {
        replicas: without(&partition.replicas, &partition.adding),
        isr,
        adding: Brokers::default(),
        removing: Brokers::default(),
        ..Target::of(partition)
    })
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidReplicaAssignment, message)
}
