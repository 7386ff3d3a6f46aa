//! Opening a store in a process of its own, so that no memory, thread or cache of another one is
//! there already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum as _};
use quorate_engine::{DefaultFileSystem, EngineConfig};
use serde::{Deserialize, Serialize};

use crate::engine::theirs::Theirs;
use crate::engine::{Failure, System, ours};

/// What the process opens.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    #[arg(long, value_enum)]
    system: System,
    /// The data directory; for raft-engine that of its files.
    #[arg(long)]
    dir: PathBuf,
    /// Whether raft-engine reads every entry too. Ours always does.
    #[arg(long)]
    read: bool,
    /// Memory for recent entries.
    #[arg(long)]
    cache_bytes: Option<u64>,
}

/// What it found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// Until the store was open, and read where it is read.
    pub(crate) seconds: f64,
    /// Resident memory, with the store open.
    pub(crate) rss_bytes: u64,
    /// Groups of ours, or entries of raft-engine that were read: that it was the right store.
    pub(crate) found: u64,
}

/// Opens, and prints an [`Opened`].
pub(crate) fn run(args: &ChildArgs) -> Result<(), Failure> {
    let opened = match args.system {
        System::QuorateEngine => open_ours(args)?,
        System::RaftEngine => open_theirs(args)?,
    };
    println!("{}", serde_json::to_string(&opened)?);
    Ok(())
}

fn open_ours(args: &ChildArgs) -> Result<Opened, Failure> {
    let default = ours::config();
    let cache_bytes_max = args.cache_bytes.unwrap_or(default.cache_bytes_max);
    let config = EngineConfig { cache_bytes_max, ..default };
    let begin = Instant::now();
    let engine = ours::open(&args.dir, &config, Arc::new(DefaultFileSystem))?;
    let seconds = begin.elapsed().as_secs_f64();
    // What a loop keeps: the logs. The rest is handed over once.
    let logs: Vec<_> = engine.groups.into_values().map(|group| group.log).collect();
    let rss_bytes = rss_bytes()?;
    let found = logs.len() as u64;
    engine.writer.close()?;
    Ok(Opened { seconds, rss_bytes, found })
}

fn open_theirs(args: &ChildArgs) -> Result<Opened, Failure> {
    let begin = Instant::now();
    let store = Theirs::open(&args.dir, Arc::new(DefaultFileSystem))?;
    let found = if args.read {
        // A thread of its own, as ours has: raft-engine's cache is the thread's.
        std::thread::scope(|scope| scope.spawn(|| store.read_all()).join())
            .map_err(|_| "reading raft-engine's entries panicked")??
    } else {
        0
    };
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Opened { seconds, rss_bytes: rss_bytes()?, found })
}

/// Resident memory of this process. `statm` adds up counters that each CPU flushes late; the sum
/// over the mappings is exact.
pub(crate) fn rss_bytes() -> Result<u64, Failure> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .ok_or("/proc/self/smaps_rollup names no Rss")?;
    Ok(kib * 1024)
}

/// Has a fresh process open the store in `dir`.
pub(crate) fn open(
    system: System,
    dir: &Path,
    read: bool,
    cache_bytes: Option<u64>,
) -> Result<Opened, Failure> {
    let value = system.to_possible_value().ok_or("every system has a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    // What is needed only while opening goes back to the system when it is freed, so that resident
    // memory is what is held. (glibc otherwise keeps it for later.) The same for both systems.
    command.env("MALLOC_MMAP_THRESHOLD_", "4096");
    command.args(["engine-open", "--system", value.get_name(), "--dir"]).arg(dir);
    if read {
        command.arg("--read");
    }
    if let Some(bytes) = cache_bytes {
        command.args(["--cache-bytes", &bytes.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        let name = system.name();
        return Err(format!("the process that opens {name} failed: see its words above").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
