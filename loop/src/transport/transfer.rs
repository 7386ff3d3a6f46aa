//! Snapshot files on a connection of their own, so that they delay no message.
//!
//! Both ends run on a thread of their own: files are blocking, and the tokio runtime does no disk
//! I/O. The receiver verifies the whole file and makes it durable before it says so.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_engine::{GroupId, LogId, NodeId, SnapshotError, SnapshotFile, SnapshotStore};
use raft::eraftpb::Message;
use tokio::runtime::Handle;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::dialler::dial;
use super::handshake::HandshakeError;
use super::roster::SharedRoster;
use crate::frame::{FRAME_BYTES_MAX, Frame, FrameCodec, FrameError};

/// Bytes of the file in one frame.
const CHUNK_BYTES: usize = 256 << 10;

/// Why a snapshot did not arrive; the leader tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the peer sent something else than the announced file")]
    Protocol,
}

impl From<std::io::Error> for TransferError {
    fn from(error: std::io::Error) -> Self {
        TransferError::Frame(FrameError::Io(error))
    }
}

/// A snapshot on its way to a peer.
pub(crate) struct SnapshotTransfer {
    pub(crate) to: NodeId,
    pub(crate) group: GroupId,
    /// The MsgSnapshot that the file belongs to.
    pub(crate) message: Message,
    pub(crate) file: SnapshotFile,
}

/// Sends a snapshot; returns when the receiver has made it durable. Blocks; not for a thread of
/// the runtime.
///
/// # Errors
///
/// When the receiver cannot be reached, is silent for `timeout`, or refuses the file.
pub(crate) fn send_snapshot(
    runtime: &Handle,
    roster: &SharedRoster,
    timeout: Duration,
    transfer: SnapshotTransfer,
) -> Result<(), TransferError> {
    let SnapshotTransfer { to, group, message, mut file } = transfer;
    let stream = runtime.block_on(dial(roster, to, true, timeout))?;
    let mut stream = blocking(stream, timeout)?;
    let file_bytes = file.len_bytes();
    write_frame(&mut stream, &Frame::Snapshot { group, file_bytes, message })?;
    let mut left = file_bytes;
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let chunk = &mut buffer[..length];
        file.read_exact(chunk)?;
        write_frame(&mut stream, &Frame::Chunk(Bytes::copy_from_slice(chunk)))?;
        left -= length as u64;
    }
    match read_frame(&mut stream)? {
        Frame::Received => Ok(()),
        _ => Err(TransferError::Protocol),
    }
}

/// Receives a snapshot, verifies it and makes it durable; returns its group, and the message that
/// goes with it. Blocks; not for a thread of the runtime.
///
/// # Errors
///
/// When the sender is silent for `timeout`, or the file is not what was announced, or not of
/// a group that this node `serves`; nothing of it is left behind then.
pub(crate) fn receive_snapshot(
    stream: tokio::net::TcpStream,
    timeout: Duration,
    store: &SnapshotStore,
    serves: &dyn Fn(GroupId) -> bool,
) -> Result<(GroupId, Message), TransferError> {
    let mut stream = blocking(stream, timeout)?;
    // A file of a group that has no log here would pass for one whose log is lost.
    let (group, file_bytes, message) = match read_frame(&mut stream)? {
        Frame::Snapshot { group, file_bytes, message } if serves(group) => {
            (group, file_bytes, message)
        }
        _ => return Err(TransferError::Protocol),
    };
    let meta = message.get_snapshot().get_metadata();
    let id = LogId { index: meta.index, term: meta.term };
    let mut receiver = store.receive(group, id, file_bytes)?;
    while receiver.received_bytes() < file_bytes {
        match read_frame(&mut stream)? {
            // An empty one would go on for ever.
            Frame::Chunk(bytes) if !bytes.is_empty() => receiver.write(&bytes)?,
            _ => return Err(TransferError::Protocol),
        }
    }
    receiver.finish()?;
    write_frame(&mut stream, &Frame::Received)?;
    Ok((group, message))
}

fn blocking(stream: tokio::net::TcpStream, timeout: Duration) -> Result<TcpStream, TransferError> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn write_frame(stream: &mut TcpStream, frame: &Frame) -> Result<(), TransferError> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes)?;
    stream.write_all(&bytes)?;
    Ok(())
}

fn read_frame(stream: &mut TcpStream) -> Result<Frame, TransferError> {
    let mut bytes = BytesMut::zeroed(8);
    stream.read_exact(&mut bytes)?;
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[..4]);
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length).into());
    }
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[8..])?;
    FrameCodec.decode(&mut bytes)?.ok_or(TransferError::Protocol)
}

#[cfg(test)]
mod tests {
    use quorate_engine::{
        ClusterId, Engine, EngineConfig, Formatted, Founding, SnapshotMeta, Voter,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn group(number: u64) -> GroupId {
        GroupId::new(number).unwrap()
    }

    /// The store of a formatted directory, with a snapshot of group 1 at (7, 2).
    fn store() -> (tempfile::TempDir, SnapshotStore, SnapshotMeta) {
        let dir = tempfile::tempdir().unwrap();
        let node_id = NodeId::new(1).unwrap();
        let voter = Voter { node_id, addr: "localhost:9001".to_owned() };
        let founding = Founding::Voters(vec![voter]);
        quorate_engine::format(dir.path(), ClusterId::random(), node_id, founding).unwrap();
        let formatted = Formatted::open(dir.path()).unwrap();
        let engine = Engine::open(formatted, &EngineConfig::default()).unwrap();
        let (id, members) = (LogId { index: 7, term: 2 }, Bytes::from_static(b"members"));
        let meta = SnapshotMeta { group: group(1), id, conf_state: Default::default(), members };
        let mut writer = engine.snapshots.create(meta).unwrap();
        writer.write_all(&[7; 100_000]).unwrap();
        let meta = writer.finish().unwrap();
        (dir, engine.snapshots, meta)
    }

    /// What becomes of the snapshot when it is announced as one of group `announced`.
    fn transfer(
        store: &SnapshotStore,
        meta: &SnapshotMeta,
        announced: GroupId,
    ) -> Result<Message, TransferError> {
        let mut file = store.raw(meta.group, meta.id).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let mut message = Message::default();
        message.mut_snapshot().mut_metadata().index = meta.id.index;
        message.mut_snapshot().mut_metadata().term = meta.id.term;

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let receiver = tokio::net::TcpStream::from_std(receiver).unwrap();

        let file_bytes = file.len_bytes();
        let frame = Frame::Snapshot { group: announced, file_bytes, message };
        write_frame(&mut sender, &frame).unwrap();
        write_frame(&mut sender, &Frame::Chunk(bytes.into())).unwrap();
        let serves = |announced| announced == group(1);
        let (_, message) = receive_snapshot(receiver, TIMEOUT, store, &serves)?;
        assert!(matches!(read_frame(&mut sender), Ok(Frame::Received)));
        Ok(message)
    }

    #[test]
    fn only_a_snapshot_of_the_group_is_received() {
        let (dir, store, meta) = store();
        let message = transfer(&store, &meta, group(1)).unwrap();
        assert_eq!(message.get_snapshot().get_metadata().index, 7);
        store.verify(group(1), meta.id).unwrap();
        let refused = transfer(&store, &meta, group(2));
        assert!(matches!(refused, Err(TransferError::Protocol)), "{refused:?}");
        assert!(!dir.path().join("snapshots/2").exists());
    }
}
