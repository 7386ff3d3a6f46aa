//! Changing which groups there are: what is checked, when it takes effect, and what must be durable
//! before it has any.
//!
//! Any number of changes may be under way. Each is checked when it is proposed, against what is
//! committed, and once more where it is handed out as committed, against what was before it: that
//! decides, the same on every node, and what does not fit is void.
//!
//! **How far this node has committed is durable before it does what an entry says.** The commit index
//! rides with other writes, and a node that is killed may forget the newest. It must not forget one by
//! which a group was removed: with the group gone from its disk and the removal unknown, it would take
//! the group for one that it has yet to begin, and begin it blank under the name by which it has
//! voted. So an entry that changes the catalogue forces a write of group 1's record, with the very
//! effects that show the change; the log writer makes it durable before anything that comes of it.

use quorate_engine::LogId;

use super::Core;
use super::membership::Proposed;
use crate::catalogue::Catalogue;
use crate::catalogue_change::{CatalogueChange, CatalogueError, CatalogueRequest};

/// Changes that wait to be committed at a time. raft-rs counts the bytes of an entry's data, and these
/// have none.
const CHANGES_WAITING_MAX: usize = 256;

impl<P, R, M> Core<P, R, M> {
    pub(super) fn change_catalogue(&mut self, request: &CatalogueRequest, caller: M) {
        match self.propose_catalogue(request) {
            Ok(at) => {
                let deadline = self.deadline();
                self.catalogue_changes.push(Proposed { at, deadline, caller });
            }
            Err(error) => self.effects.catalogued.push((caller, Err(error))),
        }
    }

    fn propose_catalogue(&mut self, request: &CatalogueRequest) -> Result<LogId, CatalogueError> {
        if !self.leads() {
            return Err(CatalogueError::NotLeader { leader: self.leader() });
        }
        if self.may_lose_its_vote() {
            return Err(CatalogueError::NotLeader { leader: None });
        }
        let is_busy = self.lags() || self.catalogue_changes.len() >= CHANGES_WAITING_MAX;
        if self.storage_full || is_busy {
            return Err(CatalogueError::Overloaded);
        }
        let change = CatalogueChange::of_request(request, &self.members)?;
        self.catalogue.changed(&change, 0)?;
        self.append_entry(change.entry()).ok_or(CatalogueError::Overloaded)
    }

    /// The entry at `at` is committed, and says this about which groups there are. Returns the catalogue
    /// after it, if it changes it.
    pub(super) fn catalogue_committed(
        &mut self,
        change: Option<CatalogueChange>,
        at: LogId,
    ) -> Option<Catalogue> {
        let changed = change.map(|change| self.catalogue.changed(&change, at.index));
        let is_settled = |p: &mut Proposed<M>| p.at.index <= at.index;
        for Proposed { at: proposed, caller, .. } in
            self.catalogue_changes.extract_if(.., is_settled).collect::<Vec<_>>()
        {
            let answer = match &changed {
                Some(changed) if proposed == at => changed.as_ref().map(|_| at.index),
                // Another leader's entry took its place.
                _ => Err(&CatalogueError::NotLeader { leader: self.leader() }),
            };
            self.effects.catalogued.push((caller, answer.map_err(Clone::clone)));
        }
        match changed {
            None => None,
            Some(Ok(catalogue)) => {
                self.set_catalogue(catalogue.clone());
                Some(catalogue)
            }
            Some(Err(error)) => {
                tracing::info!(group = %self.group, %at, %error, "a change of the groups is void");
                None
            }
        }
    }

    /// From now on these are the groups that there are.
    pub(super) fn set_catalogue(&mut self, catalogue: Catalogue) {
        self.must_record = true;
        self.effects.catalogue = Some(catalogue.clone());
        self.catalogue = catalogue;
    }

    /// Whoever starts a core learns which groups there are as soon as all is handed out that was known to be
    /// committed. That was durable when it was read.
    pub(super) fn show_catalogue(&mut self) {
        self.must_record = false;
        self.effects.catalogue = Some(self.catalogue.clone());
    }

    /// Once a tick: those who have waited long enough are told.
    pub(super) fn tick_catalogue(&mut self) {
        let overdue = |change: &mut Proposed<M>| change.deadline <= self.now;
        for late in self.catalogue_changes.extract_if(.., overdue) {
            self.effects.catalogued.push((late.caller, Err(CatalogueError::Unknown)));
        }
    }

    /// Callers whose change stood at an index that a snapshot has replaced, or that wait at the end.
    pub(super) fn abandon_catalogue_changes(&mut self, up_to: u64) {
        for change in self.catalogue_changes.extract_if(.., |change| change.at.index <= up_to) {
            self.effects.catalogued.push((change.caller, Err(CatalogueError::Unknown)));
        }
    }
}
