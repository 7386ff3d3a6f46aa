//! What would happen if some brokers died now: asked before a rack is switched off, or a disk replaced.
//!
//! The answer is that of the state machine itself: the brokers are fenced, one after the other, in a
//! copy of the state, by the very command that the leader would propose.

use std::collections::BTreeSet;

use crate::command::{BrokerSession, Command};
use crate::ids::{BrokerId, PartitionKey};
use crate::image::MetadataImage;
use crate::machine::Metadata;
use crate::partition::{Partition, Recovery};

/// What would become of the partitions; each list in order of topic id and number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Nobody would lead these.
    pub leaderless: Vec<PartitionKey>,
    /// Fewer replicas of these would be in sync than `acks=all` needs; the leaderless ones are among
    /// them.
    pub under_min_isr: Vec<PartitionKey>,
    /// Whoever surely has all that was acknowledged of these would be gone: their data is lost unless
    /// one of the brokers comes back with its disks. Where the leader is recovering nobody surely has it, so
    /// that any replica that dies may be the one that does.
    pub data_at_risk: Vec<PartitionKey>,
}

/// Fences `killed` in a copy of the state. Brokers that are not registered, or fenced already, change nothing there,
/// and count among those of whom data may be lost. Costs a pass over the partitions.
#[must_use]
pub fn what_if(image: &MetadataImage, killed: &BTreeSet<BrokerId>) -> WhatIf {
    let mut metadata = Metadata::of(image.clone());
    for id in killed {
        if let Some(broker) = image.broker(*id) {
            let session = BrokerSession { broker: *id, epoch: broker.epoch };
            let fenced = metadata.apply_command(u64::MAX, &Command::FenceBroker(session));
            let is_done = fenced.is_ok_and(|applied| applied.outcome.into_result().is_ok());
            assert!(is_done, "the session is that of the image, so it is not refused");
        }
    }
    let mut found = WhatIf::default();
    let after = metadata.into_image();
    for topic in after.topics() {
        let min_insync = after.min_insync_replicas(topic);
        for (number, partition) in topic.partitions() {
            let key = PartitionKey { topic: topic.id, partition: number };
            if partition.leader.is_none() {
                found.leaderless.push(key);
            }
            if partition.isr.len() < partition.min_insync_effective(min_insync) {
                found.under_min_isr.push(key);
            }
            if image.partition(key).is_some_and(|before| is_at_risk(image, killed, before)) {
                found.data_at_risk.push(key);
            }
        }
    }
    found
}

fn is_at_risk(image: &MetadataImage, killed: &BTreeSet<BrokerId>, before: &Partition) -> bool {
    match before.recovery {
        Recovery::Recovered => {
            let mut holders = before.isr.iter().chain(&before.elr);
            !holders.any(|holder| lives(image, killed, *holder))
        }
        // Nobody knows which replica has what: each that is killed may be the one.
        Recovery::Recovering => {
            let mut holders = before.isr.iter().chain(&before.elr);
            before.replicas.iter().any(|replica| killed.contains(replica))
                || !holders.any(|holder| lives(image, killed, *holder))
        }
    }
}

fn lives(image: &MetadataImage, killed: &BTreeSet<BrokerId>, id: BrokerId) -> bool {
    !killed.contains(&id) && image.broker(id).is_some_and(|broker| !broker.fenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ElectLeaders, ElectionType};
    use crate::testing::{Cluster, key, new_topic, show};

    fn killed(ids: &[u32]) -> BTreeSet<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    #[test]
    fn what_would_be_is_what_is_when_it_happens() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        let mut topics = vec![new_topic(1, "t", &[&[1, 2, 3]]), new_topic(2, "u", &[&[2, 1]])];
        for topic in &mut topics {
            topic.configs = vec![("min.insync.replicas".into(), "2".into())];
        }
        topics.push(new_topic(3, "v", &[&[3]]));
        cluster.accept(Command::CreateTopics { topics });
        let before = cluster.image().clone();

        let nobody = what_if(&before, &killed(&[]));
        assert_eq!(nobody, WhatIf::default());
        let two = what_if(&before, &killed(&[2]));
        assert_eq!(two, WhatIf { under_min_isr: vec![key(2, 0)], ..WhatIf::default() });
        let both = what_if(&before, &killed(&[1, 2]));
        let expected = WhatIf {
            leaderless: vec![key(2, 0)],
            under_min_isr: vec![key(1, 0), key(2, 0)],
            data_at_risk: vec![key(2, 0)],
        };
        assert_eq!(both, expected);
        assert_eq!(cluster.image(), &before, "only looked at");
        // One is fenced already and in the ELR: it does not come back by asking.
        cluster.fence(1);
        assert_eq!(what_if(cluster.image(), &killed(&[2])), expected);
        // Elected uncleanly: it may lack what the one that died has, and the third may have some of it.
        let elect = ElectLeaders { election: ElectionType::Unclean, partitions: vec![key(2, 0)] };
        cluster.restart(1, 2, &[]);
        cluster.unfence(1);
        cluster.fence(2);
        cluster.accept(Command::ElectLeaders(elect));
        let recovering = cluster.image().partition(key(2, 0)).expect("there");
        assert_eq!(show(recovering), "leader=1 isr=[1] elr=[] last=- epochs=2/4 RECOVERING");
        let at_risk = |ids: &[u32]| what_if(cluster.image(), &killed(ids)).data_at_risk;
        assert_eq!(at_risk(&[2]), [key(2, 0)], "dead already, and not to be thrown away");
        assert_eq!(at_risk(&[3]), [key(1, 0), key(3, 0)], "topic 2 has no replica there");
        // What is not there cannot die.
        assert_eq!(what_if(&before, &killed(&[9])), WhatIf::default());
    }
}
