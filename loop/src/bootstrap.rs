//! [`Bootstrap`]: from a data directory to a group that may vote.

use quorate_engine::{
    CacheBudget, Disk, GroupId, GroupLog, GroupWrite, LogId, LogWriter, RecoveredGroup,
    SnapshotMeta, SnapshotStore, WriteError,
};
use quorate_statemachine::StateMachine;

use crate::driver::Addresses;
use crate::founding::{Founding, FoundingRecord};
use crate::members::Members;
use crate::snapshot_worker::{self, Take};

/// The position of the first snapshot, the same on every voter: it makes whoever joins later
/// begin with a snapshot, and so with the membership.
const FIRST: LogId = LogId { index: 1, term: 1 };

/// What the loop thread starts with. It writes by itself as long as nothing else can be waiting.
pub(crate) struct Bootstrap<F: Disk> {
    pub(crate) group: GroupId,
    pub(crate) founding: Founding,
    pub(crate) addresses: Addresses,
    pub(crate) writer: LogWriter<F>,
    pub(crate) cache: CacheBudget,
    pub(crate) founded: Option<Founded>,
    /// Writes so far; the core's numbers follow.
    writes: u64,
    /// There was no room for it; the writer has kept it.
    unwritten: Option<FoundingRecord>,
}

/// A group with a log and members.
pub(crate) struct Founded {
    pub(crate) log: GroupLog,
    pub(crate) members: Members,
    /// The snapshot that the state machine has yet to be restored from.
    pub(crate) restore: Option<LogId>,
}

impl<F: Disk + 'static> Bootstrap<F> {
    pub(crate) fn new(
        group: GroupId,
        founding: Founding,
        addresses: Addresses,
        writer: LogWriter<F>,
        cache: CacheBudget,
        recovered: Option<RecoveredGroup>,
    ) -> Result<Self, String> {
        let founded = match recovered {
            Some(recovered) => {
                let SnapshotMeta { members, conf_state, .. } = recovered.snapshot;
                let members = Members::decode(&members, conf_state).map_err(|e| e.to_string())?;
                Some(Founded { log: recovered.log, members, restore: None })
            }
            None => None,
        };
        Ok(Bootstrap {
            group,
            founding,
            addresses,
            writer,
            cache,
            founded,
            writes: 0,
            unwritten: None,
        })
    }

    /// Makes durable whatever the founding needs now. What there is no room for is tried again
    /// with the next call.
    ///
    /// # Errors
    ///
    /// Why this node cannot go on.
    pub(crate) fn advance<S: StateMachine>(
        &mut self,
        snapshots: &SnapshotStore,
    ) -> Result<(), String> {
        loop {
            let (record, writes) = match self.unwritten.take() {
                Some(record) => (record, Vec::new()),
                None => match self.founding.next_record() {
                    None => return Ok(()),
                    Some(record) => {
                        if self.founded.is_none() {
                            self.founded = Some(self.first_state::<S>(snapshots)?);
                        }
                        let write = self.write_of(&record)?;
                        (record, vec![write])
                    }
                },
            };
            // The witness too: nobody writes for as long as the other voters take.
            match self.writer.write(writes).and_then(|_| self.writer.sync_witness()) {
                Ok(()) => self.founding.persisted(&record),
                Err(WriteError::Full { .. }) => {
                    self.unwritten = Some(record);
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The group, once the founding is complete.
    ///
    /// # Errors
    ///
    /// When the founding record is there and the group's is not: they are written together.
    pub(crate) fn take_founded(&mut self) -> Result<Founded, String> {
        self.founded.take().ok_or_else(|| "a founding record stands without its group".to_owned())
    }

    /// The first snapshot, byte for byte the same on every voter, and the log that begins there.
    fn first_state<S: StateMachine>(&self, snapshots: &SnapshotStore) -> Result<Founded, String> {
        let bindings = self.founding.bindings_to_be();
        let voters = self.addresses.iter().filter_map(|(node, addr)| {
            bindings.get(node).map(|directory| (*node, *directory, addr.clone()))
        });
        let members = Members::founding(voters);
        let meta = SnapshotMeta {
            group: self.group,
            id: FIRST,
            conf_state: members.conf_state().clone(),
            members: members.encode(),
        };
        let image = S::new().image();
        let meta = snapshot_worker::write::<S>(snapshots, Take { meta, image })
            .map_err(|error| error.to_string())?;
        let log = GroupLog::founded(self.group, &meta, &self.cache);
        Ok(Founded { log, members, restore: Some(FIRST) })
    }

    fn write_of(&mut self, record: &FoundingRecord) -> Result<GroupWrite, String> {
        let Some(founded) = &self.founded else {
            return Err("the founding has no group to be written with".to_owned());
        };
        self.writes += 1;
        Ok(GroupWrite {
            group: self.group,
            number: self.writes,
            entries: Vec::new(),
            record: founded.log.record(),
            install: false,
            genesis: Some(record.encode()),
        })
    }
}
