//! What may be written on the command line.

use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate_sim::{CrashPoint, Mix};

/// Tests of Quorate's durability, on disks that crash and rot.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Cut the history of an engine off at each operation on its disk, and open what is left.
    Crashpoints(CrashPointsArgs),
    /// Flip single bits of a store at rest, lose, cut off and swap its files, and open it.
    Bitrot(BitRotArgs),
    /// Tell live groups what no correct peer would, and what one might.
    Fuzz(FuzzArgs),
    /// Run clusters under a virtual clock, with everything that can go wrong.
    Run(RunArgs),
    /// Run one of them again, and tell what happens.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CrashPointsArgs {
    /// Crashed disks to open.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub images: u64,
    /// Seed of the first history.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Disks opened at the same time; as many as there are cores, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// Try this one crash again: SEED:OPERATION:VARIANT:SUBSET, as a report names it.
    #[arg(long, value_name = "POINT", conflicts_with_all = ["images", "seed", "jobs"])]
    pub replay: Option<CrashPoint>,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Clusters to run, each from its own seed.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Clusters at the same time; as many as there are cores, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// What goes on in them.
    #[arg(long, value_enum, default_value_t = Mix::Faults)]
    pub mix: Mix,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Which.
    #[arg(long)]
    pub seed: u64,
    /// For how many milliseconds of virtual time faults come; as long as the seed says, if not given.
    #[arg(long)]
    pub faults_ms: Option<u64>,
    /// What goes on in it.
    #[arg(long, value_enum, default_value_t = Mix::Faults)]
    pub mix: Mix,
}

#[derive(Debug, Args)]
pub(crate) struct BitRotArgs {
    /// Bits to flip, one at a time, spread over the store; one in every byte, if not given or 0.
    #[arg(long)]
    pub flips: Option<u64>,
    /// Decides which bits.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Stores opened at the same time; as many as there are cores, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Messages to forge.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: u64,
    /// Seed of the first group; each next one has the next.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Groups that live at the same time; as many as there are cores, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One line for programs.
    Json,
}

/// The number of jobs given, or the number of cores.
pub(crate) fn jobs(given: Option<NonZeroUsize>) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    given.unwrap_or_else(cores)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
        let parse = |line: &str| CommandLine::try_parse_from(line.split(' '));
        assert!(parse("quorate-sim crashpoints --images 5 --output json").is_ok());
        assert!(parse("quorate-sim crashpoints --replay 1:2:torn=3:random=4").is_ok());
        assert!(parse("quorate-sim crashpoints --replay 1:2").is_err());
        assert!(parse("quorate-sim crashpoints --images 0").is_err());
        assert!(parse("quorate-sim bitrot --flips 5000 --output json").is_ok());
        assert!(parse("quorate-sim fuzz --messages 5000 --seed 7 --output json").is_ok());
        assert!(parse("quorate-sim fuzz --messages 0").is_err());
    }
}
