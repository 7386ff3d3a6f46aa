//! [`Queue`]: frames that wait for a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::frame::Frame;

/// What requests and answers of the application may wait for one connection, in bytes, but for short ones.
/// Messages of Raft have their own windows, and share their entries with the log.
const CALLS_BYTES_MAX: usize = 64 << 20;

/// Of requests and answers, the longest that is not counted: the number of frames bounds them (16 MiB by
/// default), and the answer to a heartbeat is not lost because of some long answers ahead of it.
const SHORT_BYTES_MAX: usize = 1 << 10;

/// The end that frames are put into.
pub(super) struct Queue {
    frames: mpsc::Sender<Frame>,
    /// Of what waits, the payloads of requests and answers that are not short.
    calls_bytes: Arc<AtomicUsize>,
}

/// The end of the connection.
pub(super) struct Waiting {
    frames: mpsc::Receiver<Frame>,
    calls_bytes: Arc<AtomicUsize>,
}

/// A queue of at most `frames_max` frames.
pub(super) fn queue(frames_max: usize) -> (Queue, Waiting) {
    let (sender, frames) = mpsc::channel(frames_max);
    let calls_bytes = Arc::new(AtomicUsize::new(0));
    (Queue { frames: sender, calls_bytes: calls_bytes.clone() }, Waiting { frames, calls_bytes })
}

impl Queue {
    /// Never waits.
    #[expect(clippy::result_large_err, reason = "a frame that was not sent comes back as it was")]
    pub(super) fn try_send(&self, frame: Frame) -> Result<(), TrySendError<Frame>> {
        let bytes = calls_bytes(&frame);
        // One that is longer than all goes alone.
        let fits = |waiting: usize| {
            let all = waiting + bytes;
            (waiting == 0 || bytes == 0 || all <= CALLS_BYTES_MAX).then_some(all)
        };
        // Counted ahead of the frame, which may be taken out at once.
        if self.calls_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return Err(TrySendError::Full(frame));
        }
        let sent = self.frames.try_send(frame);
        if sent.is_err() {
            self.calls_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// How many frames wait.
    pub(super) fn len(&self) -> usize {
        self.frames.max_capacity() - self.frames.capacity()
    }
}

impl Waiting {
    /// The next frame, when there is one; `None` when there will be none.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().await?;
        Some(self.taken(frame))
    }

    /// The next frame, if there is one now.
    pub(super) fn next_now(&mut self) -> Option<Frame> {
        let frame = self.frames.try_recv().ok()?;
        Some(self.taken(frame))
    }

    fn taken(&self, frame: Frame) -> Frame {
        self.calls_bytes.fetch_sub(calls_bytes(&frame), Ordering::Relaxed);
        frame
    }
}

fn calls_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Call { payload, .. } | Frame::Reply { payload, .. }
            if payload.len() > SHORT_BYTES_MAX =>
        {
            payload.len()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(bytes: usize) -> Frame {
        Frame::Reply { request: 1, payload: Bytes::from(vec![0; bytes]) }
    }

    /// To see it fail: count no bytes, or those of short answers too, or do not give back those of a frame
    /// that had no room.
    #[tokio::test]
    async fn answers_that_nobody_takes_are_bounded_by_bytes_and_other_frames_are_not_held_up() {
        let (queue, mut waiting) = queue(4);
        let half = CALLS_BYTES_MAX / 2;
        assert!(queue.try_send(reply(half)).is_ok());
        assert!(queue.try_send(reply(half)).is_ok());
        for _ in 0..2 {
            assert!(matches!(
                queue.try_send(reply(SHORT_BYTES_MAX + 1)),
                Err(TrySendError::Full(Frame::Reply { .. }))
            ));
        }
        for frame in [Frame::Alive, reply(SHORT_BYTES_MAX)] {
            assert!(queue.try_send(frame).is_ok());
        }
        assert_eq!(queue.len(), 4);
        assert_eq!(waiting.next().await, Some(reply(half)));
        assert!(queue.try_send(reply(half)).is_ok());
        for frame in [reply(half), Frame::Alive, reply(SHORT_BYTES_MAX), reply(half)] {
            assert_eq!(waiting.next_now(), Some(frame));
        }
        assert_eq!(waiting.next_now(), None);
        // Nor is anything counted of a frame for which there is no place.
        for _ in 0..4 {
            assert!(queue.try_send(Frame::Alive).is_ok());
        }
        assert!(queue.try_send(reply(half)).is_err());
        while waiting.next_now().is_some() {}
        for _ in 0..2 {
            assert!(queue.try_send(reply(half)).is_ok());
        }
        while waiting.next_now().is_some() {}
        // Nothing waits any more, nothing is counted; and what is longer than all goes alone.
        assert!(queue.try_send(reply(CALLS_BYTES_MAX + 1)).is_ok());
        assert!(queue.try_send(reply(SHORT_BYTES_MAX + 1)).is_err());
        drop(queue);
        assert_eq!(waiting.next().await, Some(reply(CALLS_BYTES_MAX + 1)));
        assert_eq!(waiting.next().await, None);
    }
}
