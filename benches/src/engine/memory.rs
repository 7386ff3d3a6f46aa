//! Memory of many groups, above that of raft-engine: the same files, held open by each.
//!
//! Twice, with many groups and with few: what a group costs is the difference, without what each
//! program costs by itself.

use std::path::Path;
use std::sync::Arc;

use quorate_engine::{DefaultFileSystem, GroupWrite, LogId};

use crate::engine::ours::{self, Ours};
use crate::engine::payload;
use crate::engine::{EngineArgs, Failure, System, child};
use crate::report::Row;
use crate::spread::Spread;

/// Entries of each group, all applied, and in the log still.
const GROUP_ENTRIES: u64 = 8;

/// The few groups: this part of the many.
const FEW: u64 = 100;

/// Groups that are founded in one write.
const FOUNDED_TOGETHER: u64 = 1_000;

/// What both systems held, round by round.
struct Held {
    ours: Vec<child::Opened>,
    theirs: Vec<child::Opened>,
}

impl Held {
    /// Bytes of ours above theirs.
    fn more(&self) -> Option<f64> {
        let median = |opened: &[child::Opened]| {
            Spread::of(opened.iter().map(|opened| opened.rss_bytes as f64)).map(|of| of.median)
        };
        Some(median(&self.ours)? - median(&self.theirs)?)
    }
}

/// Measures.
pub(crate) fn run(args: &EngineArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let few = (args.groups / FEW).max(1);
    let base = hold(few, args.opens, &dir.join("few"))?;
    let held = hold(args.groups, args.opens, &dir.join("many"))?;
    let row = |system: System, opened: &[child::Opened]| {
        let median = |of: fn(&child::Opened) -> f64| {
            Spread::of(opened.iter().map(of)).map(|spread| spread.median)
        };
        let mut row = system.row("memory");
        row.groups = Some(args.groups);
        row.entries = Some(args.groups * GROUP_ENTRIES);
        row.seconds = median(|opened| opened.seconds);
        row.rss_bytes = median(|opened| opened.rss_bytes as f64).map(|bytes| bytes as u64);
        row
    };
    let mut our_row = row(System::QuorateEngine, &held.ours);
    our_row.bytes_per_group = held
        .more()
        .zip(base.more())
        .map(|(many, some)| (many - some) / args.groups.saturating_sub(few).max(1) as f64);
    let ratios = held
        .ours
        .iter()
        .zip(&held.theirs)
        .map(|(ours, theirs)| ours.rss_bytes as f64 / theirs.rss_bytes as f64);
    Ok(vec![our_row.with_ratio(Spread::of(ratios)), row(System::RaftEngine, &held.theirs)])
}

/// Makes a store of `groups`, and has each system hold it in turns.
fn hold(groups: u64, rounds: u32, data_dir: &Path) -> Result<Held, Failure> {
    eprintln!("memory: making {groups} groups");
    make(data_dir, groups)?;
    let log_dir = data_dir.join("log");
    let mut held = Held { ours: Vec::new(), theirs: Vec::new() };
    for round in 0..rounds {
        for system in System::turns(round) {
            let opened = match system {
                System::QuorateEngine => child::open(system, data_dir, false, Some(0)),
                System::RaftEngine => child::open(system, &log_dir, false, None),
            }?;
            eprintln!("memory: {} holds {} bytes", system.name(), opened.rss_bytes);
            match system {
                System::QuorateEngine if opened.found != groups => {
                    return Err(format!("{} groups were found", opened.found).into());
                }
                System::QuorateEngine => held.ours.push(opened),
                System::RaftEngine => held.theirs.push(opened),
            }
        }
    }
    Ok(held)
}

fn make(dir: &Path, count: u64) -> Result<(), Failure> {
    ours::format(dir)?;
    let mut engine = ours::open(dir, &ours::config(), Arc::new(DefaultFileSystem))?;
    let mut number = 1;
    while number <= count {
        let end = (number + FOUNDED_TOGETHER).min(count + 1);
        let mut groups: Vec<Ours> = (number..end)
            .map(|number| Ok(Ours::founded(ours::group(number)?, &engine.cache)))
            .collect::<Result<_, Failure>>()?;
        let writes: Vec<GroupWrite> = groups
            .iter_mut()
            .map(|group| group.emit(payload::entries(group.next_index(), GROUP_ENTRIES)))
            .collect();
        let lasts: Vec<LogId> = writes.iter().map(|write| write.record.last).collect();
        engine.writer.write(writes)?;
        for (group, last) in groups.iter_mut().zip(lasts) {
            group.durable_to(last);
            group.snapshot(&engine.snapshots, last.index)?;
        }
        engine.writer.write(groups.iter_mut().map(|group| group.emit(Vec::new())).collect())?;
        number = end;
    }
    Ok(engine.writer.close()?)
}
