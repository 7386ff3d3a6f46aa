//! [`ConfigTarget`]: whose configs are looked at or changed, by name.

use quorate_statemachine::{
    BrokerId, Command, ConfigChange, ConfigResource, ErrorCode, MetadataImage, Rejection, Reply,
    TopicConfigKey, TopicConfigs,
};

use crate::error::WriteError;
use crate::quorum::{Quorum, unreadable};
use crate::topic::named;

/// Whose configs are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigTarget {
    /// What holds for all brokers and topics that have no value of their own.
    Default,
    /// A broker's.
    Broker(BrokerId),
    /// A topic's.
    Topic(String),
}

/// The value that holds for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigEntry<'a> {
    /// The key.
    pub key: TopicConfigKey,
    /// Its value.
    pub value: &'a str,
    /// Where the value stands.
    pub source: ConfigSource,
}

/// Where a config's value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Configs that were changed: committed, and in this node's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigsAltered {
    /// The log index of the change.
    pub index: u64,
    /// How many partitions changed, since another `min.insync.replicas` holds for them.
    pub partitions_changed: u64,
}

impl ConfigTarget {
    /// The values of all keys that hold for it in an image, in order of the keys' names.
    ///
    /// # Errors
    ///
    /// UNKNOWN_TOPIC_OR_PARTITION, BROKER_ID_NOT_REGISTERED.
    pub fn describe<'a>(
        &self,
        image: &'a MetadataImage,
    ) -> Result<Vec<ConfigEntry<'a>>, Rejection> {
        let own: Option<(&TopicConfigs, ConfigSource)> = match self {
            Self::Default => None,
            Self::Topic(name) => Some((&*named(image, name)?.configs, ConfigSource::Topic)),
            Self::Broker(id) if image.broker(*id).is_none() => return Err(not_registered(*id)),
            Self::Broker(id) => image.broker_configs(*id).map(|own| (own, ConfigSource::Broker)),
        };
        let entry = |key: TopicConfigKey| {
            let own = own.and_then(|(configs, source)| Some((configs.get(key)?, source)));
            let (value, source) = match (own, image.default_configs().get(key)) {
                (Some(own), _) => own,
                (None, Some(value)) => (value, ConfigSource::Default),
                (None, None) => (key.default_value(), ConfigSource::BuiltIn),
            };
            ConfigEntry { key, value, source }
        };
        Ok(TopicConfigKey::ALL.into_iter().map(entry).collect())
    }

    /// What a command calls it.
    fn resource(&self, image: &MetadataImage) -> Result<ConfigResource, Rejection> {
        Ok(match self {
            Self::Default => ConfigResource::Default,
            Self::Broker(id) => ConfigResource::Broker(*id),
            Self::Topic(name) => ConfigResource::Topic(named(image, name)?.id),
        })
    }
}

fn not_registered(id: BrokerId) -> Rejection {
    Rejection::new(
        ErrorCode::BrokerIdNotRegistered,
        format!("broker {id} is not registered: name one that `brokers ls` shows"),
    )
}

impl Quorum {
    /// Changes configs, all or none (KIP-339). Made again, the changes change nothing.
    ///
    /// Not cancel safe: they may be made afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: INVALID_CONFIG for a key that there is not or that is given twice, a value it may
    /// not have, or a list operation on what is no list; INVALID_REQUEST for no change;
    /// UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, BROKER_ID_NOT_REGISTERED.
    pub async fn alter_configs(
        &self,
        target: &ConfigTarget,
        changes: Vec<ConfigChange>,
    ) -> Result<ConfigsAltered, WriteError> {
        let resource = target.resource(&self.newest().await?.image)?;
        let done = self.propose_as_is(&Command::AlterConfigs { resource, changes }).await?;
        match done.reply {
            Reply::ConfigsAltered { partitions_changed } => {
                Ok(ConfigsAltered { index: done.index, partitions_changed })
            }
            _ => Err(unreadable()),
        }
    }
}
