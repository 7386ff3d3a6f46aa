//! [`Receiving`]: the snapshots on their way from peers to this node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_engine::{
    GroupId, LogId, NodeId, SnapshotDigest, SnapshotMeta, SnapshotReceiver, SnapshotStore,
};
use raft::eraftpb::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};

use super::transfer::{Link, TransferError};
use crate::frame::{Frame, Refusal, RefusalCode};
use crate::meters::Meters;

/// Transfers to this node at a time. More are refused, and their senders try again.
const TRANSFERS_MAX: usize = 8;

/// Receives snapshot files: one of a group at a time, several groups at once.
///
/// The receiver of a file verifies all of it and makes it durable before it says so. Of a transfer
/// that is cut the part stays, for a next one of exactly the same file; of one in which anything
/// else is wrong nothing stays.
pub(crate) struct Receiving {
    store: SnapshotStore,
    /// Longest silence of a sender, and longest wait for the transfer before.
    silence: Duration,
    slots: Semaphore,
    claims: Mutex<Claims>,
    meters: Arc<Meters>,
    /// The file of each group that was received last.
    complete: Mutex<BTreeMap<GroupId, (LogId, SnapshotDigest)>>,
}

#[derive(Default)]
struct Claims {
    next: u64,
    /// Not more than there are slots.
    groups: BTreeMap<GroupId, Claim>,
}

/// The transfer of a group that may go on.
struct Claim {
    number: u64,
    /// The term of the leader that sends.
    term: u64,
    /// Dropped with the claim, which ends the transfer.
    _keep: oneshot::Sender<()>,
    /// Whoever writes holds it, so that a newer transfer begins when an older has stopped.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A snapshot that a peer announced.
struct Announced {
    group: GroupId,
    id: LogId,
    file: SnapshotDigest,
    message: Message,
}

impl Receiving {
    pub(crate) fn new(store: SnapshotStore, silence: Duration, meters: Arc<Meters>) -> Arc<Self> {
        let (claims, complete) = (Mutex::default(), Mutex::default());
        let slots = Semaphore::new(TRANSFERS_MAX);
        Arc::new(Receiving { store, silence, slots, claims, meters, complete })
    }

    /// Receives the file of one connection of an authenticated peer, and hands the message that
    /// goes with it to `deliver`, with what the file says of itself. `is_served` tells whether this node has a group: a file of one
    /// that has no log here would pass for one whose log is lost.
    ///
    /// When the future is dropped, nothing of the file stays.
    pub(crate) async fn take<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        from: NodeId,
        stream: S,
        is_served: impl Fn(GroupId) -> bool,
        deliver: impl FnOnce(GroupId, Message, SnapshotMeta),
    ) {
        let mut link = Link::new(stream, self.silence);
        let error = match self.receive(&mut link, is_served, deliver).await {
            Ok((group, id)) => return tracing::info!(%from, %group, %id, "a snapshot was received"),
            Err(error) => error,
        };
        tracing::warn!(%from, %error, "a snapshot was not received");
        self.meters.closed((&error).into());
        let refusal = match error {
            TransferError::Refused(refusal) => refusal,
            error if error.is_cut() => return,
            error => Refusal {
                code: RefusalCode::Other as i32,
                message: error.to_string(),
                members_index: 0,
            },
        };
        // The peer may have gone.
        let _ = link.send(&Frame::Refusal(refusal)).await;
    }

    async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        link: &mut Link<S>,
        is_served: impl Fn(GroupId) -> bool,
        deliver: impl FnOnce(GroupId, Message, SnapshotMeta),
    ) -> Result<(GroupId, LogId), TransferError> {
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(busy("this node receives as many snapshots as it may: try again"));
        };
        let announced = match link.receive().await? {
            Frame::Snapshot { group, file, message } if is_served(group) => {
                let meta = message.get_snapshot().get_metadata();
                let id = LogId { index: meta.index, term: meta.term };
                Announced { group, id, file, message }
            }
            _ => return Err(TransferError::Protocol),
        };
        let (group, id, file) = (announced.group, announced.id, announced.file);
        let mut turn = self.turn(&announced).await?;
        if self.has(link, &announced).await? {
            link.send(&Frame::Offset(file.len_bytes)).await?;
        } else {
            let receiver = self.receive_file(link, &announced, &mut turn.superseded).await?;
            let finishing = move || receiver.finish();
            link.while_working(file.len_bytes, finishing).await??;
            self.complete().insert(group, (id, file));
        }
        // The core is told before the sender. The leader probes behind the snapshot as soon as it
        // knows, and the probe must find the snapshot in the inbox before it: a follower that does
        // not have it yet rejects the probe, and is sent the whole file again. Where a batch is in
        // flight the core puts the snapshot off until it is durable, so that a probe can overtake
        // it all the same; then the leader asks again, and finds above that nothing is missing.
        let store = self.store.clone();
        let opening = move || store.open(group, id).map(|reader| reader.meta().clone());
        let meta = link.while_working(file.len_bytes, opening).await??;
        deliver(group, announced.message, meta);
        // A sender that does not hear it comes back, and is told then.
        let _ = link.send(&Frame::Received).await;
        Ok((group, id))
    }

    /// Whether this very file was received before, and is still there. It was verified then, and
    /// whoever reads it verifies it again.
    async fn has<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        link: &mut Link<S>,
        announced: &Announced,
    ) -> Result<bool, TransferError> {
        let Announced { group, id, file, .. } = *announced;
        if self.complete().get(&group) != Some(&(id, file)) {
            return Ok(false);
        }
        let store = self.store.clone();
        let looking = move || store.raw(group, id).is_ok_and(|there| there.digest() == file);
        link.while_working(0, looking).await
    }

    /// Receives all bytes of the file that are not there yet.
    async fn receive_file<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        link: &mut Link<S>,
        announced: &Announced,
        superseded: &mut oneshot::Receiver<()>,
    ) -> Result<SnapshotReceiver, TransferError> {
        let Announced { group, id, file, .. } = *announced;
        let store = self.store.clone();
        let mut receiver = link.while_working(0, move || store.receive(group, id, file)).await??;
        loop {
            let written = receiver.received_bytes();
            let told = link.send(&Frame::Offset(written)).await;
            if written == file.len_bytes {
                // If the connection has broken, the sender comes back and finds all of it here.
                return Ok(receiver);
            }
            let next = async {
                told?;
                link.receive().await
            };
            // Nothing ends a transfer while the disk is at work, so that no byte is lost that it
            // has.
            let frame = tokio::select! {
                frame = next => frame,
                _ = &mut *superseded => Err(TransferError::Superseded),
            };
            let chunk = match frame {
                // An empty one would go on for ever.
                Ok(Frame::Chunk(chunk)) if !chunk.is_empty() => chunk,
                Ok(_) => return Err(self.give_up(receiver, TransferError::Protocol).await),
                Err(error) => return Err(self.give_up(receiver, error).await),
            };
            let writing = move || receiver.write(&chunk).map(|()| receiver);
            receiver = link.while_working(written, writing).await??;
        }
    }

    /// Keeps the part of a file whose transfer was cut, and removes any other. Gives the error
    /// back.
    async fn give_up(&self, receiver: SnapshotReceiver, error: TransferError) -> TransferError {
        let (store, is_cut) = (self.store.clone(), error.is_cut());
        let putting = tokio::task::spawn_blocking(move || match is_cut {
            true => store.suspend(receiver),
            false => drop(receiver),
        });
        // It has no result.
        let _ = putting.await;
        error
    }

    /// Waits until the transfer before, of the same group, has stopped. A sender that lost its
    /// connection comes back before this end notices, so the newest connection counts; but one of
    /// a leader of an older term never takes the place of a newer leader's.
    async fn turn(&self, announced: &Announced) -> Result<Turn<'_>, TransferError> {
        let (group, term) = (announced.group, announced.message.term);
        let (keep, superseded) = oneshot::channel();
        let (number, turn) = {
            let mut claims = self.claims();
            if claims.groups.get(&group).is_some_and(|claim| claim.term > term) {
                return Err(busy("a newer leader sends a snapshot of this group"));
            }
            claims.next += 1;
            let number = claims.next;
            let before = claims.groups.remove(&group);
            let turn = before.map_or_else(Arc::default, |claim| claim.turn);
            let claim = Claim { number, term, _keep: keep, turn: turn.clone() };
            claims.groups.insert(group, claim);
            (number, turn)
        };
        let claimed = Claimed { receiving: self, group, number };
        let waiting = tokio::time::timeout(self.silence, turn.lock_owned()).await;
        let turn = waiting.map_err(|_| busy("the transfer before has not stopped: try again"))?;
        Ok(Turn { superseded, _turn: turn, _claimed: claimed })
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        // Nothing in the critical sections can panic half way.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, (LogId, SnapshotDigest)>> {
        // As above.
        self.complete.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to receive the snapshot of a group, until a newer transfer comes.
struct Turn<'a> {
    superseded: oneshot::Receiver<()>,
    // Before the claim, so that whoever finds no claim finds no writer either.
    _turn: OwnedMutexGuard<()>,
    _claimed: Claimed<'a>,
}

/// Takes the claim back when the transfer has ended.
struct Claimed<'a> {
    receiving: &'a Receiving,
    group: GroupId,
    number: u64,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut claims = self.receiving.claims();
        if claims.groups.get(&self.group).is_some_and(|claim| claim.number == self.number) {
            claims.groups.remove(&self.group);
        }
    }
}

fn busy(why: &str) -> TransferError {
    TransferError::Refused(Refusal {
        code: RefusalCode::Busy as i32,
        message: why.to_owned(),
        members_index: 0,
    })
}
