//! [`Room`]: the bytes of whole answers that are on their way, and whose way ends when they are too many.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::limits::{PIECE_BYTES, SENDING_MAX};

/// Pause before whoever finds nobody to give way looks again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Room for a number of bytes that are on their way to readers. A reader that is slow keeps what it has of it
/// for as long as nobody else needs it; who needs it ends the oldest way, once that reader had its time.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// A place for each piece.
    places: Arc<Semaphore>,
    all: usize,
    /// The oldest first; those that are over are left out with the next one that comes.
    sent: Arc<Mutex<VecDeque<Weak<Mutex<Parcel>>>>>,
}

/// The rest of an answer, in pieces that are let go of one by one.
#[derive(Debug)]
struct Parcel {
    pieces: VecDeque<Vec<u8>>,
    places: Option<OwnedSemaphorePermit>,
    /// The bytes that the reader has yet to get: with no piece there, it never will.
    left: u64,
    since: Instant,
}

/// A body of known length whose bytes have room.
#[derive(Debug)]
pub(crate) struct Sending(Arc<Mutex<Parcel>>);

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        let all = bytes / PIECE_BYTES;
        Self { places: Arc::new(Semaphore::new(all)), all, sent: Arc::default() }
    }

    /// Waits for room, and has no reader keep it away for longer than its `undisturbed` time. What is
    /// larger than all the room takes all of it. Cancel safe.
    pub(crate) async fn send(&self, pieces: Pieces, undisturbed: Duration) -> Sending {
        let wanted = u32::try_from(pieces.whole.len().min(self.all)).unwrap_or(u32::MAX);
        let mut places = pin!(Arc::clone(&self.places).acquire_many_owned(wanted));
        let places = loop {
            let look_at = match self.oldest() {
                Some(since) => since + undisturbed,
                None => Instant::now() + LOOK_AGAIN_AFTER,
            };
            tokio::select! {
                biased;
                // Nobody closes the semaphore; without it an answer would be sent all the same.
                places = &mut places => break places.ok(),
                () = sleep_until(look_at) => self.end_oldest(undisturbed),
            }
        };
        let left = pieces.whole.iter().map(|piece| piece.len() as u64).sum();
        let parcel = Parcel { pieces: pieces.whole.into(), places, left, since: Instant::now() };
        let parcel = Arc::new(Mutex::new(parcel));
        let mut sent = lock(&self.sent);
        sent.retain(|one| one.strong_count() > 0);
        sent.push_back(Arc::downgrade(&parcel));
        Sending(parcel)
    }

    /// Since when the oldest of those is on its way that take room.
    fn oldest(&self) -> Option<Instant> {
        let mut sent = lock(&self.sent);
        loop {
            if let Some(parcel) = sent.front()?.upgrade() {
                let parcel = lock(&parcel);
                if !parcel.pieces.is_empty() {
                    return Some(parcel.since);
                }
            }
            sent.pop_front();
        }
    }

    /// Ends the way of the oldest, if it had its time.
    fn end_oldest(&self, undisturbed: Duration) {
        let oldest = lock(&self.sent).front().and_then(Weak::upgrade);
        let Some(oldest) = oldest else { return };
        let mut oldest = lock(&oldest);
        if oldest.since.elapsed() >= undisturbed {
            tracing::info!(left = oldest.left, "an answer gives way: its reader was slow");
            oldest.end();
        }
    }
}

impl Parcel {
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.left == 0 {
            return None;
        }
        if self.since.elapsed() >= SENDING_MAX {
            self.end();
        }
        let Some(bytes) = self.pieces.pop_front() else {
            return Some(Err(io::ErrorKind::TimedOut.into()));
        };
        self.left -= bytes.len() as u64;
        let place = self.places.as_mut().and_then(|places| places.split(1));
        Some(Ok(Bytes::from_owner(Piece { bytes, _place: place })))
    }

    fn end(&mut self) {
        self.pieces = VecDeque::new();
        self.places = None;
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(lock(&self.0).next().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(lock(&self.0).left)
    }
}

/// Bytes with their place: the server lets go of a body before its bytes.
struct Piece {
    bytes: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is written to it, in pieces of [`PIECE_BYTES`] and a last one.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    whole: Vec<Vec<u8>>,
}

impl Pieces {
    /// All of them together.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        match self.whole.len() {
            0 | 1 => self.whole.pop().unwrap_or_default(),
            _ => self.whole.concat(),
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.whole.last().is_none_or(|last| last.len() >= PIECE_BYTES) {
            self.whole.push(Vec::new());
        }
        let Some(last) = self.whole.last_mut() else { return Ok(0) };
        let taken = bytes.len().min(PIECE_BYTES - last.len());
        last.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No panic can leave what is behind these locks half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
