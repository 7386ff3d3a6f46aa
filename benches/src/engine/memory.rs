//! Memory of many groups, above that of raft-engine: the same files, held open by each.

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

/// Groups that are founded in one write.
const FOUNDED_TOGETHER: u64 = 1_000;

/// Measures.
pub(crate) fn run(args: &EngineArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let data_dir = dir.join("data");
    eprintln!("memory: making {} groups", args.groups);
    make(&data_dir, args.groups)?;
    let log_dir = data_dir.join("log");
    let open = |system| match system {
        System::QuorateEngine => child::open(system, &data_dir, false, Some(0)),
        System::RaftEngine => child::open(system, &log_dir, false, None),
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..args.opens {
        for system in System::turns(round) {
            let opened = open(system)?;
            eprintln!("memory: {} holds {} bytes", system.name(), opened.rss_bytes);
            match system {
                System::QuorateEngine => {
                    if opened.found != args.groups {
                        return Err(format!("{} groups were found", opened.found).into());
                    }
                    ours.push(opened);
                }
                System::RaftEngine => theirs.push(opened),
            }
        }
    }
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
    let (mut our_row, their_row) =
        (row(System::QuorateEngine, &ours), row(System::RaftEngine, &theirs));
    let more = our_row.rss_bytes.zip(their_row.rss_bytes);
    our_row.bytes_per_group =
        more.map(|(ours, theirs)| (ours as f64 - theirs as f64) / args.groups as f64);
    let ratios = ours
        .iter()
        .zip(&theirs)
        .map(|(ours, theirs)| ours.rss_bytes as f64 / theirs.rss_bytes as f64);
    Ok(vec![our_row.with_ratio(Spread::of(ratios)), their_row])
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
