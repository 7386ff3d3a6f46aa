//! How a partition came to be as it is: asked of this node's own log.

use std::time::Duration;

use quorate_loop::{FIRST_GROUP, Picked, ReplayError, Replayed};
use quorate_statemachine::{
    Command, Explanation, Metadata, MetadataImage, PartitionChange, PartitionKey, explain,
};
use tokio::time::{Instant, timeout_at};

use crate::quorum::Quorum;

/// The changes of a partition that are told at most: the latest.
pub const HISTORY_MAX: usize = 1_000;

/// What a look into the log takes at most, the wait for a turn included. A snapshot and what is behind it
/// may be gigabytes; whoever waits no longer ends it before.
pub const HISTORY_TIME_MAX: Duration = Duration::from_secs(300);

/// The latest changes of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionHistory {
    /// The partition.
    pub partition: PartitionKey,
    /// What happened up to this index is not told: the log does not reach so far, or there was more than
    /// [`HISTORY_MAX`] since.
    pub since: u64,
    /// The changes, the oldest first; at most [`HISTORY_MAX`].
    pub changes: Vec<PartitionChange>,
}

impl Quorum {
    /// The latest changes of a partition, each with its command and index, as far as this node's log
    /// reaches: to its last snapshot. It reads that and the log behind it from the disk, beside what the
    /// node does, for at most two callers at a time; others wait. It takes
    /// no longer than [`HISTORY_TIME_MAX`].
    ///
    /// Cancel safe: whoever goes leaves the turn to the next as soon as the state is restored.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]: its time is up, the disk cannot be read, or the node stops. Nothing else is
    /// concerned.
    pub async fn partition_history(
        &self,
        partition: PartitionKey,
    ) -> Result<PartitionHistory, ReplayError> {
        let finish = move |Picked { since, picked, .. }: Changes| PartitionHistory {
            partition,
            since,
            changes: picked,
        };
        self.replay(partition, HISTORY_TIME_MAX, finish).await
    }

    /// Why a partition has the leader that it has, or none, and why replicas are not in its ISR, as this
    /// node had applied it when it was asked; with the commands that brought it there, as far as the log
    /// reaches. `None` where there was no such partition.
    ///
    /// Cancel safe, and bounded, as [`Quorum::partition_history`].
    ///
    /// # Errors
    ///
    /// As [`Quorum::partition_history`].
    pub async fn explain_partition(
        &self,
        partition: PartitionKey,
    ) -> Result<Option<Explanation>, ReplayError> {
        // The state in which the changes end, and not a later one, which they would not explain.
        let finish = move |found: Changes| explain(&found.image, partition, &found.picked);
        self.replay(partition, HISTORY_TIME_MAX, finish).await
    }

    /// Has `finish` look at the latest changes of a partition, on the thread that found them, where that
    /// takes no longer than `limit`.
    pub(crate) async fn replay<R: Send + 'static>(
        &self,
        partition: PartitionKey,
        limit: Duration,
        finish: impl FnOnce(Changes) -> R + Send + 'static,
    ) -> Result<R, ReplayError> {
        let deadline = Instant::now() + limit;
        let turn = timeout_at(deadline, self.turn_to_replay()).await;
        let turn = turn.map_err(|_| ReplayError::TimedOut { group: FIRST_GROUP, limit })?;
        let pick = move |replayed: Replayed<'_, Metadata>| {
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
        let finish = move |found: Changes| {
            let finished = finish(found);
            // Held until the state is gone, also where the caller waits no longer.
            drop(turn);
            finished
        };
        let left = deadline.saturating_duration_since(Instant::now());
        self.node().replay(FIRST_GROUP, left, HISTORY_MAX, pick, finish).await
    }
}

/// The latest changes of one partition, and the state that they lead to.
pub(crate) type Changes = Picked<MetadataImage, PartitionChange>;
