//! The configuration of a topic: which keys there are, and which values each may have.

use std::collections::BTreeMap;

use crate::error::{ErrorCode, Rejection};

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
        }
    }

    /// The key with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
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
}

/// How much of a bad value goes into a message, which is relayed between nodes.
const VALUE_SHOWN_CHARS_MAX: usize = 100;

enum Rule {
    Number { min: i64, max: i64 },
    OneOf(&'static [&'static str]),
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidConfig, message)
}

/// The configuration of a topic: what was set, nothing that is a default. Always valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfigs(BTreeMap<TopicConfigKey, Box<str>>);

impl TopicConfigs {
    /// The value of `min.insync.replicas` where nobody set one.
    pub const MIN_INSYNC_REPLICAS_DEFAULT: u32 = 1;

    /// Checks keys and values as they came in a command.
    ///
    /// # Errors
    ///
    /// INVALID_CONFIG for an unknown key, a key given twice, or a value that the key may not have.
    pub fn from_entries<K: AsRef<str>, V: AsRef<str>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Rejection> {
        let mut configs = BTreeMap::new();
        for (name, value) in entries {
            let (name, value) = (name.as_ref(), value.as_ref());
            let Some(key) = TopicConfigKey::from_name(name) else {
                let known: Vec<&str> = TopicConfigKey::ALL.iter().map(|key| key.name()).collect();
                let name = name.escape_debug().take(VALUE_SHOWN_CHARS_MAX).collect::<String>();
                return Err(invalid(format!(
                    "`{name}` is not a topic config: use one of {}",
                    known.join(", ")
                )));
            };
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

    /// `min.insync.replicas`, or its default.
    #[must_use]
    pub fn min_insync_replicas(&self) -> u32 {
        self.get(TopicConfigKey::MinInsyncReplicas)
            .and_then(|value| value.parse().ok())
            .unwrap_or(Self::MIN_INSYNC_REPLICAS_DEFAULT)
    }

    /// Whether an unclean election may be run without being asked for; off by default.
    #[must_use]
    pub fn unclean_leader_election(&self) -> bool {
        self.get(TopicConfigKey::UncleanLeaderElectionEnable) == Some("true")
    }
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
            let result = TopicConfigs::from_entries([(key, value)]);
            assert_eq!(result.is_ok(), allowed, "{key}={value}: {result:?}");
            if let Err(rejection) = result {
                assert_eq!(rejection.code, ErrorCode::InvalidConfig);
                assert!(rejection.message.contains(": use "), "{rejection}");
            }
        }
    }

    #[test]
    fn numbers_are_kept_in_one_spelling() {
        let configs = TopicConfigs::from_entries([("retention.ms", "+0001")]).expect("valid");
        assert_eq!(configs.get(TopicConfigKey::RetentionMs), Some("1"));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let twice = [("retention.ms", "1"), ("retention.ms", "1")];
        let rejection = TopicConfigs::from_entries(twice).expect_err("given twice");
        assert_eq!(rejection.message, "retention.ms is given twice: give it once");
    }

    #[test]
    fn typed_values_have_defaults() {
        let none = TopicConfigs::default();
        assert_eq!(none.min_insync_replicas(), 1);
        assert!(!none.unclean_leader_election());
        let some = TopicConfigs::from_entries([
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "true"),
        ])
        .expect("valid");
        assert_eq!(some.min_insync_replicas(), 2);
        assert!(some.unclean_leader_election());
        assert!(!some.is_empty());
        assert_eq!(some.iter().count(), 2);
    }
}
