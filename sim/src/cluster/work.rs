//! What disks and state machines do, in virtual time.

use mutation::Bug;
use quorate_loop::{Apply, Committed, Done, Input, Replica, SessionStep};
use quorate_statemachine::{Delta, Metadata, Outcome, StateMachine as _};

use super::coverage::Path;
use super::world::{Happening, World};
use super::{GROUP, SimError};
use crate::record::hash_of;

impl World {
    /// Gives the disk and the state machine what waits for them.
    pub(super) fn begin_work(&mut self, id: u64) {
        let factor = self.slow_disks.get(&id).copied().unwrap_or(1);
        let (least, more) = self.plan.sync;
        let sync = (least + self.random.below(more)) * factor;
        let apply = match self.slow_machines.contains(&id) {
            true => 200_000,
            false => 10,
        };
        let every = self.plan.snapshot_every;
        let Some(process) = self.process(id) else { return };
        let run = process.run;
        let mut begun = Vec::new();
        if process.writing.is_empty() && !process.waiting.is_empty() && !process.is_full {
            process.writing = std::mem::take(&mut process.waiting);
            begun.push((sync, Happening::Synced(id, run)));
        }
        if !process.is_applying && !process.applying.is_empty() {
            process.is_applying = true;
            begun.push((apply, Happening::Applied(id, run)));
        }
        let applied = process.replica.applied().index;
        let is_due = process.wants_snapshot || applied >= process.drafted + every;
        if is_due && process.draft.is_none() && applied > process.core.status().snapshot_index {
            process.wants_snapshot = false;
            process.drafted = applied;
            process.draft = Some(process.replica.draft());
            begun.push((2 * sync, Happening::SnapshotWritten(id, run)));
        }
        for (after, happening) in begun {
            self.queue.after(after, happening);
        }
    }

    pub(super) fn synced(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let Some(process) = &mut host.process else { return Ok(()) };
        let batch = std::mem::take(&mut process.writing);
        process.kept.extend(batch.iter().cloned());
        match process.write(batch) {
            Ok(()) => {
                let was_full = std::mem::take(&mut process.is_full);
                for write in std::mem::take(&mut process.kept) {
                    host.durable.write(&write);
                    let directory = *host.binding.directory_id.as_bytes();
                    self.safety.wrote(id, directory, &write);
                }
                if was_full {
                    self.coverage.went(Path::RoomAgain);
                }
            }
            Err(error) if !error.is_fatal() => {
                if !process.is_full {
                    process.is_full = true;
                    process.core.step(Input::StorageFull);
                }
                self.queue.after(1_000_000, Happening::Synced(id, run));
            }
            Err(error) => {
                let text = error.to_string();
                self.disk_failed(id, &text)?;
                return Ok(());
            }
        }
        self.turn(id);
        Ok(())
    }

    pub(super) fn apply(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(process) = self.process(id) else { return Ok(()) };
        process.is_applying = false;
        let Some(work) = process.applying.pop_front() else { return Ok(()) };
        let applied = last_of(&work);
        match work {
            Apply::Entries(entries) => {
                for entry in entries {
                    self.apply_one(id, &entry);
                }
            }
            Apply::Restore(at) => {
                match Replica::<Metadata>::restore(&process.snapshots, GROUP, at) {
                    Ok((replica, _)) => process.replica = replica,
                    Err(error) => {
                        let text = format!("snapshot {at}: {error}");
                        return self.disk_failed(id, &text);
                    }
                }
                self.coverage.went(Path::Install);
                self.compare(id, at.index);
            }
        }
        self.brokers_notice(id);
        if !mutation::is(Bug::AppliedToldEarly) {
            self.step(id, Input::Applied(applied));
        }
        Ok(())
    }

    pub(super) fn apply_one(&mut self, id: u64, entry: &Committed<u64>) {
        let at = entry.at;
        let session = match entry.session {
            Some(SessionStep::Command(command)) => Some((command.session, command.sequence)),
            _ => None,
        };
        let mixed = session.map_or(0, |(session, sequence)| session << 20 ^ sequence);
        let Some(process) = self.process(id) else { return };
        let term = process.core.status().term;
        self.safety.applied(id, term, at, hash_of(&entry.command) ^ mixed);
        let Some(process) = self.process(id) else { return };
        let before = process.replica.state().image();
        let mut changes = Delta::default();
        let result = match process.replica.apply(entry, &mut changes) {
            Ok(result) => result,
            Err(reason) => {
                return self.safety.violated(format!("node {id} cannot apply {at}: {reason}"));
            }
        };
        if let (Some(command), Ok(done)) = (session, &result) {
            self.safety.ran(id, command, done.index);
            self.found_applied(at.index, done);
        }
        if let Ok(Done { index, outcome: Some(Outcome::Accepted(_)) }) = &result
            && *index == at.index
        {
            self.safety.accepted(id, at.index, &entry.command, &before);
        }
        self.compare(id, at.index);
        self.metadata_changed(id, at.index);
        if let Some(caller) = entry.caller {
            self.applied_for(caller, entry, result);
        }
    }

    /// Compares a node's state with that of others.
    pub(super) fn compare(&mut self, id: u64, index: u64) {
        let process = self.hosts.get(&id).and_then(|host| host.process.as_ref());
        if let Some(process) = process {
            self.safety.state_is(id, index, process.replica.state());
        }
    }

    pub(super) fn snapshot_written(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(process) = self.process(id) else { return Ok(()) };
        let Some(draft) = process.draft.take() else { return Ok(()) };
        // Where it cannot be written, the next one may.
        let Ok((meta, _)) = draft.write(&process.snapshots) else { return Ok(()) };
        self.step(id, Input::SnapshotTaken(meta));
        self.purge(id)
    }

    /// Gives back what the log does not need.
    pub(super) fn purge(&mut self, id: u64) -> Result<(), SimError> {
        let Some(process) = self.process(id) else { return Ok(()) };
        match process.purge() {
            Ok(true) => {
                self.coverage.went(Path::Compaction);
                self.step(id, Input::CompactionWanted);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }
}

/// The last index of some work.
pub(super) fn last_of(work: &Apply<u64>) -> u64 {
    match work {
        Apply::Entries(entries) => entries.last().map_or(0, |entry| entry.at.index),
        Apply::Restore(id) => id.index,
    }
}
