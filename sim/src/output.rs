//! What goes to stdout: one line of JSON for programs, or tables for people.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use quorate_sim::{
    CrashPoint, CrashReport, FuzzReport, RotCase, RotReport, SimulationFailure, SimulationReport,
    Tally, Verdict,
};
use serde::Serialize;

use crate::args::Output;

/// Prints the report of crash points.
pub(crate) fn crash_report(output: Output, report: &CrashReport) -> io::Result<()> {
    if output == Output::Json {
        return json(report);
    }
    let fields = [
        ("images", report.images.to_string()),
        ("lost", report.lost.to_string()),
        ("refused", report.refused.to_string()),
        ("panic", report.panic.to_string()),
        ("failed after kill", report.failed_after_kill.to_string()),
        ("workloads", report.workloads.to_string()),
        ("operations", report.operations.to_string()),
        ("moments", report.moments.to_string()),
        ("seconds", format!("{:.1}", report.seconds)),
    ];
    let mut table = plain(&[]);
    for (name, value) in fields {
        table.add_row([name, &value]);
    }
    text(&table)?;
    if report.failures.is_empty() {
        return Ok(());
    }
    let mut table = plain(&["REPLAY", "OPERATION", "WHAT"]);
    for failure in &report.failures {
        let what = verdict_text(&failure.verdict);
        table.add_row([failure.point.to_string(), failure.operation.clone(), what]);
    }
    text(&table)
}

/// Prints the report of simulated clusters.
pub(crate) fn simulation_report(output: Output, report: &SimulationReport) -> io::Result<()> {
    if output == Output::Json {
        return json(report);
    }
    let fields = [
        ("seeds", report.seeds.to_string()),
        ("violations", report.violations.to_string()),
        ("events", report.events.to_string()),
        ("simulated hours", format!("{:.2}", report.simulated_hours)),
        ("hours per cpu minute", format!("{:.1}", report.hours_per_cpu_minute)),
        ("run twice, with equal hashes", report.repeated.to_string()),
        ("rarest pair of faults", report.pairs_min.to_string()),
    ];
    let mut table = plain(&[]);
    for (name, value) in fields {
        table.add_row([name, &value]);
    }
    text(&table)?;
    let mut table = plain(&["FAULT", "COUNT"]);
    for (event, count) in &report.faults {
        table.add_row([format!("{event:?}"), count.to_string()]);
    }
    text(&table)?;
    let mut table = plain(&["WAY BACK", "COUNT"]);
    for (path, count) in &report.paths {
        table.add_row([format!("{path:?}"), count.to_string()]);
    }
    text(&table)?;
    if report.failing.is_empty() {
        return Ok(());
    }
    let mut table = plain(&["SEED", "FAULTS (ms)", "EVENTS", "WHAT", "REPLAY"]);
    for SimulationFailure { seed, what, events, faults_ms, replay } in &report.failing {
        let (seed, faults_ms, events) =
            (seed.to_string(), faults_ms.to_string(), events.to_string());
        table.add_row([&seed, &faults_ms, &events, what, replay]);
    }
    text(&table)
}

/// Prints what came of one crash.
pub(crate) fn verdict(
    output: Output,
    point: CrashPoint,
    operation: &str,
    verdict: &Verdict,
) -> io::Result<()> {
    if output == Output::Json {
        let value = serde_json::json!({
            "point": point, "operation": operation, "verdict": verdict,
        });
        return json(&value);
    }
    let mut table = plain(&[]);
    table.add_row(["point", &point.to_string()]);
    table.add_row(["operation", operation]);
    table.add_row(["verdict", &verdict_text(verdict)]);
    text(&table)
}

/// Prints the report of forged messages.
pub(crate) fn fuzz_report(output: Output, report: &FuzzReport) -> io::Result<()> {
    if output == Output::Json {
        return json(report);
    }
    let fields = [
        ("messages", report.messages.to_string()),
        ("panics", report.panics.to_string()),
        ("violations", report.violations.to_string()),
        ("admitted", report.admitted.to_string()),
        ("dropped", report.dropped.to_string()),
        ("frames", report.frames.to_string()),
        ("refused frames", report.refused_frames.to_string()),
        ("groups", report.groups.to_string()),
        ("applied", report.applied.to_string()),
        ("stopped", report.stopped.to_string()),
        ("forked", report.forked.to_string()),
        ("seconds", format!("{:.1}", report.seconds)),
    ];
    let mut table = plain(&[]);
    for (name, value) in fields {
        table.add_row([name, &value]);
    }
    text(&table)?;
    line("")?;
    let mut table = plain(&["KIND", "FORGED", "ADMITTED"]);
    for (name, kind) in &report.kinds {
        table.add_row([name, &kind.forged.to_string(), &kind.admitted.to_string()]);
    }
    text(&table)?;
    if report.failures.is_empty() {
        return Ok(());
    }
    line("")?;
    let mut table = plain(&["REPLAY", "WHAT", "LAST MESSAGE"]);
    for failure in &report.failures {
        table.add_row([&failure.replay, &failure.what, &failure.last]);
    }
    text(&table)
}

/// Names and values of a tally.
fn tally_cells(tally: &Tally) -> [String; 8] {
    let Tally { detected, harmless, silent_loss, wrong_data, panic, hang, named, caught_panic } =
        tally;
    [detected, harmless, silent_loss, wrong_data, panic, hang, named, caught_panic]
        .map(u64::to_string)
}

const TALLY: [&str; 8] =
    ["DETECTED", "HARMLESS", "SILENT LOSS", "WRONG DATA", "PANIC", "HANG", "NAMED", "CAUGHT"];

/// Prints the report of bit rot.
pub(crate) fn rot_report(output: Output, report: &RotReport) -> io::Result<()> {
    if output == Output::Json {
        return json(report);
    }
    let header = |first: &[&'static str], last: &[&'static str]| [first, &TALLY, last].concat();
    let mut table = plain(&header(&["DAMAGE", "CASES"], &[]));
    let cases = report.whole_file_cases.len() as u64;
    for (name, count, tally) in
        [("flips", report.flips, &report.tally), ("whole files", cases, &report.whole_files)]
    {
        table.add_row([name.to_owned(), count.to_string()].into_iter().chain(tally_cells(tally)));
    }
    text(&table)?;
    line("")?;
    let mut table = plain(&header(&["STORE", "FILE", "REGION", "BYTES"], &["FINDINGS"]));
    for row in &report.regions {
        let (store, file) = (row.store.to_string(), row.file.display().to_string());
        let first = [store, file, row.region.clone(), row.bytes.to_string()];
        let cells = first.into_iter().chain(tally_cells(&row.tally));
        table.add_row(cells.chain([row.findings.join("; ")]));
    }
    text(&table)?;
    line("")?;
    let mut table = plain(&["STORE", "DAMAGE", "OUTCOME", "NAMED", "WHAT"]);
    for RotCase { store, damage, outcome, is_named, what } in
        report.whole_file_cases.iter().chain(&report.failures)
    {
        let named = if *is_named { "yes" } else { "no" };
        let (store, damage) = (store.to_string(), format!("{damage:?}"));
        let cells = [store, damage, format!("{outcome:?}"), named.to_owned()];
        table.add_row(cells.into_iter().chain([what.clone()]));
    }
    text(&table)?;
    line(&format!("{} bytes, {:.1} seconds", report.bytes, report.seconds))
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Survived => "survived".to_owned(),
        Verdict::Lost(what) => format!("lost: {what}"),
        Verdict::Refused(what) => format!("refused: {what}"),
        Verdict::Panic(what) => format!("panic: {what}"),
    }
}

fn json(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string(value)?)
}

fn text(table: &Table) -> io::Result<()> {
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    line(&lines.join("\n"))
}

fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Columns without lines: as easy to read as to cut with `awk`.
fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}
