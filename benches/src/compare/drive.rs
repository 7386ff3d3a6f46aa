//! Clients with one outstanding operation each, for the time of a turn.

use std::future::Future;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::lap::{Lap, Tally};
use crate::pace;
use crate::process::Failure;

/// Pause of a client after an operation that failed.
const REFUSED: Duration = Duration::from_millis(1);

/// Longest wait for the last answers of a turn.
const LAST_ANSWER: Duration = Duration::from_secs(60);

/// After the end of a turn what was due before is still begun for so long: more than a burst is not put off
/// by a system that keeps up.
const GRACE: Duration = Duration::from_millis(20);

/// Operations that are due and that one client has not begun: where it is that far behind, the others'
/// are put off with its, and their latencies still count from when they were due.
const DUE_MAX: usize = 4_096;

/// What a system is to do in its turn.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) clients: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) seconds: f64,
    /// Operations of all clients that fall due in a second, and count from then; without it each
    /// client begins the next when it is told of the last.
    pub(crate) rate: Option<u32>,
}

impl Order {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// One that waits for each of its operations.
pub(crate) trait Client: Send + 'static {
    /// Does one, and returns when the system has promised it. Why it has not is for people.
    fn operate(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

/// Has these clients do as they are ordered.
pub(crate) async fn drive<C: Client>(clients: Vec<C>, order: &Order) -> Result<Lap, Failure> {
    let mut tally = Tally::new()?;
    let end = Instant::now() + order.length();
    let mut running = JoinSet::new();
    match order.rate {
        None => {
            for client in clients {
                running.spawn(one_after_the_other(client, end));
            }
        }
        Some(rate) => {
            let mut dues = Vec::new();
            for client in clients {
                let (due_in, due) = mpsc::channel(DUE_MAX);
                dues.push(due_in);
                running.spawn(as_they_fall_due(client, due, end));
            }
            // It ends with the turn.
            std::thread::Builder::new().name("pace".to_owned()).spawn(move || {
                let mut next = dues.iter().cycle();
                let wanted = || Instant::now() < end;
                pace::keep(rate, wanted, |due| {
                    // Only a client that has ended takes none.
                    let _ = next.next().map(|client| client.blocking_send(due));
                });
            })?;
        }
    }
    // All of them first: to add them up takes time, which is not the system's.
    let ended = tokio::time::timeout(order.length() + LAST_ANSWER, running.join_all()).await;
    let clients = ended.map_err(|_| "an operation was never answered")?;
    let took = tally.elapsed();
    let mut reason = None;
    for done in clients {
        done.nanos.into_iter().for_each(|took| tally.acknowledged(Duration::from_nanos(took)));
        tally.refused(done.refused);
        reason = reason.or(done.reason);
    }
    let lap = tally.lap_of(took);
    if let Some(reason) = reason {
        eprintln!("compare: {} operations failed, one of them: {reason}", lap.refused);
    }
    Ok(lap)
}

/// What one client did. It is put together with the others' at the end, so that they share nothing
/// while they run.
#[derive(Default)]
struct Done {
    nanos: Vec<u64>,
    refused: u64,
    reason: Option<String>,
}

impl Done {
    async fn operate(&mut self, client: &mut impl Client, due: Instant) {
        match client.operate().await {
            Ok(()) => self.nanos.push(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Err(reason) => {
                self.refused += 1;
                self.reason.get_or_insert(reason);
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

async fn one_after_the_other(mut client: impl Client, end: Instant) -> Done {
    let mut done = Done::default();
    let mut now = Instant::now();
    while now < end {
        done.operate(&mut client, now).await;
        now = Instant::now();
    }
    done
}

async fn as_they_fall_due(
    mut client: impl Client,
    mut dues: mpsc::Receiver<Instant>,
    end: Instant,
) -> Done {
    let mut done = Done::default();
    while let Some(due) = dues.recv().await {
        if Instant::now() < end + GRACE {
            done.operate(&mut client, due).await;
        } else {
            // It was never begun. To leave it out would hide how far behind the system is.
            done.refused += 1;
            done.reason.get_or_insert_with(|| "it was not begun in time".to_owned());
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as long as it is told to for its first operation, and no time for others.
    struct Stalling(Option<Duration>);

    impl Client for Stalling {
        async fn operate(&mut self) -> Result<(), String> {
            if let Some(stall) = self.0.take() {
                tokio::time::sleep(stall).await;
            }
            Ok(())
        }
    }

    /// To see it fail: count from when an operation was begun.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_fell_due_during_a_stall_counts_from_then() {
        let order = Order { clients: 1, payload_bytes: 1, seconds: 1.0, rate: Some(1_000) };
        let stall = Duration::from_millis(500);
        let lap = drive(vec![Stalling(Some(stall))], &order).await.unwrap();
        // Half of them were due while the first stood still, the earliest of these for all of it.
        assert!(lap.p99_us >= 400_000.0, "{lap:?}");
        let closed = Order { rate: None, seconds: 0.6, ..order };
        let lap = drive(vec![Stalling(Some(stall))], &closed).await.unwrap();
        assert!(lap.p50_us < 400_000.0 && lap.max_us >= 500_000.0, "{lap:?}");
    }
}
