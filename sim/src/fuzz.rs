//! Fuzzing of hostile peers: forged messages, and frames that are none, reach a live group of
//! three [`Core`](quorate_loop::Core)s on real engines, as an authenticated peer would send them.
//!
//! | part | owns |
//! | --- | --- |
//! | `source` | decisions: of a seed, or of a fuzzer's bytes |
//! | `forge` | the messages: altered ones of the group's own, and invented ones |
//! | `group`, `node` | the group, its network, its disks |
//! | `oracle` | what must be true, and why |
//! | `storm` | one group's life under forged messages, and its recovery |

mod forge;
mod group;
mod node;
mod oracle;
mod source;
mod storm;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use quorate_engine::GroupId;
use serde::Serialize;

pub use oracle::Lies;
use source::Source;
use storm::{Storm, Weather};

use crate::random::Random;

/// The group of a storm.
const GROUP: GroupId = match GroupId::new(1) {
    Some(group) => group,
    None => panic!("1 is not 0"),
};

/// Forged messages that one group is told: then it recovers, and another is founded.
pub const MESSAGES_PER_GROUP: u64 = 5_000;
/// Failures that are reported one by one; more are only counted.
const FAILURES_MAX: usize = 20;

/// What to try.
#[derive(Debug, Clone)]
pub struct Fuzz {
    /// How many messages to forge.
    pub messages: u64,
    /// Seed of the first group; each next one has the next.
    pub seed: u64,
    /// Groups that live at the same time.
    pub jobs: NonZeroUsize,
}

/// How often a kind of message was forged, and how often it passed the guard.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Kind {
    /// How many were forged.
    pub forged: u64,
    /// How many of them the guard let pass, or need no guard.
    pub admitted: u64,
}

/// A group that did not bear what it was told.
#[derive(Debug, Clone, Serialize)]
pub struct FuzzFailure {
    /// The group's seed.
    pub seed: u64,
    /// What happened.
    pub what: String,
    /// What was forged last before it.
    pub last: String,
    /// The command that repeats it.
    pub replay: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FuzzReport {
    /// Messages that were forged.
    pub messages: u64,
    /// Groups in which something panicked.
    pub panics: u64,
    /// What was not as it must be.
    pub violations: u64,
    /// Groups that were founded.
    pub groups: u64,
    /// By what was lied about, how many of them.
    pub lies: BTreeMap<Lies, u64>,
    /// Messages that passed the guard, or need none.
    pub admitted: u64,
    /// Messages that were dropped.
    pub dropped: u64,
    /// Frames that were decoded.
    pub frames: u64,
    /// Streams of bytes that were refused.
    pub refused_frames: u64,
    /// Entries that were applied meanwhile, on all nodes together.
    pub applied: u64,
    /// Nodes that were made to stop, since a leader, true or not, counted on more than they hold.
    pub stopped: u64,
    /// Groups that lies about leadership made hold different entries for applied.
    pub forked: u64,
    /// The messages by kind.
    pub kinds: BTreeMap<String, Kind>,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// The first failures.
    pub failures: Vec<FuzzFailure>,
}

/// Why a group could not live: its own disk or engine failed, which no message may bring about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FuzzError {
    /// Something about the group.
    #[error("the group cannot go on: {0}: free memory or disk space if that is it, and try again")]
    Group(String),
}

impl FuzzError {
    fn group(error: impl std::fmt::Display) -> Self {
        FuzzError::Group(error.to_string())
    }
}

impl FuzzReport {
    /// Whether nothing panicked, and all was as it must be.
    pub fn is_clean(&self) -> bool {
        self.panics == 0 && self.violations == 0
    }

    fn add(&mut self, ended: Ended, seed: u64, messages: u64) {
        let Ended { weather, violations, first, panic, applied, stopped, forked, lies } = ended;
        self.groups += 1;
        if let Some(lies) = lies {
            *self.lies.entry(lies).or_default() += 1;
        }
        self.messages += weather.messages;
        self.frames += weather.frames;
        self.refused_frames += weather.refused_frames;
        self.applied += applied;
        self.stopped += stopped;
        self.forked += u64::from(forked);
        for (name, kind) in weather.kinds {
            let sum = self.kinds.entry(name).or_default();
            sum.forged += kind.forged;
            sum.admitted += kind.admitted;
            self.admitted += kind.admitted;
            self.dropped += kind.forged - kind.admitted;
        }
        self.panics += u64::from(panic.is_some());
        self.violations += violations;
        let whats = panic.map(|text| format!("panic: {text}")).into_iter().chain(first);
        let last = weather.last.map(|last| format!("{last:?}")).unwrap_or_default();
        for what in whats {
            if self.failures.len() < FAILURES_MAX {
                let replay = format!("quorate-sim fuzz --seed {seed} --messages {messages}");
                self.failures.push(FuzzFailure { seed, what, last: last.clone(), replay });
            }
        }
    }
}

/// How a storm ended.
#[derive(Debug, Default)]
struct Ended {
    weather: Weather,
    violations: u64,
    first: Vec<String>,
    panic: Option<String>,
    applied: u64,
    stopped: u64,
    forked: bool,
    lies: Option<Lies>,
}

impl Fuzz {
    /// Tells groups lies until all messages are spent. `progress` is told how many at a time.
    ///
    /// A group's storm follows from its seed and the number of its messages alone, whatever the
    /// number of jobs.
    ///
    /// # Errors
    ///
    /// [`FuzzError`]: a group could not live, for reasons of this machine.
    pub fn run(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<FuzzReport, FuzzError> {
        let start = Instant::now();
        let groups = self.messages.div_ceil(MESSAGES_PER_GROUP);
        let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let report = Mutex::new(FuzzReport::default());
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                scope.spawn(|| {
                    while !is_over.load(Ordering::SeqCst) {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= groups {
                            return;
                        }
                        let seed = self.seed.wrapping_add(number);
                        let left = self.messages - number * MESSAGES_PER_GROUP;
                        let messages = left.min(MESSAGES_PER_GROUP);
                        match storm(Source::Seed(Random::new(seed)), messages) {
                            Ok(ended) => {
                                let mut report =
                                    report.lock().unwrap_or_else(PoisonError::into_inner);
                                report.add(ended, seed, messages);
                            }
                            Err(error) => {
                                is_over.store(true, Ordering::SeqCst);
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(error);
                            }
                        }
                        progress(messages);
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.failures.sort_by_key(|failure| failure.seed);
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }
}

/// One storm whose every decision is a byte of `bytes`: what a coverage-guided fuzzer calls.
///
/// # Errors
///
/// [`FuzzError`]: the group could not live, for reasons of this machine.
pub fn messages(bytes: &[u8]) -> Result<FuzzReport, FuzzError> {
    let ended = storm(Source::Bytes(bytes), MESSAGES_PER_GROUP)?;
    let mut report = FuzzReport::default();
    report.add(ended, 0, 0);
    Ok(report)
}

fn storm(source: Source<'_>, messages: u64) -> Result<Ended, FuzzError> {
    let mut storm = Storm::new(source)?;
    let mut weather = Weather::default();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        storm.rage(messages, &mut weather)?;
        storm.calm(&weather)
    }));
    let panic = match lived {
        Ok(lived) => lived.map(|()| None)?,
        Err(panic) => Some(text_of(panic.as_ref())),
    };
    let oracle = &mut storm.group.oracle;
    Ok(Ended {
        weather,
        violations: oracle.violations,
        first: std::mem::take(&mut oracle.first),
        panic,
        applied: oracle.applied,
        stopped: oracle.stopped,
        forked: oracle.forked,
        lies: Some(oracle.lies),
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

#[cfg(test)]
mod tests;
