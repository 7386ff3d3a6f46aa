//! The machine: takes a command apart, hands it to the noun it concerns, and reports what changed.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;

use mutation::Bug;

use crate::broker::{ActiveBrokers, Broker, FeatureRange};
use crate::change::{Target, change};
use crate::command::{BrokerSession, Command};
use crate::contract::{Applied, ApplyError, Cause, RestoreError, StateMachine};
use crate::delta::Delta;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, PartitionKey, TopicId, list};
use crate::image::MetadataImage;
use crate::outcome::{Outcome, Reply};
use crate::partition::Partition;
use crate::placement::PARTITIONS_PER_COMMAND_MAX;
use crate::topic::Topic;
use crate::wire::DecodeError;
use crate::{
    alter_configs, alter_partition, elect_leaders, feature_level, liveness, producer_ids, reassign,
    register, snapshot, topics,
};

/// Partition metadata as a replicated state machine. See the crate's documentation.
#[derive(Debug)]
pub struct Metadata {
    image: MetadataImage,
}

impl StateMachine for Metadata {
    type Image = MetadataImage;
    type Outcome = Outcome;
    type Changes = Delta;

    fn new() -> Self {
        Self::of(MetadataImage::genesis())
    }

    fn apply(
        &mut self,
        index: u64,
        command: &[u8],
        changes: &mut Delta,
    ) -> Result<Outcome, ApplyError> {
        let command = Command::decode(command).map_err(|error| match error {
            DecodeError::Unknown => ApplyError::Unknown { index },
            other => ApplyError::Undecodable { index, source: other.into() },
        })?;
        self.apply_decoded(index, &command, changes)
    }

    /// Without the sentences of rejections, which are for people: their words, and their lengths, may be
    /// others in another version, and what is kept is to be the same on all replicas.
    fn encode_outcome(outcome: &Outcome) -> Bytes {
        outcome.without_sentences().encode()
    }

    fn decode_outcome(bytes: &[u8]) -> Result<Outcome, Cause> {
        let kept = Outcome::decode(bytes).map_err(Cause::from)?;
        Ok(kept.with_sentences())
    }

    fn image(&self) -> MetadataImage {
        self.image.clone()
    }

    fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError> {
        snapshot::read(snapshot).map(Self::of)
    }
}

impl Metadata {
    /// A machine that goes on from an image.
    pub(crate) fn of(image: MetadataImage) -> Self {
        Self { image }
    }

    /// The state itself.
    pub(crate) fn into_image(self) -> MetadataImage {
        self.image
    }

    /// [`Metadata::apply_decoded`] for a command that is applied by itself.
    ///
    /// # Errors
    ///
    /// As there: fatal for this replica.
    pub fn apply_command(
        &mut self,
        index: u64,
        command: &Command,
    ) -> Result<Applied<Outcome, Delta>, ApplyError> {
        let mut changes = Delta::default();
        let outcome = self.apply_decoded(index, command, &mut changes)?;
        Ok(Applied { outcome, changes })
    }

    /// [`StateMachine::apply`] for a command that is decoded already.
    ///
    /// # Errors
    ///
    /// As there: fatal for this replica.
    pub fn apply_decoded(
        &mut self,
        index: u64,
        command: &Command,
        changes: &mut Delta,
    ) -> Result<Outcome, ApplyError> {
        self.check_order(index, command)?;
        if let Command::CompareState(checkpoint) = command
            && !self.image.checkpoints.agree(*checkpoint)
        {
            return Err(ApplyError::Diverged { index, checkpoint: checkpoint.index });
        }
        let mut step = Step::new(index, &mut self.image, changes);
        let result = step.run(command);
        let changed = step.changed;
        let level = self.image.feature_level;
        if !FeatureRange::SUPPORTED.contains(level) {
            let supported = FeatureRange::SUPPORTED.max.get();
            let level = level.get();
            return Err(ApplyError::UnsupportedFeatureLevel { index, level, supported });
        }
        let sum = self.image.sum;
        self.image.checkpoints.applied(index, || sum.hash());
        match result {
            Ok(reply) => Ok(Outcome::Accepted(reply)),
            Err(rejection) => {
                assert!(!changed, "a rejected command changed the state: {command:?}");
                Ok(Outcome::Rejected(rejection))
            }
        }
    }

    /// Broker epochs are log indexes: a registration below one would give an epoch twice.
    fn check_order(&self, index: u64, command: &Command) -> Result<(), ApplyError> {
        if let Command::RegisterBroker(register) = command
            && let Some(broker) = self.image.broker(register.broker)
            && broker.epoch.get() >= index
        {
            return Err(ApplyError::OutOfOrder { index, applied: broker.epoch.get() });
        }
        Ok(())
    }
}

#[cfg(test)]
impl Metadata {
    /// Sets a partition without a command.
    pub(crate) fn replace_partition(&mut self, key: PartitionKey, partition: Partition) {
        self.image.put_partition(key, partition);
    }

    /// As if all producer ids below were given out.
    pub(crate) fn set_next_producer_id(&mut self, next: crate::ids::ProducerId) {
        self.image.set_next_producer_id(next);
    }
}

/// One command being applied. Handlers check everything before they change anything.
pub(crate) struct Step<'a> {
    pub(crate) index: u64,
    pub(crate) image: &'a mut MetadataImage,
    /// What it changes is added here.
    delta: &'a mut Delta,
    changed: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn new(index: u64, image: &'a mut MetadataImage, delta: &'a mut Delta) -> Self {
        Self { index, image, delta, changed: false }
    }

    /// For what the command changes: it cannot be rejected any more.
    pub(crate) fn delta(&mut self) -> &mut Delta {
        self.changed = true;
        self.delta
    }

    pub(crate) fn run(&mut self, command: &Command) -> Result<Reply, Rejection> {
        self.image.check_command_level(command)?;
        match command {
            Command::RegisterBroker(register) => register::apply(self, register),
            Command::FenceBroker(session) => liveness::fence(self, *session),
            Command::UnfenceBroker(session) => liveness::unfence(self, *session),
            Command::ShutdownBroker(session) => liveness::shut_down(self, *session),
            Command::UnregisterBroker { broker, epoch } => {
                liveness::unregister(self, *broker, *epoch)
            }
            Command::CreateTopics { topics } => topics::create(self, topics),
            Command::DeleteTopic { topic } => topics::delete(self, *topic),
            Command::AlterPartition(alter) => alter_partition::apply(self, alter),
            Command::AllocateProducerIds(session) => producer_ids::allocate(self, *session),
            Command::SetFeatureLevel { level } => feature_level::set(self, *level),
            Command::CreatePartitions(create) => topics::grow(self, create),
            Command::ElectLeaders(elect) => elect_leaders::apply(self, elect),
            Command::AlterReassignments { reassignments } => reassign::apply(self, reassignments),
            Command::AlterConfigs { resource, changes } => {
                alter_configs::apply(self, *resource, changes)
            }
            Command::CompareState(_) => Ok(Reply::StateCompared),
        }
    }

    /// The broker that a request speaks for, if it is the registered incarnation.
    pub(crate) fn session(&self, session: BrokerSession) -> Result<&Broker, Rejection> {
        let BrokerSession { broker: id, epoch } = session;
        let stale = |state: String| {
            Rejection::new(
                ErrorCode::StaleBrokerEpoch,
                format!("broker {id} speaks with epoch {epoch}, but {state}: register again"),
            )
        };
        match self.image.broker(id) {
            Some(broker) if broker.epoch == epoch || mutation::is(Bug::BrokerEpochNotChecked) => {
                Ok(broker)
            }
            Some(broker) => Err(stale(format!("is registered with epoch {}", broker.epoch))),
            None => Err(stale("is not registered".to_owned())),
        }
    }

    /// The topic with this id.
    pub(crate) fn topic(&self, id: TopicId) -> Result<&Topic, Rejection> {
        self.image.topic(id).ok_or_else(|| {
            let fault = format!("no topic has the id {id}: it may be deleted, wait for metadata");
            Rejection::new(ErrorCode::UnknownTopicId, fault)
        })
    }

    /// Whether the configs of a partition's topic allow an unclean election that nobody asked for.
    pub(crate) fn allows_unclean_election(&self, key: PartitionKey) -> bool {
        let topic = self.image.topic(key.topic);
        topic.is_some_and(|topic| self.image.unclean_leader_election(topic))
    }

    /// The partition that a client's request names.
    pub(crate) fn partition(&self, key: PartitionKey) -> Result<&Partition, Rejection> {
        self.located(key).map(|(_, partition)| partition)
    }

    /// The same, and its topic.
    pub(crate) fn located(&self, key: PartitionKey) -> Result<(&Topic, &Partition), Rejection> {
        let topic = self.topic(key.topic)?;
        let partition = topic.partition(key.partition).ok_or_else(|| {
            let fault = format!(
                "topic {} has {} partitions and no number {}: wait for metadata",
                topic.name,
                topic.partition_count(),
                key.partition
            );
            Rejection::new(ErrorCode::UnknownTopicOrPartition, fault)
        })?;
        Ok((topic, partition))
    }

    /// The partition that a client's request names, if a client may change it.
    pub(crate) fn changeable(&self, key: PartitionKey) -> Result<&Partition, Rejection> {
        let partition = self.partition(key)?;
        Self::check_changeable(key, partition)?;
        Ok(partition)
    }

    /// Whether a client may change this partition.
    pub(crate) fn check_changeable(
        key: PartitionKey,
        partition: &Partition,
    ) -> Result<(), Rejection> {
        let fault = if partition.is_closed() {
            format!(
                "{key} has no epoch left and is closed, so that nobody leads it any more: bring its records \
                 from the disks of {} into a topic that is new, and delete this one",
                list(&partition.replicas)
            )
        } else if partition.is_spent() {
            format!(
                "{key} has used up its epochs, and the last ones are for when brokers fail: move its records \
                 to a topic that is new"
            )
        } else {
            return Ok(());
        };
        Err(Rejection::new(ErrorCode::InvalidRequest, fault))
    }

    /// Checks the partitions that one command names: some, not too many, and none of them twice.
    pub(crate) fn check_named_once(
        &self,
        keys: impl ExactSizeIterator<Item = PartitionKey>,
    ) -> Result<(), Rejection> {
        let invalid = |fault| Err(Rejection::new(ErrorCode::InvalidRequest, fault));
        if !(1..=PARTITIONS_PER_COMMAND_MAX).contains(&keys.len()) {
            return invalid(format!(
                "the command names {} partitions: name 1 to {PARTITIONS_PER_COMMAND_MAX}",
                keys.len()
            ));
        }
        let mut named = BTreeSet::new();
        for key in keys {
            if !named.insert(key) {
                return invalid(format!("{key} is named twice: name it once"));
            }
        }
        Ok(())
    }

    /// Changes a partition that is there; says whether anything differs.
    pub(crate) fn change_partition(&mut self, key: PartitionKey, target: Target) -> bool {
        let Ok((topic, partition)) = self.located(key) else { return false };
        let next = self.changed(topic, partition, target);
        let differs = next.is_some();
        if let Some(next) = next {
            self.put_partition(key, next);
        }
        differs
    }

    /// What a partition of a topic is to become; `None` if nothing differs.
    pub(crate) fn changed(
        &self,
        topic: &Topic,
        partition: &Partition,
        target: Target,
    ) -> Option<Partition> {
        let min_insync = self.image.min_insync_replicas(topic);
        change(partition, target, min_insync, &ActiveBrokers::all(&self.image.brokers))
    }

    pub(crate) fn put_broker(&mut self, broker: Broker) {
        self.delta().brokers.insert(broker.id);
        self.image.put_broker(broker);
    }

    pub(crate) fn put_partition(&mut self, key: PartitionKey, next: Partition) {
        self.delta().partitions.insert(key);
        self.image.put_partition(key, next);
    }

    /// Changes the partitions that `broker` keeps and for which there is a target; with the broker
    /// not electable if it is `leaving`. Gives how many changed.
    pub(crate) fn change_partitions_of(
        &mut self,
        broker: BrokerId,
        leaving: bool,
        target: impl Fn(&Partition) -> Option<Target>,
    ) -> u64 {
        // O(1) copies: what is iterated is not what is being changed.
        let brokers = self.image.brokers.clone();
        let Some(keys) = self.image.kept.get(&broker).cloned() else { return 0 };
        let active = if leaving {
            ActiveBrokers::except(&brokers, broker)
        } else {
            ActiveBrokers::all(&brokers)
        };
        let mut changed = 0;
        for key in &keys {
            let Some(topic) = self.image.topic(key.topic) else { continue };
            let Some(partition) = topic.partition(key.partition) else { continue };
            let Some(target) = target(partition) else { continue };
            let min_insync = self.image.min_insync_replicas(topic);
            if let Some(next) = change(partition, target, min_insync, &active) {
                self.put_partition(*key, next);
                changed += 1;
            }
        }
        changed
    }
}

#[cfg(test)]
#[allow(non_snake_case, reason = "tests of a trap carry its number")]
mod tests {
    use super::*;
    use crate::brokers::Brokers;
    use crate::command::{AlterPartition, ElectLeaders, ElectionType, Reassignment};
    use crate::contract::Image;
    use crate::partition::{EPOCH_MAX, EPOCHS_RESERVED};
    use crate::testing::{Cluster, ids, key, new_topic, registration};

    /// A clock or random ids inside apply made the incident's replicas differ.
    #[test]
    fn trap_I29_replicas_agree_byte_for_byte() {
        let mut commands = Vec::new();
        for id in [3, 1, 2] {
            commands.push(Command::RegisterBroker(registration(id)));
        }
        let session =
            |broker, epoch: u64| BrokerSession { broker: BrokerId(broker), epoch: epoch.into() };
        commands.extend(
            [(3, 1), (1, 2), (2, 3)]
                .map(|(broker, epoch)| Command::UnfenceBroker(session(broker, epoch))),
        );
        let topics = (1..=40)
            .map(|number| new_topic(number, &format!("t{}", 41 - number), &[&[3, 1, 2], &[1, 2]]))
            .collect();
        commands.push(Command::CreateTopics { topics });
        commands.push(Command::FenceBroker(session(1, 2)));
        commands.push(Command::AllocateProducerIds(session(2, 3)));

        let run = || {
            let mut machine = Metadata::new();
            let (mut outcomes, mut changes) = (Vec::new(), Delta::default());
            for (index, command) in (1..).zip(&commands) {
                let outcome = machine.apply(index, &command.encode(), &mut changes);
                outcomes.push(outcome.expect("known"));
            }
            let mut bytes = Vec::new();
            machine.image().write_snapshot(&mut bytes).expect("a vector takes all");
            (outcomes, changes, bytes, machine.image().state_hash())
        };
        // In threads of their own: nothing of a thread or of the order of allocation gets in.
        let here = run();
        let there = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        assert_eq!(here, there);
    }

    /// In the incident's system whoever led the quorum was taken for the leader of a partition. Here it is
    /// whom the log says, on every replica alike, whatever a broker takes itself for. To see it fail: leave
    /// out the check of the sender or of the leader epoch in AlterPartition.
    #[test]
    fn trap_I19_a_partition_leader_is_what_was_committed_and_nothing_else() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[2, 1], &[]);
        let leads = |cluster: &Cluster, id: u32| {
            let mut bytes = Vec::new();
            cluster.image().write_snapshot(&mut bytes).expect("a vector takes all");
            let elsewhere = Metadata::restore(&mut &bytes[..]).expect("written just now").image();
            for image in [cluster.image(), &elsewhere] {
                let partition = image.partition(key(1, 0)).expect("there");
                assert_eq!(partition.leader, Some(BrokerId(id)));
            }
        };
        leads(&cluster, 2);
        let claim = AlterPartition { sender: cluster.session(1), ..cluster.alter(&[1]) };
        let code = cluster.refuse(Command::AlterPartition(claim));
        assert_eq!(code, ErrorCode::InvalidRequest, "1 does not lead");
        leads(&cluster, 2);
        let believed = cluster.alter(&[2]);
        cluster.fence(2);
        leads(&cluster, 1);
        cluster.unfence(2);
        let code = cluster.refuse(Command::AlterPartition(believed));
        assert_eq!(code, ErrorCode::FencedLeaderEpoch, "2 has not heard of it");
        leads(&cluster, 1);
    }

    /// To see it fail: have `Step::changeable` give every partition that there is.
    #[test]
    fn the_last_epochs_are_for_what_must_not_fail() {
        let last = EPOCH_MAX - EPOCHS_RESERVED;
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[]);
        let mut partition = cluster.partition().clone();
        (partition.leader_epoch.0, partition.partition_epoch.0) = (7, last - 1);
        cluster.replace_partition(partition);
        cluster.set_isr(&[1]);
        let shown = |epochs| format!("leader=1 isr=[1] elr=[] last=- epochs=7/{epochs}");
        assert_eq!(cluster.shown(), shown(last + 1), "the last change that a client may ask for");

        // Each of the other checks comes first.
        let alter = cluster.alter(&[1, 2]);
        let mut fenced = alter.clone();
        fenced.leader_epoch.0 -= 1;
        let mut outdated = alter.clone();
        outdated.partition_epoch.0 -= 1;
        let mut ineligible = alter.clone();
        ineligible.isr[1].epoch.0 += 1;
        for (alter, code) in [
            (fenced, ErrorCode::FencedLeaderEpoch),
            (outdated, ErrorCode::InvalidUpdateVersion),
            (ineligible, ErrorCode::IneligibleReplica),
            (alter, ErrorCode::InvalidRequest),
        ] {
            assert_eq!(cluster.refuse(Command::AlterPartition(alter)), code);
        }
        let partition = key(1, 0);
        let elect = |election| ElectLeaders { election, partitions: vec![partition] };
        let reassign = |target: Option<Brokers>| Command::AlterReassignments {
            reassignments: vec![Reassignment { partition, target }],
        };
        for command in [
            Command::ElectLeaders(elect(ElectionType::Preferred)),
            Command::ElectLeaders(elect(ElectionType::Unclean)),
            reassign(Some(ids(&[1, 3]))),
            reassign(None),
        ] {
            let applied = cluster.apply(command.clone());
            assert_eq!(applied.changes, Delta::default(), "{command}");
            match applied.outcome.into_result() {
                Ok(Reply::LeadersElected { results } | Reply::Reassigned { results }) => {
                    let refused = results[0].as_ref().expect_err("refused");
                    assert_eq!(refused.code, ErrorCode::InvalidRequest, "{command}");
                }
                other => panic!("{command}: {other:?}"),
            }
        }
        cluster.fence(1);
        let fenced = format!("leader=- isr=[] elr=[1] last=1 epochs=8/{}", last + 2);
        assert_eq!(cluster.shown(), fenced);
        cluster.unfence(1);
        let unfenced = format!("leader=1 isr=[1] elr=[] last=- epochs=9/{}", last + 3);
        assert_eq!(cluster.shown(), unfenced);
    }

    /// To see it fail: have `stamp` step the last epoch, or a closed partition change.
    #[test]
    fn the_last_epoch_closes_a_partition_and_stops_no_replica() {
        for (leader_epoch, closed) in [(7, 8), (EPOCH_MAX - 2, EPOCH_MAX - 1)] {
            let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[]);
            let mut partition = cluster.partition().clone();
            (partition.leader_epoch.0, partition.partition_epoch.0) = (leader_epoch, EPOCH_MAX - 3);
            (partition.replicas, partition.adding) = (ids(&[1, 2, 3]), ids(&[3]));
            cluster.replace_partition(partition);
            cluster.fence(2);
            let last =
                format!("leader=1 isr=[1] elr=[] last=- epochs={leader_epoch}/{}", EPOCH_MAX - 1);
            assert_eq!(cluster.shown(), last, "the last epoch with a leader");
            cluster.fence(1);
            let closed = format!("leader=- isr=[] elr=[] last=- epochs={closed}/{EPOCH_MAX}");
            assert_eq!(cluster.shown(), closed, "and not in the ELR");
            assert!(!cluster.partition().is_reassigning(), "nobody could complete that");
            assert_eq!(cluster.partition().replicas, ids(&[1, 2, 3]), "they have its records");
            let elect =
                ElectLeaders { election: ElectionType::Unclean, partitions: vec![key(1, 0)] };
            let Reply::LeadersElected { results } = cluster.accept(Command::ElectLeaders(elect))
            else {
                panic!("another reply")
            };
            let refused = results[0].as_ref().expect_err("refused");
            assert_eq!(refused.code, ErrorCode::InvalidRequest);
            assert!(refused.message.contains("from the disks of [1, 2, 3]"), "{refused}");
            // Whatever comes: nobody leads again, and nothing differs.
            cluster.unfence(1);
            cluster.shut_down(1);
            cluster.restart(1, 2, &[1]);
            cluster.unfence(1);
            cluster.unfence(2);
            cluster.accept(Command::UnregisterBroker { broker: BrokerId(2), epoch: None });
            assert_eq!(cluster.shown(), closed);
            let mut bytes = Vec::new();
            cluster.image().write_snapshot(&mut bytes).expect("a vector takes all");
            let again = Metadata::restore(&mut &bytes[..]).expect("written just now");
            assert_eq!(&again.image(), cluster.image());
            cluster.accept(Command::DeleteTopic { topic: key(1, 0).topic });
        }
    }

    #[test]
    fn what_cannot_be_understood_stops_the_replica_and_is_never_skipped() {
        let (mut machine, mut changes) = (Metadata::new(), Delta::default());
        let unknown =
            machine.apply(5, &[0x9a, 0x06, 0x00], &mut changes).expect_err("a later command");
        assert!(matches!(unknown, ApplyError::Unknown { index: 5 }));
        for damage in [&[][..], &[0xff], &[0x12, 9]] {
            let error = machine.apply(6, damage, &mut changes).expect_err("no command");
            assert!(matches!(error, ApplyError::Undecodable { index: 6, .. }), "{damage:?}");
        }
        assert_eq!(machine.image(), MetadataImage::genesis());
    }

    #[test]
    fn an_image_never_changes_after_it_was_taken() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        let image = cluster.image().clone();
        let hash = image.state_hash();
        cluster.fence(1);
        assert_eq!(image.state_hash(), hash);
        assert_ne!(cluster.image().state_hash(), hash);
    }
}
