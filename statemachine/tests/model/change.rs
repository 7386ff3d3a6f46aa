//! `change` of the specification: the one way in which a partition changes.

use quorate_statemachine::{BrokerId, PartitionKey, Recovery};

use crate::state::{Partition, Set, State};

/// Which election is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Election {
    Ordinary,
    Preferred,
    Unclean,
}

/// What a partition is to be.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) replicas: Vec<BrokerId>,
    pub(crate) isr: Set,
    pub(crate) adding: Set,
    pub(crate) removing: Set,
    pub(crate) recovery: Recovery,
    pub(crate) election: Election,
    /// Not electable, though its flags may still say so.
    pub(crate) leaving: Option<BrokerId>,
    /// A replica of whose disks nothing is known any more: it leaves the ELR.
    pub(crate) unclean: Option<BrokerId>,
    /// It is not the last known leader any more.
    pub(crate) forgotten: Option<BrokerId>,
}

impl Target {
    /// All as it is.
    pub(crate) fn keep(partition: &Partition) -> Self {
        Self {
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            adding: partition.adding.clone(),
            removing: partition.removing.clone(),
            recovery: partition.recovery,
            election: Election::Ordinary,
            leaving: None,
            unclean: None,
            forgotten: None,
        }
    }

    /// A broker leaves the ISR.
    pub(crate) fn without(partition: &Partition, broker: BrokerId) -> Self {
        let mut target = Self { leaving: Some(broker), ..Self::keep(partition) };
        target.isr.remove(&broker);
        target
    }
}

/// The members of `set` that are not in `less`.
pub(crate) fn minus(set: &[BrokerId], less: &Set) -> Vec<BrokerId> {
    set.iter().copied().filter(|id| !less.contains(id)).collect()
}

pub(crate) fn set(brokers: &[BrokerId]) -> Set {
    brokers.iter().copied().collect()
}

impl State {
    /// Changes a partition; says whether anything differs.
    pub(crate) fn change(&mut self, key: PartitionKey, target: Target) -> bool {
        let old = self.partition(key).unwrap().clone();
        let mut active = self.active();
        if let Some(leaving) = target.leaving {
            active.remove(&leaving);
        }
        let new = changed(&old, target, self.min_insync(key.topic), &active);
        let differs = new != old;
        self.topics.get_mut(&key.topic).unwrap().partitions[key.partition as usize] = new;
        differs
    }
}

fn changed(old: &Partition, target: Target, min_insync: usize, active: &Set) -> Partition {
    let Target { election, unclean, forgotten, .. } = target;
    let mut new = Partition {
        replicas: target.replicas,
        isr: target.isr,
        adding: target.adding,
        removing: target.removing,
        recovery: target.recovery,
        ..old.clone()
    };
    complete_reassignment(&mut new);

    let replicas = set(&new.replicas);
    let enough = min_insync.min(replicas.len());
    let unclean = unclean.into_iter().collect::<Set>();
    new.elr = match new.isr.len() >= enough {
        true => Set::new(),
        false => &(&(&(&old.elr | &old.isr) - &new.isr) - &unclean) & &replicas,
    };
    // Who is no replica is not a leader to come back.
    let is_known = |id: &BrokerId| replicas.contains(id) && forgotten != Some(*id);
    new.last_known_leader = old.last_known_leader.filter(is_known);

    elect(&mut new, old.leader, election, active);
    if new.isr.len() >= enough {
        // One elected from the ELR may be enough.
        new.elr.clear();
    }
    match (new.leader, old.leader) {
        (Some(_), _) => new.last_known_leader = None,
        (None, Some(_)) => new.last_known_leader = old.leader.filter(is_known),
        (None, None) => {}
    }

    let left = old.replicas.iter().any(|id| !replicas.contains(id));
    if new.leader != old.leader || left {
        new.leader_epoch.0 += 1;
    }
    if new != *old {
        new.partition_epoch.0 += 1;
    }
    new
}

fn complete_reassignment(new: &mut Partition) {
    let isr = &new.isr - &new.removing;
    let replicas = minus(&new.replicas, &new.removing);
    if !isr.is_empty() && !replicas.is_empty() && replicas.iter().all(|id| isr.contains(id)) {
        new.isr = isr;
        new.replicas = replicas;
        new.adding.clear();
        new.removing.clear();
    }
}

fn elect(new: &mut Partition, current: Option<BrokerId>, election: Election, active: &Set) {
    let eligible = if new.isr.is_empty() { &new.elr } else { &new.isr };
    let valid = &active.iter().copied().filter(|id| eligible.contains(id)).collect::<Set>();
    let preferred = (election == Election::Preferred).then_some(new.replicas[0]);
    let mut candidates = preferred.into_iter().chain(current).chain(new.replicas.iter().copied());

    if let Some(leader) = candidates.find(|id| valid.contains(id)) {
        new.leader = Some(leader);
        if new.isr.is_empty() {
            new.isr.insert(leader);
            new.elr.remove(&leader);
        }
        return;
    }
    let known = if new.isr.is_empty() && new.elr.is_empty() { new.last_known_leader } else { None };
    let mut any = new.replicas.iter().copied().filter(|id| active.contains(id));
    let unclean = if election == Election::Unclean { any.next() } else { None };
    new.leader = known.filter(|id| active.contains(id)).or(unclean);
    match new.leader {
        Some(leader) => {
            new.isr = Set::from([leader]);
            new.elr.clear();
            new.recovery = Recovery::Recovering;
        }
        None => new.isr.clear(),
    }
}
