//! The shapes of configs.

use serde::{Deserialize, Serialize};

/// One row of `GET /v1/configs`: the value that holds for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where the value stands.
    pub source: ConfigSource,
}

/// Where a config's value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigSource {
    /// It was set for the topic.
    Topic,
    /// It was set for the broker.
    Broker,
    /// It was set for all.
    Default,
    /// Nobody set it.
    BuiltIn,
}

impl ConfigSource {
    /// The word that JSON and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::Default => "default",
            Self::BuiltIn => "built-in",
        }
    }
}

/// The body of `POST /v1/configs`: all of it happens, or nothing. It names one of `topic`, `broker` and
/// `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlterConfigs {
    /// The topic whose configs change.
    #[serde(default)]
    pub topic: Option<String>,
    /// The broker whose configs change.
    #[serde(default)]
    pub broker: Option<u64>,
    /// Whether it is those of all that have none of their own.
    #[serde(default)]
    pub default: bool,
    /// The changes, each of another key.
    pub changes: Vec<ConfigChange>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// The key.
    pub key: String,
    /// What is done to it.
    pub operation: ConfigOperation,
    /// The value; none to delete.
    #[serde(default)]
    pub value: Option<String>,
}

/// What is done to a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigOperation {
    /// This value from now on.
    Set,
    /// No value of its own any more.
    Delete,
    /// These values, separated by commas, more in the list.
    Append,
    /// These values, separated by commas, less in the list.
    Subtract,
}

/// The answer to `POST /v1/configs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigsAltered {
    /// The log index of the change.
    pub index: u64,
    /// How many partitions changed, since another `min.insync.replicas` holds for them.
    pub partitions_changed: u64,
}
