//! Snapshots: written while commands go on, restored, and the hash of what is in them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_statemachine::{Command, Image as _, Metadata, MetadataImage, StateMachine as _};

use super::alter::wishes;
use super::rounds::{best, millis};
use super::state::{State, accepted};
use super::{Failure, row};
use crate::report::Row;

/// Measures.
pub(super) fn measure(state: &mut State, rounds: u32) -> Result<Vec<Row>, Failure> {
    let mut snapshot = Vec::new();
    let mut shortest_pause = Duration::MAX;
    let written = best(rounds, |_| {
        let (took, pause, bytes) = write(state)?;
        shortest_pause = shortest_pause.min(pause);
        snapshot = bytes;
        Ok(took)
    })?;
    let mut restored_hash = None;
    let (mut restored, mut hashed) = (Duration::MAX, Duration::MAX);
    for _ in 0..rounds {
        let begin = Instant::now();
        let machine = Metadata::restore(&mut snapshot.as_slice())?;
        restored = restored.min(begin.elapsed());
        let image = machine.image();
        let begin = Instant::now();
        let hash = image.state_hash();
        hashed = hashed.min(begin.elapsed());
        if restored_hash.replace(hash).is_some_and(|earlier| earlier != hash) {
            return Err("one snapshot was restored to two states".into());
        }
    }
    Ok([("snapshot-write", written), ("snapshot-restore", restored), ("state-hash", hashed)]
        .map(|(what, took)| {
            let mut row = row(what, state.partitions);
            row.millis = millis(took);
            if what == "snapshot-write" {
                row.pause_ms = millis(shortest_pause);
            }
            if what != "state-hash" {
                row.state_bytes = u64::try_from(snapshot.len()).ok();
            }
            row
        })
        .into())
}

/// Writes the state of now while further commands are applied: how long that took, the longest that
/// one of those took meanwhile, and the bytes.
fn write(state: &mut State) -> Result<(Duration, Duration, Vec<u8>), Failure> {
    let wishes = wishes(state);
    let commands: Vec<_> = wishes.iter().map(Command::encode).collect();
    // Some go before, so that the allocator is done with what the measurement itself has freed.
    let (before, meanwhile) = commands.split_at(commands.len() / 4);
    for command in before {
        accepted(state.apply(command)?.outcome)?;
        state.publish();
    }
    let image = state.image();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_to_memory(image, &done));
        let mut longest = Duration::ZERO;
        for command in meanwhile {
            if done.load(Ordering::Acquire) {
                break;
            }
            let begin = Instant::now();
            let applied = state.apply(command)?;
            state.publish();
            longest = longest.max(begin.elapsed());
            accepted(applied.outcome)?;
        }
        let (took, bytes) = writer.join().map_err(|_| "the writer panicked")??;
        Ok((took, longest, bytes))
    })
}

/// The image is dropped here, as by the worker that writes snapshots.
fn write_to_memory(
    image: MetadataImage,
    done: &AtomicBool,
) -> std::io::Result<(Duration, Vec<u8>)> {
    let begin = Instant::now();
    let mut bytes = Vec::new();
    let written = image.write_snapshot(&mut bytes);
    let took = begin.elapsed();
    done.store(true, Ordering::Release);
    written.map(|()| (took, bytes))
}
