//! What may be written of topics.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use quorate_admin::views::{
    ConfigChange, ConfigOperation, CreatePartitions, CreateTopic, CreateTopics, NewTopics,
};

use super::configs::{Setting, once_each};
use super::file::JsonFile;
use crate::failure::Failure;

/// What can be done with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// Create a topic, or several
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
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// How many partitions it gets
    #[arg(long, required_unless_present_any = ["replica_assignment", "file"])]
    #[arg(conflicts_with = "file")]
    partitions: Option<u32>,
    /// How many brokers hold each partition
    #[arg(long, required_unless_present_any = ["replica_assignment", "file"])]
    #[arg(conflicts_with = "file")]
    replication_factor: Option<u32>,
    /// Instead: the brokers of each partition, the preferred leader first, such as 1:2:3,2:3:1
    #[arg(long, value_name = "ID:ID,..", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["partitions", "replication_factor", "file"])]
    replica_assignment: Vec<Replicas>,
    /// A config of the topic, such as min.insync.replicas=2
    #[arg(long = "config", value_name = "KEY=VALUE", conflicts_with = "file")]
    configs: Vec<Setting>,
    /// Instead: several topics, in JSON as over HTTP; all of them are created, or none
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl CreateArgs {
    /// The topics that are wanted. Reads their file, if they are in one.
    pub(crate) fn request(&self) -> Result<NewTopics, Failure> {
        match &self.file {
            Some(path) => several(path).map(NewTopics::Many),
            None => self.one().map(NewTopics::One),
        }
    }

    fn one(&self) -> Result<CreateTopic, Failure> {
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
            // Both are there, and so is the name: the command line was refused otherwise.
            None => (self.partitions.unwrap_or(0), self.replication_factor.unwrap_or(0)),
        };
        Ok(CreateTopic {
            name: self.name.clone().unwrap_or_default(),
            partitions,
            replication_factor,
            assignment: lists(&self.replica_assignment),
            configs,
        })
    }
}

fn several(path: &Path) -> Result<CreateTopics, Failure> {
    let file = JsonFile {
        what: "the file of topics",
        example: r#"{"topics":[{"name":"t","partitions":1,"replication_factor":1}]}"#,
        path,
    };
    let wanted: CreateTopics = file.read()?;
    if wanted.topics.is_empty() {
        return Err(file.bad("it creates nothing; name at least one topic"));
    }
    Ok(wanted)
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

    fn new_topics(options: &str) -> Result<NewTopics, Failure> {
        match parse(&format!("topics create {options}"))?.command {
            Command::Topics(Topics::Create(args)) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    fn create(options: &str) -> Result<CreateTopic, Failure> {
        match new_topics(&format!("t {options}"))? {
            NewTopics::One(topic) => Ok(topic),
            many => panic!("{many:?}"),
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
    fn several_topics_are_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("topics.json");
        let at = format!("--file {}", file.display());
        let text = r#"{"topics":[
            {"name":"a","partitions":2,"replication_factor":1,"configs":{"k":"v"}},
            {"name":"b","partitions":1,"replication_factor":2,"assignment":[[1,2]]}]}"#;
        std::fs::write(&file, text).unwrap();
        let topic = |name: &str, partitions, replication_factor| CreateTopic {
            name: name.into(),
            partitions,
            replication_factor,
            assignment: vec![],
            configs: Default::default(),
        };
        let mut topics = vec![topic("a", 2, 1), topic("b", 1, 2)];
        topics[0].configs.insert("k".into(), "v".into());
        topics[1].assignment = vec![vec![1, 2]];
        assert_eq!(new_topics(&at).unwrap(), NewTopics::Many(CreateTopics { topics }));
        for (text, sentence) in [
            ("", "one looks like {"),
            (r#"{"name":"t","partitions":1,"replication_factor":1}"#, "unknown field `name`"),
            (r#"{"topics":[{"name":"t","partitions":1}]}"#, "missing field `replication_factor`"),
            (r#"{"topics":[]}"#, "it creates nothing; name"),
            (&" ".repeat((4 << 20) + 1), "more than 4194304 bytes; split it"),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = usage_of(new_topics(&at));
            assert!(said.contains(sentence) && said.contains("topics.json"), "{sentence}: {said}");
        }
        for (options, sentence) in [
            ("t --file x", "cannot be used with"),
            ("--file x --partitions 1", "cannot be used with"),
            ("--file x --replica-assignment 1", "cannot be used with"),
            ("--file x --config a=1", "cannot be used with"),
            ("--partitions 1 --replication-factor 1", "required arguments were not provided"),
            ("--file /nowhere/topics.json", "name a readable file"),
        ] {
            let said = usage_of(new_topics(options));
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
