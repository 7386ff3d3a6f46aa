//! A cluster for tests: applies commands in log order, and checks every invariant after each.

use uuid::Uuid;

use crate::broker::FeatureRange;
use crate::brokers::Brokers;
use crate::command::{AlterPartition, BrokerSession, Command, NewTopic, RegisterBroker};
use crate::contract::{Applied, Changes as _, StateMachine};
use crate::delta::Delta;
use crate::error::ErrorCode;
use crate::ids::{
    BrokerEpoch, BrokerId, DirectoryId, Incarnation, PartitionKey, ProducerId, TopicId,
};
use crate::image::MetadataImage;
use crate::machine::Metadata;
use crate::outcome::{Outcome, Reply};
use crate::partition::{Partition, Recovery};

/// The machine, and the index of the last command.
pub(crate) struct Cluster {
    pub(crate) machine: Metadata,
    pub(crate) index: u64,
    image: MetadataImage,
}

impl Default for Cluster {
    fn default() -> Self {
        let machine = Metadata::new();
        let image = machine.image();
        Self { machine, index: 0, image }
    }
}

pub(crate) fn topic_id(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

pub(crate) fn incarnation(number: u128) -> Incarnation {
    Incarnation(Uuid::from_u128(number))
}

pub(crate) fn ids(brokers: &[u32]) -> Brokers {
    brokers.iter().copied().map(BrokerId).collect()
}

/// The first registration of a broker: incarnation `id * 100 + 1`, one directory.
pub(crate) fn registration(id: u32) -> RegisterBroker {
    RegisterBroker {
        broker: BrokerId(id),
        incarnation: incarnation(u128::from(id) * 100 + 1),
        listeners: vec![],
        rack: None,
        features: FeatureRange::SUPPORTED,
        directories: vec![DirectoryId(Uuid::from_u128(u128::from(id) + 1))],
        vouched: vec![],
        follows: None,
    }
}

/// A topic with this id as number and these replicas.
pub(crate) fn new_topic(number: u128, name: &str, partitions: &[&[u32]]) -> NewTopic {
    NewTopic {
        id: topic_id(number),
        name: name.into(),
        partitions: partitions.iter().map(|replicas| ids(replicas)).collect(),
        configs: vec![],
    }
}

pub(crate) fn key(topic: u128, partition: u32) -> PartitionKey {
    PartitionKey { topic: topic_id(topic), partition }
}

impl Cluster {
    /// Registered and unfenced brokers: the first gets epoch 1, the next 3, and so on.
    pub(crate) fn of(brokers: &[u32]) -> Self {
        let mut cluster = Self::default();
        for id in brokers {
            cluster.accept(Command::RegisterBroker(registration(*id)));
            cluster.unfence(*id);
        }
        cluster
    }

    /// As [`Cluster::of`], with topic 1 named `t` of one partition and these configs.
    pub(crate) fn with_topic(brokers: &[u32], replicas: &[u32], configs: &[(&str, &str)]) -> Self {
        let mut cluster = Self::of(brokers);
        let mut topic = new_topic(1, "t", &[replicas]);
        topic.configs =
            configs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        cluster.accept(Command::CreateTopics { topics: vec![topic] });
        cluster
    }

    pub(crate) fn image(&self) -> &MetadataImage {
        &self.image
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied<Outcome, Delta> {
        self.index += 1;
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(&command));
        let mut changes = Delta::default();
        let outcome =
            self.machine.apply(self.index, &bytes, &mut changes).expect("a known command");
        let applied = Applied { outcome, changes };
        let after = self.machine.image();
        after.check().expect("every invariant holds");
        self.image.check_step(&after).expect("every step is allowed");
        let differs = Delta::between(&self.image, &after);
        assert_eq!(applied.changes, differs, "a delta names what differs, no more and no less");
        if matches!(applied.outcome, Outcome::Rejected(_)) {
            assert_eq!(after, self.image, "a rejected command changes nothing");
        }
        let bytes = applied.outcome.encode();
        assert_eq!(Outcome::decode(&bytes).as_ref(), Ok(&applied.outcome));
        self.image = after;
        applied
    }

    pub(crate) fn accept(&mut self, command: Command) -> Reply {
        self.apply(command).outcome.into_result().expect("accepted")
    }

    /// Applies a command that must be refused, with one sentence that says why and what to do.
    pub(crate) fn refuse(&mut self, command: Command) -> ErrorCode {
        let rejection = self.apply(command).outcome.into_result().expect_err("rejected");
        let message = &rejection.message;
        assert!(message.contains(": ") && !message.ends_with('.'), "no remedy: {message}");
        assert!(!message.contains("  "), "a gap: {message}");
        rejection.code
    }

    pub(crate) fn session(&self, id: u32) -> BrokerSession {
        let broker = BrokerId(id);
        let epoch = self.image.broker(broker).map_or(BrokerEpoch(0), |broker| broker.epoch);
        BrokerSession { broker, epoch }
    }

    pub(crate) fn register_in_rack(&mut self, id: u32, rack: &str) {
        let rack = Some(rack.into());
        self.accept(Command::RegisterBroker(RegisterBroker { rack, ..registration(id) }));
    }

    /// Registers incarnation `id * 100 + start` of a broker, vouching for the `vouched` starts.
    pub(crate) fn restart(&mut self, id: u32, start: u32, vouched: &[u32]) -> Reply {
        let of = |start: u32| incarnation(u128::from(id * 100 + start));
        self.accept(Command::RegisterBroker(RegisterBroker {
            incarnation: of(start),
            vouched: vouched.iter().copied().map(of).collect(),
            ..registration(id)
        }))
    }

    pub(crate) fn fence(&mut self, id: u32) -> Reply {
        self.accept(Command::FenceBroker(self.session(id)))
    }

    pub(crate) fn unfence(&mut self, id: u32) -> Reply {
        self.accept(Command::UnfenceBroker(self.session(id)))
    }

    pub(crate) fn shut_down(&mut self, id: u32) -> Reply {
        self.accept(Command::ShutdownBroker(self.session(id)))
    }

    /// Partition 0 of topic 1.
    pub(crate) fn partition(&self) -> &Partition {
        self.image.partition(key(1, 0)).expect("topic 1 is there")
    }

    /// Puts partition 0 of topic 1 into a state for which there is no command yet.
    pub(crate) fn replace_partition(&mut self, mut partition: Partition) {
        partition.partition_epoch.0 += 1;
        self.machine.replace_partition(key(1, 0), partition);
        self.image = self.machine.image();
        self.image.check().expect("a state that can be");
    }

    /// As if all producer ids below were given out.
    pub(crate) fn set_next_producer_id(&mut self, next: u64) {
        self.machine.set_next_producer_id(ProducerId(next));
        self.image = self.machine.image();
    }

    /// What the leader of partition 0 of topic 1 would send to have this ISR.
    pub(crate) fn alter(&self, isr: &[u32]) -> AlterPartition {
        let partition = self.partition();
        let leader = partition.leader.unwrap_or_default();
        AlterPartition {
            sender: self.session(leader.get()),
            partition: key(1, 0),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|id| self.session(*id)).collect(),
            recovery: Recovery::Recovered,
        }
    }

    pub(crate) fn set_isr(&mut self, isr: &[u32]) -> Reply {
        self.accept(Command::AlterPartition(self.alter(isr)))
    }

    /// Partition 0 of topic 1 as `leader isr elr last-known le/pe`, for comparison at a glance.
    pub(crate) fn shown(&self) -> String {
        show(self.partition())
    }
}

/// `leader=1 isr=[1,2] elr=[3] last=- epochs=0/1`, with `RECOVERING` at the end where it is.
pub(crate) fn show(partition: &Partition) -> String {
    let one = |id: Option<BrokerId>| id.map_or("-".to_owned(), |id| id.to_string());
    let all = |brokers: &[BrokerId]| {
        brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let recovering = match partition.recovery {
        Recovery::Recovered => "",
        Recovery::Recovering => " RECOVERING",
    };
    format!(
        "leader={} isr=[{}] elr=[{}] last={} epochs={}/{}{recovering}",
        one(partition.leader),
        all(&partition.isr),
        all(&partition.elr),
        one(partition.last_known_leader),
        partition.leader_epoch,
        partition.partition_epoch,
    )
}
