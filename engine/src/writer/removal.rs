//! Removal: dropping groups that are not damaged from the log.

use super::*;

impl<F: Disk> LogWriter<F> {
    /// Drops `groups` from the log, all in one record with one fsync. When it returns they are gone
    /// for good; one that is written again begins as if it had never been there, in another
    /// incarnation. Groups that are not in the log are passed over. Blocks on the disk.
    ///
    /// Their snapshots stay: call [`SnapshotStore::discard`] after it, not before.
    ///
    /// A member that was removed has forgotten what it voted. Whoever removes a group must see to it
    /// that nobody takes this directory for the member that it was.
    ///
    /// [`SnapshotStore::discard`]: crate::SnapshotStore::discard
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`]: nothing is dropped; call it again when there is room.
    /// [`WriteError::Quarantined`]: what is damaged is kept for inspection; renew it. Any other one
    /// is final.
    ///
    /// # Panics
    ///
    /// If a batch waits for room ([`LogWriter::is_waiting`]): it may hold writes of the groups.
    pub fn remove(&mut self, groups: &[GroupId]) -> Result<(), WriteError> {
        assert!(!self.is_waiting(), "what waits for room is written first");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if let Some(group) = groups.iter().find(|group| self.quarantined.contains(group)) {
            return Err(WriteError::Quarantined { group: *group });
        }
        let held: BTreeSet<GroupId> =
            groups.iter().copied().filter(|group| self.holds(*group)).collect();
        if held.is_empty() {
            return Ok(());
        }
        let (mut batch, mut tally) = (LogBatch::default(), self.tally);
        for group in &held {
            tally.remove(*group, self.on_disk[group].mark.sequence);
            batch.add_command(group.get(), Command::Clean);
        }
        self.store().note_clean();
        let removed = self.commit(batch, tally, false);
        if let Err(error) = &removed
            && error.is_fatal()
        {
            self.failure = Some(error.clone());
        }
        removed?;
        self.on_disk.retain(|group, _| !held.contains(group));
        Ok(())
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use crate::testing::{entries, entry, entry_of, one, open_small, small_files, tempdir, two};
    use crate::{Engine, Formatted, WriteError};

    fn reopened(dir: &std::path::Path) -> Engine<raft_engine::env::DefaultFileSystem> {
        Engine::open(Formatted::open(dir).unwrap(), &small_files()).unwrap()
    }

    /// To see it fail: leave `tally.remove` out, and nothing is found to be whole; leave
    /// `add_command` out, and the group comes back.
    #[test]
    fn trap_E05_a_group_that_is_removed_stays_removed_over_purges_and_restarts() {
        let dir = tempdir();
        let mut node = open_small(dir.path());
        node.found(one());
        node.found(two());
        node.append(two(), entries(2..=30, 1));
        node.append(one(), entries(2..=30, 1));
        let incarnation = node.engine.writer.sequence();
        let before = node.engine.writer.sequence();
        node.engine.writer.remove(&[two()]).unwrap();
        assert_eq!(node.engine.writer.sequence(), before + 1, "one batch");
        node.engine.writer.remove(&[two()]).unwrap();
        assert_eq!(node.engine.writer.sequence(), before + 1, "nothing is left to remove");
        node.engine.snapshots.discard(two()).unwrap();
        for index in 31..=600 {
            node.append(one(), vec![entry_of(index, 1, 100)]);
            if index % 100 == 0 {
                node.compact(one(), index, index - 5);
                node.purge().unwrap();
            }
        }
        node.close();
        assert!(!dir.path().join("snapshots/2").exists());
        for _ in 0..2 {
            let engine = reopened(dir.path());
            assert_eq!(engine.groups.keys().copied().collect::<Vec<_>>(), [one()]);
            assert!(engine.damaged.is_empty() && engine.notes.is_empty());
            engine.writer.close().unwrap();
        }
        // It may begin anew, in another incarnation, and its numbers with it.
        let mut node = open_small(dir.path());
        node.found(two());
        node.append(two(), vec![entry(2, 1)]);
        node.close();
        let engine = reopened(dir.path());
        let group = &engine.groups[&two()];
        assert!(group.incarnation > incarnation);
        assert_eq!(group.log.last_index(), 2);
        engine.writer.close().unwrap();
    }

    /// To see it fail: take `discard_others` out of `Opening::recover`.
    #[test]
    fn files_of_a_group_that_is_gone_go_when_the_directory_is_opened() {
        let dir = tempdir();
        let mut node = open_small(dir.path());
        node.found(one());
        node.found(two());
        node.engine.writer.remove(&[two()]).unwrap();
        node.close();
        assert!(dir.path().join("snapshots/2").exists(), "it was killed before they went");
        reopened(dir.path()).writer.close().unwrap();
        assert!(!dir.path().join("snapshots/2").exists());
        assert!(dir.path().join("snapshots/1/1-1.snap").exists());
    }

    #[test]
    fn trap_E06_without_room_nothing_is_removed() {
        let dir = tempdir();
        let faults = std::sync::Arc::<crate::testing::Faults>::default();
        let mut node = crate::testing::open(dir.path(), &small_files(), &faults).unwrap();
        node.found(one());
        node.found(two());
        node.append(two(), entries(2..=5, 1));
        faults.disk_is_full.store(true, std::sync::atomic::Ordering::SeqCst);
        let refused = node.engine.writer.remove(&[two()]);
        assert!(matches!(refused, Err(WriteError::Full { .. })), "{refused:?}");
        faults.disk_is_full.store(false, std::sync::atomic::Ordering::SeqCst);
        node.append(two(), vec![entry(6, 1)]);
        node.engine.writer.remove(&[one(), two()]).unwrap();
        node.close();
        let engine = reopened(dir.path());
        assert!(engine.groups.is_empty() && engine.damaged.is_empty());
        engine.writer.close().unwrap();
    }
}
