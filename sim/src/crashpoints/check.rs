//! Opening what a crash left, and the verdict.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::{Engine, Formatted};
use serde::Serialize;

use super::cut::Cut;
use super::point::Subset;
use crate::disk::{CrashDisk, Image, Moment, Survival};
use crate::random::Random;
use crate::scratch::scratch;
use crate::state::StoreState;
use crate::workload::{Promise, config};

/// What the engine makes of what is in this text has panicked in raft-engine, and was caught.
const CAUGHT_PANIC: &str = "raft-engine panicked";

/// What came of opening a crashed disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds what was acknowledged, with or without what was being written.
    Survived,
    /// It opens, but does not hold that.
    Lost(String),
    /// It does not open.
    Refused(String),
    /// Something panicked.
    Panic(String),
}

/// Crashes as told, opens what is left, and compares.
pub(super) fn check(cut: &Cut, subset: Subset) -> Verdict {
    let checked = catch_unwind(AssertUnwindSafe(|| try_check(cut, subset)));
    let verdict = match checked {
        Ok(Ok(())) => return Verdict::Survived,
        Ok(Err(verdict)) => verdict,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            return Verdict::Panic(text.unwrap_or("without a text").to_owned());
        }
    };
    match verdict {
        Verdict::Refused(what) if what.contains(CAUGHT_PANIC) => Verdict::Panic(what),
        verdict => verdict,
    }
}

fn try_check(cut: &Cut, subset: Subset) -> Result<(), Verdict> {
    let dir = scratch().map_err(failed)?;
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let survival = match subset {
        Subset::PowerLoss(survival) => survival,
        Subset::Twice(seed) => return crash_twice(cut, seed, [&first, &second]),
        Subset::Kill => {
            let killed = cut.image.kill(&first).map_err(failed)?;
            let (recovered, image) = open(&killed, &first)?;
            compare(&recovered, &cut.promise)?;
            let left = image.power_loss(Survival::LoseAll, &second).map_err(failed)?;
            let (again, _) = open(&left, &second)?;
            let what = "recovered after a kill, and lost with the power afterwards";
            return same(&again, &recovered, what);
        }
    };
    let left = cut.image.power_loss(survival, &first).map_err(failed)?;
    let (recovered, _) = open(&left, &first)?;
    compare(&recovered, &cut.promise)
}

/// Loses the power, and once more while what is left is opened.
fn crash_twice(cut: &Cut, seed: u64, dirs: [&Path; 2]) -> Result<(), Verdict> {
    let [first, second] = dirs;
    let mut random = Random::new(seed);
    let left = cut.image.power_loss(Survival::Random(random.next()), first).map_err(failed)?;
    let images = Arc::new(Mutex::new(Vec::new()));
    left.observe({
        let images = images.clone();
        move |moment: &Moment<'_>| {
            let mut images = images.lock().unwrap_or_else(PoisonError::into_inner);
            images.push(moment.image());
            let half = moment.operation().len / 2;
            images.extend(moment.torn(half).transpose());
        }
    });
    let (recovered, _) = open(&left, first)?;
    compare(&recovered, &cut.promise)?;
    let mut images = std::mem::take(&mut *images.lock().unwrap_or_else(PoisonError::into_inner));
    if images.is_empty() {
        return Ok(());
    }
    let at = random.below(images.len() as u64) as usize;
    let image = images.swap_remove(at).map_err(failed)?;
    let left = image.power_loss(Survival::Random(random.next()), second).map_err(failed)?;
    let (again, _) = open(&left, second)?;
    // What a power loss has left is durable: the second one takes nothing of it.
    same(&again, &recovered, "recovered after a power loss, and lost by one during recovery")
}

fn same(again: &StoreState, recovered: &StoreState, what: &str) -> Result<(), Verdict> {
    match again.difference(recovered) {
        None => Ok(()),
        Some(difference) => Err(Verdict::Lost(format!("{what}: {difference}"))),
    }
}

/// The check itself cannot do its work: not a verdict on the engine, and not to be passed over.
fn failed(error: io::Error) -> Verdict {
    Verdict::Panic(format!("the check failed: {error}"))
}

/// Opens a crashed disk, reads all of it, and takes an image before it is closed.
fn open(disk: &CrashDisk, dir: &Path) -> Result<(StoreState, Image), Verdict> {
    let refused = |error: &dyn std::fmt::Display| Verdict::Refused(error.to_string());
    let formatted = Formatted::open(dir).map_err(|error| refused(&error))?;
    let engine = Engine::open_with(formatted, &config(), Arc::new(disk.clone()))
        .map_err(|error| refused(&error))?;
    if let Some(finding) = engine.damaged.values().flatten().next() {
        return Err(refused(finding));
    }
    let state = StoreState::read(&engine).map_err(|error| Verdict::Lost(error.to_string()))?;
    let image = disk.image().map_err(|error| refused(&error))?;
    engine.writer.close().map_err(|error| refused(&error))?;
    Ok((state, image))
}

/// What was found must be the state after the last acknowledged batch, or after the one in flight.
fn compare(found: &StoreState, promise: &Promise) -> Result<(), Verdict> {
    let Some(difference) = found.difference(&promise.acknowledged) else { return Ok(()) };
    match &promise.in_flight {
        None => Err(Verdict::Lost(difference.to_string())),
        Some(in_flight) => match found.difference(in_flight) {
            None => Ok(()),
            Some(other) => Err(Verdict::Lost(format!(
                "{difference}; and with the batch that was being written: {other}"
            ))),
        },
    }
}
