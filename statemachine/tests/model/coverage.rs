//! How often each command had each outcome.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use quorate_statemachine::{Command, ErrorCode, PartitionResult, Recovery, Rejection, Reply};

use crate::age::LAST_FOR_CLIENTS;
use crate::state::{Set, State};

/// What the state machine never answers: the quorum's leader does, before it proposes.
pub(crate) const OF_THE_LEADER: [ErrorCode; 2] =
    [ErrorCode::UnknownServerError, ErrorCode::InconsistentClusterId];

/// What an outcome is called where it is no error.
const DONE: &str = "done";
const NOTHING_TO_DO: &str = "done, nothing changed";
const STOPPED: &str = "replica stopped";

/// Every command; each partition of one that names several; and what became of partitions.
const ROWS: [&str; 18] = [
    "RegisterBroker",
    "FenceBroker",
    "UnfenceBroker",
    "ShutdownBroker",
    "UnregisterBroker",
    "CreateTopics",
    "DeleteTopic",
    "AlterPartition",
    "AllocateProducerIds",
    "SetFeatureLevel",
    "CreatePartitions",
    "ElectLeaders",
    "  one of them",
    "AlterReassignments",
    "  each of them",
    "AlterConfigs",
    "CompareState",
    "a partition",
];

/// What can become of a partition.
const EVENTS: [&str; 13] = [
    "led by another of its ISR",
    "led by one of its ELR",
    "led by the last known leader",
    "led by an unclean leader",
    "led by nobody any more",
    "led by the same, written again",
    "ELR grown",
    "ISR grown",
    "reassignment at its end",
    "reassignment begun",
    "reassignment replaced",
    "recovered",
    "changed beyond the epochs for clients",
];

/// The row of [`Coverage::count_changes`].
const PARTITIONS: usize = 17;

/// Counts by command and outcome.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<(usize, &'static str), u64>);

impl Coverage {
    /// Counts one command.
    pub(crate) fn count(
        &mut self,
        command: &Command,
        result: &Result<Reply, ErrorCode>,
        changed: bool,
    ) {
        let row = row(command);
        let done = if changed { DONE } else { NOTHING_TO_DO };
        match result {
            Err(code) => self.add(row, code.name()),
            Ok(Reply::PartitionAltered(altered)) if altered.new_leader_elected => {
                self.add(row, ErrorCode::NewLeaderElected.name());
            }
            Ok(Reply::LeadersElected { results } | Reply::Reassigned { results }) => {
                self.add(row, done);
                for result in results {
                    self.add(row + 1, name_of(result));
                }
            }
            Ok(_) => self.add(row, done),
        }
    }

    /// Counts what became of the partitions.
    pub(crate) fn count_changes(&mut self, before: &State, after: &State) {
        for key in after.keys() {
            let new = after.partition(key).unwrap();
            let Some(old) = before.partition(key).filter(|old| *old != new) else { continue };
            let leader = new.leader.filter(|_| new.leader != old.leader);
            let was_in = |set: &Set| leader.is_some_and(|id| set.contains(&id));
            let unsafe_leader = leader.filter(|_| new.recovery == Recovery::Recovering);
            let known = unsafe_leader.is_some() && unsafe_leader == old.last_known_leader;
            let met = [
                was_in(&old.isr),
                was_in(&old.elr),
                known,
                unsafe_leader.is_some() && !known && !was_in(&old.elr) && !was_in(&old.isr),
                old.leader.is_some() && new.leader.is_none(),
                old.leader == new.leader && old.leader_epoch != new.leader_epoch,
                new.elr.len() > old.elr.len(),
                new.isr.len() > 1 && new.isr.len() > old.isr.len(),
                old.is_reassigning() && !new.is_reassigning(),
                !old.is_reassigning() && new.is_reassigning(),
                old.is_reassigning() && new.is_reassigning() && old.adding != new.adding,
                old.recovery == Recovery::Recovering && new.recovery == Recovery::Recovered,
                old.partition_epoch.0 > LAST_FOR_CLIENTS,
            ];
            for (event, _) in EVENTS.iter().zip(met).filter(|(_, met)| *met) {
                self.add(PARTITIONS, event);
            }
        }
    }

    /// Counts a command that no replica of this version can carry out.
    pub(crate) fn count_stopped(&mut self, command: &Command) {
        self.add(row(command), STOPPED);
    }

    fn add(&mut self, row: usize, outcome: &'static str) {
        *self.0.entry((row, outcome)).or_default() += 1;
    }

    /// Whether any command had the outcome.
    fn has(&self, outcome: &str) -> bool {
        self.0.keys().any(|(_, there)| *there == outcome)
    }

    /// Every command was accepted once at least, and every error was met.
    pub(crate) fn assert_all_met(&self) {
        for (row, command) in ROWS[..PARTITIONS].iter().enumerate() {
            let met = |outcome| self.0.contains_key(&(row, outcome));
            // There is one feature level only, and a comparison changes nothing.
            assert!(met(DONE) || met(NOTHING_TO_DO), "{command} was never accepted:\n{self}");
        }
        for event in EVENTS {
            assert!(self.has(event), "no partition was {event}:\n{self}");
        }
        for code in ErrorCode::ALL.iter().filter(|code| !OF_THE_LEADER.contains(code)) {
            assert!(self.has(code.name()), "nothing gave {code}:\n{self}");
        }
        assert!(!OF_THE_LEADER.iter().any(|code| self.has(code.name())), "{self}");
    }
}

fn name_of(result: &PartitionResult) -> &'static str {
    match result {
        Ok(altered) if altered.new_leader_elected => ErrorCode::NewLeaderElected.name(),
        Ok(_) => DONE,
        Err(Rejection { code, .. }) => code.name(),
    }
}

fn row(command: &Command) -> usize {
    match command {
        Command::RegisterBroker(_) => 0,
        Command::FenceBroker(_) => 1,
        Command::UnfenceBroker(_) => 2,
        Command::ShutdownBroker(_) => 3,
        Command::UnregisterBroker { .. } => 4,
        Command::CreateTopics { .. } => 5,
        Command::DeleteTopic { .. } => 6,
        Command::AlterPartition(_) => 7,
        Command::AllocateProducerIds(_) => 8,
        Command::SetFeatureLevel { .. } => 9,
        Command::CreatePartitions(_) => 10,
        Command::ElectLeaders(_) => 11,
        Command::AlterReassignments { .. } => 13,
        Command::AlterConfigs { .. } => 15,
        Command::CompareState(_) => 16,
        other => panic!("{other:?} has no row in the table"),
    }
}

impl Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((row, outcome), count) in &self.0 {
            writeln!(f, "{:<22} {outcome:<34} {count:>10}", ROWS[*row])?;
        }
        Ok(())
    }
}
