//! What is asked of partitions: what their leaders want, elections, reassignments.

use quorate_statemachine::{
    AlterPartition, BrokerId, BrokerSession, ElectLeaders, ElectionType, LeaderEpoch,
    PartitionEpoch, PartitionKey, Reassignment, Recovery,
};

use super::{Generator, topic_id};
use crate::change::minus;
use crate::state::Partition;
use crate::topics::PARTITIONS_MAX;

impl Generator<'_> {
    pub(super) fn alter_partition(&mut self) -> AlterPartition {
        let reassigned = self.random.chance(400);
        let key =
            self.partition_where(|p| p.leader.is_some() && (!reassigned || p.is_reassigning()));
        let Some(partition) = self.state.partition(key) else {
            return AlterPartition {
                sender: self.session_where(|_| true),
                partition: key,
                leader_epoch: LeaderEpoch(0),
                partition_epoch: PartitionEpoch(0),
                isr: vec![],
                recovery: Recovery::Recovered,
            };
        };
        let leader = partition.leader.unwrap_or_else(|| self.any_broker());
        let stay = partition.recovery == Recovery::Recovering && self.random.chance(500);
        let mut alter = AlterPartition {
            sender: self.session(leader),
            partition: key,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: self.isr(partition, leader, stay),
            recovery: if stay { Recovery::Recovering } else { Recovery::Recovered },
        };
        if self.random.chance(150) {
            self.spoil_alter(&mut alter, partition);
        }
        alter
    }

    /// Some of the replicas that may be in sync; the leader mostly, though not where it is leaving.
    fn isr(&mut self, partition: &Partition, leader: BrokerId, alone: bool) -> Vec<BrokerSession> {
        let active = self.state.active();
        let replicas: Vec<BrokerId> =
            partition.replicas.iter().copied().filter(|id| active.contains(id)).collect();
        let count = if self.random.chance(500) { replicas.len() } else { self.random.below(5) };
        let mut isr = self.random.some_of(&replicas, count);
        if alone {
            isr.clear();
        }
        if !isr.contains(&leader) && self.random.chance(970) {
            isr.push(leader);
        }
        isr.into_iter().map(|id| self.session(id)).collect()
    }

    fn spoil_alter(&mut self, alter: &mut AlterPartition, partition: &Partition) {
        match self.random.below(9) {
            0 => alter.leader_epoch.0 += 1,
            1 => alter.partition_epoch.0 += 1,
            2 => alter.leader_epoch.0 = alter.leader_epoch.0.saturating_sub(1),
            3 => alter.partition_epoch.0 = alter.partition_epoch.0.saturating_sub(1),
            4 => alter.sender = self.session_where(|_| true),
            5 => alter.recovery = Recovery::Recovering,
            6 => {
                let one = self.any_broker();
                let one = self.session(one);
                alter.isr.push(one);
            }
            7 => {
                let replica = *self.random.of(&partition.replicas);
                let replica = self.session(replica);
                alter.isr.push(replica);
            }
            _ => alter.isr.clear(),
        }
    }

    /// Some partitions, each once, but for a mistake.
    fn partitions_where(&mut self, wanted: impl Fn(&Partition) -> bool) -> Vec<PartitionKey> {
        if self.random.chance(2) {
            let over = self.random.below(2);
            let key = |partition| PartitionKey { topic: topic_id(1), partition };
            return (0..(PARTITIONS_MAX + over) as u32).map(key).collect();
        }
        let count = self.random.weighted(&[1, 70, 20, 9]);
        let mut keys: Vec<PartitionKey> = Vec::new();
        for _ in 0..count {
            let key = self.partition_where(&wanted);
            if !keys.contains(&key) || self.random.chance(100) {
                keys.push(key);
            }
        }
        keys
    }

    pub(super) fn elections(&mut self) -> ElectLeaders {
        let election = match self.random.weighted(&[2, 1, 1]) {
            0 => ElectionType::Preferred,
            1 => ElectionType::Unclean,
            _ => ElectionType::UncleanWhereAllowed,
        };
        let partitions = match election {
            ElectionType::Preferred => {
                self.partitions_where(|p| p.leader != p.replicas.first().copied())
            }
            _ => self.partitions_where(|p| p.leader.is_none()),
        };
        ElectLeaders { election, partitions }
    }

    pub(super) fn reassignments(&mut self) -> Vec<Reassignment> {
        let under_way = self.random.chance(350);
        let keys = self.partitions_where(|p| !under_way || p.is_reassigning());
        let mut reassignments = Vec::new();
        for partition in keys {
            let busy = self.state.partition(partition).is_some_and(Partition::is_reassigning);
            let cancel = self.random.chance(if busy { 350 } else { 40 });
            let target = (!cancel).then(|| self.target(partition).into());
            reassignments.push(Reassignment { partition, target });
        }
        reassignments
    }

    /// New replicas; mostly some of them are kept.
    fn target(&mut self, key: PartitionKey) -> Vec<BrokerId> {
        let factor = self.random.within(1, 4);
        let target = self.replicas(factor);
        let Some(partition) = self.state.partition(key) else { return target };
        match self.random.below(8) {
            0 => minus(&partition.replicas, &partition.removing),
            1 | 2 => self.random.some_of(&partition.replicas, factor),
            3 | 4 => {
                let kept = *self.random.of(&partition.replicas);
                let mut mixed = target;
                mixed.retain(|id| *id != kept);
                mixed.insert(self.random.below(mixed.len() + 1), kept);
                mixed
            }
            _ => target,
        }
    }
}
