//! [`Link`]: a connection that carries one snapshot file, so that it delays no message.
//!
//! ```text
//!   sender                              receiver
//!   Snapshot: group, file, message ──►  a part of this file, or a new one
//!                                  ◄──  Offset: what it has of it
//!   Chunk … at most a window ahead ──►  verified, written
//!                                  ◄──  Offset, after each; and while the disk is slow
//!                                       verified to its end, durable, the core was told
//!                                  ◄──  Received
//! ```
//!
//! Both ends are tasks of the runtime, and every access to a file is on a thread that may block.
//! Each end holds one chunk, whatever the file's length; a window of them is under way.

use std::time::Duration;

use bytes::BytesMut;
use quorate_engine::SnapshotError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::handshake::HandshakeError;
use crate::frame::{Frame, FrameCodec, FrameError, Refusal, RefusalCode};

/// Bytes of the file in one frame.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of the file that are sent before the receiver has said that it wrote them. It keeps a
/// link of 1 Gbit/s busy at a round trip of 8 ms, and fits into what the kernel keeps for a
/// connection, so that a sender seldom waits in a write, where it hears nothing.
pub(super) const WINDOW_BYTES: u64 = 4 * CHUNK_BYTES as u64;

/// Longest frame here: a chunk, or an announcement with the largest membership.
const FRAME_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// Signs of life during one step of the disk, four in each time of silence that is allowed: a disk
/// that takes five minutes for it, by default, is taken for one that hangs.
const SIGNS_MAX: usize = 240;

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the snapshot file cannot be read: {0}; check the disk")]
    Read(#[source] std::io::Error),
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the same snapshot comes on a newer connection")]
    Superseded,
    #[error("refused by the peer: {}", .0.message)]
    Refused(Refusal),
    #[error("the disk does not answer: check it")]
    DiskHangs,
    #[error("the peer sent something else than the announced file")]
    Protocol,
}

impl TransferError {
    /// Whether only the connection is to blame, so that what has arrived is good and the transfer
    /// may go on behind it.
    pub(super) fn is_cut(&self) -> bool {
        match self {
            TransferError::Silent | TransferError::Superseded => true,
            TransferError::Frame(error)
            | TransferError::Handshake(HandshakeError::Frame(error)) => {
                matches!(error, FrameError::Io(_))
            }
            TransferError::Handshake(HandshakeError::TimedOut) => true,
            // Another transfer will end.
            TransferError::Refused(refusal) => refusal.code == RefusalCode::Busy as i32,
            TransferError::Handshake(_)
            | TransferError::Snapshot(_)
            | TransferError::Read(_)
            | TransferError::DiskHangs
            | TransferError::Protocol => false,
        }
    }
}

/// One end of such a connection, after the handshake.
pub(super) struct Link<S> {
    stream: S,
    /// Longest silence of the peer.
    silence: Duration,
    /// Holds one frame.
    outgoing: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(super) fn new(stream: S, silence: Duration) -> Self {
        Link { stream, silence, outgoing: BytesMut::new() }
    }

    /// Sends one frame. Not cancel safe: the connection is of no use then.
    pub(super) async fn send(&mut self, frame: &Frame) -> Result<(), TransferError> {
        self.outgoing.clear();
        FrameCodec.encode(frame, &mut self.outgoing)?;
        let sending = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(self.silence, sending).await;
        Ok(sent.map_err(|_| TransferError::Silent)?.map_err(FrameError::Io)?)
    }

    /// The next frame. Not cancel safe: the connection is of no use then.
    pub(super) async fn receive(&mut self) -> Result<Frame, TransferError> {
        let receiving = receive_frame(&mut self.stream, FRAME_BYTES_MAX);
        let received = tokio::time::timeout(self.silence, receiving).await;
        Ok(received.map_err(|_| TransferError::Silent)??)
    }

    /// Does work that blocks on the disk; meanwhile the peer is told again and again that `written`
    /// bytes are there, so that it does not take a slow disk for silence.
    pub(super) async fn while_working<T: Send + 'static>(
        &mut self,
        written: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TransferError> {
        let mut working = tokio::task::spawn_blocking(work);
        for _ in 0..SIGNS_MAX {
            match tokio::time::timeout(self.silence / 4, &mut working).await {
                Ok(done) => return done.map_err(|_| TransferError::DiskHangs),
                Err(_) => {
                    // A connection that broke shows with the next frame. The work is brought to
                    // its end all the same: what it writes is good.
                    let _ = self.send(&Frame::Offset(written)).await;
                }
            }
        }
        Err(TransferError::DiskHangs)
    }
}

/// Reads exactly one frame of at most `bytes_max` bytes and not a byte more, so that the stream
/// can be handed on. Nothing is allocated for a longer one.
pub(super) async fn receive_frame(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Frame, FrameError> {
    let mut bytes = BytesMut::zeroed(8);
    stream.read_exact(&mut bytes).await?;
    let mut length = [0; 4];
    length.copy_from_slice(&bytes[..4]);
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(FrameError::TooLong(length));
    }
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[8..]).await?;
    // All of it is there: a frame, or an error.
    FrameCodec.decode(&mut bytes)?.ok_or(FrameError::TooLong(length))
}

#[cfg(test)]
#[allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
mod tests;
