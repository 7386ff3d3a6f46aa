//! [`Watch`]: every change of the metadata, without gaps.

use quorate_loop::Updates;
use quorate_statemachine::{Delta, Metadata, MetadataImage};

use crate::error::WatchEnded;

/// The metadata, and the last log index whose effect is in it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The metadata. Clones are O(1), and it never changes.
    pub image: MetadataImage,
    /// The index.
    pub index: u64,
}

/// One step of a watch.
#[derive(Clone, Debug)]
pub struct MetadataUpdate {
    /// The metadata after the changes.
    pub image: MetadataImage,
    /// The last log index whose effect is in `image`.
    pub index: u64,
    /// All that changed since the step before. It names what changed; how it is now, `image` says.
    pub delta: Delta,
}

/// Every change of the metadata, in order and without gaps: what differs between
/// [`Watch::start`] and the image of an update is in the deltas up to that update.
///
/// It holds at most one update. Whoever is slower than the changes gets them collapsed into one
/// delta, and never an image that is older than one seen before. Commands that changed nothing are
/// not told.
#[derive(Debug)]
pub struct Watch {
    updates: Updates<Metadata>,
}

impl Watch {
    pub(crate) fn new(updates: Updates<Metadata>) -> Self {
        Self { updates }
    }

    /// The image that the first update follows.
    pub fn start(&self) -> Snapshot {
        let start = self.updates.start();
        Snapshot { image: start.image.clone(), index: start.applied }
    }

    /// The next update. Waits for ever while nothing changes.
    ///
    /// Cancel safe: what was not returned is in the next update.
    ///
    /// # Errors
    ///
    /// [`WatchEnded`] when the node has stopped and every change before that was returned.
    pub async fn next(&mut self) -> Result<MetadataUpdate, WatchEnded> {
        let update = self.updates.next().await?;
        Ok(MetadataUpdate {
            image: update.published.image.clone(),
            index: update.published.applied,
            delta: update.changes,
        })
    }
}
