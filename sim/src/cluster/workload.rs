//! [`Workload`]: commands to the metadata, as brokers and operators would send them.

use bytes::Bytes;
use quorate_statemachine::placement::{TopicShape, plan};
use quorate_statemachine::{
    AlterPartition, Broker, BrokerId, BrokerSession, Command, ConfigChange, ConfigOperation,
    ConfigResource, DirectoryId, ElectLeaders, ElectionType, FeatureRange, Incarnation,
    MetadataImage, NewTopic, Partition, PartitionKey, Recovery, RegisterBroker, TopicId,
};
use uuid::Uuid;

use crate::random::Random;

/// Brokers of the data plane.
const BROKERS: u64 = 5;
/// Where the ids of brokers begin that are none of the data plane.
const APART: u32 = 1_000;
/// Topics at a time.
const TOPICS_MAX: usize = 8;

/// Draws commands that fit what there is, mostly.
pub(super) struct Workload(Random, bool);

impl Workload {
    /// With a data plane, commands keep off its brokers and topics.
    pub(super) fn new(seed: u64, has_brokers: bool) -> Workload {
        Workload(Random::new(seed), has_brokers)
    }

    /// The next command, for a cluster that looks like this.
    pub(super) fn command(&mut self, image: &MetadataImage) -> Bytes {
        self.draw(image).encode()
    }

    fn draw(&mut self, image: &MetadataImage) -> Command {
        if self.1 {
            return self.draw_apart(image);
        }
        let brokers: Vec<&Broker> = image.brokers().collect();
        if brokers.len() < 3 || self.0.chance(10) {
            return self.register();
        }
        let broker = brokers[self.0.below(brokers.len() as u64) as usize];
        let session = BrokerSession { broker: broker.id, epoch: broker.epoch };
        let partitions: Vec<(PartitionKey, &Partition)> = image.partitions().collect();
        match self.0.below(10) {
            0 => Command::FenceBroker(session),
            1 | 2 => Command::UnfenceBroker(session),
            3 => Command::AllocateProducerIds(session),
            4 if image.topic_count() < TOPICS_MAX => self.create(image),
            5 if image.topic_count() == TOPICS_MAX => self.delete(image),
            6 => self.config(image),
            _ if partitions.is_empty() => self.create(image),
            7 => {
                let (key, _) = partitions[self.0.below(partitions.len() as u64) as usize];
                let election = ElectionType::Preferred;
                Command::ElectLeaders(ElectLeaders { election, partitions: vec![key] })
            }
            _ => {
                let (key, partition) = partitions[self.0.below(partitions.len() as u64) as usize];
                self.alter(image, key, partition)
            }
        }
    }

    /// A command that touches no broker of the data plane: to brokers that exist on paper only.
    fn draw_apart(&mut self, image: &MetadataImage) -> Command {
        let apart = image.brokers().filter(|broker| broker.id.get() > APART);
        let apart: Vec<BrokerSession> =
            apart.map(|broker| BrokerSession { broker: broker.id, epoch: broker.epoch }).collect();
        if apart.is_empty() || self.0.chance(30) {
            return self.register_from(APART);
        }
        Command::AllocateProducerIds(apart[self.0.below(apart.len() as u64) as usize])
    }

    fn register(&mut self) -> Command {
        self.register_from(0)
    }

    fn register_from(&mut self, from: u32) -> Command {
        let broker = from + 1 + self.0.below(BROKERS) as u32;
        Command::RegisterBroker(RegisterBroker {
            broker: BrokerId(broker),
            incarnation: Incarnation(Uuid::from_u128(u128::from(self.0.next()) + 1)),
            listeners: Vec::new(),
            rack: None,
            features: FeatureRange::SUPPORTED,
            directories: vec![DirectoryId(Uuid::from_u128(u128::from(broker)))],
            vouched: Vec::new(),
            follows: None,
        })
    }

    fn create(&mut self, image: &MetadataImage) -> Command {
        let shape = TopicShape {
            partitions: 1 + self.0.below(3) as u32,
            replication_factor: 1 + self.0.below(3) as u32,
        };
        let number = self.0.next();
        // Where there are too few brokers for it, the state machine says so.
        let partitions = plan(image, shape, number).unwrap_or_default();
        let name = format!("topic-{}", number % 100);
        let id = TopicId(Uuid::from_u128(u128::from(number) + 1));
        Command::CreateTopics { topics: vec![NewTopic { id, name, partitions, configs: vec![] }] }
    }

    fn delete(&mut self, image: &MetadataImage) -> Command {
        let topics: Vec<TopicId> = image.topics().map(|topic| topic.id).collect();
        let topic = topics[self.0.below(topics.len() as u64) as usize];
        Command::DeleteTopic { topic }
    }

    fn config(&mut self, image: &MetadataImage) -> Command {
        let topics: Vec<TopicId> = image.topics().map(|topic| topic.id).collect();
        let resource = match topics.is_empty() || self.0.chance(20) {
            true => ConfigResource::Default,
            false => ConfigResource::Topic(topics[self.0.below(topics.len() as u64) as usize]),
        };
        let value = (1 + self.0.below(3)).to_string();
        let key = "min.insync.replicas".to_owned();
        let changes = vec![ConfigChange { key, operation: ConfigOperation::Set(value) }];
        Command::AlterConfigs { resource, changes }
    }

    /// The leader wants another ISR: any of its replicas.
    fn alter(
        &mut self,
        image: &MetadataImage,
        key: PartitionKey,
        partition: &Partition,
    ) -> Command {
        let session = |id: BrokerId| BrokerSession {
            broker: id,
            epoch: image.broker(id).map_or_else(Default::default, |broker| broker.epoch),
        };
        let sender = partition.leader.unwrap_or(BrokerId(1));
        let isr: Vec<_> = partition
            .replicas
            .iter()
            .copied()
            .filter(|id| *id == sender || self.0.chance(60))
            .map(session)
            .collect();
        Command::AlterPartition(AlterPartition {
            sender: session(sender),
            partition: key,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr,
            recovery: Recovery::Recovered,
        })
    }
}
