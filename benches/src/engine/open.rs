//! Opening a long log: ours verifies every entry, so it is compared with opening raft-engine and
//! reading every entry once.

use std::path::Path;
use std::sync::Arc;

use quorate_engine::{DefaultFileSystem, Engine};

use crate::engine::ours::{self, Ours};
use crate::engine::payload;
use crate::engine::theirs::Theirs;
use crate::engine::{EngineArgs, Failure, System, child};
use crate::report::Row;
use crate::spread::Spread;

/// Entries of one write while the stores are made.
const BATCH: u64 = 512;

/// Entries beyond the snapshot: those of a node that took one lately.
const REPLAYED_ENTRIES: u64 = 1_000;

/// Measures with the snapshot at the start of the log, and then near its end.
pub(crate) fn run(args: &EngineArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let (our_dir, their_dir) = (dir.join("ours"), dir.join("theirs"));
    eprintln!("open: making two stores of {} entries", args.entries);
    make_ours(&our_dir, args.entries)?;
    make_theirs(&their_dir, args.entries)?;
    let mut rows = measure(args, "open-replay", &our_dir, &their_dir)?;
    move_snapshot(&our_dir)?;
    rows.splice(..0, measure(args, "open", &our_dir, &their_dir)?);
    Ok(rows)
}

/// The first index after the founding snapshot, and how many entries each write has.
fn batches(entries: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = |done| 2 + done;
    (0..entries).step_by(BATCH as usize).map(move |done| (first(done), BATCH.min(entries - done)))
}

fn make_ours(dir: &Path, entries: u64) -> Result<(), Failure> {
    ours::format(dir)?;
    let mut engine = ours::open(dir, &ours::config(), Arc::new(DefaultFileSystem))?;
    let group_id = ours::group(1)?;
    engine.snapshots.create(ours::meta(group_id, 1))?.finish()?;
    let mut group = Ours::founded(group_id, &engine.cache);
    for (first, count) in batches(entries) {
        group.append(&mut engine.writer, payload::entries(first, count))?;
    }
    Ok(engine.writer.close()?)
}

fn make_theirs(dir: &Path, entries: u64) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    let store = Theirs::open(dir, Arc::new(DefaultFileSystem))?;
    for (first, count) in batches(entries) {
        store.append(&payload::entries(first, count))?;
    }
    Ok(())
}

/// Records a snapshot near the end. The log is not compacted: every entry stays live.
fn move_snapshot(dir: &Path) -> Result<(), Failure> {
    let engine = ours::open(dir, &ours::config(), Arc::new(DefaultFileSystem))?;
    let Engine { mut writer, snapshots, mut groups, .. } = engine;
    let recovered = groups.remove(&ours::group(1)?).ok_or("the group is gone")?;
    let last = recovered.log.last();
    let mut group = Ours::recovered(recovered.log);
    group.durable_to(last);
    group.snapshot(&snapshots, last.index.saturating_sub(REPLAYED_ENTRIES).max(2))?;
    group.append(&mut writer, Vec::new())?;
    Ok(writer.close()?)
}

fn measure(
    args: &EngineArgs,
    what: &str,
    our_dir: &Path,
    their_dir: &Path,
) -> Result<Vec<Row>, Failure> {
    let open = |system| match system {
        System::QuorateEngine => child::open(system, our_dir, false, None),
        System::RaftEngine => child::open(system, their_dir, true, None),
    };
    // Both in the page cache: what is compared is the work, not the disk.
    for system in System::turns(0) {
        open(system)?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..args.opens {
        for system in System::turns(round) {
            let opened = open(system)?;
            eprintln!("{what}: {} in {:.3} s", system.name(), opened.seconds);
            match system {
                System::QuorateEngine => ours.push(opened),
                System::RaftEngine => theirs.push(opened),
            }
        }
    }
    if theirs.iter().any(|opened| opened.found != args.entries) {
        return Err("raft-engine does not hold the entries that it was given".into());
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours.seconds / theirs.seconds);
    let ratio = Spread::of(ratios);
    let row = |system: System, opened: &[child::Opened]| {
        let mut row = system.row(what);
        row.entries = Some(args.entries);
        row.seconds = Spread::of(opened.iter().map(|o| o.seconds)).map(|spread| spread.median);
        row.rss_bytes = Spread::of(opened.iter().map(|o| o.rss_bytes as f64))
            .map(|spread| spread.median as u64);
        row
    };
    Ok(vec![row(System::QuorateEngine, &ours).with_ratio(ratio), row(System::RaftEngine, &theirs)])
}
