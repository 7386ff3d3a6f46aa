//! [`Reconcile`]: this node does what the catalogue of group 1 says.
//!
//! It is told of each catalogue where the core of group 1 hands it out, the first when that has handed out
//! all that it found committed, and compares it with the one before and with what the directory holds:
//!
//! | the catalogue | the group here | what follows |
//! | --- | --- | --- |
//! | names it, founded by this directory | nothing | it begins, with its first snapshot |
//! | names it, founded by another directory of this node | nothing | it asks for that member's place |
//! | names it | on disk | it begins, as it was left |
//! | names it | in quarantine | it stays where it is |
//! | says that it was removed | on disk or running | it is dropped, with its files |
//! | does not know it | on disk | it is left alone: it does not begin, and its status says so |
//!
//! **Beginning late is safe.** A founder that has never begun a group has never voted in it nor
//! acknowledged anything, so it may begin at the first snapshot whatever the others have done since. A
//! group that had begun here and is lost is not taken for one that never has: the tally of the engine
//! counts it, and opening puts it into quarantine. One that was removed is not either: that it was
//! removed is durable before it is dropped (see `core/catalogue.rs`).
//!
//! **Ending late is harmless.** A node that has yet to hear of a removal keeps its group, and votes in it;
//! so may others, and together they may commit entries for a while. That says nothing that was ever
//! taken back: who removes a group gives up what is committed in it from then on. It ends when
//! these nodes hear of it from group 1, and no other group ever has that id.
//!
//! A crash in between leaves nothing to resume. What was decided is in group 1's log, and what the
//! directory holds is compared with it again.

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;

use crate::bootstrap::{Founded, own_binding};
use crate::catalogue::{Catalogue, Difference};
use crate::driver::Driver;
use crate::joining::Wish;
use crate::members::Binding;

/// Groups that are coming at a time: as many share a record of the log and its fsync, and few enough
/// wait for the snapshot worker that those who run are not kept from it for long.
const COMING_MAX: usize = 256;

/// Ticks to wait after the first snapshot of a group could not be written: room is made by people and by
/// other programs.
const RETRY_TICKS: u64 = 10;

/// What this node knows of the catalogue, and has yet to do about it.
pub(crate) struct Reconcile {
    /// The last that it was told; `None` before group 1 has begun here.
    catalogue: Option<Catalogue>,
    /// Groups that were found in the directory, and that no catalogue has spoken of since.
    found: BTreeMap<GroupId, OnDisk>,
    /// Groups that are to come, when there is place.
    wanted: BTreeSet<GroupId>,
    /// Ticks to wait before the next one comes.
    pause: u64,
    /// Where this node is reached.
    addr: String,
}

/// What was found of a group in the directory.
pub(crate) enum OnDisk {
    /// A log, with members that name this node.
    Whole(Box<Founded>),
    /// Nothing but that it has begun: it waits to be let in.
    Blank(Binding),
    /// It cannot begin, and says why.
    Damaged,
    /// It has begun already: group 1 itself had to begin anew, and nobody could say which there are.
    Begun,
}

impl Reconcile {
    pub(crate) fn new(addr: String, found: BTreeMap<GroupId, OnDisk>) -> Self {
        Reconcile { catalogue: None, found, wanted: BTreeSet::new(), pause: 0, addr }
    }
}

impl<S: StateMachine> Driver<S> {
    /// Group 1 waits to be let in, so that nobody can say which groups there are: those of the
    /// directory go on. They were in the catalogue once, and what has become of them is heard of when
    /// group 1 is back.
    pub(crate) fn begin_found(&mut self) {
        let found = std::mem::take(&mut self.reconcile.found);
        for (group, found) in found {
            if self.begin_one_found(group, found) {
                self.reconcile.found.insert(group, OnDisk::Begun);
            }
        }
    }

    /// Group 1 says which groups there are.
    pub(crate) fn reconcile(&mut self, catalogue: Catalogue) {
        let before = self.reconcile.catalogue.replace(catalogue.clone()).unwrap_or_default();
        let mut unsettled = Vec::new();
        for (group, found) in std::mem::take(&mut self.reconcile.found) {
            match found {
                found if catalogue.contains(group) => drop(self.begin_one_found(group, found)),
                _ if catalogue.is_spent(group) => unsettled.extend(self.leave(group)),
                OnDisk::Begun => drop(self.reconcile.found.insert(group, OnDisk::Begun)),
                OnDisk::Whole(_) | OnDisk::Blank(_) => self.leave_alone(group),
                OnDisk::Damaged => {}
            }
        }
        for difference in before.differences(&catalogue) {
            match difference {
                Difference::Created(group) if self.is_wanted(&catalogue, group) => {
                    self.reconcile.wanted.insert(group);
                    unsettled.push(group);
                }
                Difference::Created(_) => {}
                Difference::Removed(group) => unsettled.extend(self.leave(group)),
            }
        }
        self.registry.follow(catalogue, unsettled);
        self.come();
    }

    /// Returns whether it has begun.
    fn begin_one_found(&mut self, group: GroupId, found: OnDisk) -> bool {
        match found {
            OnDisk::Whole(founded) => self.begin(*founded),
            OnDisk::Blank(binding) => self.ask_for_place(group, binding),
            OnDisk::Damaged => return false,
            OnDisk::Begun => {}
        }
        true
    }

    /// Whether a group that was created is one of this node, and not here yet.
    fn is_wanted(&self, catalogue: &Catalogue, group: GroupId) -> bool {
        let founders = catalogue.founders(group);
        founders.is_some_and(|founders| founders.of_node(self.node).is_some())
            && !self.groups.contains(group)
            && !self.turnover.is_coming(group)
    }

    /// A group was removed: it goes, if it is here. Returns it if that takes time.
    fn leave(&mut self, group: GroupId) -> Option<GroupId> {
        if self.reconcile.wanted.remove(&group) {
            self.registry.settled(group);
            return None;
        }
        // One that is coming goes as soon as it is here.
        if !self.groups.contains(group) {
            return None;
        }
        if self.turnover.is_quarantined(group) {
            tracing::warn!(%group, "the group was removed; it is damaged here, and kept for inspection");
            return None;
        }
        self.remove(group);
        Some(group)
    }

    /// What is in the directory and was never in the catalogue is nothing that this node understands:
    /// it neither begins nor goes.
    fn leave_alone(&mut self, group: GroupId) {
        let reason = "group 1 has never known this group: it is left alone, as it is on the disk; \
                      see whether the directory is that of another cluster";
        self.groups.fail(group, reason);
    }

    /// Has groups come for as long as there is place.
    fn come(&mut self) {
        while self.reconcile.pause == 0 && self.turnover.coming_count() < COMING_MAX {
            let Some(group) = self.reconcile.wanted.pop_first() else { return };
            let catalogue = self.reconcile.catalogue.as_ref();
            let Some(founders) = catalogue.and_then(|all| all.founders(group)).cloned() else {
                continue;
            };
            match founders.of_binding(own_binding(&self.identity, 0)).map(|own| own.member_id) {
                Some(own_id) => self.found_group(group, founders, own_id),
                // By another directory, which this one replaces.
                None => self.join_group(group),
            }
        }
    }

    /// A group has come.
    pub(crate) fn is_here(&mut self, group: GroupId) {
        match self.is_in_catalogue(group) {
            true => self.registry.settled(group),
            // Removed meanwhile.
            false => self.remove(group),
        }
        self.come();
    }

    /// The first snapshot of a group could not be written.
    pub(crate) fn not_founded(&mut self, group: GroupId, why: &str) {
        match self.is_in_catalogue(group) {
            true => {
                tracing::warn!(%group, why, "the group has yet to begin here: it is tried again");
                self.reconcile.wanted.insert(group);
                self.reconcile.pause = RETRY_TICKS;
            }
            false => self.registry.settled(group),
        }
        self.come();
    }

    /// Once a tick.
    pub(crate) fn tick_reconcile(&mut self) {
        if self.reconcile.pause > 0 {
            self.reconcile.pause -= 1;
            self.come();
        }
    }

    /// Asks for the place of the member that is on this node in the group's eyes.
    pub(crate) fn ask_for_place(&self, group: GroupId, binding: Binding) {
        let addr = self.reconcile.addr.clone();
        self.entrances.ask(group, Wish::Place { binding, addr });
    }

    fn is_in_catalogue(&self, group: GroupId) -> bool {
        self.reconcile.catalogue.as_ref().is_some_and(|all| all.contains(group))
    }
}
