//! Which rule a command falls under.

use quorate_statemachine::{Command, ErrorCode, Reply};

use crate::state::State;

impl State {
    /// Carries out a command at its index of the log. After an error the state is one to throw away.
    pub(crate) fn apply(&mut self, index: u64, command: &Command) -> Result<Reply, ErrorCode> {
        match command {
            Command::RegisterBroker(register) => self.register(index, register),
            Command::FenceBroker(session) => self.fence(*session),
            Command::UnfenceBroker(session) => self.unfence(*session),
            Command::ShutdownBroker(session) => self.shut_down(*session),
            Command::UnregisterBroker { broker, epoch } => self.unregister(*broker, *epoch),
            Command::CreateTopics { topics } => self.create_topics(topics),
            Command::DeleteTopic { topic } => self.delete_topic(*topic),
            Command::AlterPartition(alter) => self.alter_partition(alter),
            Command::AllocateProducerIds(session) => self.allocate(*session),
            Command::SetFeatureLevel { level } => self.set_feature_level(*level),
            Command::CreatePartitions(create) => self.create_partitions(create),
            Command::ElectLeaders(elect) => self.elect_leaders(elect),
            Command::AlterReassignments { reassignments } => {
                self.alter_reassignments(reassignments)
            }
            Command::AlterConfigs { resource, changes } => self.alter_configs(*resource, changes),
            // The replicas agree: the run sees to it.
            Command::CompareState(_) => Ok(Reply::StateCompared),
            other => panic!("the model has no rule for {other:?}"),
        }
    }
}
