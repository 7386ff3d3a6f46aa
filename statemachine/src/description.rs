//! Commands in the words of people: one line each, for tools that show a log.

use std::fmt::{self, Display};

use crate::command::{
    AlterPartition, BrokerSession, Command, ConfigChange, ConfigOperation, ConfigResource,
    CreatePartitions, ElectLeaders, ElectionType, NewTopic, Reassignment, RegisterBroker,
};
use crate::ids::{BrokerEpoch, BrokerId, whole_list};
use crate::partition::Recovery;

impl Command {
    /// The name of its kind, as its `Serialize` has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RegisterBroker(_) => "RegisterBroker",
            Self::FenceBroker(_) => "FenceBroker",
            Self::UnfenceBroker(_) => "UnfenceBroker",
            Self::ShutdownBroker(_) => "ShutdownBroker",
            Self::UnregisterBroker { .. } => "UnregisterBroker",
            Self::CreateTopics { .. } => "CreateTopics",
            Self::DeleteTopic { .. } => "DeleteTopic",
            Self::AlterPartition(_) => "AlterPartition",
            Self::AllocateProducerIds(_) => "AllocateProducerIds",
            Self::SetFeatureLevel { .. } => "SetFeatureLevel",
            Self::CreatePartitions(_) => "CreatePartitions",
            Self::ElectLeaders(_) => "ElectLeaders",
            Self::AlterReassignments { .. } => "AlterReassignments",
            Self::AlterConfigs { .. } => "AlterConfigs",
            Self::CompareState(_) => "CompareState",
        }
    }
}

impl Display for Command {
    /// One line; what is a name in it is quoted, since a broker may send any text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No default: a command that is added must be told too.
        match self {
            Self::RegisterBroker(register) => register.fmt(f),
            Self::FenceBroker(session) => write!(f, "fence {session}"),
            Self::UnfenceBroker(session) => write!(f, "unfence {session}"),
            Self::ShutdownBroker(session) => write!(f, "shut down {session}"),
            Self::UnregisterBroker { broker, epoch } => {
                write!(f, "unregister broker {broker}")?;
                epoch.map_or(Ok(()), |epoch| write!(f, " with epoch {epoch}"))
            }
            Self::CreateTopics { topics } => {
                f.write_str("create topics")?;
                separated(f, topics)
            }
            Self::DeleteTopic { topic } => write!(f, "delete topic {topic}"),
            Self::AlterPartition(alter) => alter.fmt(f),
            Self::AllocateProducerIds(session) => write!(f, "producer ids for {session}"),
            Self::SetFeatureLevel { level } => write!(f, "set feature level {level}"),
            Self::CreatePartitions(create) => create.fmt(f),
            Self::ElectLeaders(elect) => elect.fmt(f),
            Self::AlterReassignments { reassignments } => {
                f.write_str("reassign partitions")?;
                separated(f, reassignments)
            }
            Self::AlterConfigs { resource, changes } => {
                write!(f, "alter configs of {resource}:")?;
                separated(f, changes)
            }
            Self::CompareState(checkpoint) => {
                write!(f, "compare states: {} behind {}", checkpoint.hash, checkpoint.index)
            }
        }
    }
}

/// ` a, b, c`.
fn separated<T: Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (number, item) in items.iter().enumerate() {
        write!(f, "{} {item}", if number == 0 { "" } else { "," })?;
    }
    Ok(())
}

impl Display for BrokerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} of epoch {}", self.broker, self.epoch)
    }
}

impl Display for RegisterBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "register broker {}, incarnation {}", self.broker, self.incarnation)?;
        for listener in &self.listeners {
            write!(f, ", {:?} at {:?}:{}", listener.name, listener.host, listener.port)?;
        }
        if let Some(rack) = &self.rack {
            write!(f, ", rack {rack:?}")?;
        }
        write!(f, ", feature levels {} to {}", self.features.min, self.features.max)?;
        f.write_str(", directories")?;
        separated(f, &self.directories)?;
        if !self.vouched.is_empty() {
            f.write_str(", vouches for")?;
            separated(f, &self.vouched)?;
        }
        match self.follows {
            Some(BrokerEpoch(0)) => f.write_str(", the first")?,
            Some(epoch) => write!(f, ", after epoch {epoch}")?,
            None => {}
        }
        Ok(())
    }
}

impl Display for NewTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} on", self.name, self.id)?;
        let partitions: Vec<String> = self.partitions.iter().map(|on| whole_list(on)).collect();
        separated(f, &partitions)?;
        for (number, (key, value)) in self.configs.iter().enumerate() {
            write!(f, "{} {key:?}={value:?}", if number == 0 { " with" } else { "," })?;
        }
        Ok(())
    }
}

impl Display for AlterPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender, partition, leader_epoch, partition_epoch, isr, recovery } = self;
        let isr: Vec<BrokerId> = isr.iter().map(|member| member.broker).collect();
        write!(f, "alter partition {partition}: ISR {}", whole_list(&isr))?;
        match recovery {
            Recovery::Recovered => {}
            Recovery::Recovering => f.write_str(", recovering")?,
        }
        write!(f, ", asked by {sender} at leader epoch {leader_epoch}")?;
        write!(f, ", partition epoch {partition_epoch}")
    }
}

impl Display for CreatePartitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create partitions of {} from {} on:", self.topic, self.first)?;
        let partitions: Vec<String> = self.partitions.iter().map(|on| whole_list(on)).collect();
        separated(f, &partitions)
    }
}

impl Display for ElectLeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.election {
            ElectionType::Preferred => "elect the preferred leaders of",
            ElectionType::Unclean => "elect leaders, uncleanly if need be, of",
            ElectionType::UncleanWhereAllowed => {
                "elect leaders, uncleanly if need be and allowed, of"
            }
        })?;
        separated(f, &self.partitions)
    }
}

impl Display for Reassignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Some(target) => write!(f, "{} to {}", self.partition, whole_list(target)),
            None => write!(f, "{} back", self.partition),
        }
    }
}

impl Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("all brokers and topics"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::Topic(id) => write!(f, "topic {id}"),
        }
    }
}

impl Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operation {
            ConfigOperation::Set(value) => write!(f, "{key:?}={value:?}"),
            ConfigOperation::Delete => write!(f, "delete {key:?}"),
            ConfigOperation::Append(values) => write!(f, "append {values:?} to {key:?}"),
            ConfigOperation::Subtract(values) => write!(f, "subtract {values:?} from {key:?}"),
        }
    }
}
