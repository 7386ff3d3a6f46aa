//! Bit rot: a store at rest is damaged in one place at a time, opened, and compared with what it
//! held.
//!
//! | part | owns |
//! | --- | --- |
//! | `store` | the stores that are damaged: their files, and what they must hold |
//! | `damage` | what is done to it |
//! | `region` | what the bytes of a file are |
//! | `outcome` | opening it, and what comes of that |

mod damage;
mod outcome;
mod region;
mod store;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::random::Random;
use crate::workload::WorkloadError;

pub use damage::RotDamage;
pub use outcome::Outcome;
use outcome::{Finding, observe};
use region::region_of;
use store::{SEEDS, Store};

/// Failures that are reported one by one; more are only counted.
const FAILURES_MAX: usize = 50;
/// Findings of a region that are told apart in the report.
const FINDINGS_MAX: usize = 3;
/// Words of a finding that tell it from others.
const WORDS: usize = 14;

/// What to try.
#[derive(Debug, Clone)]
pub struct BitRot {
    /// How many single bits to flip, spread over the store; `None`: one in every byte.
    pub flips: Option<u64>,
    /// Decides which bits.
    pub seed: u64,
    /// Stores opened at the same time.
    pub jobs: NonZeroUsize,
}

/// How often what came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// It was reported: as an error, or as damage.
    pub detected: u64,
    /// Nothing was reported, and nothing is missing or wrong.
    pub harmless: u64,
    /// Nothing was reported, and something is missing.
    pub silent_loss: u64,
    /// Nothing was reported, and something is not what was written.
    pub wrong_data: u64,
    /// A panic that nobody caught.
    pub panic: u64,
    /// It did not end.
    pub hang: u64,
    /// Of those detected, how many findings name the file.
    pub named: u64,
    /// Of those detected, how many were panics of raft-engine that the engine caught.
    pub caught_panic: u64,
}

impl Tally {
    fn add(&mut self, finding: &Finding) {
        *match finding.outcome {
            Outcome::Detected => &mut self.detected,
            Outcome::Harmless => &mut self.harmless,
            Outcome::SilentLoss => &mut self.silent_loss,
            Outcome::WrongData => &mut self.wrong_data,
            Outcome::Panic => &mut self.panic,
            Outcome::Hang => &mut self.hang,
        } += 1;
        self.named += u64::from(finding.is_named);
        self.caught_panic += u64::from(finding.is_caught_panic);
    }

    /// Whether nothing was lost, wrong, panicking or hanging.
    pub fn is_clean(&self) -> bool {
        self.silent_loss + self.wrong_data + self.panic + self.hang == 0
    }
}

/// One region of one file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Region {
    /// Seed of the history of its store.
    pub store: u64,
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// What the bytes are.
    pub region: String,
    /// How many of them there are.
    pub bytes: u64,
    /// What came of the bits flipped in it.
    #[serde(flatten)]
    pub tally: Tally,
    /// The first words of the most frequent findings.
    pub findings: Vec<String>,
}

/// One damage, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct RotCase {
    /// Seed of the history of the store.
    pub store: u64,
    /// What was done.
    pub damage: RotDamage,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether the finding names one of the files.
    pub is_named: bool,
    /// What the engine said, or what differs.
    pub what: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RotReport {
    /// Bits that were flipped, one at a time.
    pub flips: u64,
    /// What came of the flips.
    #[serde(flatten)]
    pub tally: Tally,
    /// Bytes of the stores.
    pub bytes: u64,
    /// What came of files lost, cut off or swapped.
    pub whole_files: Tally,
    /// Each of those.
    pub whole_file_cases: Vec<RotCase>,
    /// The flips by file and region.
    pub regions: Vec<Region>,
    /// The first flips that were not survived.
    pub failures: Vec<RotCase>,
    /// Time that it took, in seconds.
    pub seconds: f64,
}

impl RotReport {
    /// Whether nothing was lost, wrong, panicking or hanging.
    pub fn is_clean(&self) -> bool {
        self.tally.is_clean() && self.whole_files.is_clean()
    }
}

/// Store, file and name of a region.
type RegionKey = (u64, PathBuf, String);

/// Counts while the jobs run.
#[derive(Default)]
struct Count {
    report: RotReport,
    regions: BTreeMap<RegionKey, (Region, BTreeMap<String, u64>)>,
}

impl BitRot {
    /// Makes stores, damages copies of them, and opens them. `progress` is told how many of how
    /// many are done.
    ///
    /// # Errors
    ///
    /// [`WorkloadError`]: a store could not be made, or not be copied.
    pub fn run(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<RotReport, WorkloadError> {
        let start = Instant::now();
        let stores = SEEDS.into_iter().map(|seed| Store::make(seed).map(Arc::new));
        let stores = stores.collect::<Result<Vec<_>, _>>()?;
        let damages = self.damages(&stores);
        let count = Mutex::new(Count::of(&stores));
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                scope.spawn(|| {
                    while let Some((store, damage)) =
                        damages.get(next.fetch_add(1, Ordering::SeqCst))
                    {
                        match observe(store, damage) {
                            Ok(finding) => {
                                let mut count =
                                    count.lock().unwrap_or_else(PoisonError::into_inner);
                                count.add(store, damage, finding);
                                progress(count.done(), damages.len() as u64);
                            }
                            Err(error) => {
                                next.store(damages.len(), Ordering::SeqCst);
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let mut report = count.into_inner().unwrap_or_else(PoisonError::into_inner).report();
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Every damage to try, whole files first.
    fn damages<'a>(&self, stores: &'a [Arc<Store>]) -> Vec<(&'a Arc<Store>, RotDamage)> {
        let mut damages: Vec<_> = stores
            .iter()
            .flat_map(|store| damage::whole_files(store).into_iter().map(move |d| (store, d)))
            .collect();
        let bytes: u64 = stores.iter().map(|store| store.bytes()).sum();
        let flips = self.flips.unwrap_or(bytes);
        let mut random = Random::new(self.seed);
        for number in 0..flips {
            // Evenly over all bytes; more flips than bytes begin again, with other bits.
            let mut place = if flips > bytes { number % bytes } else { number * bytes / flips };
            for store in stores {
                if place < store.bytes() {
                    let (file, offset) = store.place(place);
                    let (file, bit) = (file.to_owned(), random.below(8) as u32);
                    damages.push((store, RotDamage::Flip { file, offset, bit }));
                    break;
                }
                place -= store.bytes();
            }
        }
        damages
    }
}

impl Count {
    fn of(stores: &[Arc<Store>]) -> Self {
        let mut count = Self::default();
        let files = stores.iter().flat_map(|store| store.files().iter().map(move |f| (store, f)));
        for (store, (file, content)) in files {
            count.report.bytes += content.len() as u64;
            for offset in 0..content.len() as u64 {
                let region = region_of(file, content, offset);
                let (row, _) =
                    count.regions.entry((store.seed, file.clone(), region.to_owned())).or_default();
                row.bytes += 1;
            }
        }
        count
    }

    fn done(&self) -> u64 {
        self.report.flips + self.report.whole_file_cases.len() as u64
    }

    fn add(&mut self, store: &Store, damage: &RotDamage, finding: Finding) {
        let report = &mut self.report;
        let words = finding.words(WORDS);
        let case = || RotCase {
            store: store.seed,
            damage: damage.clone(),
            outcome: finding.outcome,
            is_named: finding.is_named,
            what: finding.what.clone(),
        };
        let RotDamage::Flip { file, offset, .. } = damage else {
            report.whole_files.add(&finding);
            report.whole_file_cases.push(case());
            return;
        };
        report.flips += 1;
        report.tally.add(&finding);
        if finding.outcome.is_failure() && report.failures.len() < FAILURES_MAX {
            report.failures.push(case());
        }
        let region = region_of(file, store.content(file), *offset);
        let (row, findings) =
            self.regions.entry((store.seed, file.clone(), region.to_owned())).or_default();
        row.tally.add(&finding);
        if finding.outcome != Outcome::Harmless {
            *findings.entry(words).or_default() += 1;
        }
    }

    fn report(mut self) -> RotReport {
        for ((store, file, region), (row, findings)) in self.regions {
            let mut findings: Vec<_> = findings.into_iter().collect();
            findings.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let findings = findings.into_iter().take(FINDINGS_MAX).map(|(text, _)| text).collect();
            self.report.regions.push(Region { store, file, region, findings, ..row });
        }
        self.report
            .whole_file_cases
            .sort_by(|a, b| (a.store, &a.damage).cmp(&(b.store, &b.damage)));
        self.report.failures.sort_by(|a, b| (a.store, &a.damage).cmp(&(b.store, &b.damage)));
        self.report
    }
}

#[cfg(test)]
mod tests;
