//! [`State`]: a state machine with much metadata, and where its images are published.

use std::sync::Arc;

use arc_swap::ArcSwap;
use quorate_statemachine::placement::{TopicShape, plan};
use quorate_statemachine::{
    Applied, BrokerId, BrokerSession, Command, Delta, DirectoryId, FeatureRange, Incarnation,
    Metadata, MetadataImage, NewTopic, Outcome, RegisterBroker, Reply, StateMachine as _, TopicId,
};
use uuid::Uuid;

use super::Failure;
use crate::random::Random;

/// Brokers, each of which leads a hundredth of the partitions.
pub(super) const BROKERS: u32 = 100;

const REPLICATION_FACTOR: u32 = 3;

/// Partitions of each topic but the last, which has the rest.
const PARTITIONS_PER_TOPIC: u32 = 100;

/// The state machine as the apply thread has it.
pub(super) struct State {
    pub(super) partitions: u32,
    pub(super) random: Random,
    machine: Metadata,
    index: u64,
    published: Arc<ArcSwap<MetadataImage>>,
}

impl State {
    /// By the commands that make such a cluster: brokers register, topics are created one by one.
    pub(super) fn build(partitions: u32) -> Result<State, Failure> {
        let machine = Metadata::new();
        let published = Arc::new(ArcSwap::from_pointee(machine.image()));
        let random = Random::seeded(0);
        let mut state = State { partitions, random, machine, index: 0, published };
        for id in 0..BROKERS {
            state.register(BrokerId(id))?;
        }
        let mut left = partitions;
        while left > 0 {
            let partitions = left.min(PARTITIONS_PER_TOPIC);
            let topic = state.plan_topic(partitions)?;
            state.accept(&Command::CreateTopics { topics: vec![topic] })?;
            left -= partitions;
        }
        state.publish();
        Ok(state)
    }

    fn register(&mut self, id: BrokerId) -> Result<(), Failure> {
        let (incarnation, directory) = (self.draw_id(), self.draw_id());
        self.accept(&Command::RegisterBroker(RegisterBroker {
            broker: id,
            incarnation: Incarnation(incarnation),
            listeners: Vec::new(),
            rack: None,
            features: FeatureRange::SUPPORTED,
            directories: vec![DirectoryId(directory)],
            vouched: Vec::new(),
            follows: None,
        }))?;
        let session = self.session(id)?;
        self.accept(&Command::UnfenceBroker(session))?;
        Ok(())
    }

    /// A new topic, placed as a leader places it.
    pub(super) fn plan_topic(&mut self, partitions: u32) -> Result<NewTopic, Failure> {
        let shape = TopicShape { partitions, replication_factor: REPLICATION_FACTOR };
        let partitions = plan(&self.image(), shape, self.random.next())
            .map_err(|rejection| rejection.message)?;
        let id = TopicId(self.draw_id());
        Ok(NewTopic { id, name: format!("topic-{}", self.index), partitions, configs: Vec::new() })
    }

    fn draw_id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.random.next(), self.random.next())
    }

    /// How a registered broker speaks.
    pub(super) fn session(&self, id: BrokerId) -> Result<BrokerSession, Failure> {
        let image = self.image();
        let broker = image.broker(id).ok_or("a broker is not registered")?;
        Ok(BrokerSession { broker: id, epoch: broker.epoch })
    }

    pub(super) fn image(&self) -> MetadataImage {
        self.machine.image()
    }

    /// Where readers find the newest image.
    pub(super) fn published(&self) -> &Arc<ArcSwap<MetadataImage>> {
        &self.published
    }

    /// Makes the state as it is now the newest image.
    pub(super) fn publish(&self) {
        self.published.store(Arc::new(self.image()));
    }

    /// Applies a command as it comes from the log.
    pub(super) fn apply(&mut self, command: &[u8]) -> Result<Applied<Outcome, Delta>, Failure> {
        let mut changes = Delta::default();
        let outcome = self.gather(command, &mut changes)?;
        Ok(Applied { outcome, changes })
    }

    /// The same for one of several, whose changes are gathered.
    pub(super) fn gather(
        &mut self,
        command: &[u8],
        changes: &mut Delta,
    ) -> Result<Outcome, Failure> {
        self.index += 1;
        Ok(self.machine.apply(self.index, command, changes)?)
    }

    /// The same for a command that is decoded already.
    pub(super) fn gather_decoded(
        &mut self,
        command: &Command,
        changes: &mut Delta,
    ) -> Result<Outcome, Failure> {
        self.index += 1;
        Ok(self.machine.apply_decoded(self.index, command, changes)?)
    }

    fn accept(&mut self, command: &Command) -> Result<Reply, Failure> {
        accepted(self.gather_decoded(command, &mut Delta::default())?)
    }
}

/// What a command gave. A rejection ends the measurement: it would be of something else.
pub(super) fn accepted(outcome: Outcome) -> Result<Reply, Failure> {
    Ok(outcome.into_result().map_err(|rejection| rejection.message)?)
}
