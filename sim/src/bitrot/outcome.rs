//! Opening a damaged store, and what comes of it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use quorate_engine::{Engine, Formatted};
use serde::Serialize;

use super::damage::RotDamage;
use super::store::Store;
use crate::scratch::scratch;
use crate::state::StoreState;
use crate::workload::config;

/// How long opening may take; it takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// What the engine says of a panic that it caught.
const CAUGHT_PANIC: &str = "raft-engine panicked";

/// What came of opening a damaged store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was reported.
    Detected,
    /// Nothing was reported, and everything is as it was written.
    Harmless,
    /// Nothing was reported, and something is missing.
    SilentLoss,
    /// Nothing was reported, and something is not what was written.
    WrongData,
    /// A panic that nobody caught.
    Panic,
    /// It did not end in time.
    Hang,
}

impl Outcome {
    /// Whether it must never be.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Detected | Self::Harmless)
    }
}

/// An outcome, and what was said.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub outcome: Outcome,
    /// What the engine said, or what differs; without the directory's name.
    pub what: String,
    /// Whether it names a damaged file.
    pub is_named: bool,
    /// Whether it is a panic that the engine caught.
    pub is_caught_panic: bool,
}

impl Finding {
    /// The first words, numbers left out, so that like findings are counted together.
    pub(super) fn words(&self, count: usize) -> String {
        let words = self.what.split_whitespace().map(|word| {
            let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
            // Names of files stay whole: they tell findings apart.
            if has_digit && !word.contains('/') { "N" } else { word }
        });
        words.take(count).collect::<Vec<_>>().join(" ")
    }
}

/// Damages a copy of the store, and opens it in a thread of its own, with a deadline.
pub(super) fn observe(store: &Arc<Store>, damage: &RotDamage) -> io::Result<Finding> {
    let dir = scratch()?;
    store.copy(dir.path(), &damage.apply(store))?;
    let (sender, receiver) = sync_channel(1);
    let (store, path) = (store.clone(), dir.path().to_owned());
    std::thread::Builder::new().spawn(move || {
        let checked = catch_unwind(AssertUnwindSafe(|| outcome(&path, &store)));
        let panicked = |_| (Outcome::Panic, "a panic that nobody caught".to_owned());
        // Nobody waits any more: it took too long, and is counted as that.
        let _ = sender.send(checked.unwrap_or_else(panicked));
    })?;
    let (outcome, what) = match receiver.recv_timeout(DEADLINE) {
        Ok(checked) => checked,
        Err(RecvTimeoutError::Timeout) => {
            (Outcome::Hang, format!("not opened within {} s", DEADLINE.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => (Outcome::Panic, "the thread ended".to_owned()),
    };
    let root = dir.path().display().to_string();
    let what = what.replace(&format!("{root}/"), "").replace(&root, "the directory");
    let names = |file: &Path| {
        file.file_name().is_some_and(|name| what.contains(name.to_string_lossy().as_ref()))
    };
    let is_detected = outcome == Outcome::Detected;
    let is_named = is_detected && damage.files().into_iter().any(names);
    let is_caught_panic = is_detected && what.contains(CAUGHT_PANIC);
    Ok(Finding { outcome, what, is_named, is_caught_panic })
}

/// Opens the store in `dir`, and compares it with what it must be. The one place that knows how
/// the engine reports damage.
fn outcome(dir: &Path, store: &Store) -> (Outcome, String) {
    let detected = |error: &dyn std::fmt::Display| (Outcome::Detected, error.to_string());
    let formatted = match Formatted::open(dir) {
        Ok(formatted) => formatted,
        Err(error) => return detected(&error),
    };
    if *formatted.identity() != store.identity {
        return (Outcome::WrongData, "the identity is not what was written".to_owned());
    }
    let engine = match Engine::open(formatted, &config()) {
        Ok(engine) => engine,
        Err(error) => return detected(&error),
    };
    if let Some(finding) = engine.damaged.values().flatten().next() {
        return detected(finding);
    }
    let state = match StoreState::read(&engine) {
        Ok(state) => state,
        Err(error) => return detected(&error),
    };
    if let Err(error) = engine.writer.close() {
        return detected(&error);
    }
    match state.difference(&store.state) {
        None => match engine.notes.first() {
            Some(note) => detected(note),
            None => (Outcome::Harmless, String::new()),
        },
        Some(difference) if difference.is_missing => (Outcome::SilentLoss, difference.to_string()),
        Some(difference) => (Outcome::WrongData, difference.to_string()),
    }
}
