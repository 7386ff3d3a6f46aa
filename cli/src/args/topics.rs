//! What may be written of topics.

use std::str::FromStr;

use clap::{Args, Subcommand};
use quorate_admin::views::{ConfigChange, ConfigOperation, CreatePartitions, CreateTopic};

use super::configs::{Setting, once_each};
use crate::failure::Failure;

/// What can be done with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// Create a topic
    Create(CreateArgs),
    /// List the topics
    Ls,
    /// Show a topic with all of its configs and partitions
    Describe {
        /// The topic's name
        name: String,
    },
    /// Give a topic more partitions, or other configs
    Alter(AlterArgs),
    /// Delete a topic and all of its partitions
    Delete {
        /// The topic's name
        name: String,
    },
}

/// The options of `topics create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The topic's name
    name: String,
    /// How many partitions it gets
    #[arg(long, required_unless_present = "replica_assignment")]
    partitions: Option<u32>,
    /// How many brokers hold each partition
    #[arg(long, required_unless_present = "replica_assignment")]
    replication_factor: Option<u32>,
    /// Instead: the brokers of each partition, the preferred leader first, such as 1:2:3,2:3:1
    #[arg(long, value_name = "ID:ID,..", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["partitions", "replication_factor"])]
    replica_assignment: Vec<Replicas>,
    /// A config of the topic, such as min.insync.replicas=2
    #[arg(long = "config", value_name = "KEY=VALUE")]
    configs: Vec<Setting>,
}

impl CreateArgs {
    /// The topic that is wanted.
    pub(crate) fn request(&self) -> Result<CreateTopic, Failure> {
        let configs = once_each(self.configs.iter().map(Setting::to_change))?;
        let configs = configs.into_iter().filter_map(|it| Some((it.key, it.value?))).collect();
        let (partitions, replication_factor) = match self.replica_assignment.first() {
            Some(first) => {
                let len = first.0.len();
                if self.replica_assignment.iter().any(|replicas| replicas.0.len() != len) {
                    return Err(Failure::Usage(
                        "--replica-assignment gives some partitions more brokers than others: give \
                         each partition of a topic the same number"
                            .to_owned(),
                    ));
                }
                (count(self.replica_assignment.len()), count(len))
            }
            // Both are there: the command line was refused otherwise.
            None => (self.partitions.unwrap_or(0), self.replication_factor.unwrap_or(0)),
        };
        Ok(CreateTopic {
            name: self.name.clone(),
            partitions,
            replication_factor,
            assignment: lists(&self.replica_assignment),
            configs,
        })
    }
}

/// The options of `topics alter`.
#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    /// The topic's name
    pub(crate) name: String,
    /// How many partitions it shall have; there is no way back
    #[arg(long)]
    partitions: Option<u32>,
    /// The brokers of each new partition, the preferred leader first [default: they are planned]
    #[arg(long, value_name = "ID:ID,..", value_delimiter = ',', requires = "partitions")]
    replica_assignment: Vec<Replicas>,
    /// A config to set, such as min.insync.replicas=2
    #[arg(long = "config", value_name = "KEY=VALUE")]
    configs: Vec<Setting>,
    /// A config to have the default again
    #[arg(long = "delete-config", value_name = "KEY")]
    deleted: Vec<String>,
}

impl AlterArgs {
    /// The changes of configs that are wanted.
    pub(crate) fn changes(&self) -> Result<Vec<ConfigChange>, Failure> {
        let deleted = self.deleted.iter().map(|key| ConfigChange {
            key: key.clone(),
            operation: ConfigOperation::Delete,
            value: None,
        });
        let changes = once_each(self.configs.iter().map(Setting::to_change).chain(deleted))?;
        if changes.is_empty() && self.partitions.is_none() {
            return Err(Failure::Usage(
                "nothing is to be altered: give --partitions, --config or --delete-config".into(),
            ));
        }
        Ok(changes)
    }

    /// The partitions that are wanted.
    pub(crate) fn growth(&self) -> Option<CreatePartitions> {
        let assignment = lists(&self.replica_assignment);
        self.partitions.map(|total| CreatePartitions { total, assignment })
    }
}

/// The brokers of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replicas(Vec<u64>);

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ids: Result<Vec<u64>, _> = text.split(':').map(str::parse).collect();
        ids.map(Replicas).map_err(|_| {
            "the brokers of a partition are ids with colons between them, such as 1:2:3".to_owned()
        })
    }
}

fn lists(replicas: &[Replicas]) -> Vec<Vec<u64>> {
    replicas.iter().map(|replicas| replicas.0.clone()).collect()
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::testing::{parse, usage_of};
    use crate::args::{Command, Topics};

    fn create(options: &str) -> Result<CreateTopic, Failure> {
        match parse(&format!("topics create t {options}"))?.command {
            Command::Topics(Topics::Create(args)) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    fn alter(options: &str) -> Result<(Vec<ConfigChange>, Option<CreatePartitions>), Failure> {
        match parse(&format!("topics alter t {options}"))?.command {
            Command::Topics(Topics::Alter(args)) => Ok((args.changes()?, args.growth())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_topic_is_planned_or_assigned() {
        let planned = create("--partitions 3 --replication-factor 2 --config a=b=c").unwrap();
        assert_eq!((planned.partitions, planned.replication_factor), (3, 2));
        assert_eq!((planned.configs["a"].as_str(), planned.assignment.len()), ("b=c", 0));
        let assigned = create("--replica-assignment 1:2:3,2:3:1").unwrap();
        assert_eq!((assigned.partitions, assigned.replication_factor), (2, 3));
        assert_eq!(assigned.assignment, [[1, 2, 3], [2, 3, 1]]);
        for (options, sentence) in [
            ("--partitions 1", "required arguments were not provided: --replication-factor"),
            ("", "required arguments were not provided"),
            ("--partitions 1 --replica-assignment 1", "cannot be used with"),
            ("--replica-assignment 1;2", "ids with colons between them"),
            ("--replica-assignment 1:2,1", "the same number"),
            ("--replica-assignment 1:2,", "ids with colons between them"),
            ("--replica-assignment 1 --config a=1 --config a=2", "config a is given twice"),
            ("--replica-assignment 1 --config a", "a config is KEY=VALUE"),
        ] {
            let said = usage_of(create(options));
            assert!(said.contains(sentence), "{options}: {said}");
        }
    }

    #[test]
    fn an_alteration_names_something() {
        let (changes, growth) = alter("--config a=1 --delete-config b --partitions 4").unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!((changes[1].operation, &changes[1].value), (ConfigOperation::Delete, &None));
        assert_eq!(growth, Some(CreatePartitions { total: 4, assignment: vec![] }));
        assert_eq!(alter("--config a=-1").unwrap().1, None);
        for (options, sentence) in [
            ("", "nothing is to be altered: give"),
            ("--config a=1 --delete-config a", "config a is given twice"),
            ("--replica-assignment 1:2", "--partitions"),
        ] {
            let said = usage_of(alter(options));
            assert!(said.contains(sentence), "{options}: {said}");
        }
    }
}
