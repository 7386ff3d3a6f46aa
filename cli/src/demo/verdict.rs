//! The verdict: does a node have what was acknowledged, exactly once, and did no epoch go back?
//!
//! Pure functions over the ledger and what one node answered, so that the tests below can show
//! that each kind of loss is noticed.

use std::collections::{BTreeMap, BTreeSet};

use quorate_admin::views::{Broker, Partition, Topic};

use super::ledger::{Ledger, PartitionName};

/// What one node has, read from its own image.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) topics: Vec<Topic>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) next_producer_id: u64,
    pub(crate) applied_index: u64,
}

/// One thing that is not as it was promised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Finding {
    /// It was acknowledged, and it is not there.
    #[error("lost: {0}")]
    Lost(String),
    /// It is there more than once, or was given to two callers.
    #[error("duplicated: {0}")]
    Duplicated(String),
    /// It is there, but not as it was acknowledged.
    #[error("altered: {0}")]
    Altered(String),
    /// It is there, and nobody asked for it.
    #[error("unasked: {0}")]
    Unasked(String),
    /// An epoch is lower than one that was seen.
    #[error("epoch went back: {0}")]
    EpochWentBack(String),
    /// Something differs although the epoch that counts its changes does not.
    #[error("changed within one epoch: {0}")]
    ChangedWithinEpoch(String),
    /// Nodes that applied the same entries do not have the same state.
    #[error("state differs: {0}")]
    StateDiffers(String),
    /// A change was refused that should have been made.
    #[error("refused: {0}")]
    Refused(String),
    /// Something did not come about.
    #[error("{0}")]
    Missing(String),
}

/// Everything in which `found` falls short of the ledger; empty when nothing is missing.
pub(crate) fn verify(ledger: &Ledger, found: &Found) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    topics(ledger, found, &mut findings);
    partitions(ledger, found, &mut findings);
    producer_ids(ledger, found.next_producer_id, &mut findings);
    indexes(ledger, found.applied_index, &mut findings);
    findings.extend(went_back(ledger, &found.partitions, &found.brokers));
    for name in ledger.seen.keys() {
        if !found.partitions.iter().any(|p| PartitionName::of(p) == *name) {
            findings.insert(Finding::Lost(format!("partition {name}")));
        }
    }
    for id in ledger.broker_epochs.keys() {
        if !found.brokers.iter().any(|broker| broker.id == *id) {
            findings.insert(Finding::Lost(format!("broker {id}")));
        }
    }
    findings
}

/// What in these partitions and brokers is older than what was seen before, or contradicts it.
pub(crate) fn went_back(
    ledger: &Ledger,
    partitions: &[Partition],
    brokers: &[Broker],
) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    for now in partitions {
        let name = PartitionName::of(now);
        let Some(seen) = ledger.seen.get(&name) else { continue };
        for (what, before, after) in [
            ("leader epoch", seen.leader_epoch, now.leader_epoch),
            ("partition epoch", seen.partition_epoch, now.partition_epoch),
        ] {
            if after < before {
                let text = format!("{what} of {name} is {after}, {before} was seen");
                findings.insert(Finding::EpochWentBack(text));
            }
        }
        if now.leader_epoch == seen.leader_epoch && now.leader != seen.leader {
            let text = format!(
                "leader of {name} is {:?}, {:?} was seen in the same leader epoch {}",
                now.leader, seen.leader, now.leader_epoch
            );
            findings.insert(Finding::ChangedWithinEpoch(text));
        }
        if now.partition_epoch == seen.partition_epoch && now != seen {
            let text = format!(
                "{name} is {}, {} was seen in the same partition epoch {}",
                shape(now),
                shape(seen),
                now.partition_epoch
            );
            findings.insert(Finding::ChangedWithinEpoch(text));
        }
    }
    for broker in brokers {
        let before = ledger.broker_epochs.get(&broker.id).copied().unwrap_or(0);
        if broker.epoch < before {
            let text = format!("broker {} is {}, {before} was seen", broker.id, broker.epoch);
            findings.insert(Finding::EpochWentBack(text));
        }
    }
    findings
}

fn shape(p: &Partition) -> String {
    format!("leader {:?} isr {:?} elr {:?} replicas {:?}", p.leader, p.isr, p.elr, p.replicas)
}

/// Every acknowledged topic once and as it was acknowledged, and no topic that nobody asked for.
fn topics(ledger: &Ledger, found: &Found, findings: &mut BTreeSet<Finding>) {
    let mut by_name: BTreeMap<&str, Vec<&Topic>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for topic in &found.topics {
        by_name.entry(&topic.name).or_default().push(topic);
        if !ids.insert(topic.topic_id) {
            findings.insert(Finding::Duplicated(format!("topic id {}", topic.topic_id)));
        }
    }
    for (name, topics) in &by_name {
        if topics.len() > 1 {
            findings.insert(Finding::Duplicated(format!("topic {name}")));
        }
        if !ledger.topics.contains_key(*name) && !ledger.unknown_topics.contains(*name) {
            findings.insert(Finding::Unasked(format!("topic {name}")));
        }
    }
    for (name, wanted) in &ledger.topics {
        let Some(topic) = by_name.get(name.as_str()).and_then(|topics| topics.first()) else {
            findings.insert(Finding::Lost(format!("topic {name}")));
            continue;
        };
        let is = (topic.topic_id, topic.partitions, topic.replication_factor);
        let was = (wanted.topic_id, wanted.partitions, wanted.replication_factor);
        if is != was {
            let text = format!("topic {name} is {is:?}, {was:?} was acknowledged");
            findings.insert(Finding::Altered(text));
        }
    }
}

/// Every partition of every acknowledged topic once.
fn partitions(ledger: &Ledger, found: &Found, findings: &mut BTreeSet<Finding>) {
    let mut times: BTreeMap<PartitionName, u32> = BTreeMap::new();
    for partition in &found.partitions {
        *times.entry(PartitionName::of(partition)).or_default() += 1;
    }
    for (topic, wanted) in &ledger.topics {
        for partition in 0..wanted.partitions {
            let name = PartitionName { topic: topic.clone(), partition };
            if !times.contains_key(&name) {
                findings.insert(Finding::Lost(format!("partition {name}")));
            }
        }
    }
    for (name, times) in times {
        if times > 1 {
            findings.insert(Finding::Duplicated(format!("partition {name}")));
        }
        let asked = ledger.topics.get(&name.topic).map(|topic| topic.partitions);
        if asked.is_some_and(|partitions| name.partition >= partitions) {
            findings.insert(Finding::Unasked(format!("partition {name}")));
        }
    }
}

/// No two blocks overlap, and the counter stands behind all of them and not behind more than could
/// have been given away.
fn producer_ids(ledger: &Ledger, next: u64, findings: &mut BTreeSet<Finding>) {
    let mut blocks = ledger.blocks.clone();
    blocks.sort_by_key(|block| (block.first, block.len));
    let mut end = ledger.first_producer_id;
    for block in &blocks {
        if block.first < end {
            let text = format!("producer ids from {} were given away twice", block.first);
            findings.insert(Finding::Duplicated(text));
        }
        end = end.max(block.first.saturating_add(block.len));
        if end > next {
            let text = format!("producer ids from {} (the next one is {next})", block.first);
            findings.insert(Finding::Lost(text));
        }
    }
    let Some(len) = blocks.first().map(|block| block.len).filter(|len| *len > 0) else { return };
    if blocks.iter().any(|block| block.len != len) {
        findings.insert(Finding::Altered("blocks of producer ids differ in length".to_owned()));
        return;
    }
    let span = next.saturating_sub(ledger.first_producer_id);
    if !span.is_multiple_of(len) {
        let text = format!("the next producer id {next} does not begin a block of {len}");
        findings.insert(Finding::Altered(text));
    }
    let (given, most) = (span / len, blocks.len() as u64 + ledger.unknown_blocks);
    if given > most {
        let text = format!("{given} blocks of producer ids were given away, {most} at most wanted");
        findings.insert(Finding::Duplicated(text));
    }
}

/// One index for each acknowledged change, and none that the node has not applied.
fn indexes(ledger: &Ledger, applied_index: u64, findings: &mut BTreeSet<Finding>) {
    let mut taken: BTreeMap<u64, String> = BTreeMap::new();
    for (index, what) in ledger.indexes() {
        if index > applied_index {
            let text = format!("{what} at index {index} (the node applied {applied_index})");
            findings.insert(Finding::Lost(text));
        }
        if let Some(other) = taken.insert(index, what.clone()) {
            let text = format!("index {index} was acknowledged for {other} and for {what}");
            findings.insert(Finding::Duplicated(text));
        }
    }
}

#[cfg(test)]
mod tests;
