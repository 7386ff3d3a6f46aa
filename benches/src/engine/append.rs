//! Group append with fsync: both stores open at once, in two directories of one disk, and short
//! turns of each.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_engine::Engine;
use rustix::time::{ClockId, clock_gettime};

use crate::engine::counted::CountedDisk;
use crate::engine::ours::{self, Ours, Took};
use crate::engine::payload;
use crate::engine::theirs::Theirs;
use crate::engine::{EngineArgs, Failure, System};
use crate::latency::Latencies;
use crate::report::Row;
use crate::spread::Spread;

/// Entries after which both are compacted, between two rounds: raft-engine's index of them grows,
/// and a broker's log is not much longer either.
const LIVE_ENTRIES_MAX: u64 = 100_000;

/// Entries that a compaction keeps.
const KEPT_ENTRIES: u64 = 1_000;

/// Measures every size of batch.
pub(crate) fn run(args: &EngineArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for &batch in &args.batches {
        eprintln!("append: batches of {batch}, {} rounds of {} writes", args.rounds, args.writes);
        let dir = dir.join(batch.to_string());
        let mut pair = Pair::open(&dir, batch as u64)?;
        // Both warm, their first files allocated.
        pair.round(0, args.writes)?;
        let (mut ours, mut theirs) = (Side::new()?, Side::new()?);
        let mut ratios = Ratios::default();
        for round in 0..args.rounds {
            let turns = pair.round(round, args.writes)?;
            ratios.note(&turns);
            ours.note(turns.ours);
            theirs.note(turns.theirs);
        }
        rows.extend(report(batch, &ours, &theirs, &ratios));
        pair.close()?;
    }
    Ok(rows)
}

/// How long the witness may stay unsynced.
const WITNESS_INTERVAL: Duration = Duration::from_millis(100);

/// Both stores.
struct Pair {
    batch: u64,
    engine: Engine<CountedDisk>,
    group: Ours,
    our_disk: Arc<CountedDisk>,
    theirs: Theirs<CountedDisk>,
    their_disk: Arc<CountedDisk>,
    their_next: u64,
    witness_synced: Instant,
}

/// What both did in one round.
struct Turns {
    ours: Turn,
    theirs: Turn,
}

/// One store's turn.
#[derive(Default)]
struct Turn {
    took: Vec<Took>,
    cpu: Duration,
    fsyncs: u64,
}

impl Pair {
    fn open(dir: &Path, batch: u64) -> Result<Pair, Failure> {
        let (our_dir, their_dir) = (dir.join("ours"), dir.join("theirs"));
        let (our_disk, their_disk) = <(Arc<CountedDisk>, Arc<CountedDisk>)>::default();
        ours::format(&our_dir)?;
        let engine = ours::open(&our_dir, &ours::config(), our_disk.clone())?;
        let group_id = ours::group(1)?;
        engine.snapshots.create(ours::meta(group_id, 1))?.finish()?;
        let group = Ours::founded(group_id, &engine.cache);
        std::fs::create_dir_all(&their_dir)?;
        let theirs = Theirs::open(&their_dir, their_disk.clone())?;
        let their_next = group.next_index();
        let witness_synced = Instant::now();
        Ok(Pair { batch, engine, group, our_disk, theirs, their_disk, their_next, witness_synced })
    }

    fn round(&mut self, round: u32, writes: u32) -> Result<Turns, Failure> {
        let mut turns = Turns { ours: Turn::default(), theirs: Turn::default() };
        for system in System::turns(round) {
            match system {
                System::QuorateEngine => turns.ours = self.our_turn(writes)?,
                System::RaftEngine => turns.theirs = self.their_turn(writes)?,
            }
        }
        if self.group.live() > LIVE_ENTRIES_MAX {
            let Engine { writer, snapshots, .. } = &mut self.engine;
            self.group.compact(writer, snapshots, KEPT_ENTRIES)?;
            self.theirs.compact(KEPT_ENTRIES)?;
        }
        Ok(turns)
    }

    fn our_turn(&mut self, writes: u32) -> Result<Turn, Failure> {
        let (mut turn, fsyncs) = (Turn::default(), self.our_disk.fsyncs());
        for _ in 0..writes {
            let entries = payload::entries(self.group.next_index(), self.batch);
            let cpu = cpu_time();
            let mut took = self.group.append(&mut self.engine.writer, entries)?;
            // As the loop's writer does.
            if self.witness_synced.elapsed() >= WITNESS_INTERVAL {
                let begin = Instant::now();
                self.engine.writer.sync_witness()?;
                self.witness_synced = Instant::now();
                took.write += self.witness_synced - begin;
                took.whole += self.witness_synced - begin;
            }
            turn.took.push(took);
            turn.cpu += cpu_time().saturating_sub(cpu);
        }
        turn.fsyncs = self.our_disk.fsyncs() - fsyncs;
        Ok(turn)
    }

    fn their_turn(&mut self, writes: u32) -> Result<Turn, Failure> {
        let (mut turn, fsyncs) = (Turn::default(), self.their_disk.fsyncs());
        for _ in 0..writes {
            let entries = payload::entries(self.their_next, self.batch);
            let cpu = cpu_time();
            turn.took.push(self.theirs.append(&entries)?);
            turn.cpu += cpu_time().saturating_sub(cpu);
            self.their_next += self.batch;
        }
        turn.fsyncs = self.their_disk.fsyncs() - fsyncs;
        Ok(turn)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.engine.writer.close()?)
    }
}

/// CPU time of this thread: both write in line on it.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// All turns of one store.
struct Side {
    write: Latencies,
    whole: Latencies,
    writes: u32,
    cpu: Duration,
    fsyncs: u64,
}

impl Side {
    fn new() -> Result<Side, Failure> {
        let (write, whole) = (Latencies::new()?, Latencies::new()?);
        Ok(Side { write, whole, writes: 0, cpu: Duration::ZERO, fsyncs: 0 })
    }

    fn note(&mut self, turn: Turn) {
        for took in &turn.took {
            self.write.note(took.write);
            self.whole.note(took.whole);
            self.writes += 1;
        }
        self.cpu += turn.cpu;
        self.fsyncs += turn.fsyncs;
    }

    /// A row with these of its latencies. CPU time is that of the whole.
    fn row(&self, system: System, what: &str, batch: usize, latencies: &Latencies) -> Row {
        let mut row = system.row(what).with_latencies(latencies);
        row.batch = Some(batch);
        row.fsyncs_per_op = Some(self.fsyncs as f64 / f64::from(self.writes));
        row.cpu_us_per_op = Some(self.cpu.as_secs_f64() * 1e6 / f64::from(self.writes));
        row
    }
}

/// Ours over theirs, of each round's medians.
#[derive(Default)]
struct Ratios {
    append: Vec<f64>,
    round_trip: Vec<f64>,
    prepared: Vec<f64>,
}

impl Ratios {
    fn note(&mut self, turns: &Turns) {
        let (write, whole) = (|took: &Took| took.write, |took: &Took| took.whole);
        let (our_write, our_whole) = (turns.ours.median(write), turns.ours.median(whole));
        let (their_write, their_whole) = (turns.theirs.median(write), turns.theirs.median(whole));
        self.append.extend(over(our_write, their_whole));
        self.round_trip.extend(over(our_whole, their_whole));
        self.prepared.extend(over(our_write, their_write));
    }
}

impl Turn {
    fn median(&self, of: impl Fn(&Took) -> Duration) -> Option<f64> {
        Some(Spread::of(self.took.iter().map(|took| of(took).as_secs_f64()))?.median)
    }
}

fn over(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    ours.zip(theirs).map(|(ours, theirs)| ours / theirs)
}

fn report(batch: usize, ours: &Side, theirs: &Side, ratios: &Ratios) -> Vec<Row> {
    let pair = |what, our_latencies, their_latencies, ratios: &[f64]| {
        let ratio = Spread::of(ratios.iter().copied());
        [
            ours.row(System::QuorateEngine, what, batch, our_latencies).with_ratio(ratio),
            theirs.row(System::RaftEngine, what, batch, their_latencies),
        ]
    };
    [
        pair("append", &ours.write, &theirs.whole, &ratios.append),
        pair("append-round-trip", &ours.whole, &theirs.whole, &ratios.round_trip),
        pair("append-prepared", &ours.write, &theirs.write, &ratios.prepared),
    ]
    .into_iter()
    .flatten()
    .collect()
}
