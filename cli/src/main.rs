//! The program `quorate`: data on stdout, words for people on stderr, and an exit status.
//!
//! Exit status 0: done. 1: failed, or damage found. 2: the command line, or a file it names, cannot
//! be obeyed, and nothing was tried.
//!
//! | file | owns |
//! | --- | --- |
//! | `args` | what may be written on the command line |
//! | `format` | `quorate format` |
//! | `node`, `broker`, `settings` | `quorate node`, its broker, and what it was told |
//! | `signals`, `leash`, `log` | what ends a node, and where it tells about itself |
//! | `query`, `client`, `output` | the commands that ask a cluster, how they ask, how they print |
//! | `topics`, `partitions`, `configs`, `brokers`, `features` | the commands about each of these |
//! | `members` | the commands that change who belongs to the quorum, and who leads it |
//! | `directory` | a data directory looked at offline, and what is wrong with it |
//! | `verify` | `quorate verify` |
//! | `dump`, `entry`, `change` | `quorate log dump`, and one entry of a log as it is shown |
//! | `demo` | `quorate demo` |
//! | `faults` | a disk that fails on purpose, in builds for tests |
//! | `failure`, `panics` | how a command ends that does not end well |
//! | `wait` | the one place that pauses |

mod args;
mod broker;
mod brokers;
mod change;
mod client;
mod configs;
mod credentials;
mod demo;
mod directory;
mod dump;
mod entry;
mod entry_session;
mod failure;
#[cfg(feature = "faults")]
mod faults;
mod features;
mod format;
mod groups;
mod hostport;
mod leash;
mod log;
mod members;
mod node;
mod output;
mod panics;
mod partitions;
mod query;
mod settings;
mod signals;
mod topics;
mod verify;
mod wait;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Command, CommandLine, Leader, Log, Output};
use failure::Failure;

fn main() -> ExitCode {
    panics::silence();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return explain(&error),
    };
    let outcome = std::panic::catch_unwind(|| run(line)).unwrap_or_else(|_| {
        Err(Failure::Failed(format!(
            "this is a defect of quorate ({}): please report it with what you did",
            panics::last()
        )))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn run(line: CommandLine) -> Result<(), Failure> {
    let global = &line.global;
    match line.command {
        Command::Format(args) => format::run(global, &args),
        Command::Node(args) => node::run(&args),
        Command::Demo => demo::run(global.output()),
        Command::Status => query::status(global),
        Command::Brokers(command) => brokers::run(global, &command),
        Command::Members(command) => members::run(global, &command),
        Command::Leader(Leader::Transfer { to }) => members::transfer(global, to),
        Command::Topics(command) => topics::run(global, &command),
        Command::Partitions(command) => partitions::run(global, &command),
        Command::Configs(command) => configs::run(global, &command),
        Command::Features(command) => features::run(global, &command),
        Command::Verify(args) => verify::run(global.output(), &args),
        Command::Log(Log::Dump(args)) => dump::run(global.output_or(Output::Json), &args),
        Command::Sweep { directory } => demo::sweep::run(&directory),
    }
}

/// Help and version go to stdout and are no failure; everything else that clap says is.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing was asked for: the whole help says more than a sentence.
            drop(error.print());
            ExitCode::from(2)
        }
        _ => fail(&args::usage_failure(error)),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // A stderr that nobody reads changes nothing about the exit status.
    drop(writeln!(io::stderr(), "quorate: {failure}"));
    ExitCode::from(failure.exit_status())
}
