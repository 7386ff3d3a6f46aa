//! The bytes of commands, as they go into the log.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::broker::{FeatureRange, Listener};
use crate::brokers::Brokers;
use crate::canonical::Canonical;
use crate::command::{
    AlterPartition, BrokerSession, Checkpoint, Command, ConfigChange, ConfigOperation,
    ConfigResource, CreatePartitions, ElectLeaders, ElectionType, NewTopic, Reassignment,
    RegisterBroker,
};
use crate::contract::StateHash;
use crate::ids::{
    BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, Incarnation, LeaderEpoch, PartitionEpoch,
    PartitionKey,
};
use crate::partition::Recovery;
use crate::wire::{self, DecodeError, id_from_wire, id_to_wire};

/// Brokers in an ISR for which there is room at once: most have no more.
const ISR_USUAL: usize = 3;

impl Command {
    /// The command's bytes, as they go into the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::Command { kind: Some(self.to_wire()) }.encode_to_vec().into()
    }

    /// Reads the bytes of a command.
    ///
    /// A leader decodes what it is asked to propose before it proposes it: in the log, bytes that
    /// cannot be decoded stop every replica.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Unknown`] for a command or a field of a later version, others for bytes that
    /// no version writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if let Some(alter) = alter_of(bytes) {
            return Ok(Self::AlterPartition(alter));
        }
        Self::decode_whole(bytes)
    }

    fn decode_whole(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: wire::Command = wire::decode_strict(bytes)?;
        Self::from_wire(message.kind.ok_or(DecodeError::Missing { field: "command" })?)
    }

    fn to_wire(&self) -> wire::command::Kind {
        use wire::command::Kind;
        match self {
            Self::RegisterBroker(register) => Kind::RegisterBroker(register_to_wire(register)),
            Self::FenceBroker(session) => Kind::FenceBroker(session_to_wire(*session)),
            Self::UnfenceBroker(session) => Kind::UnfenceBroker(session_to_wire(*session)),
            Self::ShutdownBroker(session) => Kind::ShutdownBroker(session_to_wire(*session)),
            Self::UnregisterBroker { broker, epoch } => {
                let (broker, epoch) = (broker.get(), epoch.map(BrokerEpoch::get));
                Kind::UnregisterBroker(wire::UnregisterBroker { broker, epoch })
            }
            Self::CreateTopics { topics } => {
                let topics = topics.iter().map(topic_to_wire).collect();
                Kind::CreateTopics(wire::CreateTopics { topics })
            }
            Self::DeleteTopic { topic } => {
                Kind::DeleteTopic(wire::DeleteTopic { id: id_to_wire(topic.0) })
            }
            Self::AlterPartition(alter) => Kind::AlterPartition(alter_to_wire(alter)),
            Self::AllocateProducerIds(session) => {
                Kind::AllocateProducerIds(session_to_wire(*session))
            }
            Self::SetFeatureLevel { level } => {
                Kind::SetFeatureLevel(wire::SetFeatureLevel { level: level.get() })
            }
            Self::CreatePartitions(create) => Kind::CreatePartitions(wire::CreatePartitions {
                topic: id_to_wire(create.topic.0),
                first: create.first,
                partitions: replicas_to_wire(&create.partitions),
            }),
            Self::ElectLeaders(elect) => Kind::ElectLeaders(wire::ElectLeaders {
                unclean: elect.election != ElectionType::Preferred,
                where_allowed: elect.election == ElectionType::UncleanWhereAllowed,
                partitions: elect.partitions.iter().copied().map(key_to_wire).collect(),
            }),
            Self::AlterReassignments { reassignments } => {
                let reassignments = reassignments.iter().map(reassignment_to_wire).collect();
                Kind::AlterReassignments(wire::AlterReassignments { reassignments })
            }
            Self::AlterConfigs { resource, changes } => Kind::AlterConfigs(wire::AlterConfigs {
                resource: Some(resource_to_wire(*resource)),
                changes: changes.iter().map(config_change_to_wire).collect(),
            }),
            Self::CompareState(Checkpoint { algorithm, index, hash }) => {
                let hash = hash.to_bytes().to_vec();
                Kind::CompareState(wire::Checkpoint { index: *index, hash, algorithm: *algorithm })
            }
        }
    }

    fn from_wire(kind: wire::command::Kind) -> Result<Self, DecodeError> {
        use wire::command::Kind;
        Ok(match kind {
            Kind::RegisterBroker(register) => Self::RegisterBroker(register_from_wire(register)?),
            Kind::FenceBroker(session) => Self::FenceBroker(session_from_wire(session)),
            Kind::UnfenceBroker(session) => Self::UnfenceBroker(session_from_wire(session)),
            Kind::ShutdownBroker(session) => Self::ShutdownBroker(session_from_wire(session)),
            Kind::UnregisterBroker(unregister) => {
                let epoch = unregister.epoch.map(BrokerEpoch);
                Self::UnregisterBroker { broker: BrokerId(unregister.broker), epoch }
            }
            Kind::CreateTopics(create) => {
                let topics =
                    create.topics.into_iter().map(topic_from_wire).collect::<Result<_, _>>()?;
                Self::CreateTopics { topics }
            }
            Kind::DeleteTopic(delete) => {
                Self::DeleteTopic { topic: id_from_wire("topic id", &delete.id)?.into() }
            }
            Kind::AlterPartition(alter) => Self::AlterPartition(alter_from_wire(alter)?),
            Kind::AllocateProducerIds(session) => {
                Self::AllocateProducerIds(session_from_wire(session))
            }
            Kind::SetFeatureLevel(set) => Self::SetFeatureLevel { level: FeatureLevel(set.level) },
            Kind::CreatePartitions(create) => Self::CreatePartitions(CreatePartitions {
                topic: id_from_wire("topic id", &create.topic)?.into(),
                first: create.first,
                partitions: replicas_from_wire(&create.partitions),
            }),
            Kind::ElectLeaders(elect) => Self::ElectLeaders(ElectLeaders {
                election: match (elect.unclean, elect.where_allowed) {
                    (false, false) => ElectionType::Preferred,
                    (true, false) => ElectionType::Unclean,
                    (true, true) => ElectionType::UncleanWhereAllowed,
                    (false, true) => return Err(DecodeError::Missing { field: "unclean" }),
                },
                partitions: elect.partitions.iter().map(key_from_wire).collect::<Result<_, _>>()?,
            }),
            Kind::AlterReassignments(alter) => {
                let reassignments = alter.reassignments.into_iter().map(reassignment_from_wire);
                Self::AlterReassignments { reassignments: reassignments.collect::<Result<_, _>>()? }
            }
            Kind::AlterConfigs(alter) => {
                let resource = alter.resource.ok_or(DecodeError::Missing { field: "resource" })?;
                let changes = alter.changes.into_iter().map(config_change_from_wire);
                Self::AlterConfigs {
                    resource: resource_from_wire(resource)?,
                    changes: changes.collect::<Result<_, _>>()?,
                }
            }
            Kind::CompareState(wire::Checkpoint { index, hash, algorithm }) => {
                let hash = id_from_wire("state hash", &hash)?;
                let hash = StateHash::from_bytes(hash.into_bytes());
                Self::CompareState(Checkpoint { algorithm, index, hash })
            }
        })
    }
}

fn session_to_wire(session: BrokerSession) -> wire::BrokerSession {
    wire::BrokerSession { broker: session.broker.get(), epoch: session.epoch.get() }
}

fn session_from_wire(session: wire::BrokerSession) -> BrokerSession {
    BrokerSession { broker: BrokerId(session.broker), epoch: BrokerEpoch(session.epoch) }
}

pub(crate) fn listener_to_wire(listener: &Listener) -> wire::Listener {
    wire::Listener {
        name: listener.name.clone(),
        host: listener.host.clone(),
        port: u32::from(listener.port),
    }
}

pub(crate) fn listener_from_wire(listener: wire::Listener) -> Result<Listener, DecodeError> {
    let port = u16::try_from(listener.port)
        .map_err(|_| DecodeError::OutOfRange { field: "port", value: u64::from(listener.port) })?;
    Ok(Listener { name: listener.name, host: listener.host, port })
}

pub(crate) fn features_to_wire(features: FeatureRange) -> wire::FeatureRange {
    wire::FeatureRange { min: features.min.get(), max: features.max.get() }
}

pub(crate) fn features_from_wire(
    features: Option<wire::FeatureRange>,
) -> Result<FeatureRange, DecodeError> {
    let range = features.ok_or(DecodeError::Missing { field: "feature range" })?;
    Ok(FeatureRange { min: FeatureLevel(range.min), max: FeatureLevel(range.max) })
}

pub(crate) fn brokers_to_wire(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|id| id.get()).collect()
}

pub(crate) fn brokers_from_wire(brokers: &[u32]) -> Brokers {
    brokers.iter().copied().map(BrokerId).collect()
}

fn replicas_to_wire(partitions: &[Brokers]) -> Vec<wire::Replicas> {
    let replicas = |on: &Brokers| wire::Replicas { brokers: brokers_to_wire(on) };
    partitions.iter().map(replicas).collect()
}

fn replicas_from_wire(partitions: &[wire::Replicas]) -> Vec<Brokers> {
    partitions.iter().map(|replicas| brokers_from_wire(&replicas.brokers)).collect()
}

fn key_to_wire(key: PartitionKey) -> wire::PartitionKey {
    wire::PartitionKey { topic: id_to_wire(key.topic.0), partition: key.partition }
}

fn key_from_wire(key: &wire::PartitionKey) -> Result<PartitionKey, DecodeError> {
    let topic = id_from_wire("topic id", &key.topic)?.into();
    Ok(PartitionKey { topic, partition: key.partition })
}

fn reassignment_to_wire(reassignment: &Reassignment) -> wire::Reassignment {
    let target = reassignment.target.as_deref();
    wire::Reassignment {
        partition: Some(key_to_wire(reassignment.partition)),
        target: target.map(|on| wire::Replicas { brokers: brokers_to_wire(on) }),
    }
}

fn reassignment_from_wire(wire: wire::Reassignment) -> Result<Reassignment, DecodeError> {
    let partition = wire.partition.ok_or(DecodeError::Missing { field: "partition" })?;
    let target = wire.target.map(|on| brokers_from_wire(&on.brokers));
    Ok(Reassignment { partition: key_from_wire(&partition)?, target })
}

fn resource_to_wire(resource: ConfigResource) -> wire::alter_configs::Resource {
    use wire::alter_configs::Resource;
    match resource {
        ConfigResource::Default => Resource::Default(true),
        ConfigResource::Broker(id) => Resource::Broker(id.get()),
        ConfigResource::Topic(id) => Resource::Topic(id_to_wire(id.0)),
    }
}

fn resource_from_wire(
    resource: wire::alter_configs::Resource,
) -> Result<ConfigResource, DecodeError> {
    use wire::alter_configs::Resource;
    Ok(match resource {
        Resource::Default(true) => ConfigResource::Default,
        Resource::Default(false) => return Err(DecodeError::Missing { field: "resource" }),
        Resource::Broker(id) => ConfigResource::Broker(BrokerId(id)),
        Resource::Topic(id) => ConfigResource::Topic(id_from_wire("topic id", &id)?.into()),
    })
}

fn config_change_to_wire(change: &ConfigChange) -> wire::ConfigChange {
    use wire::config_change::Operation;
    let operation = match &change.operation {
        ConfigOperation::Set(value) => Operation::Set(value.clone()),
        ConfigOperation::Delete => Operation::Delete(true),
        ConfigOperation::Append(values) => Operation::Append(values.clone()),
        ConfigOperation::Subtract(values) => Operation::Subtract(values.clone()),
    };
    wire::ConfigChange { key: change.key.clone(), operation: Some(operation) }
}

fn config_change_from_wire(change: wire::ConfigChange) -> Result<ConfigChange, DecodeError> {
    use wire::config_change::Operation;
    let missing = DecodeError::Missing { field: "operation" };
    let operation = match change.operation.ok_or_else(|| missing.clone())? {
        Operation::Set(value) => ConfigOperation::Set(value),
        Operation::Delete(true) => ConfigOperation::Delete,
        Operation::Delete(false) => return Err(missing),
        Operation::Append(values) => ConfigOperation::Append(values),
        Operation::Subtract(values) => ConfigOperation::Subtract(values),
    };
    Ok(ConfigChange { key: change.key, operation })
}

fn register_to_wire(register: &RegisterBroker) -> wire::RegisterBroker {
    wire::RegisterBroker {
        broker: register.broker.get(),
        incarnation: id_to_wire(register.incarnation.0),
        listeners: register.listeners.iter().map(listener_to_wire).collect(),
        rack: register.rack.clone(),
        features: Some(features_to_wire(register.features)),
        directories: register.directories.iter().map(|id| id_to_wire(id.0)).collect(),
        vouched: register.vouched.iter().map(|id| id_to_wire(id.0)).collect(),
        follows: register.follows.map(BrokerEpoch::get),
    }
}

fn register_from_wire(register: wire::RegisterBroker) -> Result<RegisterBroker, DecodeError> {
    Ok(RegisterBroker {
        broker: BrokerId(register.broker),
        incarnation: id_from_wire("incarnation", &register.incarnation)?.into(),
        listeners: register
            .listeners
            .into_iter()
            .map(listener_from_wire)
            .collect::<Result<_, _>>()?,
        rack: register.rack,
        features: features_from_wire(register.features)?,
        directories: register
            .directories
            .iter()
            .map(|id| id_from_wire("directory id", id).map(DirectoryId))
            .collect::<Result<_, _>>()?,
        vouched: register
            .vouched
            .iter()
            .map(|id| id_from_wire("vouched incarnation", id).map(Incarnation))
            .collect::<Result<_, _>>()?,
        follows: register.follows.map(BrokerEpoch),
    })
}

fn topic_to_wire(topic: &NewTopic) -> wire::NewTopic {
    wire::NewTopic {
        id: id_to_wire(topic.id.0),
        name: topic.name.clone(),
        partitions: replicas_to_wire(&topic.partitions),
        configs: topic
            .configs
            .iter()
            .map(|(key, value)| wire::Config { key: key.clone(), value: value.clone() })
            .collect(),
    }
}

fn topic_from_wire(topic: wire::NewTopic) -> Result<NewTopic, DecodeError> {
    Ok(NewTopic {
        id: id_from_wire("topic id", &topic.id)?.into(),
        name: topic.name,
        partitions: replicas_from_wire(&topic.partitions),
        configs: topic.configs.into_iter().map(|config| (config.key, config.value)).collect(),
    })
}

fn alter_to_wire(alter: &AlterPartition) -> wire::AlterPartition {
    wire::AlterPartition {
        sender: Some(session_to_wire(alter.sender)),
        topic: id_to_wire(alter.partition.topic.0),
        partition: alter.partition.partition,
        leader_epoch: alter.leader_epoch.get(),
        partition_epoch: alter.partition_epoch.get(),
        isr: alter.isr.iter().copied().map(session_to_wire).collect(),
        recovering: alter.recovery == Recovery::Recovering,
    }
}

fn alter_from_wire(alter: wire::AlterPartition) -> Result<AlterPartition, DecodeError> {
    let sender = alter.sender.ok_or(DecodeError::Missing { field: "sender" })?;
    let topic = id_from_wire("topic id", &alter.topic)?.into();
    Ok(AlterPartition {
        sender: session_from_wire(sender),
        partition: PartitionKey { topic, partition: alter.partition },
        leader_epoch: LeaderEpoch(alter.leader_epoch),
        partition_epoch: PartitionEpoch(alter.partition_epoch),
        isr: alter.isr.into_iter().map(session_from_wire).collect(),
        recovery: recovery_from_wire(alter.recovering),
    })
}

/// The AlterPartition that these bytes are, which most commands of a log are; `None` leaves it to the whole
/// reader what they are.
fn alter_of(bytes: &[u8]) -> Option<AlterPartition> {
    let mut command = Canonical::new(bytes);
    let mut alter = Canonical::new(command.bytes(8)?);
    let sender = session_of(alter.bytes(1)?)?;
    let topic = Uuid::from_slice(alter.bytes(2)?).ok()?.into();
    let partition = PartitionKey { topic, partition: alter.number_32(3)? };
    let leader_epoch = LeaderEpoch(alter.number_32(4)?);
    let partition_epoch = PartitionEpoch(alter.number_32(5)?);
    let mut isr = Vec::with_capacity(ISR_USUAL);
    while alter.is_bytes(6) {
        isr.push(session_of(alter.bytes(6)?)?);
    }
    let recovering = alter.number(7)?;
    let is_whole = command.is_empty() && alter.is_empty() && recovering <= 1;
    let recovery = recovery_from_wire(recovering == 1);
    is_whole.then_some(AlterPartition {
        sender,
        partition,
        leader_epoch,
        partition_epoch,
        isr,
        recovery,
    })
}

fn session_of(bytes: &[u8]) -> Option<BrokerSession> {
    let mut session = Canonical::new(bytes);
    let (broker, epoch) = (BrokerId(session.number_32(1)?), BrokerEpoch(session.number(2)?));
    session.is_empty().then_some(BrokerSession { broker, epoch })
}

pub(crate) fn recovery_from_wire(recovering: bool) -> Recovery {
    if recovering { Recovery::Recovering } else { Recovery::Recovered }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::canonical::tests::others_of;
    use crate::testing::{ids, key, new_topic, registration, topic_id};

    fn session(broker: u32, epoch: u64) -> BrokerSession {
        BrokerSession { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) }
    }

    fn config_change(key: &str, operation: ConfigOperation) -> ConfigChange {
        ConfigChange { key: key.into(), operation }
    }

    /// At least one of each kind.
    pub(crate) fn every_command() -> Vec<Command> {
        let listener = Listener { name: "PLAINTEXT".into(), host: "h".into(), port: 9092 };
        let mut topic = new_topic(1, "t", &[&[1, 2], &[2, 1]]);
        topic.configs = vec![("b".into(), "1".into()), ("a".into(), "2".into())];
        vec![
            Command::RegisterBroker(RegisterBroker {
                listeners: vec![listener],
                rack: Some("r".into()),
                vouched: vec![Incarnation(Uuid::max())],
                ..registration(0)
            }),
            Command::RegisterBroker(RegisterBroker {
                rack: Some(String::new()),
                ..registration(1)
            }),
            Command::RegisterBroker(RegisterBroker {
                follows: Some(BrokerEpoch(0)),
                ..registration(1)
            }),
            Command::RegisterBroker(RegisterBroker {
                follows: Some(BrokerEpoch(u64::MAX)),
                ..registration(2)
            }),
            Command::FenceBroker(session(1, 2)),
            Command::UnfenceBroker(session(0, 0)),
            Command::ShutdownBroker(session(u32::MAX, u64::MAX)),
            Command::UnregisterBroker { broker: BrokerId(0), epoch: None },
            Command::UnregisterBroker { broker: BrokerId(0), epoch: Some(BrokerEpoch(0)) },
            Command::UnregisterBroker { broker: BrokerId(1), epoch: Some(BrokerEpoch(u64::MAX)) },
            Command::CreateTopics { topics: vec![topic, new_topic(2, "", &[&[]])] },
            Command::CreateTopics { topics: vec![] },
            Command::DeleteTopic { topic: topic_id(0) },
            Command::AlterPartition(AlterPartition {
                sender: session(0, 0),
                partition: key(3, 4),
                leader_epoch: LeaderEpoch(5),
                partition_epoch: PartitionEpoch(6),
                isr: vec![session(7, 8), session(0, 0)],
                recovery: Recovery::Recovering,
            }),
            Command::AllocateProducerIds(session(1, 1)),
            Command::SetFeatureLevel { level: FeatureLevel(0) },
            Command::CreatePartitions(CreatePartitions {
                topic: topic_id(1),
                first: 0,
                partitions: vec![ids(&[1, 2]), ids(&[])],
            }),
            Command::ElectLeaders(ElectLeaders {
                election: ElectionType::Preferred,
                partitions: vec![key(1, 0), key(0, u32::MAX)],
            }),
            Command::ElectLeaders(ElectLeaders {
                election: ElectionType::Unclean,
                partitions: vec![],
            }),
            Command::ElectLeaders(ElectLeaders {
                election: ElectionType::UncleanWhereAllowed,
                partitions: vec![key(1, 0)],
            }),
            Command::AlterReassignments {
                reassignments: vec![
                    Reassignment { partition: key(1, 0), target: Some(ids(&[])) },
                    Reassignment { partition: key(2, 1), target: None },
                    Reassignment { partition: key(2, 2), target: Some(ids(&[3, 1])) },
                ],
            },
            Command::AlterConfigs {
                resource: ConfigResource::Topic(topic_id(0)),
                changes: vec![
                    config_change("a", ConfigOperation::Set(String::new())),
                    config_change("", ConfigOperation::Delete),
                    config_change("b", ConfigOperation::Append("x,y".into())),
                    config_change("c", ConfigOperation::Subtract("x".into())),
                ],
            },
            Command::AlterConfigs { resource: ConfigResource::Default, changes: vec![] },
            Command::AlterConfigs {
                resource: ConfigResource::Broker(BrokerId(0)),
                changes: vec![],
            },
            Command::CompareState(Checkpoint {
                algorithm: 0,
                index: 0,
                hash: StateHash::new(1 << 100),
            }),
            Command::CompareState(Checkpoint { algorithm: 7, index: 1, hash: StateHash::new(2) }),
        ]
    }

    #[test]
    fn every_command_survives_its_bytes() {
        for command in every_command() {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        assert_eq!(*ids(&[]), []);
    }

    #[test]
    fn every_command_can_be_told_in_one_line_and_as_json() {
        for command in every_command() {
            let text = command.to_string();
            assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
            let json = serde_json::to_value(&command).unwrap();
            assert_eq!(json["name"], command.name(), "{json}");
            assert!(json["fields"].is_object(), "{json}");
        }
        let mut topic = new_topic(1, "a\nb", &[&[1, 2], &[2, 1]]);
        topic.configs = vec![("k".into(), "v".into()), ("l".into(), String::new())];
        let create = Command::CreateTopics { topics: vec![topic] };
        let id = topic_id(1);
        let text =
            format!("create topics \"a\\nb\" {id} on [1, 2], [2, 1] with \"k\"=\"v\", \"l\"=\"\"");
        assert_eq!(create.to_string(), text);
        let topic = serde_json::json!({
            "id": id, "name": "a\nb", "partitions": [[1, 2], [2, 1]], "configs": {"k": "v", "l": ""},
        });
        let json = serde_json::json!({"name": "CreateTopics", "fields": {"topics": [topic]}});
        assert_eq!(serde_json::to_value(&create).unwrap(), json);
    }

    #[test]
    fn a_command_cut_short_or_with_more_is_never_read_as_another() {
        for command in every_command() {
            let bytes = command.encode();
            for len in 0..bytes.len() {
                assert_ne!(Command::decode(&bytes[..len]), Ok(command.clone()));
            }
            for extra in [&[0x78, 1][..], &bytes, &[0xff], &[0]] {
                let longer = [&bytes[..], extra].concat();
                assert!(Command::decode(&longer).is_err(), "{command:?} and {extra:?}");
            }
        }
    }

    /// To see it fail: stop before the last byte, or take any number for a flag.
    #[test]
    fn what_changes_an_isr_is_read_at_a_glance_as_it_is_read_in_whole() {
        let of = |isr: &[BrokerSession], recovery| AlterPartition {
            sender: session(1, 300),
            partition: key(0, 4),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: PartitionEpoch(0),
            isr: isr.to_vec(),
            recovery,
        };
        for alter in [
            of(&[session(1, 300), session(2, 1 << 40)], Recovery::Recovering),
            of(&[session(0, 0), session(u32::MAX, u64::MAX)], Recovery::Recovered),
            of(&[], Recovery::Recovered),
        ] {
            let bytes = Command::AlterPartition(alter.clone()).encode();
            assert_eq!(alter_of(&bytes), Some(alter));
            for other in others_of(&bytes) {
                let whole = Command::decode_whole(&other).ok();
                assert_eq!(alter_of(&other).map(Command::AlterPartition), whole, "{other:?}");
            }
        }
    }

    #[test]
    fn unknown_kinds_and_fields_are_told_from_damage() {
        assert_eq!(Command::decode(&[]), Err(DecodeError::Missing { field: "command" }));
        // Field 99, a message: a later command.
        assert_eq!(Command::decode(&[0x9a, 0x06, 0x00]), Err(DecodeError::Unknown));
        // FenceBroker with a field 3: a later field within a known command.
        assert_eq!(Command::decode(&[0x12, 2, 0x18, 1]), Err(DecodeError::Unknown));
        // AlterPartition that is recovering "3": perhaps true and more, one day.
        let is_recovering = |it: &Command| matches!(it, Command::AlterPartition(alter) if alter.recovery == Recovery::Recovering);
        let alter = every_command().into_iter().find(is_recovering).expect("one of them").encode();
        let mut bytes = alter.to_vec();
        *bytes.last_mut().expect("not empty") = 3;
        assert_eq!((alter.last(), Command::decode(&bytes)), (Some(&1), Err(DecodeError::Unknown)));
        assert!(matches!(Command::decode(&[0x12, 9]), Err(DecodeError::Malformed(_))));
        let no_id = Err(DecodeError::NotAnId { field: "topic id", len: 2 });
        assert_eq!(Command::decode(&[0x3a, 4, 0x0a, 2, 1, 1]), no_id);
    }

    /// These bytes are in logs: a test that fails here is a change of format.
    #[test]
    fn bytes_never_change() {
        let fence = Command::FenceBroker(session(1, 300));
        assert_eq!(&fence.encode()[..], [0x12, 5, 8, 1, 0x10, 0xac, 2]);
        let alter = Command::AlterPartition(AlterPartition {
            sender: session(1, 2),
            partition: key(0x0102, 3),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(5),
            isr: vec![session(1, 2)],
            recovery: Recovery::Recovering,
        });
        let mut bytes = vec![0x42, 38, 0x0a, 4, 8, 1, 0x10, 2, 0x12, 16];
        bytes.extend([0; 14]);
        bytes.extend([1, 2, 0x18, 3, 0x20, 4, 0x28, 5, 0x32, 4, 8, 1, 0x10, 2, 0x38, 1]);
        assert_eq!(alter.encode()[..], bytes);
    }
}
