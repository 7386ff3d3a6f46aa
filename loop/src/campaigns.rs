//! [`Campaigns`]: the groups whose turn to campaign is about to come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use quorate_engine::GroupId;

/// Groups whose leader's process is gone, each with the time of its node's next turn. There are none
/// at any other time, and one deadline for all of them: an idle group has no timer.
#[derive(Debug, Default)]
pub(crate) struct Campaigns(BinaryHeap<Reverse<(Instant, GroupId)>>);

impl Campaigns {
    /// The turn of a group comes when `after` is over.
    pub(crate) fn put_off(&mut self, group: GroupId, after: Duration) {
        self.0.push(Reverse((Instant::now() + after, group)));
    }

    /// When the next turn comes.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// A group whose turn has come by `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<GroupId> {
        let is_due = self.next_at().is_some_and(|at| at <= now);
        is_due.then(|| self.0.pop()).flatten().map(|Reverse((_, group))| group)
    }
}
