//! What may be written of partitions.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use quorate_admin::views::{
    ElectLeaders, Election, PartitionName, ReassignPartitions, Reassignment,
};

use super::brokers::broker_id;
use super::file::JsonFile;
use crate::failure::Failure;

/// The version of a plan of Kafka's tools.
const PLAN_VERSION: u32 = 1;

/// What can be done with partitions.
#[derive(Debug, Subcommand)]
pub(crate) enum Partitions {
    /// List the partitions
    Ls {
        /// Only this topic's
        #[arg(long)]
        topic: Option<String>,
    },
    /// Elect leaders
    Elect(ElectArgs),
    /// Move partitions to other brokers
    Reassign(ReassignArgs),
    /// Take back that a partition moves
    Cancel(OnePartition),
    /// Say why a partition has the leader that it has, or none, and why replicas are not in sync
    Explain(OnePartition),
    /// The latest changes of a partition with their reasons, as far as a node's log reaches
    History(OnePartition),
    /// Say what would become of the partitions if some brokers died now
    WhatIf {
        /// The brokers
        #[arg(long, required = true, value_name = "ID,..", value_delimiter = ',')]
        #[arg(value_parser = broker_id())]
        kill: Vec<u64>,
    },
}

/// A partition.
#[derive(Debug, Args)]
pub(crate) struct OnePartition {
    /// The topic's name
    pub(crate) topic: String,
    /// The partition's number
    pub(crate) partition: u32,
}

/// The options of `partitions elect`.
#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// Which election
    #[arg(long = "type", value_enum)]
    election: ElectionKind,
    /// Of this topic
    #[arg(long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    topic: Option<String>,
    /// Of this partition alone
    #[arg(long, value_name = "N", requires = "topic", conflicts_with = "all")]
    partition: Option<u32>,
    /// Of all topics
    #[arg(long)]
    all: bool,
}

/// Which election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ElectionKind {
    /// The first replica is to lead
    Preferred,
    /// Where nobody leads, any active replica may; it may lack acknowledged records
    Unclean,
}

impl ElectArgs {
    /// What is wanted.
    pub(crate) fn request(&self) -> ElectLeaders {
        let election = match self.election {
            ElectionKind::Preferred => Election::Preferred,
            ElectionKind::Unclean => Election::Unclean,
        };
        let (topic, partitions) = match (self.topic.clone(), self.partition) {
            (Some(topic), Some(partition)) => {
                (None, Some(vec![PartitionName { topic, partition }]))
            }
            (topic, _) => (topic, None),
        };
        ElectLeaders { election, partitions, topic, all: self.all }
    }
}

/// The options of `partitions reassign`.
#[derive(Debug, Args)]
pub(crate) struct ReassignArgs {
    /// The topic's name
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    topic: Option<String>,
    /// The partition's number
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    partition: Option<u32>,
    /// The brokers that shall hold it, the preferred leader first
    #[arg(long, value_name = "ID,..", value_delimiter = ',', value_parser = broker_id())]
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    replicas: Vec<u64>,
    /// Instead: a plan for many partitions, in JSON, as Kafka's tools write it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ReassignArgs {
    /// The plan. Reads its file, if it is in one.
    pub(crate) fn request(&self) -> Result<ReassignPartitions, Failure> {
        let Some(file) = &self.file else {
            let (topic, partition) = (self.topic.clone(), self.partition);
            let replicas = self.replicas.clone();
            let partitions = topic.zip(partition).map(|(topic, partition)| Reassignment {
                topic,
                partition,
                replicas,
                log_dirs: Vec::new(),
            });
            let partitions = partitions.into_iter().collect();
            return Ok(ReassignPartitions { version: PLAN_VERSION, partitions });
        };
        let file = JsonFile {
            what: "the plan",
            example: r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1]}]}"#,
            path: file,
        };
        let plan: ReassignPartitions = file.read()?;
        if plan.version != PLAN_VERSION {
            let version = plan.version;
            return Err(file.bad(format!("version {version} is not known; use {PLAN_VERSION}")));
        }
        if plan.partitions.is_empty() {
            return Err(file.bad("it moves nothing; name at least one partition"));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::args::testing::{parse, usage_of};

    fn elect(options: &str) -> Result<ElectLeaders, Failure> {
        match parse(&format!("partitions elect {options}"))?.command {
            Command::Partitions(Partitions::Elect(args)) => Ok(args.request()),
            other => panic!("{other:?}"),
        }
    }

    fn reassign(options: &str) -> Result<ReassignPartitions, Failure> {
        match parse(&format!("partitions reassign {options}"))?.command {
            Command::Partitions(Partitions::Reassign(args)) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_election_says_of_what() {
        let one = elect("--type preferred --topic t --partition 2").unwrap();
        let name = PartitionName { topic: "t".into(), partition: 2 };
        assert_eq!((one.partitions, one.topic, one.all), (Some(vec![name]), None, false));
        let topic = elect("--type unclean --topic t").unwrap();
        assert_eq!((topic.election, topic.topic.as_deref()), (Election::Unclean, Some("t")));
        assert!(elect("--type preferred --all").unwrap().all);
        for (options, sentence) in [
            ("--type preferred", "required arguments were not provided"),
            ("--all", "required arguments were not provided: --type"),
            ("--type any --all", "'any'"),
            ("--type preferred --all --topic t", "cannot be used with"),
            ("--type preferred --all --partition 1", "cannot be used with"),
            ("--type preferred --partition 1", "required arguments were not provided"),
        ] {
            let said = usage_of(elect(options));
            assert!(said.contains(sentence), "{options}: {said}");
        }
    }

    #[test]
    fn a_plan_is_one_partition_or_a_file() {
        let one = reassign("t 0 --replicas 1,2,3").unwrap();
        assert_eq!((one.version, one.partitions.len()), (1, 1));
        assert_eq!(one.partitions[0].replicas, [1, 2, 3]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.json");
        let at = format!("--file {}", file.display());
        // As Kafka's tools write it.
        let plan = r#"{"version":1,"partitions":[
            {"topic":"t","partition":1,"replicas":[2,3],"log_dirs":["any","any"]}]}"#;
        std::fs::write(&file, plan).unwrap();
        assert_eq!(reassign(&at).unwrap().partitions[0].replicas, [2, 3]);
        for (text, sentence) in [
            ("", "one looks like {"),
            (r#"{"version":1}"#, "missing field `partitions`"),
            (r#"{"version":2,"partitions":[]}"#, "version 2 is not known; use 1"),
            (r#"{"version":1,"partitions":[]}"#, "it moves nothing"),
            (r#"{"version":1,"partitions":[{"topic":"t","partition":-1}]}"#, "-1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = usage_of(reassign(&at));
            assert!(said.contains(sentence) && said.contains("plan.json"), "{text}: {said}");
        }
        for (options, sentence) in [
            ("t 0", "required arguments were not provided: --replicas"),
            ("t --replicas 1", "required arguments were not provided"),
            ("t 0 --replicas 1 --file x", "cannot be used with"),
            ("t 0 --replicas one", "'one'"),
            ("--file /nowhere/plan.json", "name a readable file"),
        ] {
            let said = usage_of(reassign(options));
            assert!(said.contains(sentence), "{options}: {said}");
        }
    }
}
