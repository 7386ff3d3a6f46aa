//! [`Bootstrap`]: from a data directory to groups that may vote.

use std::sync::{Arc, mpsc};

use quorate_engine::{
    CacheBudget, Disk, GroupId, GroupLog, GroupWrite, Identity, LogId, LogWriter, RecoveredGroup,
    SnapshotStore, WriteError,
};
use quorate_statemachine::StateMachine;

use crate::catalogue::Catalogue;
use crate::driver::Addresses;
use crate::founding::{Founding, FoundingRecord};
use crate::genesis;
use crate::head::Head;
use crate::log_writer::LogWork;
use crate::members::{Binding, Members};
use crate::snapshot_worker;

/// What the loop thread starts with. It writes by itself as long as nothing else can be waiting.
pub(crate) struct Bootstrap<F: Disk> {
    pub(crate) group: GroupId,
    /// `None` in a directory that joined, or has yet to.
    pub(crate) founding: Option<Founding>,
    pub(crate) addresses: Addresses,
    pub(crate) writer: LogWriter<F>,
    pub(crate) cache: CacheBudget,
    /// What the loop gives to the writer, as soon as that has a thread of its own.
    pub(crate) queue: mpsc::Receiver<LogWork>,
    pub(crate) founded: Option<Founded>,
    /// Writes so far; the core's numbers follow.
    writes: u64,
    /// There was no room for it; the writer has kept it.
    unwritten: Option<FoundingRecord>,
}

/// A group with a log and members.
pub(crate) struct Founded {
    pub(crate) log: GroupLog,
    pub(crate) members: Arc<Members>,
    /// As of its snapshot; of any but the first group, empty.
    pub(crate) catalogue: Catalogue,
    /// This node's name in it.
    pub(crate) own_id: u64,
    /// The snapshot that the state machine has yet to be restored from.
    pub(crate) restore: Option<LogId>,
}

impl Founded {
    /// A group as it was found in the directory, its state machine restored from the snapshot with this
    /// head.
    ///
    /// # Errors
    ///
    /// When the members in it do not name this directory.
    pub(crate) fn recovered(
        recovered: RecoveredGroup,
        head: &Head,
        identity: &Identity,
    ) -> Result<Self, String> {
        let (members, catalogue) = (head.members.clone(), head.catalogue.clone());
        // A life of the group that joined is known by its number; one that was there from the
        // beginning, by none.
        let own = own_binding(identity, recovered.incarnation);
        let member = members
            .of_binding_or_departed(own)
            .or_else(|| members.of_binding_or_departed(Binding { incarnation: 0, ..own }));
        let own_id = member.map(|member| member.member_id).ok_or_else(|| {
            format!("the members in its snapshot do not name directory {}", own.directory_id)
        })?;
        Ok(Founded { log: recovered.log, members, catalogue, own_id, restore: None })
    }
}

/// What stands behind this node's member of a group.
pub(crate) fn own_binding(identity: &Identity, incarnation: u64) -> Binding {
    let (node_id, directory_id) = (identity.node_id, identity.directory_id);
    Binding { node_id, directory_id, incarnation }
}

impl<F: Disk + 'static> Bootstrap<F> {
    pub(crate) fn new(
        group: GroupId,
        (founding, addresses): (Option<Founding>, Addresses),
        writer: LogWriter<F>,
        cache: CacheBudget,
        queue: mpsc::Receiver<LogWork>,
        founded: Option<Founded>,
    ) -> Self {
        Bootstrap {
            group,
            founding,
            addresses,
            writer,
            cache,
            queue,
            founded,
            writes: 0,
            unwritten: None,
        }
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
                None => match self.founding.as_ref().and_then(Founding::next_record) {
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
                Ok(()) => {
                    if let Some(founding) = &mut self.founding {
                        founding.persisted(&record);
                    }
                }
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

    fn first_state<S: StateMachine>(&self, snapshots: &SnapshotStore) -> Result<Founded, String> {
        let Some(founding) = &self.founding else {
            return Err("a directory that joins founds nothing".to_owned());
        };
        let (bindings, own_id) = (founding.bindings_to_be(), founding.own_id());
        let voters = self.addresses.iter().filter_map(|(node, addr)| {
            bindings.get(node).map(|directory| (*node, *directory, addr.clone()))
        });
        let members = Arc::new(Members::founding(voters));
        let take = genesis::first_snapshot::<S>(self.group, members.clone());
        let meta = snapshot_worker::write::<S>(snapshots, take).map_err(|e| e.to_string())?;
        let log = GroupLog::founded(self.group, &meta, &self.cache);
        let catalogue = Catalogue::default();
        Ok(Founded { log, members, catalogue, own_id, restore: Some(genesis::FIRST) })
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
