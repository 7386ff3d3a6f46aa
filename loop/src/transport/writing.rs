//! [`write`]: empties a queue of frames into a connection.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::codec::Encoder as _;

use crate::frame::{Frame, FrameCodec, FrameError};

/// Frames and bytes that share one write to the socket.
const FRAMES_PER_WRITE: usize = 256;
const BYTES_PER_WRITE: usize = 256 << 10;

/// Sends frames until the queue or the connection ends, and a sign of life after each silence of
/// `silence_max`. `Ok` means that the queue ended.
pub(super) async fn write(
    mut writer: impl AsyncWrite + Unpin,
    frames: &mut mpsc::Receiver<Frame>,
    silence_max: Option<Duration>,
) -> Result<(), FrameError> {
    let mut waiting = Vec::with_capacity(FRAMES_PER_WRITE);
    let mut bytes = BytesMut::new();
    loop {
        let silence = async {
            match silence_max {
                Some(max) => tokio::time::sleep(max).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = frames.recv_many(&mut waiting, FRAMES_PER_WRITE) => {
                if taken == 0 {
                    return Ok(());
                }
            }
            // Two followers may have nothing to say to each other for days.
            () = silence => waiting.push(Frame::Alive),
        }
        for frame in waiting.drain(..) {
            FrameCodec.encode(&frame, &mut bytes)?;
            if bytes.len() >= BYTES_PER_WRITE {
                writer.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        bytes.clear();
        if bytes.capacity() > 4 * BYTES_PER_WRITE {
            bytes = BytesMut::new();
        }
    }
}
