//! A partition: who keeps it, who leads it, who may lead it next.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::brokers::Brokers;
use crate::ids::{BrokerId, LeaderEpoch, PartitionEpoch};

/// Whether the leader's log holds all that was ever acknowledged (KIP-704).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// It does.
    #[default]
    Recovered,
    /// The leader was elected without that guarantee, and has not said yet that it has recovered.
    Recovering,
}

/// The highest epoch of a partition: Kafka sends epochs as signed 32-bit numbers. A partition that has reached
/// it is closed: nobody leads it, and nothing changes it any more.
pub const EPOCH_MAX: u32 = i32::MAX as u32;

/// The last epochs are for what must not fail, a fence before all. From where they begin on, nothing that a
/// client asks of the partition is done any more: with one fence a second they last for eight years.
pub const EPOCHS_RESERVED: u32 = 1 << 28;

/// The state of a partition.
///
/// `isr` and `elr` are kept in the order of `replicas`, so that equal sets are equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The brokers that keep the partition, in order of preference as leader.
    pub replicas: Brokers,
    /// In-sync replicas: all of them hold what was acknowledged. Empty if and only if there is no
    /// leader.
    pub isr: Brokers,
    /// Eligible leader replicas: they left the ISR while it was below `min.insync.replicas`, so that
    /// they too hold everything below the high watermark (KIP-966).
    pub elr: Brokers,
    /// The leader before there was none, for as long as there is none (KIP-966).
    pub last_known_leader: Option<BrokerId>,
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// Grows when the leader is written.
    pub leader_epoch: LeaderEpoch,
    /// Grows with any change.
    pub partition_epoch: PartitionEpoch,
    /// Replicas that a reassignment is adding (KIP-455).
    pub adding: Brokers,
    /// Replicas that a reassignment will remove when it completes (KIP-455).
    pub removing: Brokers,
    /// Whether the leader was elected with the guarantee of the ISR.
    pub recovery: Recovery,
}

impl Partition {
    /// A new partition: both epochs 0, led by the first broker of its ISR.
    pub(crate) fn created(replicas: Brokers, isr: Brokers) -> Self {
        let leader = isr.first().copied();
        Self {
            replicas,
            isr,
            elr: Brokers::default(),
            last_known_leader: None,
            leader,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            adding: Brokers::default(),
            removing: Brokers::default(),
            recovery: Recovery::Recovered,
        }
    }

    /// Whether a reassignment is going on.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Whether only the reserved epochs are left ([`EPOCHS_RESERVED`]): no client changes it any more.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.latest_epoch() > EPOCH_MAX - EPOCHS_RESERVED
    }

    /// Whether no epoch is left ([`EPOCH_MAX`]): nobody leads it, and nothing changes it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.latest_epoch() >= EPOCH_MAX
    }

    /// The higher one of the two.
    pub(crate) fn latest_epoch(&self) -> u32 {
        self.partition_epoch.get().max(self.leader_epoch.get())
    }

    /// How many in-sync replicas `acks=all` needs: `min.insync.replicas`, or the replication factor
    /// where that is lower.
    #[must_use]
    pub fn min_insync_effective(&self, min_insync_replicas: u32) -> usize {
        min_insync_effective(min_insync_replicas, self.replicas.len())
    }
}

/// `min(min.insync.replicas, replication factor)`, at least 1.
pub(crate) fn min_insync_effective(min_insync_replicas: u32, replication_factor: usize) -> usize {
    usize::try_from(min_insync_replicas).unwrap_or(usize::MAX).min(replication_factor).max(1)
}

/// Up to so many brokers a scan beats a search; no replication factor is higher but by mistake, and then
/// there may be [`REPLICATION_FACTOR_MAX`](crate::REPLICATION_FACTOR_MAX).
const SCANNED_MAX: usize = 32;

/// A list of brokers in which others are looked up.
pub(crate) enum Members<'a> {
    Scanned(&'a [BrokerId]),
    Searched(BTreeSet<BrokerId>),
}

impl<'a> Members<'a> {
    pub(crate) fn of(list: &'a [BrokerId]) -> Self {
        match list.len() {
            0..=SCANNED_MAX => Self::Scanned(list),
            _ => Self::Searched(list.iter().copied().collect()),
        }
    }

    pub(crate) fn contains(&self, id: BrokerId) -> bool {
        match self {
            Self::Scanned(list) => list.contains(&id),
            Self::Searched(set) => set.contains(&id),
        }
    }
}

/// The brokers of `set` that are in `replicas`, in the order of `replicas`.
pub(crate) fn in_order_of(replicas: &[BrokerId], set: &[BrokerId]) -> Brokers {
    let set = Members::of(set);
    replicas.iter().copied().filter(|id| set.contains(*id)).collect()
}

/// `set` without `removed`, in its order.
pub(crate) fn without(set: &[BrokerId], removed: &[BrokerId]) -> Brokers {
    let removed = Members::of(removed);
    set.iter().copied().filter(|id| !removed.contains(*id)).collect()
}

/// The first broker that is named a second time.
pub(crate) fn first_doubled(set: &[BrokerId]) -> Option<BrokerId> {
    if set.len() <= SCANNED_MAX {
        return set.iter().enumerate().find(|(at, id)| set[..*at].contains(id)).map(|(_, id)| *id);
    }
    let mut seen = BTreeSet::new();
    set.iter().copied().find(|id| !seen.insert(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_as_short_ones() {
        for len in [3, SCANNED_MAX as u32, SCANNED_MAX as u32 + 1, 1_000] {
            let list: Vec<BrokerId> = (0..len).rev().map(BrokerId).collect();
            let even: Vec<BrokerId> = list.iter().copied().filter(|id| id.get() % 2 == 0).collect();
            let odd: Vec<BrokerId> = list.iter().copied().filter(|id| id.get() % 2 == 1).collect();
            assert_eq!(*in_order_of(&list, &even), *even);
            assert_eq!(*without(&list, &even), *odd);
            assert_eq!(first_doubled(&list), None);
            let doubled = [&list[..], &[list[1], list[0]]].concat();
            assert_eq!(first_doubled(&doubled), Some(list[1]), "the first one that comes again");
        }
    }
}
