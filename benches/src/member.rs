//! One node of a benchmark's cluster, in a process of its own. It obeys lines on its standard input,
//! and ends with it.
//!
//! | line | answer |
//! | --- | --- |
//! | `status` | `leader N` or `leader none` |
//! | `commit COUNT` | the rows of alternating stretches of proposals and of bare fdatasyncs on the same disk, so that what else the machine does falls on both alike |
//! | `load CLIENTS` | `loading`, when its broker is active and the clients have begun |
//! | `begin CLIENTS PAUSE_MS` | `begun`, when the clients have begun, whatever state the quorum is in; the broker is registered as soon as it can be |
//! | `acknowledged` | how many changes they were acknowledged |
//! | `halt` | `halted`, when they have ended |
//! | `serve` | `serving`, when its broker is active; nobody acts for it |
//! | `partitions COUNT` | `created`, when there are so many, each on all brokers |
//! | `turn ORDER` | has clients alter partitions as ordered ([`Order`], in JSON); the [`Lap`](crate::lap::Lap) |
//! | `barrier` | `reached`, when it has applied what is committed |
//! | `fsyncs` | fsyncs of its log until now |
//! | `topics` | the names and ids of all topics, no older than the question |
//! | `state` | the index that is applied, and the hash of the state at it |

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::metadata::Image as _;
use quorate::{
    BrokerId, BrokerSession, ErrorKind, MetadataOnly, Quorum, QuorumConfig, Registration,
};
use tokio::task::JoinHandle;

use crate::bare::BareLog;
use crate::compare::altering;
use crate::compare::drive::{Order, drive};
use crate::engine::counted::CountedDisk;
use crate::faults::FaultyDisk;
use crate::latency::Latencies;
use crate::load::{Load, now};
use crate::process::{Failure, Process};
use crate::report::Row;

/// Proposals, or bare fdatasyncs, in one stretch.
const STRETCH: u32 = 50;

/// Bytes of the record that one such proposal makes: one entry of about 40 bytes with its index,
/// the group record, the batch number, and raft-engine's frame around them.
const RECORD_BYTES: usize = 256;

/// Pause before a broker is registered again that could not be.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);

/// Runs the node until its standard input ends.
///
/// A `victim` logs, and has a disk that fails when it is told to. A node that has stopped for good ends
/// the process.
pub(crate) fn run(data_dir: PathBuf, listen: SocketAddr, victim: bool) -> Result<(), Failure> {
    let begun = now();
    if victim {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let config = QuorumConfig::new(&data_dir, listen);
    let disk = Arc::<CountedDisk>::default();
    let quorum = runtime.block_on(async {
        match victim {
            true => Quorum::open_with(config, Arc::new(FaultyDisk::of_environment())).await,
            false => Quorum::open_with(config, disk.clone()).await,
        }
    })?;
    runtime.spawn(end_with(quorum.clone()));
    let (load, broker, serving, begun) = (None, None, None, Some(begun));
    let mut member = Member { quorum, disk, data_dir, load, broker, serving, begun };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        Process::say(runtime.block_on(member.obey(&line)));
    }
    runtime.block_on(member.quorum.shut_down());
    Ok(())
}

/// Ends the process when its node has stopped for good.
async fn end_with(quorum: Quorum) {
    let mut status = quorum.watch_status();
    // A status that is told no more is that of a node that was asked to stop.
    if let Ok(status) = status.wait_for(|status| status.fatal.is_some()).await {
        eprintln!("quorate-benches: {}", status.fatal.as_deref().unwrap_or_default());
        std::process::exit(1);
    }
}

struct Member {
    quorum: Quorum,
    /// What is counted, but for a victim.
    disk: Arc<CountedDisk>,
    data_dir: PathBuf,
    /// Its clients.
    load: Option<Load>,
    /// Keeps the broker beside them.
    broker: Option<JoinHandle<()>>,
    /// The broker whose partitions are altered by hand.
    serving: Option<BrokerSession>,
    /// When the process began, until the first clients do.
    begun: Option<Duration>,
}

impl Member {
    async fn obey(&mut self, line: &str) -> Result<String, Failure> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("status", "") => Ok(match self.quorum.status().leader {
                Some(leader) => format!("leader {leader}"),
                None => "leader none".to_owned(),
            }),
            ("commit", count) => {
                let bare_path = self.data_dir.with_extension("bare");
                commit(&self.quorum, count.parse()?, &bare_path).await
            }
            ("load", clients) => {
                if self.broker.is_none() {
                    let session = altering::register(&self.quorum).await?;
                    self.broker = Some(tokio::spawn(keep(self.quorum.clone(), session)));
                }
                self.load(clients.parse()?, Duration::ZERO)?;
                Ok("loading".to_owned())
            }
            ("begin", clients) => {
                let (clients, pause) = clients.split_once(' ').ok_or("`begin CLIENTS PAUSE_MS`")?;
                if self.broker.is_none() {
                    let (quorum, id) = (self.quorum.clone(), self.broker_id()?);
                    self.broker = Some(tokio::spawn(register_at_last(quorum, id)));
                }
                self.load(clients.parse()?, Duration::from_millis(pause.parse()?))?;
                Ok("begun".to_owned())
            }
            ("acknowledged", "") => {
                Ok(self.load.as_ref().map_or(0, Load::acknowledged).to_string())
            }
            ("halt", "") => {
                if let Some(load) = self.load.take() {
                    load.stop().await;
                }
                Ok("halted".to_owned())
            }
            ("serve", "") => {
                self.serving = Some(altering::register(&self.quorum).await?);
                Ok("serving".to_owned())
            }
            ("partitions", count) => {
                altering::create(&self.quorum, count.parse()?).await?;
                Ok("created".to_owned())
            }
            ("turn", order) => {
                let order: Order = serde_json::from_str(order)?;
                let clients = altering::clients(&self.quorum, &order).await?;
                Ok(serde_json::to_string(&drive(clients, &order).await?)?)
            }
            ("barrier", "") => {
                self.quorum.read_index().await?;
                Ok("reached".to_owned())
            }
            ("fsyncs", "") => Ok(self.disk.log_fsyncs().to_string()),
            ("topics", "") => {
                self.quorum.read_index().await?;
                let image = self.quorum.image().image;
                let topics =
                    image.topics().map(|topic| (topic.name.to_string(), topic.id.to_string()));
                Ok(serde_json::to_string(&topics.collect::<Vec<_>>())?)
            }
            ("state", "") => {
                let now = self.quorum.image();
                Ok(format!("{} {}", now.index, now.image.state_hash()))
            }
            _ => Err(format!("`{line}` is no command").into()),
        }
    }

    fn broker_id(&self) -> Result<BrokerId, Failure> {
        Ok(BrokerId(u32::try_from(self.quorum.identity().node_id.get())?))
    }

    fn load(&mut self, clients: u32, pause: Duration) -> Result<(), Failure> {
        let dir = self.data_dir.parent().unwrap_or(&self.data_dir);
        self.load = Some(Load::start(&self.quorum, dir, clients, pause, self.begun.take())?);
        Ok(())
    }
}

/// Keeps a broker, and what a data plane would do for it.
async fn keep(quorum: Quorum, session: BrokerSession) {
    MetadataOnly::run(quorum, &session).await;
    eprintln!("the broker is at its end: {:?}", session.state());
}

/// The same for one that is registered as soon as it can be.
async fn register_at_last(quorum: Quorum, broker: BrokerId) {
    // The same incarnation each time, so that twice is as good as once.
    let wish = Registration::without_data_plane(broker, quorum.identity().directory_id);
    loop {
        match quorum.register_broker(wish.clone()).await {
            Ok(session) => return keep(quorum, session).await,
            Err(error) if matches!(error.kind(), ErrorKind::Retryable | ErrorKind::Unknown) => {
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
            Err(error) => return eprintln!("the broker cannot be registered: {error}"),
        }
    }
}

async fn commit(quorum: &Quorum, count: u32, bare_path: &Path) -> Result<String, Failure> {
    let session = altering::register(quorum).await?;
    let broker = session.registered().broker;
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
