//! [`Recovered`]: what was found in a data directory, as the threads of a node need it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_engine::{Damage, Disk, Engine, GroupId, RecoveredGroup};
use quorate_statemachine::StateMachine;

use crate::bootstrap::{Founded, own_binding};
use crate::driver::SharedMembers;
use crate::error::{OpenError, listed};
use crate::machine::Machine;
use crate::members::Binding;
use crate::purges::Purges;
use crate::replica::{Replica, described};

/// The groups of a directory, with their state machines restored.
pub(crate) struct Recovered<S: StateMachine, F: Disk> {
    pub(crate) engine: Engine<F>,
    /// The founding record of the first group, if there is one.
    pub(crate) genesis: Option<Bytes>,
    /// The first group; `None` before its founding.
    pub(crate) first: Option<Founded>,
    pub(crate) others: Vec<Founded>,
    /// Groups that have begun without anything in them, and wait to be let in: what they ask.
    pub(crate) waiting: BTreeMap<GroupId, Binding>,
    /// Of every group that can begin; the first one's in any case.
    pub(crate) machines: BTreeMap<GroupId, Box<Machine<S>>>,
    /// Groups that must not begin, and why.
    pub(crate) damaged: BTreeMap<GroupId, String>,
    /// Those of them that the engine writes nothing for.
    pub(crate) quarantined: BTreeSet<GroupId>,
    pub(crate) purges: Purges,
    members: SharedMembers,
}

impl<S: StateMachine, F: Disk> Recovered<S, F> {
    /// Restores the state machines. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// When the first group is damaged, or cannot be restored. Any other one then only stays where
    /// it is.
    pub(crate) fn new(
        mut engine: Engine<F>,
        first: GroupId,
        purges: Purges,
    ) -> Result<Self, OpenError> {
        if let Some(findings) = engine.damaged.remove(&first) {
            return Err(OpenError::DamagedGroup { group: first, findings });
        }
        let mut recovered = Recovered {
            genesis: None,
            first: None,
            others: Vec::new(),
            waiting: BTreeMap::new(),
            machines: BTreeMap::new(),
            quarantined: engine.damaged.keys().copied().collect(),
            damaged: std::mem::take(&mut engine.damaged)
                .into_iter()
                .map(|(group, findings)| (group, condemned(&findings)))
                .collect(),
            purges,
            members: SharedMembers::default(),
            engine,
        };
        for (group, found) in std::mem::take(&mut recovered.engine.groups) {
            if found.snapshot.id.index == 0 {
                recovered.wait(group, found.incarnation);
                continue;
            }
            let genesis = found.genesis.clone();
            match recovered.restore(group, found) {
                Ok(founded) if group == first => {
                    (recovered.genesis, recovered.first) = (genesis, Some(founded));
                }
                Ok(founded) => recovered.others.push(founded),
                Err(reason) if group == first => return Err(OpenError::Restore(reason)),
                Err(reason) => {
                    recovered.damaged.insert(group, format!("it cannot be restored: {reason}"));
                }
            }
        }
        if recovered.first.is_none() {
            let nothing = Machine::new(Replica::blank(first), 0);
            recovered.machines.insert(first, Box::new(nothing));
        }
        Ok(recovered)
    }

    fn wait(&mut self, group: GroupId, incarnation: u64) {
        self.waiting.insert(group, own_binding(&self.engine.identity, incarnation));
        let nothing = Machine::new(Replica::blank(group), 0);
        self.machines.insert(group, Box::new(nothing));
    }

    fn restore(&mut self, group: GroupId, found: RecoveredGroup) -> Result<Founded, String> {
        let id = found.snapshot.id;
        let (mut replica, state_bytes) = Replica::restore(&self.engine.snapshots, group, id)
            .map_err(|error| described(&error))?;
        let head = replica.head_mut();
        head.members = self.members.shared(head.members.clone());
        let founded = Founded::recovered(found, head, &self.engine.identity)?;
        self.machines.insert(group, Box::new(Machine::new(replica, state_bytes)));
        Ok(founded)
    }
}

fn condemned(findings: &[Damage]) -> String {
    format!(
        "it is damaged: {}. While a majority of its voters is sound the group goes on without this \
         node",
        listed(findings)
    )
}
