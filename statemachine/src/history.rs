//! [`PartitionChange`]: what a command did to one partition, and why, for people who ask how it came to be
//! as it is.

use crate::command::{Command, ElectionType};
use crate::ids::{BrokerId, PartitionKey, list};
use crate::partition::{Partition, Recovery};

/// One step of a partition's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionChange {
    /// The index of the command.
    pub index: u64,
    /// The partition before; `None` where there was none.
    pub before: Option<Partition>,
    /// The partition after; `None` where it was deleted.
    pub after: Option<Partition>,
    /// The name of the command. Commands name up to 10,000 partitions, so that they are not kept.
    pub command: &'static str,
    /// What happened, without what it did to the partition: the beginning of a sentence for people.
    pub cause: String,
}

impl PartitionChange {
    /// What a command at `index` did to the partition `key`, if anything.
    #[must_use]
    pub fn of(
        index: u64,
        key: PartitionKey,
        command: &Command,
        before: Option<&Partition>,
        after: Option<&Partition>,
    ) -> Option<Self> {
        (before != after).then(|| Self {
            index,
            before: before.cloned(),
            after: after.cloned(),
            command: command.name(),
            cause: cause(command, key),
        })
    }

    /// Why the partition changed, and how: one sentence for people.
    #[must_use]
    pub fn reason(&self) -> String {
        let (cause, effects) = (&self.cause, self.effects());
        if effects.is_empty() { cause.clone() } else { format!("{cause}: {}", effects.join(", ")) }
    }

    /// Whether the broker left the ISR with this change.
    #[must_use]
    pub fn took_from_isr(&self, id: BrokerId) -> bool {
        let has =
            |state: &Option<Partition>| state.as_ref().is_some_and(|state| state.isr.contains(&id));
        has(&self.before) && !has(&self.after)
    }

    /// Whether another leads after this change, or nobody.
    #[must_use]
    pub fn moved_leader(&self) -> bool {
        let leader = |state: &Option<Partition>| state.as_ref().and_then(|state| state.leader);
        leader(&self.before) != leader(&self.after)
    }

    fn effects(&self) -> Vec<String> {
        let Some(after) = &self.after else { return vec!["the partition is gone".into()] };
        let Some(before) = &self.before else {
            return vec![format!("replicas {}, ISR {}", list(&after.replicas), list(&after.isr))];
        };
        let mut effects = Vec::new();
        for id in before.isr.iter().filter(|id| !after.isr.contains(id)) {
            let eligible = if after.elr.contains(id) { " and may still lead" } else { "" };
            effects.push(format!("{id} left the ISR{eligible}"));
        }
        for id in after.isr.iter().filter(|id| !before.isr.contains(id)) {
            effects.push(format!("{id} joined the ISR"));
        }
        if before.replicas != after.replicas {
            effects.push(format!("replicas {}", list(&after.replicas)));
        }
        match (before.is_reassigning(), after.is_reassigning()) {
            (false, true) => effects.push("a reassignment begins".into()),
            (true, false) => effects.push("the reassignment is over".into()),
            _ => {}
        }
        if self.moved_leader() {
            effects.push(after.leader.map_or("nobody leads".into(), |id| format!("{id} leads")));
        }
        match (before.recovery, after.recovery) {
            (Recovery::Recovered, Recovery::Recovering) => {
                effects.push("its leader may lack acknowledged records".into());
            }
            (Recovery::Recovering, Recovery::Recovered) => {
                effects.push("its leader has recovered".into());
            }
            _ => {}
        }
        effects
    }
}

/// What happened, without its effects.
fn cause(command: &Command, key: PartitionKey) -> String {
    match command {
        Command::RegisterBroker(register) => {
            format!("broker {} started anew", register.broker)
        }
        Command::FenceBroker(session) => format!("broker {} was fenced", session.broker),
        Command::UnfenceBroker(session) => format!("broker {} came back", session.broker),
        Command::ShutdownBroker(session) => format!("broker {} shuts down", session.broker),
        Command::UnregisterBroker { broker, .. } => format!("broker {broker} was unregistered"),
        Command::CreateTopics { .. } => "the topic was created".into(),
        Command::CreatePartitions(_) => "the topic got more partitions".into(),
        Command::DeleteTopic { .. } => "the topic was deleted".into(),
        Command::AlterPartition(alter) => {
            format!("its leader {} changed the ISR", alter.sender.broker)
        }
        Command::ElectLeaders(elect) => match elect.election {
            ElectionType::Preferred => "the preferred leader was elected".into(),
            ElectionType::Unclean | ElectionType::UncleanWhereAllowed => {
                "an unclean election was held".into()
            }
        },
        Command::AlterReassignments { reassignments } => {
            let own = reassignments.iter().find(|one| one.partition == key);
            match own.and_then(|one| one.target.as_ref()) {
                Some(target) => format!("it was reassigned to {}", list(target)),
                None => "its reassignment was cancelled".into(),
            }
        }
        Command::AlterConfigs { .. } => "min.insync.replicas changed".into(),
        Command::AllocateProducerIds(_)
        | Command::SetFeatureLevel { .. }
        | Command::CompareState(_) => "no command changes a partition this way".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, key};

    /// What `command` did to partition 0 of topic 1, in words.
    fn told(cluster: &mut Cluster, command: Command) -> String {
        let before = cluster.image().partition(key(1, 0)).cloned();
        cluster.accept(command.clone());
        let after = cluster.image().partition(key(1, 0));
        let change =
            PartitionChange::of(cluster.index, key(1, 0), &command, before.as_ref(), after);
        let change = change.expect("something differs");
        assert_eq!((change.index, change.command), (cluster.index, command.name()));
        change.reason()
    }

    #[test]
    fn every_step_of_a_story_is_told() {
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[("min.insync.replicas", "2")]);
        let fence = |cluster: &Cluster, id| Command::FenceBroker(cluster.session(id));
        let command = fence(&cluster, 1);
        let said = told(&mut cluster, command);
        assert_eq!(said, "broker 1 was fenced: 1 left the ISR and may still lead, 2 leads");
        let command = fence(&cluster, 2);
        let said = told(&mut cluster, command);
        assert_eq!(said, "broker 2 was fenced: 2 left the ISR and may still lead, nobody leads");
        let command = Command::UnfenceBroker(cluster.session(1));
        let said = told(&mut cluster, command);
        assert_eq!(said, "broker 1 came back: 1 joined the ISR, 1 leads");
        let target = Some(crate::testing::ids(&[3, 1]));
        let reassignment = crate::command::Reassignment { partition: key(1, 0), target };
        let command = Command::AlterReassignments { reassignments: vec![reassignment] };
        let said = told(&mut cluster, command);
        assert_eq!(said, "it was reassigned to [3, 1]: replicas [3, 1, 2], a reassignment begins");
        let command = Command::AlterPartition(cluster.alter(&[1, 3]));
        let said = told(&mut cluster, command);
        assert_eq!(
            said,
            "its leader 1 changed the ISR: 3 joined the ISR, replicas [3, 1], the reassignment is over"
        );
        let command = Command::DeleteTopic { topic: crate::testing::topic_id(1) };
        let said = told(&mut cluster, command);
        assert_eq!(said, "the topic was deleted: the partition is gone");
    }

    #[test]
    fn what_changes_nothing_is_no_step() {
        let cluster = Cluster::with_topic(&[1], &[1], &[]);
        let state = cluster.image().partition(key(1, 0));
        let fence = Command::FenceBroker(cluster.session(1));
        assert_eq!(PartitionChange::of(9, key(1, 0), &fence, state, state), None);
        assert_eq!(PartitionChange::of(9, key(1, 0), &fence, None, None), None);
    }
}
