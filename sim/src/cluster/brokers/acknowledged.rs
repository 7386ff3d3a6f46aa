//! [`Acknowledged`]: what must never be lost, and who must hold it.

use std::collections::{BTreeMap, BTreeSet};

use quorate_statemachine::{
    Broker, BrokerId, MetadataImage, Partition, PartitionKey, Recovery, StateMachine as _,
};

use super::partition_log::PartitionLog;
use crate::cluster::coverage::Path;
use crate::cluster::world::World;

/// A record that was acknowledged: the hash behind it, and the lowest leader epoch it was acknowledged in.
#[derive(Debug, Clone, Copy)]
struct Known {
    hash: u64,
    epoch: u32,
}

/// What was acknowledged of every partition, and who led it.
#[derive(Default)]
pub(in crate::cluster) struct Acknowledged {
    /// By partition, each record that was acknowledged.
    records: BTreeMap<PartitionKey, Vec<Known>>,
    /// Who led in a leader epoch: the broker and its run.
    leaders: BTreeMap<(PartitionKey, u32), (u32, u32)>,
    /// Where an operator asked for an unclean election.
    unclean: BTreeSet<PartitionKey>,
    /// The leader epoch of the last leader that was elected without a guarantee: what earlier ones
    /// acknowledge since then is lost, as whoever asked for it was told.
    since: BTreeMap<PartitionKey, u32>,
    /// The last image that was compared with the one before it, and its index.
    seen: Option<(u64, MetadataImage)>,
}

impl Acknowledged {
    /// How many records of a partition were acknowledged.
    pub(super) fn count(&self, key: PartitionKey) -> usize {
        self.records.get(&key).map_or(0, Vec::len)
    }

    /// An operator asks for an unclean election.
    pub(super) fn may_be_lost(&mut self, key: PartitionKey) {
        self.unclean.insert(key);
    }

    /// What a log lacks of what was acknowledged in leader epochs up to one, if anything. With `flushed`, only
    /// what a power loss does not take counts as held.
    fn lacks(
        &self,
        (key, epoch): (PartitionKey, u32),
        log: Option<&PartitionLog>,
        flushed: bool,
    ) -> Option<String> {
        let acknowledged = self.records.get(&key)?;
        let last = acknowledged.iter().rposition(|known| known.epoch <= epoch)?;
        let (count, hash) = (last + 1, acknowledged.get(last)?.hash);
        let Some(log) = log else { return Some(format!("has nothing of {count} records")) };
        let end = if flushed { log.flushed() } else { log.end() };
        if end < count {
            return Some(format!("holds {end} of {count} records"));
        }
        (log.hash_before(count) != Some(hash)).then(|| format!("has others among {count} records"))
    }

    /// A leader acknowledges what lies between two offsets of its log. What is wrong with that, if
    /// anything.
    fn acknowledge(
        &mut self,
        (key, epoch): (PartitionKey, u32),
        log: &PartitionLog,
        from: usize,
    ) -> Option<String> {
        if self.since.get(&key).is_some_and(|since| epoch < *since) {
            return None;
        }
        let records = self.records.entry(key).or_default();
        let to = log.high();
        let known = records.len();
        let agrees = (from + 1..=to.min(known))
            .all(|end| log.hash_before(end) == records.get(end - 1).map(|known| known.hash));
        if !agrees || from > known {
            return Some(format!("acknowledges others than the {known} records before"));
        }
        // An earlier leader may be the later one to do it.
        records[from..to.min(known)].iter_mut().for_each(|it| it.epoch = it.epoch.min(epoch));
        let new = log.chain().get(known..to).unwrap_or_default();
        records.extend(new.iter().map(|&hash| Known { hash, epoch }));
        None
    }

    /// A leader was elected without a guarantee: what it does not hold is lost. How many records. In their
    /// place stands what it does hold below its high watermark: it may have been lost before, to a leader
    /// without a guarantee that is gone by now.
    fn lose(&mut self, key: PartitionKey, epoch: u32, log: &PartitionLog) -> usize {
        self.since.insert(key, epoch);
        let records = self.records.entry(key).or_default();
        let pairs = records.iter().zip(log.chain());
        let held = pairs.take_while(|(known, hash)| known.hash == **hash).count();
        let lost = records.len() - held;
        records.truncate(held);
        let back = log.chain().get(held..log.high()).unwrap_or_default();
        records.extend(back.iter().map(|&hash| Known { hash, epoch }));
        lost
    }

    /// Whether somebody began to lead in a later epoch, and this one tells only of the past.
    fn is_over(&self, key: PartitionKey, epoch: u32) -> bool {
        let later = |next| self.leaders.range((key, next)..=(key, u32::MAX)).next().is_some();
        epoch.checked_add(1).is_some_and(later)
    }
}

impl World {
    /// A broker's process begins to lead a partition, as its view says. A view may be old: whoever leads in
    /// an epoch has all that was acknowledged in it and before, and nobody asks for what a later leader
    /// acknowledged (as leaders of Raft, section 5.4 of its paper).
    pub(super) fn begins_to_lead(&mut self, id: u32, key: PartitionKey, partition: &Partition) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let Some(broker) = brokers.all.get(&id) else { return };
        let empty = PartitionLog::default();
        let log = broker.logs.get(&key).unwrap_or(&empty);
        let epoch = partition.leader_epoch.get();
        let now = (id, broker.run);
        let first = *brokers.acknowledged.leaders.entry((key, epoch)).or_insert(now);
        if first != now {
            self.safety.violated(format!(
                "brokers {first:?} and {now:?} (id, run) lead {key} in leader epoch {epoch}"
            ));
        }
        if partition.recovery == Recovery::Recovering {
            if !brokers.acknowledged.unclean.contains(&key) {
                self.safety.violated(format!(
                    "broker {id} leads {key} in epoch {epoch} without a guarantee, which nobody asked for"
                ));
            }
            if brokers.acknowledged.is_over(key, epoch) {
                return;
            }
            let lost = brokers.acknowledged.lose(key, epoch, log);
            self.coverage.went(Path::ElectedUncleanly);
            let at = self.queue.now();
            self.trace.note(at, || format!("broker {id} leads {key} uncleanly, {lost} lost"));
        } else if let Some(lack) = brokers.acknowledged.lacks((key, epoch), Some(log), false) {
            self.safety.violated(format!("broker {id} leads {key} in epoch {epoch} and {lack}"));
        }
    }

    /// A leader's high watermark has moved from an offset.
    pub(super) fn acknowledged(&mut self, id: u32, key: PartitionKey, epoch: u32, from: usize) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let Some(log) = brokers.all.get(&id).and_then(|broker| broker.logs.get(&key)) else {
            return;
        };
        let to = log.high();
        if let Some(wrong) = brokers.acknowledged.acknowledge((key, epoch), log, from) {
            self.safety.violated(format!("broker {id} leads {key} in epoch {epoch} and {wrong}"));
        }
        let numbers = [8, u64::from(id), u64::from(key.partition), u64::from(epoch), to as u64];
        self.trace.saw(self.queue.now(), &numbers, || {
            format!("broker {id} acknowledges {key} up to {to} in epoch {epoch}")
        });
        self.holders_hold(key);
    }

    /// Whoever may be elected leader of a partition holds all that was acknowledged of it: a process as it
    /// registered, or what it left on its disk.
    pub(super) fn holders_hold(&mut self, key: PartitionKey) {
        let Some(brokers) = self.brokers.as_ref() else { return };
        let Some((index, image)) = &brokers.acknowledged.seen else { return };
        let Some(partition) = image.partition(key) else { return };
        if partition.recovery == Recovery::Recovering {
            return;
        }
        let mut wrong = Vec::new();
        for member in partition.isr.iter().chain(partition.elr.iter()) {
            let Some(broker) = brokers.all.get(&member.get()) else { continue };
            let registered = image.broker(*member).map(|broker| broker.incarnation);
            if broker.stands_for.is_none() || registered != broker.stands_for {
                // It is somebody else by now, who has to register first.
                continue;
            }
            let log = broker.logs.get(&key);
            if let Some(lack) =
                brokers.acknowledged.lacks((key, u32::MAX), log, brokers.plan.flushes)
            {
                wrong.push(format!(
                    "broker {member} may lead {key} at {index} (isr {:?}, elr {:?}) and {lack}",
                    &*partition.isr, &*partition.elr
                ));
            }
        }
        wrong.into_iter().for_each(|what| self.safety.violated(what));
    }

    /// An entry is applied by a node: if by the first, the image is compared with the one before.
    pub(in crate::cluster) fn metadata_changed(&mut self, node: u64, index: u64) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let acknowledged = &mut brokers.acknowledged;
        if acknowledged.seen.as_ref().is_some_and(|(seen, _)| *seen >= index) {
            return;
        }
        let Some(process) = self.hosts.get(&node).and_then(|host| host.process.as_ref()) else {
            return;
        };
        let image = process.replica.state().image();
        let before = acknowledged.seen.replace((index, image.clone()));
        let Some((_, before)) = before else { return };
        for broker in image.brokers() {
            let was = before.broker(broker.id);
            if broker.fenced && was.is_some_and(|was| !was.fenced && was.epoch == broker.epoch) {
                self.coverage.went(Path::BrokerFenced);
            }
        }
        let mut changed = Vec::new();
        for (key, partition) in image.partitions() {
            // Whoever may be elected is, at once.
            let is_active = |id: &BrokerId| image.broker(*id).is_some_and(Broker::is_active);
            if partition.leader.is_none() && partition.elr.iter().any(is_active) {
                let what = format!("nobody leads {key} at {index}: {partition:?}");
                self.safety.violated(what);
            }
            let Some(was) = before.partition(key).filter(|was| *was != partition) else { continue };
            changed.push(key);
            let (now, then) = (partition.isr.len(), was.isr.len());
            if was.leader.is_none() && partition.leader.is_some_and(|id| was.elr.contains(&id)) {
                self.coverage.went(Path::ElectedFromElr);
            }
            match now.cmp(&then) {
                std::cmp::Ordering::Less => self.coverage.went(Path::IsrShrunk),
                std::cmp::Ordering::Greater => self.coverage.went(Path::IsrGrown),
                std::cmp::Ordering::Equal => {}
            }
        }
        changed.into_iter().for_each(|key| self.holders_hold(key));
    }
}

#[cfg(test)]
mod tests {
    use super::super::partition_log::Record;
    use super::*;
    use quorate_statemachine::TopicId;
    use uuid::Uuid;

    const KEY: PartitionKey = PartitionKey { topic: TopicId(Uuid::from_u128(1)), partition: 0 };

    fn log(records: &[(u32, u64)]) -> PartitionLog {
        let mut log = PartitionLog::default();
        records.iter().for_each(|&(epoch, id)| log.append(Record { epoch, id }));
        log.flush();
        log.raise(usize::MAX);
        log
    }

    #[test]
    fn what_was_acknowledged_is_missed_wherever_it_is_not() {
        let mut all = Acknowledged::default();
        let first = log(&[(0, 1), (0, 2)]);
        assert_eq!(all.acknowledge((KEY, 0), &first, 0), None);
        let lacks = |all: &Acknowledged, log: Option<&PartitionLog>| all.lacks((KEY, 0), log, true);
        assert_eq!(lacks(&all, Some(&first)), None);
        assert_eq!(lacks(&all, None).as_deref(), Some("has nothing of 2 records"));
        let shorter = log(&[(0, 1)]);
        let short = lacks(&all, Some(&shorter));
        assert_eq!(short.as_deref(), Some("holds 1 of 2 records"));
        let mixed = log(&[(0, 2), (0, 1), (0, 3)]);
        let swapped = lacks(&all, Some(&mixed));
        assert_eq!(swapped.as_deref(), Some("has others among 2 records"));
        // Another leader that acknowledges something else in their place.
        let other = all.acknowledge((KEY, 1), &log(&[(0, 1), (1, 9)]), 1);
        assert_eq!(other.as_deref(), Some("acknowledges others than the 2 records before"));
        assert_eq!(all.count(KEY), 2);
    }

    #[test]
    fn a_leader_by_an_old_view_need_not_have_what_later_ones_acknowledged() {
        let mut all = Acknowledged::default();
        assert_eq!(all.acknowledge((KEY, 0), &log(&[(0, 1)]), 0), None);
        assert_eq!(all.acknowledge((KEY, 2), &log(&[(0, 1), (2, 2)]), 1), None);
        let first = log(&[(0, 1)]);
        let lacks = [0, 1, 2, 3].map(|epoch| all.lacks((KEY, epoch), Some(&first), false));
        let short = Some("holds 1 of 2 records".to_owned());
        assert_eq!(lacks, [None, None, short.clone(), short]);
        // The leader of before acknowledges late what a later one has acknowledged already.
        assert_eq!(all.acknowledge((KEY, 1), &log(&[(0, 1), (2, 2)]), 1), None);
        assert!(all.lacks((KEY, 1), Some(&first), false).is_some());
        assert!(!all.is_over(KEY, 2));
        all.leaders.insert((KEY, 2), (1, 1));
        assert_eq!([1, 2, u32::MAX].map(|epoch| all.is_over(KEY, epoch)), [true, false, false]);
    }

    #[test]
    fn after_an_unclean_election_what_the_leader_holds_is_what_counts() {
        let mut all = Acknowledged::default();
        let first = log(&[(0, 1), (0, 2), (0, 3)]);
        assert_eq!(all.acknowledge((KEY, 0), &first, 0), None);
        assert_eq!(all.lose(KEY, 2, &log(&[(0, 1)])), 2);
        assert_eq!(all.count(KEY), 1);
        // The leader before it knows of nothing yet.
        assert_eq!(all.acknowledge((KEY, 0), &log(&[(0, 1), (0, 2), (0, 3), (0, 4)]), 3), None);
        assert_eq!(all.count(KEY), 1);
        // Two of what was lost are back with the next one, which leads without a guarantee too.
        assert_eq!(all.lose(KEY, 4, &log(&[(0, 1), (0, 2), (0, 3)])), 0);
        assert_eq!(all.count(KEY), 3);
    }
}
