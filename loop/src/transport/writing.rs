//! [`write`]: empties a queue of frames into a connection.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::Encoder as _;

use super::queue::Waiting;
use crate::frame::{Frame, FrameCodec, FrameError};

/// Bytes of frames that share one write to the socket.
const BYTES_PER_WRITE: usize = 256 << 10;

/// Sends frames until the queue or the connection ends, and a sign of life after each silence of
/// `silence_max`. `Ok` means that the queue ended.
pub(super) async fn write(
    mut writer: impl AsyncWrite + Unpin,
    frames: &mut Waiting,
    silence_max: Option<Duration>,
) -> Result<(), FrameError> {
    let mut bytes = BytesMut::new();
    loop {
        let silence = async {
            match silence_max {
                Some(max) => tokio::time::sleep(max).await,
                None => std::future::pending().await,
            }
        };
        let mut next = tokio::select! {
            frame = frames.next() => frame,
            // Two followers may have nothing to say to each other for days.
            () = silence => Some(Frame::Alive),
        };
        if next.is_none() {
            return Ok(());
        }
        while let Some(frame) = next {
            FrameCodec.encode(&frame, &mut bytes)?;
            next = if bytes.len() < BYTES_PER_WRITE { frames.next_now() } else { None };
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        bytes.clear();
        if bytes.capacity() > 4 * BYTES_PER_WRITE {
            bytes = BytesMut::new();
        }
    }
}
