//! [`Load`]: proposals to a node of this process, until they are stopped.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_loop::Node;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::lap::{Lap, Tally};
use crate::pace;
use crate::process::Failure;
use crate::replica::PATIENCE;
use crate::replica::ballast::Ballast;

/// How proposals are made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many in a second, whatever becomes of those before.
    Open { per_second: u32 },
    /// By so many clients, each of which waits for its last.
    Closed { clients: u32 },
}

/// After a proposal that was refused a client waits so long.
const PAUSE: Duration = Duration::from_millis(1);

/// Proposals that go on until they are halted.
pub(crate) struct Load {
    shared: Arc<Shared>,
    /// Ends when the last proposal has.
    ended: mpsc::Receiver<Infallible>,
}

/// Held by whoever proposes.
type Proposing = mpsc::Sender<Infallible>;

struct Shared {
    node: Node<Ballast>,
    command: Bytes,
    runtime: Handle,
    stopped: AtomicBool,
    lap: Mutex<Tally>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(
        node: Node<Ballast>,
        runtime: Handle,
        pace: Pace,
        payload_bytes: usize,
    ) -> Result<Load, Failure> {
        let (command, lap) = (Ballast::command(payload_bytes), Mutex::new(Tally::new()?));
        let stopped = AtomicBool::new(false);
        let shared = Arc::new(Shared { node, command, runtime, stopped, lap });
        let (proposing, ended) = mpsc::channel(1);
        match pace {
            Pace::Open { per_second } => {
                let shared = shared.clone();
                // A thread of its own: the runtime's clock is too coarse.
                std::thread::Builder::new()
                    .name("pace".to_owned())
                    .spawn(move || shared.keep_pace(per_second, &proposing))?;
            }
            Pace::Closed { clients } => {
                for _ in 0..clients {
                    let (client, proposing) = (shared.clone(), proposing.clone());
                    shared.runtime.spawn(async move {
                        client.propose_on().await;
                        drop(proposing);
                    });
                }
            }
        }
        Ok(Load { shared, ended })
    }

    /// What became of the proposals since the last call, or the start.
    pub(crate) fn lap(&self) -> Result<Lap, Failure> {
        let next = Tally::new()?;
        Ok(std::mem::replace(&mut *self.shared.lap(), next).lap())
    }

    /// Proposes nothing more, and waits for what is under way; tells the last lap.
    pub(crate) fn halt(mut self) -> Result<Lap, Failure> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let ended = async { tokio::time::timeout(PATIENCE, self.ended.recv()).await };
        self.shared.runtime.block_on(ended)?;
        self.lap()
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn keep_pace(self: Arc<Self>, per_second: u32, proposing: &Proposing) {
        pace::keep(
            per_second,
            || !self.is_stopped(),
            |due| {
                let (one, proposing) = (self.clone(), proposing.clone());
                self.runtime.spawn(async move {
                    one.propose(due).await;
                    drop(proposing);
                });
            },
        );
    }

    async fn propose_on(self: Arc<Self>) {
        while !self.is_stopped() {
            if !self.propose(Instant::now()).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn propose(&self, due: Instant) -> bool {
        let is_done = self.node.propose(self.command.clone()).await.is_ok();
        let mut lap = self.lap();
        if is_done {
            lap.acknowledged(due.elapsed());
        } else {
            lap.refused(1);
        }
        is_done
    }

    fn lap(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Nothing in the critical sections can panic half way.
        self.lap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
