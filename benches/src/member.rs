//! One node of a benchmark's cluster, in a process of its own.
//!
//! It prints `leader N` or `leader none` for `status`, and runs the measurement for `commit COUNT`:
//! alternating stretches of proposals and of bare fdatasyncs on the same disk, so that what else
//! the machine does falls on both alike. It ends when its standard input does.

use std::error::Error;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use quorate::{BrokerId, Quorum, QuorumConfig, Registration};

use crate::bare::BareLog;
use crate::latency::Latencies;
use crate::report::Row;

/// Proposals, or bare fdatasyncs, in one stretch.
const STRETCH: u32 = 50;

/// Bytes of the record that one such proposal makes: one entry of about 40 bytes with its index,
/// the group record, the batch number, and raft-engine's frame around them.
const RECORD_BYTES: usize = 256;

/// What the benchmark's node was asked for, and answers.
type Answer = Result<String, Box<dyn Error>>;

/// Runs the node until its standard input ends.
pub(crate) fn run(data_dir: PathBuf, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bare_path = data_dir.with_extension("bare");
    let quorum = runtime.block_on(Quorum::open(QuorumConfig::new(data_dir, listen)))?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer: Answer = match line.split_once(' ') {
            None if line == "status" => Ok(match quorum.status().leader {
                Some(leader) => format!("leader {leader}"),
                None => "leader none".to_owned(),
            }),
            Some(("commit", count)) => {
                let count = count.parse()?;
                runtime.block_on(commit(&quorum, count, &bare_path))
            }
            _ => Err(format!("`{line}` is no command").into()),
        };
        println!("{}", answer?);
    }
    runtime.block_on(quorum.shut_down());
    Ok(())
}

async fn commit(quorum: &Quorum, count: u32, bare_path: &std::path::Path) -> Answer {
    let broker = BrokerId(1);
    let registration = Registration::without_data_plane(broker, quorum.identity().directory_id);
    let session = quorum.register_broker(registration).await?;
    session.active().await.map_err(|end| format!("the broker's session ended: {end:?}"))?;
    let mut bare = BareLog::create(bare_path, RECORD_BYTES, u64::from(count))?;
    let (mut commits, mut syncs) = (Latencies::new()?, Latencies::new()?);
    let mut left = count;
    while left > 0 {
        let stretch = left.min(STRETCH);
        bare.measure(stretch, &mut syncs)?;
        for _ in 0..stretch {
            let start = Instant::now();
            quorum.allocate_producer_ids(broker).await?;
            commits.note(start.elapsed());
        }
        left -= stretch;
    }
    session.shut_down().await?;
    let mut ours = Row::new("quorate", "processes", 3).with_latencies(&commits);
    let mut disk = Row::new("fdatasync", "in-process", 1).with_latencies(&syncs);
    (ours.clients, disk.clients) = (1, 1);
    ours.ratio = ours.p50_us.zip(disk.p50_us).map(|(ours, disk)| ours / disk);
    disk.payload_bytes = Some(RECORD_BYTES);
    Ok(serde_json::to_string(&[ours, disk])?)
}
