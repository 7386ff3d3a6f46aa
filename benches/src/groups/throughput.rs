//! Proposals per second: all clients at one group, and spread over many, in turns.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::GroupId;
use quorate_loop::Group;
use tokio::task::JoinSet;

use crate::groups::cluster::{Cluster, NODES};
use crate::groups::count::Count;
use crate::groups::idle::cpu_time;
use crate::groups::{Failure, GroupsArgs};
use crate::latency::Latencies;
use crate::report::Row;
use crate::spread::Spread;

/// Bytes of a command.
const PAYLOAD_BYTES: usize = 128;

/// Latencies are taken of every so manieth proposal: to note each would be a good part of the work.
const NOTED: u64 = 16;

/// One side of the comparison, over all its turns.
struct Side {
    latencies: Latencies,
    per_second: Vec<f64>,
    ops: u64,
    fsyncs: u64,
    cpu: Duration,
}

impl Side {
    fn new() -> Result<Side, Failure> {
        let latencies = Latencies::new().map_err(|error| error.to_string())?;
        Ok(Side { latencies, per_second: Vec::new(), ops: 0, fsyncs: 0, cpu: Duration::ZERO })
    }

    /// Lets every group's client propose, one after the other, for `seconds`.
    async fn turn(
        &mut self,
        cluster: &Cluster<Count>,
        groups: Vec<Group<Count>>,
        seconds: f64,
    ) -> Result<(), Failure> {
        let command = Bytes::from(vec![7; PAYLOAD_BYTES]);
        let (begin, cpu, fsyncs) = (Instant::now(), cpu_time(), cluster.fsyncs());
        let end = begin + Duration::from_secs_f64(seconds);
        let mut clients = JoinSet::new();
        for group in groups {
            let command = command.clone();
            clients.spawn(async move {
                let (mut done, mut noted) = (0u64, Vec::new());
                while Instant::now() < end {
                    let sent = Instant::now();
                    group.propose(command.clone()).await?;
                    if done.is_multiple_of(NOTED) {
                        noted.push(sent.elapsed());
                    }
                    done += 1;
                }
                Ok::<_, quorate_loop::ProposeError>((done, noted))
            });
        }
        let mut ops = 0;
        while let Some(client) = clients.join_next().await {
            let (done, noted) = client??;
            ops += done;
            noted.into_iter().for_each(|latency| self.latencies.note(latency));
        }
        self.per_second.push(ops as f64 / begin.elapsed().as_secs_f64());
        self.ops += ops;
        self.fsyncs += cluster.fsyncs() - fsyncs;
        self.cpu += cpu_time().saturating_sub(cpu);
        Ok(())
    }

    fn row(&self, what: &str, groups: u64, clients: u64) -> Row {
        let mut row =
            Row::new("quorate", "in-process", NODES as u32).with_latencies(&self.latencies);
        row.what = Some(what.to_owned());
        row.clients = u32::try_from(clients).unwrap_or(u32::MAX);
        row.payload_bytes = Some(PAYLOAD_BYTES);
        row.groups = Some(groups);
        row.ops_per_s = Spread::of(self.per_second.iter().copied()).map(|spread| spread.median);
        row.fsyncs_per_op = Some(self.fsyncs as f64 / NODES as f64 / self.ops as f64);
        row.cpu_us_per_op = Some(self.cpu.as_secs_f64() * 1e6 / self.ops as f64);
        row
    }
}

/// Measures.
pub(crate) async fn run(args: &GroupsArgs, dir: &Path) -> Result<Vec<Row>, Failure> {
    let mut cluster = Cluster::start(dir, args.clients).await?;
    let ids = cluster.create(args.groups).await?;
    eprintln!("groups: led by each node: {:?}", cluster.led(&ids)?);
    let (mut one, mut many) = (Side::new()?, Side::new()?);
    for round in 0..args.rounds {
        for turn in 0..2 {
            let is_one = (round + turn).is_multiple_of(2);
            let groups = clients(&cluster, &ids, args.clients, is_one)?;
            let side = if is_one { &mut one } else { &mut many };
            side.turn(&cluster, groups, args.seconds).await?;
        }
        let last = |side: &Side| side.per_second.last().copied().unwrap_or_default();
        eprintln!("groups: one {:.0}/s, many {:.0}/s", last(&one), last(&many));
    }
    cluster.stop().await;
    let ratios = many.per_second.iter().zip(&one.per_second).map(|(many, one)| many / one);
    let ratios = Spread::of(ratios);
    Ok(vec![
        one.row("one-group", 1, args.clients),
        many.row("many-groups", args.groups, args.clients).with_ratio(ratios),
    ])
}

/// The clients' groups: all at the first one, or spread evenly over all.
fn clients(
    cluster: &Cluster<Count>,
    ids: &[GroupId],
    count: u64,
    one: bool,
) -> Result<Vec<Group<Count>>, Failure> {
    let spread = ids.iter().cycle().zip(0..count);
    spread.map(|(&id, _)| cluster.leader(if one { ids[0] } else { id })).collect()
}
