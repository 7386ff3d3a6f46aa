//! `failover`: how long nobody gets an answer when the process that leads the quorum is killed.
//!
//! | `what` | `gap_ms` |
//! | --- | --- |
//! | `kill-N` | the longest time between two acknowledged changes around the `N`th `kill -9` |
//! | `median`, `max` | of these |
//!
//! Three nodes with default settings, each a process with a broker and clients of its own, which
//! create topics all the time; the dead node is started again after each kill. At the end every topic
//! that was acknowledged must be there, on every node, under the id that was acknowledged, and none that
//! nobody asked for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::ledger::Ledger;
use crate::load::now;
use crate::process::Failure;
use crate::report::Row;
use crate::spread::Spread;
use crate::trio::Trio;

/// Acknowledgements of each node that runs, before a kill and after it: the load is back.
const STEADY: u64 = 50;

/// How often the leader is killed, and what goes on meanwhile.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// Kills of the quorum's leader.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Clients of each node, with one change under way each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Where the data directories are made; a temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures, and fails where anything acknowledged is missing or there twice.
pub(crate) fn run(args: &FailoverArgs) -> Result<Vec<Row>, Failure> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut trio = Trio::start(dir.path())?;
    let begin = format!("load {}", args.clients);
    trio.leader()?;
    trio.ask_all(&begin)?;
    let mut gaps = Vec::new();
    for kill in 1..=args.kills {
        trio.steady(STEADY)?;
        let dead = trio.leader()?;
        let from = now();
        // Dropped, it is killed.
        trio.members.remove(&dead);
        trio.steady(STEADY)?;
        let gap = longest_gap(&Ledger::read(dir.path())?.acknowledged_at(), from, now());
        eprintln!("kill {kill} of {}: node {dead}, {:.0} ms", args.kills, gap.as_secs_f64() * 1e3);
        gaps.push(gap.as_secs_f64() * 1e3);
        trio.restart(dead)?;
        trio.ask(dead, &begin)?;
    }
    trio.steady(STEADY)?;
    trio.ask_all("halt")?;
    let ledger = Ledger::read(dir.path())?;
    for (node, topics) in trio.ask_all("topics")? {
        let findings = ledger.compare(node, &serde_json::from_str::<Vec<_>>(&topics)?);
        if let Some(finding) = findings.all().next() {
            return Err(finding.clone().into());
        }
    }
    let (acknowledged, unknown) = (ledger.acknowledged.len(), ledger.unknown());
    eprintln!("{acknowledged} acknowledged, each there once; {unknown} unknown, never asked again");
    Ok(rows(&gaps, args.clients))
}

fn rows(gaps: &[f64], clients: u32) -> Vec<Row> {
    let row = |what: String, gap_ms: Option<f64>| {
        let (what, clients) = (Some(what), 3 * clients);
        Row { what, clients, gap_ms, ..Row::new("quorate", "processes", 3) }
    };
    let kills =
        (1..).zip(gaps).map(|(kill, gap): (u32, _)| row(format!("kill-{kill}"), Some(*gap)));
    let mut rows: Vec<Row> = kills.collect();
    let median = Spread::of(gaps.iter().copied()).map(|gaps| gaps.median);
    rows.push(row("median".to_owned(), median));
    rows.push(row("max".to_owned(), gaps.iter().copied().max_by(f64::total_cmp)));
    rows
}

/// The longest time between two of these instants: from the last before `from` to `until`.
fn longest_gap(instants: &BTreeSet<Duration>, from: Duration, until: Duration) -> Duration {
    let before = instants.range(..from).next_back().copied().unwrap_or(from);
    let mut last = before;
    let mut longest = Duration::ZERO;
    for at in instants.range(from..).copied().chain([until]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_begins_before_the_kill_and_may_not_have_ended() {
        let ms = Duration::from_millis;
        let instants = BTreeSet::from([10, 500, 510, 700, 710].map(ms));
        assert_eq!(longest_gap(&instants, ms(520), ms(720)), ms(190));
        assert_eq!(longest_gap(&instants, ms(505), ms(1_000)), ms(290));
        assert_eq!(longest_gap(&BTreeSet::new(), ms(5), ms(9)), ms(4));
    }
}
