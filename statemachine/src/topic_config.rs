//! The configuration of a topic: which keys there are, and which values each may have.
//!
//! A value stands at one of three levels: of the topic, of all topics (the cluster's default), or
//! built in; the first that is there holds ([`MetadataImage::config`](crate::MetadataImage::config)).
//! A broker may have values of its own too, for what it does with its replicas; what the quorum itself
//! decides by, `min.insync.replicas` and `unclean.leader.election.enable`, is the same on all of
//! them (KIP-226, KIP-966).

use std::collections::BTreeMap;

use crate::command::{ConfigChange, ConfigOperation};
use crate::error::{ErrorCode, Rejection};
use crate::ids::FeatureLevel;

/// A key that a topic's configuration may have; any other is refused with INVALID_CONFIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TopicConfigKey {
    /// `cleanup.policy`: only `delete`.
    CleanupPolicy,
    /// `compression.type`: only `producer`, batches are kept as they came.
    CompressionType,
    /// `max.message.bytes`: bytes of the largest batch, from 0.
    MaxMessageBytes,
    /// `message.timestamp.type`: `CreateTime` or `LogAppendTime`.
    MessageTimestampType,
    /// `min.insync.replicas`: from 1; below it `acks=all` is refused, and ELR members are kept
    /// (KIP-966). The replication factor bounds it where it is above.
    MinInsyncReplicas,
    /// `retention.bytes`: bytes of a partition, -1 for no limit.
    RetentionBytes,
    /// `retention.ms`: milliseconds, -1 for no limit.
    RetentionMs,
    /// `segment.bytes`: bytes of a segment file, from 14.
    SegmentBytes,
    /// `unclean.leader.election.enable`: `true` or `false`.
    UncleanLeaderElectionEnable,
    /// One of a later feature level, which no release has: what tests of the levels set.
    #[cfg(test)]
    OfLevel2,
}

/// The smallest `segment.bytes`: the record overhead of the oldest message format, as in Kafka.
const SEGMENT_BYTES_MIN: i64 = 14;

impl TopicConfigKey {
    /// Every key, in order of its name.
    pub const ALL: [Self; 9] = [
        Self::CleanupPolicy,
        Self::CompressionType,
        Self::MaxMessageBytes,
        Self::MessageTimestampType,
        Self::MinInsyncReplicas,
        Self::RetentionBytes,
        Self::RetentionMs,
        Self::SegmentBytes,
        Self::UncleanLeaderElectionEnable,
    ];

    /// Kafka's name of the key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CleanupPolicy => "cleanup.policy",
            Self::CompressionType => "compression.type",
            Self::MaxMessageBytes => "max.message.bytes",
            Self::MessageTimestampType => "message.timestamp.type",
            Self::MinInsyncReplicas => "min.insync.replicas",
            Self::RetentionBytes => "retention.bytes",
            Self::RetentionMs => "retention.ms",
            Self::SegmentBytes => "segment.bytes",
            Self::UncleanLeaderElectionEnable => "unclean.leader.election.enable",
            #[cfg(test)]
            Self::OfLevel2 => "of.level.2",
        }
    }

    /// The key with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        #[cfg(test)]
        if name == Self::OfLevel2.name() {
            return Some(Self::OfLevel2);
        }
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// The value where nobody set one, Kafka's.
    #[must_use]
    pub const fn default_value(self) -> &'static str {
        match self {
            Self::CleanupPolicy => "delete",
            Self::CompressionType => "producer",
            Self::MaxMessageBytes => "1048588",
            Self::MessageTimestampType => "CreateTime",
            Self::MinInsyncReplicas => "1",
            Self::RetentionBytes => "-1",
            Self::RetentionMs => "604800000",
            Self::SegmentBytes => "1073741824",
            Self::UncleanLeaderElectionEnable => "false",
            #[cfg(test)]
            Self::OfLevel2 => "1",
        }
    }

    /// Whether the value is a list, to which values can be appended.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(self, Self::CleanupPolicy)
    }

    /// Whether one broker may have another value than the others: the quorum decides by the rest.
    #[must_use]
    pub const fn may_differ_by_broker(self) -> bool {
        !matches!(self, Self::MinInsyncReplicas | Self::UncleanLeaderElectionEnable)
    }

    /// The key with this name that there is at a feature level, or what there is instead. One of a later
    /// level is as unknown as to a version that has never heard of it: replicas of both refuse it alike.
    fn named(name: &str, level: FeatureLevel) -> Result<Self, Rejection> {
        let is_there = |key: &Self| key.minimum_level() <= level;
        Self::from_name(name).filter(is_there).ok_or_else(|| {
            let known: Vec<&str> =
                Self::ALL.iter().filter(|key| is_there(key)).map(|key| key.name()).collect();
            let name = name.escape_debug().take(VALUE_SHOWN_CHARS_MAX).collect::<String>();
            invalid(format!("`{name}` is not a topic config: use one of {}", known.join(", ")))
        })
    }

    /// Which values the key may have.
    fn rule(self) -> Rule {
        match self {
            Self::CleanupPolicy => Rule::OneOf(&["delete"]),
            Self::CompressionType => Rule::OneOf(&["producer"]),
            Self::MaxMessageBytes => Rule::Number { min: 0, max: i32::MAX as i64 },
            Self::MessageTimestampType => Rule::OneOf(&["CreateTime", "LogAppendTime"]),
            Self::MinInsyncReplicas => Rule::Number { min: 1, max: i32::MAX as i64 },
            Self::RetentionBytes | Self::RetentionMs => Rule::Number { min: -1, max: i64::MAX },
            Self::SegmentBytes => Rule::Number { min: SEGMENT_BYTES_MIN, max: i32::MAX as i64 },
            Self::UncleanLeaderElectionEnable => Rule::OneOf(&["true", "false"]),
            #[cfg(test)]
            Self::OfLevel2 => Rule::OneOf(&["1"]),
        }
    }

    /// Checks one value, and gives the one way to write it; or says what would do.
    fn validate(self, value: &str) -> Result<Box<str>, Rejection> {
        let wanted = match self.rule() {
            Rule::Number { min, max } => match value.parse::<i64>() {
                // Written again: `+01` is 1, and a million zeros before it are no value to keep.
                Ok(number) if (min..=max).contains(&number) => {
                    return Ok(number.to_string().into());
                }
                _ => format!("a whole number from {min} to {max}"),
            },
            Rule::OneOf(values) if values.contains(&value) => return Ok(value.into()),
            Rule::OneOf(values) => values.join(" or "),
        };
        let value = value.escape_debug().take(VALUE_SHOWN_CHARS_MAX).collect::<String>();
        Err(invalid(format!("`{value}` is no value for {}: use {wanted}", self.name())))
    }

    /// The list with more values, each of which the key may have: so it stays short, and to look through
    /// it for each of them costs little.
    fn appended(self, list: &str, more: &str) -> Result<String, Rejection> {
        self.check_length(more)?;
        let mut all: Vec<&str> = values(list).collect();
        for value in values(more) {
            self.validate(value)?;
            if !all.contains(&value) {
                all.push(value);
            }
        }
        Ok(all.join(","))
    }

    /// The list without some values. Those that are not in it may be any.
    fn subtracted(self, list: &str, less: &str) -> Result<String, Rejection> {
        self.check_length(less)?;
        let kept = values(list).filter(|value| !values(less).any(|gone| gone == *value));
        Ok(kept.collect::<Vec<_>>().join(","))
    }

    fn check_length(self, list: &str) -> Result<(), Rejection> {
        if list.len() <= CONFIG_LIST_BYTES_MAX {
            return Ok(());
        }
        Err(invalid(format!(
            "the values for {} have {} bytes: use at most {CONFIG_LIST_BYTES_MAX}",
            self.name(),
            list.len()
        )))
    }
}

/// The longest text of values to append to a list, or to subtract from it, in bytes.
pub const CONFIG_LIST_BYTES_MAX: usize = 1_024;

/// How much of a bad value goes into a message, which is relayed between nodes.
const VALUE_SHOWN_CHARS_MAX: usize = 100;

enum Rule {
    Number { min: i64, max: i64 },
    OneOf(&'static [&'static str]),
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidConfig, message)
}

/// The configuration of a topic, of all topics, or of a broker: what was set, nothing that is a default.
/// Always valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfigs(BTreeMap<TopicConfigKey, Box<str>>);

impl TopicConfigs {
    /// Checks keys and values as they came in a command, at a feature level.
    ///
    /// # Errors
    ///
    /// INVALID_CONFIG for a key that is unknown or of a later level, a key given twice, or a value that the key may not have.
    pub fn from_entries<K: AsRef<str>, V: AsRef<str>>(
        entries: impl IntoIterator<Item = (K, V)>,
        level: FeatureLevel,
    ) -> Result<Self, Rejection> {
        let mut configs = BTreeMap::new();
        for (name, value) in entries {
            let (name, value) = (name.as_ref(), value.as_ref());
            let key = TopicConfigKey::named(name, level)?;
            let value = key.validate(value)?;
            if configs.insert(key, value).is_some() {
                return Err(invalid(format!("{name} is given twice: give it once")));
            }
        }
        Ok(Self(configs))
    }

    /// The value that was set for a key.
    #[must_use]
    pub fn get(&self, key: TopicConfigKey) -> Option<&str> {
        self.0.get(&key).map(AsRef::as_ref)
    }

    /// What was set, in order of the keys' names.
    pub fn iter(&self) -> impl Iterator<Item = (TopicConfigKey, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_ref()))
    }

    /// Whether nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with changes, checked as a whole at a feature level. A list that has no value here is appended to what
    /// `inherited` says of it.
    ///
    /// # Errors
    ///
    /// INVALID_CONFIG for a key that is unknown or of a later level, a key given twice, a list operation on
    /// what is no list or with more than [`CONFIG_LIST_BYTES_MAX`] bytes, or a value or result that the key may not have.
    pub fn altered<'a>(
        &self,
        changes: &[ConfigChange],
        level: FeatureLevel,
        inherited: impl Fn(TopicConfigKey) -> &'a str,
    ) -> Result<Self, Rejection> {
        let mut configs = self.0.clone();
        let mut changed = Vec::new();
        for ConfigChange { key: name, operation } in changes {
            let key = TopicConfigKey::named(name, level)?;
            if changed.contains(&key) {
                return Err(invalid(format!("{name} is given twice: give it once")));
            }
            changed.push(key);
            let list = || match self.get(key) {
                _ if !key.is_list() => {
                    let fault = "is no list: set a value, or delete it";
                    Err(invalid(format!("{name} {fault}")))
                }
                Some(value) => Ok(value),
                None => Ok(inherited(key)),
            };
            let value = match operation {
                ConfigOperation::Delete => {
                    configs.remove(&key);
                    continue;
                }
                ConfigOperation::Set(value) => value.clone(),
                ConfigOperation::Append(values) => key.appended(list()?, values)?,
                ConfigOperation::Subtract(values) => key.subtracted(list()?, values)?,
            };
            configs.insert(key, key.validate(&value)?);
        }
        Ok(Self(configs))
    }
}

/// The values of a list, without spaces.
fn values(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_of_their_names() {
        assert!(TopicConfigKey::ALL.windows(2).all(|pair| pair[0].name() < pair[1].name()));
        assert!(TopicConfigKey::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for key in TopicConfigKey::ALL {
            assert_eq!(TopicConfigKey::from_name(key.name()), Some(key));
        }
    }

    #[test]
    fn values_at_the_edges() {
        for (key, value, allowed) in [
            ("min.insync.replicas", "1", true),
            ("min.insync.replicas", "0", false),
            ("min.insync.replicas", "two", false),
            ("min.insync.replicas", "2147483648", false),
            ("unclean.leader.election.enable", "true", true),
            ("unclean.leader.election.enable", "yes", false),
            ("retention.ms", "-1", true),
            ("retention.ms", "-2", false),
            ("retention.bytes", "9223372036854775807", true),
            ("retention.bytes", "9223372036854775808", false),
            ("segment.bytes", "14", true),
            ("segment.bytes", "13", false),
            ("max.message.bytes", "0", true),
            ("max.message.bytes", "", false),
            ("cleanup.policy", "delete", true),
            ("cleanup.policy", "compact", false),
            ("compression.type", "producer", true),
            ("compression.type", "gzip", false),
            ("message.timestamp.type", "LogAppendTime", true),
            ("message.timestamp.type", "Never", false),
            ("flush.ms", "1", false),
        ] {
            let result = TopicConfigs::from_entries([(key, value)], FeatureLevel(1));
            assert_eq!(result.is_ok(), allowed, "{key}={value}: {result:?}");
            if let Err(rejection) = result {
                assert_eq!(rejection.code, ErrorCode::InvalidConfig);
                assert!(rejection.message.contains(": use "), "{rejection}");
            }
        }
    }

    #[test]
    fn numbers_are_kept_in_one_spelling() {
        let configs = TopicConfigs::from_entries([("retention.ms", "+0001")], FeatureLevel(1))
            .expect("valid");
        assert_eq!(configs.get(TopicConfigKey::RetentionMs), Some("1"));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let twice = [("retention.ms", "1"), ("retention.ms", "1")];
        let rejection =
            TopicConfigs::from_entries(twice, FeatureLevel(1)).expect_err("given twice");
        assert_eq!(rejection.message, "retention.ms is given twice: give it once");
    }

    #[test]
    fn the_defaults_are_values_that_the_keys_may_have() {
        let defaults = TopicConfigKey::ALL.map(|key| (key.name(), key.default_value()));
        let configs = TopicConfigs::from_entries(defaults, FeatureLevel(1)).expect("valid");
        for key in TopicConfigKey::ALL {
            assert_eq!(configs.get(key), Some(key.default_value()));
        }
    }

    fn change(key: &str, operation: ConfigOperation) -> ConfigChange {
        ConfigChange { key: key.into(), operation }
    }

    fn altered(set: &[(&str, &str)], changes: &[ConfigChange]) -> Result<TopicConfigs, Rejection> {
        let configs =
            TopicConfigs::from_entries(set.iter().copied(), FeatureLevel(1)).expect("valid");
        configs.altered(changes, FeatureLevel(1), TopicConfigKey::default_value)
    }

    #[test]
    fn changes_set_delete_and_leave_the_rest() {
        let set = [("retention.ms", "1"), ("segment.bytes", "100")];
        let changes = [
            change("retention.ms", ConfigOperation::Set("07".into())),
            change("segment.bytes", ConfigOperation::Delete),
            change("max.message.bytes", ConfigOperation::Delete),
        ];
        let expected =
            TopicConfigs::from_entries([("retention.ms", "7")], FeatureLevel(1)).expect("valid");
        assert_eq!(altered(&set, &changes), Ok(expected));
    }

    #[test]
    fn lists_are_appended_to_and_subtracted_from_and_nothing_else_is() {
        let append = |to: &str| ConfigOperation::Append(to.into());
        let subtract = |from: &str| ConfigOperation::Subtract(from.into());
        let policy =
            Ok(TopicConfigs::from_entries([("cleanup.policy", "delete")], FeatureLevel(1))
                .expect("valid"));
        assert_eq!(altered(&[], &[change("cleanup.policy", append(" delete ,delete"))]), policy);
        assert_eq!(altered(&[], &[change("cleanup.policy", subtract("compact"))]), policy);
        let longest = ",".repeat(CONFIG_LIST_BYTES_MAX);
        assert_eq!(altered(&[], &[change("cleanup.policy", append(&longest))]), policy);
        assert_eq!(altered(&[], &[change("cleanup.policy", subtract(&longest))]), policy);
        for refused in [
            change("cleanup.policy", append("compact")),
            change("cleanup.policy", append("delete,compact,delete")),
            change("cleanup.policy", append(&",".repeat(CONFIG_LIST_BYTES_MAX + 1))),
            change("cleanup.policy", subtract(&"x".repeat(CONFIG_LIST_BYTES_MAX + 1))),
            change("cleanup.policy", subtract("delete")),
            change("retention.ms", append("1")),
            change("retention.ms", subtract("1")),
            change("flush.ms", ConfigOperation::Delete),
            change("min.insync.replicas", ConfigOperation::Set("0".into())),
        ] {
            let rejection = altered(&[], std::slice::from_ref(&refused)).expect_err("refused");
            assert_eq!(rejection.code, ErrorCode::InvalidConfig, "{refused:?}");
            assert!(rejection.message.contains(": "), "{rejection}");
        }
        let twice =
            [1, 2].map(|n: u32| change("retention.ms", ConfigOperation::Set(n.to_string())));
        assert_eq!(altered(&[], &twice).expect_err("twice").code, ErrorCode::InvalidConfig);
    }
}
