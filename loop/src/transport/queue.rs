//! [`Queue`]: frames that wait for a connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use super::outlet::Outlet;
use crate::frame::Frame;

/// What requests and answers of the application may wait for one connection, in bytes, but for short ones.
/// Messages of Raft have their own windows, and share their entries with the log.
const CALLS_BYTES_MAX: usize = 64 << 20;

/// Of requests and answers, the longest that is not counted: the number of frames bounds them (16 MiB by
/// default), and the answer to a heartbeat is not lost because of some long answers ahead of it.
const UNCOUNTED_BYTES_MAX: usize = 1 << 10;

/// The end that frames are put into.
pub(super) struct Queue(Arc<Shared>);

/// The end of the connection.
pub(super) struct Waiting(Arc<Shared>);

struct Shared {
    frames_max: usize,
    inner: Mutex<Inner>,
    /// That there is something for the task of the connection.
    arrived: Notify,
    outlet: Outlet,
}

#[derive(Default)]
struct Inner {
    frames: VecDeque<Frame>,
    /// Of what waits, the payloads of requests and answers that are not short.
    calls_bytes: usize,
    /// Nothing is put in any more.
    is_ended: bool,
    /// Nothing is taken out any more.
    is_closed: bool,
}

/// A queue of at most `frames_max` frames.
pub(super) fn queue(frames_max: usize) -> (Queue, Waiting) {
    let shared = Arc::new(Shared {
        frames_max,
        inner: Mutex::default(),
        arrived: Notify::new(),
        outlet: Outlet::default(),
    });
    (Queue(shared.clone()), Waiting(shared))
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Critical sections here move frames; none can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.calls_bytes -= calls_bytes(&frame);
        Some(frame)
    }
}

impl Queue {
    /// Puts a frame in. It leaves with [`Queue::flush`], or before it where many wait. Never waits.
    #[expect(clippy::result_large_err, reason = "a frame that was not sent comes back as it was")]
    pub(super) fn put(&self, frame: Frame) -> Result<(), TrySendError<Frame>> {
        let bytes = calls_bytes(&frame);
        let mut inner = self.0.inner();
        if inner.is_closed {
            return Err(TrySendError::Closed(frame));
        }
        let waiting = inner.calls_bytes;
        // One that is longer than all goes alone.
        let fits = waiting == 0 || bytes == 0 || waiting + bytes <= CALLS_BYTES_MAX;
        if !fits || inner.frames.len() == self.0.frames_max {
            return Err(TrySendError::Full(frame));
        }
        inner.calls_bytes += bytes;
        inner.frames.push_back(frame);
        // One round of a loop with many groups may put in more than there is room for.
        if inner.frames.len() >= self.0.frames_max / 4 {
            self.0.arrived.notify_one();
        }
        Ok(())
    }

    /// Sends what was put in: at once if it is short and the connection takes it, else by the task of the
    /// connection. Never waits.
    pub(super) fn flush(&self) {
        let next = || {
            let mut inner = self.0.inner();
            inner.frames.front().is_some_and(Frame::is_short).then(|| inner.take()).flatten()
        };
        if self.len() > 0 && !(self.0.outlet.write_now(next) && self.len() == 0) {
            self.0.arrived.notify_one();
        }
    }

    /// How many frames wait.
    pub(super) fn len(&self) -> usize {
        self.0.inner().frames.len()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.inner().is_ended = true;
        self.0.arrived.notify_one();
    }
}

impl Waiting {
    /// Waits until there may be something to write; `false` when there will be nothing any more.
    ///
    /// Cancel safe.
    pub(super) async fn wait(&self) -> bool {
        {
            let inner = self.0.inner();
            if !inner.frames.is_empty() || inner.is_ended {
                return !inner.frames.is_empty();
            }
        }
        // One that came since then has left a permit.
        self.0.arrived.notified().await;
        true
    }

    /// The next frame, if there is one now.
    pub(super) fn next_now(&self) -> Option<Frame> {
        self.0.inner().take()
    }

    /// Where the frames leave.
    pub(super) fn outlet(&self) -> &Outlet {
        &self.0.outlet
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.is_closed = true;
        inner.frames.clear();
        inner.calls_bytes = 0;
    }
}

fn calls_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Call { payload, .. } | Frame::Reply { payload, .. }
            if payload.len() > UNCOUNTED_BYTES_MAX =>
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
    #[test]
    fn answers_that_nobody_takes_are_bounded_by_bytes_and_other_frames_are_not_held_up() {
        let (queue, waiting) = queue(4);
        let half = CALLS_BYTES_MAX / 2;
        assert!(queue.put(reply(half)).is_ok());
        assert!(queue.put(reply(half)).is_ok());
        for _ in 0..2 {
            assert!(matches!(
                queue.put(reply(UNCOUNTED_BYTES_MAX + 1)),
                Err(TrySendError::Full(Frame::Reply { .. }))
            ));
        }
        for frame in [Frame::Alive, reply(UNCOUNTED_BYTES_MAX)] {
            assert!(queue.put(frame).is_ok());
        }
        assert_eq!(queue.len(), 4);
        assert_eq!(waiting.next_now(), Some(reply(half)));
        assert!(queue.put(reply(half)).is_ok());
        for frame in [reply(half), Frame::Alive, reply(UNCOUNTED_BYTES_MAX), reply(half)] {
            assert_eq!(waiting.next_now(), Some(frame));
        }
        assert_eq!(waiting.next_now(), None);
        // Nor is anything counted of a frame for which there is no place.
        for _ in 0..4 {
            assert!(queue.put(Frame::Alive).is_ok());
        }
        assert!(queue.put(reply(half)).is_err());
        while waiting.next_now().is_some() {}
        for _ in 0..2 {
            assert!(queue.put(reply(half)).is_ok());
        }
        while waiting.next_now().is_some() {}
        // Nothing waits any more, nothing is counted; and what is longer than all goes alone.
        assert!(queue.put(reply(CALLS_BYTES_MAX + 1)).is_ok());
        assert!(queue.put(reply(UNCOUNTED_BYTES_MAX + 1)).is_err());
        assert_eq!(waiting.next_now(), Some(reply(CALLS_BYTES_MAX + 1)));
        assert_eq!(waiting.next_now(), None);
        drop(waiting);
        assert!(matches!(queue.put(Frame::Alive), Err(TrySendError::Closed(Frame::Alive))));
    }
}
