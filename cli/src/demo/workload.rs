//! The clients that keep proposing, and write down what they were told.
//!
//! Half of the changes are topics, each created once and under its own name: a lost one is missing.
//! The others are blocks of producer ids: a lost or doubled one overlaps. A change with an unknown
//! outcome is not tried again; it is counted apart.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_admin::views::{AllocateProducerIds, CreateTopic, CreatedTopic, ProducerIdBlock};

use super::ledger::Ledger;
use crate::client::{Client, RequestError};
use crate::hostport::HostPort;
use crate::wait;

/// Clients that propose at the same time. More than one, so that a proposal which waits for a dead
/// node's answer does not hide that others are acknowledged.
const CLIENTS: u64 = 3;

/// How long a client tries one change: longer than a commit takes, also one that has to wait until
/// another node leads.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two proposals of one client: a load that a small machine carries beside three nodes.
const PACE: Duration = Duration::from_millis(20);

/// Replicas of every topic that the demo creates.
pub(crate) const REPLICATION_FACTOR: u32 = 3;

/// What the clients share with the story.
#[derive(Debug, Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// The nodes that run, with their admin addresses.
    nodes: Mutex<BTreeMap<u64, HostPort>>,
    stop: AtomicBool,
    /// Numbers the changes, so that no name is used twice.
    next: AtomicU64,
    /// The first acknowledgement of a change that was asked for after an instant.
    first_since: Mutex<Option<(Instant, Option<Instant>)>>,
}

/// Clients at work.
pub(crate) struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// A thread that panicked has written nothing half: every entry of the ledger is one insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workload {
    /// A workload over these nodes that goes on with the account so far, and does nothing yet.
    pub(crate) fn new(ledger: Ledger) -> Workload {
        let shared = Shared { ledger: Mutex::new(ledger), ..Shared::default() };
        Workload { shared: Arc::new(shared), clients: Vec::new() }
    }

    /// Begins to propose.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        for client in 0..CLIENTS {
            let shared = Arc::clone(&self.shared);
            let name = format!("client-{client}");
            self.clients.push(
                std::thread::Builder::new().name(name).spawn(move || keep_proposing(&shared))?,
            );
        }
        Ok(())
    }

    /// From now on these nodes are asked, and no others.
    pub(crate) fn ask(&self, nodes: BTreeMap<u64, HostPort>) {
        *lock(&self.shared.nodes) = nodes;
    }

    /// The account, to read or to add to. Clients wait meanwhile: do not hold it over a request.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared.ledger)
    }

    /// Begins to look for the first acknowledgement of a change that is asked for after `since`.
    pub(crate) fn look_for_acknowledgement(&self, since: Instant) {
        *lock(&self.shared.first_since) = Some((since, None));
    }

    /// When that acknowledgement came.
    pub(crate) fn acknowledged_again(&self) -> Option<Instant> {
        lock(&self.shared.first_since).and_then(|(_, acknowledged)| acknowledged)
    }

    /// Proposes one topic and a block for every node, one after the other.
    pub(crate) fn one_round(&self) {
        let nodes: Vec<u64> = lock(&self.shared.nodes).keys().copied().collect();
        let number = self.shared.next.fetch_add(1, Ordering::SeqCst);
        propose_topic(&self.shared, number);
        for node in nodes {
            propose_block(&self.shared, node);
        }
    }

    /// Stops proposing and waits for the answers that are still due, each at most one patience.
    pub(crate) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.thread().unpark();
            if client.join().is_err() {
                let what = "a client of the demo stopped early".to_owned();
                lock(&self.shared.ledger).refused.push(what);
            }
        }
        self.shared.stop.store(false, Ordering::SeqCst);
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep_proposing(shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let nodes: Vec<u64> = lock(&shared.nodes).keys().copied().collect();
        let turn = usize::try_from(number / 2).unwrap_or(0);
        match nodes.get(turn % nodes.len().max(1)) {
            Some(node) if number % 2 == 1 => propose_block(shared, *node),
            Some(_) => propose_topic(shared, number),
            None => {}
        }
        wait::pause(PACE);
    }
}

/// Creates one topic through any node, starting with another one each time.
fn propose_topic(shared: &Shared, number: u64) {
    let mut addrs: Vec<HostPort> = lock(&shared.nodes).values().cloned().collect();
    if addrs.is_empty() {
        return;
    }
    let first = usize::try_from(number / 2).unwrap_or(0) % addrs.len();
    addrs.rotate_left(first);
    let asked = CreateTopic {
        name: format!("demo-{number:05}"),
        partitions: 1,
        replication_factor: REPLICATION_FACTOR,
        assignment: Vec::new(),
        configs: BTreeMap::new(),
    };
    let begun = Instant::now();
    let answer = Client::new(addrs, PATIENCE).post::<CreatedTopic>("/v1/topics", &asked);
    let mut ledger = lock(&shared.ledger);
    match answer {
        Ok(created) => {
            ledger.topic_acknowledged(&asked, &created);
            drop(ledger);
            note_acknowledgement(shared, begun);
        }
        Err(error) => match open_or_refused(error) {
            Verdict::Open => ledger.topic_unknown(&asked.name),
            Verdict::NeverMade => {}
            Verdict::Refused(why) => ledger.refused.push(format!("topic {}: {why}", asked.name)),
        },
    }
}

/// Gets one block for the broker on `node`, from that node: only there is the broker registered.
fn propose_block(shared: &Shared, node: u64) {
    let Some(addr) = lock(&shared.nodes).get(&node).cloned() else { return };
    let asked = AllocateProducerIds { broker_id: node };
    let begun = Instant::now();
    let client = Client::new(vec![addr], PATIENCE);
    let answer = client.post::<ProducerIdBlock>("/v1/producer-ids", &asked);
    let mut ledger = lock(&shared.ledger);
    match answer {
        Ok(block) => {
            ledger.block_acknowledged(block);
            drop(ledger);
            note_acknowledgement(shared, begun);
        }
        Err(error) => match open_or_refused(error) {
            Verdict::Open => ledger.block_unknown(),
            Verdict::NeverMade => {}
            Verdict::Refused(why) => ledger.refused.push(format!("block for {node}: {why}")),
        },
    }
}

/// What an error says about the change.
enum Verdict {
    /// It may have been made.
    Open,
    /// It was not made, for no reason of its own.
    NeverMade,
    /// It was not made, and nothing of that kind should ever be refused here.
    Refused(String),
}

fn open_or_refused(error: RequestError) -> Verdict {
    match error {
        RequestError::Unknown { .. } => Verdict::Open,
        RequestError::Unavailable { .. } => Verdict::NeverMade,
        RequestError::Rejected { .. } | RequestError::Foreign { .. } => {
            Verdict::Refused(error.to_string())
        }
    }
}

fn note_acknowledgement(shared: &Shared, begun: Instant) {
    if let Some((since, acknowledged)) = lock(&shared.first_since).as_mut()
        && begun >= *since
    {
        acknowledged.get_or_insert_with(Instant::now);
    }
}
