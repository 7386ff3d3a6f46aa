//! [`write`]: empties a queue of frames into a connection.

use std::time::Duration;

use super::outlet::Open;
use super::queue::Waiting;
use crate::frame::{Frame, FrameError};

/// Sends frames until the queue or the connection ends, and a sign of life where it had nothing to send for
/// `silence_max`. `Ok` means that the queue ended.
pub(super) async fn write(
    mut connection: Open<'_>,
    frames: &Waiting,
    silence_max: Option<Duration>,
) -> Result<(), FrameError> {
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
