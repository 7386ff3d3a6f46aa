//! The rules of configs and of the feature level.

use std::collections::BTreeSet;

use quorate_statemachine::{
    Broker, CONFIG_LIST_BYTES_MAX, ConfigChange, ConfigOperation, ConfigResource, ErrorCode,
    FeatureLevel, Reply, TopicId,
};

use crate::state::{Configs, State};

const MIN_INSYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";

/// Kafka's keys, with the values where nobody set one.
pub(crate) const BUILT_IN: [(&str, &str); 9] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    (MIN_INSYNC, "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    (UNCLEAN, "false"),
];

/// Where a value is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Default,
    Broker,
    Topic,
}

/// The value as it is kept, if the key may have it there.
pub(crate) fn validated(key: &str, value: &str, level: Level) -> Result<String, ErrorCode> {
    let number = |min: i64, max: i64| {
        let number = value.parse::<i64>().ok().filter(|number| (min..=max).contains(number));
        number.map(|number| number.to_string())
    };
    let one_of = |values: &[&str]| values.contains(&value).then(|| value.to_owned());
    let valid = match key {
        MIN_INSYNC | UNCLEAN if level == Level::Broker => None,
        "cleanup.policy" => one_of(&["delete"]),
        "compression.type" => one_of(&["producer"]),
        "max.message.bytes" => number(0, i64::from(i32::MAX)),
        "message.timestamp.type" => one_of(&["CreateTime", "LogAppendTime"]),
        MIN_INSYNC => number(1, i64::from(i32::MAX)),
        "retention.bytes" | "retention.ms" => number(-1, i64::MAX),
        "segment.bytes" => number(14, i64::from(i32::MAX)),
        UNCLEAN => one_of(&["true", "false"]),
        _ => None,
    };
    valid.ok_or(ErrorCode::InvalidConfig)
}

impl State {
    /// The value of all topics that have none of their own.
    pub(crate) fn default_config(&self, key: &str) -> String {
        let built_in = || BUILT_IN.iter().find(|(name, _)| *name == key).unwrap().1.to_owned();
        self.default_configs.get(key).cloned().unwrap_or_else(built_in)
    }

    /// The value that holds for a topic.
    pub(crate) fn config(&self, topic: TopicId, key: &str) -> String {
        self.topics[&topic].configs.get(key).cloned().unwrap_or_else(|| self.default_config(key))
    }

    pub(crate) fn min_insync(&self, topic: TopicId) -> usize {
        self.config(topic, MIN_INSYNC).parse().unwrap()
    }

    pub(crate) fn unclean_election(&self, topic: TopicId) -> bool {
        self.config(topic, UNCLEAN) == "true"
    }

    pub(crate) fn alter_configs(
        &mut self,
        resource: ConfigResource,
        changes: &[ConfigChange],
    ) -> Result<Reply, ErrorCode> {
        if changes.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let (level, old) = match resource {
            ConfigResource::Default => (Level::Default, self.default_configs.clone()),
            ConfigResource::Broker(id) if !self.brokers.contains_key(&id) => {
                return Err(ErrorCode::BrokerIdNotRegistered);
            }
            ConfigResource::Broker(id) => {
                (Level::Broker, self.broker_configs.get(&id).cloned().unwrap_or_default())
            }
            ConfigResource::Topic(id) => {
                let topic = self.topics.get(&id).ok_or(ErrorCode::UnknownTopicId)?;
                (Level::Topic, topic.configs.clone())
            }
        };
        let new = self.merged(level, &old, changes)?;
        let before: Vec<_> = self.topics.keys().map(|id| (*id, self.min_insync(*id))).collect();
        match resource {
            ConfigResource::Default => self.default_configs = new,
            ConfigResource::Broker(id) if new.is_empty() => {
                self.broker_configs.remove(&id);
            }
            ConfigResource::Broker(id) => {
                self.broker_configs.insert(id, new);
            }
            ConfigResource::Topic(id) => self.topics.get_mut(&id).unwrap().configs = new,
        }
        let mut partitions_changed = 0;
        for (topic, min_insync) in before {
            if self.min_insync(topic) != min_insync {
                partitions_changed += self.follow_min_insync(topic);
            }
        }
        Ok(Reply::ConfigsAltered { partitions_changed })
    }

    /// Step 2 of `change`, and nothing else of it; says how many differ.
    fn follow_min_insync(&mut self, topic: TopicId) -> u64 {
        let min_insync = self.min_insync(topic);
        let mut count = 0;
        for partition in &mut self.topics.get_mut(&topic).unwrap().partitions {
            let enough = min_insync.min(partition.replicas.len());
            let led = partition.leader.is_some();
            if led && partition.isr.len() >= enough && !partition.elr.is_empty() {
                partition.elr.clear();
                partition.partition_epoch.0 += 1;
                count += 1;
            }
        }
        count
    }

    fn merged(
        &self,
        level: Level,
        old: &Configs,
        changes: &[ConfigChange],
    ) -> Result<Configs, ErrorCode> {
        let mut new = old.clone();
        let mut named = BTreeSet::new();
        for ConfigChange { key, operation } in changes {
            let (name, value) = BUILT_IN
                .into_iter()
                .find(|(name, _)| name == key)
                .ok_or(ErrorCode::InvalidConfig)?;
            if !named.insert(name) {
                return Err(ErrorCode::InvalidConfig);
            }
            let list = || {
                let inherited = match level {
                    Level::Default => value.to_owned(),
                    _ => self.default_config(name),
                };
                let list = old.get(name).cloned().unwrap_or(inherited);
                (name == "cleanup.policy").then_some(list).ok_or(ErrorCode::InvalidConfig)
            };
            let value = match operation {
                ConfigOperation::Set(value) => value.clone(),
                ConfigOperation::Append(text) | ConfigOperation::Subtract(text)
                    if list().is_ok() && text.len() > CONFIG_LIST_BYTES_MAX =>
                {
                    return Err(ErrorCode::InvalidConfig);
                }
                ConfigOperation::Append(more) => appended(&list()?, more),
                ConfigOperation::Subtract(less) => subtracted(&list()?, less),
                ConfigOperation::Delete => {
                    new.remove(name);
                    continue;
                }
            };
            new.insert(name.to_owned(), validated(name, &value, level)?);
        }
        Ok(new)
    }

    /// Kafka has one code for all that a level may not be. Nobody knows a level without brokers.
    pub(crate) fn set_feature_level(&mut self, level: FeatureLevel) -> Result<Reply, ErrorCode> {
        let supports =
            |broker: &Broker| (broker.features.min..=broker.features.max).contains(&level);
        let supported = !self.brokers.is_empty() && self.brokers.values().all(supports);
        if level < self.feature_level || level > self.feature_level && !supported {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        self.feature_level = level;
        Ok(Reply::FeatureLevelSet { level })
    }
}

fn items(list: &str) -> Vec<String> {
    list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn appended(list: &str, more: &str) -> String {
    let mut all = items(list);
    for item in items(more) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all.join(",")
}

fn subtracted(list: &str, less: &str) -> String {
    let less = items(less);
    items(list).into_iter().filter(|item| !less.contains(item)).collect::<Vec<_>>().join(",")
}
