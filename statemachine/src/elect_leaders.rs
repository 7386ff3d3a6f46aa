//! ElectLeaders: somebody wants the preferred leaders back, or any leader at all (KIP-460).

use crate::change::Target;
use crate::command::{ElectLeaders, ElectionType};
use crate::elect::Election;
use crate::error::{ErrorCode, Rejection};
use crate::ids::PartitionKey;
use crate::machine::Step;
use crate::outcome::{PartitionAltered, PartitionResult, Reply};

pub(crate) fn apply(step: &mut Step<'_>, elect: &ElectLeaders) -> Result<Reply, Rejection> {
    step.check_named_once(elect.partitions.iter().copied())?;
    let results =
        elect.partitions.iter().map(|key| elect_one(step, *key, elect.election)).collect();
    Ok(Reply::LeadersElected { results })
}

fn elect_one(step: &mut Step<'_>, key: PartitionKey, wanted: ElectionType) -> PartitionResult {
    let partition = step.changeable(key)?;
    let leads_as_wanted = match wanted {
        ElectionType::Preferred => partition.leader == partition.replicas.first().copied(),
        ElectionType::Unclean | ElectionType::UncleanWhereAllowed => partition.leader.is_some(),
    };
    if leads_as_wanted && let Some(leader) = partition.leader {
        return Err(Rejection::new(
            ErrorCode::ElectionNotNeeded,
            format!("broker {leader} leads {key} already: nothing is to be done"),
        ));
    }
    let election = match wanted {
        ElectionType::Preferred => Election::Preferred,
        ElectionType::Unclean => Election::Unclean,
        ElectionType::UncleanWhereAllowed if step.allows_unclean_election(key) => Election::Unclean,
        ElectionType::UncleanWhereAllowed => return Err(not_allowed(key)),
    };
    let target = Target { election, ..Target::of(partition) };
    if !step.change_partition(key, target) {
        return Err(nobody(wanted, key));
    }
    Ok(PartitionAltered::of(step.partition(key)?, false))
}

fn nobody(wanted: ElectionType, key: PartitionKey) -> Rejection {
    match wanted {
        ElectionType::Preferred => Rejection::new(
            ErrorCode::PreferredLeaderNotAvailable,
            format!(
                "the first replica of {key} is not in the ISR, or not active: wait until it has \
                 caught up"
            ),
        ),
        ElectionType::Unclean | ElectionType::UncleanWhereAllowed => Rejection::new(
            ErrorCode::EligibleLeadersNotAvailable,
            format!("no replica of {key} is active: start one of its brokers"),
        ),
    }
}

fn not_allowed(key: PartitionKey) -> Rejection {
    Rejection::new(
        ErrorCode::EligibleLeadersNotAvailable,
        format!(
            "no replica of {key} that is active surely has all that was acknowledged, and the topic's \
             unclean.leader.election.enable is false: start the brokers that have it, or ask for an \
             unclean election"
        ),
    )
}
