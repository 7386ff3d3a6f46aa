//! The specification's invariants, asserted of the model itself.

use std::collections::BTreeSet;

use quorate_statemachine::{PartitionKey, Recovery};

use crate::change::set;
use crate::state::{Partition, Set, State};

impl State {
    /// What holds of every state.
    pub(crate) fn check(&self) -> Result<(), String> {
        let epochs: BTreeSet<_> = self.brokers.values().map(|broker| broker.epoch).collect();
        rule(epochs.len() == self.brokers.len(), "broker epochs are unique")?;
        let active = self.active();
        for key in self.keys() {
            let partition = self.partition(key).unwrap();
            self.check_partition(key, partition, &active)
                .map_err(|fault| format!("partition {key}: {fault}: {partition:?}"))?;
        }
        Ok(())
    }

    fn check_partition(
        &self,
        key: PartitionKey,
        partition: &Partition,
        active: &Set,
    ) -> Result<(), String> {
        let Partition { isr, elr, adding, removing, leader, .. } = partition;
        let replicas = set(&partition.replicas);
        rule(!replicas.is_empty(), "a partition has replicas")?;
        rule(replicas.len() == partition.replicas.len(), "no replica is named twice")?;
        for part in [isr, elr, adding, removing] {
            rule(part.is_subset(&replicas), "isr, elr, adding, removing are within replicas")?;
        }
        rule(isr.is_disjoint(elr), "isr and elr are disjoint")?;
        rule(adding.is_disjoint(removing), "adding and removing are disjoint")?;
        rule(isr.is_subset(active), "whoever is in the isr is active")?;
        rule(leader.is_none_or(|id| isr.contains(&id)), "the leader is in the isr")?;
        rule(leader.is_some() != isr.is_empty(), "the isr is empty if and only if nobody leads")?;
        let recovering = partition.recovery == Recovery::Recovering;
        rule(!recovering || isr.len() <= 1, "who recovers is alone in the isr")?;
        let enough = self.min_insync(key.topic).min(replicas.len());
        rule(isr.len() < enough || elr.is_empty(), "with enough in the isr the elr is empty")?;
        let known = partition.last_known_leader;
        rule(leader.is_none() || known.is_none(), "a leader is known, not last known")?;
        rule(known.is_none_or(|id| replicas.contains(&id)), "the last known leader is a replica")
    }

    /// What holds of every step from `before` to this state.
    pub(crate) fn check_step(&self, before: &Self) -> Result<(), String> {
        rule(self.feature_level >= before.feature_level, "the feature level never decreases")?;
        rule(self.next_producer_id >= before.next_producer_id, "producer ids never decrease")?;
        let highest = before.brokers.values().map(|broker| broker.epoch).max();
        for (id, broker) in &self.brokers {
            let kept = before.brokers.get(id).is_some_and(|old| old.epoch == broker.epoch);
            rule(kept || Some(broker.epoch) > highest, "another broker epoch is the highest")?;
        }
        for key in self.keys() {
            let (Some(old), Some(new)) = (before.partition(key), self.partition(key)) else {
                continue;
            };
            let steps = |old: u32, new: u32| new.checked_sub(old);
            let epoch = steps(old.partition_epoch.0, new.partition_epoch.0);
            let leader_epoch = steps(old.leader_epoch.0, new.leader_epoch.0);
            rule(epoch == Some(u32::from(old != new)), "each change is one partition epoch")?;
            rule(matches!(leader_epoch, Some(0 | 1)), "a leader epoch grows by one")?;
            let moved = old.leader != new.leader;
            rule(!moved || leader_epoch == Some(1), "another leader is another leader epoch")?;
            rule(leader_epoch == Some(0) || epoch == Some(1), "no leader epoch by itself")?;
        }
        Ok(())
    }
}

fn rule(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}
