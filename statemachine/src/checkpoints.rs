//! [`Checkpoints`]: what this replica's state was at a few earlier indexes, to be compared with others.
//!
//! Replicas that apply the same commands have the same state, unless a bug, a damaged disk or a mix of
//! versions has it otherwise; and that would go on unseen for as long as nobody looks. So every replica
//! notes the hash of its state once in [`CHECKPOINT_EVERY`] indexes, at the same ones as all others. The
//! leader asks the others for theirs now and then, and puts the one that most of them noted into the log
//! (`CompareState`); whoever noted another hash for that index stops, the leader too. A replica that was
//! restored behind the index has nothing to compare.
//!
//! The hash is the one that is kept with each change. Memory that is damaged behind its back is found by who
//! writes a snapshot, since that adds up what it writes.
//!
//! Nothing of this is state: it is in no snapshot, and no outcome depends on it.

use std::sync::Arc;

use crate::command::Checkpoint;
use crate::contract::StateHash;

/// One in so many indexes is a checkpoint: the first command at one of its multiples, or behind it.
pub const CHECKPOINT_EVERY: u64 = 1_024;

/// Checkpoints that are remembered. A comparison that comes later than that is passed over.
pub const CHECKPOINTS_MAX: usize = 16;

/// The latest ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoints {
    /// In order of index. Images share them.
    noted: Arc<Vec<Checkpoint>>,
    /// The index of the last command; `None` before the first one since a start.
    last: Option<u64>,
}

impl Checkpoints {
    /// A command was applied at `index`, and left the state with `hash`.
    pub(crate) fn applied(&mut self, index: u64, hash: impl FnOnce() -> StateHash) {
        // Where this replica began cannot be told from a multiple that others have noted before.
        let is_next =
            self.last.is_some_and(|last| last / CHECKPOINT_EVERY < index / CHECKPOINT_EVERY);
        self.last = Some(index);
        if is_next {
            let noted = Arc::make_mut(&mut self.noted);
            if noted.len() == CHECKPOINTS_MAX {
                noted.remove(0);
            }
            noted.push(Checkpoint { algorithm: Checkpoint::ALGORITHM, index, hash: hash() });
        }
    }

    /// Whether this replica noted the same for that index, or nothing that can be compared.
    pub(crate) fn agree(&self, with: Checkpoint) -> bool {
        let is_its =
            |noted: &&Checkpoint| (noted.index, noted.algorithm) == (with.index, with.algorithm);
        self.noted.iter().find(is_its).is_none_or(|noted| noted.hash == with.hash)
    }

    /// In order of index.
    pub(crate) fn noted(&self) -> &[Checkpoint] {
        &self.noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::contract::{ApplyError, Image as _, StateMachine};
    use crate::machine::Metadata;
    use crate::outcome::{Outcome, Reply};
    use crate::testing::registration;

    fn run(machine: &mut Metadata, indexes: impl Iterator<Item = u64>) {
        for index in indexes {
            let register = Command::RegisterBroker(registration((index % 7) as u32));
            machine.apply_command(index, &register).expect("known");
        }
    }

    fn compare(machine: &mut Metadata, index: u64, with: Checkpoint) -> Result<Reply, ApplyError> {
        let applied = machine.apply_command(index, &Command::CompareState(with))?;
        assert!(applied.changes == Default::default());
        match applied.outcome {
            Outcome::Accepted(reply) => Ok(reply),
            Outcome::Rejected(rejection) => panic!("{rejection}"),
        }
    }

    #[test]
    fn replicas_note_the_same_indexes_and_agree() {
        let (mut one, mut two) = (Metadata::new(), Metadata::new());
        run(&mut one, (1..=2_100).filter(|index| *index != 1_024));
        run(&mut two, (1..=2_100).filter(|index| *index != 1_024));
        let noted = one.image().checkpoints().last().copied().expect("two multiples have passed");
        assert_eq!(noted.index, 2_048);
        assert_eq!(two.image().checkpoints().last(), Some(&noted));
        assert_eq!(compare(&mut two, 2_101, noted).expect("equal"), Reply::StateCompared);
        // Behind a command that is missing, the next one counts.
        let first = one.image().checkpoints()[0];
        assert_eq!(first.index, 1_025);
        assert_eq!(compare(&mut two, 2_102, first).expect("equal"), Reply::StateCompared);
    }

    #[test]
    fn a_replica_that_differs_stops_and_names_the_index() {
        let (mut one, mut two) = (Metadata::new(), Metadata::new());
        run(&mut one, 1..=1_030);
        run(&mut two, 1..=1_000);
        two.set_next_producer_id(crate::ProducerId(1_000));
        run(&mut two, 1_001..=1_030);
        let noted = one.image().checkpoints().last().copied().expect("noted");
        assert_ne!(two.image().state_hash(), one.image().state_hash());
        let error = compare(&mut two, 1_031, noted).expect_err("differs");
        assert!(
            matches!(error, ApplyError::Diverged { index: 1_031, checkpoint: 1_024 }),
            "{error:?}"
        );
        // What was not noted cannot be compared.
        let other = Checkpoint { index: 1_023, ..noted };
        assert_eq!(compare(&mut two, 1_032, other).expect("passed over"), Reply::StateCompared);
        // Neither can what was computed otherwise.
        let other = Checkpoint { algorithm: 1, ..noted };
        assert_eq!(compare(&mut two, 1_033, other).expect("passed over"), Reply::StateCompared);
    }

    #[test]
    fn who_begins_in_the_middle_notes_only_what_all_others_note() {
        let mut one = Metadata::new();
        run(&mut one, 1..=1_023);
        let mut bytes = Vec::new();
        one.image().write_snapshot(&mut bytes).expect("a vector takes all");
        let mut two = Metadata::restore(&mut &bytes[..]).expect("readable");
        // Its first command may stand behind one at the multiple that it has not seen.
        run(&mut one, 1_024..=2_050);
        run(&mut two, 1_024..=2_050);
        let indexes = |machine: &Metadata| {
            machine.image().checkpoints().iter().map(|noted| noted.index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&one), [1_024, 2_048]);
        assert_eq!(indexes(&two), [2_048]);
        assert_eq!(one.image(), two.image());
    }

    #[test]
    fn few_are_remembered() {
        let mut machine = Metadata::new();
        run(&mut machine, 1..=CHECKPOINT_EVERY * 20);
        assert_eq!(machine.image().checkpoints().len(), CHECKPOINTS_MAX);
    }
}
