//! [`Bare`]: the yardstick, which is a plain loop over raft-rs and raft-engine and nothing else.
//!
//! Three nodes, each a thread of this process; channels are their network. Every node fsyncs what it
//! takes before it speaks of it; a leader's appends go out while it writes, which is raft-rs's own way.
//! There is no state machine but a count, no snapshot, no session, no frame and no check. The leader's
//! thread itself is all clients: where another may begin, it proposes, and nobody is woken.

mod node;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compare::contender::Contender;
use crate::compare::drive::Order;
use crate::engine::counted::CountedDisk;
use crate::lap::Lap;
use crate::process::Failure;

use node::{Event, Node};

/// The ids of the nodes. The first one leads.
const NODES: [u64; 3] = [1, 2, 3];

/// Longest wait for the election, or for the last operations of a turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// The three nodes; they end with this.
pub(super) struct Bare {
    inboxes: Vec<Sender<Event>>,
    disk: Arc<CountedDisk>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Bare {
    /// Starts them in `dir`, and waits until the first one leads.
    pub(super) fn start(dir: &Path) -> Result<Bare, Failure> {
        let disk = Arc::<CountedDisk>::default();
        let (inboxes, receivers): (Vec<_>, Vec<_>) = NODES.iter().map(|_| channel()).unzip();
        let mut bare = Bare { inboxes, disk, threads: Vec::new() };
        for (id, inbox) in NODES.into_iter().zip(receivers) {
            let dir = dir.join(format!("bare-{id}"));
            let node = Node::open(id, &dir, bare.disk.clone(), inbox, bare.inboxes.clone())?;
            let thread = std::thread::Builder::new().name(format!("bare-{id}"));
            bare.threads.push(thread.spawn(move || node.run().map_err(|error| error.to_string()))?);
        }
        Ok(bare)
    }
}

impl Contender for Bare {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let (told, lap) = channel();
        self.inboxes[0].send(Event::Turn(*order, told))?;
        let patience = order.length() + PATIENCE;
        let lap =
            lap.recv_timeout(patience).map_err(|_| "the bare loop has stopped: see its words")?;
        Ok(lap)
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        Ok(Some(self.disk.log_fsyncs()))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for inbox in &self.inboxes {
            // Whoever has ended already hears nothing.
            let _ = inbox.send(Event::Stop);
        }
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("compare: a node of the bare loop ended: {error}");
            }
        }
    }
}
