//! The mutation proof: bugs that are made on purpose, each of which the simulator must find.
//!
//! The bugs are in the code that they are bugs of (`quorate-mutation` lists them); here is how long each
//! may take, and what finds it.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mutation::Bug;
use serde::Serialize;

use crate::cluster::{Mix, try_seed};

/// What came of a bug.
#[derive(Debug, Clone, Serialize)]
pub struct Caught {
    /// The bug.
    pub bug: String,
    /// Whether it was found within [`seeds_max`].
    pub caught: bool,
    /// The check that found it.
    pub by: String,
    /// Seeds that it took, the one that found it included.
    pub seeds: u64,
    /// How many it may take.
    pub seeds_max: u64,
    /// What is wrong with it.
    pub what: &'static str,
    /// What was seen.
    pub seen: String,
}

/// How many seeds a bug may take: some four times what it took when it was written, and twenty at least.
#[must_use]
pub fn seeds_max(bug: Bug) -> u64 {
    match bug {
        Bug::OvertakenRegistrationTaken => 2_400,
        Bug::DamagedTailAccepted => 1_230,
        Bug::ReadsUnconfirmed => 750,
        Bug::SnapshotRemovedEarly => 250,
        Bug::SnapshotReportDropped | Bug::OvertakenCallerForgotten => 170,
        Bug::PromotedBehind => 100,
        Bug::ReceivedSnapshotNotSynced | Bug::WitnessAhead => 64,
        Bug::FailedSyncIgnored | Bug::OwnCopyCountedEarly => 56,
        Bug::PartitionEpochNotChecked => 40,
        Bug::ReplacedCallerForgotten => 28,
        _ => 20,
    }
}

/// Which check says so, by what it says.
const CHECKS: &[(&str, &str)] = &[
    ("panic", "an assertion of the product"),
    ("lead in term", "one leader a term"),
    ("lacks entry", "a new leader holds all that was committed"),
    ("went back from", "term, commit and applied never go back"),
    ("is ahead of itself", "term, commit and applied never go back"),
    ("and writes", "a ballot never changes within its term"),
    ("writes another entry", "log matching"),
    ("before it is durable", "nothing is said that the disk does not hold"),
    ("before its term is durable", "nothing is said that the disk does not hold"),
    ("while its disk ends", "nothing is said that the disk does not hold"),
    ("applies something else", "what is committed stays"),
    ("has another state", "equal state behind equal index"),
    (" comes to ", "the rules of the metadata, from a state to the next"),
    ("obeys a stale epoch", "nobody is obeyed who speaks of an earlier epoch"),
    ("says that command", "a command is applied once"),
    ("was answered twice", "every caller is answered once"),
    ("is given a vote", "no vote for who has no log"),
    ("another command", "a caller is told of its own command"),
    ("for one who asked", "linearizability"),
    ("and has applied", "a read waits for its index"),
    ("does not come to rest", "the cluster comes to rest"),
    ("was durable up to", "a disk holds what it is known to hold"),
    ("is damaged, and nothing", "an undamaged disk opens"),
    ("does not open", "an undamaged disk opens"),
    ("does not start", "an undamaged disk opens"),
    ("failed by itself", "no disk fails by itself"),
    ("cannot read", "no disk fails by itself"),
    (" stopped: ", "no node stops by itself"),
    ("cannot apply", "what is committed can be applied"),
    (": ", "the rules of the metadata, in a state"),
];

/// What says something that is not listed.
const UNKNOWN: &str = "the simulator";

fn check_of(seen: &str) -> &'static str {
    let found = CHECKS.iter().find(|(part, _)| seen.contains(part));
    found.map_or(UNKNOWN, |(_, check)| check)
}

/// Looks for one bug, in seeds from 1 on.
#[must_use]
pub fn hunt(bug: Bug, seeds_max: u64) -> Caught {
    let run = |seed: u64| mutation::with(bug, || try_seed(seed, Mix::Faults, None).what);
    let found = (1..=seeds_max).find_map(|seed| Some((seed, run(seed)?)));
    let (caught, (seeds, seen)) = (found.is_some(), found.unwrap_or((seeds_max, String::new())));
    let by = if caught { check_of(&seen).to_owned() } else { String::new() };
    Caught { bug: name(bug), caught, by, seeds, seeds_max, what: bug.what(), seen }
}

/// Looks for all of them, several at the same time; `progress` is called after each.
#[must_use]
pub fn hunt_all(jobs: NonZeroUsize, progress: &(dyn Fn() + Sync)) -> Vec<Caught> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = hunt(*bug, seeds_max(*bug));
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push((*bug, caught));
                    progress();
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|(bug, _)| *bug);
    all.into_iter().map(|(_, caught)| caught).collect()
}

/// As a program would write it.
fn name(bug: Bug) -> String {
    let mut name = String::new();
    for letter in format!("{bug:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To see it fail: leave out a check of `cluster/safety.rs`, or a fault.
    #[test]
    fn every_bug_is_caught_within_its_seeds_by_a_check_that_has_a_name() {
        let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let found = hunt_all(jobs, &|| ());
        assert_eq!(found.len(), Bug::ALL.len());
        assert!(found.len() >= 20);
        let missed: Vec<_> = found.iter().filter(|bug| !bug.caught).map(|bug| &bug.bug).collect();
        assert!(missed.is_empty(), "not caught: {missed:?}");
        let nameless: Vec<_> = found.iter().filter(|bug| bug.by == UNKNOWN).collect();
        assert!(nameless.is_empty(), "{nameless:#?}");
    }

    /// With no bug, the same seeds find nothing; so it is the bug that is found.
    #[test]
    fn without_a_bug_the_same_seeds_find_nothing() {
        for seed in 1..=20 {
            assert_eq!(try_seed(seed, Mix::Faults, None).what, None, "seed {seed}");
        }
    }

    #[test]
    fn bugs_are_named_as_programs_would_write_them() {
        assert_eq!(name(Bug::SyncSkipped), "sync_skipped");
    }
}
