//! A request to join, on a connection of its own.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::codec::Encoder as _;

use super::handshake::{self, HandshakeError};
use super::roster::SharedRoster;
use super::stream::PeerStream;
use super::transfer::receive_frame;
use crate::frame::{Frame, FrameCodec, FrameError};
use crate::join_wire::{JoinAnswerWire, JoinWire};

/// Longest frame of such a connection: the largest member table.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;

/// Asks the node at `addr`, whichever it is.
///
/// # Errors
///
/// When it cannot be reached, is of another cluster, or does not answer within `timeout`.
pub(crate) async fn ask_to_join(
    roster: &SharedRoster,
    addr: &str,
    timeout: Duration,
    request: &JoinWire,
) -> Result<JoinAnswerWire, HandshakeError> {
    let asking = async {
        let roster = roster.load_full();
        let stream = TcpStream::connect(addr).await.map_err(FrameError::Io)?;
        let mut stream = PeerStream::dialled_by_newcomer(stream, &roster).await?;
        handshake::introduce_newcomer(&mut stream, &roster).await?;
        send(&mut stream, &Frame::Join(request.clone())).await?;
        match receive_frame(&mut stream, FRAME_BYTES_MAX).await? {
            Frame::JoinAnswer(answer) => Ok(answer),
            _ => Err(HandshakeError::Protocol),
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// Answers the one request of such a connection.
pub(super) async fn answer<F: Future<Output = JoinAnswerWire>>(
    mut stream: PeerStream,
    timeout: Duration,
    decide: impl FnOnce(JoinWire) -> F,
) -> Result<(), HandshakeError> {
    let answering = async {
        let Frame::Join(request) = receive_frame(&mut stream, FRAME_BYTES_MAX).await? else {
            return Err(HandshakeError::Protocol);
        };
        let answer = decide(request).await;
        Ok(send(&mut stream, &Frame::JoinAnswer(answer)).await?)
    };
    tokio::time::timeout(timeout, answering).await.unwrap_or(Err(HandshakeError::TimedOut))
}

async fn send(stream: &mut PeerStream, frame: &Frame) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}
