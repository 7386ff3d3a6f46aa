//! SetFeatureLevel: moves the cluster to a level that all of its brokers support (KIP-584).
//!
//! What brokers support is in the image, since they register it, and is checked here; that the node which
//! leads supports the level is checked there, before it proposes it. Of the other voters nobody is asked:
//! one that does not know the level stops when it applies the command, until it is upgraded.
//!
//! A level is what a cluster of several versions has in common. So each kind of command and each config
//! key says from which level on it may be used, and a later version adds some without a replica of an
//! earlier one ever meeting a command that it does not know: it is refused until the level is finalized,
//! before it is proposed ([`MetadataImage::check_level`]) and once more where it is applied. A key is a
//! string, which an earlier version may meet at any time: it finds it unknown, INVALID_CONFIG, where it
//! looks at it. So where it is applied a later version does the same, below the key's level, and only whoever
//! asks hears that a level would help.

use crate::command::Command;
use crate::error::{ErrorCode, Rejection};
use crate::ids::FeatureLevel;
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::Reply;
use crate::topic_config::TopicConfigKey;

impl Command {
    /// The feature level from which on this command may be in the log. A later version that adds a field or a variant
    /// to one tells the commands that use it apart here, for a replica that does not know it stops.
    ///
    /// A level says what may be in the log, and not what comes of it: that is the same in all versions of a level.
    /// Builds from before the first release are of none, though they call it this one: some of these commands they
    /// do not know, and others they apply otherwise. Do not mix them with this one in one cluster.
    #[must_use]
    pub const fn minimum_level(&self) -> FeatureLevel {
        // No default: a command that is added has a level of its own.
        match self {
            Self::RegisterBroker(_)
            | Self::FenceBroker(_)
            | Self::UnfenceBroker(_)
            | Self::ShutdownBroker(_)
            | Self::UnregisterBroker { .. }
            | Self::CreateTopics { .. }
            | Self::DeleteTopic { .. }
            | Self::AlterPartition(_)
            | Self::AllocateProducerIds(_)
            | Self::SetFeatureLevel { .. }
            | Self::CreatePartitions(_)
            | Self::ElectLeaders(_)
            | Self::AlterReassignments { .. }
            | Self::AlterConfigs { .. }
            | Self::CompareState(_) => MetadataImage::FEATURE_LEVEL_GENESIS,
        }
    }

    /// The names of the config keys in it, as they were given.
    fn config_keys(&self) -> Vec<&str> {
        match self {
            Self::CreateTopics { topics } => {
                let configs = topics.iter().flat_map(|topic| &topic.configs);
                configs.map(|(key, _)| key.as_str()).collect()
            }
            Self::AlterConfigs { changes, .. } => {
                changes.iter().map(|change| change.key.as_str()).collect()
            }
            _ => vec![],
        }
    }
}

impl TopicConfigKey {
    /// The feature level from which on the key may be set.
    #[must_use]
    pub const fn minimum_level(self) -> FeatureLevel {
        match self {
            Self::CleanupPolicy
            | Self::CompressionType
            | Self::MaxMessageBytes
            | Self::MessageTimestampType
            | Self::MinInsyncReplicas
            | Self::RetentionBytes
            | Self::RetentionMs
            | Self::SegmentBytes
            | Self::UncleanLeaderElectionEnable => MetadataImage::FEATURE_LEVEL_GENESIS,
            #[cfg(test)]
            Self::OfLevel2 => FeatureLevel(2),
        }
    }
}

impl MetadataImage {
    /// Whether the finalized level allows a command, and the config keys that it names. A leader asks before
    /// it proposes one: an earlier version that meets it in the log stops.
    ///
    /// # Errors
    ///
    /// UNSUPPORTED_VERSION.
    pub fn check_level(&self, command: &Command) -> Result<(), Rejection> {
        self.check_command_level(command)?;
        let keys = command.config_keys().into_iter().filter_map(TopicConfigKey::from_name);
        for key in keys {
            self.require_level(key.name(), key.minimum_level())?;
        }
        Ok(())
    }

    /// Whether the finalized level allows a command, whatever it carries: asked where it is applied.
    pub(crate) fn check_command_level(&self, command: &Command) -> Result<(), Rejection> {
        self.require_level(command.name(), command.minimum_level())
    }

    fn require_level(&self, what: &str, minimum: FeatureLevel) -> Result<(), Rejection> {
        let level = self.feature_level;
        if level >= minimum {
            return Ok(());
        }
        Err(Rejection::new(
            ErrorCode::UnsupportedVersion,
            format!(
                "{what} takes feature level {minimum}, and the cluster is at {level}: set it first"
            ),
        ))
    }
}

pub(crate) fn set(step: &mut Step<'_>, level: FeatureLevel) -> Result<Reply, Rejection> {
    let current = step.image.feature_level;
    if level < current {
        return Err(invalid(format!(
            "feature level {level} is below the current {current}, and going back would lose \
             metadata: keep {current}"
        )));
    }
    if level == current {
        return Ok(Reply::FeatureLevelSet { level });
    }
    // Without a broker nothing in the state says that anybody knows this level, and a level that
    // nobody knows would stop every replica for good.
    if step.image.brokers.is_empty() {
        return Err(invalid(format!(
            "no broker is registered that supports feature level {level}: register one first"
        )));
    }
    if let Some(broker) = step.image.brokers().find(|broker| !broker.features.contains(level)) {
        return Err(invalid(format!(
            "broker {} supports feature levels {} to {} and not {level}: upgrade or unregister it",
            broker.id, broker.features.min, broker.features.max
        )));
    }
    step.image.set_feature_level(level);
    step.delta().feature_level = true;
    Ok(Reply::FeatureLevelSet { level })
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidUpdateVersion, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::FeatureRange;
    use crate::command::{ConfigChange, ConfigOperation, ConfigResource, RegisterBroker};
    use crate::command_wire::tests::every_command;
    use crate::delta::Delta;
    use crate::testing::{Cluster, new_topic, registration, topic_id};

    fn set(level: u32) -> Command {
        Command::SetFeatureLevel { level: FeatureLevel(level) }
    }

    /// To see it fail: leave `check_command_level` out of `Step::run`, or out of `check_level`.
    #[test]
    fn below_its_level_a_command_is_refused_and_changes_nothing() {
        for command in every_command() {
            let mut image = Cluster::of(&[1]).image().clone();
            assert_eq!(image.check_level(&command), Ok(()), "{command}");
            // The level below all: nothing is allowed there.
            image.set_feature_level(FeatureLevel(0));
            let before = image.clone();
            let mut delta = Delta::default();
            let mut step = Step::new(9, &mut image, &mut delta);
            let refused = step.run(&command).expect_err("refused");
            assert_eq!(refused.code, ErrorCode::UnsupportedVersion, "{command}");
            let whole = "takes feature level 1, and the cluster is at 0: set it first";
            assert_eq!(refused.message, format!("{} {whole}", command.name()));
            assert_eq!(image, before);
        }
    }

    /// A command of each kind that names config keys, with these keys.
    fn commands_with(keys: &[&str]) -> Vec<Command> {
        let mut topic = new_topic(2, "u", &[&[1]]);
        topic.configs = keys.iter().map(|key| ((*key).into(), "1".into())).collect();
        let changes: Vec<ConfigChange> = keys
            .iter()
            .map(|key| ConfigChange {
                key: (*key).into(),
                operation: ConfigOperation::Set("1".into()),
            })
            .collect();
        let of = |resource| Command::AlterConfigs { resource, changes: changes.clone() };
        vec![
            Command::CreateTopics { topics: vec![new_topic(3, "v", &[&[1]]), topic] },
            of(ConfigResource::Default),
            of(ConfigResource::Broker(crate::BrokerId(1))),
            of(ConfigResource::Topic(topic_id(1))),
        ]
    }

    /// To see it fail: leave a key of a command out in `check_level`, or all of them.
    #[test]
    fn whoever_asks_for_a_key_of_a_later_level_is_told_which() {
        let mut image = Cluster::with_topic(&[1], &[1], &[]).image().clone();
        for command in commands_with(&["retention.ms", "of.level.2"]) {
            let refused = image.check_level(&command).expect_err("a later key");
            assert_eq!(refused.code, ErrorCode::UnsupportedVersion, "{command}");
            let whole = "of.level.2 takes feature level 2, and the cluster is at 1: set it first";
            assert_eq!(refused.message, whole, "{command}");
        }
        for command in commands_with(&["retention.ms", "of.no.level"]) {
            assert_eq!(image.check_level(&command), Ok(()), "unknown, which its handler says");
        }
        image.set_feature_level(FeatureLevel(2));
        for command in commands_with(&["retention.ms", "of.level.2"]) {
            assert_eq!(image.check_level(&command), Ok(()), "{command}");
        }
    }

    /// A version that does not know a key cannot ask for its level. To see it fail: have `Step::run` ask
    /// `check_level`, or `named` pass over the level.
    #[test]
    fn a_key_of_a_later_level_is_applied_as_the_unknown_one_that_it_is_elsewhere() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        let pairs = [&["retention.ms", "of.level.2"], &["retention.ms", "of.no.level"]];
        let [later, unknown] = pairs.map(|keys| commands_with(keys));
        for (later, unknown) in later.into_iter().zip(unknown) {
            let [later, unknown] = [later, unknown].map(|command| {
                cluster.apply(command).outcome.into_result().expect_err("an unknown key")
            });
            assert_eq!(later.code, ErrorCode::InvalidConfig);
            assert_eq!(later.message, unknown.message.replace("of.no.level", "of.level.2"));
        }
        // Another fault is the first for both.
        let taken = |key: &str| {
            let mut topic = new_topic(2, "t", &[&[1]]);
            topic.configs = vec![(key.into(), "1".into())];
            Command::CreateTopics { topics: vec![topic] }
        };
        for key in ["of.level.2", "of.no.level"] {
            assert_eq!(cluster.refuse(taken(key)), ErrorCode::TopicAlreadyExists, "{key}");
        }
        // At its level it is a key as any other.
        for command in commands_with(&["of.level.2"]) {
            let mut image = cluster.image().clone();
            image.set_feature_level(FeatureLevel(2));
            let mut delta = Delta::default();
            let mut step = Step::new(9, &mut image, &mut delta);
            step.run(&command).expect("a known key");
        }
    }

    #[test]
    fn the_same_level_again_changes_nothing() {
        let mut cluster = Cluster::of(&[1]);
        let applied = cluster.apply(set(1));
        let reply = Reply::FeatureLevelSet { level: FeatureLevel(1) };
        assert_eq!(applied.outcome.into_result(), Ok(reply));
        assert_eq!(applied.changes, Delta::default());
    }

    #[test]
    fn a_downgrade_and_a_level_that_not_all_support_are_refused() {
        assert_eq!(Cluster::default().refuse(set(2)), ErrorCode::InvalidUpdateVersion);
        let mut cluster = Cluster::of(&[1]);
        assert_eq!(cluster.refuse(set(0)), ErrorCode::InvalidUpdateVersion);
        assert_eq!(cluster.refuse(set(2)), ErrorCode::InvalidUpdateVersion);
    }

    #[test]
    fn a_replica_that_does_not_know_the_level_stops() {
        let mut cluster = Cluster::default();
        let features = FeatureRange { min: FeatureLevel(1), max: FeatureLevel(2) };
        cluster.accept(Command::RegisterBroker(RegisterBroker { features, ..registration(1) }));
        let error = cluster.machine.apply_command(9, &set(2)).expect_err("unknown here");
        assert!(matches!(
            error,
            crate::ApplyError::UnsupportedFeatureLevel { index: 9, level: 2, supported: 1 }
        ));
    }
}
