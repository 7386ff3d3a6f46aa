//! [`State`]: counts and hashes what it is given, as our own state machine of the comparison does.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::{
    BasicNode, Entry, EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership,
};

use super::Types;
use crate::replica::ballast::mixed;

/// A handle to what one node has applied.
#[derive(Debug, Clone, Default)]
pub(super) struct State(Arc<Mutex<Applied>>);

#[derive(Debug, Clone, Default)]
struct Applied {
    commands: u64,
    digest: u64,
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Applied> {
        // Nothing in the critical sections can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Snapshot<Types> {
        let Applied { commands, digest, last, membership } = self.lock().clone();
        let bytes = [commands, digest].map(u64::to_le_bytes).concat();
        let snapshot_id = last.map_or_else(String::new, |id| id.to_string());
        let meta = SnapshotMeta { last_log_id: last, last_membership: membership, snapshot_id };
        Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }
    }
}

impl RaftSnapshotBuilder<Types> for State {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        Ok(self.snapshot())
    }
}

impl openraft::storage::RaftStateMachine<Types> for State {
    type SnapshotBuilder = State;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        let applied = self.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<u64>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut applied = self.lock();
        let mut apply = |entry: Entry<Types>| {
            applied.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    applied.commands += 1;
                    let at = mixed(applied.digest, &entry.log_id.index.to_le_bytes());
                    applied.digest = mixed(at, &command.0);
                }
                EntryPayload::Membership(members) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            applied.commands
        };
        Ok(entries.into_iter().map(&mut apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> State {
        self.clone()
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let bytes = snapshot.into_inner();
        let word = |at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            word.map(|word| u64::from_le_bytes(*word))
        };
        let (Some(commands), Some(digest)) = (word(0), word(8)) else {
            let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(StorageIOError::read_snapshot(Some(meta.signature()), &short).into());
        };
        let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.lock() = Applied { commands, digest, last, membership };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        Ok(Some(self.snapshot()))
    }
}
