//! The one way in which a partition changes: from a target to its next state, with its election.
//!
//! Every command that touches a partition, once it is created, goes through [`change`]. So the rules
//! of ISR, ELR, elections and epochs are in one place, and a command only says what it aims at.
//!
//! Sources: KIP-455 (reassignment), KIP-497 (partition epoch), KIP-704 (recovery state), KIP-966
//! (eligible leader replicas).

use crate::broker::ActiveBrokers;
use crate::elect::{Ballot, Elected, Election};
use crate::ids::{BrokerId, Brokers, LeaderEpoch, PartitionEpoch};
use crate::partition::{Partition, Recovery, in_order_of, min_insync_effective, without};

/// What a change aims at. Starts as [`Target::of`] a partition, which aims at no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The replicas in order of preference.
    pub replicas: Brokers,
    /// The ISR, in any order.
    pub isr: Brokers,
    /// The replicas being added.
    pub adding: Brokers,
    /// The replicas being removed.
    pub removing: Brokers,
    /// The recovery state, unless the election decides it.
    pub recovery: Recovery,
    /// A replica that may have lost what it acknowledged, or is gone for good: never in the ELR.
    pub unclean: Option<BrokerId>,
    /// A broker that is no longer to be known as the last leader.
    pub forgotten: Option<BrokerId>,
    /// Which election to run.
    pub election: Election,
}

impl Target {
    /// The partition as it is.
    #[must_use]
    pub fn of(partition: &Partition) -> Self {
        Self {
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            adding: partition.adding.clone(),
            removing: partition.removing.clone(),
            recovery: partition.recovery,
            unclean: None,
            forgotten: None,
            election: Election::Online,
        }
    }

    /// The partition without one broker in its ISR.
    #[must_use]
    pub fn without_in_sync(partition: &Partition, leaving: BrokerId) -> Self {
        Self { isr: without(&partition.isr, &[leaving]), ..Self::of(partition) }
    }
}

/// The next state of `partition`, or `None` if nothing differs.
///
/// The brokers in `target.isr` are replicas that may be in an ISR: callers check this before.
#[must_use]
pub fn change(
    partition: &Partition,
    target: Target,
    min_insync_replicas: u32,
    active: &ActiveBrokers<'_>,
) -> Option<Partition> {
    let target = complete_reassignment(target);
    let Target { replicas, isr, adding, removing, recovery, unclean, forgotten, election } = target;
    let isr = in_order_of(&replicas, &isr);
    let min_insync = min_insync_effective(min_insync_replicas, replicas.len());
    let elr = eligible(partition, &replicas, &isr, unclean, min_insync);
    let mut last_known_leader = partition.last_known_leader;

    let ballot = Ballot {
        replicas: &replicas,
        isr: &isr,
        elr: &elr,
        leader: partition.leader,
        last_known_leader,
    };
    let elected = ballot.elect(election, active);
    let (leader, isr, elr, recovery) = match elected {
        Elected::InSync(id) => (Some(id), isr, elr, recovery),
        Elected::Eligible(id) => {
            // Alone in the ISR it may be enough already, with min.insync.replicas lowered meanwhile.
            let elr = if min_insync <= 1 { Brokers::default() } else { without(&elr, &[id]) };
            (Some(id), Box::from([id]), elr, recovery)
        }
        Elected::LastKnown(id) | Elected::Unclean(id) => {
            (Some(id), Box::from([id]), Brokers::default(), Recovery::Recovering)
        }
        Elected::None => (None, isr, elr, recovery),
    };
    if leader.is_some() {
        last_known_leader = None;
    } else if partition.leader.is_some() {
        last_known_leader = partition.leader;
    }
    // A broker that is no replica any more would be elected on its return, with no claim to it.
    last_known_leader =
        last_known_leader.filter(|id| forgotten != Some(*id) && replicas.contains(id));

    let replica_left = partition.replicas.iter().any(|id| !replicas.contains(id));
    let leader_written = leader != partition.leader || replica_left;
    let next = Partition {
        replicas,
        isr,
        elr,
        last_known_leader,
        leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        adding,
        removing,
        recovery,
    };
    (next != *partition).then(|| stamp(next, leader_written))
}

/// Step 1: a reassignment is complete when every replica that stays is in sync.
fn complete_reassignment(target: Target) -> Target {
    if target.adding.is_empty() && target.removing.is_empty() {
        return target;
    }
    let isr = without(&target.isr, &target.removing);
    let replicas = without(&target.replicas, &target.removing);
    let complete =
        !isr.is_empty() && !replicas.is_empty() && replicas.iter().all(|id| isr.contains(id));
    if !complete {
        return target;
    }
    Target { isr, replicas, adding: Brokers::default(), removing: Brokers::default(), ..target }
}

/// Step 2: who left the ISR while it was too small to move the high watermark on without them.
fn eligible(
    partition: &Partition,
    replicas: &[BrokerId],
    isr: &[BrokerId],
    unclean: Option<BrokerId>,
    min_insync: usize,
) -> Brokers {
    if isr.len() >= min_insync {
        return Brokers::default();
    }
    replicas
        .iter()
        .copied()
        .filter(|id| partition.elr.contains(id) || partition.isr.contains(id))
        .filter(|id| !isr.contains(id) && unclean != Some(*id))
        .collect()
}

/// The epochs of a state that differs.
fn stamp(mut next: Partition, leader_written: bool) -> Partition {
    // 2^32 changes of one partition, one a millisecond, take 49 days: an epoch that ran over would
    // let a fenced leader back in, so it must never go unnoticed.
    let epoch = next.partition_epoch.get().checked_add(1);
    next.partition_epoch = PartitionEpoch(epoch.expect("a partition epoch never exceeds 32 bits"));
    if leader_written {
        let epoch = next.leader_epoch.get().checked_add(1);
        next.leader_epoch = LeaderEpoch(epoch.expect("a leader epoch never exceeds 32 bits"));
    }
    next
}
