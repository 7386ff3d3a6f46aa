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

use crate::limits::{PACE_MIN, PIECE_BYTES, SENDING_MAX};

/// Pause before whoever finds nobody to give way looks again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The time of a piece at the least pace.
const PIECE_TIME: Duration = Duration::from_micros(PIECE_BYTES as u64 * 1_000_000 / PACE_MIN);

/// The part of all room that no answer waits for: servers may hold some pieces of those that were ended.
const SLACK_PART: usize = 8;

/// Room for a number of bytes that are on their way to readers. Who needs some waits until others have
/// read theirs. A reader that is slow keeps what it has for as long as nobody else needs it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// A place for each piece.
    places: Arc<Semaphore>,
    all: usize,
    /// How far behind the least pace a reader may be.
    behind_max: Duration,
    /// Those that have places; what is over is left out when somebody looks.
    sent: Arc<Mutex<Vec<Weak<Mutex<Parcel>>>>>,
}

/// The rest of an answer, in pieces that are let go of one by one.
#[derive(Debug)]
struct Parcel {
    pieces: VecDeque<Vec<u8>>,
    /// With fewer places than pieces, the last pieces have them.
    places: Option<OwnedSemaphorePermit>,
    /// The bytes that the reader has yet to get: with no piece there, it never will.
    left: u64,
    since: Instant,
    /// From when on it is slow, unless its reader takes more before. Each piece moves that on by its time.
    slow_at: Instant,
    behind_max: Duration,
}

/// A body of known length whose bytes have room.
#[derive(Debug)]
pub(crate) struct Sending(Arc<Mutex<Parcel>>);

impl Room {
    /// Room for so many bytes, whose readers may be so far behind the least pace.
    pub(crate) fn new(bytes: usize, behind_max: Duration) -> Self {
        let all = bytes / PIECE_BYTES;
        Self { places: Arc::new(Semaphore::new(all)), all, behind_max, sent: Arc::default() }
    }

    /// Waits for room, and ends meanwhile whose reader is slow: one after the other, the slowest first. Whoever
    /// reads on has its time, whatever it takes. Cancel safe.
    pub(crate) async fn send(&self, pieces: Pieces) -> Sending {
        let places = Arc::clone(&self.places);
        let mut places = pin!(places.acquire_many_owned(self.wanted(&pieces)));
        let places = loop {
            let look_at = match self.slowest() {
                Some((slow_at, _)) => slow_at,
                None => Instant::now() + LOOK_AGAIN_AFTER,
            };
            tokio::select! {
                biased;
                // Nobody closes the semaphore; without it an answer would be sent all the same.
                places = &mut places => break places.ok(),
                () = sleep_until(look_at) => self.end_slowest(),
            }
        };
        self.on_its_way(pieces, places)
    }

    /// Sends without waiting, beyond the room, so that it gives way to nobody; with the `turn` of the answer,
    /// which lasts to its last piece. So as many are beyond it as there are turns.
    pub(crate) fn send_at_once(
        &self,
        pieces: Pieces,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Sending {
        Sending(Arc::new(Mutex::new(self.parcel(pieces, turn))))
    }

    /// The places for these pieces. What is larger than nearly all the room has that much of it.
    fn wanted(&self, pieces: &Pieces) -> u32 {
        let most = self.all - self.all / SLACK_PART;
        u32::try_from(pieces.whole.len().min(most)).unwrap_or(u32::MAX)
    }

    fn on_its_way(&self, pieces: Pieces, places: Option<OwnedSemaphorePermit>) -> Sending {
        let parcel = Arc::new(Mutex::new(self.parcel(pieces, places)));
        let mut sent = lock(&self.sent);
        sent.retain(|one| one.strong_count() > 0);
        sent.push(Arc::downgrade(&parcel));
        Sending(parcel)
    }

    fn parcel(&self, pieces: Pieces, places: Option<OwnedSemaphorePermit>) -> Parcel {
        let left = pieces.whole.iter().map(|piece| piece.len() as u64).sum();
        let (since, behind_max) = (Instant::now(), self.behind_max);
        let (pieces, slow_at) = (pieces.whole.into(), since + behind_max);
        Parcel { pieces, places, left, since, slow_at, behind_max }
    }

    /// Returns once somebody who waits has taken whatever was left.
    #[cfg(test)]
    pub(crate) async fn is_waited_for(&self) {
        while self.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Whose reader is the slowest of those that take room, and from when on it is too slow.
    fn slowest(&self) -> Option<(Instant, Arc<Mutex<Parcel>>)> {
        let mut sent = lock(&self.sent);
        sent.retain(|one| one.strong_count() > 0);
        let there = sent.iter().filter_map(Weak::upgrade);
        let slow = there.filter_map(|parcel| {
            let slow_at = lock(&parcel).slow_at()?;
            Some((slow_at, parcel))
        });
        slow.min_by_key(|(slow_at, _)| *slow_at)
    }

    /// Ends the way of whose reader is the slowest, if it is too slow.
    fn end_slowest(&self) {
        let Some((_, slowest)) = self.slowest() else { return };
        let mut slowest = lock(&slowest);
        if slowest.slow_at().is_some_and(|slow_at| slow_at <= Instant::now()) {
            tracing::info!(left = slowest.left, "an answer gives way: its reader was slow");
            slowest.end();
        }
    }
}

impl Parcel {
    /// `None` where the server has taken the last of it.
    fn slow_at(&self) -> Option<Instant> {
        (!self.pieces.is_empty()).then_some(self.slow_at)
    }

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.left == 0 {
            return None;
        }
        let now = Instant::now();
        if now >= self.since + SENDING_MAX {
            self.end();
        }
        let is_placed =
            self.places.as_ref().is_some_and(|places| places.num_permits() >= self.pieces.len());
        let Some(bytes) = self.pieces.pop_front() else {
            return Some(Err(io::ErrorKind::TimedOut.into()));
        };
        self.left -= bytes.len() as u64;
        // Neither what was read at first nor what was not counts for ever.
        self.slow_at = (self.slow_at.max(now) + PIECE_TIME).min(now + self.behind_max);
        let place = match is_placed {
            true => self.places.as_mut().and_then(|places| places.split(1)),
            false => None,
        };
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use tokio::task::JoinSet;
    use tokio::time::{interval, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const BRIEF: Duration = Duration::from_millis(100);

    /// An answer of so many pieces.
    fn answer(pieces: usize) -> Pieces {
        let mut whole = Pieces::default();
        whole.write_all(&vec![7; pieces * PIECE_BYTES]).unwrap();
        whole
    }

    fn room(pieces: usize, behind_max: Duration) -> Room {
        Room::new(pieces * PIECE_BYTES, behind_max)
    }

    async fn next(sending: &mut Sending) -> Option<io::Result<Bytes>> {
        let frame = poll_fn(|context| Pin::new(&mut *sending).poll_frame(context)).await;
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    /// Takes a piece at each beat, and says how many bytes came.
    async fn read(mut sending: Sending, beat: Duration) -> usize {
        let (mut beats, mut bytes) = (interval(beat), 0);
        while let Some(Ok(piece)) = next(&mut sending).await {
            bytes += piece.len();
            beats.tick().await;
        }
        bytes
    }

    /// To see it fail: leave out what `Parcel::next` does to `slow_at`.
    #[tokio::test]
    async fn who_reads_on_is_left_to_and_the_others_wait() {
        let (pieces, beat) = (64, Duration::from_millis(25));
        let behind_max = Duration::from_secs(1);
        assert!(beat < PIECE_TIME && beat * 64 > behind_max);
        // Two and a half of them.
        let room = room(160, behind_max);
        let mut readers = JoinSet::new();
        for _ in 0..5 {
            let room = room.clone();
            readers.spawn(async move { read(room.send(answer(pieces)).await, beat).await });
        }
        let all = timeout(PATIENCE, readers.join_all()).await.unwrap();
        assert_eq!(all, [pieces * PIECE_BYTES; 5]);
        assert_eq!(room.places.available_permits(), 160);
    }

    /// To see it fail: end who was there first.
    #[tokio::test]
    async fn who_takes_nothing_gives_way_and_not_who_was_there_before() {
        let room = room(100, Duration::from_secs(1));
        let steady = tokio::spawn(read(room.send(answer(50)).await, PIECE_TIME / 2));
        let mut mute = room.send(answer(30)).await;
        let _third = timeout(PATIENCE, room.send(answer(70))).await.unwrap();
        assert_eq!(next(&mut mute).await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(steady.await.unwrap(), 50 * PIECE_BYTES);
    }

    /// To see it fail: let the first pieces have the places, or have it wait for all of them.
    #[tokio::test]
    async fn an_answer_larger_than_all_the_room_is_counted_to_its_end() {
        let room = room(16, PATIENCE);
        // The server holds pieces of one that was ended.
        let mut ended = room.send(answer(2)).await;
        let held = [next(&mut ended).await, next(&mut ended).await];
        drop(ended);
        let mut large = timeout(PATIENCE, room.send(answer(20))).await.unwrap();
        assert_eq!(room.places.available_permits(), 0);
        for _ in 0..6 {
            next(&mut large).await.unwrap().unwrap();
            assert_eq!(room.places.available_permits(), 0);
        }
        for read in 1..=14 {
            next(&mut large).await.unwrap().unwrap();
            assert_eq!(room.places.available_permits(), read);
        }
        assert!(next(&mut large).await.is_none());
        drop(held);
        assert_eq!(room.places.available_permits(), 16);
    }

    /// To see it fail: have it wait for places, or let go of the turn when it is sent, or before its last piece.
    #[tokio::test]
    async fn what_is_sent_at_once_needs_no_room_gives_way_to_nobody_and_keeps_its_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let turn = async || Arc::clone(&turns).acquire_owned().await.ok();
        let room = room(16, PATIENCE);
        let mut placed = room.send(answer(10)).await;
        assert_eq!((turns.available_permits(), room.places.available_permits()), (1, 6));
        // Who waits for many takes what there is, and keeps nobody back.
        let waits = room.send(answer(14));
        let mut waits = pin!(waits);
        assert!(timeout(BRIEF, &mut waits).await.is_err());
        assert_eq!(room.places.available_permits(), 0);
        let mut beyond = room.send_at_once(answer(3), turn().await);
        for _ in 0..2 {
            next(&mut beyond).await.unwrap().unwrap();
        }
        assert_eq!(turns.available_permits(), 0);
        let last = next(&mut beyond).await.unwrap().unwrap();
        drop(beyond);
        assert_eq!(turns.available_permits(), 0);
        drop(last);
        assert_eq!(turns.available_permits(), 1);
        while next(&mut placed).await.is_some() {}
        timeout(PATIENCE, waits).await.unwrap();
    }
}
