//! [`write`]: empties a queue of frames into a connection.

use std::time::Duration;

use super::queue::Waiting;
use super::stream::Writer;
use crate::frame::{Frame, FrameError};

/// Sends frames until the queue or the connection ends, and a sign of life after each silence of
/// `silence_max`. `Ok` means that the queue ended.
pub(super) async fn write(
    writer: Writer,
    frames: &Waiting,
    silence_max: Option<Duration>,
) -> Result<(), FrameError> {
    let mut connection = frames.outlet().open(writer).await;
    loop {
        let silence = async {
            match silence_max {
                Some(max) => tokio::time::sleep(max).await,
                None => std::future::pending().await,
            }
        };
        let (mut sign, mut is_ended) = (None, false);
        tokio::select! {
            is_there = frames.wait() => is_ended = !is_there,
            // Two followers may have nothing to say to each other for days.
            () = silence => sign = Some(Frame::Alive),
        }
        connection.write(|| sign.take().or_else(|| frames.next_now())).await?;
        if is_ended {
            return Ok(());
        }
    }
}
