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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::load::{LEDGER, Line, now};
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
        steady(&mut trio)?;
        let dead = trio.leader()?;
        let from = now();
        // Dropped, it is killed.
        trio.members.remove(&dead);
        steady(&mut trio)?;
        let gap = longest_gap(&ledgers(dir.path())?.acknowledged_at, from, now());
        eprintln!("kill {kill} of {}: node {dead}, {:.0} ms", args.kills, gap.as_secs_f64() * 1e3);
        gaps.push(gap.as_secs_f64() * 1e3);
        trio.restart(dead)?;
        trio.ask(dead, &begin)?;
    }
    steady(&mut trio)?;
    trio.ask_all("halt")?;
    let ledger = ledgers(dir.path())?;
    for (node, topics) in trio.ask_all("topics")? {
        ledger.compare(node, &serde_json::from_str(&topics)?)?;
    }
    let acknowledged = ledger.acknowledged.len();
    let unknown = ledger.asked.len() - acknowledged;
    eprintln!("{acknowledged} acknowledged, each there once; {unknown} unknown, never asked again");
    Ok(rows(&gaps, args.clients))
}

/// Waits until each node that runs has had a number of acknowledgements from now on.
fn steady(trio: &mut Trio) -> Result<(), Failure> {
    let before = acknowledged(trio)?;
    trio.until("acknowledgements from all nodes that run", |trio| {
        let now = acknowledged(trio)?;
        Ok(before.iter().all(|(node, count)| now[node] >= count + STEADY).then_some(()))
    })
}

fn acknowledged(trio: &mut Trio) -> Result<BTreeMap<u64, u64>, Failure> {
    let answers = trio.ask_all("acknowledged")?.into_iter();
    answers.map(|(node, count)| Ok((node, count.parse()?))).collect()
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

/// What all clients were told.
#[derive(Debug, Default)]
struct Ledger {
    asked: BTreeSet<String>,
    /// The ids of topics, by their names.
    acknowledged: BTreeMap<String, String>,
    acknowledged_at: BTreeSet<Duration>,
}

/// Reads what all clients have written down.
fn ledgers(dir: &Path) -> Result<Ledger, Failure> {
    let mut ledger = Ledger::default();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == LEDGER) {
            let text = std::fs::read_to_string(path)?;
            // A line without an end was cut off with its process.
            let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.map(serde_json::from_str).try_for_each(|line| ledger.take(line?))?;
        }
    }
    Ok(ledger)
}

impl Ledger {
    fn take(&mut self, line: Line) -> Result<(), Failure> {
        match line {
            Line::Asked { name } => drop(self.asked.insert(name)),
            Line::Acknowledged { name, id, at } => {
                self.acknowledged_at.insert(at);
                self.acknowledged.insert(name, id);
            }
            Line::Failed { name, why } => return Err(format!("topic {name}: {why}").into()),
        }
        Ok(())
    }

    /// Holds the topics of a node against what clients were told.
    fn compare(&self, node: u64, topics: &BTreeMap<String, String>) -> Result<(), Failure> {
        let lost = self.acknowledged.iter().find(|(name, id)| topics.get(*name) != Some(*id));
        if let Some((name, id)) = lost {
            return Err(format!("topic {name}, acknowledged as {id}, is not on node {node}").into());
        }
        match topics.keys().find(|name| !self.asked.contains(*name)) {
            Some(name) => Err(format!("nobody asked for topic {name} of node {node}").into()),
            None => Ok(()),
        }
    }
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

    #[test]
    fn what_is_lost_or_of_nobody_is_named() {
        let named = |names: &[(&str, &str)]| {
            names.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect()
        };
        let ledger = Ledger {
            asked: ["a", "b", "c"].map(str::to_owned).into(),
            acknowledged: named(&[("a", "1"), ("b", "2")]),
            ..Ledger::default()
        };
        for there in [&[("a", "1"), ("b", "2")][..], &[("a", "1"), ("b", "2"), ("c", "3")]] {
            ledger.compare(1, &named(there)).unwrap();
        }
        for (there, why) in [
            (&[("a", "1")][..], "topic b, acknowledged as 2, is not on node 1"),
            (&[("a", "1"), ("b", "9")], "topic b, acknowledged as 2, is not on node 1"),
            (&[("a", "1"), ("b", "2"), ("d", "4")], "nobody asked for topic d of node 1"),
        ] {
            assert_eq!(ledger.compare(1, &named(there)).unwrap_err().to_string(), why);
        }
    }
}
