//! [`Features`]: the feature level of the cluster, and who supports which.

use quorate_statemachine::{BrokerId, FeatureLevel, FeatureRange, Reply};

use crate::caller::Repeat;
use crate::error::{ReadError, WriteError};
use crate::quorum::{Quorum, unreadable};
use crate::watch::Snapshot;
use crate::wire::RequestKind;

/// The feature level of the cluster, and who supports which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The level that is finalized: what meanings commands and records may have.
    pub level: FeatureLevel,
    /// The levels that the asked node's version supports.
    pub supported: FeatureRange,
    /// The levels that each registered broker supports, in order of id.
    pub brokers: Vec<(BrokerId, FeatureRange)>,
    /// The log index of the image that says so.
    pub index: u64,
}

/// A level that is finalized: committed, and in this node's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureLevelSet {
    /// The level.
    pub level: FeatureLevel,
    /// The log index at which it was so.
    pub index: u64,
}

impl Features {
    /// What an image says of it.
    pub fn of(snapshot: &Snapshot) -> Self {
        let image = &snapshot.image;
        Self {
            level: image.feature_level(),
            supported: FeatureRange::SUPPORTED,
            brokers: image.brokers().map(|broker| (broker.id, broker.features)).collect(),
            index: snapshot.index,
        }
    }
}

impl Quorum {
    /// The feature level, and who supports which: at least as of every change that was acknowledged
    /// before the call.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn features(&self) -> Result<Features, ReadError> {
        self.read_index().await?;
        Ok(Features::of(&self.image()))
    }

    /// Finalizes a feature level, for good: there is no way back (KIP-584). A level that is finalized
    /// already is left as it is, so an unknown outcome is tried again.
    ///
    /// It is checked that every registered broker supports the level, and so does the node that leads the
    /// quorum. Which levels the *other* voters support they do not publish: one whose version does not
    /// know the level stops when it applies the command, and says so, until it is upgraded. Run the
    /// version that knows the level on all nodes before.
    ///
    /// Not cancel safe: the level may be finalized afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: INVALID_UPDATE_VERSION when somebody who is checked does not support it, or it is
    /// below the present one.
    pub async fn set_feature_level(
        &self,
        level: FeatureLevel,
    ) -> Result<FeatureLevelSet, WriteError> {
        let request = RequestKind::SetFeatureLevel(level.get());
        let done = self.write(request, Repeat::Harmless).await?;
        match done.reply {
            Reply::FeatureLevelSet { level } => Ok(FeatureLevelSet { level, index: done.index }),
            _ => Err(unreadable()),
        }
    }
}
