//! The node of `recovery`, in a process of its own. It says a line when it serves, obeys lines on its
//! standard input, and ends with it.
//!
//! | line | answer |
//! | --- | --- |
//! | `entries PARTITIONS ENTRIES` | how many entries are behind the snapshot, when so many partitions are made and so many AlterPartitions applied |
//! | `snapshot PARTITIONS` | the same, when so many partitions are made and in the snapshot |

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use quorate::metadata::DirectoryId;
use quorate::{
    BrokerId, BrokerSession, PartitionKey, Quorum, QuorumConfig, Registration, TopicSpec,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::metadata::alter;
use crate::process::{Failure, Process};

/// How long a node may take to lead.
const PATIENCE: Duration = Duration::from_secs(300);

const BROKERS: u32 = 3;

/// The most partitions of one command.
const PARTITIONS_AT_ONCE: u32 = 10_000;
const PARTITIONS_PER_TOPIC: u32 = 100;

/// Leaders of partitions that alter theirs at a time.
const CLIENTS: usize = 1_000;

/// Where the node is.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    /// How many entries a snapshot waits for, whatever their bytes; by default as the settings say.
    #[arg(long)]
    snapshot_entries: Option<u64>,
}

/// Runs the node until its standard input ends.
pub(crate) fn run(args: &NodeArgs) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut config = QuorumConfig::new(&args.data_dir, args.listen);
    if let Some(entries) = args.snapshot_entries {
        config.group.snapshot_entries = entries;
        config.group.snapshot_bytes = u64::MAX;
        // Files that are full ask for a snapshot too.
        config.engine.purge_threshold_bytes = 1 << 40;
    }
    let quorum = runtime.block_on(async {
        let quorum = Quorum::open(config).await?;
        quorum.wait(PATIENCE).leader().await?;
        quorum.read_index().await?;
        Ok::<_, Failure>(quorum)
    })?;
    println!("serving");
    for line in std::io::stdin().lock().lines() {
        Process::say(runtime.block_on(obey(&quorum, &line?)));
    }
    runtime.block_on(quorum.shut_down());
    Ok(())
}

async fn obey(quorum: &Quorum, line: &str) -> Result<String, Failure> {
    let mut words = line.split_whitespace();
    let (what, mut numbers) = (words.next().unwrap_or_default(), words.map(str::parse::<u32>));
    let mut number = || numbers.next().ok_or("a number is missing")?.map_err(Failure::from);
    match what {
        "entries" => {
            let sessions = create(quorum, number()?).await?;
            alter_all(quorum, number()?).await?;
            drop(sessions);
        }
        "snapshot" => {
            let sessions = create(quorum, number()?).await?;
            let filled = quorum.image().index;
            // A snapshot waits until so much was applied that it is worth its bytes.
            while quorum.status().snapshot_index < filled {
                alter_all(quorum, PARTITIONS_AT_ONCE).await?;
            }
            drop(sessions);
        }
        _ => return Err(format!("`{line}` is no order").into()),
    }
    let status = quorum.wait(PATIENCE).applied(quorum.image().index).await?;
    Ok((status.applied_index - status.snapshot_index).to_string())
}

/// Registers the brokers and makes so many partitions, each of which has a replica on all of them.
async fn create(quorum: &Quorum, partitions: u32) -> Result<Vec<BrokerSession>, Failure> {
    let mut sessions = Vec::new();
    for id in 1..=BROKERS {
        let session = quorum
            .register_broker(Registration {
                directories: vec![DirectoryId(Uuid::new_v4())],
                ..Registration::without_data_plane(BrokerId(id), quorum.identity().directory_id)
            })
            .await?;
        session.active().await.map_err(|end| format!("a broker's session ended: {end:?}"))?;
        sessions.push(session);
    }
    let (mut made, mut topics) = (0, 0);
    while made < partitions {
        let mut specs = Vec::new();
        let until = partitions.min(made + PARTITIONS_AT_ONCE);
        while made < until {
            let here = PARTITIONS_PER_TOPIC.min(until - made);
            specs.push(TopicSpec::new(format!("topic-{topics}"), here, BROKERS));
            (made, topics) = (made + here, topics + 1);
        }
        quorum.create_topics(specs).await?;
    }
    Ok(sessions)
}

/// The leaders of some partitions alter their ISRs, so many times in all.
async fn alter_all(quorum: &Quorum, times: u32) -> Result<(), Failure> {
    let image = quorum.image().image;
    let keys: Vec<PartitionKey> = image.partitions().map(|(key, _)| key).take(CLIENTS).collect();
    let left = Arc::new(AtomicU64::new(times.into()));
    let mut clients = JoinSet::new();
    for key in keys {
        let (quorum, left) = (quorum.clone(), left.clone());
        clients.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let wish = alter::wish(&quorum.image().image, key);
                let wish = wish.ok_or("a partition has no leader")?;
                quorum.alter_partition(wish).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}
