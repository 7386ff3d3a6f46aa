//! SetFeatureLevel: moves the cluster to a level that all of its brokers support (KIP-584).
//!
//! That every voter supports it is known where membership lives, and checked there by the leader. A
//! replica that does not know the level after all stops when it applies the command.

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
    step.image.feature_level = level;
    step.delta.feature_level = true;
    Ok(Reply::FeatureLevelSet { level })
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidUpdateVersion, message)
}
