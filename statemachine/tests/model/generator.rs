//! Random commands that meet something: they are made for the state that they will find.
//!
//! Few of everything, so that commands meet. Each command is mostly one that can be accepted; a
//! mistake is made on purpose now and then, of every kind that a rule tells.

mod broker_commands;
mod partition_commands;
mod topic_commands;

use quorate_statemachine::{
    BrokerEpoch, BrokerId, BrokerSession, Checkpoint, Command, FeatureLevel, PartitionKey,
    StateHash, TopicId,
};
use uuid::Uuid;

use crate::random::Random;
use crate::state::{Partition, State};

/// Brokers 1 to this.
const BROKERS: u32 = 5;
/// Topic ids 1 to this.
const TOPICS: u128 = 5;

/// How often each command is generated, beside the others.
const WEIGHTS: [usize; 15] = [60, 60, 120, 12, 6, 30, 6, 300, 8, 8, 25, 80, 130, 70, 5];

/// Makes commands for a state.
pub(crate) struct Generator<'a> {
    random: &'a mut Random,
    state: &'a State,
    /// The latest that the machine noted.
    checkpoint: Option<Checkpoint>,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(
        random: &'a mut Random,
        state: &'a State,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        Self { random, state, checkpoint }
    }

    pub(crate) fn command(&mut self) -> Command {
        // One with as many partitions as can be does not stay for long: all would wait for it.
        let huge = self.state.topics.iter().find(|(_, topic)| topic.partitions.len() > 1_000);
        if let Some((topic, _)) = huge
            && self.random.chance(700)
        {
            return Command::DeleteTopic { topic: *topic };
        }
        let mut weights = WEIGHTS;
        // What is missing is made soon: most commands would meet nothing otherwise.
        if self.state.brokers.len() < 4 {
            weights[0] *= 10;
        }
        if self.state.active().len() < 3 {
            weights[2] *= 5;
        }
        if self.state.topics.len() < 3 {
            weights[5] *= 10;
        }
        match self.random.weighted(&weights) {
            0 => Command::RegisterBroker(self.registration()),
            1 => Command::FenceBroker(self.session_where(|active| active)),
            2 => Command::UnfenceBroker(self.session_where(|active| !active)),
            3 => Command::ShutdownBroker(self.session_where(|active| active)),
            4 => {
                let broker = self.any_broker();
                let registered = self.state.brokers.get(&broker).map(|it| it.epoch.get());
                let epoch =
                    BrokerEpoch(registered.unwrap_or(1) - u64::from(self.random.chance(300)));
                let epoch = self.random.chance(500).then_some(epoch);
                Command::UnregisterBroker { broker, epoch }
            }
            5 => Command::CreateTopics { topics: self.new_topics() },
            6 => Command::DeleteTopic { topic: self.topic() },
            7 => Command::AlterPartition(self.alter_partition()),
            8 => Command::AllocateProducerIds(self.session_where(|_| true)),
            9 => Command::SetFeatureLevel { level: FeatureLevel(self.random.below(4) as u32 % 3) },
            10 => Command::CreatePartitions(self.new_partitions()),
            11 => Command::ElectLeaders(self.elections()),
            12 => Command::AlterReassignments { reassignments: self.reassignments() },
            13 => {
                let (resource, changes) = self.config_changes();
                Command::AlterConfigs { resource, changes }
            }
            // Of an index that nobody notes there is nothing to compare.
            _ => Command::CompareState(self.checkpoint.unwrap_or(Checkpoint {
                algorithm: Checkpoint::ALGORITHM,
                index: 1,
                hash: StateHash::new(1),
            })),
        }
    }

    /// Any broker, registered or not.
    fn any_broker(&mut self) -> BrokerId {
        BrokerId(self.random.within(1, BROKERS as usize) as u32)
    }

    /// A registered broker, mostly one that is as wanted, and mostly with its epoch.
    fn session_where(&mut self, wanted: impl Fn(bool) -> bool) -> BrokerSession {
        let active = self.state.active();
        let brokers = self.state.brokers.keys().copied();
        let fitting: Vec<BrokerId> = brokers.filter(|id| wanted(active.contains(id))).collect();
        let any = fitting.is_empty() || self.random.chance(150);
        let broker = if any { self.any_broker() } else { *self.random.of(&fitting) };
        self.session(broker)
    }

    /// A broker and its epoch, but for a mistake.
    fn session(&mut self, broker: BrokerId) -> BrokerSession {
        let epoch = self.state.brokers.get(&broker).map_or(0, |broker| broker.epoch.get());
        let epoch = match self.random.below(60) {
            0 => epoch + 1,
            1 => epoch.saturating_sub(1),
            _ => epoch,
        };
        BrokerSession { broker, epoch: BrokerEpoch(epoch) }
    }

    /// A topic, mostly one that is there.
    fn topic(&mut self) -> TopicId {
        let topics: Vec<TopicId> = self.state.topics.keys().copied().collect();
        if topics.is_empty() || self.random.chance(40) {
            return topic_id(1 + self.random.below(TOPICS as usize) as u128);
        }
        *self.random.of(&topics)
    }

    /// A partition, mostly one that is as wanted.
    fn partition_where(&mut self, wanted: impl Fn(&Partition) -> bool) -> PartitionKey {
        let mut keys = self.state.keys();
        if self.random.chance(850) {
            let fits = |key: &PartitionKey| wanted(self.state.partition(*key).unwrap());
            let fitting: Vec<PartitionKey> = keys.iter().copied().filter(fits).collect();
            if !fitting.is_empty() {
                keys = fitting;
            }
        }
        if keys.is_empty() || self.random.chance(20) {
            return PartitionKey { topic: self.topic(), partition: self.random.below(6) as u32 };
        }
        *self.random.of(&keys)
    }

    /// Replicas of registered brokers in random order, but for a mistake: not many, nobody twice.
    fn replicas(&mut self, factor: usize) -> Vec<BrokerId> {
        let registered: Vec<BrokerId> = self.state.brokers.keys().copied().collect();
        let mut replicas = self.random.some_of(&registered, factor);
        match self.random.below(300) {
            0 => replicas.clear(),
            1 => replicas.extend(replicas.first().copied()),
            2 => replicas.push(BrokerId(BROKERS + 1)),
            3 => {
                let active = self.state.active();
                replicas.retain(|id| !active.contains(id));
            }
            4 if self.random.chance(20) => {
                replicas = (1..=32_768).map(BrokerId).collect();
            }
            _ => {}
        }
        replicas
    }
}

/// The id of a topic from a small number.
fn topic_id(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}
