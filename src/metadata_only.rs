//! [`MetadataOnly`]: the partition leader of a broker that has no data plane.
//!
//! Where nothing is stored, nothing has to be copied: a replica is in sync as soon as its broker is
//! active. So the leader of a partition takes the active replicas that are missing back into the ISR,
//! by AlterPartition like any other leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_statemachine::{
    AlterPartition, BrokerId, BrokerSession as RegisteredBroker, MetadataImage, PartitionAltered,
    PartitionKey, Recovery,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::broker_session::{BrokerSession, SessionState};
use crate::error::{ErrorKind, WriteError};
use crate::quorum::Quorum;

/// AlterPartition requests of one broker that are under way at a time. They share fsyncs, so more
/// would gain little, and a leader of many partitions must not fill the log's inbox.
const IN_FLIGHT_MAX: usize = 64;

/// Pause before a partition is looked at again whose request did not succeed. Metadata that explains
/// why comes before that in most cases.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What a broker without data plane does as the leader of partitions.
#[derive(Debug)]
pub struct MetadataOnly {
    quorum: Quorum,
    own: RegisteredBroker,
    /// What may lack a replica.
    due: BTreeSet<PartitionKey>,
    /// What did not succeed, and when it is due again.
    later: BTreeMap<PartitionKey, Instant>,
    in_flight: BTreeSet<PartitionKey>,
    requests: JoinSet<(PartitionKey, Result<PartitionAltered, WriteError>)>,
}

impl MetadataOnly {
    /// Works for a session until it ends or the node stops. Run it beside the session, on a task of
    /// its own:
    ///
    /// ```no_run
    /// # async fn example(quorum: quorate::Quorum, session: quorate::BrokerSession) {
    /// tokio::spawn(quorate::MetadataOnly::run(quorum, &session));
    /// # }
    /// ```
    ///
    /// Cancel safe: what was not done is done when it runs again.
    pub fn run(
        quorum: Quorum,
        session: &BrokerSession,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut state = session.watch();
        let worker = Self {
            quorum,
            own: session.registered(),
            due: BTreeSet::new(),
            later: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            requests: JoinSet::new(),
        };
        async move {
            let ended = async {
                // It fails when the session's task is gone, which is an end as well.
                let _ = state.wait_for(|state| matches!(state, SessionState::Ended(_))).await;
            };
            tokio::select! {
                () = ended => {}
                () = worker.work() => {}
            }
        }
    }

    async fn work(mut self) {
        let mut watch = self.quorum.watch();
        self.due.extend(watch.start().image.partitions_of(self.own.broker));
        loop {
            self.send();
            let again_at = self.later.values().min().copied();
            tokio::select! {
                update = watch.next() => match update {
                    Ok(update) => {
                        let image = &update.image;
                        if update.delta.brokers.is_empty() {
                            let changed = update.delta.partitions;
                            let own = self.own.broker;
                            self.due.extend(changed.into_iter().filter(|key| {
                                image.partition(*key).is_some_and(|it| it.leader == Some(own))
                            }));
                        } else {
                            // Whoever became active may be missing anywhere.
                            self.due.extend(image.partitions_of(self.own.broker));
                        }
                    }
                    Err(_) => return,
                },
                Some(answer) = self.requests.join_next() => {
                    if let Ok((key, result)) = answer {
                        self.answered(key, result);
                    }
                }
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {
                    let now = Instant::now();
                    let due: Vec<_> =
                        self.later.extract_if(.., |_, at| *at <= now).map(|(key, _)| key).collect();
                    self.due.extend(due);
                }
            }
        }
    }

    /// Sends what is due, as far as the bound allows, by the newest image.
    fn send(&mut self) {
        let image = self.quorum.image().image;
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(key) = self.due.pop_first() else { return };
            if self.in_flight.contains(&key) {
                // Its answer puts it back.
                continue;
            }
            let Some(change) = missing_replicas(&image, self.own, key) else { continue };
            self.later.remove(&key);
            self.in_flight.insert(key);
            let quorum = self.quorum.clone();
            self.requests.spawn(async move { (key, quorum.alter_partition(change).await) });
        }
    }

    fn answered(&mut self, key: PartitionKey, result: Result<PartitionAltered, WriteError>) {
        self.in_flight.remove(&key);
        match result {
            // Brokers may have become active while the request was under way.
            Ok(_) => {
                self.due.insert(key);
            }
            Err(error) => {
                if error.kind() != ErrorKind::Rejected {
                    tracing::debug!(partition = %key, %error, "the ISR was not extended yet");
                }
                // The image, which shows by now what a rejection was based on, decides what comes
                // next; the pause keeps a disagreement from becoming a busy loop.
                self.later.insert(key, Instant::now() + AGAIN_AFTER);
            }
        }
    }
}

/// The change that takes every active replica into the ISR; `None` when nobody is missing, or when
/// this registration of this broker does not lead the partition.
fn missing_replicas(
    image: &MetadataImage,
    own: RegisteredBroker,
    key: PartitionKey,
) -> Option<AlterPartition> {
    let partition = image.partition(key).filter(|it| it.leader == Some(own.broker))?;
    image.broker(own.broker).filter(|broker| broker.epoch == own.epoch)?;
    let active = |id: &BrokerId| {
        let broker = image.broker(*id).filter(|broker| broker.is_active())?;
        Some(RegisteredBroker { broker: *id, epoch: broker.epoch })
    };
    let isr: Vec<_> = partition.replicas.iter().filter_map(active).collect();
    let complete = isr.iter().all(|member| partition.isr.contains(&member.broker));
    if complete && partition.recovery == Recovery::Recovered {
        return None;
    }
    Some(AlterPartition {
        sender: own,
        partition: key,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        isr,
        // A leader that stores nothing has nothing to recover.
        recovery: Recovery::Recovered,
    })
}
