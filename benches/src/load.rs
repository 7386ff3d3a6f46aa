//! [`Load`]: clients of one node that create topics, and write down what they were told.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate::{ErrorCode, ErrorKind, Quorum, TopicSpec, WriteError};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// Pause before a topic is asked for again that surely was not created.
const REFUSED: Duration = Duration::from_millis(20);

/// What the names of the ledgers end with.
pub(crate) const LEDGER: &str = "ledger";

/// Clients of one node, each of which asks for one topic after the other, each topic under its own
/// name. What surely was not done is asked for again; what is unknown never is.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    quorum: Quorum,
    /// What no other load ever begins a name with.
    prefix: String,
    next: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// Between an answer and the next wish of a client.
    pause: Duration,
    ledger: File,
}

/// A line of the ledger, written before the client goes on: `kill -9` of the process takes none back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The process began, whose first clients these are.
    Begun { at: Duration },
    /// It is about to be asked for. If nothing follows, its outcome is unknown.
    Asked { name: String, at: Duration },
    /// It is committed and applied: when that was known, by a clock that all processes share, and the
    /// topic's id.
    Acknowledged { name: String, id: String, at: Duration },
    /// It was refused, and should never have been.
    Failed { name: String, why: String },
}

/// The clock of the ledgers: the same in all processes of the machine.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from when the machine was started, and never goes back.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

impl Load {
    /// Begins with as many clients, which write to a file of their own in `dir`, and pause after each
    /// answer. `begun` is when the process began, where these are its first.
    pub(crate) fn start(
        quorum: &Quorum,
        dir: &Path,
        clients: u32,
        pause: Duration,
        begun: Option<Duration>,
    ) -> std::io::Result<Load> {
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        let ledger = File::create_new(dir.join(&prefix).with_extension(LEDGER))?;
        let shared = Arc::new(Shared {
            quorum: quorum.clone(),
            prefix,
            next: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            pause,
            ledger,
        });
        if let Some(at) = begun {
            shared.note(&Line::Begun { at });
        }
        let clients = (0..clients).map(|_| keep_creating(shared.clone())).collect();
        Ok(Load { shared, clients })
    }

    /// How many were acknowledged until now.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends, after the last answers.
    pub(crate) async fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

async fn keep_creating(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", shared.prefix);
        if !shared.note(&Line::Asked { name: name.clone(), at: now() }) {
            return;
        }
        let Some(told) = create(&shared, name).await else { continue };
        if !shared.note(&told) || matches!(told, Line::Failed { .. }) {
            return;
        }
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        if !shared.pause.is_zero() {
            tokio::time::sleep(shared.pause).await;
        }
    }
}

/// What a client was told of a topic; `None` where the outcome is unknown.
async fn create(shared: &Shared, name: String) -> Option<Line> {
    loop {
        match shared.quorum.create_topic(TopicSpec::new(&name, 1, 1)).await {
            Ok(topic) => {
                let (id, at) = (topic.id.to_string(), now());
                // What is acknowledged is to be seen where it was asked for.
                let image = shared.quorum.image().image;
                if image.topic(topic.id).is_none_or(|there| *there.name != *name) {
                    let why = format!("acknowledged as {id}, and not in the image of this node");
                    return Some(Line::Failed { name, why });
                }
                return Some(Line::Acknowledged { name, id, at });
            }
            // All processes were killed: no broker is back yet that could lead the topic.
            Err(WriteError::Rejected(refusal))
                if refusal.code == ErrorCode::InvalidReplicationFactor =>
            {
                tokio::time::sleep(REFUSED).await;
            }
            Err(error) => match error.kind() {
                // It has tried for a time already, or says at once that there is no room.
                ErrorKind::Retryable => tokio::time::sleep(REFUSED).await,
                ErrorKind::Unknown => return None,
                // The process is about to end.
                ErrorKind::Fatal => std::future::pending().await,
                ErrorKind::Rejected => return Some(Line::Failed { name, why: error.to_string() }),
            },
        }
    }
}

impl Shared {
    fn note(&self, line: &Line) -> bool {
        // One call a line, so that lines of several clients do not mix.
        let line = serde_json::to_string(line).map(|line| format!("{line}\n"));
        line.is_ok_and(|line| (&self.ledger).write_all(line.as_bytes()).is_ok())
    }
}
