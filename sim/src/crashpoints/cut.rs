//! The images of one history: before and after each operation on the disk, and within writes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::point::{CrashPoint, Subset, Variant};
use crate::disk::{CrashDisk, Fault, Image, Moment, Operation, Phase, Survival};
use crate::random::Random;
use crate::scratch::scratch;
use crate::workload::{Ledger, Promise, WorkloadError, found, run};

/// Subsets that are drawn at random for each image.
const RANDOM_SUBSETS: u64 = 3;

/// A history cut off at one place, and what must be left of it.
#[derive(Debug)]
pub(super) struct Cut {
    pub seed: u64,
    /// Number of the operation.
    pub number: u64,
    /// The operation, in words.
    pub operation: String,
    pub variant: Variant,
    pub image: Image,
    pub promise: Promise,
}

impl Cut {
    pub(super) fn point(&self, subset: Subset) -> CrashPoint {
        let Self { seed, number: operation, variant, .. } = *self;
        CrashPoint { seed, operation, variant, subset }
    }

    /// What to try with it. When all is synced, every power loss leaves the same.
    pub(super) fn subsets(&self) -> Vec<Subset> {
        let mut subsets = vec![Subset::PowerLoss(Survival::LoseAll)];
        if self.image.is_synced() {
            return subsets;
        }
        subsets.push(Subset::PowerLoss(Survival::KeepAll));
        let place = match self.variant {
            Variant::Before => 0,
            Variant::After => 1,
            Variant::Torn(len) => 2 + len as u64,
        };
        let mut random = Random::new(self.seed ^ (self.number << 20) ^ (place << 44));
        for _ in 0..RANDOM_SUBSETS {
            // 32 bits are enough, and shorter to type.
            subsets.push(Subset::PowerLoss(Survival::Random(random.next() >> 32)));
        }
        subsets.extend([Subset::Kill, Subset::Twice(random.next() >> 32)]);
        subsets
    }
}

/// Lengths at which a write is torn: its ends, a sector's border, and one in between by its number.
fn tears(operation: &Operation) -> Vec<usize> {
    let len = operation.len;
    let sector = 512 - (operation.offset % 512) as usize;
    let anywhere = Random::new(operation.number).below(len as u64) as usize;
    let mut tears: Vec<_> =
        [1, len / 2, len.saturating_sub(1), sector, anywhere].into_iter().collect();
    tears.retain(|tear| *tear > 0 && *tear < len);
    tears.sort_unstable();
    tears.dedup();
    tears
}

/// What was collected, or why not.
type Collected = Arc<Mutex<(Vec<Cut>, Option<io::Error>)>>;

/// What to do with a moment that differs in nothing from the one before it: most are before an
/// operation, and just as after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    LeftOut,
    Kept,
}

/// Lives through the history of `seed`, and cuts it off everywhere.
pub(super) fn cut_history(seed: u64, repeats: Repeats) -> Result<Vec<Cut>, WorkloadError> {
    cut_history_on(seed, repeats, None)
}

/// The same on a disk with a fault.
pub(super) fn cut_history_on(
    seed: u64,
    repeats: Repeats,
    fault: Option<Fault>,
) -> Result<Vec<Cut>, WorkloadError> {
    let dir = scratch()?;
    found(dir.path())?;
    let disk = Arc::new(CrashDisk::new(dir.path())?);
    if let Some(fault) = fault {
        disk.fail(fault);
    }
    let (ledger, collected) = (Ledger::default(), Collected::default());
    disk.observe({
        let (ledger, collected) = (ledger.clone(), collected.clone());
        move |moment: &Moment<'_>| {
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            let (cuts, failed) = &mut *collected;
            if let Err(error) = collect(cuts, moment, seed, repeats, &ledger.promise()) {
                *failed = Some(error);
            }
        }
    });
    let promise = run(seed, disk.clone(), dir.path(), ledger)?;
    let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
    let (cuts, failed) = &mut *collected;
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    // And the clean end.
    let number = disk.operations();
    let operation = format!("{number} closed");
    cuts.push(Cut {
        seed,
        number,
        operation,
        variant: Variant::After,
        image: disk.image()?,
        promise,
    });
    Ok(std::mem::take(cuts))
}

fn collect(
    cuts: &mut Vec<Cut>,
    moment: &Moment<'_>,
    seed: u64,
    repeats: Repeats,
    promise: &Promise,
) -> io::Result<()> {
    let operation = moment.operation();
    let variant = match moment.phase() {
        Phase::Before => Variant::Before,
        Phase::After => Variant::After,
    };
    let (number, text) = (operation.number, operation.to_string());
    let mut add = |variant, image| {
        let cut =
            Cut { seed, number, operation: text.clone(), variant, image, promise: promise.clone() };
        let is_same = |last: &Cut| last.promise.is_same(&cut.promise) && last.image == cut.image;
        if repeats == Repeats::Kept || !cuts.last().is_some_and(is_same) {
            cuts.push(cut);
        }
    };
    add(variant, moment.image()?);
    for len in tears(operation) {
        if let Some(torn) = moment.torn(len)? {
            add(Variant::Torn(len), torn);
        }
    }
    Ok(())
}
