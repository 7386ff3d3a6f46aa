//! What groups cost that have nothing to do: CPU time, and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::engine::rss_bytes;
use crate::groups::cluster::{Cluster, NODES};
use crate::groups::count::Count;
use crate::groups::{Failure, GroupsArgs};
use crate::report::Row;

/// The few groups that memory is compared with: this part of the many.
const FEW: u64 = 10;

/// Until what the founding has left behind is done.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures.
pub(crate) async fn run(args: &GroupsArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let mut cluster = Cluster::<Count>::start(dir, 0).await?;
    let few = args.idle_groups / FEW;
    let mut ids = cluster.create(few).await?;
    tokio::time::sleep(SETTLE).await;
    let before = resident()?;
    ids.extend(cluster.create(args.idle_groups - few).await?);
    tokio::time::sleep(SETTLE).await;
    let after = resident()?;
    eprintln!("groups: led by each node: {:?}", cluster.led(&ids)?);
    let (begin, cpu) = (Instant::now(), cpu_time());
    tokio::time::sleep(Duration::from_secs_f64(args.idle_seconds)).await;
    let (seconds, cpu) = (begin.elapsed(), cpu_time().saturating_sub(cpu));
    cluster.stop().await;
    let mut row = Row::new("quorate", "in-process", NODES as u32);
    row.what = Some("idle".to_owned());
    row.groups = Some(args.idle_groups);
    row.seconds = Some(seconds.as_secs_f64());
    row.rss_bytes = Some(after);
    row.idle_cpu_percent = Some(100.0 * cpu.as_secs_f64() / seconds.as_secs_f64() / NODES as f64);
    let more = after.saturating_sub(before) as f64;
    row.bytes_per_group = Some(more / NODES as f64 / (args.idle_groups - few) as f64);
    Ok(vec![row])
}

/// CPU time of this process, with all its nodes.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn resident() -> Result<u64, Failure> {
    rss_bytes().map_err(|error| error.to_string().into())
}
