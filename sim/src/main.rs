//! The program `quorate-sim`: data on stdout, progress and words for people on stderr.
//!
//! Exit status 0: all is as it must be. 1: something is not, or nothing could be tried. 2: the
//! command line cannot be obeyed, and nothing was tried.

mod args;
mod output;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::{
    BitRot, CrashPoint, CrashPoints, CrashPointsError, Fuzz, SeedRun, Simulation, Verdict, replay,
    run_seed,
};

use args::{
    BitRotArgs, Command, CommandLine, CrashPointsArgs, FuzzArgs, Output, ReplayArgs, RunArgs,
};

/// What was tried is not as it must be, or could not be tried.
const FAILED: u8 = 1;
/// The command line cannot be obeyed.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    // Panics are counted and told in the report: their text is not for stderr.
    std::panic::set_hook(Box::new(|_| ()));
    match line.command {
        Command::Crashpoints(CrashPointsArgs { replay: Some(point), output, .. }) => {
            replay_point(point, output)
        }
        Command::Crashpoints(args) => crashpoints(args),
        Command::Bitrot(args) => bitrot(args),
        Command::Fuzz(args) => fuzz(args),
        Command::Run(args) => run(args),
        Command::Replay(args) => replay_seed(&args),
    }
}

fn crashpoints(args: CrashPointsArgs) -> ExitCode {
    let CrashPointsArgs { images, seed, jobs, output, .. } = args;
    let bar = bar(images);
    let run = CrashPoints { images, seed, jobs: args::jobs(jobs) }.run(&|| bar.inc(1));
    bar.finish_and_clear();
    match run {
        Ok(report) => exit(output::crash_report(output, &report), report.is_clean()),
        Err(error) => failed(&error),
    }
}

fn replay_point(point: CrashPoint, output: Output) -> ExitCode {
    match replay(point) {
        Ok((operation, verdict)) => {
            let is_clean = verdict == Verdict::Survived;
            exit(output::verdict(output, point, &operation, &verdict), is_clean)
        }
        Err(error @ CrashPointsError::NoSuchPoint(_)) => {
            eprintln!("{error}");
            ExitCode::from(USAGE)
        }
        Err(error) => failed(&error),
    }
}

fn bitrot(args: BitRotArgs) -> ExitCode {
    let BitRotArgs { flips, seed, jobs, output } = args;
    let flips = flips.filter(|flips| *flips > 0);
    let bar = bar(0);
    let run = BitRot { flips, seed, jobs: args::jobs(jobs) }.run(&|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    match run {
        Ok(report) => exit(output::rot_report(output, &report), report.is_clean()),
        Err(error) => failed(&error),
    }
}

fn fuzz(args: FuzzArgs) -> ExitCode {
    let FuzzArgs { messages, seed, jobs, output } = args;
    let bar = bar(messages);
    let run = Fuzz { messages, seed, jobs: args::jobs(jobs) }.run(&|count| bar.inc(count));
    bar.finish_and_clear();
    match run {
        Ok(report) => exit(output::fuzz_report(output, &report), report.is_clean()),
        Err(error) => failed(&error),
    }
}

fn run(args: RunArgs) -> ExitCode {
    let RunArgs { seeds, from, jobs, mix, output } = args;
    let bar = bar(seeds);
    let report = Simulation { from, seeds, jobs: args::jobs(jobs), mix }.run(&|| bar.inc(1));
    bar.finish_and_clear();
    exit(output::simulation_report(output, &report), report.is_clean())
}

/// Tells what happens with a seed, line by line.
fn replay_seed(args: &ReplayArgs) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let lines = Box::new(move |line: &str| drop(writeln!(out, "{line}")));
    match run_seed(args.seed, args.mix, args.faults_ms.map(Duration::from_millis), Some(lines)) {
        Ok(SeedRun { what: None, hash, events, .. }) => {
            eprintln!("{events} events, hash {hash:016x}: nothing was wrong");
            ExitCode::SUCCESS
        }
        Ok(SeedRun { what: Some(what), hash, events, .. }) => {
            eprintln!("{events} events, hash {hash:016x}: {what}");
            ExitCode::from(FAILED)
        }
        Err(error) => failed(&error),
    }
}

/// Progress on stderr; nothing when that is no terminal.
fn bar(len: u64) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} {per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(FAILED)
}

fn exit(printed: std::io::Result<()>, is_clean: bool) -> ExitCode {
    match printed {
        Ok(()) if is_clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(FAILED),
        Err(error) => failed(&error),
    }
}
