//! [`Reading`]: hands what a peer says on a connection to the node.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_engine::{DirectoryId, GroupId, NodeId};
use raft::eraftpb::MessageType;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::Decoder as _;

use super::handshake::{Caller, HandshakeError};
use super::roster::SharedRoster;
use super::stream::PeerStream;
use crate::frame::{FoundingNews, Frame, FrameCodec, FrameError};
use crate::heartbeat::{HEARTBEAT_BYTES, Heartbeat};
use crate::join_wire::{JoinAnswerWire, JoinWire};
use crate::message::PeerMessage;

/// Bytes asked of the socket at a time, and what is allocated for them.
const READ_BYTES: usize = 64 << 10;
/// How little of what was allocated may be left to ask for.
const READ_BYTES_MIN: usize = READ_BYTES / 4;

/// Where everything goes that arrives; given by the driver.
pub(crate) trait Ingress: Send + Sync + 'static {
    /// A message for the core of a group; the permit is dropped when it was stepped.
    fn peer(
        &self,
        from: NodeId,
        group: GroupId,
        message: PeerMessage,
        permit: OwnedSemaphorePermit,
    );
    /// Heartbeats for the cores of many groups, or answers; the permit as above.
    fn heartbeats(
        &self,
        from: NodeId,
        kind: MessageType,
        beats: Vec<Heartbeat>,
        permit: OwnedSemaphorePermit,
    );
    /// News of the founding.
    fn founding(
        &self,
        from: NodeId,
        directory: DirectoryId,
        news: FoundingNews,
        permit: OwnedSemaphorePermit,
    );
    /// A request of the application; it must bound how much it takes on.
    fn call(&self, from: NodeId, request: u64, payload: Bytes);
    /// An answer to a request of this node.
    fn reply(&self, from: NodeId, request: u64, payload: Bytes);
    /// A request to be let into a group, of a node in this directory.
    fn join(
        &self,
        from: NodeId,
        directory: DirectoryId,
        request: JoinWire,
    ) -> Pin<Box<dyn Future<Output = JoinAnswerWire> + Send + '_>>;
    /// A connection that carries a snapshot file. The future is dropped with the acceptor.
    fn snapshot(
        &self,
        from: NodeId,
        stream: PeerStream,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How connections are read, those that this node accepted and those that it dialled.
pub(super) struct Reading {
    pub(super) roster: SharedRoster,
    pub(super) ingress: Arc<dyn Ingress>,
    /// What may wait in the inbox of one connection.
    pub(super) room_bytes: usize,
    /// A peer that has nothing to say on a connection that it made sends a sign of life in a quarter of
    /// this. One that is mute is gone, or its network is: it must not keep its place for ever. On a
    /// connection that this node made it need not say anything.
    pub(super) silence_max: Option<Duration>,
}

impl Reading {
    /// Reads until the connection ends. `Ok` means that the peer ended it.
    pub(super) async fn run(
        &self,
        caller: &Caller,
        mut stream: impl AsyncRead + Unpin,
    ) -> Result<(), HandshakeError> {
        let from = caller.node;
        // Bytes of this connection that the loop has not stepped yet. When they run out the
        // connection is not read, and the peer's own queue fills: no other peer notices.
        let room = Arc::new(Semaphore::new(self.room_bytes));
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        let mut members_index = caller.as_of;
        loop {
            let Some(frame) = FrameCodec.decode(&mut bytes)? else {
                make_room(&mut bytes);
                let silent = |_| FrameError::Io(std::io::ErrorKind::TimedOut.into());
                let reading = stream.read_buf(&mut bytes);
                let read = match self.silence_max {
                    Some(max) => tokio::time::timeout(max, reading).await.map_err(silent)?,
                    None => reading.await,
                };
                if read.map_err(FrameError::Io)? == 0 {
                    return Ok(());
                }
                continue;
            };
            // The members have changed: whoever is none any more is told so when it comes back.
            let roster = self.roster.load();
            if roster.index() != members_index {
                members_index = roster.index();
                roster.check(&caller.hello).map_err(HandshakeError::Refused)?;
            }
            drop(roster);
            match frame {
                Frame::Peer { group, message } => {
                    // However many small entries weigh, one message fits into an empty room.
                    let weight = message.weight().min(self.room_bytes);
                    let permit = permit(&room, weight).await?;
                    self.ingress.peer(from, group, message, permit);
                }
                Frame::Heartbeats(beats) => {
                    let permit = permit(&room, beats.len() * HEARTBEAT_BYTES).await?;
                    self.ingress.heartbeats(from, MessageType::MsgHeartbeat, beats, permit);
                }
                Frame::HeartbeatAnswers(beats) => {
                    let permit = permit(&room, beats.len() * HEARTBEAT_BYTES).await?;
                    self.ingress.heartbeats(from, MessageType::MsgHeartbeatResponse, beats, permit);
                }
                Frame::Founding(news) => {
                    let weight = news.weight().min(self.room_bytes);
                    let permit = permit(&room, weight).await?;
                    self.ingress.founding(from, caller.directory, news, permit);
                }
                Frame::Alive => {}
                Frame::Call { request, payload } => self.ingress.call(from, request, payload),
                Frame::Reply { request, payload } => self.ingress.reply(from, request, payload),
                Frame::Hello(_)
                | Frame::Welcome(_)
                | Frame::Refusal(_)
                | Frame::Snapshot { .. }
                | Frame::Offset(_)
                | Frame::Join(_)
                | Frame::JoinAnswer(_)
                | Frame::Chunk(_)
                | Frame::Received => return Err(FrameError::Unexpected.into()),
            }
        }
    }
}

/// Allocates where too little is left. Payloads are not copied: each holds on to all that was allocated with
/// it, for as long as an entry is cached, say. So it is used up first, or small frames that come one by one
/// would have so much each.
fn make_room(bytes: &mut BytesMut) {
    if bytes.capacity() - bytes.len() < READ_BYTES_MIN {
        bytes.reserve(READ_BYTES);
    }
}

async fn permit(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, FrameError> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let closed = |_| FrameError::Io(std::io::ErrorKind::BrokenPipe.into());
    room.clone().acquire_many_owned(bytes).await.map_err(closed)
}

#[cfg(test)]
mod tests {
    use tokio_util::codec::Encoder as _;

    use super::*;

    /// To see it fail: reserve `READ_BYTES` each time.
    #[test]
    fn small_frames_that_come_one_by_one_share_what_is_allocated() {
        let frame = |request| Frame::Reply { request, payload: Bytes::from(vec![7; 100]) };
        let mut wire = BytesMut::new();
        FrameCodec.encode(&frame(0), &mut wire).unwrap();
        let frame_bytes = wire.len();
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        let (mut kept, mut allocated) = (Vec::<Bytes>::new(), 1);
        for request in 0..10_000 {
            let mut wire = BytesMut::new();
            FrameCodec.encode(&frame(request), &mut wire).unwrap();
            make_room(&mut bytes);
            bytes.extend_from_slice(&wire);
            match FrameCodec.decode(&mut bytes).unwrap() {
                Some(Frame::Reply { request: read, payload }) if read == request => {
                    let before = kept.last().map(|payload| payload.as_ptr().addr());
                    let follows = before.map(|before| before + frame_bytes);
                    let is_next = follows.is_none_or(|follows| follows == payload.as_ptr().addr());
                    allocated += usize::from(!is_next);
                    kept.push(payload);
                }
                other => panic!("{other:?}"),
            }
        }
        let used = READ_BYTES - READ_BYTES_MIN;
        assert!(allocated <= 10_000 * frame_bytes / used + 1, "{allocated} times");
    }
}
