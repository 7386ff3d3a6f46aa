//! Crash points: an engine's history is cut off at each operation on the disk, and what is left
//! must be opened, and hold what was acknowledged.
//!
//! | part | owns |
//! | --- | --- |
//! | `point` | where a history is cut off, and what is left of it: the text that replays it |
//! | `cut` | taking the images of one history |
//! | `check` | opening what is left, and the verdict |

mod check;
mod cut;
mod point;

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use thiserror::Error;

pub use check::Verdict;
pub use point::{CrashPoint, PointError, Subset, Variant};

use crate::workload::WorkloadError;
use check::check;
use cut::{Cut, Repeats, cut_history};

/// Failures that are reported one by one; more are only counted.
const FAILURES_MAX: usize = 50;

/// What to try.
#[derive(Debug, Clone)]
pub struct CrashPoints {
    /// How many images to open. When the last history has more, those are spread over it.
    pub images: u64,
    /// Seed of the first history; each next one has the next.
    pub seed: u64,
    /// Images opened at the same time.
    pub jobs: NonZeroUsize,
}

/// A crash that was not survived.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// What replays it.
    pub point: CrashPoint,
    /// The operation that the history was cut off at.
    pub operation: String,
    /// What happened.
    pub verdict: Verdict,
    /// The command that replays it.
    pub replay: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CrashReport {
    /// Images that were opened.
    pub images: u64,
    /// Those that did not hold what was acknowledged, or held what never was written.
    pub lost: u64,
    /// Those that could not be opened.
    pub refused: u64,
    /// Those that something panicked on.
    pub panic: u64,
    /// Of all failures, those that took a kill *and* a power loss after the next start.
    pub failed_after_kill: u64,
    /// Histories.
    pub workloads: u64,
    /// Operations on the disk that they were cut off at.
    pub operations: u64,
    /// Moments at which an image was taken: before, after, and within operations.
    pub moments: u64,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// The first failures.
    pub failures: Vec<Failure>,
}

impl CrashReport {
    /// Whether every crash was survived.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.refused == 0 && self.panic == 0
    }

    fn add(&mut self, cut: &Cut, subset: Subset, verdict: Verdict) {
        self.images += 1;
        match verdict {
            Verdict::Survived => return,
            Verdict::Lost(_) => self.lost += 1,
            Verdict::Refused(_) => self.refused += 1,
            Verdict::Panic(_) => self.panic += 1,
        }
        self.failed_after_kill += u64::from(subset == Subset::Kill);
        if self.failures.len() < FAILURES_MAX {
            let point = cut.point(subset);
            let replay = format!("quorate-sim crashpoints --replay {point}");
            self.failures.push(Failure {
                point,
                operation: cut.operation.clone(),
                verdict,
                replay,
            });
        }
    }
}

/// Why crash points could not be tried.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CrashPointsError {
    /// A history did not come to its end without any crash.
    #[error("the history of seed {seed} failed without a crash: {source}")]
    Workload {
        /// Its seed.
        seed: u64,
        /// Why.
        source: WorkloadError,
    },
    /// There is no such point.
    #[error("{0}: this history has no such point: take it from a report of the same release")]
    NoSuchPoint(CrashPoint),
}

/// A crashed disk to be opened.
struct Task {
    cut: Arc<Cut>,
    subset: Subset,
}

impl CrashPoints {
    /// Opens the images, `progress` being told of each.
    ///
    /// # Errors
    ///
    /// [`CrashPointsError`]: the histories could not be lived through; no verdict on crashes.
    pub fn run(&self, progress: &(dyn Fn() + Sync)) -> Result<CrashReport, CrashPointsError> {
        let start = Instant::now();
        let report = Mutex::new(CrashReport::default());
        // A few for each job: images are kept in memory while they wait.
        let (sender, receiver) = sync_channel::<Task>(4 * self.jobs.get());
        let receiver = Mutex::new(receiver);
        let result = std::thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                scope.spawn(|| work(&receiver, &report, progress));
            }
            let result = self.feed(&sender, &report);
            // Ends the workers, when they are done.
            drop(sender);
            result
        });
        result?;
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.failures.sort_by_key(|failure| failure.point);
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }

    fn feed(
        &self,
        tasks: &SyncSender<Task>,
        report: &Mutex<CrashReport>,
    ) -> Result<(), CrashPointsError> {
        let (mut left, mut seed) = (self.images, self.seed);
        while left > 0 {
            let cuts = cut_history(seed, Repeats::LeftOut)
                .map_err(|source| CrashPointsError::Workload { seed, source })?;
            {
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                report.workloads += 1;
                report.operations += cuts.iter().map(|cut| cut.number).max().unwrap_or(0);
                report.moments += cuts.len() as u64;
            }
            let cuts: Vec<_> = cuts.into_iter().map(Arc::new).collect();
            let all: Vec<_> = cuts
                .iter()
                .flat_map(|cut| cut.subsets().into_iter().map(move |subset| (cut, subset)))
                .collect();
            let count = left.min(all.len() as u64);
            for number in 0..count {
                let (cut, subset) = all[(number * all.len() as u64 / count) as usize];
                if tasks.send(Task { cut: cut.clone(), subset }).is_err() {
                    return Ok(());
                }
            }
            left -= count;
            seed += 1;
        }
        Ok(())
    }
}

fn work(tasks: &Mutex<Receiver<Task>>, report: &Mutex<CrashReport>, progress: &(dyn Fn() + Sync)) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task { cut, subset }) = task else { return };
        let verdict = check(&cut, subset);
        report.lock().unwrap_or_else(PoisonError::into_inner).add(&cut, subset, verdict);
        progress();
    }
}

/// Tries one point again. The operation that it is at, and what comes of it.
///
/// # Errors
///
/// [`CrashPointsError`].
pub fn replay(point: CrashPoint) -> Result<(String, Verdict), CrashPointsError> {
    let seed = point.seed;
    let cuts = cut_history(seed, Repeats::Kept)
        .map_err(|source| CrashPointsError::Workload { seed, source })?;
    let cut = cuts
        .iter()
        .find(|cut| cut.number == point.operation && cut.variant == point.variant)
        .ok_or(CrashPointsError::NoSuchPoint(point))?;
    Ok((cut.operation.clone(), check(cut, point.subset)))
}

#[cfg(test)]
mod tests;
