//! Snapshots: written while commands go on, restored, and the hash of what is in them.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_statemachine::{Command, Image as _, Metadata, MetadataImage, StateMachine as _};

use super::alter::wishes;
use super::rounds::{best, millis};
use super::state::{State, accepted};
use super::{Failure, row};
use crate::report::Row;

/// Hashes of one round: each takes less than a look at the clock.
const HASHES: u32 = 1_000_000;

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
    let mut restored = None;
    let read = best(rounds, |_| {
        let begin = Instant::now();
        let machine = Metadata::restore(&mut snapshot.as_slice())?;
        let took = begin.elapsed();
        restored = Some(machine.image());
        Ok(took)
    })?;
    let image = restored.ok_or("there is no round")?;
    let bytes = u64::try_from(snapshot.len())?;
    let mut rows = [("snapshot-write", written), ("snapshot-restore", read)].map(|(what, took)| {
        let mut row = row(what, state.partitions);
        row.millis = millis(took);
        row.state_bytes = Some(bytes);
        row
    });
    rows[0].pause_ms = millis(shortest_pause);
    let mut hash = row("state-hash", state.partitions);
    hash.nanos = Some(hash_nanos(&image, rounds)?);
    Ok(rows.into_iter().chain([hash]).collect())
}

/// What it takes to ask an image for its hash.
fn hash_nanos(image: &MetadataImage, rounds: u32) -> Result<f64, Failure> {
    let took = best(rounds, |_| {
        let begin = Instant::now();
        for _ in 0..HASHES {
            black_box(black_box(image).state_hash());
        }
        Ok(begin.elapsed())
    })?;
    Ok(took.as_secs_f64() * 1e9 / f64::from(HASHES))
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
