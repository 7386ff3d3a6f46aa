//! [`Partials`]: snapshot files whose transfer was cut, kept to go on where it stopped.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::ids::{GroupId, LogId};
use crate::snapshot::SnapshotDigest;
use crate::snapshot_receiver::SnapshotReceiver;

/// Most of them at a time, one of each group. Beyond it the oldest goes: its transfer begins anew.
/// Each holds a file, a descriptor and one block in memory.
pub(crate) const PARTIALS_MAX: usize = 8;

/// The partial files of a store, oldest first.
///
/// They live as long as the process: each is a temporary file, which opening removes. What was
/// verified of a file before a crash would have to be read and verified again, and its length says
/// nothing after a power loss.
#[derive(Debug, Default)]
pub(crate) struct Partials(Mutex<VecDeque<SnapshotReceiver>>);

impl Partials {
    /// Keeps a file, in the place of any other of its group. One whose header has not come is
    /// removed: nothing is lost with it.
    pub(crate) fn keep(&self, receiver: SnapshotReceiver) {
        let (group, ..) = receiver.announced();
        let superseded = self.remove(group, |_| true);
        if !receiver.is_begun() {
            return;
        }
        let mut all = self.lock();
        all.push_back(receiver);
        let oldest = if all.len() > PARTIALS_MAX { all.pop_front() } else { None };
        // Files are removed where nobody waits for the lock.
        drop(all);
        drop((superseded, oldest));
    }

    /// Takes exactly this file, to go on with it. Any other of the group is removed.
    pub(crate) fn take(
        &self,
        group: GroupId,
        id: LogId,
        digest: SnapshotDigest,
    ) -> Option<SnapshotReceiver> {
        let mut found = self.remove(group, |_| true);
        found.pop().filter(|receiver| receiver.announced() == (group, id, digest))
    }

    /// Removes the file of a group if it is of `id` or older: the group has what it was to bring.
    pub(crate) fn superseded(&self, group: GroupId, id: LogId) {
        drop(self.remove(group, |of| of <= id));
    }

    /// Takes out a group's files that are `unwanted`.
    fn remove(&self, group: GroupId, is_unwanted: impl Fn(LogId) -> bool) -> Vec<SnapshotReceiver> {
        let mut all = self.lock();
        let (mut taken, mut kept) = (Vec::new(), VecDeque::new());
        for receiver in all.drain(..) {
            let (of, id, _) = receiver.announced();
            match of == group && is_unwanted(id) {
                true => taken.push(receiver),
                false => kept.push_back(receiver),
            }
        }
        *all = kept;
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<SnapshotReceiver>> {
        // Nothing in the critical sections can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
