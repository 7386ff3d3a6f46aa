//! Owns what the quorum leader looks after now and then: partitions that nobody leads though somebody
//! may, leaders that stand where others should, and replicas whose state is not what it ought to be.
//!
//! One task a node, beside the duties (`duties.rs`), which are about sessions and cannot wait. It
//! works only while the node leads; a proposal of a node that leads no more is refused by the log. Each
//! run looks at one image and proposes at most [`ELECTIONS_MAX`] elections, so that a large cluster is
//! put in order bit by bit, and other commands come in between. Where nothing has changed since the
//! last look, nothing is looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_loop::{Node, Role};
use quorate_statemachine::{
    BrokerId, Command, ElectLeaders, ElectionType, Metadata, MetadataImage, Partition, PartitionKey,
};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::comparison::Comparison;
use crate::desk::{accepted, propose};

/// Elections of one run (KIP-1066 has as many).
const ELECTIONS_MAX: usize = 1_000;

/// The part of the partitions that a broker should lead and does not, in percent, beyond which they are
/// given back to it: Kafka's `leader.imbalance.per.broker.percentage`.
const IMBALANCE_PERCENT: usize = 10;

/// What is looked after on one node, while it leads and while it does not.
pub(crate) struct Upkeep {
    node: Node<Metadata>,
    /// Between two looks.
    look_every: Duration,
    /// Between two runs that give leaders back; `None`: never.
    balance_every: Option<Duration>,
    /// When the next of them is due.
    balance_at: Instant,
    /// The term of the last look.
    term: u64,
    /// The index of the image that was looked at last in that term; `None` where there is more to do
    /// though nothing changes.
    seen: Option<u64>,
    comparison: Comparison,
}

impl Upkeep {
    pub(crate) fn new(
        node: Node<Metadata>,
        look_every: Duration,
        balance_every: Option<Duration>,
    ) -> Self {
        let comparison = Comparison::new(node.clone());
        let balance_at = Instant::now();
        Self { node, look_every, balance_every, balance_at, term: 0, seen: None, comparison }
    }

    /// Works until `stop` changes or its sender is gone.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = interval_at(Instant::now() + self.look_every, self.look_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                _ = ticks.tick() => {}
            }
            let status = self.node.status();
            if status.role == Role::Leader {
                tokio::select! {
                    biased;
                    _ = stop.changed() => return,
                    () = self.look(status.term) => {}
                }
            }
        }
    }

    async fn look(&mut self, term: u64) {
        if self.term != term {
            // Who comes to lead while brokers return lets them return first.
            self.balance_at = Instant::now() + self.balance_every.unwrap_or_default();
            (self.term, self.seen) = (term, None);
        }
        let published = self.node.image();
        self.hold_elections(&published.image, published.applied).await;
        self.comparison.look().await;
    }

    /// The image may be behind the log: what is proposed by it is checked again when it is applied.
    async fn hold_elections(&mut self, image: &MetadataImage, applied: u64) {
        let is_due = self.balance_every.is_some() && Instant::now() >= self.balance_at;
        if self.seen == Some(applied) && !is_due {
            return;
        }
        let leaderless = pass(image.clone(), |image| unclean_elections(&image)).await;
        let mut is_done = self.elect(ElectionType::UncleanWhereAllowed, leaderless).await;
        if is_due {
            let astray = pass(image.clone(), |image| preferred_elections(&image)).await;
            // What is beyond the bound of a run need not wait for the next time.
            let is_all = astray.len() < ELECTIONS_MAX;
            match self.elect(ElectionType::Preferred, astray).await {
                true if is_all => {
                    self.balance_at = Instant::now() + self.balance_every.unwrap_or_default();
                }
                true => {}
                false => is_done = false,
            }
        }
        // What did not come about is looked at again, though nothing has changed.
        self.seen = is_done.then_some(applied);
    }

    /// Whether there was nothing to do, or it is done.
    async fn elect(&self, election: ElectionType, partitions: Vec<PartitionKey>) -> bool {
        if partitions.is_empty() {
            return true;
        }
        tracing::info!(?election, partitions = partitions.len(), "electing leaders");
        let command = Command::ElectLeaders(ElectLeaders { election, partitions });
        accepted(&propose(&self.node, &command).await)
    }
}

/// Looks through an image where it holds up nobody: there may be a million partitions.
async fn pass(
    image: MetadataImage,
    look: impl FnOnce(MetadataImage) -> Vec<PartitionKey> + Send + 'static,
) -> Vec<PartitionKey> {
    match tokio::task::spawn_blocking(move || look(image)).await {
        Ok(found) => found,
        Err(error) => match error.try_into_panic() {
            // As a panic of this task itself: the node stops.
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => Vec::new(),
        },
    }
}

/// The partitions that nobody leads, of topics that allow an unclean election, and of which a replica is
/// active.
fn unclean_elections(image: &MetadataImage) -> Vec<PartitionKey> {
    // What is spent is refused, and would be asked for again at every look.
    let lacks_a_leader = |state: &Partition| state.leader.is_none() && !state.is_spent();
    let is_active = |id: &BrokerId| image.broker(*id).is_some_and(|broker| broker.is_active());
    let topics = image.topics().filter(|topic| image.unclean_leader_election(topic));
    let leaderless = topics.flat_map(|topic| {
        topic
            .partitions()
            .filter(|(_, state)| lacks_a_leader(state) && state.replicas.iter().any(is_active))
            .map(|(partition, _)| PartitionKey { topic: topic.id, partition })
    });
    leaderless.take(ELECTIONS_MAX).collect()
}

/// The partitions that their first replica could lead and does not, where they are many of those that the
/// broker should lead.
fn preferred_elections(image: &MetadataImage) -> Vec<PartitionKey> {
    /// What a broker should lead: how many, and which of them it could lead and does not.
    #[derive(Default)]
    struct Share {
        all: usize,
        astray: Vec<PartitionKey>,
    }
    let mut shares: BTreeMap<BrokerId, Share> = BTreeMap::new();
    for (key, partition) in image.partitions() {
        let Some(first) = partition.replicas.first() else { continue };
        let share = shares.entry(*first).or_default();
        share.all += 1;
        let is_led_by_another = partition.leader.is_some_and(|leader| leader != *first);
        if is_led_by_another && partition.isr.contains(first) && !partition.is_spent() {
            share.astray.push(key);
        }
    }
    let is_askew = |share: &Share| share.astray.len() * 100 > share.all * IMBALANCE_PERCENT;
    shares
        .into_values()
        .filter(is_askew)
        .flat_map(|share| share.astray)
        .take(ELECTIONS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use quorate_statemachine::{
        BrokerSession, DirectoryId, FeatureRange, Incarnation, NewTopic, RegisterBroker,
        StateMachine as _, TopicId,
    };
    use uuid::Uuid;

    use super::*;

    fn key(topic: u128, partition: u32) -> PartitionKey {
        PartitionKey { topic: TopicId(Uuid::from_u128(topic)), partition }
    }

    /// Brokers 1 to 3, active. Topic 1 has twenty partitions on 1 and 2, topic 2 ten on 3 alone and allows
    /// unclean elections; topic 3 is as topic 2 and does not.
    struct Cluster {
        metadata: Metadata,
        index: u64,
    }

    impl Cluster {
        fn new() -> Self {
            let mut cluster = Self { metadata: Metadata::new(), index: 0 };
            for broker in 1..=3 {
                let id = Uuid::from_u128(broker.into());
                cluster.apply(Command::RegisterBroker(RegisterBroker {
                    broker: BrokerId(broker),
                    incarnation: Incarnation(id),
                    listeners: vec![],
                    rack: None,
                    features: FeatureRange::SUPPORTED,
                    directories: vec![DirectoryId(id)],
                    vouched: vec![],
                    follows: None,
                }));
                cluster.unfence(broker);
            }
            let on = |brokers: &[u32]| brokers.iter().copied().map(BrokerId).collect();
            let unclean = [("unclean.leader.election.enable", "true")];
            for (id, count, brokers, configs) in
                [(1, 20, &[1, 2][..], &[][..]), (2, 10, &[3], &unclean), (3, 10, &[3], &[])]
            {
                let own = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
                cluster.apply(Command::CreateTopics {
                    topics: vec![NewTopic {
                        id: TopicId(Uuid::from_u128(id)),
                        name: format!("t{id}"),
                        partitions: vec![on(brokers); count],
                        configs: configs.iter().map(own).collect(),
                    }],
                });
            }
            cluster
        }

        fn apply(&mut self, command: Command) {
            self.index += 1;
            let applied = self.metadata.apply_command(self.index, &command).unwrap();
            applied.outcome.into_result().unwrap();
        }

        fn session(&self, broker: u32) -> BrokerSession {
            let broker = BrokerId(broker);
            BrokerSession { broker, epoch: self.metadata.image().broker(broker).unwrap().epoch }
        }

        fn fence(&mut self, broker: u32) {
            self.apply(Command::FenceBroker(self.session(broker)));
        }

        fn unfence(&mut self, broker: u32) {
            self.apply(Command::UnfenceBroker(self.session(broker)));
        }

        /// It comes back in another directory, and vouches for nothing: it may lack what was acknowledged.
        fn restart_uncleanly(&mut self, broker: u32) {
            self.apply(Command::RegisterBroker(RegisterBroker {
                broker: BrokerId(broker),
                incarnation: Incarnation(Uuid::from_u128(33)),
                listeners: vec![],
                rack: None,
                features: FeatureRange::SUPPORTED,
                directories: vec![DirectoryId(Uuid::from_u128(broker.into()))],
                vouched: vec![],
                follows: None,
            }));
            self.unfence(broker);
        }

        /// The leaders of these partitions of a topic take broker 1 into the ISR.
        fn take_in(&mut self, topic: u128, partitions: std::ops::Range<u32>) {
            for partition in partitions {
                let image = self.metadata.image();
                let state = image.partition(key(topic, partition)).unwrap();
                let alter = quorate_statemachine::AlterPartition {
                    sender: self.session(state.leader.unwrap().get()),
                    partition: key(topic, partition),
                    leader_epoch: state.leader_epoch,
                    partition_epoch: state.partition_epoch,
                    isr: vec![self.session(1), self.session(2)],
                    recovery: state.recovery,
                };
                self.apply(Command::AlterPartition(alter));
            }
        }
    }

    #[test]
    fn leaders_are_given_back_to_a_broker_that_leads_a_tenth_less_than_it_should() {
        let mut cluster = Cluster::new();
        let astray = |cluster: &Cluster| preferred_elections(&cluster.metadata.image());
        assert_eq!(astray(&cluster), []);
        cluster.fence(1);
        // It could not lead them.
        assert_eq!(astray(&cluster), []);
        cluster.unfence(1);
        cluster.take_in(1, 0..2);
        assert_eq!(astray(&cluster), [], "two of twenty are a tenth and no more");
        cluster.take_in(1, 2..5);
        let five: Vec<_> = (0..5).map(|partition| key(1, partition)).collect();
        assert_eq!(astray(&cluster), five);
        let elect = ElectLeaders { election: ElectionType::Preferred, partitions: five };
        cluster.apply(Command::ElectLeaders(elect));
        assert_eq!(astray(&cluster), []);
    }

    #[test]
    fn a_run_holds_a_thousand_elections_of_each_kind() {
        let mut cluster = Cluster::new();
        let topic = |id, brokers: &[u32]| NewTopic {
            id: TopicId(Uuid::from_u128(id)),
            name: format!("wide-{id}"),
            partitions: vec![brokers.iter().copied().map(BrokerId).collect(); 1_500],
            configs: vec![("unclean.leader.election.enable".into(), "true".into())],
        };
        let topics = vec![topic(4, &[1, 2]), topic(5, &[3])];
        cluster.apply(Command::CreateTopics { topics });
        cluster.fence(1);
        cluster.unfence(1);
        cluster.restart_uncleanly(3);
        cluster.take_in(4, 0..1_500);
        let image = cluster.metadata.image();
        assert_eq!(preferred_elections(&image).len(), 1_000);
        assert_eq!(unclean_elections(&image).len(), 1_000);
    }

    #[test]
    fn nobody_is_elected_uncleanly_but_where_it_is_allowed_and_possible() {
        let mut cluster = Cluster::new();
        let found = |cluster: &Cluster| unclean_elections(&cluster.metadata.image());
        cluster.fence(3);
        assert_eq!(found(&cluster), [], "no replica is active");
        cluster.restart_uncleanly(3);
        let all: Vec<_> = (0..10).map(|partition| key(2, partition)).collect();
        assert_eq!(found(&cluster), all);
        let elect = ElectLeaders { election: ElectionType::Unclean, partitions: all };
        cluster.apply(Command::ElectLeaders(elect));
        assert_eq!(found(&cluster), []);
        let image = cluster.metadata.image();
        assert_eq!(image.partition(key(2, 9)).unwrap().leader, Some(BrokerId(3)));
        assert_eq!(image.partition(key(3, 0)).unwrap().leader, None);
    }
}
