//! Throughput and latency of Quorate, beside what the disk itself can do.
//!
//! Every command measures in one run what it compares: a figure of another day, or of another
//! machine, says nothing beside it. Only `nemesis` is no comparison: it looks for what must never be.

mod bare;
mod commit;
mod compare;
mod engine;
mod failover;
// Real processes on disks that fail need the same disk in both places, and what is shipped none.
#[path = "../../cli/src/faults.rs"]
mod faults;
mod fleet;
mod groups;
mod lap;
mod latency;
mod ledger;
mod load;
mod member;
mod metadata;
mod nemesis;
mod pace;
mod patience;
mod phase;
mod process;
mod random;
mod recovery;
mod replica;
mod report;
mod soak;
mod spread;
mod straggler;
mod transfer;
mod trio;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Output;

/// Benchmarks of Quorate.
#[derive(Debug, Parser)]
#[command(name = "quorate-benches", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// How rows are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Commit latency of an idle cluster of three processes, beside a bare fdatasync.
    Commit {
        /// Sequential proposals, and as many bare fdatasyncs.
        #[arg(long, default_value_t = 2_000)]
        proposals: u32,
        /// Where the data directories and the bare file are made; a temporary directory by default.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Throughput and latency beside etcd, NATS JetStream, openraft and a bare loop.
    Compare(compare::CompareArgs),
    /// Our log engine beside bare raft-engine: append, open and memory.
    Engine(engine::EngineArgs),
    /// The longest wait for an acknowledgement when the leader's process is killed, again and again.
    Failover(failover::FailoverArgs),
    /// Nodes are killed and stopped and cut off under load; then every acknowledgement is accounted for.
    Nemesis(nemesis::NemesisArgs),
    /// Many groups on three nodes: proposals beside those of one group, and what idle ones cost.
    Groups(groups::GroupsArgs),
    /// A large snapshot to a new learner while proposals go on, its connection cut on the way.
    Transfer(transfer::TransferArgs),
    /// What a follower that is stopped, or whose disk is slow, costs the others.
    Straggler(straggler::StragglerArgs),
    /// Partition metadata at several sizes: memory, commands, snapshots, beside the goals.
    Metadata(metadata::MetadataArgs),
    /// From the start of a process to a node that serves, with many entries, and with large snapshots.
    Recovery(recovery::RecoveryArgs),
    /// Minutes at a fixed rate: memory, disk and latency over time.
    Soak(soak::SoakArgs),
    /// Opens a store, and tells how long it took and what it holds.
    #[command(hide = true)]
    EngineOpen(engine::ChildArgs),
    /// Makes the state of `metadata`, and tells how much memory it takes.
    #[command(hide = true)]
    MetadataState(metadata::ChildArgs),
    /// One node with much state, for `transfer` and `straggler`; it obeys lines on its standard input.
    #[command(hide = true)]
    Replica(replica::ReplicaArgs),
    /// The node of `recovery`; it obeys lines on its standard input.
    #[command(hide = true)]
    RecoveryNode(recovery::NodeArgs),
    /// One node of the cluster of `commit`; it obeys lines on its standard input.
    #[command(hide = true)]
    Member {
        #[arg(long)]
        data_dir: PathBuf,
        #[arg(long)]
        listen: SocketAddr,
        /// Logs to its standard error, and has a disk that fails as the environment says.
        #[arg(long)]
        victim: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let output = args.output;
    let rows = match args.command {
        Command::Member { data_dir, listen, victim } => {
            return ended(member::run(data_dir, listen, victim));
        }
        Command::Replica(args) => return ended(replica::run(args)),
        Command::RecoveryNode(args) => return ended(recovery::run_node(&args)),
        Command::EngineOpen(args) => return ended(engine::run_child(&args)),
        Command::MetadataState(args) => return ended(metadata::run_child(&args)),
        Command::Compare(args) => compare::run(&args),
        Command::Engine(args) => engine::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Nemesis(args) => {
            // What it found is shown also where it is not as it should be.
            return ended(nemesis::run(&args, |rows| report::print(rows, output)));
        }
        Command::Groups(args) => groups::run(&args),
        Command::Transfer(args) => transfer::run(&args),
        Command::Straggler(args) => straggler::run(&args),
        Command::Metadata(args) => metadata::run(&args),
        Command::Recovery(args) => recovery::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Commit { proposals, dir } => commit::run(proposals, dir),
    };
    match rows {
        Ok(rows) => {
            report::print(&rows, output);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&*error),
    }
}

fn ended(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("quorate-benches: {error}");
    ExitCode::FAILURE
}
