//! How a partition came to be as it is: asked of this node's own log.

use quorate_loop::FIRST_GROUP;
use quorate_loop::{ReplayError, Replayed};
use quorate_statemachine::{
    Command, Explanation, Metadata, PartitionChange, PartitionKey, explain,
};

use crate::quorum::Quorum;

/// The changes of a partition that are told at most: the latest.
pub const HISTORY_MAX: usize = 1_000;

/// The latest changes of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionHistory {
    /// The partition.
    pub partition: PartitionKey,
    /// What happened up to this index is not told: the log does not reach so far.
    pub since: u64,
    /// The changes, the oldest first; at most [`HISTORY_MAX`].
    pub changes: Vec<PartitionChange>,
}

impl Quorum {
    /// The latest changes of a partition, each with its command and index, as far as this node's log
    /// reaches: to its last snapshot. It reads that and the log behind it from the disk, beside what the
    /// node does, for at most two callers at a time; others wait.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReplayError`], when the disk cannot be read or the node stops; nothing else is concerned.
    pub async fn partition_history(
        &self,
        partition: PartitionKey,
    ) -> Result<PartitionHistory, ReplayError> {
        // It is held until the log was gone through, also where the caller waits no longer.
        let turn = self.turn_to_replay().await;
        let pick = move |replayed: Replayed<'_, Metadata>| {
            let _held = &turn;
            let before = replayed.before.partition(partition);
            let after = replayed.after.partition(partition);
            // Most commands concern others.
            if before == after {
                return None;
            }
            // It was applied, so it can be decoded.
            let command = Command::decode(replayed.command).ok()?;
            PartitionChange::of(replayed.at.index, partition, &command, before, after)
        };
        let found = self.node().replay(FIRST_GROUP, pick).await?;
        let mut changes = found.picked;
        changes.drain(..changes.len().saturating_sub(HISTORY_MAX));
        Ok(PartitionHistory { partition, since: found.since, changes })
    }

    /// Why a partition has the leader that it has, or none, and why replicas are not in its ISR, as this
    /// node's image has it; with the commands that brought it there, as far as the log reaches. `None`
    /// where the image has no such partition.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Quorum::partition_history`].
    pub async fn explain_partition(
        &self,
        partition: PartitionKey,
    ) -> Result<Option<Explanation>, ReplayError> {
        let history = self.partition_history(partition).await?;
        Ok(explain(&self.image().image, partition, &history.changes))
    }
}
