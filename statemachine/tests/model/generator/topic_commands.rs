//! Topics and configs: names that collide, replicas that are not there, values that may not be.

use quorate_statemachine::{
    BrokerId, Brokers, CONFIG_LIST_BYTES_MAX, ConfigChange, ConfigOperation, ConfigResource,
    CreatePartitions, NewTopic,
};

use super::{Generator, TOPICS, topic_id};
use crate::configs::BUILT_IN;
use crate::topics::PARTITIONS_MAX;

/// Two of them collide: with each name there are four topics at most.
const NAMES: [&str; 5] = ["a", "a.b", "a_b", "c", "D-4"];
const BAD_NAMES: [&str; 6] = ["", ".", "..", "a b", "größe", "a/b"];

impl Generator<'_> {
    pub(super) fn new_topics(&mut self) -> Vec<NewTopic> {
        let count = self.random.weighted(&[1, 80, 15, 4]);
        (0..count).map(|_| self.new_topic()).collect()
    }

    fn new_topic(&mut self) -> NewTopic {
        let ids: Vec<_> = (1..=TOPICS).map(topic_id).collect();
        let free: Vec<_> =
            ids.iter().filter(|id| !self.state.topics.contains_key(id)).copied().collect();
        let any = free.is_empty() || self.random.chance(100);
        let mut id = *self.random.of(if any { &ids } else { &free });
        if self.random.chance(10) {
            id = topic_id(0);
        }
        NewTopic { id, name: self.name(), partitions: self.assignments(), configs: self.configs() }
    }

    fn name(&mut self) -> String {
        match self.random.below(100) {
            0..=3 => (*self.random.of(&BAD_NAMES)).to_owned(),
            4 => "x".repeat(249 + self.random.below(2)),
            5..=20 => (*self.random.of(&NAMES)).to_owned(),
            _ => {
                let taken = |name: &&str| self.state.topics.values().any(|t| t.name == *name);
                let free: Vec<&str> = NAMES.into_iter().filter(|name| !taken(name)).collect();
                (*self.random.of(if free.is_empty() { &NAMES } else { &free })).to_owned()
            }
        }
    }

    /// The replicas of one to four partitions, mostly as many of each.
    fn assignments(&mut self) -> Vec<Brokers> {
        if self.random.chance(3) {
            let over = self.random.below(2);
            return vec![Brokers::from([BrokerId(1)]); PARTITIONS_MAX + over];
        }
        let count = if self.random.chance(15) { 0 } else { self.random.within(1, 4) };
        // As many as there are, so that all partitions have as many.
        let factor = self.random.within(1, 4).min(self.state.brokers.len().max(1));
        let mut assignments = Vec::new();
        for _ in 0..count {
            let factor = if self.random.chance(20) { self.random.within(1, 4) } else { factor };
            assignments.push(self.replicas(factor).into());
        }
        assignments
    }

    fn configs(&mut self) -> Vec<(String, String)> {
        let mut configs = Vec::new();
        if self.random.chance(600) {
            let min_insync = self.random.within(1, 3).to_string();
            configs.push(("min.insync.replicas".to_owned(), min_insync));
        }
        while self.random.chance(250) {
            let (key, _) = *self.random.of(&BUILT_IN);
            configs.push((key.to_owned(), self.value(key)));
        }
        if self.random.chance(10) {
            configs.push(("flush.ms".to_owned(), "1".to_owned()));
        }
        configs
    }

    /// A value for a key, mostly one that it may have.
    fn value(&mut self, key: &str) -> String {
        let values: &[&str] = match key {
            _ if self.random.chance(40) => &["", "maybe", "-2", "99999999999999999999", "delete,x"],
            "min.insync.replicas" => &["1", "1", "2", "2", "3", "3", "+02", "0", "2147483647"],
            "unclean.leader.election.enable" => &["true", "false"],
            "cleanup.policy" => &["delete", "delete", "delete", "compact"],
            "compression.type" => &["producer", "producer", "producer", "gzip"],
            "message.timestamp.type" => &["CreateTime", "LogAppendTime"],
            "segment.bytes" => &["14", "13", "100000", "2147483647", "2147483648"],
            "max.message.bytes" => &["0", "-1", "1000", "2147483647", "2147483648"],
            _ => &["-1", "-2", "0", "1000", "9223372036854775807", "9223372036854775808"],
        };
        (*self.random.of(values)).to_owned()
    }

    pub(super) fn new_partitions(&mut self) -> CreatePartitions {
        let id = self.topic();
        let Some(topic) = self.state.topics.get(&id) else {
            return CreatePartitions { topic: id, first: 1, partitions: self.assignments() };
        };
        let count = topic.partitions.len();
        let example = &topic.partitions[0];
        let factor = example.replicas.len() - example.removing.len();
        // A topic that has grown is mostly left alone: few partitions meet more often.
        let wrong = count > 5 || self.random.chance(80);
        let first = if wrong { count + 1 - 2 * self.random.below(2) } else { count };
        let mut partitions = Vec::new();
        for _ in 0..self.random.weighted(&[3, 60, 30]) {
            let factor = if self.random.chance(40) { self.random.within(1, 4) } else { factor };
            partitions.push(self.replicas(factor).into());
        }
        if self.random.chance(2) {
            partitions = vec![Brokers::from([BrokerId(1)]); PARTITIONS_MAX + 1];
        }
        CreatePartitions { topic: id, first: first as u32, partitions }
    }

    pub(super) fn config_changes(&mut self) -> (ConfigResource, Vec<ConfigChange>) {
        let resource = match self.random.weighted(&[3, 6, 2]) {
            0 => ConfigResource::Default,
            1 => ConfigResource::Topic(self.topic()),
            _ => ConfigResource::Broker(self.any_broker()),
        };
        let mut changes = Vec::new();
        for _ in 0..self.random.weighted(&[2, 70, 20, 8]) {
            changes.push(self.config_change());
        }
        (resource, changes)
    }

    fn config_change(&mut self) -> ConfigChange {
        let key = match self.random.below(100) {
            0 => "flush.ms",
            1..=45 => "min.insync.replicas",
            46..=60 => "cleanup.policy",
            _ => self.random.of(&BUILT_IN).0,
        };
        let list = match key {
            "cleanup.policy" => 600,
            _ => 20,
        };
        let operation = match self.random.chance(list) {
            true => {
                let short = ["delete", "compact", " delete , delete", "", ",", "delete,compact"];
                let values = match self.random.chance(50) {
                    true => ",".repeat(CONFIG_LIST_BYTES_MAX + self.random.below(2)),
                    false => (*self.random.of(&short)).to_owned(),
                };
                match self.random.chance(500) {
                    true => ConfigOperation::Append(values),
                    false => ConfigOperation::Subtract(values),
                }
            }
            false if self.random.chance(300) => ConfigOperation::Delete,
            false => ConfigOperation::Set(self.value(key)),
        };
        ConfigChange { key: key.to_owned(), operation }
    }
}
