//! [`Sending`]: the snapshots on their way from this node to its peers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{GroupId, LogId, NodeId, SnapshotDigest, SnapshotFile, SnapshotStore};
use raft::eraftpb::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::dialler::{dial, jittered};
use super::rate::Rate;
use super::roster::SharedRoster;
use super::transfer::{CHUNK_BYTES, Link, TransferError, WINDOW_BYTES};
use crate::frame::Frame;

/// Transfers to one peer at a time. More wait a little and are then reported as failed; Raft asks
/// again. The limit is the peer's own, so that a slow one delays no other.
const PEER_TRANSFERS_MAX: usize = 2;

/// Connections for one transfer: so often it goes on after a cut. The receiver keeps its part, so
/// that the next transfer of the same file goes on there too.
const CONNECTIONS_MAX: u32 = 5;

/// Pause before the second connection; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends snapshot files, several at a time, each read by a handle of its own: a file that is
/// superseded and removed meanwhile stays readable to its end. Dropping it ends every transfer.
pub(crate) struct Sending {
    runtime: Handle,
    roster: SharedRoster,
    store: SnapshotStore,
    /// Longest silence of a receiver, and longest wait of a transfer for its turn.
    silence: Duration,
    rate: Arc<Rate>,
    turns: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
    transfers: Mutex<JoinSet<()>>,
}

/// A snapshot that a peer needs.
pub(crate) struct Outgoing {
    pub(crate) to: NodeId,
    pub(crate) group: GroupId,
    /// The MsgSnapshot that names it.
    pub(crate) message: Message,
}

impl Sending {
    /// Of a node that sends `bytes_per_second` of snapshots at most.
    pub(crate) fn new(
        runtime: Handle,
        roster: SharedRoster,
        store: SnapshotStore,
        silence: Duration,
        bytes_per_second: u64,
    ) -> Self {
        let (turns, transfers) = (Mutex::default(), Mutex::default());
        let rate = Arc::new(Rate::new(bytes_per_second));
        Sending { runtime, roster, store, silence, rate, turns, transfers }
    }

    /// Sends a snapshot; returns at once. `report` is called once, however it ends, with whether
    /// the receiver has it: a peer of which nothing is reported waits for ever (trap R11).
    pub(crate) fn send(&self, outgoing: Outgoing, report: impl FnOnce(bool) + Send + 'static) {
        let report = Report(Some(report));
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(PEER_TRANSFERS_MAX));
            turns.entry(outgoing.to).or_insert_with(new).clone()
        };
        let (roster, store, silence) = (self.roster.clone(), self.store.clone(), self.silence);
        let rate = self.rate.clone();
        let transfer = async move {
            let (to, group) = (outgoing.to, outgoing.group);
            let turn = tokio::time::timeout(silence, turns.acquire_owned()).await;
            let sent = match turn {
                Ok(Ok(_turn)) => transfer(&roster, store, (silence, &rate), outgoing).await,
                _ => Err(TransferError::NoTurn),
            };
            match &sent {
                Ok(()) => tracing::info!(%to, %group, "a snapshot was sent"),
                Err(error) => tracing::warn!(%to, %group, %error, "a snapshot was not sent"),
            }
            report.tell(sent.is_ok());
        };
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        while transfers.try_join_next().is_some() {}
        // At most one of each group and peer: raft-rs sends no second before the report.
        transfers.spawn_on(transfer, &self.runtime);
    }
}

/// Tells once: what it is told, or failure when it is dropped with the task.
struct Report<F: FnOnce(bool)>(Option<F>);

impl<F: FnOnce(bool)> Report<F> {
    fn tell(mut self, received: bool) {
        if let Some(report) = self.0.take() {
            report(received);
        }
    }
}

impl<F: FnOnce(bool)> Drop for Report<F> {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(false);
        }
    }
}

/// Sends one file, over as many connections as it takes, up to the limit.
async fn transfer(
    roster: &SharedRoster,
    store: SnapshotStore,
    (silence, rate): (Duration, &Rate),
    outgoing: Outgoing,
) -> Result<(), TransferError> {
    let Outgoing { to, group, message } = outgoing;
    let meta = message.get_snapshot().get_metadata();
    let id = LogId { index: meta.index, term: meta.term };
    let mut source = Source::open(store, group, id).await?;
    let announcement = Frame::Snapshot { group, file: source.digest, message };
    let mut pause = PAUSE;
    let mut connections = 1;
    loop {
        let attempt = async {
            let (_, stream) = dial(roster, to, true, silence).await?;
            send_on(Link::new(stream, silence), &announcement, &mut source, rate).await
        };
        match attempt.await {
            Err(error) if error.is_cut() && connections < CONNECTIONS_MAX => {
                tracing::info!(%to, %group, %error, "a snapshot transfer was cut; it goes on");
            }
            result => return result,
        }
        tokio::time::sleep(jittered(pause)).await;
        pause *= 2;
        connections += 1;
    }
}

/// Sends what the receiver lacks of the file.
async fn send_on<S: AsyncRead + AsyncWrite + Unpin>(
    mut link: Link<S>,
    announcement: &Frame,
    source: &mut Source,
    rate: &Rate,
) -> Result<(), TransferError> {
    link.send(announcement).await?;
    let all = source.digest.len_bytes;
    let mut written = match link.receive().await? {
        Frame::Offset(offset) if offset <= all => offset,
        Frame::Refusal(refusal) => return Err(TransferError::Refused(refusal)),
        _ => return Err(TransferError::Protocol),
    };
    let mut sent = written;
    loop {
        if sent < all && sent - written < WINDOW_BYTES {
            let chunk = source.chunk(sent).await?;
            sent += chunk.len() as u64;
            rate.wait(chunk.len()).await;
            link.send(&Frame::Chunk(chunk)).await?;
            continue;
        }
        match link.receive().await? {
            Frame::Offset(offset) if (written..=sent).contains(&offset) => written = offset,
            Frame::Received if sent == all => return Ok(()),
            Frame::Refusal(refusal) => return Err(TransferError::Refused(refusal)),
            _ => return Err(TransferError::Protocol),
        }
    }
}

/// The file that is sent; the same one over all connections.
struct Source {
    /// Shared with the thread that reads, one chunk at a time.
    file: Arc<Mutex<SnapshotFile>>,
    digest: SnapshotDigest,
}

impl Source {
    async fn open(store: SnapshotStore, group: GroupId, id: LogId) -> Result<Self, TransferError> {
        let opening = tokio::task::spawn_blocking(move || store.raw(group, id));
        let file = opening.await.map_err(|_| TransferError::DiskHangs)??;
        let digest = file.digest();
        Ok(Source { file: Arc::new(Mutex::new(file)), digest })
    }

    /// The bytes at `offset`, which is before the end.
    async fn chunk(&mut self, offset: u64) -> Result<Bytes, TransferError> {
        let left = usize::try_from(self.digest.len_bytes - offset).unwrap_or(usize::MAX);
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let mut chunk = vec![0; left.min(CHUNK_BYTES)];
            file.go_to(offset)?;
            file.read_exact(&mut chunk)?;
            Ok(Bytes::from(chunk))
        });
        let read = reading.await.map_err(|_| TransferError::DiskHangs)?;
        read.map_err(|error: std::io::Error| match error.kind() {
            // Not one of the connection: it must not look like one.
            std::io::ErrorKind::UnexpectedEof => {
                TransferError::Read(std::io::Error::other("the file became shorter"))
            }
            _ => TransferError::Read(error),
        })
    }
}
