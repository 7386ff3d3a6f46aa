//! The steps of a history, drawn from a seed.

use quorate_engine::{Disk, GroupId, GroupWrite, LogId};

use super::{Workload, WorkloadError, entry, hard_state, snapshot_at};
use crate::random::Random;

/// Steps of one history, beside those that every history has.
const STEPS: usize = 30;

/// What changes in a group with one batch.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// More entries, perhaps of a new term.
    Append { count: u64, len: usize, is_new_term: bool },
    /// A suffix of the log that is not committed is replaced by entries of a new term.
    Overwrite { back: u64, count: u64 },
    /// A vote in a new term.
    Vote { vote: u64 },
    /// More is committed: this many quarters of what there is.
    Commit { part: u64 },
    /// A snapshot of what is committed, written and recorded.
    Snapshot { part: u64 },
    /// The log is compacted behind the snapshot.
    Compact { part: u64 },
    /// A snapshot of the leader is received and installed.
    Install { ahead: u64 },
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// One batch of one group.
    Change { group: GroupId, change: Change },
    /// One batch of both groups.
    Both { first: (GroupId, Change), second: (GroupId, Change) },
    /// Space is given back.
    Purge,
    /// The engine is closed and opened again.
    Reopen,
}

fn change(random: &mut Random, kind: u64) -> Change {
    match kind {
        0..=5 => Change::Append {
            count: 1 + random.below(12),
            len: random.below(300) as usize,
            is_new_term: random.chance(20),
        },
        6 | 7 => Change::Overwrite { back: 1 + random.below(12), count: 1 + random.below(4) },
        8 => Change::Vote { vote: 1 + random.below(3) },
        9..=11 => Change::Commit { part: 1 + random.below(4) },
        12..=14 => Change::Snapshot { part: 1 + random.below(4) },
        15 | 16 => Change::Compact { part: 1 + random.below(4) },
        _ => Change::Install { ahead: 1 + random.below(20) },
    }
}

/// Kinds of [`change`].
const KINDS: u64 = 18;

fn group(random: &mut Random) -> GroupId {
    GroupId::new(1 + random.below(2)).expect("it is not 0")
}

/// The steps of a seed: each kind at least once, in any order, and others among them.
pub(crate) fn script(random: &mut Random) -> Vec<Step> {
    let mut steps: Vec<_> = (0..KINDS)
        .map(|kind| Step::Change { group: group(random), change: change(random, kind) })
        .collect();
    steps.extend([Step::Purge, Step::Purge, Step::Purge, Step::Reopen, Step::Reopen]);
    for _ in 0..STEPS {
        let kind = random.below(KINDS);
        let first = (group(random), change(random, kind));
        steps.push(if random.chance(20) {
            let other = GroupId::new(3 - first.0.get()).expect("the other of 1 and 2");
            let kind = random.below(KINDS);
            Step::Both { first, second: (other, change(random, kind)) }
        } else if random.chance(10) {
            Step::Purge
        } else {
            Step::Change { group: first.0, change: first.1 }
        });
    }
    for at in (1..steps.len()).rev() {
        steps.swap(at, random.below(at as u64 + 1) as usize);
    }
    steps
}

/// A point `part` quarters of the way from `low` to `high`.
fn between(low: u64, high: u64, part: u64) -> u64 {
    low + high.saturating_sub(low) * part / 4
}

impl<F: Disk + 'static> Workload<F> {
    /// Changes log and model, and returns what is to be written.
    pub(super) fn change(
        &mut self,
        group: GroupId,
        change: &Change,
    ) -> Result<GroupWrite, WorkloadError> {
        let (mut entries, mut is_install) = (Vec::new(), false);
        let model = self.model(group);
        let (last, commit) = (model.last().index, model.hard_state.2);
        match *change {
            Change::Append { count, len, is_new_term } => {
                model.hard_state.0 += u64::from(is_new_term);
                let term = model.hard_state.0;
                entries = (last + 1..=last + count).map(|i| entry(group, i, term, len)).collect();
            }
            Change::Overwrite { back, count } => {
                // Never what is committed: Raft does not, either.
                let from = (last + 1).saturating_sub(back).max(commit + 1);
                model.hard_state.0 += 1;
                let term = model.hard_state.0;
                entries = (from..from + count).map(|i| entry(group, i, term, 60)).collect();
            }
            Change::Vote { vote } => {
                model.hard_state = (model.hard_state.0 + 1, vote, commit);
            }
            Change::Commit { part } => model.hard_state.2 = between(commit, last, part),
            Change::Snapshot { part } => self.make_snapshot(group, part)?,
            Change::Compact { part } => self.compact(group, part),
            Change::Install { ahead } => {
                self.install(group, ahead)?;
                is_install = true;
            }
        }
        let model = self.model(group);
        if let Some(first) = entries.first() {
            model.entries.retain(|index, _| *index < first.index);
            model.entries.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        let hard_state = hard_state(model.hard_state);
        let log = self.log(group);
        log.append(&entries);
        log.set_hard_state(hard_state);
        let mut part = self.part(group, entries);
        part.install = is_install;
        Ok(part)
    }

    fn make_snapshot(&mut self, group: GroupId, part: u64) -> Result<(), WorkloadError> {
        let model = self.model(group);
        let (before, commit) = (model.snapshot.id.index, model.hard_state.2);
        let index = between(before, commit, part);
        if index == before {
            return Ok(());
        }
        let snapshot = snapshot_at(model.at(index));
        self.write_snapshot(group, &snapshot)?;
        self.log(group).applied_to(commit);
        self.log(group).set_snapshot(snapshot.id, snapshot.conf_state.clone());
        self.model(group).snapshot = snapshot;
        Ok(())
    }

    fn compact(&mut self, group: GroupId, part: u64) {
        let model = self.model(group);
        let index = between(model.truncated.index, model.snapshot.id.index, part);
        let to = index.min(model.last().index.saturating_sub(1)).max(model.truncated.index);
        model.truncated = model.at(to);
        model.entries.retain(|index, _| *index > to);
        self.log(group).compact_to(index);
    }

    fn install(&mut self, group: GroupId, ahead: u64) -> Result<(), WorkloadError> {
        let model = self.model(group);
        model.hard_state.0 += 1;
        let id = LogId::new(model.hard_state.2 + ahead, model.hard_state.0);
        let snapshot = snapshot_at(id);
        self.receive_snapshot(group, &snapshot)?;
        self.log(group).install_snapshot(id, snapshot.conf_state.clone());
        let model = self.model(group);
        model.hard_state.2 = id.index;
        model.truncated = id;
        model.snapshot = snapshot;
        model.entries.clear();
        Ok(())
    }
}
