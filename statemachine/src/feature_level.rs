//! SetFeatureLevel: moves the cluster to a level that all of its brokers support (KIP-584).
//!
//! What brokers support is in the image, since they register it, and is checked here; that the node which
//! leads supports the level is checked there, before it proposes it. Of the other voters nobody is asked:
//! one that does not know the level stops when it applies the command, until it is upgraded.

use crate::error::{ErrorCode, Rejection};
use crate::ids::FeatureLevel;
use crate::machine::Step;
use crate::outcome::Reply;

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
    step.delta.feature_level = true;
    Ok(Reply::FeatureLevelSet { level })
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidUpdateVersion, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::FeatureRange;
    use crate::command::{Command, RegisterBroker};
    use crate::testing::{Cluster, registration};

    fn set(level: u32) -> Command {
        Command::SetFeatureLevel { level: FeatureLevel(level) }
    }

    #[test]
    fn the_same_level_again_changes_nothing() {
        let mut cluster = Cluster::of(&[1]);
        let applied = cluster.apply(set(1));
        let reply = Reply::FeatureLevelSet { level: FeatureLevel(1) };
        assert_eq!(applied.outcome.into_result(), Ok(reply));
        assert_eq!(applied.changes, crate::Delta::default());
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
