//! The invariants of the specification, as something that can be asked of any image.
//!
//! Tests and the simulation ask after every command, restoring a snapshot asks once.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::{ActiveBrokers, Broker};
use crate::ids::{BrokerEpoch, BrokerId, DirectoryId, PartitionKey, TopicId};
use crate::image::MetadataImage;
use crate::partition::{EPOCH_MAX, Partition, Recovery, first_doubled, in_order_of, without};
use crate::topic_name::{CollisionKey, validate};
use crate::topics::REPLICATION_FACTOR_MAX;

/// A state, or a step from one state to the next, that must never be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A broker breaks a rule.
    #[error("broker {broker}: {rule}")]
    Broker {
        /// Which broker.
        broker: BrokerId,
        /// The rule that is broken.
        rule: &'static str,
    },
    /// A topic breaks a rule.
    #[error("topic {topic}: {rule}")]
    Topic {
        /// Which topic.
        topic: TopicId,
        /// The rule that is broken.
        rule: &'static str,
    },
    /// A partition breaks a rule.
    #[error("partition {partition}: {rule}")]
    Partition {
        /// Which partition.
        partition: PartitionKey,
        /// The rule that is broken.
        rule: &'static str,
    },
    /// The cluster as a whole breaks a rule.
    #[error("cluster: {rule}")]
    Cluster {
        /// The rule that is broken.
        rule: &'static str,
    },
}

impl MetadataImage {
    /// Checks every invariant of a single state, and that the indexes follow from it.
    ///
    /// # Errors
    ///
    /// The first violation, in order of brokers, topics and partitions.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_state()?;
        self.check_indexes()
    }

    /// Checks the step from this state to a later one: what never decreases, and what cannot change
    /// unseen.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn check_step(&self, after: &Self) -> Result<(), Violation> {
        let cluster = |rule| Err(Violation::Cluster { rule });
        if after.feature_level < self.feature_level {
            return cluster("the feature level never decreases");
        }
        if after.next_producer_id < self.next_producer_id {
            return cluster("producer ids are given out once");
        }
        self.check_broker_step(after)?;
        for (key, next) in after.partitions() {
            if let Some(partition) = self.partition(key) {
                require_partition(key, &step_rules(partition, next))?;
            }
        }
        for topic in self.topics() {
            let shrunk = after
                .topic(topic.id)
                .is_some_and(|next| next.partition_count() < topic.partition_count());
            if shrunk {
                let rule = "partitions are never taken away";
                return Err(Violation::Topic { topic: topic.id, rule });
            }
        }
        Ok(())
    }

    /// The invariants without the indexes, which restoring has just built.
    pub(crate) fn check_state(&self) -> Result<(), Violation> {
        self.check_brokers()?;
        let active = ActiveBrokers::all(&self.brokers);
        for topic in self.topics() {
            let rule = if topic.partitions.is_empty() {
                Some("a topic has at least one partition")
            } else if topic.id.0.is_nil() || validate(&topic.name).is_err() {
                Some("a topic has an id and an allowed name")
            } else {
                None
            };
            if let Some(rule) = rule {
                return Err(Violation::Topic { topic: topic.id, rule });
            }
            let min_insync = self.min_insync_replicas(topic);
            for (number, partition) in topic.partitions() {
                let key = PartitionKey { topic: topic.id, partition: number };
                require_partition(key, &size_rules(partition))?;
                require_partition(key, &list_rules(partition))?;
                require_partition(key, &state_rules(partition, min_insync, &active))?;
            }
        }
        Ok(())
    }

    fn check_brokers(&self) -> Result<(), Violation> {
        if self.broker_configs.keys().any(|id| self.broker(*id).is_none()) {
            return Err(Violation::Cluster { rule: "only a registered broker has configs" });
        }
        let mut epochs = BTreeSet::<BrokerEpoch>::new();
        let mut directories = BTreeMap::<DirectoryId, BrokerId>::new();
        for broker in self.brokers() {
            let violation = |rule| Err(Violation::Broker { broker: broker.id, rule });
            if broker.id > BrokerId::MAX {
                return violation("a broker id fits 31 bits");
            }
            if !epochs.insert(broker.epoch) {
                return violation("broker epochs are unique");
            }
            if !broker.features.contains(self.feature_level) {
                return violation("every broker supports the finalized feature level");
            }
            let configs = self.broker_configs(broker.id);
            if configs.is_some_and(|configs| {
                configs.is_empty() || configs.iter().any(|(key, _)| !key.may_differ_by_broker())
            }) {
                return violation("what is the same for all brokers is no config of one");
            }
            if broker.directories.is_empty() {
                return violation("a broker has a log directory");
            }
            if broker.directories.iter().any(|dir| directories.insert(*dir, broker.id).is_some()) {
                return violation("a directory belongs to one broker");
            }
            if !is_canonical(broker) {
                return violation("listeners and directories are in order");
            }
        }
        Ok(())
    }

    fn check_broker_step(&self, after: &Self) -> Result<(), Violation> {
        let newest = self.brokers().map(|broker| broker.epoch).max();
        for next in after.brokers() {
            let violation = |rule| Err(Violation::Broker { broker: next.id, rule });
            match self.broker(next.id) {
                Some(broker) if broker.epoch == next.epoch => {
                    let same = broker.incarnation == next.incarnation;
                    same.then_some(()).ok_or(Violation::Broker {
                        broker: next.id,
                        rule: "another incarnation has another epoch",
                    })?;
                }
                _ if newest.is_some_and(|newest| next.epoch <= newest) => {
                    return violation("broker epochs increase");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_indexes(&self) -> Result<(), Violation> {
        let named = self
            .topics()
            .all(|topic| self.names.get(&CollisionKey::of(&topic.name)) == Some(&topic.id));
        if !named || self.names.len() != self.topics.len() {
            return Err(Violation::Cluster { rule: "every topic is found by its name" });
        }
        let mut replicas = 0;
        for (key, partition) in self.partitions() {
            replicas += partition.replicas.len();
            let kept = |id| self.kept.get(id).is_some_and(|keys| keys.contains(&key));
            if !partition.replicas.iter().all(kept) {
                let rule = "every replica is found by its broker";
                return Err(Violation::Partition { partition: key, rule });
            }
        }
        let indexed: usize = self.kept.values().map(|keys| keys.len()).sum();
        if indexed != replicas || self.kept.values().any(|keys| keys.is_empty()) {
            return Err(Violation::Cluster { rule: "nothing is found by a broker that it left" });
        }
        if self.sum != self.summed_anew() {
            return Err(Violation::Cluster { rule: "the hash is that of the state" });
        }
        Ok(())
    }
}

/// Of a partition without another epoch.
const CLOSED: &str = "with the last epoch nobody leads, or may come to";

/// A rule and whether it holds.
type Rules<const N: usize> = [(bool, &'static str); N];

fn require_partition<const N: usize>(
    partition: PartitionKey,
    rules: &Rules<N>,
) -> Result<(), Violation> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(Violation::Partition { partition, rule }),
        None => Ok(()),
    }
}

/// What is asked first: a snapshot may hold lists and numbers of any size.
fn size_rules(partition: &Partition) -> Rules<4> {
    let Partition { replicas, isr, elr, adding, removing, .. } = partition;
    let most = replicas.len();
    [
        (partition.latest_epoch() <= EPOCH_MAX, "an epoch fits 31 bits"),
        (!replicas.is_empty(), "a partition has a replica"),
        (most <= REPLICATION_FACTOR_MAX, "a replication factor fits 15 bits"),
        (
            [isr, elr, adding, removing].iter().all(|set| set.len() <= most),
            "no more brokers in a list than replicas",
        ),
    ]
}

/// What holds of the lists of a partition, whoever is active.
fn list_rules(partition: &Partition) -> Rules<8> {
    let Partition { replicas, isr, elr, adding, removing, .. } = partition;
    let all = [replicas, isr, elr, adding, removing];
    let disjoint = |a: &[BrokerId], b: &[BrokerId]| without(a, b).len() == a.len();
    let within = |set: &[BrokerId]| without(set, replicas).is_empty();
    let ordered = |set: &[BrokerId]| *in_order_of(replicas, set) == *set;
    [
        (all.iter().all(|set| first_doubled(set).is_none()), "no duplicates"),
        (within(isr), "isr within replicas"),
        (within(elr), "elr within replicas"),
        (disjoint(isr, elr), "isr and elr disjoint"),
        (within(adding) && within(removing), "adding and removing within replicas"),
        (disjoint(adding, removing), "adding and removing disjoint"),
        (ordered(isr), "isr in the order of the replicas"),
        (ordered(elr), "elr in the order of the replicas"),
    ]
}

/// What holds of leader, ISR and ELR.
fn state_rules(
    partition: &Partition,
    min_insync_replicas: u32,
    active: &ActiveBrokers<'_>,
) -> Rules<8> {
    let Partition { replicas, isr, elr, leader, last_known_leader, recovery, .. } = partition;
    let min_insync = partition.min_insync_effective(min_insync_replicas);
    let is_left = leader.is_none() && isr.is_empty() && elr.is_empty();
    let is_at_rest = is_left && last_known_leader.is_none() && !partition.is_reassigning();
    [
        (!partition.is_closed() || is_at_rest, CLOSED),
        (
            leader.is_none_or(|id| isr.contains(&id) && active.contains(id)),
            "a leader is in the isr and active",
        ),
        (leader.is_some() || isr.is_empty(), "no leader, no isr"),
        (*recovery == Recovery::Recovered || isr.len() <= 1, "recovering with one in sync at most"),
        (isr.len() < min_insync || elr.is_empty(), "no elr while the isr is large enough"),
        (isr.iter().all(|id| active.contains(*id)), "fenced and leaving brokers are in no isr"),
        (leader.is_none() || last_known_leader.is_none(), "a leader makes the last one forgotten"),
        (
            last_known_leader.is_none_or(|id| replicas.contains(&id)),
            "the last known leader is a replica",
        ),
    ]
}

fn step_rules(before: &Partition, after: &Partition) -> Rules<5> {
    let changed = before != after;
    let partition_step = after.partition_epoch > before.partition_epoch;
    let leader_step = after.leader_epoch > before.leader_epoch;
    [
        (after.partition_epoch >= before.partition_epoch, "partition epochs never decrease"),
        (after.leader_epoch >= before.leader_epoch, "leader epochs never decrease"),
        (!leader_step || partition_step, "a leader epoch step implies a partition epoch step"),
        (!changed || partition_step, "a change implies a partition epoch step"),
        (before.leader == after.leader || leader_step, "another leader, another leader epoch"),
    ]
}

/// In the one order in which a broker is written.
fn is_canonical(broker: &Broker) -> bool {
    broker.listeners.windows(2).all(|pair| pair[0].name < pair[1].name)
        && broker.directories.windows(2).all(|pair| pair[0] < pair[1])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{FeatureLevel, LeaderEpoch, PartitionEpoch, ProducerId};
    use crate::partitions::Partitions;
    use crate::testing::{Cluster, ids, key, topic_id};

    /// Brokers 1 to 4 of which 4 is fenced; topic 1 on 1, 2, 3 with min.insync.replicas 2.
    fn image() -> MetadataImage {
        let mut cluster =
            Cluster::with_topic(&[1, 2, 3, 4], &[1, 2, 3], &[("min.insync.replicas", "2")]);
        cluster.fence(4);
        cluster.image().clone()
    }

    fn with_partition(change: impl FnOnce(&mut Partition)) -> MetadataImage {
        let mut image = image();
        let mut partition = image.partition(key(1, 0)).expect("there").clone();
        change(&mut partition);
        image.put_partition(key(1, 0), partition);
        image
    }

    fn with_broker(id: u32, change: impl FnOnce(&mut Broker)) -> MetadataImage {
        let mut image = image();
        let mut broker = image.broker(BrokerId(id)).expect("there").clone();
        change(&mut broker);
        image.put_broker(broker);
        image
    }

    fn rule(violation: &Violation) -> &'static str {
        match violation {
            Violation::Broker { rule, .. }
            | Violation::Topic { rule, .. }
            | Violation::Partition { rule, .. }
            | Violation::Cluster { rule } => rule,
        }
    }

    #[test]
    fn every_rule_of_a_partition_is_asked() {
        type Break = fn(&mut Partition);
        let breaks: &[(Break, &str)] = &[
            (|p| p.replicas = ids(&[]), "a partition has a replica"),
            (
                |p| p.replicas = (0..=REPLICATION_FACTOR_MAX as u32).map(BrokerId).collect(),
                "a replication factor fits 15 bits",
            ),
            (|p| p.partition_epoch.0 = EPOCH_MAX + 1, "an epoch fits 31 bits"),
            (|p| p.leader_epoch.0 = EPOCH_MAX + 1, "an epoch fits 31 bits"),
            (|p| p.partition_epoch.0 = EPOCH_MAX, CLOSED),
            (|p| p.leader_epoch.0 = EPOCH_MAX, CLOSED),
            (
                |p| {
                    (p.leader, p.isr, p.partition_epoch.0) = (None, ids(&[]), EPOCH_MAX);
                    p.elr = ids(&[2]);
                },
                CLOSED,
            ),
            (
                |p| {
                    (p.leader, p.isr, p.partition_epoch.0) = (None, ids(&[]), EPOCH_MAX);
                    p.last_known_leader = Some(BrokerId(2));
                },
                CLOSED,
            ),
            (
                |p| {
                    (p.leader, p.isr, p.partition_epoch.0) = (None, ids(&[]), EPOCH_MAX);
                    p.adding = ids(&[2]);
                },
                CLOSED,
            ),
            (|p| p.removing = ids(&[1, 1, 1, 1]), "no more brokers in a list than replicas"),
            (|p| p.replicas = ids(&[1, 2, 3, 1]), "no duplicates"),
            (|p| p.isr = ids(&[1, 1]), "no duplicates"),
            (|p| p.isr = ids(&[1, 2, 4]), "isr within replicas"),
            (|p| p.elr = ids(&[4]), "elr within replicas"),
            (|p| p.elr = ids(&[3]), "isr and elr disjoint"),
            (|p| p.adding = ids(&[4]), "adding and removing within replicas"),
            (|p| p.removing = ids(&[4]), "adding and removing within replicas"),
            (|p| (p.adding, p.removing) = (ids(&[3]), ids(&[3])), "adding and removing disjoint"),
            (|p| p.isr = ids(&[2, 1]), "isr in the order of the replicas"),
            (|p| (p.isr, p.elr) = (ids(&[1]), ids(&[3, 2])), "elr in the order of the replicas"),
            (|p| p.isr = ids(&[2, 3]), "a leader is in the isr and active"),
            (|p| p.leader = None, "no leader, no isr"),
            (|p| p.recovery = Recovery::Recovering, "recovering with one in sync at most"),
            (
                |p| (p.isr, p.elr) = (ids(&[1, 2]), ids(&[3])),
                "no elr while the isr is large enough",
            ),
            (
                |p| (p.replicas, p.isr) = (ids(&[1, 4]), ids(&[1, 4])),
                "fenced and leaving brokers are in no isr",
            ),
            (|p| p.last_known_leader = Some(BrokerId(2)), "a leader makes the last one forgotten"),
            (
                |p| {
                    (p.isr, p.leader) = (ids(&[]), None);
                    p.last_known_leader = Some(BrokerId(4));
                },
                "the last known leader is a replica",
            ),
        ];
        image().check().expect("nothing broken yet");
        for (change, broken) in breaks {
            let violation = with_partition(change).check().expect_err(broken);
            assert_eq!(rule(&violation), *broken);
            assert!(violation.to_string().contains(broken));
        }
    }

    #[test]
    fn every_rule_of_a_broker_is_asked() {
        type Break = fn(&mut Broker);
        let breaks: &[(Break, &str)] = &[
            (|b| b.epoch = BrokerEpoch(1), "broker epochs are unique"),
            (|b| b.directories = [].into(), "a broker has a log directory"),
            (
                |b| b.directories = [b.directories[0], b.directories[0]].into(),
                "a directory belongs to one broker",
            ),
            (
                |b| b.features.max = FeatureLevel(0),
                "every broker supports the finalized feature level",
            ),
        ];
        for (change, broken) in breaks {
            let violation = with_broker(4, change).check().expect_err(broken);
            assert_eq!(rule(&violation), *broken);
        }
    }

    #[test]
    fn indexes_that_do_not_follow_are_seen() {
        let mut image = image();
        image.kept.remove(&BrokerId(2));
        assert_eq!(rule(&image.check().expect_err("lost")), "every replica is found by its broker");
        let mut image = self::image();
        image.kept.entry(BrokerId(4)).or_default().insert(key(1, 0));
        let rule_of_rest = "nothing is found by a broker that it left";
        assert_eq!(rule(&image.check().expect_err("stale")), rule_of_rest);
        let mut image = self::image();
        image.names = imbl::OrdMap::new();
        assert_eq!(rule(&image.check().expect_err("lost")), "every topic is found by its name");
        let mut image = self::image();
        let topic = image.topics.get_mut(&topic_id(1)).expect("there");
        Arc::make_mut(topic).partitions = Partitions::default();
        assert_eq!(rule(&image.check().expect_err("empty")), "a topic has at least one partition");
    }

    #[test]
    fn every_rule_of_a_step_is_asked() {
        let before = with_partition(|p| {
            (p.leader_epoch, p.partition_epoch) = (LeaderEpoch(3), PartitionEpoch(5));
        });
        let step = |change: fn(&mut Partition)| {
            let mut after = before.clone();
            let mut partition = after.partition(key(1, 0)).expect("there").clone();
            change(&mut partition);
            after.put_partition(key(1, 0), partition);
            before.check_step(&after).map_err(|violation| rule(&violation))
        };
        assert_eq!(step(|_| ()), Ok(()));
        assert_eq!(step(|p| p.partition_epoch.0 = 4), Err("partition epochs never decrease"));
        assert_eq!(step(|p| p.leader_epoch.0 = 2), Err("leader epochs never decrease"));
        assert_eq!(
            step(|p| p.leader_epoch.0 = 4),
            Err("a leader epoch step implies a partition epoch step")
        );
        assert_eq!(step(|p| p.isr = ids(&[1, 2])), Err("a change implies a partition epoch step"));
        assert_eq!(
            step(|p| (p.leader, p.partition_epoch.0) = (Some(BrokerId(2)), 6)),
            Err("another leader, another leader epoch")
        );

        let cluster = |change: fn(&mut MetadataImage)| {
            let mut before = image();
            before.next_producer_id = ProducerId(1_000);
            let mut after = before.clone();
            change(&mut after);
            before.check_step(&after).map_err(|violation| rule(&violation))
        };
        assert_eq!(cluster(|_| ()), Ok(()));
        assert_eq!(
            cluster(|i| i.next_producer_id = ProducerId(0)),
            Err("producer ids are given out once")
        );
        assert_eq!(
            cluster(|i| i.feature_level = FeatureLevel(0)),
            Err("the feature level never decreases")
        );
        assert_eq!(
            cluster(|i| {
                let topic = i.topics.get_mut(&topic_id(1)).expect("there");
                Arc::make_mut(topic).partitions = Partitions::default();
            }),
            Err("partitions are never taken away")
        );
        let broker = |change: fn(&mut Broker)| {
            let mut after = image();
            let mut broker = after.broker(BrokerId(1)).expect("there").clone();
            change(&mut broker);
            after.put_broker(broker);
            image().check_step(&after).map_err(|violation| rule(&violation))
        };
        assert_eq!(broker(|b| b.epoch.0 = 99), Ok(()));
        assert_eq!(broker(|b| b.epoch.0 = 2), Err("broker epochs increase"));
        assert_eq!(
            broker(|b| b.incarnation = crate::testing::incarnation(1)),
            Err("another incarnation has another epoch")
        );
    }
}
