//! The story of the demo, from the first topic to the last full ISR.
//!
//! Every step waits for what it is about, with a deadline, and every wait ends early when somebody
//! wants the demo to end or a node dies that should live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quorate_admin::views::{Broker, CreateTopic, CreatedTopic, Partition, ProducerIds, Status};
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, ClusterError, Mode, NODES};
use super::interrupt::Interrupt;
use super::ledger::Ledger;
use super::narrator::Narrator;
use super::summary::Summary;
use super::verdict::{self, Finding, Found};
use super::workload::{REPLICATION_FACTOR, Workload};
use crate::client::{Client, RequestError};
use crate::output;
use crate::wait;

/// The topic that people watch; the clients create others beside it.
const TOPIC: &str = "orders";

/// Its partitions: one led by each node.
const TOPIC_PARTITIONS: u32 = 3;

/// Acknowledged changes before the leader is killed, and after it.
const CHANGES_BEFORE: u64 = 120;
/// See [`CHANGES_BEFORE`]; together they are more than the 200 that the demo promises.
const CHANGES_AFTER: u64 = 120;
/// What is promised.
const CHANGES_LEAST: u64 = 200;

/// How long any step may take. Where a dead process could not be told from a silent host, the longest
/// would be a failover, an election and a session: 5 s.
const STEP_MAX: Duration = Duration::from_secs(20);

/// How long one read may take before it counts as no answer.
const READ_MAX: Duration = Duration::from_secs(2);

/// The steps that the progress bar counts.
const STEPS: u64 = 10;

/// Why the story ended early.
#[derive(Debug, thiserror::Error)]
enum StoryError {
    /// SIGINT or SIGTERM.
    #[error("interrupted by a signal")]
    Interrupted,
    /// A node is not as it should be.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A request that should have succeeded did not.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A client could not be started.
    #[error("cannot start a client: {0}")]
    Client(#[from] std::io::Error),
    /// A wait ended with its deadline.
    #[error("waited {STEP_MAX:?} in vain until {0}")]
    TooSlow(String),
}

/// Tells the whole story. Whatever happens, there is a summary, and nothing is left behind.
pub(crate) fn tell(interrupt: &Interrupt, narrator: &Narrator) -> Summary {
    let begun = Instant::now();
    narrator.steps(STEPS);
    let mut summary = Summary::default();
    let mut findings = BTreeSet::new();
    match begin(interrupt, narrator) {
        Ok(cluster) => {
            let mut story = Story {
                interrupt,
                narrator,
                workload: Workload::new(Ledger::default()),
                cluster,
                findings: BTreeSet::new(),
                summary: Summary::default(),
            };
            if let Err(error) = story.told() {
                story.findings.insert(Finding::Missing(error.to_string()));
            }
            // Its clients stop before the account is closed, and before the nodes go.
            story.workload.stop();
            let ledger = story.workload.ledger();
            summary = story.summary.clone();
            summary.acknowledged = ledger.acknowledged();
            summary.unknown = ledger.unknown();
            summary.partitions = ledger.seen.len() as u64;
            findings.extend(ledger.refused.iter().cloned().map(Finding::Refused));
            drop(ledger);
            findings.append(&mut story.findings);
        }
        Err(error) => drop(findings.insert(Finding::Missing(error.to_string()))),
    }
    if findings.is_empty() && summary.acknowledged < CHANGES_LEAST {
        let text = format!(
            "only {} changes were acknowledged, {CHANGES_LEAST} were promised",
            summary.acknowledged
        );
        findings.insert(Finding::Missing(text));
    }
    summary.duration_ms = millis(begun.elapsed());
    summary.judge(&findings);
    summary
}

/// Formats and starts three nodes; other ports are chosen when somebody took one meanwhile.
fn begin(interrupt: &Interrupt, narrator: &Narrator) -> Result<Cluster, StoryError> {
    const TRIES: usize = 3;
    narrator.step("three nodes are formatted and started");
    let mut tried = 0;
    loop {
        tried += 1;
        let mut cluster = Cluster::format()?;
        match cluster.start(Mode::WithBrokers) {
            Ok(()) => return Ok(cluster),
            Err(_) if interrupt.raised() => return Err(StoryError::Interrupted),
            Err(error) if tried < TRIES && Cluster::port_was_taken(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the steps share.
struct Story<'a> {
    interrupt: &'a Interrupt,
    narrator: &'a Narrator,
    /// Before the cluster, so that it is dropped first: clients stop before their nodes.
    workload: Workload,
    cluster: Cluster,
    findings: BTreeSet<Finding>,
    summary: Summary,
}

impl Story<'_> {
    fn told(&mut self) -> Result<(), StoryError> {
        self.first_topic()?;
        self.keep_proposing()?;
        self.kill_the_leader()?;
        self.go_on_proposing()?;
        self.kill_everything()?;
        self.start_as_quorum_only()?;
        self.verify_every_node()?;
        self.brokers_come_back()?;
        self.verify_every_node()
    }

    /// Waits for three live brokers, and creates the topic that people watch.
    fn first_topic(&mut self) -> Result<(), StoryError> {
        self.narrator.step("three brokers register, a topic is created");
        self.workload.ask(self.cluster.admins());
        self.wait("three brokers are registered and unfenced", |story| {
            let brokers: Vec<Broker> = story.read("/v1/brokers").ok()?;
            let live = brokers.iter().filter(|b| !b.fenced && !b.in_shutdown).count();
            (live as u64 == NODES).then_some(())
        })?;
        self.workload.ledger().first_producer_id =
            self.read::<ProducerIds>("/v1/producer-ids")?.next;
        let asked = CreateTopic {
            name: TOPIC.to_owned(),
            partitions: TOPIC_PARTITIONS,
            replication_factor: REPLICATION_FACTOR,
            assignment: Vec::new(),
            configs: BTreeMap::new(),
        };
        let created = self.client(STEP_MAX).post::<CreatedTopic>("/v1/topics", &asked)?;
        self.workload.ledger().topic_acknowledged(&asked, &created);
        self.observe()?;
        self.show("created, committed, and known to every node:");
        Ok(())
    }

    fn keep_proposing(&mut self) -> Result<(), StoryError> {
        self.narrator.step("clients create topics and get blocks of producer ids");
        self.workload.start()?;
        self.wait_for_changes(CHANGES_BEFORE)
    }

    /// Ends the node that leads the quorum, and leads partitions too, with SIGKILL.
    fn kill_the_leader(&mut self) -> Result<(), StoryError> {
        let victim = self.wait("a leader is known that leads a partition too", |story| {
            let leader = story.read::<Status>("/status").ok()?.leader_id?;
            story.observe().ok()?;
            let ledger = story.workload.ledger();
            ledger.seen.values().any(|p| p.leader == Some(leader)).then_some(leader)
        })?;
        self.narrator.step(&format!("kill -9 of node {victim}, the quorum's leader"));
        let led = self.workload.ledger().seen.values().filter(|p| p.leader == Some(victim)).count();
        let killed = Instant::now();
        self.cluster.kill(victim)?;
        self.workload.ask(self.cluster.admins());
        self.workload.look_for_acknowledgement(killed);
        let moved = self.wait("every partition has a live leader", |story| {
            let partitions = story.observe().ok()?;
            partitions.iter().all(|p| is_led_without(p, victim)).then(Instant::now)
        })?;
        let acknowledged = self
            .wait("a change is acknowledged again", |story| story.workload.acknowledged_again())?;
        let failover = moved.max(acknowledged).saturating_duration_since(killed);
        self.summary.failover_ms = Some(millis(failover));
        self.show(&format!(
            "node {victim} led the quorum and {led} partitions; {} ms after its death all have a \
             live leader, and the first change was acknowledged after {} ms:",
            millis(failover),
            millis(acknowledged.saturating_duration_since(killed)),
        ));
        Ok(())
    }

    fn go_on_proposing(&mut self) -> Result<(), StoryError> {
        self.narrator.step("the two nodes that are left go on");
        let sofar = self.workload.ledger().acknowledged();
        self.wait_for_changes(sofar + CHANGES_AFTER)?;
        self.observe()?;
        Ok(())
    }

    /// Ends every node with SIGKILL while clients are proposing.
    fn kill_everything(&mut self) -> Result<(), StoryError> {
        self.narrator.step("kill -9 of all nodes, in the middle of the work");
        self.cluster.kill_all()?;
        self.workload.stop();
        let ledger = self.workload.ledger();
        let (acknowledged, unknown) = (ledger.acknowledged(), ledger.unknown());
        self.narrator.say(&format!(
            "{acknowledged} changes were acknowledged, {unknown} have an unknown outcome"
        ));
        Ok(())
    }

    /// Starts all nodes without brokers, so that nothing changes before it was looked at.
    fn start_as_quorum_only(&mut self) -> Result<(), StoryError> {
        self.narrator.step("all nodes start again, no broker registers yet");
        let begun = Instant::now();
        self.cluster.start(Mode::QuorumOnly)?;
        self.workload.ask(self.cluster.admins());
        self.wait("all nodes know the same leader", |story| {
            let known: BTreeSet<Option<u64>> =
                story.statuses()?.values().map(|status| status.leader_id).collect();
            (known.len() == 1 && known.first()?.is_some()).then_some(())
        })?;
        self.summary.restart_ms = Some(millis(begun.elapsed()));
        Ok(())
    }

    /// Holds every node's own image against the ledger, once all have applied the same index.
    fn verify_every_node(&mut self) -> Result<(), StoryError> {
        self.narrator.step("every node is compared with what was acknowledged");
        let last_index = self.workload.ledger().last_index();
        // Nodes that have just started agree on what they remember to be committed, which may be
        // less than what is. A linearizable read ends that.
        self.wait("the quorum answers", |story| story.read::<Vec<Broker>>("/v1/brokers").ok())?;
        let statuses = self.wait("all nodes have applied the same index", |story| {
            let statuses = story.statuses()?;
            let applied: BTreeSet<u64> = statuses.values().map(|s| s.applied_index).collect();
            let caught_up = statuses.values().all(|s| s.applied_index >= s.commit_index);
            (applied.len() == 1 && caught_up).then_some(statuses)
        })?;
        let hashes: BTreeSet<&str> = statuses.values().map(|s| s.state_hash.as_str()).collect();
        if hashes.len() > 1 {
            let text = format!(
                "at index {:?}: {hashes:?}",
                statuses.values().map(|s| s.applied_index).next()
            );
            self.findings.insert(Finding::StateDiffers(text));
        }
        for (node, status) in &statuses {
            if status.applied_index < last_index {
                let applied = status.applied_index;
                let text = format!("node {node} is at {applied}, {last_index} was acknowledged");
                self.findings.insert(Finding::Lost(text));
            }
            let found = self.image_of(*node, status.applied_index)?;
            self.findings.extend(verdict::verify(&self.workload.ledger(), &found));
        }
        Ok(())
    }

    /// Stops the dedicated nodes, starts them as brokers, and waits until every ISR is full.
    fn brokers_come_back(&mut self) -> Result<(), StoryError> {
        self.narrator.step("the brokers come back");
        self.cluster.stop_all()?;
        let begun = Instant::now();
        self.cluster.start(Mode::WithBrokers)?;
        self.workload.ask(self.cluster.admins());
        self.wait("every ISR is full again", |story| {
            let brokers: Vec<Broker> = story.read("/v1/brokers").ok()?;
            let partitions = story.observe().ok()?;
            let live = brokers.iter().all(|b| !b.fenced && !b.in_shutdown);
            (live && partitions.iter().all(is_full)).then_some(())
        })?;
        self.summary.isr_recovered = true;
        self.summary.isr_recovered_ms = Some(millis(begun.elapsed()));
        self.workload.one_round();
        self.observe()?;
        self.show("all brokers are back, and every ISR is full again:");
        Ok(())
    }

    /// Reads all partitions and brokers through the leader, compares them with what was seen
    /// before, and remembers them.
    fn observe(&mut self) -> Result<Vec<Partition>, StoryError> {
        let partitions: Vec<Partition> = self.read("/v1/partitions")?;
        let brokers: Vec<Broker> = self.read("/v1/brokers")?;
        let mut ledger = self.workload.ledger();
        self.findings.extend(verdict::went_back(&ledger, &partitions, &brokers));
        ledger.remember(&partitions, &brokers);
        Ok(partitions)
    }

    /// One node's own image.
    fn image_of(&self, node: u64, applied_index: u64) -> Result<Found, StoryError> {
        let addrs = self.cluster.admins().remove(&node).into_iter().collect::<Vec<_>>();
        let client = Client::new(addrs, STEP_MAX);
        Ok(Found {
            topics: client.get("/v1/topics?local=true")?,
            partitions: client.get("/v1/partitions?local=true")?,
            brokers: client.get("/v1/brokers?local=true")?,
            next_producer_id: client.get::<ProducerIds>("/v1/producer-ids?local=true")?.next,
            applied_index,
        })
    }

    /// What each node says of itself; `None` when one does not answer.
    fn statuses(&self) -> Option<BTreeMap<u64, Status>> {
        let admins = self.cluster.admins().into_iter();
        admins
            .map(|(node, addr)| {
                let status: Status = Client::new(vec![addr], READ_MAX).get("/status").ok()?;
                Some((node, status))
            })
            .collect()
    }

    fn client(&self, timeout: Duration) -> Client {
        Client::new(self.cluster.admins().into_values().collect(), timeout)
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        self.client(READ_MAX).get(path)
    }

    fn wait_for_changes(&mut self, changes: u64) -> Result<(), StoryError> {
        self.wait(&format!("{changes} changes are acknowledged"), |story| {
            (story.workload.ledger().acknowledged() >= changes).then_some(())
        })
    }

    /// Waits for a condition, unless somebody wants the demo to end or a node dies meanwhile.
    fn wait<T>(
        &mut self,
        until: &str,
        mut probe: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, StoryError> {
        let deadline = Instant::now() + STEP_MAX;
        let answer = wait::until(deadline, || {
            if self.interrupt.raised() {
                return Some(Err(StoryError::Interrupted));
            }
            if let Err(error) = self.cluster.check_alive() {
                return Some(Err(error.into()));
            }
            probe(self).map(Ok)
        });
        answer.unwrap_or_else(|| Err(StoryError::TooSlow(until.to_owned())))
    }

    /// Shows people the watched topic as it was seen last.
    fn show(&self, what: &str) {
        let ledger = self.workload.ledger();
        let rows: Vec<Partition> =
            ledger.seen.values().filter(|p| p.topic == TOPIC).cloned().collect();
        self.narrator.say(&format!("{what}\n{}\n", output::rows_table(&rows)));
    }
}

/// Led by a member of its ISR, and that is not the dead node, which is out of the ISR too.
fn is_led_without(partition: &Partition, dead: u64) -> bool {
    let isr = &partition.isr;
    !isr.contains(&dead) && partition.leader.is_some_and(|leader| isr.contains(&leader))
}

/// Led, with every replica in the ISR.
fn is_full(partition: &Partition) -> bool {
    let isr: BTreeSet<u64> = partition.isr.iter().copied().collect();
    let replicas: BTreeSet<u64> = partition.replicas.iter().copied().collect();
    isr == replicas && partition.leader.is_some_and(|leader| isr.contains(&leader))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
