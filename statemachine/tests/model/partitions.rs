//! The rules of what is asked of single partitions: AlterPartition, elections, reassignments.

use std::collections::BTreeSet;

use quorate_statemachine::{
    AlterPartition, BrokerId, ElectLeaders, ElectionType, ErrorCode, PartitionAltered,
    PartitionKey, PartitionResult, Reassignment, Recovery, Rejection, Reply,
};

use crate::age::LAST_FOR_CLIENTS;
use crate::change::{Election, Target, minus, set};
use crate::state::{Partition, Set, State};
use crate::topics::{PARTITIONS_MAX, REPLICAS_MAX};

impl State {
    fn find(&self, key: PartitionKey) -> Result<Partition, ErrorCode> {
        let topic = self.topics.get(&key.topic).ok_or(ErrorCode::UnknownTopicId)?;
        let partition = topic.partitions.get(key.partition as usize);
        partition.cloned().ok_or(ErrorCode::UnknownTopicOrPartition)
    }

    /// One that a client may change.
    fn changeable(&self, key: PartitionKey) -> Result<Partition, ErrorCode> {
        let partition = self.find(key)?;
        match partition.partition_epoch.0.max(partition.leader_epoch.0) > LAST_FOR_CLIENTS {
            true => Err(ErrorCode::InvalidRequest),
            false => Ok(partition),
        }
    }

    fn altered(&self, key: PartitionKey, new_leader_elected: bool) -> PartitionAltered {
        let partition = self.partition(key).unwrap();
        PartitionAltered {
            leader: partition.leader,
            isr: partition.ordered(&partition.isr),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            recovery: partition.recovery,
            new_leader_elected,
        }
    }

    pub(crate) fn alter_partition(&mut self, alter: &AlterPartition) -> Result<Reply, ErrorCode> {
        let sender = self.session(alter.sender)?;
        let key = alter.partition;
        let old = self.find(key)?;
        if alter.leader_epoch > old.leader_epoch || alter.partition_epoch > old.partition_epoch {
            return Err(ErrorCode::NotController);
        }
        if alter.leader_epoch < old.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if old.leader != Some(sender) {
            return Err(ErrorCode::InvalidRequest);
        }
        if alter.partition_epoch < old.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        let isr: Set = alter.isr.iter().map(|member| member.broker).collect();
        if !isr.is_subset(&set(&old.replicas))
            || isr.len() != alter.isr.len()
            || !isr.contains(&sender)
        {
            return Err(ErrorCode::InvalidRequest);
        }
        if alter.recovery == Recovery::Recovering
            && (isr.len() > 1 || old.recovery == Recovery::Recovered)
        {
            return Err(ErrorCode::InvalidRequest);
        }
        let active = self.active();
        let may_join = |id: BrokerId| active.contains(&id);
        if !alter.isr.iter().all(|one| self.session(*one).is_ok_and(may_join)) {
            return Err(ErrorCode::IneligibleReplica);
        }
        self.changeable(key)?;
        self.change(key, Target { isr, recovery: alter.recovery, ..Target::keep(&old) });
        Ok(Reply::PartitionAltered(self.altered(key, self.completed_elsewhere(key, &old))))
    }

    /// Whether what was under way is complete now, and led by another.
    fn completed_elsewhere(&self, key: PartitionKey, old: &Partition) -> bool {
        let new = self.partition(key).unwrap();
        old.is_reassigning() && !new.is_reassigning() && new.leader != old.leader
    }

    pub(crate) fn elect_leaders(&mut self, elect: &ElectLeaders) -> Result<Reply, ErrorCode> {
        check_named_once(elect.partitions.iter().copied())?;
        let results =
            elect.partitions.iter().map(|key| result(self.elect_leader(*key, elect.election)));
        Ok(Reply::LeadersElected { results: results.collect() })
    }

    fn elect_leader(
        &mut self,
        key: PartitionKey,
        wanted: ElectionType,
    ) -> Result<PartitionAltered, ErrorCode> {
        let old = self.changeable(key)?;
        let (needed, election, unavailable) = match wanted {
            ElectionType::Preferred => (
                old.leader != Some(old.replicas[0]),
                Election::Preferred,
                ErrorCode::PreferredLeaderNotAvailable,
            ),
            ElectionType::Unclean | ElectionType::UncleanWhereAllowed => {
                (old.leader.is_none(), Election::Unclean, ErrorCode::EligibleLeadersNotAvailable)
            }
        };
        if !needed {
            return Err(ErrorCode::ElectionNotNeeded);
        }
        if wanted == ElectionType::UncleanWhereAllowed && !self.unclean_election(key.topic) {
            return Err(ErrorCode::EligibleLeadersNotAvailable);
        }
        if !self.change(key, Target { election, ..Target::keep(&old) }) {
            return Err(unavailable);
        }
        Ok(self.altered(key, self.completed_elsewhere(key, &old)))
    }

    pub(crate) fn alter_reassignments(
        &mut self,
        reassignments: &[Reassignment],
    ) -> Result<Reply, ErrorCode> {
        check_named_once(reassignments.iter().map(|one| one.partition))?;
        let results = reassignments.iter().map(|one| {
            result(match &one.target {
                Some(target) => self.reassign(one.partition, target),
                None => self.cancel(one.partition),
            })
        });
        Ok(Reply::Reassigned { results: results.collect() })
    }

    fn reassign(
        &mut self,
        key: PartitionKey,
        target: &[BrokerId],
    ) -> Result<PartitionAltered, ErrorCode> {
        let old = self.changeable(key)?;
        if target.is_empty() || target.len() > REPLICAS_MAX {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        self.check_replicas(target)?;
        if old.is_reassigning() && target == minus(&old.replicas, &old.removing) {
            // Asked for again.
            self.change(key, Target::keep(&old));
            return Ok(self.altered(key, self.settled_elsewhere(key, &old)));
        }
        let current = set(&old.replicas);
        let adding = &set(target) - &current;
        let removing = &current - &set(target);
        let replicas = [target, &minus(&old.replicas, &set(target))].concat();
        if replicas.len() > REPLICAS_MAX {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        self.change(key, Target { replicas, adding, removing, ..Target::keep(&old) });
        let new = self.partition(key).unwrap();
        assert!(!new.isr.is_empty() || old.isr.is_empty(), "whoever is in sync is lost");
        assert!(new.elr.is_superset(&old.elr) || !new.isr.is_empty(), "candidates are lost");
        Ok(self.altered(key, self.settled_elsewhere(key, &old)))
    }

    fn cancel(&mut self, key: PartitionKey) -> Result<PartitionAltered, ErrorCode> {
        let old = self.changeable(key)?;
        if !old.is_reassigning() {
            return Err(ErrorCode::NoReassignmentInProgress);
        }
        let isr = &old.isr - &old.adding;
        if isr.is_empty() {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        let replicas = minus(&old.replicas, &old.adding);
        let (adding, removing) = (Set::new(), Set::new());
        self.change(key, Target { replicas, isr, adding, removing, ..Target::keep(&old) });
        Ok(self.altered(key, self.settled_elsewhere(key, &old)))
    }

    /// Whether nothing is under way now, and another leads.
    fn settled_elsewhere(&self, key: PartitionKey, old: &Partition) -> bool {
        let new = self.partition(key).unwrap();
        !new.is_reassigning() && new.leader != old.leader
    }
}

fn check_named_once(keys: impl ExactSizeIterator<Item = PartitionKey>) -> Result<(), ErrorCode> {
    let len = keys.len();
    let distinct = keys.collect::<BTreeSet<_>>().len();
    match (1..=PARTITIONS_MAX).contains(&len) && distinct == len {
        true => Ok(()),
        false => Err(ErrorCode::InvalidRequest),
    }
}

/// The model has no sentences.
fn result(result: Result<PartitionAltered, ErrorCode>) -> PartitionResult {
    result.map_err(|code| Rejection::new(code, ""))
}
